//! TLS: MQTT, WebSocket and HTTPS with the host's own certificate, and what happens to those that do not speak it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, PATIENCE, Version, Way,
    certs::{Authority, Identity},
    host::run_refused,
    http,
    mqtt::{EVERY_TLS_WAY, device, topic},
    tls::{self, TLS12, Trust},
    tools::Program,
    until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An authority and a certificate of it for `localhost`, in files.
struct Certified {
    folder: TempDir,
    authority: Authority,
    identity: Identity,
}

fn certified() -> Certified {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    let identity = authority.issue(folder.path(), "host", &["localhost", "127.0.0.1"]);
    Certified { folder, authority, identity }
}

impl Certified {
    /// Everything that can be over TLS is.
    fn everywhere(&self) -> HostOptions {
        let options = HostOptions::default().plugin("echo", "conductor_test_echo");
        options.tls(&self.identity, Trust::new(&self.authority)).set("admin.tls", json!(true)).set("iot.tls", json!(true))
    }
}

fn every_port(host: &Host) -> [SocketAddr; 4] {
    [host.admin, host.iot, host.mqtt_tls.unwrap(), host.mqtt_websocket_tls.unwrap()]
}

#[test]
fn devices_talk_over_tls_in_every_way() {
    let host = Host::start(certified().everywhere());
    for version in [Version::V311, Version::V5] {
        let session = host.create("echo");
        let mut devices: Vec<Mqtt> = EVERY_TLS_WAY.iter().map(|way| device(&host, &session, &format!("{way:?}"), version, *way)).collect();
        for device in &mut devices {
            assert!(device.subscribe(&topic(&session, "#"), 2));
            assert!(!device.subscribe("/#", 0));
        }
        for speaker in 0..devices.len() {
            for qos in 0..=2_u8 {
                let said = format!("{speaker} {qos} {}", "x".repeat(9_000));
                devices[speaker].publish(&topic(&session, "said"), &said, qos, false);
                for device in &mut devices {
                    assert_eq!(device.heard(), (topic(&session, "said"), said.clone()), "{version:?}");
                }
            }
        }
        assert_eq!(host.ask(&session, "count", ""), 1, "the conductor hears them too: {version:?}");
        host.close(&session);
        for device in &mut devices {
            device.gone();
        }
    }
}

#[test]
fn a_join_tells_where_tls_is() {
    let certified = certified();
    let host = Host::start(certified.everywhere());
    let session = host.create("default");
    let join = |host: &Host| {
        let (target, body) = (format!("/v1/sessions/{}/join", session.id), json!({"pin": session.pin, "client": "a"}).to_string());
        host.trust().request(host.iot, "POST", &target, &[], &body).json()["mqtt"].clone()
    };
    let port = |address: Option<SocketAddr>| address.unwrap().port();
    assert_eq!(
        join(&host),
        json!({
            "iot_websocket": {"path": "/mqtt", "tls": true},
            "tcp": {"port": port(host.mqtt)},
            "websocket": {"port": port(host.mqtt_websocket), "path": "/mqtt"},
            "tls": {"port": port(host.mqtt_tls)},
            "websocket_tls": {"port": port(host.mqtt_websocket_tls), "path": "/mqtt"},
        })
    );
}

