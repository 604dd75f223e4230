//! What sessions may expect of a broker, whichever it is: one body, run on each. Where they differ by design, [`Kind`] says so.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::net::SocketAddr;

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way,
    link::{Fate, Proxy, Side, external, is_connect_5, wait_up},
    mosquitto::Mosquitto,
    mqtt::{Message, topic},
    until,
};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Embedded,
    External,
    /// The link speaks MQTT 3.1.1.
    External311,
}

impl Kind {
    /// First exception: a broker outside does not tell who sent a message.
    fn sender(self, client: &str) -> Value {
        if self == Self::Embedded { json!(client) } else { Value::Null }
    }

    /// Second exception: connections are not ended by the end of their session, nor known at all.
    fn ends_connections(self) -> bool {
        self == Self::Embedded
    }

    /// Of MQTT 3.1.1 alone: a subscriber is not told that a message is to be retained.
    fn retain(self, retain: bool) -> bool {
        retain && self != Self::External311
    }
}

struct Rig {
    kind: Kind,
    host: Host,
    address: SocketAddr,
    _broker: Option<Mosquitto>,
}

impl Rig {
    fn start(kind: Kind) -> Self {
        if kind == Kind::Embedded {
            let host = Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"));
            return Self { kind, address: host.mqtt.unwrap(), host, _broker: None };
        }
        let broker = Mosquitto::open();
        let address = broker.address;
        let proxy = Proxy::start(address, |side, packet| match side {
            Side::Client if is_connect_5(&packet) => Fate::Answer(vec![0x20, 2, 0, 1]),
            _ => Fate::Pass(packet),
        });
        let way = if kind == Kind::External311 { proxy.address } else { address };
        let host = Host::start(external(&format!("mqtt://{way}")));
        wait_up(&host);
        Self { kind, host, address, _broker: Some(broker) }
    }

    /// Client ids are of one session with the embedded broker, and of the whole broker elsewhere.
    fn device(&self, session: &Session, client: &str) -> Mqtt {
        let token = self.host.join(session, client);
        let id = if self.kind == Kind::Embedded { client.to_owned() } else { format!("{}-{client}", session.id) };
        Mqtt::connect_to(self.address, Version::V5, Way::Tcp, &Credentials::new(&id, &session.id, &token)).unwrap()
    }

    fn heard(&self, session: &Session, count: usize) -> Vec<Value> {
        until("the conductor to hear", || {
            let heard = self.host.ask(session, "heard", "");
            let heard = heard.as_array().unwrap_or_else(|| panic!("{heard}")).clone();
            (heard.len() >= count).then_some(heard)
        })
    }

    fn say(&self, session: &Session, name: &str, payload: &str, qos: u8, retain: bool) -> (u16, Value) {
        let answer = self.host.request(session, "say", json!({"name": name, "payload": payload, "qos": qos, "retain": retain}));
        (answer.status, answer.json())
    }
}

/// What one broker answers where it refuses; equal for all.
fn contract(kind: Kind) -> Vec<(u16, Value)> {
    let rig = Rig::start(kind);
    let (mine, other) = (rig.host.create("echo"), rig.host.create("echo"));
    let (mut a, mut b) = (rig.device(&mine, "a"), rig.device(&mine, "b"));
    let mut stranger = rig.device(&other, "a");
    assert!(a.subscribe(&topic(&mine, "#"), 2) && stranger.subscribe(&topic(&other, "#"), 2));

    // A conductor hears what devices send.
    let mut expected = Vec::new();
    for (qos, retain) in [(0, false), (1, false), (2, false), (1, true), (2, true)] {
        let payload = format!("{qos} {retain}");
        assert!(b.publish(&topic(&mine, "x/y"), &payload, qos, retain));
        assert_eq!(a.heard().1, payload);
        let (sender, retain) = (kind.sender("b"), kind.retain(retain));
        expected.push(json!({"name": "x/y", "payload": payload, "sender": sender, "qos": qos, "retain": retain, "will": false}));
        // One by one: another QoS may overtake.
        assert_eq!(rig.heard(&mine, expected.len()), expected, "{kind:?}");
    }

    // What it says reaches its session's devices.
    for qos in 0..=2 {
        assert_eq!(rig.say(&mine, "said", &qos.to_string(), qos, false), (200, json!({"result": null})));
        let expected = Message { topic: topic(&mine, "said"), payload: qos.to_string(), qos, retain: false };
        assert_eq!(a.message(), expected, "{kind:?}");
    }
    assert_eq!(rig.say(&mine, "kept", "by the conductor", 1, true).0, 200);
    assert_eq!(a.heard().1, "by the conductor");
    assert!(b.subscribe(&topic(&mine, "kept"), 1));
    let kept = b.message();
    assert_eq!((kept.payload.as_str(), kept.retain), ("by the conductor", true));

    // Asked, it answers, at each QoS, and does not hear its own answers; what one sender sends is heard in order.
    for number in 0..60 {
        assert!(b.publish(&topic(&mine, "ask"), &format!("{number}"), number % 3, false));
        // The conductor may be the quicker one.
        let mut both = [a.heard(), a.heard()];
        both.sort();
        assert_eq!(both, ["answer", "ask"].map(|name| (topic(&mine, name), number.to_string())), "{kind:?}");
    }
    for number in 60..260 {
        assert!(b.publish(&topic(&mine, "in order"), &format!("{number}"), 1, false));
    }
    let heard = rig.heard(&mine, expected.len() + 260);
    let numbers: Vec<_> = heard[expected.len()..].iter().map(|message| message["payload"].as_str().unwrap().to_owned()).collect();
    assert_eq!(numbers, (0..260).map(|number| number.to_string()).collect::<Vec<_>>(), "{kind:?}");

    // Nothing of all that is the other session's, neither its devices' nor its conductor's.
    assert!(stranger.publish(&topic(&other, "end"), "", 1, false));
    assert_eq!(stranger.heard(), (topic(&other, "end"), String::new()), "{kind:?}");
    assert_eq!(rig.heard(&other, 1)[0]["name"], "end");

    let long = "x".repeat(70_000);
    let mut refusals = Vec::new();
    for name in ["", "a/#", "+", "a\u{0}b", &long] {
        let (status, mut answer) = rig.say(&mine, name, "p", 1, false);
        // Which session it was is each broker's own.
        answer["detail"] = json!(answer["detail"].to_string().replace(&mine.id, "{id}"));
        refusals.push((status, answer));
    }

    // The end: nothing is retained any more, and nothing is heard.
    assert_eq!(rig.host.close(&mine), "Success");
    if kind.ends_connections() {
        a.gone();
        b.gone();
    } else {
        assert!(a.publish(&topic(&mine, "after"), "nobody hears it", 1, false));
        let mut late = rig.device(&other, "late");
        assert!(late.subscribe(&topic(&mine, "#"), 1));
        assert!(b.publish(&topic(&mine, "end"), "", 1, false));
        assert_eq!(late.heard().0, topic(&mine, "end"), "{kind:?}: nothing was retained");
    }
    assert_eq!(rig.host.show(&mine).status, 404);
    assert_eq!(rig.host.request(&mine, "heard", Value::Null).status, 404);
    refusals
}

#[test]
fn every_broker_keeps_the_same_promises() {
    let embedded = contract(Kind::Embedded);
    for kind in [Kind::External, Kind::External311] {
        assert_eq!(contract(kind), embedded, "{kind:?}: the same refusals in the same words");
    }
    assert!(embedded.iter().all(|(status, _)| *status >= 400), "{embedded:?}");
}
