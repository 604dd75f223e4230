//! What opens a session, and how often it may be tried.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use conductor_tests::{Host, HostOptions, Response, host::run_refused, http, request, until};
use serde_json::{Value, json};

/// With the budgets that devices meet.
fn options() -> HostOptions {
    HostOptions::default().set("joins.exempt", json!("")).set("iot.public_url", json!("https://sessions.example.org/iot/"))
}

fn create(host: &Host) -> Value {
    let answer = http::post(host.admin, "/v1/sessions", &json!({"type": "default"}).to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

fn show(host: &Host, session: &Value) -> Value {
    http::get(host.admin, &format!("/v1/sessions/{}", session["id"].as_str().unwrap())).json()
}

fn join(host: &Host, id: &Value, body: Value) -> Response {
    http::post(host.iot, &format!("/v1/sessions/{}/join", id.as_str().unwrap()), &body.to_string())
}

fn legacy(host: &Host, id: &Value, pin: &Value) -> Response {
    host.join_raw(&json!({"id": id, "pin": pin, "client": "a"}).to_string())
}

fn change(host: &Host, session: &Value, what: &str) -> Response {
    http::post(host.admin, &format!("/v1/sessions/{}/pin/{what}", session["id"].as_str().unwrap()), "")
}

/// A pin that is not the session's.
fn other(pin: &Value) -> Value {
    let last = pin.as_str().unwrap();
    let digit = if last.ends_with('0') { "1" } else { "0" };
    json!(format!("{}{digit}", &last[..last.len() - 1]))
}

/// All that a device sees of an answer, but the time.
fn bytes(mut answer: Response) -> (u16, Vec<(String, String)>, String) {
    answer.headers.retain(|(name, _)| name != "date");
    (answer.status, answer.headers, answer.body)
}

fn metric(host: &Host, name: &str) -> u64 {
    let text = http::get(host.admin, "/v1/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("conductor_host_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[test]
fn pin_link_and_resume_token_open_a_session_over_restarts() {
    let mut host = Host::start(options());
    let (session, another) = (create(&host), create(&host));
    let (id, secret) = (&session["id"], session["join_secret"].as_str().unwrap());
    assert_eq!(session["join_url"], json!(format!("https://sessions.example.org/iot/join/{}#{secret}", id.as_str().unwrap())));
    assert_eq!((secret.len(), &show(&host, &session)["join_secret"]), (22, &session["join_secret"]));
    assert_ne!(session["join_secret"], another["join_secret"]);
    let resume_of = |answer: Response| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.json()["token"].as_str().unwrap().len() > 100);
        answer.json()["resume"].clone()
    };
    let mut resume = resume_of(join(&host, id, json!({"client": "ann", "pin": session["pin"]})));
    for _ in 0..2 {
        resume_of(join(&host, id, json!({"client": "bob", "secret": secret})));
        resume = resume_of(join(&host, id, json!({"client": "ann", "resume": resume})));
        host.stop();
        host.start_again();
    }
    let wrong = |body: Value| {
        let answer = join(&host, id, body);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("invalid_credentials")));
    };
    wrong(json!({"client": "bob", "resume": resume}));
    wrong(json!({"client": "ann", "secret": another["join_secret"]}));
    wrong(json!({"client": "ann", "secret": resume}));
    assert_eq!(join(&host, &another["id"], json!({"client": "ann", "resume": resume})).status, 403);
    // Who is sent away comes in with the pin or the link alone, whatever he kept, over restarts too.
    let kicked = request(host.admin, "DELETE", &format!("/v1/sessions/{}/clients/ann", id.as_str().unwrap()), &[], "");
    assert_eq!(kicked.status, 204);
    host.kill();
    host.start_again();
    assert_eq!(join(&host, id, json!({"client": "ann", "resume": resume})).status, 403);
    let again = resume_of(join(&host, id, json!({"client": "ann", "secret": secret})));
    assert_eq!(join(&host, id, json!({"client": "ann", "resume": resume})).status, 403);
    resume_of(join(&host, id, json!({"client": "ann", "resume": again})));
    let log = host.log();
    for hidden in [secret, resume.as_str().unwrap(), again.as_str().unwrap(), session["pin"].as_str().unwrap()] {
        assert!(!log.contains(&format!("\"{hidden}\"")) && (hidden.len() < 20 || !log.contains(hidden)), "{hidden} is in the log");
    }
}

