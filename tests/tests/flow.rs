//! The whole way: create, join, talk over MQTT, be heard and answered by the conductor, close.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, PATIENCE, Session, Version, Way,
    mqtt::{EVERY_WAY, Message, device, topic},
    until,
};
use serde_json::{Value, json};

fn host() -> Host {
    Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"))
}

fn plain(host: &Host, session: &Session, client: &str) -> Mqtt {
    device(host, session, client, Version::V5, Way::Tcp)
}

/// What the conductor `echo` heard so far, once it is this many messages.
fn heard(host: &Host, session: &Session, count: usize) -> Vec<Value> {
    until("the conductor to hear", || {
        let heard = host.ask(session, "heard", "");
        let heard = heard.as_array().unwrap_or_else(|| panic!("{heard}")).clone();
        (heard.len() >= count).then_some(heard)
    })
}

#[test]
fn devices_and_their_conductor_talk_until_the_session_is_closed() {
    for (version, way) in EVERY_WAY {
        let host = host();
        let session = host.create("echo");
        let (token_a, token_b) = (host.join(&session, "a"), host.join(&session, "b"));
        let credentials_a = Credentials::new("a", &session.id, &token_a);
        let mut a = Mqtt::connect(&host, version, way, &credentials_a).unwrap();
        let mut b = Mqtt::connect(&host, version, way, &Credentials::new("b", &session.id, &token_b)).unwrap();
        assert!(a.subscribe(&topic(&session, "#"), 2) && b.subscribe(&topic(&session, "#"), 2));
        for qos in 0..=2 {
            for payload in ["from a", "from b"] {
                let sender = if payload == "from a" { &mut a } else { &mut b };
                assert!(sender.publish(&topic(&session, "x"), payload, qos, false));
                // A sender that subscribed gets its own message back.
                for device in [&mut a, &mut b] {
                    let expected = Message { topic: topic(&session, "x"), payload: payload.into(), qos, retain: false };
                    assert_eq!(device.message(), expected, "{version:?} {way:?}");
                }
            }
        }
        let messages = heard(&host, &session, 6);
        let expected: Vec<_> = (0..=2)
            .flat_map(|qos| [("a", "from a", qos), ("b", "from b", qos)])
            .map(|(sender, payload, qos)| {
                json!({"name": "x", "payload": payload, "sender": sender, "qos": qos, "retain": false, "will": false})
            })
            .collect();
        assert_eq!(messages, expected, "{version:?} {way:?}");

        for qos in 0..=2 {
            let say = json!({"name": "said", "payload": format!("p{qos}"), "qos": qos});
            assert_eq!(host.request(&session, "say", say).json(), json!({"result": null}));
            for device in [&mut a, &mut b] {
                let expected = Message { topic: topic(&session, "said"), payload: format!("p{qos}"), qos, retain: false };
                assert_eq!(device.message(), expected);
            }
        }

        assert_eq!(host.close(&session), "Success");
        a.gone();
        b.gone();
        assert_eq!((a.rest(), b.rest()), (vec![], vec![]));
        Mqtt::connect(&host, version, way, &credentials_a).expect_err("the token of a closed session is refused");
        let body = json!({"id": session.id, "pin": session.pin, "client": "a"}).to_string();
        assert_eq!(host.join_raw(&body).json(), json!({"token": "Could not validate session credentials"}));
    }
}

#[test]
fn a_conductor_answers_and_does_not_hear_itself() {
    let host = host();
    let session = host.create("echo");
    let mut a = plain(&host, &session, "a");
    assert!(a.subscribe(&topic(&session, "answer"), 1));
    for number in 0..50 {
        assert!(a.publish(&topic(&session, "ask"), &number.to_string(), 1, false));
        assert_eq!(a.heard(), (topic(&session, "answer"), number.to_string()));
    }
    let heard = heard(&host, &session, 50);
    let payloads: Vec<_> = heard.iter().map(|message| message["payload"].as_str().unwrap().to_owned()).collect();
    assert_eq!(payloads, (0..50).map(|number| number.to_string()).collect::<Vec<_>>(), "in order, and nothing of its own");
}

