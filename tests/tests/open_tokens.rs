//! `token.mode = "none"`: a join is answered with the client's own name, and that name is all that MQTT asks for.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, PATIENCE, Session, Version, Way, http,
    mqtt::{EVERY_WAY, topic},
    tools::Program,
    until,
};
use serde_json::{Value, json};

fn open() -> HostOptions {
    HostOptions::default().set("token.mode", json!("none")).plugin("echo", "conductor_test_echo")
}

/// Joins as existing clients do: the whole answer.
fn join(host: &Host, session: &Session, client: &str) -> Value {
    host.join_raw(&json!({"id": session.id, "pin": session.pin, "client": client}).to_string()).json()
}

fn join_v1(host: &Host, session: &Session, client: &str) -> Value {
    let answer =
        http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &json!({"pin": session.pin, "client": client}).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// A device as existing clients are: client id, username and token are one name.
fn device(host: &Host, version: Version, way: Way, client: &str) -> Mqtt {
    Mqtt::connect(host, version, way, &Credentials::new(client, client, client)).unwrap_or_else(|why| panic!("{client}: {why}"))
}

/// Which of these sessions a connection with this username gets into.
fn session_of(host: &Host, client: &str, username: &str, sessions: &[&Session]) -> String {
    let mut mqtt = Mqtt::connect(host, Version::V311, Way::Tcp, &Credentials::new(client, username, "")).unwrap();
    let granted: Vec<_> = sessions.iter().filter(|session| mqtt.subscribe(&topic(session, "#"), 1)).collect();
    mqtt.disconnect();
    assert_eq!(granted.len(), 1, "{client} as {username}");
    granted[0].id.clone()
}

/// The answer to a CONNECT of this level, with what is there of client id, username, password and will topic.
fn connack(host: &Host, level: u8, client: &str, username: Option<&str>, password: Option<&str>, will: Option<&str>) -> Vec<u8> {
    let flags = 0x02 | u8::from(username.is_some()) << 7 | u8::from(password.is_some()) << 6 | u8::from(will.is_some()) << 2;
    let mut body = [b"\x00\x04MQTT".as_slice(), &[level, flags, 0, 30]].concat();
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    body.extend(properties);
    let mut put = |text: &str| {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    };
    put(client);
    if let Some(will) = will {
        assert_eq!(level, 4, "will properties are not written");
        put(will);
        put("gone");
    }
    username.into_iter().chain(password).for_each(put);
    let mut stream = TcpStream::connect(host.mqtt.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0x10, u8::try_from(body.len()).unwrap()]).and_then(|()| stream.write_all(&body)).unwrap();
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest).unwrap();
    [head.to_vec(), rest].concat()
}

const REFUSED: [(u8, &[u8]); 2] = [(4, &[0x20, 2, 0, 0x04]), (5, &[0x20, 3, 0, 0x86, 0])];

#[test]
fn a_join_answers_the_clients_own_name_and_nothing_is_signed() {
    for rule in ["session_id", "client_id"] {
        let host = Host::start(open().set("mqtt.username", json!(rule)));
        let session = host.create("default");
        for client in ["a", "späce unit", "客户端"] {
            assert_eq!(join(&host, &session, client), json!({"token": client}));
        }
        let answer = join_v1(&host, &session, "b");
        let username = if rule == "session_id" { session.id.as_str() } else { "b" };
        assert_eq!((&answer["token"], &answer["client_id"], &answer["username"]), (&json!("b"), &json!("b"), &json!(username)));
        assert_eq!(answer["expires_at"], host.show(&session).json()["clients"][3]["expires_at"]);
        // What is refused with tokens is refused without.
        let wrong = json!({"token": "Could not validate session credentials"});
        let stranger = Session { pin: "000".into(), ..session.clone() };
        assert_eq!(join(&host, &stranger, "a"), wrong);
        for client in ["iotserver", "IOTSERVER", "a/b", ""] {
            assert_eq!(join(&host, &session, client), wrong);
        }
        assert_eq!(host.clients(&session), ["a", "späce unit", "客户端", "b"]);
        let files: Vec<_> = host.state_folder().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(files.iter().all(|name| !name.to_string_lossy().contains("token-key")), "{files:?}");
        let log = host.log();
        let warned = log.lines().find(|line| line.contains("MQTT is not authenticated")).unwrap_or_else(|| panic!("{log}"));
        assert!(warned.contains("WARN") && warned.contains("token.mode"), "{warned}");
    }
    assert!(!Host::start(HostOptions::default()).log().contains("not authenticated"));
}

