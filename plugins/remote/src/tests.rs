//! The conductor by the rig, with a service on this machine. (With a real host, a Python service and TLS: `tests/tests/remote.rs`.)

mod fake;

use std::time::{Duration, Instant};

use conductor_sdk::{
    serde_json::{Value, json},
    testing::Rig,
};

use self::fake::{Fake, Say};
use super::*;

const ALL: [&str; 10] = ["create", "restore", "joining", "left", "connected", "disconnected", "message", "timer", "link", "close"];

fn config(service: &Fake, events: &[&str]) -> Value {
    json!({ "url": service.url(), "events": events, "secret": "swordfish" })
}

/// A conductor whose service answers by the event, and nothing where that is null.
fn start(events: &[&str], say: impl Fn(&Value) -> Value + Send + 'static) -> (Rig, Fake) {
    let service = Fake::start(move |event| Say::Json(Some(say(event)).filter(|said| !said.is_null()).unwrap_or(json!({}))));
    (Rig::start::<Remote>(config(&service, events)).unwrap(), service)
}

/// A conductor whose service does this about `events[0]`, and in turn about what follows.
fn start_saying(says: Vec<Say>) -> (Rig, Fake) {
    let mut says = says.into_iter();
    let service = Fake::start(move |_| says.next().unwrap_or(Say::Json(json!({ "reply": "done" }))));
    let config = json!({ "url": service.url(), "events": ["message"], "secret": "swordfish", "deadline_ms": 3000 });
    (Rig::start::<Remote>(config).unwrap(), service)
}

#[test]
fn every_event_is_told_with_all_that_belongs_to_it() {
    let (mut rig, service) = start(&ALL, |event| match event["event"].as_str().unwrap() {
        "create" => json!({ "save": { "made": true }, "timers": [{ "name": "soon", "after_ms": 1000 }] }),
        "request" => json!({ "reply": [1.50, "a"] }),
        _ => Value::Null,
    });
    rig.join("ann").unwrap();
    rig.connect("ann").unwrap();
    rig.message("ann", "a/b", "hällo").unwrap();
    rig.message("ann", "bytes", [0xff, 0x00]).unwrap();
    rig.disconnect("ann").unwrap();
    assert_eq!(rig.request("do it", json!({ "big": 12_345_678_901_234_567_890_u64 })).unwrap(), json!([1.50, "a"]));
    rig.link(Link::Down).unwrap();
    rig.leave("ann", Leave::Kicked).unwrap();
    rig.advance(Duration::from_secs(1));
    rig.restart::<Remote>(config(&service, &ALL)).unwrap();
    rig.close(CloseReason::HostStopping).unwrap();

    let heard = service.heard();
    for one in &heard {
        assert_eq!(one.line, "POST /conduct/secret-path HTTP/1.1");
        assert_eq!((one.headers["x-conductor-secret"].as_str(), one.headers["x-conductor-attempt"].as_str()), ("swordfish", "1"));
        assert_eq!(one.headers["content-type"], "application/json");
    }
    let mut events: Vec<Value> = heard.into_iter().map(|heard| heard.event).collect();
    let mut ids: Vec<String> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    // The rest, without what all have.
    for event in &mut events {
        assert_eq!(event["session"], json!({ "id": "123456", "type": "test" }));
        assert!(event["time"].as_u64().unwrap() >= 1_000_000_000_000);
        let event = event.as_object_mut().unwrap();
        event.retain(|key, _| !["id", "session", "time"].contains(&key.as_str()));
    }
    let made = json!({ "made": true });
    let expected = [
        json!({ "event": "create", "clients": [], "state": null }),
        json!({ "event": "joining", "clients": [], "state": made, "client": "ann", "peer": "192.0.2.1:50000" }),
        json!({ "event": "connected", "clients": ["ann"], "state": made, "client": "ann" }),
        json!({
            "event": "message", "clients": ["ann"], "state": made, "client": "ann", "name": "a/b", "payload": "hällo",
            "qos": 0, "retain": false, "will": false,
        }),
        json!({
            "event": "message", "clients": ["ann"], "state": made, "client": "ann", "name": "bytes", "payload_base64": "/wA=",
            "qos": 0, "retain": false, "will": false,
        }),
        json!({ "event": "disconnected", "clients": ["ann"], "state": made, "client": "ann" }),
        json!({ "event": "request", "clients": ["ann"], "state": made, "method": "do it", "params": { "big": 12_345_678_901_234_567_890_u64 } }),
        json!({ "event": "link", "clients": ["ann"], "state": made, "reason": "down" }),
        json!({ "event": "left", "clients": [], "state": made, "client": "ann", "reason": "kicked" }),
        json!({ "event": "timer", "clients": [], "state": made, "name": "soon", "late_ms": 0 }),
        json!({ "event": "restore", "clients": [], "state": made }),
        json!({ "event": "close", "clients": [], "state": made, "reason": "host_stopping" }),
    ];
    assert_eq!(events.len(), expected.len());
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(event, expected);
    }
}

