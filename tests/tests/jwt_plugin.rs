//! Our tokens at Mosquitto with its JWT plugin, by the settings that `docs/brokers.md` shows.
//!
//! The plugin is 0.2.0, the last version that is published as a crate. It refuses every subscription that holds a wildcard, whatever the
//! claims say; 0.4, which people run, grants `/{id}/#` by the same claims. So what is tested here: who connects, exact topics, and refusals.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use conductor_host::{
    sessions::SessionId,
    tokens::{Grantee, Signer, SigningKey, UsernameRule},
};
use conductor_tests::{Credentials, Host, HostOptions, Mqtt, Session, Version, Way, host, jwt_plugin, mosquitto::Mosquitto, mqtt::topic};
use serde_json::{Value, json};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/brokers.md")).unwrap()
}

/// The settings that the page shows for this algorithm, word for word, but for the port and the two paths.
fn shown_settings(algorithm: &str, port: u16, key: &Path) -> String {
    let page = page();
    let begin = format!("```conf\n# Tokens of conductor-host: {algorithm}\n");
    let (_, block) = page.split_once(&begin).unwrap_or_else(|| panic!("no settings for {algorithm}"));
    let (block, _) = block.split_once("```").unwrap();
    let replaced = [
        ("listener 1883\n", format!("listener {port} 127.0.0.1\n")),
        ("/usr/lib/mosquitto/libmosquitto_jwt_auth.so", jwt_plugin::library().to_str().unwrap().to_owned()),
        ("/etc/mosquitto/conductor-host.pub", key.to_str().unwrap().to_owned()),
    ];
    replaced.iter().fold(block.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}: {text}");
        text.replace(from, to)
    })
}

/// What the page's command prints, run in this folder.
fn public_key(folder: &Path, settings: &str) -> Vec<u8> {
    let page = page();
    let command = page.lines().find(|line| line.ends_with(" > /etc/mosquitto/conductor-host.pub")).unwrap();
    let command = command.split_once(" > ").unwrap().0.replace("host.toml", settings);
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let ended = host::run(folder, &arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command}");
    // The text of it would not be the bytes.
    fs::read(folder.join("run.out")).unwrap()
}

fn key_file(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join("key.pem");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../host/tests/keys/test-{name}.pem")), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// A host that signs with this key, and a broker that knows its public half.
fn host_and_broker(name: &str, algorithm: &str) -> (Host, Mosquitto) {
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path(), name);
    let options =
        HostOptions::default().set("token.key", json!(key)).set("mqtt.broker", json!("none")).set("mqtt.username", json!("client_id"));
    let host = Host::start_in(folder, options);
    let public = public_key(host.folder(), "host.toml");
    let broker = Mosquitto::start(|folder, port| {
        let file = folder.join("conductor-host.pub");
        fs::write(&file, &public).unwrap();
        shown_settings(algorithm, port, &file)
    });
    (host, broker)
}

fn connect(broker: &Mosquitto, version: Version, client: &str, username: &str, token: &str) -> Result<Mqtt, String> {
    Mqtt::connect_to(broker.address, version, Way::Tcp, &Credentials::new(client, username, token))
}

/// A connected client that joined.
fn device(host: &Host, broker: &Mosquitto, version: Version, session: &Session, client: &str) -> Mqtt {
    connect(broker, version, client, client, &host.join(session, client)).unwrap_or_else(|why| panic!("{client}: {why}"))
}

/// Signs as this host does, at times that it would not choose.
fn signer(host: &Host) -> Signer {
    Signer::new(SigningKey::load_or_create(&host.folder().join("key.pem"), false).unwrap(), "conductor-host").unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);
/// From 1970, where these tests' clock stands still, to 2070.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