#[test]
fn a_client_that_joined_connects_whatever_it_shows_beside_its_name() {
    let host = Host::start(open());
    for (version, way) in EVERY_WAY {
        let session = host.create("echo");
        join(&host, &session, "unit 7");
        join(&host, &session, "b");
        let mut b = device(&host, version, way, "b");
        assert!(b.subscribe(&topic(&session, "#"), 2));
        for (username, password) in
            [("unit 7", "unit 7"), (session.id.as_str(), "unit 7"), ("nonsense", "unit 7"), ("unit 7", "wrong"), ("unit 7", "")]
        {
            let credentials = Credentials::new("unit 7", username, password);
            let mut unit = Mqtt::connect(&host, version, way, &credentials).unwrap_or_else(|why| panic!("{credentials:?}: {why}"));
            assert!(unit.subscribe(&topic(&session, "#"), 2));
            assert!(unit.publish(&topic(&session, "x"), username, 2, false));
            assert_eq!(b.heard(), (topic(&session, "x"), username.into()), "{version:?} {way:?}");
            assert_eq!(unit.heard().1, username);
            unit.disconnect();
        }
        let heard = host.ask(&session, "heard", "");
        assert!(heard.as_array().unwrap().iter().all(|message| message["sender"] == "unit 7"), "{heard}");
        host.close(&session);
        b.gone();
    }
    let session = host.create("echo");
    join(&host, &session, "a");
    let accepted = |client, username, password| connack(&host, 4, client, username, password, None) == [0x20, 2, 0, 0];
    assert!(accepted("a", None, None) && accepted("a", Some("a"), None) && accepted("a", Some(&session.id), Some("x")));
    // A client that leaves its id to the broker is known by its username.
    assert!(accepted("", Some("a"), Some("a")));
    assert!(!accepted("", Some(&session.id), Some("a")) && !accepted("", None, None));
    // As is one that makes up an id for each connection, as Unity's existing clients do.
    assert!(accepted("9d2c9a4e-2b1f-4f0e-8f5e-1c6c1f4b7a10", Some("a"), Some("a")));
    assert!(!accepted("9d2c9a4e-2b1f-4f0e-8f5e-1c6c1f4b7a10", Some(&session.id), Some("a")));
}

#[test]
fn who_joined_nothing_is_refused() {
    let host = Host::start(open());
    let (session, closed) = (host.create("default"), host.create("default"));
    join(&host, &session, "a");
    join(&host, &closed, "gone");
    host.close(&closed);
    for (level, refusal) in REFUSED {
        for client in ["b", "A", "gone", "iotserver"] {
            for username in [client, &session.id, &closed.id, "z"] {
                assert_eq!(connack(&host, level, client, Some(username), Some("a"), None), refusal, "{client} as {username}");
            }
        }
    }
    assert_eq!(connack(&host, 4, "a", Some("a"), None, Some(&topic(&closed, "will"))), [0x20, 2, 0, 0x05], "a will for another session");
    until("the reason in the log", || host.log().contains("no client of this name is in a live session").then_some(()));
}

#[test]
fn a_client_of_two_sessions_is_in_the_one_it_names_or_else_joined_last() {
    let mut host = Host::start(open());
    let [first, second, third] = [(); 3].map(|()| host.create("default"));
    let sessions = [&first, &second, &third];
    let into = |host: &Host, username: &str| session_of(host, "a", username, &sessions);
    join(&host, &first, "a");
    assert_eq!(into(&host, "a"), first.id);
    join(&host, &second, "a");
    for (username, session) in [("a", &second), (&first.id, &first), (&second.id, &second), (&third.id, &second), ("x", &second)] {
        assert_eq!(into(&host, username), session.id, "{username}");
    }
    // Joined again, in a later second: only those does a restart tell apart.
    until("a later second", || {
        let again = join_v1(&host, &first, "a")["expires_at"].clone();
        let before = host.show(&second).json()["clients"][0]["expires_at"].clone();
        (again.as_str().unwrap() > before.as_str().unwrap()).then_some(())
    });
    assert_eq!(into(&host, "a"), first.id);
    for restarted in [false, true] {
        if restarted {
            host.stop();
            host.start_again();
        }
        assert_eq!((into(&host, "a"), into(&host, &second.id)), (first.id.clone(), second.id.clone()), "{restarted}");
    }
    host.close(&first);
    assert_eq!((into(&host, "a"), into(&host, &first.id)), (second.id.clone(), second.id.clone()));
    host.close(&second);
    assert_eq!(connack(&host, 4, "a", Some("a"), Some("a"), None), REFUSED[0].1);
}

