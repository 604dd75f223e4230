//! What a restart keeps, after a good end and after a bad one.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{fs, os::unix::fs::MetadataExt as _};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, STORES, Session, Version, Way,
    host::run_refused,
    http::{try_get, try_post},
    mqtt::EVERY_WAY,
    until,
};
use serde_json::{Value, json};

fn options() -> HostOptions {
    HostOptions::default().plugin("echo", "conductor_test_echo")
}

fn options_on(store: &str) -> HostOptions {
    options().set("store.url", json!(store))
}

#[test]
fn a_restart_keeps_sessions_clients_and_tokens() {
    STORES.iter().for_each(|store| a_restart_keeps_all(store));
}

fn a_restart_keeps_all(store: &str) {
    let mut host = Host::start(options_on(store));
    let (echo, default, closed) = (host.create("echo"), host.create("default"), host.create("default"));
    let token = host.join(&echo, "späce unit");
    host.join(&echo, "b");
    host.close(&closed);
    assert_eq!((host.ask(&echo, "count", ""), host.ask(&echo, "count", "")), (json!(1), json!(2)));
    let shown = [&echo, &default].map(|session| host.show(session).json());
    host.stop();
    host.start_again();
    for (session, before) in [&echo, &default].into_iter().zip(shown) {
        let after = host.show(session).json();
        for key in ["id", "pin", "type", "created_at"] {
            assert_eq!(after[key], before[key], "{key}");
        }
    }
    assert_eq!(host.clients(&echo), ["späce unit", "b"]);
    assert_eq!(host.show(&closed).status, 404);
    assert_eq!(host.ask(&default, "state", ""), "State");
    // The conductor is made again.
    assert_eq!(host.ask(&echo, "count", ""), 1);
    for (version, way) in EVERY_WAY {
        let credentials = Credentials::new("späce unit", &echo.id, &token);
        let mut device = Mqtt::connect(&host, version, way, &credentials).unwrap();
        assert!(device.publish(&format!("/{}/x", echo.id), "p", 1, false));
        device.disconnect();
    }
    // The same client joins again, and is still one.
    host.join(&echo, "b");
    assert_eq!(host.clients(&echo), ["späce unit", "b"]);
}

#[test]
fn a_token_of_a_session_that_was_closed_is_refused_after_a_restart() {
    for store in STORES {
        let mut host = Host::start(options_on(store));
        let session = host.create("default");
        let token = host.join(&session, "a");
        host.close(&session);
        host.stop();
        host.start_again();
        let refusal = Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token));
        refusal.expect_err("the session is closed");
    }
}

#[test]
fn conductors_are_told_that_the_host_stops_and_devices_are_let_go() {
    let mut host = Host::start(options());
    let session = host.create("echo");
    let token = host.join(&session, "a");
    let mut device = Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).unwrap();
    host.stop();
    device.gone();
    let log = host.log();
    assert!(log.contains("closing") && log.contains("HostStopping"), "close ran");
    host.start_again();
    assert_eq!(host.close(&session), "Success");
    until("close to run", || host.log().contains("Requested").then_some(()));
}

#[test]
fn the_key_is_made_once_and_for_the_host_alone() {
    let mut host = Host::start(options());
    let file = host.folder().join("state/token-key.pem");
    let key = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    host.kill();
    host.start_again();
    assert!(fs::read(&file).unwrap() == key, "the key has changed");
}

#[test]
fn a_second_host_on_the_same_state_is_refused() {
    for store in STORES {
        let mut host = Host::start(options_on(store));
        let session = host.create("default");
        let stored = || fs::read(host.folder().join(store.split_once(':').unwrap().1)).unwrap();
        let before = stored();
        let ended = run_refused(host.folder(), &options_on(store));
        assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
        assert!(ended.stderr.contains("state"), "it says what is taken: {ended:?}");
        assert!(stored() == before, "{store}");
        assert_eq!(host.ask(&session, "state", ""), "State", "the first one goes on");
        // The lock goes with its process.
        host.kill();
        host.start_again();
        assert_eq!(host.ask(&session, "state", ""), "State");
    }
}

/// As the reference writes it: indented by four, clients as they came.
const REFERENCE: &str = r#"{
    "123456": {
        "id": "123456",
        "pin": "007",
        "type": "default",
        "clients": [
            "unit 1",
            "\u5ba2\u6237\u7aef",
            null,
            7
        ]
    },
    "000042": {
        "id": "000042",
        "pin": "999",
        "type": "gone",
        "clients": []
    },
    "9": {
        "id": "9",
        "pin": "1",
        "type": "active",
        "clients": []
    }
}"#;