#[test]
fn why_a_session_ends_is_told() {
    for (reason, told) in [
        (CloseReason::Requested, "requested"),
        (CloseReason::Conductor, "conductor"),
        (CloseReason::Expired, "expired"),
        (CloseReason::HostStopping, "host_stopping"),
        (CloseReason::Replaced, "replaced"),
    ] {
        let (mut rig, service) = start(&["close"], |_| Value::Null);
        rig.close(reason).unwrap();
        assert_eq!(service.events()[0]["reason"], told);
    }
}

#[test]
fn what_is_not_chosen_is_not_told_and_requests_always_are() {
    let (mut rig, service) = start(&[], |_| json!({ "grants": [{ "client": "ann", "publish": [] }] }));
    rig.join("ann").unwrap();
    rig.message("ann", "a", "b").unwrap();
    assert!(service.events().is_empty());
    assert_eq!(rig.request("mute", ()).unwrap(), Value::Null);
    assert_eq!(service.events()[0]["params"], Value::Null);
    // Nobody decides about joins, so this one changes nothing.
    rig.join("ann").unwrap();
    assert_eq!(rig.grants("ann"), Some(Grants::all().publish([""; 0])));
}

#[test]
fn an_answer_is_carried_out() {
    let (mut rig, _service) = start(&["joining", "left"], |event| match event["method"].as_str().unwrap_or_default() {
        "all" => json!({
            "reply": "done", "save": [1, 2], "labels": { "phase": "two" }, "lock": true, "max_clients": 7,
            "grants": [{ "client": "ann", "subscribe": ["stage"], "publish": [] }], "kick": ["bob"],
            "timers": [{ "name": "once", "after_ms": 5 }, { "name": "often", "every_ms": 50 }, { "name": "old", "cancel": true }],
            "publish": [
                { "name": "text", "payload": "hi", "qos": 1, "retain": true },
                { "name": "json", "payload": { "a": [1] }, "to": "ann" },
                { "name": "bytes", "payload_base64": "/wA=" },
                { "name": "none" },
            ],
            "close": true,
        }),
        "old" => json!({ "timers": [{ "name": "old", "after_ms": 5000 }] }),
        _ => Value::Null,
    });
    rig.join("ann").unwrap();
    rig.join("bob").unwrap();
    rig.request("old", ()).unwrap();
    assert_eq!(rig.request("all", ()).unwrap(), "done");
    assert_eq!(rig.saved().unwrap().bytes(), b"[1,2]");
    assert_eq!(rig.labels()["phase"], "two");
    assert_eq!((rig.grants("ann"), rig.grants("bob")), (Some(Grants::all().subscribe(["stage"]).publish([""; 0])), None));
    assert_eq!(rig.timers(), ["often", "once"]);
    assert!(rig.is_closed());
    let published = rig.published();
    let published: Vec<_> = published.iter().map(|one| (one.client.as_deref(), &*one.name, &*one.payload, one.qos, one.retain)).collect();
    let expected: [(_, _, &[u8], _, _); 4] = [
        (None, "text", b"hi", 1, true),
        (Some("ann"), "json", br#"{"a":[1]}"#, 0, false),
        (None, "bytes", &[0xff, 0], 0, false),
        (None, "none", b"", 0, false),
    ];
    assert_eq!(published, expected);
}

#[test]
fn what_cannot_be_carried_out_is_told_by_its_key() {
    for (answer, key) in [
        (json!({ "publish": [{ "name": "a/#" }] }), "publish"),
        (json!({ "publish": [{ "name": "a", "payload": "x", "payload_base64": "eA==" }] }), "publish"),
        (json!({ "publish": [{ "name": "a", "payload_base64": "?" }] }), "publish"),
        (json!({ "timers": [{ "name": "a", "after_ms": 1, "every_ms": 100 }] }), "timers"),
        (json!({ "timers": [{ "name": "a" }] }), "timers"),
        (json!({ "grants": [{ "client": "nobody" }] }), "grants"),
        (json!({ "kick": ["nobody"] }), "kick"),
        (json!({ "labels": { "": "" } }), "labels"),
    ] {
        let (mut rig, _service) = start(&[], move |_| answer.clone());
        let error = rig.request("m", ()).unwrap_err();
        assert!(error.message().starts_with(&format!("the service's answer, {key:?}: ")), "{error}");
    }
}

#[test]
fn the_service_decides_who_joins() {
    let (mut rig, _service) = start(&["joining"], |event| match event["client"].as_str().unwrap_or_default() {
        "mallory" => json!({ "join": { "refuse": "not you" } }),
        "screen" => json!({ "join": { "subscribe": ["stage"], "publish": [] } }),
        "ann" => json!({ "join": {} }),
        "eve" => json!({ "error": { "message": "the register is closed", "code": 7 } }),
        _ => Value::Null,
    });
    assert_eq!(rig.join("mallory").unwrap_err().message(), "not you");
    assert_eq!(rig.join("eve").unwrap_err().message(), "the register is closed");
    for client in ["screen", "ann", "bob"] {
        rig.join(client).unwrap();
    }
    assert_eq!(rig.grants("screen"), Some(Grants::all().subscribe(["stage"]).publish([""; 0])));
    assert_eq!((rig.grants("ann"), rig.grants("bob")), (Some(Grants::all()), Some(Grants::all())));
}

#[test]
fn requests_get_the_services_errors() {
    let (mut rig, _service) = start(&[], |event| match event["method"].as_str().unwrap() {
        "full" => json!({ "error": { "message": "full", "code": 17, "data": [4] } }),
        "plain" => json!({ "error": { "message": "no" }, "save": 1 }),
        _ => json!({ "unknown_method": true }),
    });
    let error = rig.request("full", ()).unwrap_err();
    assert_eq!((error.code(), error.message(), error.data()), (17, "full", Some(&json!([4]))));
    let error = rig.request("plain", ()).unwrap_err();
    assert_eq!((error.code(), error.data()), (0, None));
    assert_eq!(rig.saved().unwrap().bytes(), b"1", "the rest of such an answer counts");
    assert!(rig.request("fly", ()).unwrap_err().message().contains("no method \"fly\""));
}

#[test]
fn what_is_safe_to_repeat_is_repeated_with_one_id_and_the_rest_is_not() {
    // A message: whatever became of the tries before.
    let busy = || Say::Raw(503, "", Vec::new());
    let (mut rig, service) = start_saying(vec![Say::Cut, busy(), Say::Raw(502, "", Vec::new()), Say::Raw(204, "", Vec::new())]);
    rig.message("ann", "a", "b").unwrap();
    let heard = service.heard();
    let attempts: Vec<_> = heard.iter().map(|heard| heard.headers["x-conductor-attempt"].as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
    assert!(heard.iter().all(|one| one.event == heard[0].event));
    // A request: where the service says that it did nothing.
    let (mut rig, service) = start_saying(vec![busy(), Say::Raw(429, "", Vec::new())]);
    assert_eq!(rig.request("m", ()).unwrap(), "done");
    assert_eq!(service.events().len(), 3);
    // And not where nobody knows.
    for unsure in [Say::Cut, Say::Raw(504, "", Vec::new()), Say::Raw(200, "Content-Length: 9\r\n", Vec::new())] {
        let (mut rig, service) = start_saying(vec![unsure]);
        let error = rig.request("m", ()).unwrap_err();
        assert_eq!((error.code(), service.events().len()), (503, 1), "{error}");
    }
}

#[test]
fn tries_end_with_the_deadline() {
    let (mut rig, service) = start_saying((0..99).map(|_| Say::Cut).collect());
    let error = rig.message("ann", "a", "b").unwrap_err();
    // Waits of 0.1, 0.2, 0.4 and 0.8 s, each less up to a half: of 3 s of virtual time some are left for a sixth try.
    let tries = service.events().len();
    assert!((4..=8).contains(&tries), "{tries}");
    assert!(error.message().ends_with(&format!("({tries} tries)")), "{error}");
}

#[test]
fn a_service_that_does_not_answer_is_not_waited_for() {
    let service = Fake::start(|_| Say::Nothing);
    let config = json!({ "url": service.url(), "events": [], "deadline_ms": 100 });
    let asked = Instant::now();
    let error = Rig::start::<Remote>(config).unwrap().request("m", ()).unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert!(error.message().contains("does not answer in 100 ms"), "{error}");
}

#[test]
fn a_wrong_answer_is_an_error_in_words_and_not_asked_for_again() {
    let long = format!("\"{}\"", "x".repeat(3 << 20)).into_bytes();
    for (say, words) in [
        (Say::Raw(500, "", b"Traceback: swordfish".to_vec()), "answers 500 Internal Server Error"),
        (Say::Raw(401, "", Vec::new()), "answers 401 Unauthorized"),
        (Say::Raw(302, "Location: http://127.0.0.1:1/elsewhere\r\n", Vec::new()), "answers 302 Found, and redirects are not followed"),
        (Say::Raw(200, "", b"<html>".to_vec()), "what does not fit: expected value"),
        (Say::Raw(200, "", long), "answers with more than 2097152 bytes"),
        (Say::Json(json!({ "publsh": [] })), "unknown field `publsh`"),
        (Say::Json(json!({ "publish": [{ "payload": "x" }] })), "missing field `name`"),
    ] {
        let (mut rig, service) = start_saying(vec![say]);
        let error = rig.message("ann", "a", "b").unwrap_err();
        let place = format!("message: the service at http://{} ", service.address);
        assert!(error.message().contains(words) && error.message().starts_with(&place), "{error}");
        assert!(!error.message().contains("swordfish") && !error.message().contains("secret-path"), "{error}");
        assert_eq!((error.code(), service.events().len()), (502, 1));
    }
}

#[test]
fn where_nobody_listens_no_session_is_made_and_one_that_is_there_goes_on() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = |events: &[&str]| json!({ "url": format!("http://{gone}/p"), "events": events, "secret": "swordfish", "deadline_ms": 500 });
    let error = Rig::start::<Remote>(down(&["create"])).unwrap_err();
    assert!(error.message().starts_with(&format!("create: the service at http://{gone} is not reached: ")), "{error}");
    assert!(error.message().ends_with("tries)") && error.code() == 503, "{error}");

    let (mut rig, service) = start(&ALL, |event| json!({ "save": event["state"].as_u64().unwrap_or_default() + 1 }));
    rig.restart::<Remote>(down(&["restore"])).unwrap();
    assert!(rig.logged().iter().any(|line| line.message.contains("did not hear of the restart")));
    assert!(rig.request("m", ()).is_err());
    rig.restart::<Remote>(config(&service, &[])).unwrap();
    rig.request("m", ()).unwrap();
    assert_eq!(service.events().last().unwrap()["state"], 1);
}

#[test]
fn a_session_is_created_once_also_where_its_service_saves_nothing() {
    let (mut rig, service) = start(&ALL, |_| Value::Null);
    rig.restart::<Remote>(config(&service, &ALL)).unwrap();
    let told: Vec<_> = service.events().into_iter().map(|event| event["event"].clone()).collect();
    assert_eq!(told, ["create", "restore"]);
}

/// What the code knows, its refusals of others list.
#[test]
fn the_page_names_every_event_and_every_key_of_an_answer() {
    let page = include_str!("../../../docs/remote.md");
    let others = |error: serde_json::Error| error.to_string();
    let events = others(serde_json::from_str::<Kind>("\"x\"").err().unwrap());
    let keys = others(serde_json::from_str::<Answer>("{\"x\": 1}").err().unwrap());
    let settings = Rig::start::<Remote>(json!({ "url": "", "events": [], "x": 1 })).unwrap_err().message().to_owned();
    let mut count = 0;
    for list in [&events, &keys, &settings] {
        let (_, names) = list.split_once("expected one of ").unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            assert!(page.contains(&format!("| `{name}`")) || page.contains(&format!(", `{name}` |")), "{name} is not on the page");
            count += 1;
        }
    }
    assert_eq!(count, 11 + 13 + 7);
}

