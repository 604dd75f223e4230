//! What a host does when there is too much, or too little room.
#![cfg(target_os = "linux")]

use std::{fs, thread, time::Duration};

use conductor_tests::{
    Host, HostOptions, Response, Version, Way, http,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

fn problem(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{answer:?}");
}

#[test]
fn a_full_mailbox_drops_messages_and_refuses_requests_and_is_free_again() {
    let options = HostOptions::default().plugin("echo", "conductor_test_echo").set("types.echo.deadline", json!("120s"));
    let host = Host::start(options);
    let (session, other) = (host.create("echo"), host.create("echo"));
    let mut sender = device(&host, &session, "sender", Version::V5, Way::Tcp);
    assert!(sender.subscribe(&topic(&session, "waiting"), 0));
    let heard = thread::scope(|scope| {
        let go = host.folder().join("go");
        let waiting = scope.spawn({
            let go = go.clone();
            let (host, session) = (&host, &session);
            move || host.request(session, "wait_for", json!(go))
        });
        assert_eq!(sender.heard().0, topic(&session, "waiting"));
        for number in 0..1500 {
            assert!(sender.publish(&topic(&session, "n"), &number.to_string(), 1, false));
        }
        problem(&host.request(&session, "heard", Value::Null), 503, "overloaded");
        assert_eq!(host.ask(&other, "count", ""), 1, "the other session is asked meanwhile");
        fs::write(go, "").unwrap();
        assert_eq!(waiting.join().unwrap().status, 200);
        until("the mailbox to be empty", || Some(host.request(&session, "heard", Value::Null)).filter(|answer| answer.status == 200))
    });
    let heard: Vec<u64> =
        heard.json()["result"].as_array().unwrap().iter().map(|m| m["payload"].as_str().unwrap().parse().unwrap()).collect();
    assert!(heard.len() >= 1000 && heard.len() < 1500, "{} were heard", heard.len());
    assert!(heard.iter().copied().eq(0..heard.len() as u64), "in order, without a gap");
    until("the count of the dropped", || host.log().contains("a message was dropped").then_some(()));
}

#[test]
fn the_time_in_the_mailbox_counts_for_the_deadline() {
    let options = HostOptions::default().plugin("echo", "conductor_test_echo").set("types.echo.deadline", json!("2s"));
    let host = Host::start(options);
    let session = host.create("echo");
    let mut device = device(&host, &session, "a", Version::V5, Way::Tcp);
    assert!(device.subscribe(&topic(&session, "#"), 1));
    thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| host.request(&session, "wait", json!({"millis": 1500})).status)).collect();
        let mut answers: Vec<u16> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
        answers.sort_unstable();
        assert_eq!(answers[..2], [200, 504], "the second was half done");
        assert!(answers[2..].iter().all(|status| *status == 504), "the others had waited too long: {answers:?}");
    });
    assert_eq!(host.ask(&session, "count", ""), 1, "and the session is free");
    // It says when it begins.
    assert!(device.publish(&topic(&session, "end"), "", 1, false));
    let begun = std::iter::from_fn(|| Some(device.heard().0).filter(|name| *name != topic(&session, "end"))).count();
    // One that came a little later than the second still had that little.
    assert!((2..20).contains(&begun), "{begun} of 20 began");
}

#[test]
fn sessions_cost_no_thread() {
    let host = Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"));
    for session in [host.create("default"), host.create("echo")] {
        host.ask(&session, if host.show(&session).json()["type"] == "echo" { "count" } else { "state" }, "");
    }
    let before = host.threads();
    for _ in 0..100 {
        host.create("default");
        let live = host.create("echo");
        host.ask(&live, "count", "");
    }
    until("only the threads that were there", || (host.threads() <= before).then_some(()));
}

#[test]
fn requests_that_are_too_large_are_told_so() {
    let host = Host::start(HostOptions::default());
    let session = host.create("default");
    let long = "x".repeat(5000);
    let join = json!({"pin": session.pin, "client": long}).to_string();
    problem(&http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &join), 413, "body_too_large");
    assert_eq!(host.join_raw(&join).status, 413);
    let head = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(20 << 10));
    assert_eq!(http::raw(host.iot, head.as_bytes()).status, 431);
    assert_eq!(http::get(host.iot, "/livez").status, 200);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for_long() {
    use std::io::{Read as _, Write as _};
    let host = Host::start(HostOptions::default());
    let mut slow = std::net::TcpStream::connect(host.iot).unwrap();
    slow.write_all(b"POST /api/joinSession HTTP/1.1\r\nHost: x\r\n").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the host closes it before that");
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let host = Host::start(HostOptions::default().set("log.level", json!("error")));
    let mut deaf = std::net::TcpStream::connect(host.iot).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    http::ask_and_never_read(&mut deaf);
}
