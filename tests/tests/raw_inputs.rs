//! A hundred thousand connections that send nearly right bytes to the real host, on every port that devices and administrators have: nothing panics, each
//! connection ends, and memory stays as it was. What is sent is the same in every run.
#![cfg(target_os = "linux")]

// What makes the inputs of the host's own tests of single readers.
#[path = "../../host/src/fuzz/generator.rs"]
mod generator;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    thread,
};

use conductor_tests::{
    Host, HostOptions, PATIENCE, Session, Version, Way,
    mqtt::{device, topic},
};
use generator::{Generator, corpus, words};
use serde_json::json;

/// On each of the kinds of connection below.
const INPUTS: [usize; 6] = [20_000, 25_000, 20_000, 10_000, 5_000, 20_000];
/// How much more memory the host may hold at the end than after a tenth of the inputs.
const GROWTH: u64 = 64 << 20;

/// One kind of connection: where to, what is sent first and never changed, and what is made of these.
struct Kind {
    name: &'static str,
    to: SocketAddr,
    first: Vec<u8>,
    generator: Generator,
}

#[test]
fn a_hundred_thousand_connections_with_raw_inputs_harm_nobody() {
    // What one source may do is no part of this: nearly all inputs would be refused for their number alone.
    let options = HostOptions::default().set("log.level", json!("warn")).set("joins.exempt", json!(["127.0.0.0/8"]));
    let host = Host::start(options);
    let session = host.create("default");
    let mut kinds = kinds(&host, &session);
    assert_eq!(INPUTS.iter().sum::<usize>(), 100_000);
    let first = send_all(&mut kinds, |inputs| inputs / 10);
    let before = host.memory();
    let rest = send_all(&mut kinds, |inputs| inputs - inputs / 10);
    for (number, kind) in kinds.iter().enumerate() {
        let answered = first[number] + rest[number];
        eprintln!("{}: {answered} of {} were answered", kind.name, INPUTS[number]);
        assert!(answered > INPUTS[number] / 20, "{}: hardly anything was understood: {answered} answers", kind.name);
    }
    let after = host.memory();
    eprintln!("memory: {} MiB after a tenth, {} MiB at the end", before >> 20, after >> 20);
    assert!(after < before + GROWTH, "{before} bytes after a tenth, {after} at the end");
    let log = host.log();
    assert!(!log.contains("panicked"), "{}", log.lines().filter(|line| line.contains("panicked")).collect::<Vec<_>>().join("\n"));
    // Everything still works, on the session of before and on a new one.
    for session in [&session, &host.create("default")] {
        for (way, version) in [(Way::Tcp, Version::V5), (Way::WebSocket, Version::V311)] {
            let mut alive = device(&host, session, "alive", version, way);
            assert!(alive.subscribe(&topic(session, "x"), 1));
            assert!(alive.publish(&topic(session, "x"), "still here", 1, false));
            assert_eq!(alive.heard().1, "still here");
        }
    }
}

fn kinds(host: &Host, session: &Session) -> Vec<Kind> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/fuzz");
    let http_words =
        ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "Host: \r\n", "\r\n\r\n", "0\r\n\r\n"];
    let http_words = http_words.into_iter().chain(["Upgrade: websocket\r\n", "Origin: null\r\n", "Authorization: Bearer a.b.c\r\n"]);
    let http_words = http_words.chain([
        "X-Forwarded-For: 1.1.1.1, ::1, x\r\n",
        "HTTP/1.0",
        "HTTP/2.0",
        "GET ",
        "POST ",
        "OPTIONS ",
        "%00",
        "%ff",
        "//",
        "?",
    ]);
    let http_words: Vec<Vec<u8>> = http_words.map(Vec::from).chain(words(&fuzz, "query")).chain(words(&fuzz, "join")).collect();
    let connects = corpus(&fuzz, "connect");
    let connect_words = words(&fuzz, "connect");
    let upgrade = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".to_vec();
    let frames: Vec<_> =
        connects.iter().map(|packet| frame(2, packet)).chain([frame(1, b"text"), frame(9, b"ping"), frame(8, &[3, 232])]).collect();
    let make =
        |name, to, first, seeds, words: &Vec<_>, seed| Kind { name, to, first, generator: Generator::new(seeds, words.clone(), seed) };
    let websocket = host.mqtt_websocket.expect("a listener");
    let mqtt = host.mqtt.expect("a listener");
    let credentials = connect(session, &host.join(session, "device"));
    vec![
        make("admin", host.admin, Vec::new(), admin(session), &http_words, 1),
        make("iot", host.iot, Vec::new(), iot(session, &upgrade), &http_words, 2),
        make("mqtt", mqtt, Vec::new(), connects, &connect_words, 3),
        make("websocket", websocket, upgrade.clone(), frames.clone(), &connect_words, 4),
        make("websocket on the IoT port", host.iot, upgrade, frames, &connect_words, 5),
        make("mqtt of a device", mqtt, credentials, packets(session), &connect_words, 6),
    ]
}

/// Sends this part of the inputs on all kinds of connections at once; how many were answered by anything.
fn send_all(kinds: &mut [Kind], part: impl Fn(usize) -> usize) -> Vec<usize> {
    thread::scope(|scope| {
        let senders = kinds.iter_mut().zip(INPUTS.map(part)).map(|(kind, inputs)| scope.spawn(move || send(kind, inputs)));
        let senders: Vec<_> = senders.collect();
        senders.into_iter().map(|sender| sender.join().expect("no input that fails")).collect()
    })
}

