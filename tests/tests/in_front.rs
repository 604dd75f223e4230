//! The shipped configuration of nginx, run by Debian's nginx: nothing is lost or added on the way through it, and it keeps out whom it should.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::mpsc::{self, Receiver},
};

use conductor_tests::{
    Host, HostOptions, PATIENCE, Response, Version, Way,
    certs::Authority,
    clients::{self, Habits, Paho, said, words},
    curl::{curl, try_curl},
    http,
    mqtt::{device, topic},
    nginx::{Behind, Nginx, shipped},
    request,
    tools::Program,
    until,
};
use serde_json::{Value, json};

fn host() -> Host {
    Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"))
}

/// The page that requests to the public port come from.
const PAGE: Option<&str> = Some("https://example.org");

/// The same request to the host itself and through nginx, with an `Origin` where it is a page's.
fn both([direct, nginx]: [SocketAddr; 2], ca: &Path, origin: Option<&str>, method: &str, target: &str, body: &str) -> [Response; 2] {
    let header = origin.map(|origin| format!("Origin: {origin}"));
    let headers: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
    let url = format!("https://{nginx}{target}");
    // HEAD as curl knows it: no body is waited for.
    let mut arguments = if method == "HEAD" { vec!["-I"] } else { vec!["-X", method] };
    arguments.extend(["--path-as-is", "-H", "Content-Type:"]);
    arguments.extend(header.iter().flat_map(|header| ["-H", header]));
    if !body.is_empty() || method == "POST" {
        arguments.extend(["--data-binary", body]);
    }
    arguments.push(&url);
    [request(direct, method, target, &headers, body), curl(ca, &arguments)]
}

/// What must be the same on both ways: the status, the body to the byte, and the headers, but for those that are about the connection.
fn comparable(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "server" | "connection"));
    headers.sort();
    (answer.status, headers, answer.body.clone())
}

#[test]
fn answers_pass_unchanged() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let session = host.create("echo");
    let wrong = json!({"id": session.id, "pin": "x", "client": "a"}).to_string();
    let right = json!({"id": session.id, "pin": session.pin, "client": "a/b"}).to_string();
    let v1_join = format!("/v1/sessions/{}/join", session.id);
    let large = format!("{{\"id\": \"{}\"}}", "1".repeat(5000));
    for (method, target, body, status) in [
        ("POST", "/api/joinSession", wrong.as_str(), 200),
        ("POST", "/api/joinSession", right.as_str(), 200),
        ("POST", "/api/joinSession", "nonsense", 200),
        ("POST", "/api/joinSession", large.as_str(), 413),
        ("OPTIONS", "/api/joinSession", "", 204),
        ("GET", "/api/joinSession", "", 405),
        ("HEAD", "/api/joinSession", "", 405),
        ("DELETE", "/api/joinSession", "", 405),
        ("POST", &v1_join, r#"{"pin": "x", "client": "a"}"#, 403),
        ("POST", &v1_join, "{}", 400),
        ("OPTIONS", &v1_join, "", 204),
        ("GET", "/livez", "", 200),
        ("GET", "/", "", 404),
        ("GET", "//api/../livez?a=%2F", "", 404),
        // No WebSocket is asked for.
        ("GET", "/mqtt", "", 400),
    ] {
        let [direct, through] = both([host.iot, nginx.iot], &nginx.ca, PAGE, method, target, body);
        assert_eq!(direct.status, status, "{method} {target}: {direct:?}");
        assert_eq!(comparable(&through), comparable(&direct), "{method} {target}");
        if target.contains("join") || target.contains("Join") {
            // And not twice.
            assert_eq!(through.header("access-control-allow-origin"), Some("*"), "{method} {target}");
        }
    }
    for (origin, method, target, status) in [
        (None, "GET", "/api/createSession?type=none", 400),
        (None, "GET", "/api/closeSession?id=%20none", 200),
        (None, "GET", "/api/conductorRequest?id=none&method=state&params=%7B", 200),
        (None, "GET", "/api/conductorRequest?id=%FF&method=state", 400),
        (None, "HEAD", "/api/createSession?type=echo", 405),
        (None, "GET", "/v1/sessions/none", 404),
        (PAGE, "GET", "/v1/sessions/none", 404),
        (PAGE, "GET", "/api/createSession?type=echo", 403),
        (None, "GET", "/readyz", 200),
    ] {
        let [direct, through] = both([host.admin, nginx.admin], &nginx.ca, origin, method, target, "");
        assert_eq!(direct.status, status, "{method} {target}: {direct:?}");
        assert_eq!(comparable(&through), comparable(&direct), "{method} {target}");
    }
}

