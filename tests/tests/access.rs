//! Who may do what on the admin port.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
};

use conductor_host::access::{Role, routes::ROUTES};
use conductor_tests::{
    Host, HostOptions, PATIENCE, Response,
    browser::Browser,
    host::{Ended, run, run_refused},
    http, until,
};
use serde_json::{Value, json};

fn options() -> HostOptions {
    HostOptions::default().set("mqtt.broker", json!("none"))
}

fn command(host: &Host, arguments: &[&str]) -> Ended {
    let ended = run(host.folder(), &[arguments, &["--config", "host.toml"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

fn token(host: &Host, role: &str, more: &[&str]) -> String {
    let made = command(host, &[&["token", "create", "--role", role], more].concat());
    let token = made.stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(token.starts_with("cha_") && !token.contains(char::is_whitespace), "{made:?}");
    token
}

fn ask(to: SocketAddr, method: &str, target: &str, token: Option<&str>, body: &str) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    http::request(to, method, target, &headers, body)
}

fn code(answer: &Response) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.json()["status"], answer.status, "{answer:?}");
    answer.json()["code"].as_str().unwrap().to_owned()
}

fn sessions(host: &Host) -> usize {
    host.admin("/v1/sessions").json()["items"].as_array().unwrap().len()
}

/// Whether the answer is from behind the guard.
fn passed(answer: &Response) -> bool {
    ![401, 403, 405, 421].contains(&answer.status)
}

#[test]
fn each_route_is_open_to_its_roles_and_to_nobody_else() {
    let host = Host::start(options());
    let role = |role: &str| token(&host, role, &[]);
    let (viewer, operator, admin) = (role("viewer"), role("operator"), role("admin"));
    let (expired, revoked) = (token(&host, "admin", &["--expires", "1s"]), token(&host, "admin", &["--name", "lost"]));
    command(&host, &["token", "revoke", "lost"]);
    until("the token's end", || (ask(host.admin, "GET", "/v1/types", Some(&expired), "").status == 401).then_some(()));
    let garbage = format!("{}x", &admin[..admin.len() - 1]);
    let everybody = [
        ("nobody", None, None),
        ("viewer", Some(&viewer), Some(Role::Viewer)),
        ("operator", Some(&operator), Some(Role::Operator)),
        ("admin", Some(&admin), Some(Role::Admin)),
        ("expired", Some(&expired), None),
        ("revoked", Some(&revoked), None),
        ("garbage", Some(&garbage), None),
    ];
    let mut asked = 0;
    for (path, methods) in ROUTES {
        let target = path.replace("{id}", "000000").replace("{client}", "c").replace("{name}", "x");
        for (method, least) in *methods {
            for (who, token, role) in &everybody {
                let answer = ask(host.admin, method, &target, token.map(String::as_str), "");
                let what = format!("{method} {path} as {who}: {answer:?}");
                match (least, role) {
                    (None, _) => assert!(passed(&answer), "{what}"),
                    (Some(_), None) => {
                        assert_eq!((answer.status, code(&answer).as_str()), (401, "unauthorized"), "{what}");
                        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
                    }
                    (Some(least), Some(role)) if role < least => {
                        assert_eq!((answer.status, code(&answer).as_str()), (403, "forbidden"), "{what}");
                    }
                    (Some(_), Some(_)) => assert!(passed(&answer), "{what}"),
                }
                asked += 1;
            }
        }
        // A method that has no role has no handler that is reached either.
        let known: Vec<&str> = methods.iter().map(|(method, _)| *method).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].into_iter().filter(|method| !known.contains(method)) {
            let answer = ask(host.admin, method, &target, Some(&admin), "");
            assert_eq!((answer.status, answer.header("allow")), (405, Some(known.join(", ").as_str())), "{method} {path}: {answer:?}");
        }
    }
    assert!(asked >= 7 * 20, "{asked}");
    assert_eq!(ask(host.admin, "GET", "/v1/nowhere", None, "").status, 401);
    assert_eq!(ask(host.admin, "GET", "/v1/nowhere", Some(&viewer), "").status, 404);
    let log = host.log();
    for token in [viewer, operator, admin, expired, revoked, garbage] {
        assert!(!log.contains(&token[4..]), "a token is in the log");
    }
    assert!(log.contains("has expired") && log.contains("revoked, or never made"), "the log says why");
}