#[test]
fn other_peoples_clients_speak_tls_with_it() {
    let certified = certified();
    let host = Host::start(certified.everywhere());
    let ca = certified.authority.write(certified.folder.path());
    let ca = ca.to_str().unwrap();
    let session = host.create("default");
    let (token_m, token_p) = (host.join(&session, "m"), host.join(&session, "p"));
    let (port, everything) = (host.mqtt_tls.unwrap().port().to_string(), topic(&session, "#"));
    for version in ["mqttv311", "mqttv5"] {
        let common = ["-h", "localhost", "-p", &port, "--cafile", ca, "-u", &session.id, "-V", version];
        let listen = ["-i", "m", "-P", &token_m, "-t", &everything, "-q", "2", "-d", "-F", "heard %t %p"];
        let listener = Program::mosquitto("mosquitto_sub", &[&common[..], &listen].concat());
        listener.wait_for("Subscribed");
        let name = topic(&session, "x");
        let say = ["-i", "p", "-P", &token_p, "-t", &name, "-q", "2", "-m", "hello"];
        let (code, lines) = Program::mosquitto("mosquitto_pub", &[&common[..], &say].concat()).end();
        assert_eq!(code, Some(0), "{lines:?}");
        assert_eq!(listener.wait_for("heard"), format!("heard {name} hello"));
    }
    for (port, version) in [(host.admin, "--tlsv1.3"), (host.iot, "--tlsv1.2")] {
        let url = format!("https://localhost:{}/livez", port.port());
        let curl = |arguments: &[&str]| Command::new("curl").args(["-sS", "--max-time", "20", version]).args(arguments).arg(&url).output();
        let ended = curl(&["--cacert", ca]).unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(serde_json::from_slice::<Value>(&ended.stdout).unwrap(), json!({"status": "ok"}));
        assert_eq!(curl(&[]).unwrap().status.code(), Some(60), "without the authority it is not trusted");
    }
}

#[test]
fn what_does_not_fit_is_refused_on_every_port_and_the_next_is_served() {
    let certified = certified();
    let host = Host::start(certified.everywhere());
    let strangers = Trust::new(&Authority::new("another one"));
    let old = Trust::with_versions(&certified.authority, &[&TLS12]);
    for port in every_port(&host) {
        let refused = strangers.connect(port).unwrap_err().to_string();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        old.connect(port).unwrap();
        // MQTT passes over what is offered; the others choose.
        let mqtt = Some(port) == host.mqtt_tls;
        let browser = host.trust().clone().offering(&["h2", "http/1.1"]).connect(port).unwrap();
        assert_eq!(browser.conn.alpn_protocol(), (!mqtt).then_some(&b"http/1.1"[..]));
        assert_eq!(host.trust().clone().offering(&["mqtt"]).connect(port).is_ok(), mqtt);
        let mut plain = TcpStream::connect(port).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        plain.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (mut answer, peer) = (Vec::new(), plain.local_addr().unwrap());
        // What is read is an alert at most; a reset is an end as well.
        if let Err(error) = plain.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
        let said = until("a line about it", || {
            host.log()
                .lines()
                .find(|line| line.contains("closed before it spoke TLS") && line.contains(&peer.to_string()))
                .map(str::to_owned)
        });
        assert!(said.contains("\"DEBUG\""), "{said}");
        // Those without TLS are still there, and nothing of theirs is on this one.
        host.trust().connect(port).unwrap();
    }
    let session = host.create("default");
    let credentials = Credentials::new("a", &session.id, &host.join(&session, "a"));
    let plain = Mqtt::connect_to(host.mqtt_tls.unwrap(), Version::V311, Way::Tcp, &credentials);
    plain.expect_err("a client without TLS");
    let wrong = Mqtt::connect_over(host.mqtt_tls.unwrap(), Some(&strangers), Version::V5, Way::Tls, &credentials);
    assert!(wrong.unwrap_err().contains("UnknownIssuer"));
    device(&host, &session, "b", Version::V5, Way::Tcp).disconnect();
    device(&host, &session, "c", Version::V5, Way::WebSocket).disconnect();
}

#[test]
fn the_limits_hold_inside_of_tls_and_before() {
    let certified = certified();
    let host = Host::start(certified.everywhere().set("log.level", json!("error")));
    let in_time = |started: Instant| assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    thread::scope(|scope| {
        let mut silent = Vec::new();
        for port in every_port(&host) {
            for _ in 0..20 {
                silent.push(TcpStream::connect(port).unwrap());
            }
        }
        let started = Instant::now();
        for mut silent in silent {
            scope.spawn(move || {
                silent.set_read_timeout(Some(PATIENCE)).unwrap();
                assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed");
                in_time(started);
            });
        }
        scope.spawn(|| {
            let mut slow = host.trust().connect(host.iot).unwrap();
            slow.write_all(b"POST /api/joinSession HTTP/1.1\r\nHost: x\r\n").unwrap();
            let started = Instant::now();
            let _ = slow.read_to_end(&mut Vec::new());
            in_time(started);
        });
        scope.spawn(|| {
            let mut deaf = host.trust().connect(host.iot).unwrap();
            deaf.sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            http::ask_and_never_read(&mut deaf);
        });
        // Meanwhile nobody else waits.
        let session = host.create("default");
        let _device = device(&host, &session, "a", Version::V311, Way::Tls);
        assert!(started.elapsed() < Duration::from_secs(4), "the silent ones delayed others");
        let long = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(20 << 10));
        let mut stream = host.trust().connect(host.iot).unwrap();
        stream.write_all(long.as_bytes()).unwrap();
        assert!(tls::rest(&mut stream).starts_with(b"HTTP/1.1 431 "));
    });
}

