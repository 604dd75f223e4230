//! Clients that are slow, silent or many: the others are answered. And what a drain owes to those who are there.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use conductor_tests::{
    Host, HostOptions, Version, Way, http,
    mqtt::{device, topic},
    until,
};
use serde_json::json;

/// How long another client's request may take while the host is under attack: less than the first of those that are slow on purpose may, or else it may have waited for them.
const PROMPT: Duration = Duration::from_secs(4);

fn strict() -> HostOptions {
    HostOptions::default().set("joins.exempt", json!("")).set("log.level", json!("warn"))
}

fn of(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0000 + u32::try_from(number).unwrap()))
}

/// A connection from this source, which is one of 127/8.
fn from(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// Others join, in time.
fn others_are_served(host: &Host, session: &conductor_tests::Session) {
    for round in 0..20 {
        let begun = Instant::now();
        host.join(session, &format!("other-{round}"));
        assert_eq!(http::get(host.admin, "/livez").status, 200);
        assert!(begun.elapsed() < PROMPT, "round {round} took {:?}", begun.elapsed());
    }
}

/// Until the other side closes: what it said.
fn to_the_end(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => said.extend(&bytes[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("it is not closed: {error}"),
        }
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn slow_heads_and_slow_bodies_are_cut_in_time_and_others_are_served() {
    // Some places more than the slow ones take.
    let host = Host::start(strict().set("iot.connections", json!(410)));
    let session = host.create("default");
    let all_began = Barrier::new(3);
    thread::scope(|scope| {
        let slow = [
            ("POST /api/joinSession HTTP/1.1\r\nHost: x\r\n", "X", Duration::from_secs(5)),
            ("POST /api/joinSession HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n", " ", Duration::from_secs(10)),
        ];
        let slow: Vec<_> = slow
            .into_iter()
            .map(|(begin, byte, least)| {
                let (host, all_began) = (&host, &all_began);
                scope.spawn(move || {
                    let mut streams: Vec<_> = (0..200).map(|n| from(of(n), host.iot).unwrap()).collect();
                    let begun = Instant::now();
                    streams.iter_mut().for_each(|stream| stream.write_all(begin.as_bytes()).unwrap());
                    all_began.wait();
                    let mut first_cut = None;
                    // A byte of each in turn, until all are cut: about one in a quarter of a second.
                    until("all slow ones to be cut", || {
                        thread::sleep(Duration::from_millis(250));
                        streams.retain_mut(|stream| stream.write_all(byte.as_bytes()).is_ok());
                        if streams.len() < 200 {
                            first_cut.get_or_insert_with(|| begun.elapsed());
                        }
                        streams.is_empty().then_some(())
                    });
                    let first_cut = first_cut.unwrap();
                    assert!(first_cut >= least - Duration::from_secs(1), "cut after {first_cut:?} only");
                })
            })
            .collect();
        all_began.wait();
        others_are_served(&host, &session);
        slow.into_iter().for_each(|slow| slow.join().unwrap());
    });
    others_are_served(&host, &session);
}

#[test]
fn five_thousand_idle_connections_hold_nobody_up_and_are_closed() {
    let descriptors = 12_000;
    let limit = rustix::process::Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("this machine lets a process have 12,000 files");
    let host = Host::start(strict());
    let session = host.create("default");
    let idle: Vec<TcpStream> = (0..5_000).map(|n| from(of(n % 50), host.iot).unwrap()).collect();
    others_are_served(&host, &session);
    // They are closed after 15 s: the first ones, since the opening took some time itself.
    for stream in idle.into_iter().step_by(500) {
        assert_eq!(to_the_end(stream), "");
    }
    others_are_served(&host, &session);
}

#[test]
fn a_flood_of_connections_is_answered_503_and_other_sources_are_served() {
    let host = Host::start(strict().set("iot.connections_per_source", json!(10)).set("mqtt.connections_per_source", json!(10)));
    let session = host.create("default");
    let (done, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let kept: Vec<TcpStream> = (0..10).map(|_| from(of(1), host.iot).unwrap()).collect();
        let mqtt: Vec<TcpStream> = (0..10).map(|_| from(of(1), host.mqtt.unwrap()).unwrap()).collect();
        until("the places to be taken", || {
            let mut one = from(of(1), host.iot).unwrap();
            let _ = one.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            to_the_end(one).starts_with("HTTP/1.1 503 ").then_some(())
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let answer = from(of(1), host.iot).map(to_the_end).unwrap_or_default();
                if answer.contains("Retry-After: 5\r\nConnection: close\r\n") {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(to_the_end(from(of(1), host.mqtt.unwrap()).unwrap()), "", "beyond its places at the MQTT gate");
        others_are_served(&host, &session);
        until("many to be refused", || (refused.load(Ordering::Relaxed) > 100).then_some(()));
        let _other = device(&host, &session, "other", Version::V5, Way::Tcp);
        done.store(true, Ordering::Relaxed);
        drop((kept, mqtt));
    });
    until("the places to be free", || {
        let mut one = from(of(1), host.iot).unwrap();
        let _ = one.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        to_the_end(one).starts_with("HTTP/1.1 200 ").then_some(())
    });
}

#[test]
fn behind_a_trusted_proxy_each_client_of_mqtt_counts_for_itself() {
    let host = Host::start(strict().set("mqtt.connections_per_source", json!(1)).set("iot.trusted_proxies", json!("127.1.0.1")));
    let upgrade = |source: usize, client: &str| {
        let mut stream = from(of(source), host.iot).unwrap();
        let head = format!(
            "GET /mqtt HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
    };
    let behind = [upgrade(1, "192.0.2.1"), upgrade(1, "192.0.2.2"), upgrade(1, "192.0.2.1")];
    assert_eq!(behind.each_ref().map(|(status, _)| status.as_str()), ["101", "101", "503"]);
    // What somebody else says of whom it speaks for is not believed.
    let alone = [upgrade(2, "192.0.2.3"), upgrade(2, "192.0.2.4")];
    assert_eq!(alone.each_ref().map(|(status, _)| status.as_str()), ["101", "503"]);
}

#[test]
fn heads_and_bodies_that_are_too_large_are_refused_and_others_are_served() {
    let host = Host::start(strict());
    let session = host.create("default");
    let headers = |count| format!("GET /livez HTTP/1.1\r\n{}Connection: close\r\n\r\n", "X: y\r\n".repeat(count));
    let bodies = |length: usize| {
        format!("POST /api/joinSession HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}", " ".repeat(5_000))
    };
    for (request, status) in [(headers(31), 200), (headers(32), 431), (bodies(5_000), 413), (bodies(1 << 40), 413)] {
        let mut stream = from(of(1), host.iot).unwrap();
        // It may be refused before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let answer = to_the_end(stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    others_are_served(&host, &session);
}

/// An MQTT 5 connection by hand, to see the packet that no library shows.
fn raw_mqtt_5(host: &Host, session: &conductor_tests::Session) -> TcpStream {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let token = host.join(session, "raw");
    let body = [&text("MQTT")[..], &[5, 0xc2, 0, 0, 0], &text("raw"), &text(&session.id), &text(&token)].concat();
    let length = [u8::try_from(body.len() & 0x7f).unwrap() | 0x80, u8::try_from(body.len() >> 7).unwrap()];
    let mut stream = TcpStream::connect(host.mqtt.unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&[&[0x10][..], &length, &body].concat()).unwrap();
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut connack = vec![0; head[1].into()];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!((head[0], connack[1]), (0x20, 0), "{connack:?}");
    stream
}

/// A join, by `/v1` and with the pin; the connection stays open.
fn join_text(session: &conductor_tests::Session, client: &str) -> String {
    let body = json!({"client": client, "pin": session.pin}).to_string();
    let head = format!("POST /v1/sessions/{}/join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json", session.id);
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The status line of the next answer; what the system says where there is none.
fn status(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = [0; 4096];
    match stream.read(&mut answer) {
        Ok(read) => String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or("nothing").to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Devices join and messages go, conductors count what they are asked and save it, and in the midst of it the host is told to end: who has asked is
/// answered whole, and what was acknowledged is there afterwards.
#[test]
fn a_drain_under_load_drops_no_request_and_saves_all_state() {
    let mut host = Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"));
    let sessions: Vec<_> = (0..8).map(|_| host.create("echo")).collect();
    let mut told = device(&host, &sessions[0], "told", Version::V5, Way::Tcp);
    let mut older = device(&host, &sessions[0], "older", Version::V311, Way::Tcp);
    assert!(told.subscribe(&topic(&sessions[0], "waiting"), 0));
    let mut raw = raw_mqtt_5(&host, &sessions[0]);
    let (begun, dropped) = (Instant::now(), AtomicUsize::new(0));
    let (signalled, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kept = thread::scope(|scope| {
        let go = host.folder().join("go");
        let waiting = scope.spawn({
            let (host, session, go) = (&host, &sessions[0], go.clone());
            move || host.request(session, "wait_for", json!(go))
        });
        assert_eq!(told.heard().1, "", "it is under way");
        let loads: Vec<_> = sessions[1..]
            .iter()
            .map(|session| {
                let (host, dropped, signalled, rounds) = (&host, &dropped, &signalled, &rounds);
                scope.spawn(move || {
                    let mut last = 0;
                    for number in 1_u64.. {
                        // Told to end before this one was sent: what becomes of it is not the drain's.
                        let before = signalled.load(Ordering::SeqCst);
                        let body = json!({"method": "keep", "params": {"number": number, "bytes": 100}}).to_string();
                        match http::try_post(host.admin, &format!("/v1/sessions/{}/requests", session.id), &body) {
                            Ok(answer) if answer.status == 200 => last = number,
                            Ok(answer) => {
                                assert!(matches!(answer.status, 503 | 410), "{answer:?}");
                                return last;
                            }
                            Err(_) => {
                                if !before {
                                    dropped.fetch_add(1, Ordering::SeqCst);
                                }
                                return last;
                            }
                        }
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                    last
                })
            })
            .collect();
        until("the load", || (rounds.load(Ordering::SeqCst) > 100).then_some(()));
        // Those who ask at the moment of the signal: on connections that are there already, and on new ones.
        let mut joining: Vec<_> = (0..20).map(|_| TcpStream::connect(host.iot).unwrap()).collect();
        for stream in &mut joining {
            stream.write_all(join_text(&sessions[1], "joining").as_bytes()).unwrap();
            assert_eq!(status(stream), "HTTP/1.1 200 OK");
        }
        host.frozen(|| {
            joining.extend((0..50).map(|_| TcpStream::connect(host.iot).unwrap()));
            for stream in &mut joining {
                stream.write_all(join_text(&sessions[1], "joining").as_bytes()).unwrap();
            }
            host.signal_to_end();
        });
        until("the drain", || (host.admin("/readyz").status == 503).then_some(()));
        signalled.store(true, Ordering::SeqCst);
        for stream in &mut joining {
            assert_eq!(status(stream), "HTTP/1.1 200 OK");
        }
        until("nobody new to be let in", || (TcpStream::connect(host.iot).is_err()).then_some(()));
        std::fs::write(&go, "").unwrap();
        let answer = waiting.join().unwrap();
        assert_eq!(answer.status, 200, "what was under way comes to its end: {answer:?}");
        loads.into_iter().map(|load| load.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "requests that were in flight were cut off");
    told.gone();
    let mut last = Vec::new();
    raw.read_to_end(&mut last).unwrap();
    assert!(last.len() >= 3 && last[0] == 0xe0 && last[2] == 0x8b, "MQTT 5 is told why: {last:02x?}");
    older.gone();
    assert_eq!(host.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20));
    host.start_again();
    for (session, last) in sessions[1..].iter().zip(kept) {
        let stored: u64 = host.ask(session, "kept", "").as_u64().unwrap();
        assert!(stored >= last, "{last} was acknowledged, {stored} is there");
    }
}
