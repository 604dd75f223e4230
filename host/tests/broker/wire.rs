//! What goes over the wire: CONNACK by the table, refusals and acknowledgements byte by byte.

use std::time::{Duration, Instant};

use conductor_host::broker::{Broker, Limits};

use super::{
    raw::{ACCEPTED_4, Connect, Raw, connect, lasting, packet, text},
    support::{Host, Told, id, soon},
};

/// The CONNACK, after which the connection must end.
async fn refused(host: &Host, connect: &Connect<'_>) -> Vec<u8> {
    let (mut client, connack) = Raw::try_connect(host.tcp, connect).await;
    assert_eq!(client.packet().await, None);
    connack.unwrap()
}

#[tokio::test]
async fn the_connack_table() {
    let mut host = Host::with(Limits { failures_burst: 1000, ..Limits::default() }).await;
    for (version, bad, forbidden) in
        [(4, vec![0x20, 2, 0, 4], vec![0x20, 2, 0, 5]), (5, vec![0x20, 3, 0, 0x86, 0], vec![0x20, 3, 0, 0x87, 0])]
    {
        assert_eq!(refused(&host, &connect(version, "no token")).await, bad);
        assert_eq!(refused(&host, &Connect { client: "b", ..connect(version, "1:a") }).await, bad, "another client's id");
        for topic in ["/2/gone", "/#", "gone", "$SYS/gone", "/1"] {
            let will = Some((topic, "x", 1, false, 0));
            assert_eq!(refused(&host, &Connect { will, ..connect(version, "1:a") }).await, forbidden, "{topic}");
        }
        *host.admission.lifetime.lock().unwrap() = Duration::ZERO;
        assert_eq!(refused(&host, &connect(version, "1:a")).await, bad, "expired");
        *host.admission.lifetime.lock().unwrap() = Duration::from_secs(60);
    }
    assert_eq!(refused(&host, &Connect { version: 3, ..connect(4, "1:a") }).await, [0x20, 2, 0, 1]);
    assert_eq!(refused(&host, &Connect { version: 6, ..connect(4, "1:a") }).await, [0x20, 3, 0, 0x84, 0]);
    let mut older = Raw::open(host.tcp).await;
    older.send(&packet(0x10, &[&text("MQIsdp")[..], &[3, 2, 0, 60], &text("a")].concat())).await;
    assert_eq!(older.last_packets().await, [[0x20, 2, 0, 1]]);
    assert_eq!(refused(&host, &Connect { client: "", clean: false, ..connect(4, "1:a") }).await, [0x20, 2, 0, 2], "no id to come back to");
    let scram = [&[0x15][..], &text("SCRAM")].concat();
    assert_eq!(refused(&host, &Connect { properties: scram, ..connect(5, "1:a") }).await[3], 0x8c);
    assert!(host.so_far().is_empty(), "a refused client was never there");
    assert_eq!(Raw::try_connect(host.tcp, &connect(4, "1:a")).await.1.unwrap(), ACCEPTED_4);
}

#[tokio::test]
async fn garbage_and_silence_are_closed_without_a_word() {
    let host = Host::with(Limits { connect_time: Duration::from_millis(300), ..Limits::default() }).await;
    let too_long = packet(0x10, &[0; 16 * 1024 + 1]);
    let publish_first = packet(0x30, &[&text("/1/a")[..], b"x"].concat());
    let unfinished = &connect(4, "1:a").bytes()[..10];
    for garbage in [b"GET / HTTP/1.1\r\n\r\n", &too_long[..], &publish_first, unfinished, &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff], &[]] {
        let started = Instant::now();
        let mut client = Raw::open(host.tcp).await;
        client.send(garbage).await;
        assert_eq!(client.packet().await, None);
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    // A token and will of 16 kB still pass.
    let payload = "x".repeat(15 * 1024);
    Raw::connect(host.tcp, &Connect { will: Some(("/1/gone", &payload, 0, false, 0)), ..connect(4, "1:a") }).await;
}

#[tokio::test]
async fn a_client_without_an_id_gets_the_admitted_one() {
    let mut host = Host::start().await;
    Raw::connect(host.tcp, &Connect { client: "", ..connect(4, "1:four") }).await;
    assert_eq!(host.presence().await, (true, "four".to_owned()));
    for clean in [true, false] {
        let (_client, connack) = Raw::try_connect(host.tcp, &Connect { client: "", clean, ..connect(5, "1:five") }).await;
        let assigned = [&[0x12][..], &text("five")].concat();
        assert!(connack.unwrap().windows(assigned.len()).any(|part| part == assigned));
    }
}

#[tokio::test]
async fn every_name_that_a_client_may_have_can_connect() {
    let mut host = Host::start().await;
    for name in [".", "..", "cert:7", "späce unit", "客户端", "a:b", "%2E", "auto-1"] {
        let password = format!("1:{name}");
        let mut client = Raw::connect(host.tcp, &Connect { client: name, ..connect(4, &password) }).await;
        client.publish_and_wait("/1/hello", name).await;
        assert_eq!(host.message().await.client_id.as_deref(), Some(name));
    }
}

#[tokio::test]
async fn what_is_sent_right_behind_connect_is_not_lost() {
    let host = Host::start().await;
    let mut client = Raw::open(host.tcp).await;
    let subscribe = packet(0x82, &[&[0, 1][..], &text("/1/a"), &[0]].concat());
    let publish = packet(0x30, &[&text("/1/a")[..], b"early"].concat());
    client.send(&[connect(4, "1:a").bytes(), subscribe, publish].concat()).await;
    assert_eq!(client.packet().await.unwrap(), ACCEPTED_4);
    assert_eq!(client.message().await, ("/1/a".to_owned(), "early".to_owned()));
}

