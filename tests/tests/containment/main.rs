//! Whatever a plugin does: its other sessions and those of other plugins are answered, the fault is visible, and nothing stays behind.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

mod stage;
mod turns;
mod waits;

use std::time::{Duration, Instant};

use conductor_tests::{
    Host, HostOptions, Session, Version, Way, http,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

use self::stage::{CLOSED, FAILED, FAULTED, LATE, Seen, Stage, play};

#[test]
fn what_goes_wrong_in_a_request_or_a_task_concerns_its_session_alone() {
    let stage = Stage::start(HostOptions::default());
    let dropped = Seen { logged: "dropping failed", counter: "error_lines_total", ..FAILED };
    let in_task = Seen { logged: "a task of the conductor failed", ..FAILED };
    for (method, status, seen) in [
        ("panic", 502, &FAULTED),
        ("panic_later", 502, &FAULTED),
        ("panic_in_task", 200, &FAULTED),
        ("panic_in_drop", 504, &dropped),
        ("fail", 500, &FAILED),
        ("fail_in_task", 200, &in_task),
        ("hang", 504, &LATE),
    ] {
        play(&stage, "faulty", method, seen, |host, session| {
            let answer = host.request(session, method, Value::Null);
            assert_eq!(answer.status, status, "{method}: {answer:?}");
        });
    }
    for method in ["panic", "fail"] {
        let words = if method == "panic" { "the conductor is faulted" } else { "the conductor failed" };
        assert!(stage.host.log().contains(words));
    }
    assert_eq!(stage.metric("threads_blocked", "faulty") + stage.metric("tasks", "faulty"), 0);
}

#[test]
fn what_goes_wrong_in_a_hook_concerns_its_session_alone() {
    let stage = Stage::start(HostOptions::default());
    let order = |host: &Host, session: &Session, at: &str, fault: &str| {
        let answer = host.request(session, "order", json!({ "at": at, "fault": fault }));
        assert_eq!(answer.status, 200, "{at}: {answer:?}");
    };
    for (fault, seen) in [("panic", &FAULTED), ("error", &FAILED)] {
        for hook in ["joining", "left", "connected", "disconnected", "message", "timer", "request"] {
            play(&stage, "hooked", &format!("{fault} in {hook}"), seen, |host, session| {
                // Who is in before can come and go.
                let mut device = device(host, session, "a", Version::V5, Way::Tcp);
                order(host, session, hook, fault);
                match hook {
                    "joining" => {
                        let body = json!({ "pin": session.pin, "client": "b" }).to_string();
                        let answer = http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &body);
                        assert_eq!(answer.status, if fault == "panic" { 502 } else { 500 }, "{answer:?}");
                    }
                    "left" => {
                        let path = format!("/v1/sessions/{}/clients/a", session.id);
                        assert_eq!(conductor_tests::request(host.admin, "DELETE", &path, &[], "").status, 204);
                    }
                    "connected" => drop(self::device(host, session, "b", Version::V5, Way::Tcp)),
                    "disconnected" => device.disconnect(),
                    "message" => assert!(device.publish(&topic(session, "m"), "", 1, false)),
                    "request" => assert!(host.request(session, "fine", Value::Null).status >= 500),
                    _ => {}
                }
            });
        }
        let closing = if fault == "panic" { Seen { state: "", ..FAULTED } } else { CLOSED };
        play(&stage, "hooked", &format!("{fault} in close"), &closing, |host, session| {
            order(host, session, "close", fault);
            assert_eq!(host.close(session), "Success");
        });
    }
    let dropped = Seen { logged: "dropping failed", counter: "error_lines_total", ..CLOSED };
    play(&stage, "hooked", "panic in drop", &dropped, |host, session| {
        order(host, session, "drop", "panic");
        assert_eq!(host.close(session), "Success");
    });
    play(&stage, "hooked", "hang in message", &Seen { logged: "the conductor failed", ..LATE }, |host, session| {
        let mut device = device(host, session, "a", Version::V5, Way::Tcp);
        order(host, session, "message", "hang");
        assert!(device.publish(&topic(session, "m"), "", 1, false));
    });
}