fn started_on(text: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("state/sessions.json"), text).unwrap();
    folder
}

#[test]
fn a_file_of_the_reference_loads_and_is_kept() {
    let mut host = Host::start_in(started_on(REFERENCE.as_bytes()), options());
    let session = |id: &str, pin: &str| Session { id: id.into(), pin: pin.into() };
    let (kept, orphan, short) = (session("123456", "007"), session("000042", "999"), session("9", "1"));
    assert_eq!(host.ask(&kept, "state", ""), "State");
    assert_eq!(host.ask(&short, "start", ""), "Started");
    host.join(&kept, "new");
    host.join(&kept, "unit 1");
    // A type that is not configured: stored, listed, closable, and it says so.
    let answer = host.request(&orphan, "state", Value::Null);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(host.show(&orphan).status, 200);
    for bad in [json!(null), json!(7), json!("null"), json!("7")] {
        let body = json!({"id": kept.id, "pin": kept.pin, "client": bad}).to_string();
        if bad.is_string() {
            // As names they are new clients, not the foreign values.
            assert!(host.join_raw(&body).body.contains('.'));
        } else {
            assert!(host.join_raw(&body).body.contains("Could not validate"));
        }
    }
    host.stop();
    host.start_again();
    let shown = host.show(&kept).json();
    let names: Vec<_> = shown["clients"].as_array().unwrap().iter().filter_map(|client| client["client_id"].as_str()).collect();
    for name in ["unit 1", "客户端", "new"] {
        assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{names:?}");
    }
    let stored: Value = serde_json::from_slice(&fs::read(host.store_file()).unwrap()).unwrap();
    assert_eq!(stored["123456"]["pin"], "007");
    assert_eq!((&stored["000042"]["type"], &stored["000042"]["pin"]), (&json!("gone"), &json!("999")));
    assert_eq!(host.close(&orphan), "Success");
    assert_eq!(host.close(&short), "Success");
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start_and_is_left_as_it_is() {
    let cut = &REFERENCE.as_bytes()[..REFERENCE.len() / 2];
    let doubled = [REFERENCE.as_bytes(), REFERENCE.as_bytes()].concat();
    for text in [cut, b"", b"[]", b"\"text\"", b"\0\0\0\0", b"{\"123456\": 7}", b"{\"123456\": {\"id\": \"123456\"}}", &doubled] {
        let folder = started_on(text);
        let ended = run_refused(folder.path(), &options());
        assert!(!matches!(ended.code, Some(0) | None), "{} {ended:?}", String::from_utf8_lossy(text));
        assert!(ended.stderr.contains("sessions.json"), "{ended:?}");
        assert!(!folder.path().join("refused-ready.json").exists());
        assert_eq!(fs::read(folder.path().join("state/sessions.json")).unwrap(), text);
    }
}

#[test]
fn the_ready_file_is_there_while_the_host_is() {
    let mut host = Host::start(options());
    let file = host.folder().join("ready.json");
    assert!(file.is_file());
    host.stop();
    assert!(!file.exists(), "nobody listens there any more");
    // One that a killed host left does not stand for its successor, even for a moment: this one never gets ready.
    std::fs::write(&file, "{}").unwrap();
    std::fs::write(host.store_file(), "no JSON").unwrap();
    let settings = host.folder().join("host.toml");
    let arguments = ["serve", "--config", settings.to_str().unwrap(), "--ready-file", file.to_str().unwrap()];
    let refused = conductor_tests::host::run(host.folder(), &arguments);
    assert_eq!((refused.code, file.exists()), (Some(1), false), "{refused:?}");
}

#[test]
fn a_second_signal_ends_the_host_at_once_and_says_so() {
    let mut host = Host::start(options());
    let session = host.create("echo");
    let token = host.join(&session, "a");
    let mut device = Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).unwrap();
    assert!(device.subscribe(&format!("/{}/waiting", session.id), 1));
    std::thread::scope(|scope| {
        let never = host.folder().join("never").display().to_string();
        let (asking, session) = (&host, &session);
        scope.spawn(move || {
            // It is cut off.
            let body = serde_json::json!({"method": "wait_for", "params": never}).to_string();
            let _ = try_post(asking.admin, &format!("/v1/sessions/{}/requests", session.id), &body);
        });
        assert_eq!(device.heard().1, "", "the request is under way");
        host.signal_to_end();
        until("the drain to begin", || (host.admin("/readyz").status == 503).then_some(()));
        host.signal_to_end();
        until("the end", || try_get(host.admin, "/livez").is_err().then_some(()));
    });
    assert_eq!(host.wait().code(), Some(1));
}
