//! The grant matrix: subscribing, publishing, wills, retained messages and shared subscriptions, on MQTT 3.1.1 and 5, over TCP and
//! WebSocket, with a client that is not the library's own.

use super::{
    clients::{Client, Way},
    support::Host,
};

const INSIDE: [&str; 3] = ["/123456/test", "/123456/#", "/123456/test/customtopic"];
const OUTSIDE: [&str; 11] =
    ["/test/customtopic", "/#", "#", "+/test", "+/123456/#", "/+/test", "/+/#", "$SYS/#", "/1234567/x", "/1234567/#", "/123456"];

async fn matrix(version: u8, web: bool) {
    let mut host = Host::start().await;
    let way = if web { Way::WebSocket(host.websocket) } else { Way::Tcp(host.tcp) };

    // Wills first: they decide about the connection.
    for topic in ["/test/customtopic", "/1234567/x", "/123456", "$SYS/x"] {
        let refused = Client::connect(version, way, "123456:dev", Some(topic)).await.err().expect(topic);
        assert!(refused.contains("NotAuthorized"), "{topic}: {refused}");
    }
    let refused = Client::connect(version, way, "no token", None).await.err().unwrap();
    assert!(refused.contains("BadUserNamePassword"), "{refused}");
    let mut dev = Client::connect(version, way, "123456:dev", Some("/123456/gone")).await.unwrap();
    let mut peer = Client::connect(version, way, "123456:peer", None).await.unwrap();
    let mut stranger = Client::connect(version, way, "1234567:dev", None).await.unwrap();

    for filter in INSIDE {
        assert!(dev.subscribe(filter).await, "{filter}");
    }
    for filter in OUTSIDE {
        assert!(!dev.subscribe(filter).await, "{filter}");
    }
    assert!(peer.subscribe("/123456/#").await && stranger.subscribe("/1234567/#").await);

    // Publishing, at every QoS, retained and not. What is denied is acknowledged, and the link is kept.
    for qos in 0..=2 {
        for topic in ["/test/customtopic", "/1234567/x", "/123456", "123456/test"] {
            peer.publish(topic, qos, false, "denied").await;
            peer.publish(topic, qos, true, "denied").await;
        }
        for topic in ["/123456/test", "/123456/test/customtopic"] {
            peer.publish(topic, qos, false, "allowed").await;
            assert_eq!(peer.message().await, (topic.to_owned(), "allowed".to_owned()), "QoS {qos}");
            let told = host.message().await;
            assert_eq!((&*told.topic, told.qos), (topic, qos));
        }
    }
    stranger.publish("/1234567/x", 1, false, "own").await;
    assert_eq!(stranger.message().await, ("/1234567/x".to_owned(), "own".to_owned()), "nothing of the neighbours' came before");
    assert_eq!(host.message().await.payload, "own");

    // Retained messages: the allowed one is there for who comes later, a denied one nowhere.
    peer.publish("/123456/kept", 1, true, "retained").await;
    host.message().await;
    let mut late = Client::connect(version, way, "123456:late", None).await.unwrap();
    assert!(late.subscribe("/123456/#").await);
    assert_eq!(late.message().await, ("/123456/kept".to_owned(), "retained".to_owned()));
    let mut late_stranger = Client::connect(version, way, "1234567:late", None).await.unwrap();
    assert!(late_stranger.subscribe("/1234567/#").await);
    late_stranger.publish("/1234567/end", 1, false, "end").await;
    assert_eq!(late_stranger.message().await.1, "end");
    host.message().await;

    // Shared subscriptions are judged by the filter behind the group, and share.
    let mut members =
        [Client::connect(version, way, "123456:m1", None).await.unwrap(), Client::connect(version, way, "123456:m2", None).await.unwrap()];
    for member in &mut members {
        assert!(member.subscribe("$share/group//123456/shared").await);
        for filter in ["$share/group/#", "$share/group//+/x", "$share/group//1234567/x", "$share/g/$share/h//123456/x"] {
            assert!(!member.subscribe(filter).await, "{filter}");
        }
    }
    for n in 0..10 {
        peer.publish("/123456/shared", 1, false, &n.to_string()).await;
        host.message().await;
    }
    for member in &mut members {
        for _ in 0..5 {
            assert_eq!(member.message().await.0, "/123456/shared");
        }
    }

    // The will, delivered to the session and told.
    drop(dev);
    loop {
        let (topic, payload) = late.message().await;
        if topic == "/123456/gone" {
            assert_eq!(payload, "will");
            break;
        }
    }
    let told = host.message().await;
    assert_eq!((told.will, &*told.topic, told.client_id.as_deref()), (true, "/123456/gone", Some("dev")));
}

#[tokio::test]
async fn the_matrix_on_3_1_1_over_tcp() {
    matrix(4, false).await;
}

#[tokio::test]
async fn the_matrix_on_3_1_1_over_websocket() {
    matrix(4, true).await;
}

#[tokio::test]
async fn the_matrix_on_5_over_tcp() {
    matrix(5, false).await;
}

#[tokio::test]
async fn the_matrix_on_5_over_websocket() {
    matrix(5, true).await;
}