#[test]
fn a_viewer_sees_no_pin() {
    let host = Host::start(options().set("iot.public_url", json!("https://sessions.example.org")));
    let (viewer, operator) = (token(&host, "viewer", &[]), token(&host, "operator", &[]));
    let created = ask(host.admin, "POST", "/v1/sessions", Some(&operator), r#"{"type": "default"}"#);
    assert_eq!(created.status, 201, "{created:?}");
    let session = created.json();
    let id = session["id"].as_str().unwrap();
    for target in ["/v1/sessions".to_owned(), format!("/v1/sessions/{id}")] {
        let (seen, whole) = (ask(host.admin, "GET", &target, Some(&viewer), ""), ask(host.admin, "GET", &target, Some(&operator), ""));
        let one = |answer: &Response| answer.json().get("items").map_or_else(|| answer.json(), |items| items[0].clone());
        assert_eq!(one(&seen)["id"].as_str(), Some(id), "{seen:?}");
        for secret in ["pin", "join_secret", "join_url"] {
            let shown = session[secret].as_str().unwrap();
            assert!(one(&seen).get(secret).is_none() && !seen.body.contains(&format!("\"{shown}\"")), "{secret}: {seen:?}");
            assert_eq!(one(&whole)[secret], shown, "{whole:?}");
        }
    }
}

#[test]
fn why_something_is_down_is_for_those_with_an_identity() {
    let host = Host::start(options().set("types.lost.plugin", json!("nowhere/nothing.so")).set("types.lost.required", json!(false)));
    let plugins = |token: Option<&str>| {
        let answer = ask(host.admin, "GET", "/readyz", token, "");
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("degraded")), "{answer:?}");
        answer.json()["parts"]["plugins"].clone()
    };
    let whole = plugins(None);
    assert!(whole["status"] == "down" && whole["reason"].as_str().unwrap().contains("nothing.so"), "{whole}");
    let viewer = token(&host, "viewer", &[]);
    assert_eq!(plugins(Some(&viewer)), whole);
    for stranger in [None, Some("cha_wrong")] {
        assert_eq!(plugins(stranger), json!({"status": "down"}));
    }
}

#[test]
fn tokens_hold_from_the_first_to_the_last_without_a_restart() {
    let mut host = Host::start(options());
    let list = |host: &Host, token: Option<&str>| ask(host.admin, "GET", "/v1/types", token, "").status;
    assert_eq!(list(&host, None), 200, "on loopback nobody is asked who it is");
    let first = token(&host, "viewer", &["--name", "first"]);
    assert_eq!((list(&host, None), list(&host, Some(&first))), (401, 200));
    let second = token(&host, "admin", &["--expires", "2h"]);
    let shown = command(&host, &["token", "list"]).stdout;
    assert!(shown.contains("first") && shown.contains("viewer") && shown.contains("admin-1"), "{shown}");
    assert!(!shown.contains("cha_"), "{shown}");
    command(&host, &["token", "revoke", "first"]);
    assert_eq!((list(&host, Some(&first)), list(&host, Some(&second))), (401, 200));
    let last = command(&host, &["token", "revoke", "admin-1"]).stdout;
    assert!(last.contains("admin-tokens.json") && last.contains("delete"), "{last}");
    assert_eq!((list(&host, Some(&second)), list(&host, None)), (401, 401), "no token is left, and the port is not open for that");
    host.stop();
    host.start_again();
    assert_eq!(list(&host, None), 401);
    fs::remove_file(host.folder().join("state/admin-tokens.json")).unwrap();
    assert_eq!(list(&host, None), 401, "nor for a file that is gone");
    host.stop();
    host.start_again();
    assert_eq!(list(&host, None), 200);
}

#[test]
fn a_wrong_token_command_says_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.toml"), "").unwrap();
    let wrong = |arguments: &[&str], status: i32, words: &str| {
        let ended = run(folder.path(), &[&["token"], arguments, &["--config", "host.toml"]].concat());
        assert_eq!(ended.code, Some(status), "{arguments:?}: {ended:?}");
        assert!(ended.stdout.is_empty() && ended.stderr.contains(words), "{arguments:?}: {ended:?}");
    };
    wrong(&["create", "--role", "root"], 2, "viewer, operator, admin");
    wrong(&["create"], 2, "--role");
    wrong(&["create", "--role", "admin", "--expires", "0s"], 2, "expected a duration from 1s");
    wrong(&["create", "--role", "admin", "--expires", "never"], 2, "expected a duration from 1s");
    wrong(&["create", "--role", "admin", "--name", "a b"], 1, "1 to 64 of A-Z a-z 0-9 _ . -");
    wrong(&["list"], 1, "token create");
    wrong(&["revoke", "x"], 1, "\"x\"");
    assert!(!folder.path().join("state/admin-tokens.json").exists(), "nothing was made");
}

