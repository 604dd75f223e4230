//! What the host says and hears: its own messages, the tap, presence, shutdown.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use conductor_host::broker::{Broker, BrokerError, EmbeddedBroker, Ended, Endpoints, Limits, NoBroker};

use super::{
    raw::{Connect, Raw, connect},
    support::{Host, Told, id, soon, until},
};

#[tokio::test]
async fn the_hosts_messages_reach_clients_and_come_back_to_nobody() {
    let mut host = Host::start().await;
    let mut dev = Raw::connect(host.tcp, &connect(4, "1:dev")).await;
    assert_eq!(dev.subscribe("/1/#", 1).await, 1);
    for qos in 0..=2 {
        host.broker.publish(id("1"), "/1/x", Bytes::from(format!("{qos}")), qos, false).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(dev.message().await.0, "/1/x");
    }
    host.broker.publish(id("1"), "/1/kept", Bytes::from_static(b"r"), 1, true).await.unwrap();
    dev.message().await;
    dev.publish_and_wait("/1/x", "the client's").await;
    assert_eq!(host.messages_so_far(), ["the client's"]);
    let mut late = Raw::connect(host.tcp, &connect(5, "1:late")).await;
    late.subscribe("/1/kept", 0).await;
    host.broker.publish(id("1"), "/1/kept", Bytes::new(), 0, true).await.unwrap();
    let mut later = Raw::connect(host.tcp, &connect(4, "1:later")).await;
    later.subscribe("/1/#", 0).await;
    later.publish(0, 0, "/1/own", b"").await;
    assert_eq!(later.message().await.0, "/1/own", "an empty retained message clears");
}

#[tokio::test]
async fn a_retained_message_of_the_hosts_waits_for_the_first_client() {
    let host = Host::start().await;
    host.broker.publish(id("1"), "/1/kept", Bytes::from_static(b"early"), 0, true).await.unwrap();
    assert_eq!(host.broker.live_sessions(), 1);
    let mut dev = Raw::connect(host.tcp, &connect(4, "1:dev")).await;
    dev.send(&super::raw::packet(0x82, &[&[0, 1][..], &super::raw::text("/1/#"), &[0]].concat())).await;
    assert_eq!(dev.message().await, ("/1/kept".to_owned(), "early".to_owned()));
}

