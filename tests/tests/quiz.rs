//! The plugin `quiz` in the real host: one round with real devices, over a kill of the host.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use conductor_tests::{
    Host, HostOptions, Mqtt, Session, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// The stage as it is when it first fits.
fn stage(device: &mut Mqtt, session: &Session, fits: impl Fn(&Value) -> bool) -> Value {
    until("the stage", || {
        let (at, payload) = device.heard();
        assert_eq!(at, topic(session, "stage"));
        Some(serde_json::from_str(&payload).unwrap()).filter(&fits)
    })
}

fn is(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |stage| stage["phase"] == phase
}

#[test]
fn a_round_is_played_over_a_kill_of_the_host() {
    let options = HostOptions::default().plugin("quiz", "conductor_quiz");
    let mut host = Host::start(options.set("types.quiz.config.quizmaster", json!("k3v1n")));
    let session = host.create("quiz");
    let devices = |host: &Host| ["k3v1n", "ann", "bob", "screen"].map(|client| device(host, &session, client, Version::V5, Way::Tcp));
    let [mut master, mut ann, mut bob, mut screen] = devices(&host);
    // Who came late sees what is retained.
    for device in [&mut master, &mut ann, &mut bob, &mut screen] {
        assert!(device.subscribe(&topic(&session, "stage"), 1));
    }
    stage(&mut screen, &session, is("lobby"));
    // Everybody has what the role needs, and no more.
    let own = |client: &str| topic(&session, &format!("to/{client}/#"));
    assert!(master.subscribe(&own("k3v1n"), 1) && bob.subscribe(&own("bob"), 1));
    assert!(!ann.subscribe(&own("bob"), 1) && !screen.subscribe(&topic(&session, "#"), 1) && !ann.subscribe(&topic(&session, "buzz"), 1));
    assert!(!screen.publish(&topic(&session, "buzz"), "", 1, false) && !bob.publish(&topic(&session, "judge"), "true", 1, false));

    let questions = json!([{ "question": "2 + 2?", "solution": "4", "points": 2 }, { "question": "H2O?", "solution": "water" }]);
    let started = host.request(&session, "start", json!({ "questions": questions }));
    assert_eq!(started.json(), json!({ "result": 2 }));
    let body = json!({ "pin": session.pin, "client": "eve" }).to_string();
    let late = conductor_tests::request(host.iot, "POST", &format!("/v1/sessions/{}/join", session.id), &[], &body);
    assert_eq!((late.status, &late.json()["detail"]), (403, &json!("the quiz has begun")));

    assert!(bob.publish(&topic(&session, "buzz"), "", 1, false));
    let shown = stage(&mut screen, &session, is("answering"));
    assert_eq!((&shown["player"], &shown["solution"]), (&json!("bob"), &Value::Null));
    assert!(master.publish(&topic(&session, "judge"), "true", 1, false));
    assert_eq!(stage(&mut screen, &session, is("solved"))["scores"], json!({ "ann": 0, "bob": 2 }));
    // Said to one: the quizmaster hears the solution beside what all hear, bob his verdict.
    until("the solution", || (master.heard() == (topic(&session, "to/k3v1n/solution"), "4".into())).then_some(()));
    until("the verdict", || (bob.heard() == (topic(&session, "to/bob/verdict"), "right".into())).then_some(()));
    assert_eq!(host.request(&session, "next", Value::Null).json(), json!({ "result": 1 }));
    stage(&mut screen, &session, is("open"));

    drop((master, ann, bob, screen));
    host.kill();
    host.start_again();
    let [mut master, mut ann, _bob, mut screen] = devices(&host);
    assert!(screen.subscribe(&topic(&session, "stage"), 1));
    let shown = stage(&mut screen, &session, is("open"));
    assert_eq!((&shown["question"], &shown["scores"]), (&json!("H2O?"), &json!({ "ann": 0, "bob": 2 })));
    assert!(ann.publish(&topic(&session, "buzz"), "", 1, false));
    stage(&mut screen, &session, is("answering"));
    assert!(master.publish(&topic(&session, "judge"), "true", 1, false));
    stage(&mut screen, &session, is("solved"));
    assert!(master.publish(&topic(&session, "next"), "", 1, false));
    assert_eq!(stage(&mut screen, &session, is("over"))["scores"], json!({ "ann": 1, "bob": 2 }));
    assert_eq!(host.request(&session, "scores", Value::Null).json(), json!({ "result": { "ann": 1, "bob": 2 } }));
}

/// A key that the config does not know is told when the host starts.
#[test]
fn a_mistake_in_its_config_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let options = HostOptions::default().plugin("quiz", "conductor_quiz").set("types.quiz.config.seconds", json!(5));
    let ended = conductor_tests::host::run_refused(folder.path(), &options);
    assert!(ended.code != Some(0) && ended.stderr.contains("seconds"), "{ended:?}");
}
