//! Old settings of every kind, and what they become.

use std::fs;

use super::*;
use crate::{
    config,
    migrate::old::{Named, Old},
};

/// As the last version of the old program has them.
const REFERENCE: &str = r#"
if os.environ.get("BASE_PATH"):
    BASE_DIR = os.getcwd() + str(os.environ.get("BASE_PATH"))
else:
    BASE_DIR = os.getcwd()
IOT_PORT = 8888
ADMIN_PORT = 50001
ID_SIZE = 6
PIN_SIZE = 3
SESSION_STORAGE = 'session_data.json'
S3_BUCKET = os.environ.get('S3_BUCKET')
S3_DATA_ROOT = 'session_manager/'
JWT_MODE = os.environ.get('MQTT_AUTH_MODE')  # from .env
if not JWT_MODE:
    JWT_MODE = 'dev_no_auth'
    JWT_PRIVATE_KEY_LOC = ''
elif JWT_MODE == 'dev_jwt_auth':
    JWT_PRIVATE_KEY_LOC = './local_mqtt_keys/private_key.pem'
AWS_REGION = os.environ.get("AWS_REGION")
CONDUCTOR_INTERFACES = {"default" : DefaultConductor, "active" : ActiveConductor}
"#;

const KEY: &[u8] = include_bytes!("../../tests/keys/test-rsa.pem");

/// The old program's files: settings, `.env`, its MQTT client, and whether it has a key.
struct Files<'a> {
    settings: Option<&'a str>,
    environment: Option<&'a str>,
    link: Option<&'a str>,
    key: bool,
}

const PLAIN: Files<'static> = Files { settings: Some(REFERENCE), environment: None, link: None, key: false };

struct Made {
    plan: Plan,
    report: String,
    new: config::Settings,
}

impl Files<'_> {
    fn plan(&self, options: &Options<'_>) -> Result<Made, String> {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("server/session_manager");
        let deployment = folder.path().join("server/deployment");
        fs::create_dir_all(home.join("src")).unwrap();
        fs::create_dir_all(deployment.join("certs/local_mqtt_keys")).unwrap();
        fs::write(home.join("session_data.json"), "{}").unwrap();
        for (file, text) in [
            (home.join("settings.py"), self.settings.map(str::as_bytes)),
            (deployment.join(".env"), self.environment.map(str::as_bytes)),
            (home.join("src/async_mqtt_client.py"), self.link.map(str::as_bytes)),
            (deployment.join("certs/local_mqtt_keys/private_key.pem"), self.key.then_some(KEY)),
        ] {
            if let Some(text) = text {
                fs::write(file, text).unwrap();
            }
        }
        let named = Named { from: folder.path(), settings: None, environment: None, key: None };
        let mut report = Report::default();
        let old = Old::find(&named).map_err(|error| error.to_string())?;
        let plan = plan(&old, options, &mut report).map_err(|error| error.to_string())?;
        let parsed = config::Settings::parse(Some((Path::new("host.toml"), &plan.toml)), Path::new("/new"), [], &[]);
        let new = parsed.map_err(|mistakes| mistakes.to_string())?.0;
        Ok(Made { plan, report: report.to_string(), new })
    }

    fn made(&self) -> Made {
        self.plan(&Options { broker: None, plugins: None }).unwrap()
    }
}

impl Made {
    #[track_caller]
    fn says(&self, text: &str) {
        assert!(self.report.contains(text), "{text}\n{}", self.report);
    }
}