#[test]
fn a_conductor_speaks_to_one_client() {
    let host = host();
    let session = host.create("echo");
    let mut a = plain(&host, &session, "a");
    assert!(a.subscribe(&topic(&session, "to/a/#"), 1));
    assert_eq!(host.ask(&session, "clients", ""), json!(["a"]));
    let say = json!({"name": "n", "payload": "p", "client": "a", "qos": 1});
    assert_eq!(host.request(&session, "say", say).status, 200);
    assert_eq!(a.heard(), (topic(&session, "to/a/n"), "p".into()));
}

#[test]
fn a_task_of_a_conductor_speaks_until_the_session_is_closed_by_the_conductor() {
    let host = host();
    let session = host.create("echo");
    let mut a = plain(&host, &session, "a");
    assert!(a.subscribe(&topic(&session, "tick"), 0));
    host.request(&session, "spawn", json!({"millis": 5}));
    for tick in 0..5 {
        assert_eq!(a.heard().1, tick.to_string());
    }
    host.ask(&session, "close", "");
    a.gone();
    until("the session's end", || (host.show(&session).status == 404).then_some(()));
    assert!(host.log().contains("closing"), "close ran");
}

/// What a client of session 123456 may subscribe, and what not; `{id}` is the session, `{other}` another one.
const FILTERS: [(&str, bool); 22] = [
    ("/{id}/test", true),
    ("/{id}/#", true),
    ("/{id}/test/customtopic", true),
    ("/{id}/+", true),
    ("/{id}/+/x/#", true),
    ("$share/g//{id}/test", true),
    ("/test/customtopic", false),
    ("/#", false),
    ("#", false),
    ("+/x", false),
    ("+/{id}/#", false),
    ("/+/x", false),
    ("/+/#", false),
    ("/+", false),
    ("$SYS/#", false),
    ("/{id}7/x", false),
    ("/{id}", false),
    ("{id}/x", false),
    ("//{id}/x", false),
    ("/{other}/#", false),
    ("$share/g/#", false),
    ("$share/g//{other}/x", false),
];

const TOPICS: [(&str, bool); 10] = [
    ("/{id}/test", true),
    ("/{id}/test/customtopic", true),
    ("/test/customtopic", false),
    ("/", false),
    ("/{id}7/x", false),
    ("/{id}", false),
    ("{id}/x", false),
    ("$SYS/x", false),
    ("/{other}/x", false),
    ("/{other}/secret", false),
];

#[test]
fn a_client_reaches_its_session_and_nothing_else() {
    let host = host();
    for (version, way) in EVERY_WAY {
        let (mine, other) = (host.create("echo"), host.create("echo"));
        let fill = |text: &str| text.replace("{id}", &mine.id).replace("{other}", &other.id);
        let mut stranger = device(&host, &other, "a", version, way);
        let mut stranger_too = device(&host, &other, "b", version, way);
        assert!(stranger.subscribe(&topic(&other, "#"), 1));
        let mut a = device(&host, &mine, "a", version, way);
        for (filter, allowed) in FILTERS {
            let filter = fill(filter);
            assert_eq!(a.subscribe(&filter, 1), allowed, "{version:?} {way:?} {filter}");
            if allowed {
                a.unsubscribe(&filter);
            }
        }
        assert!(a.subscribe(&topic(&mine, "#"), 1));
        for (text, allowed) in TOPICS {
            for (qos, retain) in [(1, false), (2, false), (1, true)] {
                let accepted = a.publish(&fill(text), "p", qos, retain);
                // Version 3.1.1 has no way to say no.
                assert!(accepted == allowed || (version == Version::V311 && accepted), "{version:?} {way:?} {text} {qos} {retain}");
                if allowed {
                    assert_eq!(a.heard(), (fill(text), "p".into()));
                }
            }
        }
        // Whatever got through came before these.
        assert!(stranger_too.publish(&topic(&other, "end"), "", 1, false));
        assert_eq!(stranger.heard(), (topic(&other, "end"), String::new()), "{version:?} {way:?}");
        assert!(a.publish(&topic(&mine, "end"), "", 1, false));
        assert_eq!(a.heard(), (topic(&mine, "end"), String::new()), "{version:?} {way:?}");
        // Nothing was kept for those who subscribe later.
        assert!(stranger_too.subscribe(&topic(&other, "#"), 1));
        assert!(stranger.publish(&topic(&other, "end"), "", 1, false));
        assert_eq!(stranger_too.heard(), (topic(&other, "end"), String::new()), "{version:?} {way:?}");
        // The conductor of the other session heard its own clients alone.
        let names: Vec<_> = heard(&host, &other, 2).iter().map(|message| message["name"].clone()).collect();
        assert_eq!(names, ["end", "end"]);
    }
}