#[test]
fn sessions_are_created_joined_and_asked_over_tls() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let admin = |target: &str| curl(&nginx.ca, &[&format!("https://{}{target}", nginx.admin)]);
    let created = admin("/api/createSession?type=echo").json();
    let body = json!({"id": created["id"], "pin": created["pin"], "client": "a"}).to_string();
    let joined = curl(&nginx.ca, &["--data-binary", &body, &format!("https://{}/api/joinSession", nginx.iot)]);
    assert_eq!(joined.json()["token"].as_str().unwrap().split('.').count(), 3, "{joined:?}");
    let id = created["id"].as_str().unwrap();
    // A large request: the admin port takes 1 MiB, and a slow one gets its time.
    let params = json!({"method": "params", "params": "x".repeat(900_000)}).to_string();
    let file = nginx.folder().join("large");
    std::fs::write(&file, &params).unwrap();
    let url = format!("https://{}/v1/sessions/{id}/requests", nginx.admin);
    let asked = curl(&nginx.ca, &["-H", "Expect:", "--data-binary", &format!("@{}", file.display()), &url]);
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(admin(&format!("/api/closeSession?id={id}")).json(), "Success");
    // An authority that nobody named is not trusted: what was checked above is the certificate of the test.
    let stranger = Authority::new("a stranger").write(host.folder());
    let error = try_curl(&stranger, &[&format!("https://{}/livez", nginx.iot)]).unwrap_err();
    assert!(error.contains("certificate problem"), "{error}");
}

#[test]
fn plain_http_is_sent_on_to_https_with_its_method() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let answer = http::post(nginx.http, "/api/joinSession?a=b", "{}");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://127.0.0.1/api/joinSession?a=b")));
    assert_eq!(http::get(nginx.http, "/.well-known/acme-challenge/none").status, 404);
}

#[test]
fn what_is_far_too_large_ends_at_nginx() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let body = "1".repeat(9000);
    let answer = curl(&nginx.ca, &["--data-binary", &body, &format!("https://{}/api/joinSession", nginx.iot)]);
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/html"), "the host was asked: {answer:?}");
}

#[test]
fn the_admin_port_is_open_to_those_who_are_named() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let url = format!("https://{}/api/createSession?type=echo", nginx.admin);
    let create = |arguments: &[&str]| curl(&nginx.ca, &[arguments, &[&url]].concat()).status;
    assert_eq!(create(&["--interface", "127.0.0.1"]), 200);
    assert_eq!(create(&["--interface", "127.0.0.2"]), 403, "an address that is not in the list");
    // The public server has no way to the admin port.
    assert_eq!(curl(&nginx.ca, &[&url.replace(&nginx.admin.to_string(), &nginx.iot.to_string())]).status, 404);
    // Pages of other sites in the administrator's browser.
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        assert_eq!(create(&["-H", &format!("Sec-Fetch-Site: {site}")]), status, "{site}");
    }

    let changes = [
        (" #ssl_client_certificate /etc/ssl/conductor-host/admin-ca.pem;", " ssl_client_certificate FOLDER/ca.pem;"),
        (" #ssl_verify_client on;", " ssl_verify_client on;"),
    ];
    let nginx = Nginx::start(Behind { iot: host.iot, admin: host.admin, mqtt: host.mqtt.unwrap() }, &changes);
    let url = format!("https://{}/api/createSession?type=echo", nginx.admin);
    assert_eq!(curl(&nginx.ca, &[&url]).status, 400, "no certificate is shown");
    let [cert, key] = ["client.pem", "client-key.pem"].map(|name| nginx.folder().join(name).display().to_string());
    assert_eq!(curl(&nginx.ca, &["--cert", &cert, "--key", &key, &url]).status, 200);
    // Devices show none.
    assert_eq!(curl(&nginx.ca, &[&format!("https://{}/livez", nginx.iot)]).status, 200);
}

/// Something that takes one connection, answers 200 and tells what it was sent.
fn listener() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            // The test may be over.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let _ = sender.send(String::from_utf8(head).unwrap());
        }
    });
    (address, heads)
}

#[test]
fn the_host_is_told_who_asks_and_for_what() {
    let (behind, heads) = listener();
    let nginx = Nginx::start(Behind { iot: behind, admin: behind, mqtt: behind }, &[]);
    for (server, target) in [(nginx.iot, "//a/../%2e?b=%2F+c"), (nginx.iot, "/mqtt"), (nginx.admin, "/v1//x")] {
        let url = format!("https://{server}{target}");
        let answer = curl(&nginx.ca, &["--path-as-is", "-H", "Host: sessions.example.org:1", "-H", "X-Forwarded-For: 192.0.2.1", &url]);
        assert_eq!(answer.status, 200);
        let head = heads.recv_timeout(PATIENCE).unwrap();
        let has = |line: &str| head.lines().any(|found| found.eq_ignore_ascii_case(line));
        assert!(has(&format!("GET {target} HTTP/1.1")), "{head}");
        // What came in is kept, and nginx's own word is the last.
        for line in
            ["Host: sessions.example.org:1", "X-Forwarded-For: 192.0.2.1, 127.0.0.1", "X-Forwarded-Proto: https", "Connection: close"]
        {
            assert!(has(line), "{line} is not in {head}");
        }
    }
}