#[test]
fn what_goes_wrong_when_a_session_is_made_or_made_again_is_told() {
    let mut options = HostOptions::default();
    for place in ["create", "refuse"] {
        options = options.plugin(place, "conductor_test_faulty").set(&format!("types.{place}.conductor"), json!("faulty"));
        options = options.set(&format!("types.{place}.config.at"), json!(place));
    }
    let mut stage = Stage::start(options);
    for (place, status, counter) in [("create", 502, "faults_total"), ("refuse", 503, "errors_total")] {
        assert_eq!(http::post(stage.host.admin, "/v1/sessions", &json!({ "type": place }).to_string()).status, status);
        assert_eq!(stage.metric(counter, place), 1);
    }
    let restored = ["panic", "error"].map(|fault| {
        let session = stage.host.create("hooked");
        assert_eq!(stage.host.request(&session, "order", json!({ "at": "restore", "fault": fault })).status, 200);
        (session, fault)
    });
    stage.host.stop();
    stage.host.start_again();
    for (session, fault) in &restored {
        let (words, counter) = if *fault == "panic" { ("in restore", "faults_total") } else { ("restore said no", "errors_total") };
        let shown = until("it is parked", || Some(stage.host.show(session).json()).filter(|shown| shown["state"] == "unavailable"));
        assert!(shown["reason"].to_string().contains(words), "{shown}");
        assert_eq!(shown["parked"]["lacks"], "conductor", "{shown}");
        stage.is_logged(session, words);
        // It is tried again now and then.
        assert!(stage.metric(counter, "hooked") >= 1);
    }
    stage.others_are_fine("a restart");
    restored.iter().for_each(|(session, _)| stage.close(session));
}

#[test]
fn answers_that_no_sdk_would_give_are_refused_in_words() {
    let stage = Stage::start(HostOptions::default());
    let session = stage.host.create("raw");
    for (method, status, code, words) in [
        ("not_utf8", 502, "invalid_reply", "is not JSON"),
        ("not_json", 502, "invalid_reply", "is not JSON"),
        ("two_values", 502, "invalid_reply", "is not JSON"),
        ("nothing", 502, "invalid_reply", "is not JSON"),
        ("deep", 502, "invalid_reply", "is not JSON"),
        ("huge", 500, "conductor_error", "104857600 bytes"),
        ("unknown_code", 500, "conductor_error", "of a later version"),
        ("garbage_data", 500, "conductor_error", "with garbage"),
        ("huge_data", 500, "conductor_error", "with much"),
        ("huge_message", 500, "conductor_error", "xxx… (104857600 bytes in all)"),
    ] {
        let before = stage.metric("errors_total", "raw");
        let answer = stage.host.request(&session, method, Value::Null);
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (status, &json!(code)), "{method}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words) && detail.len() < 20_000, "{method}: {} bytes", detail.len());
        assert_eq!(problem["conductor"]["data"], Value::Null);
        assert_eq!(stage.metric("errors_total", "raw"), before + 1, "{method}");
        if !method.starts_with("huge") {
            assert_eq!(stage.host.admin(&format!("/api/conductorRequest?id={}&method={method}", session.id)).status, status, "{method}");
        }
        stage.others_are_fine(method);
    }
    for words in ["is not JSON", "of a later version", "bytes in all"] {
        stage.is_logged(&session, words);
    }
    assert_eq!(stage.host.request(&session, "huge_line", Value::Null).status, 200);
    stage.is_logged(&session, "xxx… (1048576 bytes in all)");
    // Events that it does not know, and calls that the host does not.
    let mut device = device(&stage.host, &session, "a", Version::V5, Way::Tcp);
    assert!(device.publish(&topic(&session, "m"), "", 1, false));
    let codes = stage.host.request(&session, "calls", Value::Null).json();
    let (unsupported, refused) = (-32001, -32004);
    let expected = [[unsupported; 2].as_slice(), &[refused; 11]].concat();
    assert_eq!(codes["result"], json!(expected));
    // Answers to joins.
    for (next, words) in [
        ("huge", "bytes"),
        ("garbage", "cannot be read"),
        ("not_utf8", "cannot be read"),
        ("wrong_type", "cannot be read"),
        ("elsewhere", "is no name"),
        ("long_refusal", "bytes in all"),
    ] {
        assert_eq!(stage.host.request(&session, "next_join", json!(next)).status, 200);
        let body = json!({ "pin": session.pin, "client": next }).to_string();
        let answer = http::post(stage.host.iot, &format!("/v1/sessions/{}/join", session.id), &body);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words) && detail.len() < 20_000, "{next}: {answer:?}");
    }
    assert_eq!(stage.host.clients(&session), ["a"]);
    stage.host.join(&session, "b");
    // Said as a panic, it is one.
    assert_eq!(stage.host.request(&session, "huge_panic", Value::Null).status, 502);
    let shown = stage.host.show(&session).json();
    assert_eq!(shown["state"], "faulted");
    assert!(shown["reason"].as_str().unwrap().len() < 20_000);
    stage.others_are_fine("a huge panic");
    stage.close(&session);
}

