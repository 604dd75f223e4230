//! Settings that are wrong, and the command that checks them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use conductor_tests::{
    Host, HostOptions,
    host::{Ended, run, run_refused},
};
use serde_json::json;

fn check(folder: &Path, text: &str) -> Ended {
    fs::write(folder.join("host.toml"), text).unwrap();
    run(folder, &["config", "check", "host.toml"])
}

const WRONG: &str = r#"
[iot]
listen = "nowhere"
[sessions]
id_digits = 99
pin_digits = "six"
[surprise]
key = 1
[token]
ttl = "yesterday"
[types."a b"]
plugin = "x"
[types.nothing]
"#;

const NAMES: [&str; 7] = ["iot.listen", "sessions.id_digits", "sessions.pin_digits", "surprise", "token.ttl", "a b", "types.nothing"];

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let checked = check(folder.path(), WRONG);
    let started = run(folder.path(), &["serve", "--config", "host.toml", "--ready-file", "ready.json"]);
    for ended in [&checked, &started] {
        assert_eq!(ended.code, Some(2), "{ended:?}");
        for name in NAMES {
            assert!(ended.stderr.contains(name), "{name}: {}", ended.stderr);
        }
        assert!(ended.stderr.contains("host.toml:3"), "the line is named: {}", ended.stderr);
    }
    assert!(!folder.path().join("ready.json").exists());
    assert!(!folder.path().join("state").exists(), "nothing was made");
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["[iot", "= 1", "listen = ", "\u{0}"] {
        assert_eq!(check(folder.path(), text).code, Some(2), "{text:?}");
    }
    let ended = run(folder.path(), &["config", "check", "none.toml"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("none.toml"), "{ended:?}");
}

#[test]
fn good_settings_are_exit_0() {
    let folder = tempfile::tempdir().unwrap();
    let ended = check(folder.path(), "[types.default]\nplugin = \"plugins/conductor_default\"\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!folder.path().join("state").exists(), "nothing was made");
}

#[test]
fn the_environment_is_stronger_than_the_file() {
    let options = HostOptions::default().environment("CONDUCTOR_HOST__SESSIONS__PIN_DIGITS", "9");
    assert_eq!(Host::start(options.set("sessions.pin_digits", json!(4))).create("default").pin.len(), 9);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.toml"), "").unwrap();
    let binary = conductor_tests::artefacts::binary();
    let ended = std::process::Command::new(binary)
        .args(["config", "check", "host.toml"])
        .current_dir(folder.path())
        .env("CONDUCTOR_HOST__IOT__LISTEM", "x")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("CONDUCTOR_HOST__IOT__LISTEM"));
}

#[test]
fn a_port_that_is_taken_is_refused_in_words() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["admin.listen", "iot.listen", "mqtt.listen", "mqtt.websocket_listen"] {
        let folder = tempfile::tempdir().unwrap();
        let ended = run_refused(folder.path(), &HostOptions::default().set(key, json!(address)));
        assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
        assert!(ended.stderr.contains(&address), "{key}: {ended:?}");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/tests/keys/test-p256.pem");
    fs::copy(fixture, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = run_refused(folder.path(), &HostOptions::default().set("token.key", json!(key)));
    assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
    assert!(ended.stderr.contains("chmod 600"), "{ended:?}");
}

#[test]
fn a_plugin_that_does_not_load_stops_the_start_unless_it_may_be_missing() {
    let missing = HostOptions::default().set("types.extra.plugin", json!("no/such/plugin"));
    let folder = tempfile::tempdir().unwrap();
    let ended = run_refused(folder.path(), &missing);
    assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
    assert!(ended.stderr.contains("plugin") && ended.stderr.contains("extra"), "{ended:?}");

    let host = Host::start(missing.set("types.extra.required", json!(false)));
    let answer = host.admin("/api/createSession?type=extra");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("plugin"), "it says why: {answer:?}");
    let ready = host.admin("/readyz");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")), "{ready:?}");
    host.create("default");
}