#[test]
fn each_device_behind_it_has_its_own_budget() {
    let options = HostOptions::default().set("joins.exempt", json!("")).set("iot.trusted_proxies", json!("127.0.0.1"));
    let host = Host::start(options);
    let nginx = Nginx::in_front_of(&host);
    let session = host.create("default");
    let url = format!("https://{}/v1/sessions/{}/join", nginx.iot, session.id);
    // What a device writes itself stands before nginx's own word, and is not looked at.
    let join = |from: &str, pin: &str| {
        let body = json!({"client": "a", "pin": pin}).to_string();
        curl(&nginx.ca, &["--interface", from, "-H", "X-Forwarded-For: 192.0.2.1", "--data-binary", &body, &url]).status
    };
    let guessed: Vec<u16> = (0..10).map(|_| join("127.0.0.2", "1")).collect();
    assert_eq!(guessed, [403; 10]);
    assert_eq!(join("127.0.0.2", &session.pin), 429);
    assert_eq!(http::post(host.admin, &format!("/v1/sessions/{}/pin/open", session.id), "").status, 204);
    assert_eq!(join("127.0.0.3", &session.pin), 200);
    assert!(host.log().contains("iot 127.0.0.3"), "the log says who it was");
}

/// As the setting `mqtt.username` has it where nothing is said.
const DEVICE: Habits = Habits { name: "a device", client_id: "client", username: "session", qos: 1, tls_1_2: false };

#[test]
fn devices_talk_over_websocket_also_while_the_certificate_is_renewed() {
    let host = host();
    let mut nginx = Nginx::in_front_of(&host);
    let session = host.create("echo");
    let mut other = device(&host, &session, "other", Version::V5, Way::Tcp);
    assert!(other.subscribe(&topic(&session, "x"), 1));
    let [door, ..] = clients::through(&nginx, &host);
    let mut python = clients::device(DEVICE, Paho::Two, &door, &session);
    assert_eq!(said(&python, "connected"), 0);
    python.tell(r##"["subscribe", "#"]"##);
    assert_eq!(said(&python, "subscribed"), json!([1]));
    let mut talk = |text: &str| {
        python.tell(&json!(["publish", "x", text]).to_string());
        assert_eq!(other.heard(), (topic(&session, "x"), text.into()));
        assert_eq!(words(&python, "message"), json!(["message", "x", text, 1]));
        assert!(other.publish(&topic(&session, "y"), text, 1, false));
        assert_eq!(words(&python, "message"), json!(["message", "y", text, 1]));
    };
    talk("before");
    // Larger than a buffer of nginx, and as long as this client takes.
    talk(&"large ".repeat(1_600));
    let url = format!("https://{}/livez", nginx.iot);
    let before = std::fs::read(&nginx.ca).unwrap();
    nginx.renew();
    until("the new certificate", || try_curl(&nginx.ca, &[&url]).ok());
    talk("after");
    std::fs::write(&nginx.ca, before).unwrap();
    // The old one is not shown any more, once the last worker that had it takes no connection.
    until("the end of the old certificate", || try_curl(&nginx.ca, &[&url]).err());
}

#[test]
fn mosquittos_clients_talk_over_tls() {
    let host = host();
    let nginx = Nginx::in_front_of(&host);
    let session = host.create("echo");
    let tokens = ["listener", "speaker"].map(|client| (client, host.join(&session, client)));
    let (port, ca, name) = (nginx.mqtt.port().to_string(), nginx.ca.display().to_string(), topic(&session, "x"));
    let [listener, speaker] = tokens.each_ref().map(|(client, token)| {
        // By its name: a certificate for an address is not enough for mosquitto.
        ["-h", "localhost", "-p", &port, "--cafile", &ca, "-i", client, "-u", &session.id, "-P", token, "-t", &name, "-q", "2"]
    });
    let listener = Program::mosquitto("mosquitto_sub", &[&listener[..], &["-d", "-F", "heard %p"]].concat());
    listener.wait_for("Subscribed");
    let (code, lines) = Program::mosquitto("mosquitto_pub", &[&speaker[..], &["-m", "over tls"]].concat()).end();
    assert_eq!(code, Some(0), "{lines:?}");
    assert_eq!(listener.wait_for("heard"), "heard over tls");
    until("the conductor to hear", || (host.ask(&session, "heard", "") != Value::Array(vec![])).then_some(()));
    // Without TLS there is nothing to talk to.
    let plain = ["-h", "localhost", "-p", &port, "-i", "speaker", "-u", &session.id, "-P", &tokens[1].1, "-t", &name, "-m", "plain"];
    assert_ne!(Program::mosquitto("mosquitto_pub", &plain).end().0, Some(0));
}

#[test]
fn silence_is_judged_by_the_host() {
    // Keep-alives are a minute in the existing clients, and so are nginx's own limits: both would end at the same time.
    let (http, stream) = (shipped("conductor-host.conf"), shipped("conductor-host-stream.conf"));
    let mqtt = http.split("location = /mqtt {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    for (text, setting) in [(mqtt, "proxy_read_timeout"), (mqtt, "proxy_send_timeout"), (&*stream, "proxy_timeout")] {
        assert!(text.contains(&format!("  {setting} 1h;")), "{setting}");
    }
}
