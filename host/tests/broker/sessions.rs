//! Sessions are apart, and end whole: isolation, closing, kicking, stored MQTT sessions, changed grants.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use conductor_host::{
    broker::{Broker, BrokerError, Ended, Limits},
    tokens::grant::Grant,
};

use super::{
    raw::{Connect, Raw, connect, lasting},
    support::{Host, Told, filters, id, until},
};

#[tokio::test]
async fn sessions_are_apart_whatever_the_grant_says() {
    let mut host = Host::start().await;
    host.grant("1:spy", &["#", "+", "/#"], &["#"]);
    let mut spy = Raw::connect(host.tcp, &connect(4, "1:spy")).await;
    let mut other = Raw::connect(host.tcp, &connect(4, "2:dev")).await;
    for filter in ["#", "/2/#"] {
        assert_eq!(spy.subscribe(filter, 0).await, 0, "the grant says yes: only the room keeps it apart");
    }
    assert_eq!(other.subscribe("/2/#", 0).await, 0);
    spy.publish(1, 0, "/2/x", b"from elsewhere, retained").await;
    spy.publish_and_wait("/2/x", "from elsewhere").await;
    let message = host.message().await;
    assert_eq!((message.session, &*message.topic), (id("1"), "/2/x"), "told for the session of the connection, not of the topic");
    other.publish_and_wait("/2/x", "own").await;
    let mut late = Raw::connect(host.tcp, &connect(4, "2:late")).await;
    assert_eq!(late.subscribe("/2/#", 0).await, 0);
    for session in ["1", "2"] {
        host.broker.publish(id(session), &format!("/{session}/end"), Bytes::new(), 0, false).await.unwrap();
    }
    // What came before the end is all there is.
    for (client, end) in [(&mut spy, "/1/end"), (&mut other, "/2/end"), (&mut late, "/2/end")] {
        loop {
            let (topic, payload) = client.message().await;
            if topic == end {
                break;
            }
            assert_eq!(payload.contains("elsewhere"), end == "/1/end", "{topic} {payload}");
        }
    }
}

#[tokio::test]
async fn the_same_client_id_in_two_sessions_is_two_clients() {
    let mut host = Host::start().await;
    let mut one = Raw::connect(host.tcp, &lasting(4, "1:dev")).await;
    assert_eq!(one.subscribe("/1/#", 1).await, 1);
    let (mut two, connack) = Raw::try_connect(host.tcp, &lasting(4, "2:dev")).await;
    assert_eq!(connack.unwrap(), [0x20, 2, 0, 0], "no session of the other's");
    assert_eq!(two.subscribe("/2/#", 1).await, 1);
    drop(two);
    assert!(host.presence().await.0 && host.presence().await.0 && !host.presence().await.0);
    host.broker.publish(id("1"), "/1/for-one", Bytes::new(), 1, false).await.unwrap();
    host.broker.publish(id("2"), "/2/for-two", Bytes::new(), 1, false).await.unwrap();
    assert_eq!(one.message().await.0, "/1/for-one", "not displaced");
    assert_eq!(host.broker.connected(id("2")).unwrap().len(), 0);
    drop(one);
    host.presence().await;
    host.broker.publish(id("1"), "/1/queued", Bytes::new(), 1, false).await.unwrap();
    let mut two = Raw::connect(host.tcp, &lasting(4, "2:dev")).await;
    assert_eq!(two.message().await.0, "/2/for-two", "its own queue");
    host.broker.close_session(id("1")).await;
    two.publish_and_wait("/2/x", "").await;
}