#[test]
fn a_last_will_outside_of_the_grant_is_refused_at_connect() {
    let host = host();
    let (mine, other) = (host.create("echo"), host.create("echo"));
    let token = host.join(&mine, "a");
    for (version, way) in EVERY_WAY {
        for (text, allowed) in TOPICS {
            let will = text.replace("{id}", &mine.id).replace("{other}", &other.id);
            let credentials = Credentials::new("a", &mine.id, &token).will(&will, "gone", false);
            let connected = Mqtt::connect(&host, version, way, &credentials);
            assert_eq!(connected.is_ok(), allowed, "{version:?} {way:?} {will}: {:?}", connected.err());
            if let Ok(connected) = connected {
                connected.disconnect();
            }
        }
    }
}

#[test]
fn a_last_will_is_sent_when_the_connection_is_cut_and_not_when_it_is_ended() {
    for (version, way) in EVERY_WAY {
        let host = host();
        let session = host.create("echo");
        let mut b = device(&host, &session, "b", version, way);
        assert!(b.subscribe(&topic(&session, "#"), 1));
        let token = host.join(&session, "a");
        let credentials = Credentials::new("a", &session.id, &token).will(&topic(&session, "will"), "gone", true);
        Mqtt::connect(&host, version, way, &credentials).unwrap().disconnect();
        Mqtt::connect(&host, version, way, &credentials).unwrap().cut();
        assert_eq!(b.heard(), (topic(&session, "will"), "gone".into()), "{version:?} {way:?}");
        let heard = heard(&host, &session, 1);
        assert_eq!((&heard[0]["will"], &heard[0]["sender"], &heard[0]["name"]), (&json!(true), &json!("a"), &json!("will")));
        // It was to be kept.
        let mut late = device(&host, &session, "late", version, way);
        assert!(late.subscribe(&topic(&session, "will"), 1));
        let message = late.message();
        assert_eq!((message.payload.as_str(), message.retain), ("gone", true));
    }
}

#[test]
fn retained_messages_are_kept_per_session_and_go_with_it() {
    let host = host();
    let session = host.create("echo");
    let mut a = plain(&host, &session, "a");
    assert!(a.publish(&topic(&session, "r"), "kept", 1, true));
    let say = json!({"name": "c", "payload": "of the conductor", "retain": true});
    assert_eq!(host.request(&session, "say", say).status, 200);
    for (version, way) in EVERY_WAY {
        let mut b = device(&host, &session, "b", version, way);
        for (name, payload) in [("r", "kept"), ("c", "of the conductor")] {
            assert!(b.subscribe(&topic(&session, name), 1));
            let message = b.message();
            assert_eq!((message.payload.as_str(), message.retain), (payload, true), "{version:?} {way:?}");
        }
        b.disconnect();
    }
    // An empty payload takes it back.
    assert!(a.publish(&topic(&session, "r"), "", 1, true));
    let mut late = plain(&host, &session, "late");
    assert!(late.subscribe(&topic(&session, "r"), 1));
    assert!(a.publish(&topic(&session, "r"), "now", 1, false));
    assert_eq!(late.heard().1, "now");
}

