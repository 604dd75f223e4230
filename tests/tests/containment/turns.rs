//! Events of one session come one at a time, on threads that are for plugins.

use std::{collections::BTreeSet, thread};

use conductor_tests::{
    Host, HostOptions, Session, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

use super::stage::Stage;

const ASKING: usize = 6;
const SENDING: usize = 2;
const EACH: usize = 25;

fn turns(host: &Host, session: &Session) -> (usize, usize, BTreeSet<String>) {
    serde_json::from_value(host.request(session, "turns", Value::Null).json()["result"].clone()).unwrap()
}

#[test]
fn events_of_a_session_never_overlap_and_run_on_threads_for_plugins() {
    let stage = Stage::start(HostOptions::default().set("types.hooked.deadline", json!("10s")));
    let host = &stage.host;
    let session = host.create("hooked");
    let own: BTreeSet<String> = ["conductors", "slow conductors"].map(str::to_owned).into();
    let crowd = |round: usize| {
        thread::scope(|scope| {
            for number in 0..ASKING {
                let session = &session;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        assert_eq!(host.ask(session, "fine", ""), "fine");
                    }
                    // Joins, comes and goes.
                    device(host, session, &format!("r{round}-{number}"), Version::V5, Way::Tcp).disconnect();
                });
            }
            for number in 0..SENDING {
                let session = &session;
                scope.spawn(move || {
                    let mut device = device(host, session, &format!("s{round}-{number}"), Version::V5, Way::Tcp);
                    for _ in 0..EACH {
                        assert!(device.publish(&topic(session, "m"), "", 1, false));
                    }
                    assert_eq!(host.request(session, "once", json!([format!("t{number}"), 1])).status, 200);
                });
            }
        });
    };
    // Requests, messages, joins, connections, ends of connections, timers.
    let expected = ASKING * (EACH + 3) + SENDING * (EACH + 4);
    crowd(1);
    let (_, overlaps, threads) = until("all events", || Some(turns(host, &session)).filter(|(taken, ..)| *taken >= expected));
    assert_eq!(overlaps, 0);
    assert!(threads.is_subset(&own), "{threads:?}");

    // One that blocked a thread runs on others from then on.
    let file = host.folder().join("let-go");
    let mut blocks = device(host, &session, "b", Version::V5, Way::Tcp);
    assert_eq!(host.request(&session, "order", json!({ "at": "message", "fault": { "block": file } })).status, 200);
    assert!(blocks.publish(&topic(&session, "m"), "", 1, false));
    until("the blocked thread", || (stage.metric("threads_blocked", "hooked") == 1).then_some(()));
    std::fs::write(&file, "").unwrap();
    crowd(2);
    let (_, overlaps, threads) = until("all events", || Some(turns(host, &session)).filter(|(taken, ..)| *taken >= 2 * expected + 3));
    assert_eq!(overlaps, 0);
    assert!(threads.is_subset(&own) && threads.contains("slow conductors"), "{threads:?}");
    blocks.disconnect();
    stage.close(&session);
    let dropped = until("the drop", || host.log().lines().find(|line| line.contains("dropped on a thread")).map(str::to_owned));
    assert!(own.iter().any(|name| dropped.contains(&format!("a thread \\\"{name}\\\""))), "{dropped}");
}