#[tokio::test]
async fn closing_ends_all_and_drops_all() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 1, true, 0));
    let mut four = Raw::connect(host.tcp, &Connect { will, ..connect(4, "1:four") }).await;
    let mut five = Raw::connect(host.tcp, &Connect { will, ..connect(5, "1:five") }).await;
    let mut bystander = Raw::connect(host.tcp, &connect(5, "2:five")).await;
    let mut away = Raw::connect(host.tcp, &lasting(4, "1:away")).await;
    away.subscribe("/1/#", 1).await;
    drop(away);
    four.subscribe("/1/#", 0).await;
    four.publish(3, 1, "/1/kept", b"retained").await;
    four.message().await;
    while host.presence().await != (false, "away".to_owned()) {}
    host.so_far();

    let started = Instant::now();
    assert_eq!(host.broker.close_session(id("1")).await, Ended::Kicked(2));
    assert!(started.elapsed() < Duration::from_millis(900), "nobody had to be cut");
    assert!(four.last_packets().await.iter().all(|packet| packet[0] >> 4 == 4), "3.1.1 sees a bare close");
    let last = five.last_packets().await;
    assert_eq!((last.len(), last[0][0], last[0][2]), (1, 0xe0, 0x98), "administrative action");
    let mut gone = Vec::new();
    for told in host.so_far() {
        let Told::Disconnected(_, client) = told else { panic!("a last will: {told:?}") };
        gone.push(client);
    }
    gone.sort();
    assert_eq!(gone, ["five", "four"], "both had gone when it returned");
    assert_eq!(host.broker.live_sessions(), 1);
    bystander.publish_and_wait("/2/x", "").await;
    let late = host.broker.publish(id("1"), "/1/kept", Bytes::from_static(b"x"), 0, true).await;
    assert!(matches!(late, Err(BrokerError::Closed(session)) if session == id("1")));

    // Should the id come back one day, nothing of the old session is there.
    let (mut again, connack) = Raw::try_connect(host.tcp, &lasting(4, "1:away")).await;
    assert_eq!(connack.unwrap(), [0x20, 2, 0, 0]);
    assert_eq!(again.subscribe("/1/#", 1).await, 1);
    again.publish_and_wait("/1/first", "").await;
    assert_eq!(host.broker.close_session(id("3")).await, Ended::Kicked(0), "a session that never met the broker");
}

#[tokio::test]
async fn a_client_that_stopped_reading_is_cut() {
    let limits = Limits { waiting_messages: 20_000, ..Limits::default() };
    let mut host = Host::with(limits).await;
    let mut deaf = Raw::connect(host.tcp, &Connect { keep_alive: 0, ..connect(4, "1:deaf") }).await;
    assert_eq!(deaf.subscribe("/1/flood", 0).await, 0);
    let flood = Bytes::from(vec![0; 200_000]);
    for _ in 0..200 {
        host.broker.publish(id("1"), "/1/flood", flood.clone(), 0, false).await.unwrap();
    }
    host.presence().await;
    let started = Instant::now();
    assert_eq!(host.broker.close_session(id("1")).await, Ended::Kicked(1));
    assert!((Duration::from_millis(900)..Duration::from_millis(2500)).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(host.presence().await, (false, "deaf".to_owned()));
}

#[tokio::test]
async fn who_was_admitted_just_before_the_end_does_not_get_in_after_it() {
    for version in [4, 5] {
        for ends_session in [true, false] {
            let mut host = Host::start().await;
            let (decided, was_decided) = mpsc::channel();
            let (go, may_go) = mpsc::channel();
            *host.admission.before_telling.lock().unwrap() = Some(Box::new(move || {
                decided.send(()).unwrap();
                may_go.recv().unwrap();
            }));
            let address = host.tcp;
            // The admission waits, and the runtime of this test with it: the client and the end come from elsewhere.
            let broker = host.broker.clone();
            let ender = std::thread::spawn(move || {
                was_decided.recv().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime
                    .block_on(async { if ends_session { broker.close_session(id("1")).await } else { broker.kick(id("1"), "dev").await } });
                go.send(()).unwrap();
            });
            let (_client, connack) = Raw::try_connect(address, &connect(version, "1:dev")).await;
            ender.join().unwrap();
            assert_eq!(connack.unwrap()[3], if version == 4 { 0x05 } else { 0x87 });
            assert!(host.so_far().is_empty());
            *host.admission.before_telling.lock().unwrap() = None;
            // The end of one client is not the end of another.
            Raw::connect(address, &connect(version, "1:other")).await;
        }
    }
}

#[tokio::test]
async fn a_delayed_will_dies_with_its_session() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 0, false, 1));
    for password in ["1:dev", "2:dev"] {
        let topic = format!("/{}/gone", &password[..1]);
        let will = will.map(|(_, payload, qos, retain, delay)| (topic.as_str(), payload, qos, retain, delay));
        drop(Raw::connect(host.tcp, &Connect { will, ..lasting(5, password) }).await);
        assert!(host.presence().await.0 && !host.presence().await.0);
    }
    host.broker.close_session(id("1")).await;
    let told = host.message().await;
    assert_eq!((told.session, told.will), (id("2"), true), "the other session's will comes, after its delay");
    assert!(host.so_far().is_empty());
}

