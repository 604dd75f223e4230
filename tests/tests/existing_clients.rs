//! Devices that behave as the existing ones do, at each door that speaks their language. The libraries are those that they use, but for Unity's:
//! its habits are shown by Python's.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way,
    browser::Browser,
    clients::{self, Door, Habits, House, Paho, Wire, said, words},
    mqtt::topic,
    until,
};
use serde_json::{Value, json};

/// The Python client: WebSocket over TLS, its own name as client id and username, QoS 0.
const PYTHON: Habits = Habits { name: "python", client_id: "client", username: "client", qos: 0, tls_1_2: false };
/// The Python client before that: TCP, no client id, the session's id as username.
const PYTHON_BEFORE: Habits = Habits { name: "python, before", client_id: "", username: "session", qos: 0, tls_1_2: false };
/// Unity's: TCP or TLS, a client id that it makes up, its own name as username, QoS 2 both ways.
const UNITY: Habits =
    Habits { name: "unity", client_id: "0f8fad5b-d9cb-469f-a165-70867728950e", username: "client", qos: 2, tls_1_2: true };

/// Who comes in where.
const TABLE: &[(Habits, Paho, &[Wire])] =
    &[(PYTHON, Paho::One, &[Wire::Wss]), (PYTHON, Paho::Two, &[Wire::Wss]), (UNITY, Paho::Two, &[Wire::Tcp, Wire::Tls])];

fn house(username: &str) -> House {
    House::open(&HostOptions::default().plugin("echo", "conductor_test_echo").set("mqtt.username", json!(username)))
}

/// Another device of the session, which hears all of it.
fn other(host: &Host, session: &Session, username: &str) -> Mqtt {
    let token = host.join(session, "other");
    let mut other = Mqtt::connect(host, Version::V311, Way::Tcp, &Credentials::new("other", username, &token)).unwrap();
    assert!(other.subscribe(&topic(session, "#"), 2));
    other
}

/// A device comes in at the door, subscribes, and talks with another one in both directions.
fn talk(door: &Door<'_>, habits: Habits, paho: Paho) {
    let host = door.host;
    let case = format!("{}, paho {paho:?}, {}", habits.name, door.name);
    let session = host.create("echo");
    let mut other = other(host, &session, if habits.username == "session" { &session.id } else { "other" });
    let mut device = clients::device(habits, paho, door, &session);
    assert_eq!(said(&device, "connected"), 0, "{case}");
    // All of the session, and one name of it.
    for name in ["#", "ping"] {
        device.tell(&json!(["subscribe", name]).to_string());
        assert_eq!(said(&device, "subscribed"), json!([habits.qos]), "{case}");
    }
    device.tell(&json!(["publish", "hello", "from the device, ünïcode"]).to_string());
    let heard = other.message();
    assert_eq!((heard.topic, heard.payload), (topic(&session, "hello"), "from the device, ünïcode".into()), "{case}");
    assert_eq!(heard.qos, habits.qos, "{case}");
    // Its own message comes back.
    assert_eq!(words(&device, "message"), json!(["message", "hello", "from the device, ünïcode", habits.qos]), "{case}");
    assert!(other.publish(&topic(&session, "ping"), "from the other", 2, false));
    assert_eq!(words(&device, "message"), json!(["message", "ping", "from the other", habits.qos]), "{case}");
    // The conductor heard both, and from whom.
    let heard =
        until("the conductor to hear", || Some(host.ask(&session, "heard", "")).filter(|heard| heard.as_array().unwrap().len() >= 2));
    assert_eq!((&heard[0]["sender"], &heard[1]["sender"]), (&json!("device"), &json!("other")), "{case}");
    device.tell(r#"["end"]"#);
    let (code, lines) = device.end();
    assert_eq!(code, Some(0), "{case}: {lines:?}");
}

#[test]
fn existing_devices_come_in_at_every_door() {
    let house = house("client_id");
    let mut tried = 0;
    for door in house.doors() {
        for (habits, paho, wires) in TABLE {
            if wires.contains(&door.wire) {
                talk(&door, *habits, *paho);
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 11);
}

#[test]
fn the_python_client_before_comes_in_by_the_sessions_id() {
    let house = house("session_id");
    for door in house.doors().iter().filter(|door| door.wire == Wire::Tcp) {
        for paho in [Paho::One, Paho::Two] {
            talk(door, PYTHON_BEFORE, paho);
        }
    }
}

#[test]
fn a_device_with_a_wrong_pin_takes_the_refusal_for_a_token_and_is_refused_again() {
    let house = house("client_id");
    for door in house.doors().iter().filter(|door| door.wire == Wire::Wss) {
        let mut session = door.host.create("echo");
        session.pin = if session.pin == "000000" { "000001" } else { "000000" }.into();
        let device = clients::device(PYTHON, Paho::One, door, &session);
        // 4 is MQTT 3.1.1's: bad username or password.
        assert_eq!(said(&device, "connected"), 4, "{}", door.name);
    }
}

#[test]
fn pages_in_a_browser_come_in_at_every_door() {
    let house = house("client_id");
    let doors = house.doors();
    let mut cases = Vec::new();
    for door in doors.iter().filter(|door| door.wire == Wire::Wss) {
        for library in ["mqtt.js", "paho"] {
            let session = door.host.create("echo");
            let other = other(door.host, &session, "other");
            cases.push((format!("{library}, {}", door.name), library, door, session, other));
        }
    }
    let told = cases.iter().map(|(_, library, door, session, _)| {
        let (address, port) = (door.mqtt.ip().to_string(), door.mqtt.port());
        json!({"library": library, "join": door.join, "host": address, "port": port, "session": session.id, "pin": session.pin, "client": "page"})
    });
    let browser = Browser::open(&house.authorities(), &Value::from_iter(told));
    for (case, _, _, session, other) in &mut cases {
        assert_eq!(browser.report(), json!(["joined", 3]), "{case}");
        assert_eq!(browser.report(), json!(["subscribed"]), "{case}");
        assert!(other.publish(&topic(session, "other"), "from the other", 2, false));
        let expected = [[topic(session, "other"), "from the other".into()], [topic(session, "own"), "from the page, ünïcode".into()]];
        assert_eq!(browser.report(), json!(["heard", expected[0], expected[1]]), "{case}");
        let heard = [other.heard(), other.heard()];
        assert!(heard.contains(&(topic(session, "own"), "from the page, ünïcode".into())), "{case}: {heard:?}");
    }
    assert_eq!(browser.report(), json!(["done"]));
    assert_eq!(cases.len(), 8);
    // A page of another origin asks first.
    for door in doors {
        let asked = door.host.log().contains(r#""method":"OPTIONS","path":"/api/joinSession""#);
        assert!(asked, "the browser sent no preflight to {}", door.name);
    }
}
