//! Limits that must hold, and limits of the library that must not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use conductor_host::broker::{Broker, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    raw::{Connect, Raw, connect, lasting},
    support::{Host, id, until},
};

#[tokio::test]
async fn a_burst_of_two_thousand_arrives_whole() {
    let mut host = Host::start().await;
    let mut listener = Raw::connect(host.tcp, &connect(4, "1:listener")).await;
    assert_eq!(listener.subscribe("/1/burst", 0).await, 0);
    let mut sender = Raw::connect(host.tcp, &connect(4, "1:sender")).await;
    // Long enough that the sockets' buffers do not take it, while the listener does not read.
    let one = super::raw::packet(0x30, &[&super::raw::text("/1/burst")[..], &[b'x'; 10_000]].concat());
    for _ in 0..2_000 {
        sender.send(&one).await;
    }
    sender.publish_and_wait("/1/other", "").await;
    for _ in 0..2_000 {
        listener.message().await;
    }
    let told = host.messages_so_far();
    assert_eq!(told.len(), 2_001, "and is told whole: the library's own limit is 1,000 in a minute");
}

#[tokio::test]
async fn acknowledged_messages_are_not_throttled() {
    let mut host = Host::start().await;
    let mut listener = Raw::connect(host.tcp, &connect(5, "1:listener")).await;
    assert_eq!(listener.subscribe("/1/#", 1).await, 1);
    let mut sender = Raw::connect(host.tcp, &connect(5, "1:sender")).await;
    for n in 0..1_500_u16 {
        sender.publish(2, n + 1, "/1/x", b"x").await;
        assert_eq!(sender.packet().await.unwrap().get(4), None, "no reason code, so no refusal");
        listener.message().await;
    }
    assert_eq!(host.messages_so_far().len(), 1_500);
}

#[tokio::test]
async fn retained_messages_are_limited() {
    let limits = Limits { retained_messages: 2, retained_bytes: 10, ..Limits::default() };
    let mut host = Host::with(limits).await;
    let mut five = Raw::connect(host.tcp, &connect(5, "1:five")).await;
    for (topic, payload, accepted) in
        [("/1/a", "x", true), ("/1/b", "x", true), ("/1/c", "x", false), ("/1/a", "y", true), ("/1/a", "01234567890", false)]
    {
        five.publish(3, 1, topic, payload.as_bytes()).await;
        let answer = five.packet().await.unwrap();
        assert_eq!(answer.get(4).copied(), (!accepted).then_some(0x97), "{topic} {payload}");
    }
    let mut four = Raw::connect(host.tcp, &connect(4, "1:four")).await;
    four.publish(3, 1, "/1/c", b"x").await;
    assert_eq!(four.packet().await.unwrap(), [0x40, 2, 0, 1]);
    assert_eq!(host.messages_so_far(), ["x", "x", "y"], "what is refused is not told");
    let mut late = Raw::connect(host.tcp, &connect(4, "1:late")).await;
    late.send(&super::raw::packet(0x82, &[&[0, 1][..], &super::raw::text("/1/#"), &[0]].concat())).await;
    let mut kept = [late.message().await, late.message().await];
    kept.sort();
    assert_eq!(kept, [("/1/a".to_owned(), "y".to_owned()), ("/1/b".to_owned(), "x".to_owned())]);
    let full = host.broker.publish(id("1"), "/1/c", Bytes::from_static(b"x"), 0, true).await;
    assert!(full.unwrap_err().to_string().contains("retains 2 messages"));
}

#[tokio::test]
async fn subscriptions_packets_and_queues_are_limited() {
    let limits = Limits { subscriptions: 2, packet_bytes: 1000, queued_messages: 3, ..Limits::default() };
    let mut host = Host::with(limits).await;
    let mut dev = Raw::connect(host.tcp, &lasting(5, "1:dev")).await;
    let granted = [dev.subscribe("/1/a", 1).await, dev.subscribe("/1/b", 1).await, dev.subscribe("/1/c", 1).await];
    assert_eq!(granted, [1, 1, 0x97]);
    dev.publish(0, 0, "/1/a", &[0; 1000]).await;
    dev.last_packets().await;
    while host.presence().await.0 {}
    for n in 0..5 {
        host.broker.publish(id("1"), "/1/a", Bytes::from(n.to_string()), 1, false).await.unwrap();
    }
    let mut dev = Raw::connect(host.tcp, &lasting(5, "1:dev")).await;
    assert_eq!([dev.message().await.1, dev.message().await.1, dev.message().await.1], ["2", "3", "4"], "the oldest gave way");
}