#[test]
fn a_join_shows_one_thing() {
    let host = Host::start(options().set("iot.public_url", json!("http://h")));
    let session = create(&host);
    for (body, expected) in [
        (json!({"client": "a"}), "must be there"),
        (json!({"client": "a", "pin": null}), "must be there"),
        (json!({"client": "a", "pin": "1", "secret": "x"}), "only one"),
        (json!({"client": "a", "pin": "1", "secret": "x", "resume": "y"}), "only one"),
        (json!({"pin": "1"}), "client"),
        (json!({"client": "a", "secret": 5}), "string"),
    ] {
        let answer = join(&host, &session["id"], body);
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("invalid_request")), "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(expected), "{answer:?}");
    }
}

#[test]
fn without_a_public_url_there_is_no_link() {
    let host = Host::start(HostOptions::default());
    let session = create(&host);
    assert!(session.get("join_url").is_none() && session["join_secret"].is_string());
}

#[test]
fn the_page_of_a_link_is_the_same_for_every_id() {
    let host = Host::start(options());
    let id = create(&host)["id"].as_str().unwrap().to_owned();
    let page = http::get(host.iot, &format!("/join/{id}"));
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert!(page.body.contains("for the app") && !page.body.contains(&id));
    for other in ["000000", "x", "%ff"] {
        assert_eq!(bytes(http::get(host.iot, &format!("/join/{other}"))), bytes(page.clone()));
    }
    assert_eq!(http::post(host.iot, &format!("/join/{id}"), "").status, 405);
}