#[test]
fn no_name_leads_out_of_a_session() {
    let stage = Stage::start(HostOptions::default());
    let (victim, other) = (stage.host.create("default"), stage.host.create("default"));
    let mut hears = device(&stage.host, &victim, "a", Version::V5, Way::Tcp);
    assert!(hears.subscribe(&topic(&victim, "#"), 1));
    for kind in ["faulty", "raw"] {
        let session = stage.host.create(kind);
        let mut own = device(&stage.host, &session, "a", Version::V5, Way::Tcp);
        assert!(own.subscribe(&topic(&session, "#"), 1));
        let names = [
            format!("/../{}/x", victim.id),
            format!("../{}/x", victim.id),
            format!("/{}/x", victim.id),
            format!("{}/x", victim.id),
            "$SYS/x".to_owned(),
        ];
        for name in &names {
            let params = if kind == "raw" { json!(name) } else { json!({ "name": name }) };
            assert_eq!(stage.host.request(&session, "publish", params).status, 200, "{name}");
            // A name like any other, within its own session.
            assert_eq!(own.heard().0, topic(&session, name));
        }
        for name in ["#", "+", "a/#", "a/+/b", ""] {
            let params = if kind == "raw" { json!(name) } else { json!({ "name": name }) };
            let answer = stage.host.request(&session, "publish", params);
            assert!(answer.status == 500 && answer.json()["conductor"]["code"] == -32004, "{name}: {answer:?}");
        }
    }
    let session = stage.host.create("faulty");
    for client in ["../x", "#", "nobody", &format!("../../{}", victim.id)] {
        let answer = stage.host.request(&session, "publish", json!({ "name": "x", "to": client }));
        assert_eq!(answer.json()["conductor"]["code"], -32004, "{client}: {answer:?}");
    }
    // The first that is heard is its own.
    assert!(hears.publish(&topic(&victim, "own"), "", 1, false));
    assert_eq!(hears.heard().0, topic(&victim, "own"));
    drop(other);
}

#[test]
fn what_lives_on_after_a_session_is_told_that_it_is_closed() {
    let stage = Stage::start(HostOptions::default());
    let session = stage.host.create("raw");
    assert_eq!(stage.host.request(&session, "outlive", Value::Null).status, 200);
    let before = stage.metric("error_lines_total", "raw");
    stage.close(&session);
    let closed = "[-32002, -32002, -32002, -32002, -32002, -32002, -32002, -32002, -32002], a task Err(-32002), the time 0";
    stage.is_logged(&session, closed);
    assert_eq!(stage.metric("error_lines_total", "raw"), before + 1);

    let session = stage.host.create("faulty");
    for method in ["outlive", "wake_late", "wake_late"] {
        assert_eq!(stage.host.request(&session, method, Value::Null).status, 200);
    }
    assert_eq!(stage.host.ask(&session, "woken_abroad", ""), "woken");
    // The threads that look whether the session lives spawn some, too.
    assert!(stage.metric("tasks", "faulty") >= 2);
    stage.close(&session);
    until("the tasks to end", || (stage.metric("tasks", "faulty") == 0).then_some(()));
    let log = || stage.host.log();
    until("the thread", || log().contains(&format!("outlived session {}: 0 clients, a time true, a task false", session.id)).then_some(()));
    until("the wakers", || (log().matches(&format!("woken late, session {}", session.id)).count() == 2).then_some(()));
    stage.others_are_fine("late wakers");
}