#[test]
fn the_reference_as_it_is() {
    let made = PLAIN.made();
    let new = &made.new;
    assert_eq!(new.admin.listen, ["127.0.0.1:50001".parse().unwrap()]);
    assert_eq!(new.iot.listen, ["0.0.0.0:8888".parse().unwrap()]);
    assert_eq!((new.sessions.id_digits, new.sessions.pin_digits), (6, 3));
    assert_eq!(new.store.url.to_string(), "json:/new/state/sessions.json");
    assert_eq!((new.token.ttl.as_secs(), new.token.mode), (86_400, config::TokenMode::Signed));
    assert_eq!(new.mqtt.broker, config::BrokerKind::Embedded);
    assert_eq!(new.mqtt.username, crate::tokens::claims::UsernameRule::ClientId);
    assert_eq!(new.mqtt.websocket_listen, ["0.0.0.0:8883".parse().unwrap()]);
    assert_eq!(new.types["active"].plugin, Path::new("/new/plugins/conductor_active"));
    assert_eq!(made.plan.expected.types, ["default", "active"]);
    for name in [
        "BASE_DIR (settings.py:3)",
        "S3_BUCKET (settings.py:11)",
        "S3_DATA_ROOT",
        "AWS_REGION",
        "JWT_MODE: it is the environment variable MQTT_AUTH_MODE",
    ] {
        made.says(name);
    }
    made.says("set token.mode = \"none\"");
}

#[test]
fn each_mode_of_authentication() {
    use config::TokenMode::{None as Open, Signed};
    for (line, key, mode, copied, says) in [
        ("mqtt_auth_mode=dev_no_auth", true, Open, false, "the private key: the old program does not use it"),
        ("mqtt_auth_mode=", false, Open, false, "token.mode \"none\""),
        ("mqtt_auth_mode=dev_jwt_auth", true, Signed, true, "JWT_MODE dev_jwt_auth: tokens are signed"),
        ("mqtt_auth_mode=dev_jwt_auth", false, Signed, false, "--key FILE"),
        ("mqtt_auth_mode=kms_jwt_auth", true, Signed, false, "AWS KMS does not give its key away"),
        ("mqtt_auth_mode=\"odd\"", true, Signed, true, "odd at settings.py:13 is not known"),
        // Nobody says that there was no authentication, so there is some.
        ("other=1", false, Signed, false, "no .env that sets it"),
        ("other=1", true, Signed, true, "no .env that sets it"),
    ] {
        let made = Files { environment: Some(line), key, ..PLAIN }.made();
        assert_eq!(made.new.token.mode, mode, "{line} {key}");
        assert_eq!(made.plan.key.is_some(), copied, "{line} {key}");
        made.says(says);
    }
    let fixed = REFERENCE.replace("os.environ.get('MQTT_AUTH_MODE')", "'dev_no_auth'");
    assert_eq!(Files { settings: Some(&fixed), ..PLAIN }.made().new.token.mode, Open);
    // Without settings the deployment's own word counts.
    assert_eq!(Files { settings: None, environment: Some("mqtt_auth_mode=dev_no_auth"), ..PLAIN }.made().new.token.mode, Open);
    let odd = REFERENCE.replace("if not JWT_MODE:", "if DEBUG:");
    let made = Files { settings: Some(&odd), environment: Some("mqtt_auth_mode="), ..PLAIN }.made();
    made.says("JWT_MODE (settings.py:15): it is set there under a condition, which is not followed");
}

