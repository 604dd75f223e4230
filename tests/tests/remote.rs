//! The plugin `remote` in the real host, with the Python service of its example.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use conductor_tests::{
    Host, HostOptions, Mqtt, Response, Session, Version, Way,
    certs::{Authority, Identity},
    http,
    mqtt::{device, topic},
    tools::Program,
    until,
};
use serde_json::{Value, json};

const SECRET: &str = "swordfish-4711";

/// The service; it ends with the value.
struct Service {
    port: u16,
    _program: Program,
}

impl Service {
    /// On this port, or on one that the system chooses; over TLS with a certificate.
    fn start(port: u16, identity: Option<&Identity>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/remote/examples/service.py");
        let port = port.to_string();
        let mut arguments = vec![port.as_str()];
        arguments.extend(identity.iter().flat_map(|identity| [&identity.cert, &identity.key]).map(|file| file.to_str().unwrap()));
        Self::listening(Program::python_file(&script, &[("SERVICE_SECRET", PathBuf::from(SECRET))], &arguments))
    }

    fn listening(program: Program) -> Self {
        let line = program.wait_for("listening on ");
        Self { port: line.rsplit(' ').next().unwrap().parse().unwrap(), _program: program }
    }
}

/// A type whose conductor is that service. The secret is in a file of this host, or said.
fn kind(options: HostOptions, name: &str, url: &str, secret: (&str, &str), deadline: u32) -> HostOptions {
    let events = json!(["create", "joining", "message", "timer"]);
    let config = [("url", json!(url)), (secret.0, json!(secret.1)), ("events", events), ("deadline_ms", json!(deadline))];
    let options = options.plugin(name, "conductor_remote").set(&format!("types.{name}.deadline"), json!("20s"));
    config.into_iter().fold(options, |options, (key, value)| options.set(&format!("types.{name}.config.{key}"), value))
}

/// Why no session of this type is made.
fn not_created(host: &Host, kind: &str) -> String {
    refusal(&http::post(host.admin, "/v1/sessions", &json!({ "type": kind }).to_string()), 503, "unavailable")
}

/// The words of a refusal.
fn refusal(answer: &Response, status: u16, code: &str) -> String {
    assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{answer:?}");
    answer.json()["detail"].as_str().unwrap().to_owned()
}

fn counted(device: &mut Mqtt, session: &Session, count: &str) {
    until("the count", || (device.heard() == (topic(session, "count"), count.to_owned())).then_some(()));
}

fn result(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"].clone()
}