#[test]
fn mistakes_in_the_config_are_told() {
    let refused = |changes: Value| {
        let mut config = json!({ "url": "https://quiz.example.org/", "events": ["message"] });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        Rig::start::<Remote>(config).map(drop).map_err(|error| error.message().to_owned())
    };
    assert_eq!(refused(json!({})), Ok(()));
    assert_eq!(refused(json!({ "url": "http://[::1]:8000/x" })), Ok(()));
    assert_eq!(refused(json!({ "url": "http://quiz.example.org", "plain_http": true })), Ok(()));
    for (changes, words) in [
        (json!({ "url": "quiz.example.org" }), "https://"),
        (json!({ "url": "ftp://quiz.example.org" }), "https://"),
        (json!({ "url": "https://ann:swordfish@quiz.example.org" }), "use secret"),
        (json!({ "url": "http://quiz.example.org" }), "plain_http"),
        (json!({ "url": "http://127.0.0.1.example.org" }), "plain_http"),
        (json!({ "events": ["mesage"] }), "mesage"),
        (json!({ "secret": "sword\nfish" }), "a header cannot hold it"),
        (json!({ "secret": " " }), "empty"),
        (json!({ "secret": "x", "secret_header": "a b" }), "no name of a header"),
        (json!({ "ca": "ca.pem" }), "whole path"),
        (json!({ "ca": "/nowhere/ca.pem" }), "/nowhere/ca.pem"),
        (json!({ "ca": concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml") }), "no certificate"),
        (json!({ "timeout": 1 }), "timeout"),
    ] {
        let told = refused(changes).unwrap_err();
        assert!(told.contains(words) && !told.contains("swordfish"), "{told}");
    }
}