#[tokio::test]
async fn connections_are_limited_in_all_before_connect_and_per_source() {
    let few = Limits { connect_time: Duration::from_secs(60), ..Limits::default() };
    for limits in [Limits { connections: 2, ..few.clone() }, Limits { opening: 2, ..few.clone() }, Limits { per_source: 2, ..few.clone() }]
    {
        let host = Host::with(limits.clone()).await;
        let first = Raw::open(host.tcp).await;
        let mut second = Raw::open(host.tcp).await;
        let mut third = Raw::open(host.tcp).await;
        assert_eq!(third.packet().await, None, "{limits:?}");
        let mut web = tokio::net::TcpStream::connect(host.websocket).await.unwrap();
        assert!(matches!(web.read(&mut [0]).await, Ok(0) | Err(_)), "the WebSocket port counts too");
        if limits.opening == 2 {
            second.send(&connect(4, "1:second").bytes()).await;
            second.packet().await.unwrap();
            Raw::connect(host.tcp, &connect(4, "1:third")).await;
        }
        drop(first);
        let started = Instant::now();
        loop {
            let (_client, connack) = Raw::try_connect_or_reset(host.tcp, &connect(4, "1:fourth")).await;
            if connack.is_some() {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "a place that was left is free: {limits:?}");
        }
    }
}

#[tokio::test]
async fn a_websocket_that_does_not_ask_for_an_upgrade_is_closed() {
    let host = Host::with(Limits { connect_time: Duration::from_millis(300), ..Limits::default() }).await;
    let started = Instant::now();
    let mut idle = tokio::net::TcpStream::connect(host.websocket).await.unwrap();
    let mut answer = String::new();
    idle.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(3));

    let host = Host::with(Limits { connect_time: Duration::from_secs(60), ..Limits::default() }).await;
    let mut asks = tokio::net::TcpStream::connect(host.websocket).await.unwrap();
    asks.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    answer.clear();
    super::support::soon("the end of a plain request", asks.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn a_silent_client_is_dropped_after_its_keep_alive() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 0, false, 0));
    let mut dev = Raw::connect(host.tcp, &Connect { keep_alive: 1, will, ..connect(4, "1:dev") }).await;
    let started = Instant::now();
    dev.last_packets().await;
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(host.messages_so_far(), ["will"]);
    until("nobody", || host.broker.connected(id("1")).unwrap().is_empty()).await;
}

/// The codes of the CONNACKs, of 3.1.1 and of 5.
async fn codes(host: &Host, password: &str) -> [u8; 2] {
    let mut codes = [0; 2];
    for (code, version) in codes.iter_mut().zip([4, 5]) {
        *code = Raw::try_connect(host.tcp, &connect(version, password)).await.1.unwrap()[3];
    }
    codes
}

#[tokio::test]
async fn a_source_that_connects_too_often_is_told_so_where_it_has_shown_a_connect() {
    let host = Host::with(Limits { connects_burst: 2, connects_per_minute: 1, ..Limits::default() }).await;
    assert_eq!(codes(&host, "1:a").await, [0, 0]);
    assert_eq!(codes(&host, "1:a").await, [0x03, 0x9f]);
    let mut web = tokio::net::TcpStream::connect(host.websocket).await.unwrap();
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    web.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 5"), "{answer}");
    // Another source is not held up: every address of 127/8 reaches the host.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(host.tcp).await.unwrap();
    other.write_all(&connect(4, "1:b").bytes()).await.unwrap();
    let mut connack = [0; 4];
    other.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    // An exempt one is held up by nothing.
    let exempt = [conductor_host::networks::network("127.0.0.0/8").unwrap()].into_iter().collect();
    let host = Host::with(Limits { connects_burst: 1, connects_per_minute: 1, exempt, ..Limits::default() }).await;
    assert_eq!((codes(&host, "1:a").await, codes(&host, "1:a").await), ([0, 0], [0, 0]));
}

#[tokio::test]
async fn failed_tokens_are_charged_and_a_good_one_passes_unless_it_can_be_guessed() {
    let host = Host::with(Limits { failures_burst: 4, ..Limits::default() }).await;
    for _ in 0..2 {
        assert_eq!(codes(&host, "no token").await, [0x04, 0x86]);
    }
    assert_eq!(codes(&host, "no token").await, [0x03, 0x9f], "spent: nothing is said of the token");
    assert_eq!(codes(&host, "1:a").await, [0, 0]);
    host.admission.can_be_guessed.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(codes(&host, "1:a").await, [0x03, 0x9f], "a guess is not looked at");
}
