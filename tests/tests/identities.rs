//! Other identities than tokens on the admin port, and the audit log: OpenID access tokens, client certificates, who did what.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use conductor_host::sessions::clock::Clock;
use conductor_tests::{
    Host, HostOptions, Response,
    certs::Authority,
    curl::{curl, try_curl},
    host::run,
    http, until,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto::aws_lc, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};

fn options() -> HostOptions {
    // Pins that nothing else looks like by chance.
    HostOptions::default().set("mqtt.broker", json!("none")).set("sessions.pin_digits", json!(12))
}

fn audit_file(host: &Host) -> PathBuf {
    host.folder().join("state/audit.log")
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn token(host: &Host, role: &str) -> String {
    let made = run(host.folder(), &["token", "create", "--role", role, "--name", role, "--config", "host.toml"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    made.stdout.trim().to_owned()
}

fn ask(to: SocketAddr, method: &str, target: &str, bearer: &str, body: &str) -> Response {
    let bearer = format!("Bearer {bearer}");
    http::request(to, method, target, &[("Authorization", &bearer), ("X-Request-Id", "r-1")], body)
}

#[test]
fn each_change_is_recorded_with_who_made_it_and_no_secret_is() {
    let mut host = Host::start(options().plugin("echo", "conductor_test_echo"));
    let (operator, viewer) = (token(&host, "operator"), token(&host, "viewer"));
    let as_operator = |host: &Host, method: &str, target: &str, body: &str| ask(host.admin, method, target, &operator, body);
    let session = |answer: &Response| {
        let session = answer.json();
        (session["id"].as_str().unwrap().to_owned(), session["pin"].as_str().unwrap().to_owned())
    };
    let (id, pin) = session(&as_operator(&host, "POST", "/v1/sessions", r#"{"type":"echo"}"#));
    let (old, old_pin) = session(&as_operator(&host, "GET", "/api/createSession?type=echo", ""));
    assert_eq!(as_operator(&host, "GET", "/v1/sessions", "").status, 200);
    assert_eq!(as_operator(&host, "GET", &format!("/v1/sessions/{id}"), "").status, 200);
    let asked = as_operator(&host, "POST", &format!("/v1/sessions/{id}/requests"), r#"{"method":"params","params":{"secret":"hunter2"}}"#);
    assert_eq!(asked.status, 200, "{asked:?}");
    as_operator(&host, "GET", &format!("/api/conductorRequest?id={old}&method=nothing&params=hunter2"), "");
    as_operator(&host, "GET", &format!("/api/closeSession?id={old}&pin={old_pin}"), "");
    as_operator(&host, "GET", &format!("/api/closeSession?id={old}"), "");
    as_operator(&host, "GET", &format!("/api/closeSession?id={operator}"), "");
    as_operator(&host, "POST", "/v1/sessions", r#"{"type":"hunter2"}"#);
    as_operator(&host, "POST", "/v1/services/beat/requests", r#"{"method":"x"}"#);
    ask(host.admin, "DELETE", &format!("/v1/sessions/{id}"), &viewer, "");
    ask(host.admin, "DELETE", &format!("/v1/sessions/{id}"), "cha_wrong", "");
    ask(host.admin, "GET", "/v1/sessions", "cha_wrong", "");
    http::request(host.admin, "GET", &format!("/api/closeSession?id={id}"), &[("Origin", "http://evil.example")], "");
    as_operator(&host, "DELETE", &format!("/v1/sessions/{id}"), "");

    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let told: Vec<_> = lines(&audit_file(&host))
        .iter()
        .map(|line| {
            assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
            assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
            let who = &line["who"];
            let (name, role, method) = (text(&who["name"]), text(&who["role"]), text(&who["method"]));
            assert!(who.is_null() || role == name && method == "token" && line["request_id"] == "r-1", "{line}");
            (name, text(&line["request"]), text(&line["session"]), line["status"].as_u64().unwrap(), text(&line["code"]))
        })
        .collect();
    let expected = [
        ("operator", "POST /v1/sessions", &*id, 201, "-"),
        ("operator", "GET /api/createSession", &old, 200, "-"),
        ("operator", "POST /v1/sessions/{id}/requests", &id, 200, "-"),
        ("operator", "GET /api/conductorRequest", &old, 200, "unknown_method"),
        ("operator", "GET /api/closeSession", &old, 200, "-"),
        ("operator", "GET /api/closeSession", &old, 200, "session_not_found"),
        ("operator", "GET /api/closeSession", "-", 200, "session_not_found"),
        ("operator", "POST /v1/sessions", "-", 400, "unknown_type"),
        ("operator", "POST /v1/services/{name}/requests", "-", 404, "service_not_found"),
        ("viewer", "DELETE /v1/sessions/{id}", &id, 403, "forbidden"),
        ("-", "DELETE /v1/sessions/{id}", &id, 401, "unauthorized"),
        ("-", "GET /v1/sessions", "-", 401, "unauthorized"),
        ("-", "GET /api/closeSession", &id, 403, "cross_site"),
        ("operator", "DELETE /v1/sessions/{id}", &id, 204, "-"),
    ];
    let owned = |(who, request, session, status, code): (&str, &str, &str, u64, &str)| {
        (who.to_owned(), request.to_owned(), session.to_owned(), status, code.to_owned())
    };
    assert_eq!(told, expected.map(owned));
    assert_eq!(lines(&audit_file(&host))[8]["service"], "beat");

    // What was answered is on record, however the host ends; and the next run goes on behind it.
    let before = fs::read_to_string(audit_file(&host)).unwrap();
    host.kill();
    host.start_again();
    as_operator(&host, "POST", "/v1/sessions", r#"{"type":"echo"}"#);
    let after = fs::read_to_string(audit_file(&host)).unwrap();
    assert!(after.starts_with(&before) && after.lines().count() == 15, "{after}");
    for secret in [&pin, &old_pin, &operator[4..], &viewer[4..], "hunter2", "wrong"] {
        assert!(!after.contains(secret), "{secret} is in the audit log: {after}");
    }
    assert_eq!(fs::metadata(audit_file(&host)).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_log_that_cannot_be_written_stops_no_work_and_is_told() {
    let host = Host::start(options());
    let (file, elsewhere) = (audit_file(&host), host.folder().join("elsewhere"));
    let ready = |host: &Host| host.admin("/readyz").json();
    assert_eq!((&ready(&host)["status"], &ready(&host)["parts"]["audit"]["status"]), (&json!("ready"), &json!("ok")));
    fs::write(&elsewhere, "").unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    host.create("default");
    host.create("default");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "", "a link is not followed");
    let told = ready(&host);
    assert_eq!(told["status"], "degraded", "{told}");
    assert!(told["parts"]["audit"]["reason"].as_str().unwrap().contains("symbolic link"), "{told}");
    assert_eq!(host.log().matches("changes on the admin port go on").count(), 1, "it is said once");
    fs::remove_file(&file).unwrap();
    assert_eq!(ready(&host)["status"], "ready");
    host.create("default");
    let lines = lines(&file);
    assert_eq!((lines.len(), &lines[0]["unrecorded"]), (2, &json!(2)), "{lines:?}");
    assert_eq!((&lines[1]["request"], &lines[1]["who"]["name"]), (&json!("GET /api/createSession"), &json!("anyone")));
}

#[test]
fn the_log_is_rotated_and_can_be_turned_off() {
    let host = Host::start(options().set("audit.max_bytes", json!(4096)).set("audit.keep", json!(2)));
    let name = |number: usize| host.folder().join(format!("state/audit.log.{number}"));
    until("two older files", || {
        host.create("default");
        name(2).exists().then_some(())
    });
    for file in [name(1), name(2)] {
        assert!(fs::metadata(&file).unwrap().len() <= 4096 && lines(&file).len() > 10, "{file:?}");
    }
    for _ in 0..40 {
        host.create("default");
    }
    assert!(!name(3).exists());

    let host = Host::start(options().set("audit.file", json!("")));
    host.create("default");
    assert!(!audit_file(&host).exists() && host.admin("/readyz").json()["parts"]["audit"]["status"] == "ok");
}

/// An OpenID provider: tells where its keys are, and which.
struct Provider {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Provider {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, keys) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Value>>>::default());
        let published = keys.clone();
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                // One that goes away is the next one's problem, not the provider's.
                let _ = answer(stream.unwrap(), address, &published);
            }
        });
        Self { address, keys }
    }

    fn issuer(&self) -> String {
        format!("http://{}/realm", self.address)
    }

    /// A new key, the only one from now on.
    fn new_key(&self, id: &str) -> EncodingKey {
        // Another test may have chosen already; it is the same.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        let key = EncodingKey::from_ec_pem(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        public.common.key_id = Some(id.to_owned());
        *self.keys.lock().unwrap() = vec![serde_json::to_value(public).unwrap()];
        key
    }

    fn token(&self, key: &EncodingKey, id: &str, roles: &Value, seconds: i64) -> String {
        let now = i64::try_from(Clock::system().seconds()).unwrap();
        let header = Header { typ: Some("at+jwt".to_owned()), kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({
            "iss": self.issuer(), "sub": "ada", "aud": ["account", "conductors"], "exp": now + seconds, "realm_access": { "roles": roles },
        });
        jsonwebtoken::encode(&header, &claims, key).unwrap()
    }
}

fn answer(mut stream: TcpStream, address: SocketAddr, keys: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = match first.split(' ').nth(1) {
        Some("/realm/.well-known/openid-configuration") => {
            json!({ "issuer": format!("http://{address}/realm"), "jwks_uri": format!("http://{address}/keys") })
        }
        _ => json!({ "keys": *keys.lock().unwrap() }),
    };
    let body = body.to_string();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_openid_providers_access_tokens_are_identities() {
    let provider = Provider::start();
    let key = provider.new_key("first");
    let host = Host::start(
        options()
            .set("admin.oidc_issuer", json!(provider.issuer()))
            .set("admin.oidc_audience", json!("conductors"))
            .set("admin.oidc_role_claim", json!("realm_access.roles"))
            .set("admin.oidc_roles.look", json!("viewer"))
            .set("admin.oidc_roles.run", json!("operator")),
    );
    let create = |token: &str| ask(host.admin, "POST", "/v1/sessions", token, r#"{"type":"default"}"#).status;
    let look = |token: &str| ask(host.admin, "GET", "/v1/types", token, "").status;
    let token = |roles: Value| provider.token(&key, "first", &roles, 300);
    let (run, view, none) = (token(json!(["x", "run"])), token(json!(["look"])), token(json!([])));
    assert_eq!((look(&run), create(&run)), (200, 201));
    assert_eq!((look(&view), create(&view)), (200, 403));
    assert_eq!((look(&none), create(&none)), (401, 401));
    let expired = provider.token(&key, "first", &json!(["run"]), -120);
    assert_eq!((look(&expired), http::get(host.admin, "/v1/types").status, http::get(host.admin, "/livez").status), (401, 401, 200));
    // Both ways at the same time.
    assert_eq!(create(&self::token(&host, "admin")), 201);
    assert_eq!(create(&run), 201);

    let newer = provider.new_key("second");
    let newer = provider.token(&newer, "second", &json!(["run"]), 300);
    assert_eq!((create(&newer), create(&run)), (201, 401), "the provider took another key");

    let who: Vec<Value> =
        lines(&audit_file(&host)).into_iter().map(|line| line["who"].clone()).filter(|who| who["method"] == "oidc").collect();
    assert!(who.iter().all(|who| who["name"] == format!("{}#ada", provider.issuer())), "{who:?}");
    assert_eq!(who.iter().map(|who| who["role"].as_str().unwrap()).collect::<Vec<_>>(), ["operator", "viewer", "operator", "operator"]);
    let said = host.log() + &fs::read_to_string(audit_file(&host)).unwrap();
    assert!(said.contains("refused: expired"), "the log says why");
    for token in [run, view, none, expired, newer] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!said.contains(&token) && !said.contains(signature), "a token is on record");
    }
    let public = provider.keys.lock().unwrap()[0]["x"].as_str().unwrap().to_owned();
    assert!(!said.contains(&public), "a key of the provider is in the log");
}

#[test]
fn a_host_starts_while_its_provider_is_away() {
    // Nobody answers there: the port was the system's choice, and is given back.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let host = Host::start(
        options()
            .set("admin.oidc_issuer", json!(format!("http://{address}")))
            .set("admin.oidc_audience", json!("conductors"))
            .set("admin.oidc_roles.run", json!("operator")),
    );
    let said = "the OpenID provider's keys cannot be fetched";
    until("a word on the provider", || host.log().contains(said).then_some(()));
    assert_eq!(http::get(host.admin, "/v1/types").status, 401, "the port is closed all the same");
    assert_eq!(ask(host.admin, "GET", "/v1/types", &token(&host, "viewer"), "").status, 200, "other identities go on");
}

#[test]
fn client_certificates_are_identities() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let at = folder.path().join(name);
        fs::create_dir(&at).unwrap();
        (Authority::new(name), at)
    };
    let ((server, server_at), (clients, clients_at), (others, others_at)) = (made("server"), made("clients"), made("others"));
    let own = server.issue(&server_at, "host", &["localhost", "127.0.0.1"]);
    let ca = server.write(&server_at);
    let client_ca = clients.write(&clients_at);
    let host = Host::start(
        options()
            .set("tls.cert", json!(own.cert))
            .set("tls.key", json!(own.key))
            .set("admin.tls", json!(true))
            .set("admin.client_ca", json!(client_ca))
            .set("admin.client_roles.ada", json!("admin"))
            .set("admin.client_roles.bob", json!("viewer")),
    );
    let issue = |authority: &Authority, at: &Path, name: &str| {
        let identity = authority.issue(at, name, &[]);
        ["--cert".to_owned(), identity.cert.display().to_string(), "--key".to_owned(), identity.key.display().to_string()]
    };
    let (ada, bob, eve) = (issue(&clients, &clients_at, "ada"), issue(&clients, &clients_at, "bob"), issue(&clients, &clients_at, "eve"));
    let foreign = issue(&others, &others_at, "ada");
    let url = |target: &str| format!("https://localhost:{}{target}", host.admin.port());
    let with = |identity: &[String], more: &[&str], target: &str| {
        let url = url(target);
        let arguments: Vec<&str> = identity.iter().map(String::as_str).chain(more.iter().copied()).chain([&*url]).collect();
        try_curl(&ca, &arguments)
    };
    let create = |identity: &[String]| with(identity, &["-d", r#"{"type":"default"}"#], "/v1/sessions").unwrap().status;
    let look = |identity: &[String]| with(identity, &[], "/v1/types").unwrap().status;
    assert_eq!((look(&ada), create(&ada)), (200, 201));
    assert_eq!((look(&bob), create(&bob)), (200, 403));
    assert_eq!((look(&eve), create(&eve)), (401, 401), "known to the authority, and without a role");
    assert_eq!((look(&[]), curl(&ca, &[&url("/livez")]).status), (401, 200), "nobody must show a certificate");
    let refused = with(&foreign, &[], "/v1/types");
    assert!(refused.is_err(), "{refused:?}");
    // A token beside it, for who has no certificate.
    let bearer = format!("Authorization: Bearer {}", token(&host, "operator"));
    assert_eq!(with(&[], &["-H", &bearer], "/v1/types").unwrap().status, 200);

    let who: Vec<Value> = lines(&audit_file(&host)).into_iter().map(|line| line["who"].clone()).filter(|who| !who.is_null()).collect();
    let of = |name: &str, role: &str| json!({ "name": name, "role": role, "method": "certificate" });
    assert_eq!(who, [of("ada", "admin"), of("bob", "viewer")]);

    // Another authority from SIGHUP on.
    fs::copy(others.write(&others_at), &client_ca).unwrap();
    host.signal_to_reload();
    until("the other authority", || with(&foreign, &[], "/v1/types").is_ok_and(|answer| answer.status == 200).then_some(()));
    let refused = with(&ada, &[], "/v1/types");
    assert!(refused.is_err(), "{refused:?}");
}