#[tokio::test]
async fn a_closed_session_takes_no_message_and_a_new_one_of_its_id_does() {
    let host = Host::start().await;
    host.broker.close_session(id("1")).await;
    for retain in [false, true] {
        let late = host.broker.publish(id("1"), "/1/x", Bytes::from_static(b"late"), 0, retain).await;
        assert!(matches!(late, Err(BrokerError::Closed(_))), "{late:?}");
    }
    host.broker.open_session(id("1"));
    host.broker.publish(id("1"), "/1/x", Bytes::from_static(b"new"), 0, true).await.unwrap();
    let mut dev = Raw::connect(host.tcp, &connect(4, "1:dev")).await;
    dev.send(&super::raw::packet(0x82, &[&[0, 1][..], &super::raw::text("/1/#"), &[0]].concat())).await;
    assert_eq!(dev.message().await, ("/1/x".to_owned(), "new".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_published_is_said() {
    let host = Host::start().await;
    for topic in ["", "/1/#", "/1/+/x", "/1/a\0b", &"x".repeat(65_536)] {
        let refused = host.broker.publish(id("1"), topic, Bytes::new(), 0, false).await;
        assert!(matches!(refused, Err(BrokerError::Topic(_))), "{topic}");
    }
    let too_long = Bytes::from(vec![0; Limits::default().packet_bytes + 1]);
    for (payload, qos) in [(too_long, 0), (Bytes::new(), 3)] {
        let refused = host.broker.publish(id("1"), "/1/x", payload, qos, false).await;
        assert!(matches!(refused, Err(BrokerError::Failed(_))));
    }
    let idle = EmbeddedBroker::new(Limits::default());
    assert!(idle.publish(id("1"), "/1/x", Bytes::from_static(b"x"), 0, true).await.is_err(), "not serving yet");
}

#[tokio::test]
async fn every_accepted_message_is_told_once_and_in_order() {
    for version in [4, 5] {
        let mut host = Host::start().await;
        let will = Some(("/1/gone", "will", 1, true, 0));
        let mut dev = Raw::connect(host.tcp, &Connect { will, ..connect(version, "1:dev") }).await;
        let mut other = Raw::connect(host.tcp, &connect(version, "1:other")).await;
        assert_eq!(other.subscribe("/1/gone", 0).await, 0);
        dev.subscribe("/1/#", 0).await;
        dev.publish(0, 0, "/1/a", b"q0").await;
        dev.publish(2, 1, "/1/a", b"q1").await;
        dev.publish(4, 2, "/1/a", b"q2").await;
        dev.send(&[0x62, 2, 0, 2]).await;
        dev.publish(0, 0, "/2/a", b"denied").await;
        dev.publish(1, 0, "/1/a", b"retained").await;
        dev.publish_and_wait("/1/b", "last").await;
        drop(dev);
        assert_eq!(other.message().await, ("/1/gone".to_owned(), "will".to_owned()));
        let mut seen = Vec::new();
        loop {
            match host.told().await {
                Told::Message(m) => {
                    assert_eq!((m.session, m.client_id.as_deref()), (id("1"), Some("dev")));
                    seen.push((String::from_utf8(m.payload.to_vec()).unwrap(), m.qos, m.retain, m.will));
                }
                Told::Connected(session, _) => assert_eq!(session, id("1")),
                Told::Disconnected(session, client) => {
                    assert_eq!((session, &*client), (id("1"), "dev"));
                    break;
                }
            }
        }
        let expected = [("q0", 0, false, false), ("q1", 1, false, false), ("q2", 2, false, false)];
        let expected = [&expected[..], &[("retained", 0, true, false), ("last", 1, false, false), ("will", 1, true, true)]].concat();
        assert_eq!(seen.iter().map(|(p, q, r, w)| (p.as_str(), *q, *r, *w)).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_client_that_says_goodbye_leaves_no_will() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 1, true, 0));
    let mut dev = Raw::connect(host.tcp, &Connect { will, ..connect(4, "1:dev") }).await;
    dev.send(&[0xe0, 0]).await;
    while host.presence().await.0 {}
    assert!(host.messages_so_far().is_empty());
}

#[tokio::test]
async fn a_will_that_lost_its_right_is_not_sent() {
    let mut host = Host::start().await;
    let will = Some(("/1/gone", "will", 1, false, 0));
    let dev = Raw::connect(host.tcp, &Connect { will, ..connect(4, "1:dev") }).await;
    let mine = conductor_host::tokens::grant::Grant::from_lists(vec![], vec!["/1/mine".to_owned()]);
    host.broker.set_grant(id("1"), "dev", mine).await;
    drop(dev);
    while host.presence().await.0 {}
    assert!(host.messages_so_far().is_empty());
}

#[tokio::test]
async fn shutdown_tells_clients_and_stops_listening() {
    let mut host = Host::with(Limits { connect_time: std::time::Duration::from_secs(60), ..Limits::default() }).await;
    // Before the others, so that it was accepted when they were answered.
    let mut undecided = Raw::open(host.tcp).await;
    let will = Some(("/1/gone", "will", 1, false, 0));
    let mut five = Raw::connect(host.tcp, &Connect { will, ..connect(5, "1:five") }).await;
    let mut four = Raw::connect(host.tcp, &connect(4, "2:four")).await;
    soon("shutdown", host.broker.shutdown()).await;
    let last = five.last_packets().await;
    assert_eq!((last.len(), last[0][0], last[0][2]), (1, 0xe0, 0x8b), "server shutting down");
    assert!(four.last_packets().await.is_empty() && undecided.last_packets().await.is_empty());
    for address in [host.tcp, host.websocket] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
    assert!(host.messages_so_far().is_empty(), "a host that stops is no client's death");
    assert!(host.broker.trouble().is_none());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let host = Host::start().await;
    let broker = EmbeddedBroker::new(Limits::default());
    let wanted = Endpoints { tcp: vec![host.tcp], ..Endpoints::default() };
    let serve = broker.serve(Arc::clone(&host.admission) as Arc<_>, Arc::new(Deaf), &wanted, None).await;
    assert!(serve.unwrap_err().to_string().contains(&host.tcp.to_string()));
    assert_eq!(broker.endpoints(), Endpoints::default());
}

pub(crate) struct Deaf;

impl conductor_host::broker::Events for Deaf {
    fn message(&self, _: conductor_host::broker::Message) {}
    fn connected(&self, _: conductor_host::sessions::SessionId, _: &str) {}
    fn disconnected(&self, _: conductor_host::sessions::SessionId, _: &str) {}
    fn link(&self, _: bool) {}
}

#[tokio::test]
async fn the_websocket_route_serves_in_another_router_too() {
    let mut host = Host::start().await;
    let router = axum::Router::new().merge(host.broker.websocket_router()).into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    let mut client = super::clients::Client::four(super::clients::Way::WebSocket(address), "1:dev", None).await.unwrap();
    client.publish("/1/x", 1, false, "over the other port").await;
    assert_eq!(host.message().await.payload, "over the other port");
    host.broker.shutdown().await;
    let refused = super::clients::Client::four(super::clients::Way::WebSocket(address), "1:dev", None).await;
    assert!(refused.is_err(), "503 after shutdown");
    serving.abort();
}

#[tokio::test]
async fn without_a_broker_there_are_no_messages() {
    let broker = NoBroker;
    assert!(matches!(broker.publish(id("1"), "/1/x", Bytes::new(), 0, false).await, Err(BrokerError::None)));
    assert_eq!((broker.kick(id("1"), "a").await, broker.close_session(id("1")).await), (Ended::Kicked(0), Ended::Kicked(0)));
    assert_eq!((broker.connected(id("1")), broker.trouble()), (None, None), "who is there is not for it to say");
    broker.shutdown().await;
}

#[tokio::test]
async fn presence_is_what_was_told() {
    let host = Host::start().await;
    let dev = Raw::connect(host.tcp, &connect(4, "1:dev")).await;
    until("the client to be there", || host.broker.connected(id("1")).unwrap() == [Arc::from("dev")]).await;
    drop(dev);
    until("the client to be gone", || host.broker.connected(id("1")).unwrap().is_empty()).await;
}