#[test]
fn what_a_session_took_is_given_back_when_it_ends() {
    let stage = Stage::start(HostOptions::default().set("types.faulty.deadline", json!("60s")).set("log.level", json!("error")));
    let round = |tasks: usize| {
        let session = stage.host.create("faulty");
        let accepted = stage.host.request(&session, "tasks", json!({ "count": tasks, "wait": true })).json()["result"].clone();
        assert_eq!(accepted, tasks.min(10_000), "{tasks}");
        assert_eq!(stage.metric("tasks", "faulty"), tasks.min(10_000) as u64);
        stage.others_are_fine("tasks");
        stage.close(&session);
        let session = stage.host.create("raw");
        assert_eq!(stage.host.request(&session, "huge", Value::Null).status, 500);
        stage.close(&session);
        until("the tasks to end", || (stage.metric("tasks", "faulty") == 0).then_some(()));
    };
    (0..2).for_each(|_| round(10_500));
    let (memory, threads) = (stage.host.memory(), stage.host.threads());
    // A hundred times what a session may have, at once: the rest is refused.
    round(1_000_000);
    (0..3).for_each(|_| round(10_500));
    // One reply alone is 100 MB.
    let after = stage.host.memory();
    assert!(after < memory + (48 << 20), "{memory} bytes before, {after} after");
    // Idle ones end by themselves; more than the lane of one type never came.
    assert!(stage.host.threads() <= threads + 8, "{threads} threads before, {} after", stage.host.threads());
}

#[test]
fn a_type_whose_threads_stay_blocked_is_quarantined_until_one_comes_back() {
    let options = HostOptions::default().plugin("stuck", "conductor_test_faulty").set("types.stuck.conductor", json!("faulty"));
    let stage = Stage::start(options.set("sessions.quarantine_after", json!("1s")));
    let host = &stage.host;
    let file = host.folder().join("let-go");
    let sessions: Vec<Session> = (0..24).map(|_| host.create("stuck")).collect();
    let spare = host.create("stuck");
    // One of them in an endless loop.
    let asked: Vec<_> = sessions
        .iter()
        .enumerate()
        .map(|(number, session)| stage.ask_and_leave(session, "block_until", json!({ "file": file, "busy": number == 0 })))
        .collect();
    let kind = || {
        let types = host.admin("/v1/types").json();
        types["items"].as_array().unwrap().iter().find(|kind| kind["type"] == "stuck").unwrap().clone()
    };
    let state = |state: &str| until(state, || Some(kind()).filter(|kind| kind["state"] == state));
    let shown = state("quarantined");
    assert!(shown["available"] == false && shown["reason"].as_str().unwrap().contains("blocking all 8 threads"), "{shown}");
    assert_eq!(stage.metric("quarantined", "stuck"), 1);
    // However many block, they get no more than the type's own threads and those that it took before it was found out.
    let blocked = stage.metric("threads_blocked", "stuck");
    assert!((8..24).contains(&blocked), "{blocked}");
    let line = host.log().lines().find(|line| line.contains("the type is quarantined: ")).unwrap().to_owned();
    assert!(line.contains("\"ERROR\"") && line.contains("\"stuck\""), "{line}");
    let ready = host.admin("/readyz").json();
    assert!(ready["status"] == "degraded" && ready["parts"]["plugins"]["reason"].as_str().unwrap().contains("quarantined"), "{ready}");

    let started = Instant::now();
    let new = http::post(host.admin, "/v1/sessions", "{\"type\": \"stuck\"}");
    for refused in [new, host.request(&spare, "fine", Value::Null), host.request(&sessions[0], "fine", Value::Null)] {
        assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("type_quarantined")), "{refused:?}");
        assert!(refused.header("retry-after").is_some());
    }
    assert!(started.elapsed() < Duration::from_millis(900), "at once, not at the deadline");
    stage.others_are_fine("a quarantine");
    // Without a `joining` hook, joins go on; and a close ends a session whatever its conductor does.
    host.join(&spare, "a");
    for session in [&sessions[0], &spare] {
        let started = Instant::now();
        stage.close(session);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    std::fs::write(&file, "").unwrap();
    state("available");
    until("the line", || host.log().contains("quarantined no more").then_some(()));
    assert_eq!(stage.metric("quarantined", "stuck"), 0);
    for session in &sessions[1..] {
        until("a session that was blocked", || (host.ask(session, "fine", "") == "fine").then_some(()));
    }
    host.create("stuck");
    until("the threads", || (stage.metric("threads_blocked", "stuck") == 0).then_some(()));
    assert_eq!(host.admin("/readyz").json()["status"], "ready");
    drop(asked);
}
