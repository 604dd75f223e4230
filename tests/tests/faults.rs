//! Plugins that go wrong: one session pays for it, visibly, and no other.
#![cfg(unix)]

use std::time::{Duration, Instant};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Response, Session, Version, Way, http,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// The type `faulty`, and one more for each place where it goes wrong by itself.
const PLACES: [&str; 8] = ["create", "create_later", "refuse", "ghost", "task_first", "hang", "close", "drop"];

fn host() -> Host {
    let mut options = HostOptions::default().plugin("faulty", "conductor_test_faulty").plugin("echo", "conductor_test_echo");
    for place in PLACES {
        let name = format!("faulty_{place}");
        options = options.plugin(&name, "conductor_test_faulty").set(&format!("types.{name}.conductor"), json!("faulty"));
        options = options.set(&format!("types.{name}.config.at"), json!(place));
    }
    Host::start(options.set("sessions.deadline", json!("1s")))
}

fn problem(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    answer.json()
}

fn assert_fine(host: &Host, session: &Session) {
    assert_eq!(host.ask(session, "fine", ""), "fine");
}

#[test]
fn a_panic_in_a_handler_faults_its_session_and_no_other() {
    let host = host();
    let other = host.create("faulty");
    for method in ["panic", "panic_later"] {
        let session = host.create("faulty");
        assert_fine(&host, &session);
        let told = problem(&host.request(&session, method, Value::Null), 502);
        assert!(told.to_string().contains("poll"), "the panic's words are told: {told}");
        // From now on it says so.
        problem(&host.request(&session, "fine", Value::Null), 502);
        assert_fine(&host, &other);
        // Joins go on, and it can be closed.
        host.join(&session, "a");
        assert_eq!(host.close(&session), "Success");
    }
    assert_eq!(host.admin("/readyz").status, 200);
}

#[test]
fn a_panic_in_the_message_hook_faults_the_session_and_its_devices_talk_on() {
    let host = host();
    let session = host.create("faulty");
    let token = host.join(&session, "a");
    let mut a = Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).unwrap();
    assert!(a.subscribe(&format!("/{}/#", session.id), 1));
    for name in ["fail", "fine"] {
        assert!(a.publish(&format!("/{}/{name}", session.id), "", 1, false));
    }
    assert_fine(&host, &session);
    assert!(a.publish(&format!("/{}/panic", session.id), "", 1, false));
    until("the fault", || (host.request(&session, "fine", Value::Null).status == 502).then_some(()));
    assert!(a.publish(&format!("/{}/after", session.id), "", 1, false));
    for name in ["fail", "fine", "panic", "after"] {
        assert_eq!(a.heard().0, format!("/{}/{name}", session.id));
    }
}

#[test]
fn a_create_that_fails_makes_no_session() {
    let host = host();
    for (place, words) in [("create", "in create"), ("create_later", "in create, later"), ("refuse", "create said no")] {
        let answer = http::post(host.admin, "/v1/sessions", &json!({"type": format!("faulty_{place}")}).to_string());
        assert!(answer.status >= 500, "{place}: {answer:?}");
        assert!(problem(&answer, answer.status).to_string().contains(words), "{answer:?}");
        let legacy = host.admin(&format!("/api/createSession?type=faulty_{place}"));
        assert_eq!(legacy.status, answer.status);
    }
    problem(&http::post(host.admin, "/v1/sessions", "{\"type\": \"faulty_hang\"}"), 504);
    assert_eq!(host.admin("/v1/sessions").json()["items"], json!([]));
    assert_fine(&host, &host.create("faulty"));
}

#[test]
fn a_panic_in_close_or_in_a_drop_still_ends_the_session() {
    let host = host();
    for place in ["close", "drop"] {
        let session = host.create(&format!("faulty_{place}"));
        assert_fine(&host, &session);
        assert_eq!(host.close(&session), "Success", "{place}");
        assert_eq!(host.show(&session).status, 404);
    }
    let session = host.create("faulty");
    problem(&host.request(&session, "panic_in_drop", Value::Null), 504);
    // Whether or not that is a fault, it is answered, and the host goes on.
    assert!(matches!(host.request(&session, "fine", Value::Null).status, 200 | 502));
    assert_eq!(host.close(&session), "Success");
    assert_fine(&host, &host.create("faulty"));
}

#[test]
fn a_panic_in_a_task_is_told_in_the_log() {
    let host = host();
    let session = host.create("faulty");
    assert_eq!(host.request(&session, "panic_in_task", Value::Null).status, 200);
    until("the log to tell", || host.log().contains("in a task").then_some(()));
    let told = until("the fault", || Some(host.request(&session, "fine", Value::Null)).filter(|answer| answer.status != 200));
    assert!(problem(&told, 502).to_string().contains("in a task"), "{told:?}");
    assert_eq!(host.show(&session).json()["state"], "faulted");
    assert_fine(&host, &host.create("faulty"));
}

#[test]
fn an_error_of_a_handler_is_told_and_the_session_goes_on() {
    let host = host();
    let session = host.create("faulty");
    let answer = host.request(&session, "fail", Value::Null);
    assert!(answer.status >= 400, "{answer:?}");
    assert!(problem(&answer, answer.status).to_string().contains("the handler said no"), "{answer:?}");
    assert_fine(&host, &session);
}

