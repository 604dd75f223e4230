//! Hooks that never end and hooks that block their thread, in many sessions of one type at once.

use std::{path::Path, thread};

use conductor_tests::{
    HostOptions, Mqtt, Session, Version, Way, http,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

use super::stage::Stage;

const HOOKS: [&str; 5] = ["joining", "message", "timer", "request", "close"];

/// A session that will not answer one of its events.
struct Waits {
    session: Session,
    hook: &'static str,
    /// Is in the session already.
    device: Mqtt,
    blocks: bool,
}

impl Waits {
    fn new(stage: &Stage, hook: &'static str, blocked_until: Option<&Path>) -> Self {
        let session = stage.host.create("hooked");
        let device = device(&stage.host, &session, "a", Version::V5, Way::Tcp);
        let fault = blocked_until.map_or(json!("hang"), |file| json!({ "block": file }));
        let answer = stage.host.request(&session, "order", json!({ "at": hook, "fault": fault }));
        assert_eq!(answer.status, 200, "{hook}: {answer:?}");
        Self { session, hook, device, blocks: blocked_until.is_some() }
    }

    /// What makes it wait; until somebody is told, where somebody is.
    fn happen(&mut self, stage: &Stage) {
        let (host, session) = (&stage.host, &self.session);
        match self.hook {
            "joining" => {
                let body = json!({ "pin": session.pin, "client": "b" }).to_string();
                let answer = http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &body);
                assert_eq!((answer.status, &answer.json()["code"]), (504, &json!("deadline")), "{answer:?}");
            }
            "message" => assert!(self.device.publish(&topic(session, "m"), "", 1, false)),
            "request" => assert_eq!(host.request(session, "fine", Value::Null).status, 504),
            "close" => assert_eq!(host.close(session), "Success"),
            // The order set it.
            _ => {}
        }
    }
}

#[test]
fn a_hook_that_never_ends_or_blocks_its_thread_concerns_its_session_alone() {
    // No longer than the ends of sessions take.
    let stage = Stage::start(HostOptions::default().set("types.hooked.deadline", json!("2s")));
    let host = &stage.host;
    let file = host.folder().join("let-go");
    let missed = || stage.metric("deadlines_missed_total", "hooked");
    let mut all: Vec<Waits> = HOOKS.map(|hook| Waits::new(&stage, hook, None)).into();
    all.extend(HOOKS.map(|hook| Waits::new(&stage, hook, Some(&file))));
    thread::scope(|scope| {
        let waiting: Vec<_> = all.iter_mut().map(|waits| scope.spawn(|| waits.happen(&stage))).collect();
        until("the blocked threads", || (stage.metric("threads_blocked", "hooked") == HOOKS.len() as u64).then_some(()));
        // The ends of sessions take longest: 10 s.
        let rounds = (0..20).take_while(|_| {
            stage.others_are_fine("hooks that wait");
            waiting.iter().any(|waiting| !waiting.is_finished())
        });
        assert!(rounds.count() > 0, "others were answered while these waited");
    });
    // Of those that block, the three that are asked for an answer at least.
    until("the deadlines", || (missed() >= HOOKS.len() as u64 + 3).then_some(()));
    for Waits { session, hook, blocks, .. } in &all {
        let words = match (*hook, blocks) {
            ("message", false) => "the conductor failed",
            ("timer", false) => "the conductor failed at a timer",
            ("message" | "timer", true) => continue,
            _ => "the conductor did not answer within its deadline",
        };
        stage.is_logged(session, words);
    }
    assert!(host.log().contains("the conductor blocks its thread; the session runs apart from now on"));
    stage.others_are_fine("their deadlines");
    assert_eq!(stage.metric("faults_total", "hooked"), 0);

    // What only waits is given up; what blocks keeps its thread, and the end of its session waits for nobody.
    for Waits { session, hook, blocks, .. } in &all {
        let shown = host.show(session);
        if *hook == "close" {
            assert_eq!(shown.status, 404);
            stage.is_logged(session, "the conductor did not close well");
            continue;
        }
        assert_eq!((&shown.json()["state"], &shown.json()["reason"]), (&json!("live"), &json!(null)), "{hook}");
        // One of those that block is enough: each takes its deadline.
        if !blocks || *hook == "message" {
            assert_eq!(host.request(session, "fine", Value::Null).status, if *blocks { 504 } else { 200 }, "{hook}");
        }
        assert_eq!(host.clients(session), ["a"], "{hook}");
    }
    assert_eq!(stage.metric("threads_blocked", "hooked"), HOOKS.len() as u64);
    std::fs::write(&file, "").unwrap();
    for Waits { session, .. } in all.iter().filter(|waits| waits.hook != "close") {
        until("a session that was blocked", || (host.request(session, "fine", Value::Null).status == 200).then_some(()));
        stage.close(session);
    }
    until("the threads", || (stage.metric("threads_blocked", "hooked") == 0).then_some(()));
}