#[tokio::test]
async fn a_refused_client_that_sent_more_still_gets_its_answer() {
    let host = Host::start().await;
    for _ in 0..5 {
        let mut client = Raw::open(host.tcp).await;
        client.send(&[connect(4, "no token").bytes(), vec![0x30; 4000]].concat()).await;
        assert_eq!(client.packet().await.unwrap(), [0x20, 2, 0, 4]);
        // It was not reset: that would throw away an answer that is still on its way.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            client.send(&[0]).await;
        }
    }
}

#[tokio::test]
async fn denied_publishes_are_acknowledged_in_the_clients_version_and_dropped() {
    let mut host = Host::start().await;
    let mut four = Raw::connect(host.tcp, &connect(4, "1:four")).await;
    four.publish(2, 5, "/2/x", b"").await;
    assert_eq!(four.packet().await.unwrap(), [0x40, 2, 0, 5]);
    four.publish(4, 6, "/2/x", b"").await;
    assert_eq!(four.packet().await.unwrap(), [0x50, 2, 0, 6]);
    four.send(&[0x62, 2, 0, 6]).await;
    assert_eq!(four.packet().await.unwrap(), [0x70, 2, 0, 6]);
    four.publish(0, 0, "/2/x", b"").await;
    four.publish_and_wait("/1/x", "the link lives").await;
    assert_eq!(host.message().await.payload, "the link lives");

    let mut five = Raw::connect(host.tcp, &connect(5, "1:five")).await;
    for (flags, first) in [(2, 0x40), (4, 0x50)] {
        five.publish(flags, 7, "/2/x", b"").await;
        let answer = five.packet().await.unwrap();
        assert_eq!((answer[0], &answer[2..5]), (first, &[0, 7, 0x87][..]));
    }
    five.publish_and_wait("/1/x", "this one too").await;
    assert_eq!(host.message().await.payload, "this one too");
}

#[tokio::test]
async fn a_take_over_is_one_client_all_along() {
    let mut host = Host::start().await;
    for (version, last) in [(4, vec![]), (5, vec![vec![0xe0, 1, 0x8e]])] {
        let password = format!("1:{version}");
        let mut old = Raw::connect(host.tcp, &connect(version, &password)).await;
        let mut new = Raw::connect(host.tcp, &connect(version, &password)).await;
        let seen: Vec<_> = old
            .last_packets()
            .await
            .iter()
            .map(|packet| packet[..3].to_vec())
            .map(|mut p| {
                p[1] = 1;
                p
            })
            .collect();
        assert_eq!(seen, last, "3.1.1 sees a bare close");
        new.publish_and_wait("/1/x", "").await;
        let presence = [host.presence().await, host.presence().await];
        assert_eq!(presence.map(|(here, _)| here), [true, true], "no going in between");
        assert!(host.so_far().iter().all(|told| matches!(told, Told::Message(_))));
        assert_eq!(host.broker.connected(id("1")).unwrap().len(), 1);
        new.send(&[0xe0, 0]).await;
        assert!(!host.presence().await.0);
    }
}

#[tokio::test]
async fn a_repeated_qos_2_publish_is_told_once() {
    let mut host = Host::start().await;
    let mut client = Raw::connect(host.tcp, &lasting(4, "1:a")).await;
    client.publish(4, 7, "/1/x", b"once").await;
    assert_eq!(client.packet().await.unwrap(), [0x50, 2, 0, 7]);
    client.publish(8 | 4, 7, "/1/x", b"once").await;
    assert_eq!(client.packet().await.unwrap(), [0x50, 2, 0, 7]);
    assert_eq!(host.messages_so_far(), ["once"]);
    drop(client);
    while host.presence().await.0 {}
    let (mut client, connack) = Raw::try_connect(host.tcp, &lasting(4, "1:a")).await;
    assert_eq!(connack.unwrap(), [0x20, 2, 1, 0], "resumed");
    client.publish(8 | 4, 7, "/1/x", b"once").await;
    assert_eq!(client.packet().await.unwrap(), [0x50, 2, 0, 7]);
    client.send(&[0x62, 2, 0, 7]).await;
    assert_eq!(client.packet().await.unwrap(), [0x70, 2, 0, 7]);
    client.publish(4, 7, "/1/x", b"another with the same packet id").await;
    assert_eq!(client.packet().await.unwrap(), [0x50, 2, 0, 7]);
    assert_eq!(host.messages_so_far(), ["another with the same packet id"]);
}

#[tokio::test]
async fn the_end_of_a_token_ends_the_connection() {
    let mut host = Host::start().await;
    *host.admission.lifetime.lock().unwrap() = Duration::from_millis(1500);
    let started = Instant::now();
    let mut four = Raw::connect(host.tcp, &connect(4, "1:four")).await;
    let mut five = Raw::connect(host.tcp, &connect(5, "1:five")).await;
    assert_eq!(four.last_packets().await, Vec::<Vec<u8>>::new());
    let last = five.last_packets().await;
    assert_eq!((last.len(), last[0][0], last[0][2]), (1, 0xe0, 0xa0), "maximum connect time");
    assert!((Duration::from_millis(1200)..Duration::from_secs(4)).contains(&started.elapsed()));
    let mut gone = 0;
    soon("both to go", async {
        while gone < 2 {
            gone += usize::from(!host.presence().await.0);
        }
    })
    .await;
    assert!(host.broker.connected(id("1")).unwrap().is_empty());
}
