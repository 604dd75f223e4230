//! What a conductor keeps over a kill and a restart: its state, and its timers. On every store that lasts.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::time::Instant;

use conductor_tests::{Host, HostOptions, STORES, Session, until};
use serde_json::{Value, json};

fn start(store: &str) -> Host {
    let mut options = HostOptions::default().set("store.url", json!(store));
    for (kind, conductor) in [("t", "lasting"), ("lazy", "lasting_lazy")] {
        options = options.plugin(kind, "conductor_test_versions").set(&format!("types.{kind}.conductor"), json!(conductor));
    }
    Host::start(options)
}

fn ask(host: &Host, session: &Session, method: &str, params: Value) -> Value {
    let answer = host.request(session, method, params);
    assert_eq!(answer.status, 200, "{method}: {answer:?}");
    answer.json()["result"].clone()
}

/// What the conductor was told of since it was made: names and how late in milliseconds.
fn told(host: &Host, session: &Session) -> Vec<(String, u64)> {
    serde_json::from_value(ask(host, session, "told", Value::Null)).unwrap()
}

/// How often a line has all of these words.
fn logged(host: &Host, words: &[&str]) -> usize {
    host.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

#[test]
fn what_was_saved_when_a_request_was_answered_is_there_after_a_kill() {
    for store in STORES {
        let mut host = start(store);
        let [eager, lazy, fresh] = ["t", "lazy", "t"].map(|kind| host.create(kind));
        for value in 1..=5 {
            // The number of its form is the author's.
            for (session, version) in [(&eager, value), (&lazy, u32::MAX)] {
                ask(&host, session, "save", json!([version, value]));
            }
            host.kill();
            host.start_again();
            assert_eq!(ask(&host, &eager, "restored", Value::Null), json!([value, value]), "{store}");
            assert_eq!(ask(&host, &lazy, "restored", Value::Null), json!([u32::MAX, value]), "{store}");
            assert_eq!(ask(&host, &fresh, "restored", Value::Null), Value::Null, "{store}");
        }
    }
}

#[test]
fn timers_fire_after_a_kill_once_and_say_how_late_they_are() {
    for store in STORES {
        let mut host = start(store);
        let [eager, lazy] = ["t", "lazy"].map(|kind| host.create(kind));
        for session in [&eager, &lazy] {
            ask(&host, session, "once", json!(["later", 3_600_000]));
            ask(&host, session, "every", json!(["beat", 250]));
            ask(&host, session, "once", json!(["cancelled", 1_000]));
            ask(&host, session, "cancel", json!("cancelled"));
        }
        let set = Instant::now();
        for session in [&eager, &lazy] {
            ask(&host, session, "once", json!(["overdue", 1_000]));
        }
        host.kill();
        // So long that the one that repeats was due several times.
        until("the timers are overdue", || (set.elapsed().as_millis() > 2_100).then_some(()));
        host.start_again();
        // Also of the lazy one: its timers make its conductor.
        for session in [&eager, &lazy] {
            let words = |name: &str| format!("told {name} late by");
            until("the timers", || {
                let all = ["overdue", "beat"].iter().all(|name| logged(&host, &[&session.id, &words(name)]) > 0);
                all.then_some(())
            });
            assert_eq!(host.show(session).json()["state"], "live");
            until("it beats on", || (told(&host, session).len() >= 4).then_some(()));
            let told = told(&host, session);
            let late = |wanted: &str| told.iter().filter(|(name, _)| name == wanted).map(|(_, late)| *late).collect::<Vec<_>>();
            let most = u64::try_from(set.elapsed().as_millis()).unwrap();
            // The one that fires once counts from when it was due, the other from the last time that it was.
            assert_eq!(late("overdue").len(), 1, "{told:?}");
            assert!((500..most - 1_000).contains(&late("overdue")[0]), "{told:?}");
            assert!(late("beat").len() >= 3 && late("beat").iter().all(|late| *late < most - 1_000), "{told:?}");
            assert!(late("later").is_empty() && late("cancelled").is_empty(), "{told:?}");
        }
        // What was told is told no more.
        until("it is off the disk", || (logged(&host, &["\"timer\":\"overdue\"", "a timer was told"]) == 2).then_some(()));
        host.kill();
        host.start_again();
        for session in [&eager, &lazy] {
            until("a beat", || told(&host, session).iter().any(|(name, _)| name == "beat").then_some(()));
            assert!(told(&host, session).iter().all(|(name, _)| name == "beat"), "{:?}", told(&host, session));
        }
    }
}

#[test]
fn many_timers_of_one_session_are_told_each_once() {
    const MANY: usize = 150;
    for store in STORES {
        let mut host = start(store);
        let session = host.create("t");
        ask(&host, &session, "many", json!([MANY, 1_500]));
        host.kill();
        host.start_again();
        until("all of them", || (told(&host, &session).len() >= MANY).then_some(()));
        let mut names: Vec<_> = told(&host, &session).into_iter().map(|(name, _)| name).collect();
        names.sort();
        let mut expected: Vec<_> = (0..MANY).map(|number| format!("t{number}")).collect();
        expected.sort();
        assert_eq!(names, expected);
    }
}