#[test]
fn beyond_loopback_something_must_guard_the_port() {
    let beyond = |listen: Value| options().set("admin.listen", listen);
    for listen in [json!("0.0.0.0:0"), json!("[::]:0"), json!(["127.0.0.1:0", "0.0.0.0:0"])] {
        let folder = tempfile::tempdir().unwrap();
        let ended = run_refused(folder.path(), &beyond(listen));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for words in ["admin.listen", "conductor-host token create", "admin.allow", "admin.allow_unauthenticated = true"] {
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
        }
    }
    let wide = beyond(json!("0.0.0.0:0"));
    let near = |host: &Host| SocketAddr::from(([127, 0, 0, 1], host.admin.port()));

    let listed = Host::start(wide.clone().set("admin.allow", json!(["127.0.0.0/8"])));
    assert_eq!(http::get(near(&listed), "/v1/types").status, 200);
    assert!(!listed.log().contains("allow_unauthenticated"));

    let mut open = Host::start(wide.clone().set("admin.allow_unauthenticated", json!(true)));
    assert_eq!(http::get(near(&open), "/v1/types").status, 200);
    let warned =
        |host: &Host| host.log().lines().filter(|line| line.contains("WARN") && line.contains("admin.allow_unauthenticated")).count();
    assert_eq!(warned(&open), 1, "{}", open.log());
    open.stop();
    open.start_again();
    assert_eq!(warned(&open), 2, "at each start");

    // A token alone is enough, and is needed on each address then, whatever the settings allow otherwise.
    let mut guarded = Host::start(options());
    let admin = token(&guarded, "admin", &[]);
    guarded.stop();
    guarded.start_again_with(wide.set("admin.allow_unauthenticated", json!(true)));
    let types = |token: Option<&str>| ask(near(&guarded), "GET", "/v1/types", token, "").status;
    assert_eq!((types(None), types(Some(&admin))), (401, 200));
    assert_eq!(warned(&guarded), 0);
}

#[test]
fn a_file_of_tokens_that_others_may_touch_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    for (mode, words) in [(0o604, "chmod 600"), (0o602, "chmod 600"), (0o600, "damaged")] {
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let ended = run_refused(folder.path(), &options().set("admin.tokens", json!(file)));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("tokens.json") && ended.stderr.contains(words), "{ended:?}");
    }
}