#[test]
fn a_python_service_conducts_and_may_come_and_go() {
    let service = Service::start(0, None);
    let port = service.port;
    let url = format!("http://127.0.0.1:{port}/");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // What is to be waited for, waits long; where the end of waiting is the point, it is short.
    let options = kind(HostOptions::default(), "remote", &url, ("secret.file", file.to_str().unwrap()), 15_000);
    let options = kind(options, "hasty", &url, ("secret", SECRET), 300);
    let mut host = Host::start(kind(options, "stranger", &url, ("secret", "not-the-secret"), 15_000));
    let session = host.create("remote");
    let types = host.admin("/v1/types").json();
    let described = types["items"].as_array().unwrap().iter().find(|kind| kind["type"] == "remote").unwrap();
    assert_eq!((&described["methods"], &described["other_methods"]), (&json!([]), &json!(true)));

    // It decides who joins, and what they may do.
    let body = json!({ "pin": session.pin, "client": "mallory" }).to_string();
    let refused = http::post(host.iot, &format!("/v1/sessions/{}/join", session.id), &body);
    assert_eq!(refusal(&refused, 403, "join_refused"), "not you");
    let mut ann = device(&host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "count"), 1) && ann.subscribe(&topic(&session, "to/ann/#"), 0));
    assert!(!ann.subscribe(&topic(&session, "#"), 1) && !ann.publish(&topic(&session, "count"), "7", 1, false));

    // It hears, remembers, and answers to all and to one.
    assert!(ann.publish(&topic(&session, "say"), "hello", 1, false));
    // Of different qualities, they come in any order.
    let mut both = [ann.heard(), ann.heard()];
    both.sort();
    assert_eq!(both, [(topic(&session, "count"), "1".to_owned()), (topic(&session, "to/ann/thanks"), "1 so far".to_owned())]);
    assert_eq!(result(&host.request(&session, "count", Value::Null)), 1);
    refusal(&host.request(&session, "fly", Value::Null), 404, "unknown_method");
    let hasty = host.create("hasty");

    // While it is away, requests and new sessions fail in words; a message is told until it is back.
    drop(service);
    let gone = refusal(&host.request(&hasty, "count", Value::Null), 500, "conductor_error");
    assert!(gone.starts_with(&format!("request: the service at http://127.0.0.1:{port} ")), "{gone}");
    assert!(not_created(&host, "hasty").contains("create: the service at http://127.0.0.1:"));
    assert!(ann.publish(&topic(&session, "say"), "are you there?", 1, false));
    until("a second try", || host.log().contains("the service is told again").then_some(()));
    let service = Service::start(port, None);
    counted(&mut ann, &session, "2");

    // What it saved is with the host.
    drop((ann, service));
    host.kill();
    host.start_again();
    let service = Service::start(port, None);
    assert_eq!(result(&host.request(&session, "count", Value::Null)), 2);
    let mut ann = device(&host, &session, "ann", Version::V311, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "count"), 1));
    assert_eq!(result(&host.request(&session, "reset_in", json!(50))), Value::Null);
    counted(&mut ann, &session, "0");
    assert_eq!(result(&host.request(&session, "count", Value::Null)), 0);

    // Who does not know the secret is nobody to it. No secret is in a log.
    let refused = not_created(&host, "stranger");
    assert!(refused.contains("answers 401"), "{refused}");
    drop(service);
    let log = host.log();
    assert!(log.contains("the service is told again") && !log.contains(SECRET) && !log.contains("not-the-secret"));
}

#[test]
fn a_service_of_twenty_lines_is_whole() {
    let page = include_str!("../../docs/remote.md");
    let (_, script) = page.split_once("```python\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    assert!(script.lines().filter(|line| !line.trim().is_empty()).count() <= 20);
    let last = r#"HTTPServer(("127.0.0.1", 8000), Conductor).serve_forever()"#;
    let told = r#"server = HTTPServer(("127.0.0.1", 0), Conductor); print("listening on", server.server_port); server.serve_forever()"#;
    assert!(script.trim_end().ends_with(last));
    let service = Service::listening(Program::python(&script.replace(last, told), &[], &[]));
    let url = format!("http://127.0.0.1:{}/", service.port);
    let host = Host::start(kind(HostOptions::default(), "remote", &url, ("secret", SECRET), 15_000));
    let session = host.create("remote");
    let mut ann = device(&host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "count"), 1) && ann.publish(&topic(&session, "x"), "hello", 1, false));
    counted(&mut ann, &session, "1");
    assert_eq!(result(&host.request(&session, "any", Value::Null)), 1);
}

#[test]
fn over_tls_the_service_must_have_a_certificate_of_the_authority_that_the_settings_name() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new("the service's authority"), Authority::new("somebody else"));
    let service = Service::start(0, Some(&authority.issue(folder.path(), "service", &["localhost"])));
    let ca = authority.write(folder.path());
    let other = other.write(tempfile::tempdir_in(&folder).unwrap().keep().as_path());
    let types = [("good", "localhost", &ca), ("other", "localhost", &other), ("misnamed", "127.0.0.1", &ca)];
    let options = types.into_iter().fold(HostOptions::default(), |options, (name, at, ca)| {
        let options = kind(options, name, &format!("https://{at}:{}/", service.port), ("secret", SECRET), 1_000);
        options.set(&format!("types.{name}.config.ca"), json!(ca))
    });
    let host = Host::start(options);
    let session = host.create("good");
    assert_eq!(result(&host.request(&session, "count", Value::Null)), 0);
    for (name, word) in [("other", "UnknownIssuer"), ("misnamed", "not valid for name")] {
        let refused = not_created(&host, name);
        assert!(refused.contains("certificate") && refused.contains(word), "{refused}");
    }
}