#[test]
fn other_values_are_taken_or_told() {
    let changed = |from: &str, to: &str| REFERENCE.replace(from, to);
    let made =
        |text: &str| Files { settings: Some(text), environment: Some("iot_port=1234\ns3_bucket=mine\nsurprise=hunter2"), ..PLAIN }.made();
    let ports = |made: &Made| (made.new.iot.listen[0].port(), made.new.admin.listen[0].port());
    assert_eq!(ports(&made(&changed("50001", "50000"))), (8888, 50000));
    assert_eq!(ports(&made(&changed("= 8888", "= int(os.environ.get('IOT_PORT', 8888))"))), (1234, 50001));
    assert_eq!(ports(&made(&changed("= 8888", "= os.getenv('OTHER', '99')"))), (99, 50001));
    for port in ["base + 1", "0", "70000", "'x'", "os.environ['OTHER']"] {
        let made = made(&changed("= 8888", &format!("= {port}")));
        assert_eq!(ports(&made), (8888, 50001), "{port}");
        made.says("IOT_PORT (settings.py:6): it is ");
    }
    let digits = |id: &str, pin: &str| {
        let made = made(&changed("ID_SIZE = 6", &format!("ID_SIZE = {id}")).replace("PIN_SIZE = 3", &format!("PIN_SIZE = {pin}")));
        (made.new.sessions.id_digits, made.new.sessions.pin_digits)
    };
    assert_eq!((digits("12", "12"), digits("2", "1"), digits("99", "x()"), digits("4", "3")), ((12, 12), (4, 3), (12, 3), (4, 3)));
    made(&changed("ID_SIZE = 6", "ID_SIZE = 2")).says("ID_SIZE 2: sessions.id_digits is 4, since 4 to 12 are possible");

    let made = made(&format!("{REFERENCE}\nDB_PASSWORD = 'hunter2'\nALLOWED_HOSTS = []\n"));
    made.says("DB_PASSWORD (settings.py:22): conductor-host has no such setting");
    made.says("surprise (.env:3): conductor-host has no such setting");
    made.says("ALLOWED_HOSTS (settings.py:23)");
    made.says("fetch S3_DATA_ROOT/SESSION_STORAGE from the bucket");
    assert!(!made.report.contains("hunter2") && !made.plan.toml.contains("hunter2"));
}