#[test]
fn unknown_wrong_closed_and_guarded_are_told_apart_by_no_byte() {
    // One source may fail often here; what is compared is the session's side.
    let host = Host::start(options().set("joins.source_failures_burst", json!(1000)));
    let (open, guarded, closed) = (create(&host), create(&host), create(&host));
    let wrong = other(&guarded["pin"]);
    for _ in 0..10 {
        assert_eq!(legacy(&host, &guarded["id"], &wrong).status, 200);
    }
    assert_eq!(show(&host, &guarded)["pin_guarded"], json!(true));
    assert_eq!(request(host.admin, "DELETE", &format!("/v1/sessions/{}", closed["id"].as_str().unwrap()), &[], "").status, 204);
    let unknown = json!("000000");
    let cases = [
        (&open["id"], other(&open["pin"])),
        (&open["id"], json!("not a pin")),
        (&guarded["id"], guarded["pin"].clone()),
        (&guarded["id"], wrong),
        (&closed["id"], closed["pin"].clone()),
        (&unknown, json!("424242")),
    ];
    let v1: Vec<_> = cases.iter().map(|(id, pin)| bytes(join(&host, id, json!({"client": "a", "pin": pin})))).collect();
    let api: Vec<_> = cases.iter().map(|(id, pin)| bytes(legacy(&host, id, pin))).collect();
    assert_eq!((v1[0].0, api[0].0, &*api[0].2), (403, 200, r#"{"token":"Could not validate session credentials"}"#));
    assert!(v1.iter().all(|answer| *answer == v1[0]), "{v1:#?}");
    assert!(api.iter().all(|answer| *answer == api[0]), "{api:#?}");
    for shown in ["secret", "resume"] {
        let answer = |id: &Value| bytes(join(&host, id, json!({"client": "a", shown: "AAAAAAAAAAAAAAAAAAAAAA"})));
        assert_eq!((answer(&open["id"]), answer(&closed["id"]), answer(&unknown)), (v1[0].clone(), v1[0].clone(), v1[0].clone()));
    }
}

#[test]
fn a_source_that_fails_too_often_is_asked_to_wait_and_its_links_work() {
    let host = Host::start(options());
    let session = create(&host);
    let before = join(&host, &session["id"], json!({"client": "ann", "pin": session["pin"]})).json()["resume"].clone();
    for number in 0..10 {
        assert_eq!(join(&host, &json!(format!("00000{number}")), json!({"client": "a", "pin": "424242"})).status, 403);
    }
    let limited = join(&host, &session["id"], json!({"client": "a", "pin": session["pin"]}));
    assert_eq!((limited.status, &limited.json()["code"]), (429, &json!("too_many_attempts")));
    let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&seconds), "{seconds}");
    let unknown = join(&host, &json!("000000"), json!({"client": "a", "pin": "1"}));
    assert_eq!(unknown.status, 429, "whether or not there is a session");
    let limited = legacy(&host, &session["id"], &session["pin"]);
    assert_eq!((limited.status, &*limited.body), (429, r#"{"token":"Could not validate session credentials"}"#));
    assert!(limited.header("retry-after").is_some() && limited.header("access-control-allow-origin") == Some("*"));
    for body in [json!({"client": "b", "secret": session["join_secret"]}), json!({"client": "ann", "resume": before})] {
        assert_eq!(join(&host, &session["id"], body).status, 200);
    }
    assert_eq!((metric(&host, "joins_limited_total"), metric(&host, "joins_refused_total")), (3, 10));
}

#[test]
fn a_guarded_pin_is_opened_and_rotated_by_an_administrator_and_a_restart_does_not_open_it() {
    let options = options().set("joins.source_failures_burst", json!(1000));
    let mut host = Host::start(options);
    let session = create(&host);
    let status = |host: &Host, body: Value| join(host, &session["id"], body).status;
    let by_pin = |host: &Host, pin: &Value| status(host, json!({"client": "a", "pin": pin}));
    let spend = |host: &Host, pin: &Value| (0..10).for_each(|_| assert_eq!(by_pin(host, &other(pin)), 403));
    assert!(show(&host, &session).get("pin_guarded").is_none());
    spend(&host, &session["pin"]);
    assert_eq!((show(&host, &session)["pin_guarded"].clone(), by_pin(&host, &session["pin"])), (json!(true), 403));
    assert_eq!(status(&host, json!({"client": "b", "secret": session["join_secret"]})), 200);
    assert_eq!(metric(&host, "pins_guarded"), 1);
    until("the log to say so", || host.log().contains("the pin is guarded").then_some(()));
    host.stop();
    host.start_again();
    assert_eq!((show(&host, &session)["pin_guarded"].clone(), by_pin(&host, &session["pin"])), (json!(true), 403));
    assert_eq!(change(&host, &session, "open").status, 204);
    assert_eq!(by_pin(&host, &session["pin"]), 200);
    assert!(show(&host, &session).get("pin_guarded").is_none());
    spend(&host, &session["pin"]);
    let rotated = change(&host, &session, "rotate");
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let pin = rotated.json()["pin"].clone();
    assert_eq!((pin.as_str().unwrap().len(), &show(&host, &session)["pin"]), (6, &pin));
    host.kill();
    host.start_again();
    assert_eq!((by_pin(&host, &session["pin"]), by_pin(&host, &pin)), (403, 200));
    assert_eq!(status(&host, json!({"client": "b", "secret": session["join_secret"]})), 200);
    for what in ["open", "rotate"] {
        assert_eq!(change(&host, &json!({"id": "000000"}), what).json()["code"], "session_not_found");
    }
    assert!(!host.log().contains(&format!("{pin}")), "no pin is in the log");
}

#[test]
fn a_crash_frees_no_pin_whose_failures_were_written_down_meanwhile() {
    let mut host = Host::start(options().set("joins.pin_failures_burst", json!(1)));
    let session = create(&host);
    let by_pin = |host: &Host, pin: &Value| join(host, &session["id"], json!({"client": "a", "pin": pin})).status;
    assert_eq!(by_pin(&host, &other(&session["pin"])), 403);
    until("what failed to be written down", || host.folder().join("state/join-budgets").exists().then_some(()));
    host.kill();
    host.start_again();
    assert_eq!((show(&host, &session)["pin_guarded"].clone(), by_pin(&host, &session["pin"])), (json!(true), 403));
}

#[test]
fn damaged_budgets_guard_all_pins_until_they_are_opened() {
    let mut host = Host::start(options().set("joins.source_failures_burst", json!(1000)));
    let session = create(&host);
    assert_eq!(join(&host, &session["id"], json!({"client": "a", "pin": other(&session["pin"])})).status, 403);
    host.stop();
    let file = host.folder().join("state/join-budgets");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    host.start_again();
    assert!(host.log().contains("the budgets of pins cannot be read"));
    let by_pin = |host: &Host| join(host, &session["id"], json!({"client": "a", "pin": session["pin"]})).status;
    assert_eq!(by_pin(&host), 403);
    assert_eq!(change(&host, &session, "open").status, 204);
    assert_eq!(by_pin(&host), 200);
}

#[test]
fn the_key_of_links_is_its_owner_s_alone() {
    let mut host = Host::start(options());
    host.stop();
    let key = host.folder().join("state/join-key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run_refused(host.folder(), &options());
    assert!(refused.code == Some(1) && refused.stderr.contains("join-key") && refused.stderr.contains("chmod 600"), "{refused:?}");
}

#[test]
fn behind_a_trusted_proxy_the_address_that_it_names_counts() {
    let host = Host::start(options().set("iot.trusted_proxies", json!("127.0.0.0/8")));
    let session = create(&host);
    let target = format!("/v1/sessions/{}/join", session["id"].as_str().unwrap());
    let from = |forwarded: &str, pin: &Value| {
        request(host.iot, "POST", &target, &[("X-Forwarded-For", forwarded)], &json!({"client": "a", "pin": pin}).to_string()).status
    };
    for _ in 0..10 {
        assert_eq!(from("203.0.113.9, 192.0.2.1", &other(&session["pin"])), 403);
    }
    // What the device itself wrote before that changes nothing.
    assert_eq!(from("203.0.113.77, 192.0.2.1", &session["pin"]), 429);
    assert_eq!(change(&host, &session, "open").status, 204);
    assert_eq!(from("192.0.2.2", &session["pin"]), 200);
    assert!(host.log().contains("192.0.2.2"), "the log says who it was");
    let untrusting = Host::start(options());
    let session = create(&untrusting);
    let target = format!("/v1/sessions/{}/join", session["id"].as_str().unwrap());
    let statuses: Vec<_> = (0..11)
        .map(|number| {
            let forwarded = format!("192.0.2.{number}");
            let body = json!({"client": "a", "pin": other(&session["pin"])}).to_string();
            request(untrusting.iot, "POST", &target, &[("X-Forwarded-For", &forwarded)], &body).status
        })
        .collect();
    assert_eq!((statuses[9], statuses[10]), (403, 429), "of nobody else it is believed");
}

#[test]
fn a_session_has_as_many_clients_as_the_settings_let_it() {
    let host = Host::start(options().set("sessions.max_clients", json!(3)));
    let session = create(&host);
    let join = |client: &str| join(&host, &session["id"], json!({"client": client, "secret": session["join_secret"]}));
    for client in ["a", "b", "c", "a"] {
        assert_eq!(join(client).status, 200);
    }
    let full = join("d");
    assert_eq!((full.status, &full.json()["code"]), (403, &json!("session_full")));
}

#[test]
fn a_tenth_of_the_ids_is_given_out_and_a_hundredth_is_warned_of() {
    let host = Host::start(options().set("sessions.id_digits", json!(4)).set("store.url", json!("memory:")));
    let warned = || host.log().matches("a hundredth of all 4-digit ids is in use").count();
    for _ in 0..98 {
        create(&host);
    }
    assert_eq!(warned(), 0);
    for _ in 98..1000 {
        create(&host);
    }
    let refused = http::post(host.admin, "/v1/sessions", r#"{"type": "default"}"#);
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("id_space_full")), "{refused:?}");
    assert_eq!(warned(), 1);
}
