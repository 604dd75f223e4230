use std::{ffi::OsString, net::SocketAddr, path::Path, time::Duration};

use super::*;
use crate::tokens::claims::UsernameRule;

mod documents;
mod pairs;
mod random;
mod services;

const BASE: &str = "/srv/host";
const TYPE: &str = "[types.a]\nplugin = \"a\"\n";

fn load(text: &str, env: &[(&str, &str)], flags: &[&str]) -> Result<(Settings, Vec<Warning>), Mistakes> {
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let flags: Vec<Flag> = flags.iter().map(|argument| Flag::set(argument)).collect();
    Settings::parse(Some((Path::new("settings.toml"), text)), Path::new(BASE), env, &flags)
}

fn good(text: &str, env: &[(&str, &str)], flags: &[&str]) -> Settings {
    load(text, env, flags).unwrap_or_else(|mistakes| panic!("{mistakes}")).0
}

fn lines(text: &str, env: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    load(text, env, flags).err().map(|mistakes| mistakes.to_string().lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The only mistake of these settings.
fn only(text: &str, env: &[(&str, &str)], flags: &[&str]) -> String {
    let lines = lines(text, env, flags);
    assert_eq!(lines.len(), 1, "{text}\n{lines:#?}");
    lines.into_iter().next().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn without_any_source_the_documented_defaults_hold() {
    let (settings, warnings) = Settings::parse(None, Path::new(BASE), [], &[]).unwrap();
    assert_eq!(settings.base_dir, Path::new(BASE));
    assert_eq!(settings.state.dir, Path::new("/srv/host/state"));
    assert_eq!(settings.admin.listen, addresses(&["127.0.0.1:50001"]));
    assert_eq!(settings.iot.listen, addresses(&["0.0.0.0:8888"]));
    assert_eq!(settings.iot.public_url, None);
    assert_eq!((settings.sessions.id_digits, settings.sessions.pin_digits), (6, 6));
    assert_eq!(settings.sessions.deadline, Duration::from_secs(5));
    assert_eq!(settings.store.url, StoreUrl::Sqlite("/srv/host/state/sessions.db".into()));
    assert_eq!(settings.token.key, Path::new("/srv/host/state/token-key.pem"));
    assert_eq!(settings.token.ttl, Duration::from_secs(86_400));
    assert_eq!((settings.token.issuer.as_str(), settings.token.mode), ("conductor-host", TokenMode::Signed));
    assert_eq!((settings.mqtt.broker, settings.mqtt.username), (BrokerKind::Embedded, UsernameRule::SessionId));
    assert_eq!(settings.mqtt.listen, addresses(&["0.0.0.0:1883"]));
    assert_eq!(settings.mqtt.websocket_listen, addresses(&["0.0.0.0:8083"]));
    assert_eq!((settings.log.level.as_str(), settings.log.format), ("info", LogFormat::Auto));
    assert!(settings.types.is_empty());
    assert_eq!(warnings.len(), 1);
}

#[test]
fn every_value_of_a_file_arrives() {
    let text = r#"
[state]
dir = "/var/lib/host"
[admin]
listen = ["127.0.0.1:1", "[::1]:1"]
[iot]
listen = "127.0.0.1:0"
public_url = "https://sessions.example.org/here/"
[sessions]
id_digits = 12
pin_digits = 3
deadline = "1h"
[store]
url = "memory:"
[token]
key = "keys/k.pem"
ttl = "1s"
issuer = "me"
[mqtt]
broker = "none"
listen = ""
websocket_listen = []
public_url = "wss://broker.example.org"
username = "client_id"
[log]
level = "info,conductor_host=debug"
format = "json"
[types.greeter]
plugin = "plugins/greeter"
conductor = "polite"
required = false
deadline = "20ms"
config = { words = ["a", 1, 2.5, true], day = 2026-01-02 }
["types"."a.b"]
plugin = "/opt/libx.so"
"#;
    let settings = good(text, &[], &[]);
    assert_eq!(settings.state.dir, Path::new("/var/lib/host"));
    assert_eq!(settings.admin.listen, addresses(&["127.0.0.1:1", "[::1]:1"]));
    assert_eq!(settings.iot.public_url.as_deref(), Some("https://sessions.example.org/here"));
    assert_eq!((settings.sessions.id_digits, settings.sessions.pin_digits), (12, 3));
    assert_eq!(settings.store.url, StoreUrl::Memory);
    assert_eq!(settings.token.key, Path::new("/srv/host/keys/k.pem"));
    assert_eq!((settings.mqtt.broker, settings.mqtt.username), (BrokerKind::None, UsernameRule::ClientId));
    assert!(settings.mqtt.listen.is_empty() && settings.mqtt.websocket_listen.is_empty());
    assert_eq!(settings.log.format, LogFormat::Json);
    let greeter = &settings.types["greeter"];
    assert_eq!((greeter.plugin.as_path(), greeter.conductor.as_deref()), (Path::new("/srv/host/plugins/greeter"), Some("polite")));
    assert_eq!((greeter.required, greeter.deadline), (false, Duration::from_millis(20)));
    let config = serde_json::json!({"words": ["a", 1, 2.5, true], "day": "2026-01-02"});
    assert_eq!(serde_json::Value::Object(greeter.config.clone().unwrap()), config);
    let other = &settings.types["a.b"];
    assert_eq!((other.plugin.as_path(), other.required, other.deadline), (Path::new("/opt/libx.so"), true, Duration::from_secs(3600)));
    assert_eq!(other.config, None);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = "[token]\nissuer = \"file\"\n";
    let env = [("CONDUCTOR_HOST__TOKEN__ISSUER", "env"), ("HOME", "/root"), ("CONDUCTOR_HOST_SERVICE_PORT", "1")];
    assert_eq!(good("", &[], &[]).token.issuer, "conductor-host");
    assert_eq!(good(file, &[], &[]).token.issuer, "file");
    assert_eq!(good(file, &env, &[]).token.issuer, "env");
    assert_eq!(good(file, &env, &["token.issuer=x=y"]).token.issuer, "x=y");
    assert_eq!(good(file, &env, &["token.issuer=1", "token.issuer=2"]).token.issuer, "2");
    assert_eq!(good("", &[("RUST_LOG", "warn")], &[]).log.level, "warn");
    assert_eq!(good("[log]\nlevel = \"debug\"\n", &[("RUST_LOG", "warn")], &[]).log.level, "debug");
}

#[test]
fn text_from_environment_and_flags_becomes_what_the_key_asks_for() {
    let env = [
        ("CONDUCTOR_HOST__SESSIONS__PIN_DIGITS", "9"),
        ("CONDUCTOR_HOST__TYPES__Gr.eet-1__PLUGIN", "p"),
        ("CONDUCTOR_HOST__TYPES__Gr.eet-1__REQUIRED", "false"),
        ("CONDUCTOR_HOST__MQTT__LISTEN", ""),
    ];
    let flags = ["types.Gr.eet-1.config={\"a\": [null]}", "iot.listen=127.0.0.1:1, [::1]:1", "token.issuer=007"];
    let settings = good("", &env, &flags);
    assert_eq!(settings.sessions.pin_digits, 9);
    let read = &settings.types["Gr.eet-1"];
    assert_eq!((read.plugin.as_path(), read.required), (Path::new("/srv/host/p"), false));
    assert_eq!(read.config.as_ref().unwrap()["a"], serde_json::json!([null]));
    assert_eq!(settings.iot.listen, addresses(&["127.0.0.1:1", "[::1]:1"]));
    assert!(settings.mqtt.listen.is_empty());
    assert_eq!(settings.token.issuer, "007");
}

#[test]
fn store_and_key_follow_the_state_folder_until_they_are_set() {
    let settings = good("[state]\ndir = \"/data\"\n", &[], &[]);
    assert_eq!(settings.store.url, StoreUrl::Sqlite("/data/sessions.db".into()));
    assert_eq!(settings.token.key, Path::new("/data/token-key.pem"));
    let settings = good("[state]\ndir = \"/data\"\n[store]\nurl = \"json:s.json\"\n", &[], &["token.key=state/k.pem"]);
    assert_eq!(settings.store.url, StoreUrl::Json("/srv/host/s.json".into()));
    assert_eq!(settings.token.key, Path::new("/srv/host/state/k.pem"));
    // The folder in force, not one that it overrides.
    let settings = good("[state]\ndir = \"/weak\"\n", &[], &["state.dir=/strong"]);
    assert_eq!(settings.store.url, StoreUrl::Sqlite("/strong/sessions.db".into()));
    assert!(!settings.show().contains("/weak"));
    // What was the default before is looked for where no store is set, be it the default.
    assert_eq!(settings.store_before().as_deref(), Some(Path::new("/strong/sessions.json")));
    assert_eq!(good("[store]\nurl = \"sqlite:state/sessions.db\"\n", &[], &[]).store_before(), None);
}

#[test]
fn a_type_without_a_deadline_has_that_of_all_sessions() {
    let settings = good(&format!("[sessions]\ndeadline = \"7s\"\n{TYPE}"), &[], &[]);
    assert_eq!(settings.types["a"].deadline, Duration::from_secs(7));
}

#[test]
fn twenty_mistakes_in_a_file_are_twenty_lines_each_with_its_place() {
    let text = r#"[state]
dir = ""
[admin]
listen = "localhost:50001"
tls = 1
[iot]
listen = "localhost:8888"
public_url = "example.org"
[sessions]
id_digits = 3
pin_digits = 13
deadline = 5
[store]
url = "redis:x"
[token]
ttl = "0s"
issuer = ""
mode = "secret"
[mqtt]
broker = "internal"
listen = ["0.0.0.0:1883", 7]
username = "me"
[log]
level = "lots"
format = "xml"
[types."bad name"]
plugin = "p"
[types.empty]
[tpyes.a]
plugin = "a"
"#;
    let lines = lines(text, &[], &[]);
    let expected = [
        (2, "state.dir: found \"\", expected a path"),
        (4, "admin.listen: found \"localhost:50001\", expected an IP address and port"),
        (5, "admin.tls: found 1, expected true or false"),
        (7, "iot.listen: found \"localhost:8888\", expected an IP address and port"),
        (8, "iot.public_url: found \"example.org\", expected a URL"),
        (10, "sessions.id_digits: found 3, expected an integer from 4 to 12"),
        (11, "sessions.pin_digits: found 13, expected an integer from 3 to 12"),
        (12, "sessions.deadline: found 5, expected a duration"),
        (14, "store.url: found \"redis:x\", expected \"sqlite:FILE\", \"json:FILE\" or \"memory:\""),
        (16, "token.ttl: found \"0s\", expected a duration from \"1s\""),
        (17, "token.issuer: found \"\", expected a text"),
        (18, "token.mode: found \"secret\", expected \"signed\" or \"none\""),
        (20, "mqtt.broker: found \"internal\", expected \"embedded\", \"external\" or \"none\""),
        (21, "mqtt.listen: found 7, expected an IP address and port"),
        (22, "mqtt.username: found \"me\", expected \"session_id\" or \"client_id\""),
        (24, "log.level: found \"lots\", expected off, error"),
        (25, "log.format: found \"xml\", expected \"auto\", \"human\" or \"json\""),
        (26, "types.\"bad name\": not the name of a type, expected 1 to 64"),
        (28, "types.empty.plugin: missing, expected a path"),
        (29, "tpyes: unknown section or key; did you mean types?"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (number, start)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("settings.toml:{number}: {start}")), "{line}\n{number}: {start}");
    }
}

#[test]
fn mistakes_of_all_sources_come_together_in_order() {
    let lines = lines(
        "[iot]\nlisten = 1\n",
        &[("CONDUCTOR_HOST__IOT__LISTEN", "nowhere"), ("CONDUCTOR_HOST__SESSIONS__ID_DIGITS", "many")],
        &["mqtt.username=x", "nonsense"],
    );
    let starts = [
        "settings.toml:2: iot.listen: found 1, ",
        "environment variable CONDUCTOR_HOST__IOT__LISTEN: iot.listen: found \"nowhere\", ",
        "environment variable CONDUCTOR_HOST__SESSIONS__ID_DIGITS: sessions.id_digits: found \"many\", ",
        "--set mqtt.username: mqtt.username: found \"x\", ",
        "--set nonsense: expected SECTION.KEY=VALUE",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn unknown_keys_are_mistakes_in_every_source_and_a_close_one_is_proposed() {
    let file = |text: &str| only(text, &[], &[]);
    let env = |name: &str| only("", &[(name, "1")], &[]);
    let flag = |text: &str| only("", &[], &[text]);

    assert_eq!(file("[iot]\n\nlitsen = 1\n"), "settings.toml:3: iot.litsen: unknown key; did you mean iot.listen?");
    assert_eq!(file("[iot]\nttl = 1\n"), "settings.toml:2: iot.ttl: unknown key; did you mean token.ttl?");
    assert_eq!(file("[iot]\nzzz = 1\n"), "settings.toml:2: iot.zzz: unknown key");
    assert_eq!(file("id_digits = 6\n"), "settings.toml:1: id_digits: unknown section or key; did you mean sessions.id_digits?");
    assert_eq!(file("[mqqt]\nlisten = 1\nx = 2\n"), "settings.toml:1: mqqt: unknown section or key; did you mean mqtt?");
    let found = file("[types.a]\nplugin = \"p\"\nplugn = \"p\"\n");
    assert_eq!(found, "settings.toml:3: types.a.plugn: unknown key; did you mean types.a.plugin?");
    let short_hash = "settings.toml:3: types.a.sha256: found \"0\", expected a SHA-256 as 64 hexadecimal digits (`conductor-host plugin inspect FILE` shows it)";
    assert_eq!(file("[types.a]\nplugin = \"p\"\nsha256 = \"0\"\n"), short_hash);
    assert_eq!(file("[\"types.NAME\"]\nplugin = 1\n"), "settings.toml:1: \"types.NAME\": unknown section or key");

    let start = |rest: &str| format!("environment variable CONDUCTOR_HOST__{rest}");
    assert_eq!(env("CONDUCTOR_HOST__IOT__LISEN"), start("IOT__LISEN: iot.lisen: unknown key; did you mean CONDUCTOR_HOST__IOT__LISTEN?"));
    assert_eq!(env("CONDUCTOR_HOST__iot__LISTEN"), start("iot__LISTEN: expected CONDUCTOR_HOST__SECTION__KEY, all in upper case"));
    assert_eq!(env("CONDUCTOR_HOST__TLS__CERT"), start("TLS__CERT: tls.cert: needs tls.key, which is not set"));
    assert!(env("CONDUCTOR_HOST__LISTEN").starts_with(&start("LISTEN: ")));
    assert!(env("CONDUCTOR_HOST__").starts_with(&start(": ")));
    assert!(env("CONDUCTOR_HOST__TYPES__X").contains("types.NAME.plugin"));
    let typed = only("", &[("CONDUCTOR_HOST__TYPES__a__PLUGN", "1"), ("CONDUCTOR_HOST__TYPES__a__PLUGIN", "1")], &[]);
    assert!(typed.ends_with("types.a.plugn: unknown key; did you mean CONDUCTOR_HOST__TYPES__a__PLUGIN?"), "{typed}");
    let cased = only(TYPE, &[("CONDUCTOR_HOST__TYPES__A__DEADLINE", "1s")], &[]);
    assert_eq!(cased, start("TYPES__A__DEADLINE: types.A.plugin: missing, expected a path; did you mean types.a?"));

    assert_eq!(flag("iot.lisen=1"), "--set iot.lisen: iot.lisen: unknown key; did you mean iot.listen?");
    assert_eq!(flag("iot=1"), "--set iot: iot: unknown key");
    assert_eq!(flag("=1"), "--set : \"\": unknown section or key");
    assert!(flag("types.x=1").contains("types.NAME.plugin"));
}

#[test]
fn what_should_be_a_table_and_is_not_is_told() {
    let expected = "found a value of type integer, expected a table with keys";
    assert_eq!(only("iot = 1\n", &[], &[]), format!("settings.toml:1: iot: {expected}"));
    assert_eq!(only("types = 1\n", &[], &[]), format!("settings.toml:1: types: {expected}"));
    assert_eq!(only("[types]\na = 1\n", &[], &[]), format!("settings.toml:2: types.a: {expected}"));
    assert!(only("[[types]]\n", &[], &[]).ends_with("of type array, expected a table with keys"));
    assert!(only("[iot.listen]\nx = 1\n", &[], &[]).starts_with("settings.toml:1: iot.listen: found {\"x\":1}, expected an IP"));
}

#[test]
fn toml_that_cannot_be_parsed_is_told_with_line_and_column() {
    assert!(only("[iot]\nlisten = \n", &[], &[]).starts_with("settings.toml:2:10: TOML syntax: "));
    assert!(only("[iot]\nlisten = \"a\"\nlisten = \"b\"\n", &[], &[]).starts_with("settings.toml:3:1: TOML syntax: duplicate key"));
    let lines = lines("\"é\" = ?\n[iot\n", &[("CONDUCTOR_HOST__TYPES__a__REQUIRED", "maybe")], &[]);
    assert!(lines[0].starts_with("settings.toml:1:7: TOML syntax: "), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("settings.toml:2:")), "{lines:#?}");
    // The broken file may name the plugin, so that only the wrong value is a mistake.
    assert!(lines.last().unwrap().contains("types.a.required: found \"maybe\""), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("missing")), "{lines:#?}");
}

#[test]
fn numbers_that_json_cannot_hold_are_refused() {
    assert!(
        only("[types.a]\nplugin = \"p\"\nconfig = { x = nan }\n", &[], &[])
            .ends_with("types.a.config: found nan, expected a finite number")
    );
    assert!(only("[sessions]\nid_digits = 99999999999999999999\n", &[], &[]).ends_with("expected an integer of 64 bits"));
}

#[test]
fn an_overridden_mistake_is_still_a_mistake() {
    assert!(only("[token]\nttl = \"never\"\n", &[], &["token.ttl=1h"]).starts_with("settings.toml:2: token.ttl: "));
}

#[test]
fn a_mistake_in_a_key_is_not_repeated_by_those_that_follow_it() {
    only("[state]\ndir = 1\n", &[], &[]);
    only(&format!("[sessions]\ndeadline = \"0s\"\n{TYPE}"), &[], &[]);
}

#[test]
fn networks_and_names_of_the_admin_port_are_looked_at() {
    for wrong in
        ["admin.allow=10.0.0.1/8", "admin.allow=localhost", "admin.names=a:1", "admin.names=https://a", "admin.names=*.a", "admin.names=a,"]
    {
        only("", &[], &[wrong]);
    }
    let settings = good("[admin]\nallow = [\"10.0.0.0/8\", \"192.0.2.7\"]\nnames = [\"a.example\", \"::1\"]\n", &[], &[]);
    assert!(settings.admin.allow.contains("192.0.2.7".parse().unwrap()) && !settings.admin.allow.contains("192.0.2.8".parse().unwrap()));
    assert_eq!(settings.admin.names, ["a.example", "::1"]);
    assert!(settings.admin.tokens.ends_with("state/admin-tokens.json") && !settings.admin.allow_unauthenticated);
}

#[test]
fn a_listener_that_must_exist_cannot_be_turned_off() {
    for key in ["admin.listen", "iot.listen"] {
        only("", &[], &[&format!("{key}=")]);
        only(&format!("{} = []\n", key.replace('.', " = { ").replace("listen", "listen = [] } #")), &[], &[]);
    }
}

#[test]
fn two_listeners_on_one_address_are_a_mistake() {
    let text = "[iot]\nlisten = \"127.0.0.1:7000\"\n[mqtt]\nlisten = \"127.0.0.1:7000\"\n";
    assert_eq!(
        only(text, &[], &[]),
        "settings.toml:4: mqtt.listen: found 127.0.0.1:7000, where iot.listen listens already (settings.toml:2: 127.0.0.1:7000)"
    );
    // The default is not what is to be changed.
    assert!(only("[iot]\nlisten = \"127.0.0.1:1883\"\n", &[], &[]).starts_with("settings.toml:2: iot.listen: found 127.0.0.1:1883, "));
    assert!(only("", &[], &["iot.listen=[::1]:5,[::1]:5"]).contains("[::1]:5 is listed twice"));
    for fine in ["127.0.0.1:0", "127.0.0.2:7000", "[::1]:7000", ""] {
        good("[iot]\nlisten = \"127.0.0.1:7000\"\n", &[], &[&format!("mqtt.listen={fine}")]);
    }
    good("", &[], &["iot.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", "mqtt.listen=127.0.0.1:0"]);
    good(text, &[], &["mqtt.broker=none"]);
}

#[test]
fn what_leaves_a_public_port_open_and_no_types_are_warnings() {
    let warned =
        |text: &str, flags: &[&str]| -> Vec<String> { load(text, &[], flags).unwrap().1.iter().map(ToString::to_string).collect() };
    let short = "[sessions]\npin_digits = 3\n[types.a]\nplugin = \"a\"\n";
    let text = "settings.toml:2: sessions.pin_digits: pins of 3 digits are guessed soon on a public port (iot.listen is 0.0.0.0:8888)";
    assert_eq!(warned(short, &[]), [text]);
    assert!(warned(short, &["iot.listen=127.0.0.1:1"]).is_empty());
    assert!(warned(short, &["sessions.pin_digits=4"]).is_empty());
    let exempt = &["joins.exempt=10.0.0.0/8"];
    assert_eq!(
        warned(TYPE, exempt),
        ["--set joins.exempt: joins.exempt: whoever is in 10.0.0.0/8 may guess pins as fast as they can (iot.listen is 0.0.0.0:8888)"]
    );
    assert!(warned(TYPE, &[exempt[0], "iot.listen=127.0.0.1:1"]).is_empty());
    assert!(warned(TYPE, &[]).is_empty());
    assert_eq!(warned("", &[]), ["default: types: no type is configured, so no session can be created"]);
}

#[test]
fn a_list_of_networks_leaves_somebody_out() {
    for key in ["admin.allow", "iot.trusted_proxies", "joins.exempt"] {
        for everybody in ["0.0.0.0/0", "::/0"] {
            let line = only(TYPE, &[], &[&format!("{key}=10.0.0.0/8,{everybody}")]);
            assert!(
                line.starts_with(&format!("--set {key}: ")) && line.contains(&format!(": {everybody} is every address; name")),
                "{line}"
            );
        }
    }
}

#[test]
fn a_foreign_rust_log_is_ignored_with_a_warning() {
    let (settings, warnings) = load(TYPE, &[("RUST_LOG", "loud")], &[]).unwrap();
    assert_eq!(settings.log.level, "info");
    assert!(warnings[0].to_string().starts_with("environment variable RUST_LOG: log.level: ignored: \"loud\" is not off, "));
}

#[test]
fn names_of_types_are_checked() {
    for name in ["a", "A-b_c.9", &"x".repeat(64)] {
        good(&format!("[types.\"{name}\"]\nplugin = \"p\"\n"), &[], &[]);
    }
    for name in ["", " ", "a/b", "ä", "a\\nb", &"x".repeat(65)] {
        let line = only(&format!("[types.\"{name}\"]\nplugin = \"p\"\n"), &[], &[]);
        assert!(line.contains("not the name of a type"), "{line}");
    }
}

#[test]
fn paths_and_urls_are_checked() {
    for value in ["json:", "json", "memory:x", "sqlite:", "file:x"] {
        assert!(only("", &[], &[&format!("store.url={value}")]).contains("\"memory:\""), "{value}");
    }
    for value in ["https://", "mqtt://h", "//h", "https://u:p@h", "https://h/?q=1", "not a url", "https:h"] {
        only("", &[], &[&format!("iot.public_url={value}")]);
    }
    for value in ["mqtt://h", "mqtts://h:1", "ws://[::1]:2/mqtt", "wss://h"] {
        good("", &[], &[&format!("mqtt.public_url={value}")]);
    }
    only("", &[], &["mqtt.public_url=https://h"]);
    only("[token]\nkey = \"a\\u0000b\"\n", &[], &[]);
}

#[test]
fn log_levels_are_levels_or_directives() {
    for value in ["off", "WARN", "debug", "info,hyper=warn", "a::b=trace,error", "[span{id=1}]=debug", "0"] {
        good("", &[], &[&format!("log.level={value}")]);
    }
    for value in ["", "inof", "info,", "a=loud", "info,hyper"] {
        only("", &[], &[&format!("log.level={value}")]);
    }
}

#[test]
fn a_message_is_one_short_line_whatever_was_found() {
    let line = only("", &[], &[&format!("token.mode=\u{1b}[31m\n{}", "x".repeat(10_000))]);
    assert!(line.len() < 300 && !line.contains('\u{1b}'), "{line}");
    assert_eq!(only("", &[], &["two\nlines"]), "--set two\\nlines: expected SECTION.KEY=VALUE");
    assert!(only("", &[("CONDUCTOR_HOST__IOT\n__X", "1")], &[]).starts_with("environment variable CONDUCTOR_HOST__IOT\\n__X: "));
    // A plugin's own settings may hold a secret.
    assert!(!only("", &[], &["types.a.plugin=p", "types.a.config=hunter2"]).contains("hunter2"));
}

#[cfg(unix)]
#[test]
fn an_environment_that_is_no_text_is_a_mistake_or_none_of_our_business() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![b'x', 0xff]);
    let ours = (OsString::from("CONDUCTOR_HOST__TOKEN__ISSUER"), bad());
    let mistakes = Settings::parse(None, Path::new(BASE), [ours], &[]).unwrap_err();
    assert!(mistakes.to_string().ends_with("TOKEN__ISSUER: name and value must be Unicode text"), "{mistakes}");
    let others = [(OsString::from("PATH"), bad()), (bad(), bad()), (OsString::from("RUST_LOG"), bad())];
    Settings::parse(None, Path::new(BASE), others, &[]).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let mistake = |path: &Path| Settings::load(Some(path), [], &[]).unwrap_err().to_string();
    let absent = folder.path().join("absent.toml");
    assert!(mistake(&absent).starts_with(&format!("{}: the settings file cannot be read: ", absent.display())));
    assert!(mistake(folder.path()).contains("the settings file cannot be read: "));
    let file = folder.path().join("s.toml");
    std::fs::write(&file, b"[iot]\n# \xff\n").unwrap();
    assert!(mistake(&file).ends_with("the settings file is not UTF-8 (line 2)"));
    std::fs::write(&file, vec![b'\n'; 1 + (1 << 20)]).unwrap();
    assert!(mistake(&file).ends_with("the settings file is larger than 1048576 bytes"));
    std::fs::write(&file, TYPE).unwrap();
    let (settings, _) = Settings::load(Some(&file), [], &[]).unwrap();
    assert_eq!(settings.types["a"].plugin, folder.path().join("a"));
}

/// What the SDK's test kit goes by.
#[test]
fn the_defaults_that_conductors_see_are_those_of_the_contract() {
    let (settings, _) = Settings::load(None, [], &[]).unwrap();
    let found = (settings.sessions.deadline, settings.sessions.max_state_bytes, settings.token.ttl);
    use conductor_abi::rules::{DEADLINE, GRANT_TTL, MAX_STATE};
    assert_eq!(found, (DEADLINE, MAX_STATE, GRANT_TTL));
}