#[test]
fn types_are_those_whose_conductors_there_are() {
    let types =
        r#"{"default": DefaultConductor, "a.b": conductors.ActiveConductor, "robot": RobotConductor, "o dd": X, "x": MyDefaultConductor}"#;
    let text = REFERENCE.replace(r#"{"default" : DefaultConductor, "active" : ActiveConductor}"#, types);
    let files = Files { settings: Some(&text), ..PLAIN };
    let made = files.plan(&Options { broker: None, plugins: Some(Path::new("/some \"folder\"")) }).unwrap();
    assert_eq!(made.plan.expected.types, ["default", "a.b"]);
    assert_eq!(made.new.types.keys().collect::<Vec<_>>(), ["a.b", "default"]);
    assert_eq!(made.new.types["a.b"].plugin, Path::new("/some \"folder\"/conductor_active"));
    made.says("type robot: its conductor is Python");
    made.says("type x: its conductor is Python");
    made.says("type \"o dd\": a type's name is 1 to 64 of");
    // The place for it is good once its plugin is there.
    let filled = made.plan.toml.replace("#[types", "[types").replace("#plugin", "plugin");
    assert!(filled.parse::<toml::Table>().unwrap()["types"]["robot"]["plugin"].is_str(), "{filled}");

    let text = REFERENCE.replace(r#"{"default" : "#, r#"{**MORE, "default" : "#);
    let made = Files { settings: Some(&text), ..PLAIN }.made();
    made.says("CONDUCTOR_INTERFACES (settings.py:20): it is not a plain dictionary");
    assert_eq!(made.plan.expected.types, ["default", "active"]);
}

#[test]
fn the_broker_is_the_one_of_the_old_program() {
    let client =
        |arguments: &str| format!("async with aiomqtt.Client(\n    {arguments},\n    username=self.name,\n) as self.client:\n    pass\n");
    for (arguments, url) in [
        ("hostname=\"mqtt\", port=1883, transport=\"tcp\"", Some("mqtt://mqtt:1883")),
        ("hostname='broker.example.org'", Some("mqtt://broker.example.org:1883")),
        ("hostname='h', port=8883, tls_params=x()", Some("mqtts://h:8883")),
        ("hostname='h', port=80, transport='websockets'", Some("ws://h:80")),
        ("hostname='h', port=443, transport='websockets', tls_context=c", Some("wss://h:443")),
        ("hostname='h', tls_context=None", Some("mqtt://h:1883")),
        ("hostname='fd00::1'", Some("mqtt://[fd00::1]:1883")),
        ("hostname=settings.HOST", None),
        ("hostname='h', port=settings.PORT", None),
    ] {
        let made = Files { link: Some(&client(arguments)), ..PLAIN }.made();
        assert_eq!(made.new.mqtt.url.as_deref(), url, "{arguments}");
        assert_eq!(made.new.mqtt.broker == config::BrokerKind::External, url.is_some(), "{arguments}");
        if url.is_none() {
            made.says("Name the old one: --broker URL");
        }
    }
    let files = Files { link: Some(&client("hostname='mqtt'")), ..PLAIN };
    let named = |broker: &str| files.plan(&Options { broker: Some(broker), plugins: None });
    assert_eq!(named("embedded").unwrap().new.mqtt.url, None);
    let made = named("mqtts://other:8883").unwrap();
    assert_eq!(made.new.mqtt.url.as_deref(), Some("mqtts://other:8883"));
    made.says("the broker must be given the public key");
    assert!(named("nonsense\"").err().unwrap().contains("mqtt.url"));
    // No connection at all, as in the early versions.
    let made = Files { link: Some("self.hostname = \"host\"\n"), ..PLAIN }.made();
    assert_eq!(made.new.mqtt.broker, config::BrokerKind::Embedded);
}

#[test]
fn without_settings_the_defaults_of_the_old_program_are_taken() {
    let made = Files { settings: None, key: true, ..PLAIN }.made();
    made.says("settings.py: none was found or named");
    assert_eq!((made.new.sessions.pin_digits, made.plan.expected.types.len(), made.plan.key.is_some()), (3, 2, true));
}

#[test]
fn what_is_there_twice_or_nowhere_is_a_question() {
    let folder = tempfile::tempdir().unwrap();
    let find = || {
        Old::find(&Named { from: folder.path(), settings: None, environment: None, key: None })
            .map(|old| old.sessions)
            .map_err(|e| e.to_string())
    };
    let none = find().unwrap_err();
    assert!(none.contains("there is no session_data.json") && none.contains("docker cp"), "{none}");
    fs::write(folder.path().join("session_data.json"), "{}").unwrap();
    assert_eq!(find().unwrap(), folder.path().join("session_data.json"));
    fs::create_dir(folder.path().join("session_manager")).unwrap();
    fs::write(folder.path().join("session_manager/session_data.json"), "{}").unwrap();
    assert!(find().unwrap_err().starts_with("there is more than one file with sessions: "));
    // The settings say its name.
    fs::write(folder.path().join("settings.py"), "SESSION_STORAGE = 'data/live.json'").unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/live.json"), "{}").unwrap();
    assert_eq!(find().unwrap(), folder.path().join("data/live.json"));
    fs::write(folder.path().join("settings.py"), b"A = 1\nB = '\xff'").unwrap();
    assert!(find().unwrap_err().contains("not UTF-8 (line 2)"));
    let missing = Named { from: Path::new("/nowhere/at/all"), settings: None, environment: None, key: None };
    assert!(Old::find(&missing).unwrap_err().to_string().starts_with("/nowhere/at/all cannot be read"));
}

#[test]
fn a_key_that_cannot_sign_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let (sessions, key) = (folder.path().join("session_data.json"), folder.path().join("key.pem"));
    fs::write(&sessions, "{}").unwrap();
    fs::write(&key, include_bytes!("../../tests/keys/test-rsa-public.pem")).unwrap();
    let old = Old::find(&Named { from: &sessions, settings: None, environment: None, key: Some(&key) }).unwrap();
    let options = Options { broker: None, plugins: None };
    let error = plan(&old, &options, &mut Report::default()).unwrap_err().to_string();
    assert!(error.contains("key.pem cannot be read: this is a public key"), "{error}");
}