#[test]
fn sessions_stay_apart() {
    let host = Host::start(open());
    for (version, way) in EVERY_WAY {
        let (mine, other) = (host.create("echo"), host.create("echo"));
        join(&host, &mine, "a");
        join(&host, &other, "b");
        let (mut a, mut b) = (device(&host, version, way, "a"), device(&host, version, way, "b"));
        assert!(b.subscribe(&topic(&other, "#"), 1));
        for filter in [topic(&other, "#"), topic(&other, "x"), "#".into(), "/#".into(), "/+/x".into()] {
            assert!(!a.subscribe(&filter, 1), "{version:?} {way:?} {filter}");
        }
        // Version 3.1.1 has no way to say no.
        assert_eq!(a.publish(&topic(&other, "x"), "from outside", 1, false), version == Version::V311);
        assert!(b.publish(&topic(&other, "x"), "from inside", 1, false));
        assert_eq!(b.heard().1, "from inside");
        // The same client in both: neither takes the other's place.
        join(&host, &other, "a");
        let mut twin = device(&host, version, way, "a");
        assert!(twin.subscribe(&topic(&other, "#"), 1) && a.subscribe(&topic(&mine, "#"), 1));
        assert!(a.publish(&topic(&mine, "x"), "still here", 1, false));
        assert_eq!(a.heard().1, "still here");
        host.close(&mine);
        host.close(&other);
    }
}

#[test]
fn a_connection_ends_with_the_join_that_let_it_in() {
    let host = Host::start(open().set("token.ttl", json!("2s")));
    let session = host.create("default");
    join(&host, &session, "a");
    let mut a = device(&host, Version::V5, Way::Tcp, "a");
    a.gone();
    for (level, refusal) in REFUSED {
        assert_eq!(connack(&host, level, "a", Some(&session.id), Some("a"), None), refusal);
    }
    join(&host, &session, "a");
    device(&host, Version::V5, Way::Tcp, "a");
}

/// As the Python clients of the replaced system are, but for TLS: joins, then shows one name three times, over WebSocket.
const PYTHON: &str = r#"
import sys, json, urllib.request, paho.mqtt.client as mqtt
iot, port, session, pin, name = sys.argv[1:6]
body = json.dumps({"id": session, "pin": pin, "client": name}).encode()
token = json.load(urllib.request.urlopen(f"http://{iot}/api/joinSession", body))["token"]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, transport="websockets")
client.ws_set_options(path="/mqtt")
client.username_pw_set(name, token)
def say(*what): print(json.dumps(what), flush=True)
def connected(client, userdata, flags, reason, properties):
    say("connected", token, reason.is_failure)
    client.subscribe(f"/{session}/#")
client.on_connect = connected
client.on_subscribe = lambda client, userdata, mid, reasons, properties: (say("subscribed", [not r.is_failure for r in reasons]), client.publish(f"/{session}/hello", name))
client.on_message = lambda client, userdata, m: say(m.topic.split("/")[2], m.payload.decode())
client.connect("127.0.0.1", int(port), 30)
client.loop_forever()
"#;

#[test]
fn a_python_client_of_the_replaced_system_works() {
    let host = Host::start(open().set("mqtt.username", json!("client_id")));
    let session = host.create("echo");
    let (iot, port) = (host.iot.to_string(), host.mqtt_websocket.unwrap().port().to_string());
    let python = Program::python(PYTHON, &[("paho.mqtt.client", "paho-mqtt")], &[&iot, &port, &session.id, &session.pin, "späce unit"]);
    for line in [json!(["connected", "späce unit", false]), json!(["subscribed", [true]]), json!(["hello", "späce unit"])] {
        assert_eq!(serde_json::from_str::<Value>(&python.line()).unwrap(), line);
    }
    join(&host, &session, "b");
    assert!(device(&host, Version::V311, Way::WebSocket, "b").publish(&topic(&session, "back"), "hi", 2, false));
    assert_eq!(serde_json::from_str::<Value>(&python.line()).unwrap(), json!(["back", "hi"]));
    assert_eq!(host.ask(&session, "heard", "")[0]["sender"], "späce unit");
}