#[test]
fn a_stored_mqtt_session_gets_what_it_missed() {
    for version in [Version::V311, Version::V5] {
        let host = host();
        let session = host.create("echo");
        let token = host.join(&session, "a");
        let credentials = Credentials::new("a", &session.id, &token).persistent();
        let mut a = Mqtt::connect(&host, version, Way::Tcp, &credentials).unwrap();
        assert!(a.subscribe(&topic(&session, "x"), 1));
        a.disconnect();
        let mut b = plain(&host, &session, "b");
        assert!(b.publish(&topic(&session, "x"), "missed", 1, false));
        let mut a = Mqtt::connect(&host, version, Way::Tcp, &credentials).unwrap();
        assert_eq!(a.heard(), (topic(&session, "x"), "missed".into()), "{version:?}");
    }
}

#[test]
fn the_same_client_id_in_two_sessions_is_two_clients() {
    let host = host();
    for (version, way) in EVERY_WAY {
        let sessions = [host.create("echo"), host.create("echo")];
        let mut devices = sessions.each_ref().map(|session| device(&host, session, "same", version, way));
        for (device, session) in devices.iter_mut().zip(&sessions) {
            assert!(device.subscribe(&topic(session, "#"), 2));
        }
        for round in 0..3 {
            for (device, session) in devices.iter_mut().zip(&sessions) {
                let payload = format!("{round} {}", session.id);
                assert!(device.publish(&topic(session, "x"), &payload, 2, true));
                assert_eq!(device.heard(), (topic(session, "x"), payload), "{version:?} {way:?}");
            }
        }
        // Closing one leaves the other alone.
        host.close(&sessions[0]);
        devices[0].gone();
        assert!(devices[1].publish(&topic(&sessions[1], "x"), "still here", 1, false));
        assert_eq!(devices[1].heard().1, "still here");
    }
}

#[test]
fn the_same_client_in_one_session_takes_over() {
    let host = host();
    let session = host.create("echo");
    for (version, way) in EVERY_WAY {
        let mut first = device(&host, &session, "a", version, way);
        let mut second = device(&host, &session, "a", version, way);
        first.gone();
        assert!(second.subscribe(&topic(&session, "x"), 1));
    }
}

#[test]
fn false_credentials_are_refused() {
    let host = host();
    let (mine, other) = (host.create("echo"), host.create("echo"));
    let (token, other_token) = (host.join(&mine, "a"), host.join(&other, "a"));
    let token_b = host.join(&mine, "b");
    let unsigned = {
        let parts: Vec<_> = token.split('.').collect();
        format!("{}.{}.", parts[0], parts[1])
    };
    let reversed: String = token.chars().rev().collect();
    for (version, way) in EVERY_WAY {
        let connect = |client: &str, username: &str, password: &str| {
            Mqtt::connect(&host, version, way, &Credentials::new(client, username, password)).map(Mqtt::disconnect)
        };
        connect("a", &mine.id, &token).unwrap();
        for (client, username, password) in [
            ("a", mine.id.as_str(), ""),
            ("a", &mine.id, "nonsense"),
            ("a", &mine.id, &unsigned),
            ("a", &mine.id, &reversed),
            ("a", &mine.id, &other_token),
            ("a", &mine.id, &token_b),
            ("a", &other.id, &token),
            ("a", "a", &token),
            ("a", "", &token),
            ("b", &mine.id, &token),
            ("A", &mine.id, &token),
            ("iotserver", &mine.id, &token),
            ("a", &mine.id, &"x".repeat(9000)),
        ] {
            let refusal = connect(client, username, password);
            assert!(refusal.is_err(), "{version:?} {way:?} {client} {username} {password}");
        }
    }
    // Whoever names no client id gets the token's.
    let mut nameless = Mqtt::connect(&host, Version::V311, Way::Tcp, &Credentials::new("", &mine.id, &token)).unwrap();
    assert!(nameless.publish(&topic(&mine, "x"), "p", 1, false));
    assert_eq!(heard(&host, &mine, 1)[0]["sender"], "a");
}