#[test]
fn mosquitto_lets_our_tokens_to_their_session_and_nowhere_else() {
    for (name, algorithm) in [("rsa", "RS256"), ("p256", "ES256")] {
        let (host, broker) = host_and_broker(name, algorithm);
        let link_token = signer(&host).sign_link(UNIX_EPOCH, CENTURY).unwrap().token;
        for version in VERSIONS {
            let (mine, other) = (host.create("default"), host.create("default"));
            let [mut a, mut b] = ["a", "späce unit"].map(|client| device(&host, &broker, version, &mine, client));
            let mut stranger = device(&host, &broker, version, &other, "stranger");
            let mut link = connect(&broker, version, "iotserver", "iotserver", &link_token).unwrap();
            for name in ["x", "x/y"] {
                assert!(
                    a.subscribe(&topic(&mine, name), 2) && stranger.subscribe(&topic(&other, name), 2),
                    "{algorithm} {version:?} {name}"
                );
            }
            for filter in [topic(&other, "x"), format!("/{}7/x", mine.id), format!("/{}", mine.id), format!("{}/x", mine.id), "/x".into()] {
                assert!(!a.subscribe(&filter, 2), "{algorithm} {version:?} {filter}");
            }
            for filter in ["#", "/#", "/+/x", "+/+/x", &topic(&other, "#")] {
                assert!(!a.subscribe(filter, 2), "{algorithm} {version:?} {filter}");
            }
            assert!(link.subscribe(&topic(&mine, "x"), 2) && link.subscribe(&topic(&other, "x/y"), 2));
            // A publish that is refused is acknowledged all the same in version 3.1.1.
            for (from, to) in [(&mut b, &other), (&mut stranger, &mine)] {
                let accepted = from.publish(&topic(to, "x"), "from outside", 2, true);
                assert_eq!(accepted, version == Version::V311, "{algorithm} {version:?}");
            }
            assert!(b.publish(&topic(&mine, "x/y"), "hello", 2, false) && b.publish(&topic(&mine, "x"), "hello", 1, false));
            assert_eq!([a.heard(), a.heard()], ["x/y", "x"].map(|name| (topic(&mine, name), "hello".into())), "{algorithm} {version:?}");
            assert!(link.publish(&topic(&other, "x/y"), "from the host", 2, false));
            assert_eq!(stranger.heard(), (topic(&other, "x/y"), "from the host".into()));
            assert_eq!([link.heard(), link.heard()], [(topic(&mine, "x"), "hello".into()), (topic(&other, "x/y"), "from the host".into())]);
            // A last will goes where a publish would, and nowhere else; the second one comes after the first.
            for (client, session) in [("first", &other), ("second", &mine)] {
                let will = Credentials::new(client, client, &host.join(&mine, client)).will(&topic(session, "x"), client, false);
                Mqtt::connect_to(broker.address, version, Way::Tcp, &will).unwrap().cut();
            }
            assert_eq!(a.heard(), (topic(&mine, "x"), "second".into()), "{algorithm} {version:?}");
            // Nothing was kept of what was refused, and nothing came.
            let mut late = device(&host, &broker, version, &other, "late");
            assert!(late.subscribe(&topic(&other, "x"), 2));
            assert!(stranger.publish(&topic(&other, "x"), "end", 1, false));
            assert_eq!((late.heard().1, stranger.heard().1), ("end".into(), "end".into()), "{algorithm} {version:?}");
        }
    }
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// The token with another payload or header, under the same signature.
fn forged(token: &str, header: Option<&Value>, claims: Option<&Value>) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    for (part, value) in parts.iter_mut().zip([header, claims]) {
        if let Some(value) = value {
            *part = URL_SAFE_NO_PAD.encode(value.to_string());
        }
    }
    parts.join(".")
}

/// A token of a host with a key of its own.
fn token_of_another_host(key: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let options = HostOptions::default().set("mqtt.broker", json!("none")).set("mqtt.username", json!("client_id"));
    let options = match key {
        Some(name) => options.set("token.key", json!(key_file(folder.path(), name))),
        None => options,
    };
    let host = Host::start_in(folder, options);
    host.join(&host.create("default"), "a")
}

#[test]
fn mosquitto_refuses_what_we_did_not_sign_and_what_is_over() {
    let (other_curve, made_by_a_host) = (token_of_another_host(Some("ed25519")), token_of_another_host(None));
    for (name, algorithm) in [("rsa", "RS256"), ("p256", "ES256")] {
        let (host, broker) = host_and_broker(name, algorithm);
        let session = host.create("default");
        let token = host.join(&session, "a");
        let (signer, topics) = (signer(&host), [topic(&session, "#")]);
        let until = |ttl| {
            let session = SessionId::parse(&session.id).unwrap();
            let grantee = Grantee { session, client_id: "a", username: UsernameRule::ClientId, subs: &topics, publ: &topics };
            signer.sign(&grantee, UNIX_EPOCH, ttl).unwrap().token
        };
        let (mut wide, mut named) = (claims(&token), claims(&token));
        wide["subs"] = json!(["#"]);
        named["sub"] = json!("b");
        let mut later = claims(&until(MINUTE));
        later["exp"] = json!(4_000_000_000_u64);
        let [unsigned, hmac] = ["none", "HS256"].map(|alg| forged(&token, Some(&json!({"alg": alg, "typ": "JWT"})), None));
        let unsigned = unsigned.rsplit_once('.').unwrap().0.to_owned() + ".";
        for version in VERSIONS {
            for (what, username, token) in [
                ("another kind of key", "a", other_curve.as_str()),
                ("another host's key", "a", &made_by_a_host),
                ("more rights", "a", &forged(&token, None, Some(&wide))),
                ("another client", "b", &forged(&token, None, Some(&named))),
                ("over", "a", &until(MINUTE)),
                ("over, with more time", "a", &forged(&until(MINUTE), None, Some(&later))),
                ("no signature", "a", &unsigned),
                ("another algorithm", "a", &hmac),
                ("another's name", "b", &token),
                ("the session's id as the name", &session.id, &token),
                ("nonsense", "a", "nonsense"),
            ] {
                let refusal = connect(&broker, version, "a", username, token).map(drop);
                assert!(refusal.is_err(), "{algorithm} {version:?}: {what}");
            }
            for (what, token) in [("the host's", &token), ("one of the test's", &until(CENTURY))] {
                connect(&broker, version, "a", "a", token).unwrap_or_else(|why| panic!("{algorithm} {version:?} {what}: {why}"));
            }
        }
    }
}

#[test]
fn the_public_key_is_told_in_words_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.toml"), "").unwrap();
    let show = |more: &[&str]| host::run(folder.path(), &[&["token", "public-key", "--config", "host.toml"], more].concat());
    let ended = show(&[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("state/token-key.pem: there is no such file"), "{ended:?}");
    assert!(!folder.path().join("state").exists(), "none was made");
    let ended = show(&["--set", "token.mode=none"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("not signed"), "{ended:?}");
    let ended = show(&["--set", "token.mode=nonsense"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
