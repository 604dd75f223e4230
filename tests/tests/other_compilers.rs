//! **A plugin loads whatever built it**: one by the oldest compiler that the SDK supports, for size and with every feature of the SDK, and
//! one by a compiler newer than ours, with all checks on, an old tokio and an allocator of its own. Both run in one host, beside one of this build.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::process::Command;

use conductor_tests::{
    Host, HostOptions, Session, Version, Way, artefacts,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// 1.85 of `rustc 1.85.0 (…)`.
fn release(built: &Value) -> (u32, u32) {
    let version = built["by"].as_str().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn plugins_of_other_compilers_do_all_that_plugins_do() {
    let options = HostOptions::default()
        .plugin("echo", "conductor_test_echo")
        .set("types.oldest.plugin", json!(artefacts::other("oldest")))
        .set("types.oldest.config.greeting", json!("moin"))
        .set("types.newest.plugin", json!(artefacts::other("newest")))
        .set("types.newest.config.greeting", json!("moin"));
    let mut host = Host::start(options);
    let ours = host.create("echo");
    let sessions = ["oldest", "newest"].map(|kind| (host.create(kind), host.create(kind)));
    let built = [&sessions[0].0, &sessions[1].0].map(|session| host.ask(session, "built", ""));
    let stated = conductor_abi::OLDEST_RUST;
    assert!(built[0]["by"].as_str().unwrap().starts_with(&format!("rustc {stated}")), "{built:?}");
    assert!(release(&built[1]) > release(&built[0]), "{built:?}");
    let here = Command::new("rustc").arg("--version").output().expect("rustc").stdout;
    assert_ne!(built[1]["by"].as_str().unwrap().as_bytes(), here.trim_ascii(), "another compiler than the host's");
    assert_eq!((&built[0]["at"], &built[0]["debug_assertions"], &built[0]["allocator"]), (&json!("s"), &json!(false), &json!(false)));
    assert_eq!((&built[1]["at"], &built[1]["debug_assertions"], &built[1]["allocator"]), (&json!("3"), &json!(true), &json!(true)));

    // What they have is told apart from what they have not, by any compiler.
    let types = host.admin("/v1/types").json();
    for kind in ["oldest", "newest"] {
        let shown = types["items"].as_array().unwrap().iter().find(|item| item["type"] == kind).unwrap();
        assert_eq!(shown["hooks"], json!(["joining", "message", "timer", "close"]), "{kind}");
    }

    for (session, _) in &sessions {
        talks(&host, session);
    }
    // Overflows wrap in the one, and are caught panics in the other; its own tokio works.
    let (wraps, checks) = (&sessions[0].0, &sessions[1].0);
    assert_eq!(host.request(wraps, "add", json!(255)).json()["result"], 0);
    assert_eq!(host.ask(checks, "runtime", ""), "connected: true");
    assert_eq!(host.request(checks, "add", json!(255)).json()["code"], "faulted");
    assert_eq!(host.request(wraps, "panic", Value::Null).json()["code"], "faulted");

    // The others go on, from what they saved, too; a close reaches them.
    for (_, second) in &sessions {
        assert_eq!(host.request(second, "save", json!(7)).status, 200);
    }
    host.kill();
    host.start_again();
    for (_, second) in &sessions {
        assert_eq!(host.ask(second, "heard", ""), json!(["restored 7"]));
        assert_eq!(host.request(second, "close", Value::Null).status, 200);
    }
    assert_eq!(host.ask(&ours, "whoami", ""), json!([ours.id, "echo"]));
    until("both to be told", || (host.log().matches("closed in rustc").count() == 2).then_some(()));
}

/// Requests and errors, big answers, joins, messages, sleeps, tasks and timers.
fn talks(host: &Host, session: &Session) {
    assert_eq!(host.request(session, "greet", json!("ann")).json()["result"], "moin, ann");
    assert_eq!(host.request(session, "greet", json!(1)).status, 422);
    let failed = host.request(session, "fail", Value::Null).json();
    assert!(failed["detail"].as_str().unwrap().contains("as asked"), "{failed}");
    for count in [0, 1, 4096, 1 << 20] {
        let big = host.request(session, "big", json!(count)).json();
        assert_eq!(big["result"].as_str().unwrap().len(), count);
    }
    assert_eq!(host.request(session, "wait", json!(5)).json()["result"], 5);
    let refused = json!({ "pin": session.pin, "client": "mallory" }).to_string();
    let refused = conductor_tests::http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &refused);
    assert_eq!((refused.status, &refused.json()["detail"]), (403, &json!("not you")));

    let mut ann = device(host, session, "ann", Version::V5, Way::Tcp);
    assert!(
        ann.subscribe(&topic(session, "answer"), 1)
            && ann.subscribe(&topic(session, "tick"), 1)
            && ann.subscribe(&topic(session, "timer"), 1)
    );
    assert!(!ann.publish(&topic(session, "elsewhere"), "not granted", 1, false));
    let text = "word ".repeat(2000);
    assert!(ann.publish(&topic(session, "ask"), &text, 1, false));
    assert_eq!(ann.heard(), (topic(session, "answer"), text.clone()));
    assert_eq!(host.ask(session, "heard", ""), json!([format!("ann {text}")]));
    assert_eq!(host.request(session, "tick", Value::Null).status, 200);
    let mut heard = [ann.heard(), ann.heard()];
    heard.sort();
    assert_eq!(heard, [(topic(session, "tick"), "1".to_owned()), (topic(session, "timer"), "soon".to_owned())]);
    ann.disconnect();
}