fn send(kind: &mut Kind, inputs: usize) -> usize {
    let (mut input, mut answered) = (Vec::new(), 0);
    for number in 0..inputs {
        kind.generator.next(&mut input);
        match exchange(kind.to, &kind.first, &input) {
            Ok(bytes) => answered += usize::from(bytes > 0),
            Err(error) => panic!("{}, input {number}: {error}: \"{}\"", kind.name, input.escape_ascii()),
        }
    }
    answered
}

/// Sends all, says that nothing more comes, and reads to the end. Only a connection that does not end is an error: it may be cut at any time.
fn exchange(to: SocketAddr, first: &[u8], input: &[u8]) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let cut = |error: std::io::Error| match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    };
    stream.write_all(first).and_then(|()| stream.write_all(input)).and_then(|()| stream.shutdown(Shutdown::Write)).or_else(cut)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map(drop).or_else(cut)?;
    Ok(answer.len())
}

/// Requests of an administrator; none of them creates anything as it is.
fn admin(session: &Session) -> Vec<Vec<u8>> {
    let id = &session.id;
    let post = |path: &str, body: &str| format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let texts = [
        post("/v1/sessions", r#"{"type": "none", "lifetime": "1h"}"#),
        post(&format!("/v1/sessions/{id}/requests"), r#"{"method": "greet", "params": {"name": "a"}}"#),
        post("/v1/services/none/requests", r#"{"method": "x"}"#),
        format!("PATCH /v1/sessions/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 23\r\n\r\n{{\"empty_timeout\":\"none\"}}"),
        "DELETE /v1/sessions/000000/clients/a%20b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        get("/v1/sessions?limit=10&after=000000"),
        get(&format!("/api/conductorRequest?id={id}&method=greet&params=%7B%7D")),
        get("/api/createSession?type=none"),
        get("/api/closeSession?id=000000"),
        get("/v1/types/default") + &get("/v1/metrics") + &get("/readyz"),
        "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"typ\r\n9\r\ne\":\"x\"}  \r\n0\r\n\r\n"
            .to_owned(),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}

/// Requests of devices; none of them knows a pin.
fn iot(session: &Session, upgrade: &[u8]) -> Vec<Vec<u8>> {
    let body = json!({"id": session.id, "pin": "none", "client": "phone"}).to_string();
    let head = "Host: localhost\r\nContent-Type: application/json\r\nX-Forwarded-For: 192.0.2.1\r\n";
    let texts = [
        format!("POST /api/joinSession HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("POST /v1/sessions/{}/join HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", session.id, body.len()),
        format!(
            "POST /v1/sessions/{}/join HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            session.id,
            body.len()
        ),
        format!("OPTIONS /api/joinSession HTTP/1.1\r\n{head}Origin: https://example.org\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\n{head}\r\nGET /livez HTTP/1.0\r\n\r\n"),
    ];
    texts.into_iter().map(String::into_bytes).chain([upgrade.to_vec()]).collect()
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

/// A packet of MQTT; its body is shorter than 16 KiB.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let length = if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
    [vec![first], length, body.to_vec()].concat()
}

/// A CONNECT of MQTT 5 that is let in.
fn connect(session: &Session, token: &str) -> Vec<u8> {
    let head = [&text(b"MQTT")[..], &[5, 0b1100_0010, 0, 60, 0]].concat();
    packet(0x10, &[head, text(b"device"), text(session.id.as_bytes()), text(token.as_bytes())].concat())
}

/// What a device sends once it is connected.
fn packets(session: &Session) -> Vec<Vec<u8>> {
    let topic = text(format!("/{}/a", session.id).as_bytes());
    let subscribe = packet(0x82, &[&[0, 1, 0][..], &text(format!("/{}/#", session.id).as_bytes()), &[0b10_1101]].concat());
    let publish = |first, body: &[u8]| packet(first, &[&topic[..], body].concat());
    let properties = [&[20, 0x01, 1, 0x02, 0, 0, 0, 9, 0x23, 0, 1, 0x26, 0, 1][..], b"k", &[0, 1], b"v", &[0x0b, 1]].concat();
    vec![
        subscribe.clone(),
        [subscribe, publish(0x32, &[&[0, 2], &[0][..], b"hello"].concat())].concat(),
        publish(0x30, &[&properties[..], b"hello"].concat()),
        [publish(0x34, &[0, 3, 0, b'x']), packet(0x62, &[0, 3])].concat(),
        [packet(0xa2, &[&[0, 4, 0][..], &topic].concat()), packet(0xc0, &[]), packet(0xe0, &[0x04, 0])].concat(),
        [packet(0x40, &[0, 9]), packet(0x50, &[0, 9, 0x92, 0]), packet(0x70, &[0, 9]), packet(0xf0, &[0x18, 0])].concat(),
    ]
}

/// A masked frame of WebSocket, with a mask of zeros; its payload is shorter than 64 KiB.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let length = if length < 126 { vec![0x80 | length as u8] } else { [&[0xfe], &(length as u16).to_be_bytes()[..]].concat() };
    [vec![0x80 | opcode], length, vec![0; 4], payload.to_vec()].concat()
}