#[tokio::test]
async fn a_kick_forgets_the_client() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 0, false, 0));
    let mut dev = Raw::connect(host.tcp, &Connect { will, ..lasting(5, "1:dev") }).await;
    let mut other = Raw::connect(host.tcp, &connect(5, "1:other")).await;
    assert_eq!(dev.subscribe("/1/#", 1).await, 1);
    assert_eq!(host.broker.kick(id("1"), "dev").await, Ended::Kicked(1));
    let last = dev.last_packets().await;
    assert_eq!((last[0][0], last[0][2]), (0xe0, 0x98));
    other.publish_and_wait("/1/x", "not queued").await;
    assert_eq!(host.messages_so_far(), ["not queued"], "and no will");
    let (mut dev, connack) = Raw::try_connect(host.tcp, &lasting(5, "1:dev")).await;
    assert_eq!(connack.unwrap()[2], 0, "no session to resume");
    other.publish_and_wait("/1/x", "").await;
    assert_eq!(dev.subscribe("/1/end", 0).await, 0);
    host.broker.publish(id("1"), "/1/end", Bytes::new(), 0, false).await.unwrap();
    assert_eq!(dev.message().await.0, "/1/end");
    assert_eq!(host.broker.kick(id("1"), "nobody").await, Ended::Kicked(0));
}

#[tokio::test]
async fn a_client_that_was_away_gets_what_it_missed() {
    let mut host = Host::start().await;
    for version in [4, 5] {
        let password = format!("1:{version}");
        let mut dev = Raw::connect(host.tcp, &lasting(version, &password)).await;
        assert_eq!(dev.subscribe("/1/#", 1).await, 1);
        drop(dev);
        assert!(host.presence().await.0 && !host.presence().await.0);
        host.broker.publish(id("1"), "/1/missed", Bytes::new(), 1, false).await.unwrap();
        let (mut dev, connack) = Raw::try_connect(host.tcp, &lasting(version, &password)).await;
        assert_eq!(connack.unwrap()[2], 1, "session present");
        assert_eq!(dev.message().await.0, "/1/missed");
        assert!(host.presence().await.0);
        host.broker.kick(id("1"), &version.to_string()).await;
        host.presence().await;
    }
}

#[tokio::test]
async fn a_stored_subscription_is_checked_again_when_it_is_resumed() {
    let mut host = Host::start().await;
    let mut dev = Raw::connect(host.tcp, &lasting(4, "1:dev")).await;
    assert_eq!((dev.subscribe("/1/#", 1).await, dev.subscribe("/1/mine", 1).await), (1, 1));
    drop(dev);
    assert!(host.presence().await.0 && !host.presence().await.0);
    host.broker.publish(id("1"), "/1/secret", Bytes::new(), 1, false).await.unwrap();
    host.grant("1:dev", &["/1/mine"], &[]);
    let (mut dev, connack) = Raw::try_connect(host.tcp, &lasting(4, "1:dev")).await;
    assert_eq!(connack.unwrap()[2], 1);
    host.broker.publish(id("1"), "/1/secret", Bytes::new(), 1, false).await.unwrap();
    host.broker.publish(id("1"), "/1/mine", Bytes::new(), 1, false).await.unwrap();
    assert_eq!(dev.message().await.0, "/1/mine", "neither what was queued nor what is new");
}

#[tokio::test]
async fn a_changed_grant_holds_at_once() {
    let mut host = Host::start().await;
    let mut dev = Raw::connect(host.tcp, &connect(5, "1:dev")).await;
    assert_eq!((dev.subscribe("/1/#", 0).await, dev.subscribe("$share/g//1/+", 0).await, dev.subscribe("/1/mine", 0).await), (0, 0, 0));
    host.broker.set_grant(id("1"), "dev", Grant::from_lists(filters(&["/1/mine"]), filters(&["/1/mine"]))).await;
    dev.publish(2, 1, "/1/secret", b"").await;
    assert_eq!(dev.packet().await.unwrap()[4], 0x87);
    assert_eq!(dev.subscribe("/1/x", 0).await, 0x87);
    host.broker.publish(id("1"), "/1/secret", Bytes::new(), 0, false).await.unwrap();
    host.broker.publish(id("1"), "/1/mine", Bytes::new(), 0, false).await.unwrap();
    assert_eq!(dev.message().await.0, "/1/mine", "its wider subscriptions are over");
    host.broker.set_grant(id("1"), "dev", Grant::whole_session(id("1"))).await;
    dev.publish_and_wait("/1/x", "wider again").await;
    assert_eq!(host.message().await.payload, "wider again");

    let mut away = Raw::connect(host.tcp, &lasting(4, "1:away")).await;
    assert_eq!(away.subscribe("/1/#", 1).await, 1);
    drop(away);
    while host.presence().await != (false, "away".to_owned()) {}
    host.broker.publish(id("1"), "/1/queued", Bytes::new(), 1, false).await.unwrap();
    host.broker.set_grant(id("1"), "away", Grant::nothing()).await;
    host.broker.publish(id("1"), "/1/later", Bytes::new(), 1, false).await.unwrap();
    let mut away = Raw::connect(host.tcp, &lasting(4, "1:away")).await;
    assert_eq!(away.subscribe("/1/end", 0).await, 0);
    host.broker.publish(id("1"), "/1/end", Bytes::new(), 0, false).await.unwrap();
    assert_eq!(away.message().await.0, "/1/end", "nothing queued is left");
}