#[test]
fn a_handler_that_takes_too_long_is_504_and_its_session_is_free_again() {
    let host = host();
    let session = host.create("faulty");
    let started = Instant::now();
    problem(&host.request(&session, "hang", Value::Null), 504);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_fine(&host, &session);
}

#[test]
fn while_conductors_block_their_threads_the_others_are_asked() {
    let host = host();
    let (blocked, other) = (std::array::from_fn::<_, 16, _>(|_| host.create("faulty")), host.create("default"));
    let slowest = std::thread::scope(|scope| {
        let blockers: Vec<_> =
            blocked.iter().map(|session| scope.spawn(|| host.request(session, "block", json!({"millis": 3000})).status)).collect();
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let started = Instant::now();
            assert_eq!(host.ask(&other, "state", ""), "State");
            slowest = slowest.max(started.elapsed());
        }
        // The deadline is 1 s: their callers are told, whatever the threads do.
        for blocker in blockers {
            let status = blocker.join().unwrap();
            assert!(matches!(status, 503 | 504), "{status}");
        }
        slowest
    });
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Once they let go, they answer again.
    for session in &blocked {
        until("a session that blocked", || (host.ask(session, "fine", "") == "fine").then_some(()));
    }
}

#[test]
fn one_session_is_asked_one_thing_at_a_time() {
    let host = host();
    // Short enough not to be taken for stuck, long enough to meet if they could.
    let session = host.create("faulty");
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let asks = || (0..10).map(|_| host.request(&session, "block", json!({"millis": 3})).status).collect::<Vec<_>>();
                scope.spawn(asks)
            })
            .collect();
        for answers in asked {
            assert_eq!(answers.join().unwrap(), [200; 10]);
        }
    });
    let counting = host.create("echo");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| host.ask(&counting, "count", "").as_u64().unwrap())).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let mut sorted = answers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=8).collect::<Vec<u64>>(), "{answers:?}");
}

#[test]
fn the_tasks_of_a_session_end_with_it_whatever_they_do() {
    let host = host();
    let (closed, faulted) = (host.create("faulty"), host.create("faulty"));
    for session in [&closed, &faulted] {
        assert_eq!(host.request(session, "stubborn", Value::Null).status, 200);
    }
    let gone = |count: usize| host.log().matches("a stubborn task is gone").count() == count;
    assert_eq!(host.close(&closed), "Success");
    until("the task of the closed session to end", || gone(1).then_some(()));
    problem(&host.request(&faulted, "panic", Value::Null), 502);
    until("the task of the faulted session to end", || gone(2).then_some(()));
}

#[test]
fn a_panic_of_a_task_of_create_is_a_fault_of_create() {
    let host = host();
    let answer = http::post(host.admin, "/v1/sessions", "{\"type\": \"faulty_task_first\"}");
    assert!(problem(&answer, 502).to_string().contains("in a task"), "{answer:?}");
    assert_eq!(host.admin("/v1/sessions").json()["items"], json!([]));
}

#[test]
fn a_task_that_is_woken_at_any_moment_goes_on() {
    let host = host();
    let session = host.create("faulty");
    let mut device = device(&host, &session, "a", Version::V5, Way::Tcp);
    assert!(device.subscribe(&topic(&session, "#"), 0));
    assert_eq!(host.request(&session, "storm", Value::Null).status, 200);
    assert_eq!(device.heard().0, topic(&session, "survived"));
}

#[test]
fn nothing_is_left_of_a_session_that_never_was() {
    // Of 10,000 ids, a good part is used up by creations that fail after they have published.
    let options = HostOptions::default().plugin("ghost", "conductor_test_faulty").set("sessions.id_digits", json!(4));
    let options = options.set("types.ghost.conductor", json!("faulty")).set("types.ghost.config.at", json!("ghost"));
    let host = Host::start(options.set("log.level", json!("error")));
    for _ in 0..1500 {
        assert_eq!(http::post(host.admin, "/v1/sessions", "{\"type\": \"ghost\"}").status, 503);
    }
    for _ in 0..60 {
        let session = host.create("default");
        let mut device = device(&host, &session, "a", Version::V5, Way::Tcp);
        assert!(device.subscribe(&topic(&session, "#"), 1));
        assert!(device.publish(&topic(&session, "own"), "", 1, false));
        assert_eq!(device.heard().0, topic(&session, "own"), "the first that is heard is one's own");
        device.disconnect();
    }
}

#[test]
fn a_create_that_hangs_after_a_restart_is_given_up_at_its_deadline() {
    let faulty = |at: &str| {
        let options = HostOptions::default().plugin("faulty", "conductor_test_faulty").set("sessions.deadline", json!("1s"));
        options.set("types.faulty.config.at", json!(at))
    };
    let mut host = Host::start(faulty("nowhere"));
    let session = host.create("faulty");
    host.stop();
    host.start_again_with(faulty("hang"));
    let given_up = |host: &Host| host.log().matches("\"event\":\"make\"").count();
    until("the making to be given up", || (given_up(&host) == 1).then_some(()));
    // The session is parked, and says why, until the host tries again by itself; it can be closed meanwhile.
    let told = host.request(&session, "fine", Value::Null);
    problem(&told, 503);
    assert!(told.body.contains("it was not made within its deadline"), "{told:?}");
    assert_eq!(host.close(&session), "Success");
}
