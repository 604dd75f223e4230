//! Limits that must hold, and limits of the library that must not.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use conductor_host::broker::{Broker, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    raw::{Connect, Raw, connect, lasting},
    support::{Host, id, soon, until},
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
    for limits in [
        Limits { connections: 2, ..few.clone() },
        Limits { opening: 2, ..few.clone() },
        Limits { per_source: 2, ..few.clone() },
        Limits { opening_per_source: 2, ..few.clone() },
    ] {
        let host = Host::with(limits.clone()).await;
        let first = Raw::open(host.tcp).await;
        let mut second = Raw::open(host.tcp).await;
        let mut third = Raw::open(host.tcp).await;
        assert_eq!(third.packet().await, None, "{limits:?}");
        let mut web = TcpStream::connect(host.websocket).await.unwrap();
        assert!(matches!(web.read(&mut [0]).await, Ok(0) | Err(_)), "the WebSocket port counts too");
        if limits.opening == 2 || limits.opening_per_source == 2 {
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

/// Every address of 127/8 reaches the host.
async fn from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.connect(address).await.unwrap()
}

async fn is_let_in(stream: &mut TcpStream) {
    stream.write_all(&connect(4, "1:b").bytes()).await.unwrap();
    let mut connack = [0; 4];
    soon("CONNACK", stream.read_exact(&mut connack)).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn two_sources_that_say_nothing_shut_out_nobody_else() {
    let limits = Limits { opening: 8, opening_per_source: 3, connect_time: Duration::from_secs(60), ..Limits::default() };
    let host = Host::with(limits).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        for source in ["127.0.0.2", "127.0.0.3"] {
            silent.push(from(source, host.tcp).await);
            silent.push(from(source, host.websocket).await);
        }
    }
    is_let_in(&mut from("127.0.0.4", host.tcp).await).await;
}

#[tokio::test]
async fn those_that_connect_too_often_and_say_nothing_shut_out_nobody_else() {
    let limits =
        Limits { opening: 2, connects_burst: 1, connects_per_minute: 1, connect_time: Duration::from_secs(60), ..Limits::default() };
    let host = Host::with(limits).await;
    let mut silent = Vec::new();
    for _ in 0..65 {
        silent.push(from("127.0.0.2", host.tcp).await);
    }
    let mut beyond = from("127.0.0.2", host.tcp).await;
    let end = soon("the end of the one beyond", beyond.read(&mut [0])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "closed at once");
    is_let_in(&mut from("127.0.0.3", host.tcp).await).await;
}

#[tokio::test]
async fn a_websocket_that_does_not_ask_for_an_upgrade_is_closed() {
    let host = Host::with(Limits { connect_time: Duration::from_millis(300), ..Limits::default() }).await;
    let started = Instant::now();
    let mut idle = TcpStream::connect(host.websocket).await.unwrap();
    let mut answer = String::new();
    idle.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(3));

    let host = Host::with(Limits { connect_time: Duration::from_secs(60), ..Limits::default() }).await;
    let mut asks = TcpStream::connect(host.websocket).await.unwrap();
    asks.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    answer.clear();
    soon("the end of a plain request", asks.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// The end of the head that answers an upgrade is where frames begin.
async fn upgraded(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(UPGRADE).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the answer", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The head of a binary message that is `length` long, with a mask that changes nothing.
fn frame(length: usize) -> Vec<u8> {
    [&[0x82, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test]
async fn what_a_websocket_may_send_before_connect_is_a_short_head_and_a_message_of_bounded_length() {
    let limits = Limits { connect_time: Duration::from_secs(60), ..Limits::default() };
    let host = Host::with(limits.clone()).await;
    let mut head = TcpStream::connect(host.websocket).await.unwrap();
    head.write_all(&[b"GET /mqtt HTTP/1.1\r\nX: ", &[b'x'; 20_000][..]].concat()).await.unwrap();
    let mut answer = [0; 12];
    soon("431", head.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");

    let longest = limits.connect_bytes + limits.packet_bytes;
    for _ in 0..20 {
        let mut half = upgraded(host.websocket).await;
        half.write_all(&frame(longest + 1)).await.unwrap();
        let _what_it_says = soon("the end", half.read_to_end(&mut Vec::new())).await;
    }

    let mut whole = upgraded(host.websocket).await;
    let publish = super::raw::packet(0x32, &[&super::raw::text("/1/x")[..], &[0, 1], &vec![b'x'; limits.packet_bytes - 12]].concat());
    assert_eq!(publish.len(), limits.packet_bytes);
    let message = [connect(4, "1:dev").bytes(), publish].concat();
    whole.write_all(&[frame(message.len()), message].concat()).await.unwrap();
    let mut answers = [0; 12];
    soon("CONNACK and PUBACK", whole.read_exact(&mut answers)).await.unwrap();
    assert_eq!(answers, [0x82, 4, 0x20, 2, 0, 0, 0x82, 4, 0x40, 2, 0, 1]);
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
    let mut web = TcpStream::connect(host.websocket).await.unwrap();
    web.write_all(UPGRADE).await.unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 5"), "{answer}");
    is_let_in(&mut from("127.0.0.9", host.tcp).await).await;
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