#[test]
fn the_username_is_the_clients_name_where_the_settings_say_so() {
    let host = Host::start(HostOptions::default().set("mqtt.username", json!("client_id")));
    let session = host.create("default");
    let token = host.join(&session, "späce unit");
    for (version, way) in EVERY_WAY {
        let connect =
            |username: &str| Mqtt::connect(&host, version, way, &Credentials::new("späce unit", username, &token)).map(Mqtt::disconnect);
        connect("späce unit").unwrap();
        assert!(connect(&session.id).is_err());
        // The client id then says nothing: whatever it is, this is the client, and there is one connection of it.
        let with_id = |id: &str| Mqtt::connect(&host, version, way, &Credentials::new(id, "späce unit", &token)).unwrap();
        let (mut first, second) = (with_id("späce unit"), with_id("0f8fad5b"));
        first.gone();
        second.disconnect();
    }
}

#[test]
fn an_expired_token_is_refused_and_its_connection_ends() {
    let host = Host::start(HostOptions::default().set("token.ttl", json!("2s")));
    let session = host.create("default");
    let token = host.join(&session, "a");
    let credentials = Credentials::new("a", &session.id, &token);
    let mut a = Mqtt::connect(&host, Version::V5, Way::Tcp, &credentials).unwrap();
    a.gone();
    Mqtt::connect(&host, Version::V5, Way::Tcp, &credentials).expect_err("expired");
}

#[test]
fn without_a_broker_sessions_have_requests_and_joins() {
    let host = Host::start(HostOptions::default().set("mqtt.broker", json!("none")));
    assert_eq!((host.mqtt, host.mqtt_websocket), (None, None));
    let session = host.create("default");
    host.join(&session, "a");
    assert_eq!(host.ask(&session, "state", ""), "State");
    assert_eq!(host.close(&session), "Success");
}

/// A CONNECT of version 3.1.1 by hand.
fn connect_packet(client: &str, username: &str, password: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\xc2\x00\x1e".to_vec();
    for text in [client, username, password] {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    }
    packet(0x10, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    [bytes, body.to_vec()].concat()
}

fn raw_mqtt(host: &Host) -> TcpStream {
    let stream = TcpStream::connect(host.mqtt.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn what_no_library_sends_ends_the_connection_and_nothing_else() {
    let host = host();
    let session = host.create("echo");
    let mut witness = plain(&host, &session, "witness");
    assert!(witness.subscribe(&topic(&session, "#"), 1));
    let token = host.join(&session, "a");
    let wildcard = [b"\x00\x0a".as_slice(), format!("/{}/#x", session.id).as_bytes(), b"payload"].concat();
    for bytes in [
        [connect_packet("a", &session.id, &token), packet(0x30, &wildcard)].concat(),
        [connect_packet("a", &session.id, &token), connect_packet("a", &session.id, &token)].concat(),
        [connect_packet("a", &session.id, &token), vec![0xff; 100]].concat(),
        packet(0x30, b"\x00\x01xpayload"),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x10, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        vec![0; 100],
    ] {
        let mut stream = raw_mqtt(&host);
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well; a time-out is not.
        if let Err(e) = stream.read_to_end(&mut answer) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:x?}");
        }
    }
    let mut a = plain(&host, &session, "b");
    assert!(a.publish(&topic(&session, "end"), "", 1, false));
    assert_eq!(witness.heard().0, topic(&session, "end"));
}

#[test]
fn a_connection_that_stays_silent_is_closed() {
    let host = host();
    let started = std::time::Instant::now();
    let mut answer = Vec::new();
    raw_mqtt(&host).read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty() && started.elapsed() > Duration::from_secs(1), "{:?}", started.elapsed());
}