/// What comes back on a connection from this address of the machine.
fn answer_to(from: &str, to: SocketAddr) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    let mut stream = stream;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    match stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer).map(drop)) {
        Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => panic!("{error}"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

#[test]
fn a_connection_from_elsewhere_is_closed_without_an_answer() {
    let host = Host::start(options().set("admin.allow", json!("127.0.0.2, 127.0.3.0/24")));
    for allowed in ["127.0.0.2", "127.0.3.9"] {
        assert!(answer_to(allowed, host.admin).starts_with("HTTP/1.1 200 "), "{allowed}");
    }
    for elsewhere in ["127.0.0.1", "127.0.0.3", "127.0.4.1"] {
        assert_eq!(answer_to(elsewhere, host.admin), "", "{elsewhere}");
    }
    assert!(host.log().contains("admin.allow"));
    assert!(answer_to("127.0.0.1", host.iot).starts_with("HTTP/1.1 200 "), "the public port has no such list");
}

#[test]
fn a_page_whose_name_was_made_to_point_here_gets_nothing() {
    let host = Host::start(options().set("admin.names", json!("admin.example.org, 192.0.2.9")));
    let port = host.admin.port();
    let send = |target: &str, host_header: &str| {
        http::raw(host.admin, format!("GET {target} HTTP/1.1\r\n{host_header}Connection: close\r\n\r\n").as_bytes())
    };
    for foreign in
        ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2", "[::1]", "admin.example.org.evil.example", ""]
    {
        for target in ["/api/createSession?type=default", "/v1/sessions", "/livez"] {
            for with_port in [foreign.to_owned(), format!("{foreign}:{port}")] {
                let answer = send(target, &format!("Host: {with_port}\r\n"));
                assert_eq!((answer.status, code(&answer).as_str()), (421, "wrong_host"), "{target} {with_port:?}: {answer:?}");
                assert!(answer.body.contains("admin.names"), "it says what to do: {answer:?}");
            }
        }
    }
    let absolute = http::raw(
        host.admin,
        format!("GET http://evil.example/v1/types HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host.admin).as_bytes(),
    );
    assert_eq!(absolute.status, 421, "{absolute:?}");
    assert_eq!(sessions(&host), 0);
    for own in ["127.0.0.1", "localhost", "LOCALHOST", "admin.example.org", "192.0.2.9"] {
        for with_port in [own.to_owned(), format!("{own}:{port}"), format!("{own}:1")] {
            assert_eq!(send("/v1/types", &format!("Host: {with_port}\r\n")).status, 200, "{with_port}");
        }
    }
    let old = http::raw(host.admin, b"GET /v1/types HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200, "no browser leaves Host out: {old:?}");
}

#[test]
fn what_a_browser_sends_for_another_origin_changes_nothing() {
    let host = Host::start(options());
    let own = format!("http://{}", host.admin);
    let session = host.create("default");
    let foreign = [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://127.0.0.1:1"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ];
    let one = format!("/v1/sessions/{}", session.id);
    let request = format!("{one}/requests");
    let changes = [
        ("GET", "/api/createSession?type=default".to_owned(), ""),
        ("GET", format!("/api/closeSession?id={}", session.id), ""),
        ("GET", format!("/api/conductorRequest?id={}&method=state", session.id), ""),
        ("POST", "/v1/sessions".to_owned(), r#"{"type": "default"}"#),
        ("POST", request, r#"{"method": "state"}"#),
        ("PATCH", one.clone(), r#"{"lifetime": "1h"}"#),
        ("DELETE", one.clone(), ""),
        ("OPTIONS", "/v1/sessions".to_owned(), ""),
        ("POST", "/v1/plugins/reload".to_owned(), ""),
    ];
    for (method, target, body) in &changes {
        for header in foreign {
            let answer = http::request(host.admin, method, target, &[header], body);
            assert_eq!((answer.status, code(&answer).as_str()), (403, "cross_site"), "{method} {target} {header:?}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(sessions(&host), 1);
    // Reading is for the browser to hide: no answer lets another origin look at it.
    let read = http::request(host.admin, "GET", &one, &[("Origin", "http://evil.example")], "");
    assert_eq!((read.status, read.header("access-control-allow-origin")), (200, None), "{read:?}");
    for near in [("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "none")] {
        let created = http::request(host.admin, "POST", "/v1/sessions", &[near], r#"{"type": "default"}"#);
        assert_eq!(created.status, 201, "{near:?}: {created:?}");
    }
}

#[test]
fn a_page_in_a_real_browser_creates_nothing_on_another_port() {
    let host = Host::start(options());
    let port = host.admin.port();
    let browser = Browser::open_attack(&json!([format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")]));
    let mut tried = Vec::new();
    loop {
        let report = browser.report();
        if report[0] == "over" {
            break;
        }
        tried.push(report);
    }
    assert_eq!(tried.len(), 2 * 10, "{tried:?}");
    // Each kind of request got here, and was refused; the last is the one by which the page leaves itself.
    let refused = |method: &str, path: &str| {
        let line = |line: &&str| {
            let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
            let fields = line.get("fields").unwrap_or(&line);
            fields["method"] == method && fields["path"] == path && fields["status"] == 403
        };
        host.log().lines().filter(line).count()
    };
    until("all that the page tried", || (refused("GET", "/api/createSession") == 2 * 5 + 1).then_some(()));
    assert_eq!(refused("POST", "/v1/sessions"), 2 * 3, "{tried:?}");
    // What needs leave is asked for first, and none is given.
    assert_eq!((refused("OPTIONS", "/v1/sessions"), refused("OPTIONS", "/v1/sessions/000000")), (2, 2), "{tried:?}");
    assert_eq!(sessions(&host), 0, "{tried:?}");
    // The page's requests lacked nothing but their origin.
    assert_eq!(http::post(host.admin, "/v1/sessions", r#"{"type": "default"}"#).status, 201);
    host.create("default");
    assert_eq!(sessions(&host), 2);
}