#[test]
fn sighup_gives_new_connections_the_new_certificate() {
    let certified = certified();
    let Certified { folder, identity, .. } = &certified;
    let host = Host::start(certified.everywhere());
    let session = host.create("default");
    let mut before = device(&host, &session, "before", Version::V5, Way::Tls);
    assert!(before.subscribe(&topic(&session, "#"), 1));
    let mut kept = host.trust().connect(host.iot).unwrap();
    let reload = |lines: usize, word: &str| {
        host.signal_to_reload();
        until(word, || (host.log().matches(word).count() == lines).then_some(()));
    };
    let (stays, read) = ("the certificate stays as it was", "new connections get the certificate");

    // Broken in several ways: the old one is kept, and it is said.
    let good = [fs::read(&identity.cert).unwrap(), fs::read(&identity.key).unwrap()];
    fs::write(&identity.cert, "nonsense").unwrap();
    reload(1, stays);
    fs::write(&identity.cert, &good[0]).unwrap();
    fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o644)).unwrap();
    reload(2, stays);
    fs::remove_file(&identity.key).unwrap();
    reload(3, stays);
    let log = host.log();
    for (word, file) in [("no certificate is in the file", &identity.cert), ("chmod 600", &identity.key), ("no such file", &identity.key)] {
        let named = |line: &&str| line.contains(word) && line.contains(file.to_str().unwrap()) && line.contains("\"ERROR\"");
        assert!(log.lines().any(|line| named(&line)), "{word}");
    }
    for port in every_port(&host) {
        host.trust().connect(port).unwrap();
    }

    // From another authority altogether.
    let other = Authority::new("another one");
    let new = other.issue(folder.path(), "host", &["localhost"]);
    assert_eq!(new.cert, identity.cert, "it is in the same files");
    reload(1, read);
    for port in every_port(&host) {
        let refused = host.trust().connect(port).unwrap_err().to_string();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        Trust::new(&other).connect(port).unwrap();
    }
    // What was there goes on.
    assert!(before.publish(&topic(&session, "still"), "here", 1, false));
    assert_eq!(before.heard(), (topic(&session, "still"), "here".to_owned()));
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(tls::rest(&mut kept).starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn sighup_without_tls_ends_nothing() {
    let mut host = Host::start(HostOptions::default());
    host.signal_to_reload();
    until("the host to have heard it", || host.log().contains("there is no certificate").then_some(()));
    host.create("default");
    host.stop();
}

#[test]
fn a_host_that_stops_ends_what_is_over_tls() {
    let mut host = Host::start(certified().everywhere());
    let session = host.create("echo");
    let mut devices: Vec<Mqtt> = EVERY_TLS_WAY.iter().map(|way| device(&host, &session, &format!("{way:?}"), Version::V5, *way)).collect();
    assert!(devices[0].subscribe(&topic(&session, "waiting"), 0));
    let idle: Vec<_> = [host.admin, host.iot].iter().map(|port| host.trust().connect(*port).unwrap()).collect();
    let stalled: Vec<_> = every_port(&host).iter().map(|port| TcpStream::connect(port).unwrap()).collect();
    let mut under_way = host.trust().connect(host.admin).unwrap();
    let body = json!({"method": "wait", "params": {"millis": 1000}}).to_string();
    let head =
        format!("POST /v1/sessions/{}/requests HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", session.id, host.admin, body.len());
    under_way.write_all(format!("{head}{body}").as_bytes()).unwrap();
    devices[0].heard();
    let started = Instant::now();
    host.signal_to_end();
    let answer = tls::rest(&mut under_way);
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    for device in &mut devices {
        device.gone();
    }
    for mut idle in idle {
        assert_eq!(tls::rest(&mut idle), b"");
    }
    assert!(host.wait().success());
    assert!(started.elapsed() < Duration::from_secs(4), "it did not wait for handshakes: {:?}", started.elapsed());
    drop(stalled);
}

/// Starts a host with these two files, which must be refused; what it says.
fn refused(folder: &Path, cert: &Path, key: &Path) -> String {
    let options = HostOptions::default().set("iot.tls", json!(true)).set("tls.cert", json!(cert)).set("tls.key", json!(key));
    let ended = run_refused(folder, &options);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    ended.stderr
}

#[test]
fn a_start_with_a_wrong_certificate_is_refused_in_words() {
    let Certified { folder, authority, identity: Identity { cert, key } } = certified();
    let file = |name: &str, text: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let other = authority.issue(folder.path(), "other", &["localhost"]);
    let encrypted = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/tests/keys/test-p256-encrypted.pem");
    let encrypted = file("encrypted.pem", &fs::read(encrypted).unwrap());
    let (words, none) = (file("words.pem", b"words"), folder.path().join("none.pem"));
    let open = file("open.pem", &fs::read(&key).unwrap());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    for (with_cert, with_key, named, word) in [
        (&none, &key, &none, "no such file"),
        (&cert, &none, &none, "no such file"),
        (&folder.path().to_owned(), &key, &folder.path().to_owned(), "regular file"),
        (&words, &key, &words, "no certificate"),
        (&key, &key, &key, "private key"),
        (&cert, &words, &words, "no PEM block"),
        (&cert, &open, &open, "chmod 600"),
        (&cert, &encrypted, &encrypted, "openssl pkey"),
        (&cert, &other.key, &other.key, "not the key of the certificate"),
    ] {
        let said = refused(folder.path(), with_cert, with_key);
        let line = said.lines().find(|line| line.contains("the host does not start")).unwrap();
        assert!(line.contains(named.to_str().unwrap()) && line.contains(word), "{word}: {line}");
    }
}

#[test]
fn a_certificate_that_is_not_valid_now_is_served_with_a_warning() {
    let certified = certified();
    for (from, to, level, word) in [
        (2000, 2010, "\"WARN\"", "the certificate has expired"),
        (2150, 2200, "\"WARN\"", "the certificate is not valid yet"),
        (2000, 2200, "\"INFO\"", "certificate loaded"),
    ] {
        let identity = certified.authority.issue_between(certified.folder.path(), "host", &["localhost"], from, to);
        let host = Host::start(HostOptions::default().tls(&identity, Trust::new(&certified.authority)));
        let log = host.log();
        let line = log.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {log}"));
        let year = if word.contains("yet") { from } else { to };
        assert!(line.contains(level) && line.contains(&format!("{year}-01-01T00:00:00Z")), "{line}");
        let connected = host.trust().connect(host.mqtt_tls.unwrap());
        assert_eq!(connected.is_ok(), to == 2200 && from == 2000, "it is the client who decides");
    }
}

#[test]
fn a_certificate_alone_turns_nothing_on() {
    let nowhere = |options: HostOptions| options.set("tls.cert", json!("none.pem")).set("tls.key", json!("none.pem"));
    let host = Host::start(nowhere(HostOptions::default()));
    assert_eq!((host.mqtt_tls, host.mqtt_websocket_tls), (None, None));
    let session = host.create("default");
    device(&host, &session, "a", Version::V5, Way::IotWebSocket).disconnect();
    drop(host);
    // Listeners of a broker that is not chosen are not there.
    let none = nowhere(HostOptions::default()).set("mqtt.broker", json!("none")).set("mqtt.tls_listen", json!("127.0.0.1:0"));
    let host = Host::start(none.set("mqtt.websocket_tls_listen", json!("127.0.0.1:0")));
    assert_eq!((host.mqtt_tls, host.mqtt_websocket_tls), (None, None));
}