#[tokio::test]
async fn a_session_without_anything_costs_the_broker_nothing() {
    let mut host = Host::with(Limits { housekeeping: Duration::from_millis(20), ..Limits::default() }).await;
    host.broker.publish(id("1"), "/1/x", Bytes::from_static(b"to nobody"), 1, false).await.unwrap();
    assert_eq!(host.broker.live_sessions(), 0);
    let broker = host.broker.clone();
    let mut dev = Raw::connect(host.tcp, &connect(4, "1:dev")).await;
    dev.send(&[0xe0, 0]).await;
    until("the room of nobody to go", || broker.live_sessions() == 0).await;

    for (retained, password) in [(true, "1:dev"), (false, "2:dev")] {
        let session = id(&password[..1]);
        let topic = format!("/{session}/kept");
        let asked = if retained { connect(4, password) } else { lasting(4, password) };
        let mut dev = Raw::connect(host.tcp, &asked).await;
        if retained {
            dev.publish(1, 0, &topic, b"x").await;
        }
        dev.send(&[0xe0, 0]).await;
        while host.presence().await.0 {}
        let (sentinel, rounds) = (id("9"), 3);
        for _ in 0..rounds {
            // A room that goes shows that housekeeping came by.
            Raw::connect(host.tcp, &connect(4, "9:dev")).await.send(&[0xe0, 0]).await;
            until("housekeeping", || broker.live_sessions() == 1).await;
        }
        assert_eq!(broker.connected(sentinel).unwrap().len(), 0);
        if retained {
            broker.publish(session, &topic, Bytes::new(), 0, true).await.unwrap();
        } else {
            broker.kick(session, "dev").await;
        }
        until("the room to go", || broker.live_sessions() == 0).await;
        host.so_far();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn comings_goings_and_kicks_at_once_leave_nothing_behind() {
    let mut host = Host::with(Limits { housekeeping: Duration::from_millis(10), ..Limits::default() }).await;
    let address = host.tcp;
    let devices = (0..20).map(|n| {
        tokio::spawn(async move {
            let password = format!("1:dev{n}");
            let version = if n % 2 == 0 { 4 } else { 5 };
            for round in 0..15 {
                let asked = if round % 3 == 0 { lasting(version, &password) } else { connect(version, &password) };
                let (mut client, connack) = Raw::try_connect(address, &asked).await;
                if connack.is_some_and(|connack| connack[3] == 0) && round % 2 == 0 {
                    // May have been kicked by now.
                    drop(tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[0xe0, 0]).await);
                }
            }
        })
    });
    let devices: Vec<_> = devices.collect();
    while devices.iter().any(|device| !device.is_finished()) {
        for n in 0..20 {
            host.broker.kick(id("1"), &format!("dev{n}")).await;
        }
    }
    for device in devices {
        device.await.unwrap();
    }
    host.broker.close_session(id("1")).await;
    assert!(host.broker.connected(id("1")).unwrap().is_empty());
    let broker = host.broker.clone();
    until("everything to go", || broker.live_sessions() == 0).await;
    let mut here = std::collections::HashSet::new();
    for told in host.so_far() {
        match told {
            Told::Connected(_, client) => drop(here.insert(client)),
            Told::Disconnected(_, client) => assert!(here.remove(&client), "{client} went without having come"),
            Told::Message(message) => panic!("{message:?}"),
        }
    }
    assert!(here.is_empty(), "never went: {here:?}");
}
