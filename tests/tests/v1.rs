//! The interface that new users meet: `/v1`, its problems, and whether the host is well.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::collections::BTreeSet;

use conductor_tests::{Credentials, Host, HostOptions, Mqtt, Response, Session, Version, Way, http, request, until};
use serde_json::{Value, json};

fn host() -> Host {
    Host::start(HostOptions::default().plugin("echo", "conductor_test_echo").plugin("faulty", "conductor_test_faulty"))
}

/// The `code` of a problem as RFC 9457 has it.
fn problem(answer: &Response, status: u16) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let body = answer.json();
    assert_eq!(body["status"], status, "{body}");
    assert!(body["title"].is_string(), "{body}");
    let code = body["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    assert!(!code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
    code
}

fn create(host: &Host, type_name: &str) -> (Response, Session) {
    let answer = http::post(host.admin, "/v1/sessions", &json!({"type": type_name}).to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    let session = Session { id: text("id"), pin: text("pin") };
    (answer, session)
}

fn join(host: &Host, id: &str, body: &Value) -> Response {
    http::post(host.iot, &format!("/v1/sessions/{id}/join"), &body.to_string())
}

#[test]
fn a_session_is_created_shown_and_deleted() {
    let host = host();
    let (answer, session) = create(&host, "echo");
    let location = answer.header("location").expect("where it is");
    assert_eq!(location, format!("/v1/sessions/{}", session.id));
    let created = answer.json();
    for key in ["id", "pin", "type", "state", "created_at", "clients"] {
        assert!(created.get(key).is_some(), "{key}: {created}");
    }
    assert_eq!((&created["type"], &created["clients"]), (&json!("echo"), &json!([])));
    let shown = host.show(&session);
    assert_eq!((shown.status, &shown.json()["pin"]), (200, &json!(session.pin)));
    host.join(&session, "a");
    assert_eq!(host.show(&session).json()["clients"][0]["client_id"], "a");
    // What `/api` made is there as well, and the other way round.
    assert_eq!(host.ask(&session, "whoami", ""), json!([session.id, "echo"]));
    let legacy = host.create("default");
    assert_eq!(host.show(&legacy).json()["type"], "default");

    let target = format!("/v1/sessions/{}", session.id);
    let deleted = request(host.admin, "DELETE", &target, &[], "");
    assert!(matches!(deleted.status, 200 | 204), "{deleted:?}");
    problem(&request(host.admin, "DELETE", &target, &[], ""), 404);
    problem(&host.show(&session), 404);
}

#[test]
fn sessions_are_listed_page_by_page() {
    let host = host();
    let all: BTreeSet<_> = (0..120).map(|_| host.create("default").id).collect();
    assert_eq!(all.len(), 120);
    for (limit, pages) in [("", vec![50, 50, 20]), ("limit=100", vec![100, 20]), ("limit=500", vec![120]), ("limit=1", vec![1; 120])] {
        let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), None::<String>);
        loop {
            let cursor_query = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page = host.admin(&format!("/v1/sessions?{limit}{cursor_query}"));
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            let items = page["items"].as_array().unwrap();
            sizes.push(items.len());
            seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match &page["next_cursor"] {
                Value::Null => break,
                Value::String(next) => cursor = Some(next.clone()),
                other => panic!("{other}"),
            }
        }
        // An empty last page is allowed: the page before it was just full.
        if sizes.last() == Some(&0) {
            sizes.pop();
        }
        assert_eq!(sizes, pages, "{limit}");
        assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (120, all.clone()), "each once");
    }
    for query in ["limit=0", "limit=-1", "limit=x", "limit=501", "limit=99999999999999999999", "cursor=%00", "cursor=nonsense"] {
        let answer = host.admin(&format!("/v1/sessions?{query}"));
        problem(&answer, 400);
    }
}

#[test]
fn requests_reach_the_conductor_and_its_answer_comes_back() {
    let host = host();
    let (_, session) = create(&host, "echo");
    for params in [Value::Null, json!({"a": [1, 2.5]}), json!("text"), json!([]), json!(1e300), json!("客\u{0}")] {
        let answer = host.request(&session, "params", params.clone());
        assert_eq!((answer.status, answer.json()), (200, json!({"result": params})));
    }
    let target = format!("/v1/sessions/{}/requests", session.id);
    assert_eq!(http::post(host.admin, &target, "{\"method\": \"params\"}").json(), json!({"result": null}));
}

#[test]
fn every_failure_has_its_status_and_a_stable_code() {
    let host = Host::start(
        HostOptions::default()
            .plugin("echo", "conductor_test_echo")
            .plugin("faulty", "conductor_test_faulty")
            .set("sessions.deadline", json!("1s")),
    );
    let (_, session) = create(&host, "echo");
    let nobody = Session { id: "1".into(), pin: String::new() };
    let unknown_session = problem(&host.request(&nobody, "params", Value::Null), 404);
    assert_eq!(problem(&host.show(&nobody), 404), unknown_session);
    let unknown_method = problem(&host.request(&session, "none", Value::Null), 404);
    assert_ne!(unknown_method, unknown_session);
    let invalid = problem(&host.request(&session, "say", json!({"name": 7})), 422);
    let (_, faulty) = create(&host, "faulty");
    let deadline = problem(&host.request(&faulty, "hang", Value::Null), 504);
    problem(&host.request(&faulty, "panic", Value::Null), 502);
    let faulted = problem(&host.request(&faulty, "fine", Value::Null), 502);
    let codes = [unknown_session, unknown_method, invalid, deadline, faulted];
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len(), "{codes:?}");
}

#[test]
fn bad_requests_are_problems() {
    let host = host();
    let (_, session) = create(&host, "echo");
    let requests = format!("/v1/sessions/{}/requests", session.id);
    for (target, body) in [
        ("/v1/sessions", ""),
        ("/v1/sessions", "{"),
        ("/v1/sessions", "[]"),
        ("/v1/sessions", "{}"),
        ("/v1/sessions", "{\"type\": 7}"),
        ("/v1/sessions", "{\"type\": \"none\"}"),
        ("/v1/sessions", "{\"type\": \"\\u0000\"}"),
        (requests.as_str(), ""),
        (&requests, "{}"),
        (&requests, "{\"method\": 7}"),
        (&requests, "{\"method\": null}"),
        (&requests, &"[".repeat(4000)),
    ] {
        let answer = http::post(host.admin, target, body);
        assert!((400..=422).contains(&answer.status), "{target} {body}: {answer:?}");
        problem(&answer, answer.status);
    }
    for (method, target) in
        [("PUT", "/v1/sessions"), ("PUT", &format!("/v1/sessions/{}", session.id)), ("GET", &requests), ("POST", "/v1/types")]
    {
        problem(&request(host.admin, method, target, &[], ""), 405);
    }
    problem(&host.admin("/v1/none"), 404);
    problem(&http::get(host.iot, "/v1/none"), 404);
    for id in ["", "x", "%00", "%FF", "1234567890123", "..%2f.."] {
        let answer = host.admin(&format!("/v1/sessions/{id}"));
        assert!(matches!(answer.status, 400 | 404), "{id}: {answer:?}");
    }
    assert_eq!(host.admin("/v1/sessions").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn types_are_listed() {
    let host = host();
    let types = host.admin("/v1/types");
    assert_eq!(types.status, 200);
    let text = types.body;
    for word in ["active", "default", "echo", "faulty", "state", "whoami"] {
        assert!(text.contains(&format!("\"{word}\"")), "{word}: {text}");
    }
    // All that a form needs: what a method takes, and what the config may be.
    let echo = host.admin("/v1/types/echo").json();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert!(list["items"].as_array().unwrap().contains(&echo), "{list}");
    let say = echo["methods"].as_array().unwrap().iter().find(|method| method["name"] == "say").unwrap();
    assert_eq!(say["params"]["properties"]["name"]["type"], "string");
    assert_eq!(echo["config"]["type"], "null");
    let refused = host.admin("/v1/types/nothing");
    assert_eq!((refused.status, &refused.json()["code"]), (404, &json!("type_not_found")));
}

#[test]
fn parameters_that_do_not_fit_are_told_with_their_place() {
    let host = host();
    let session = host.create("echo");
    let refused = host.request(&session, "say", json!({"name": "a", "payload": ["b"]}));
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid_params")));
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(r#"the parameters do not fit at "payload": invalid type: sequence, expected a string"#), "{detail}");
}

#[test]
fn a_join_tells_all_that_a_device_needs() {
    let host = host();
    let (_, session) = create(&host, "echo");
    let answer = join(&host, &session.id, &json!({"pin": session.pin, "client": "unit-1"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!((&told["client_id"], &told["username"]), (&json!("unit-1"), &json!(session.id)));
    assert_eq!(told["topic_prefix"], format!("/{}/", session.id));
    assert!(!told["expires_at"].is_null(), "{told}");
    let endpoints = told["mqtt"].to_string();
    for port in [host.mqtt.unwrap().port(), host.mqtt_websocket.unwrap().port()] {
        assert!(endpoints.contains(&port.to_string()), "{endpoints}");
    }
    let credentials = Credentials::new("unit-1", told["username"].as_str().unwrap(), told["token"].as_str().unwrap());
    let mut device = Mqtt::connect(&host, Version::V5, Way::Tcp, &credentials).unwrap();
    assert!(device.subscribe(&format!("{}#", told["topic_prefix"].as_str().unwrap()), 0));
}

#[test]
fn a_refused_join_tells_nothing_apart() {
    let host = host();
    let (_, session) = create(&host, "echo");
    let wrong = if session.pin == "000000" { "000001" } else { "000000" };
    let answers = [(session.id.as_str(), wrong), ("1", session.pin.as_str()), ("999999999999", "1"), (&session.id, ""), (&session.id, "x")]
        .map(|(id, pin)| join(&host, id, &json!({"pin": pin, "client": "a"})));
    for answer in &answers {
        problem(answer, 403);
        assert_eq!(answer.body, answers[0].body);
    }
    for client in ["", "späce unit", "a b", "a/b", "a+b", "#", "iotserver", &"a".repeat(65)] {
        let answer = join(&host, &session.id, &json!({"pin": session.pin, "client": client}));
        assert!((400..500).contains(&answer.status), "{client}: {answer:?}");
        problem(&answer, answer.status);
    }
    assert_eq!(host.clients(&session), Vec::<String>::new());
}

#[test]
fn the_host_says_that_it_lives_and_is_ready() {
    let host = host();
    for port in [host.admin, host.iot] {
        assert_eq!(http::get(port, "/livez").status, 200);
    }
    assert_eq!(http::get(host.iot, "/readyz").status, 404);
    let first = host.admin("/readyz?verbose=1");
    assert_eq!(first.status, 200);
    let body = first.json();
    assert_eq!(body["status"], "ready", "{body}");
    for part in ["store", "broker", "plugins"] {
        assert!(body["parts"].get(part).is_some(), "{part}: {body}");
    }
    // It holds no times, so it is the same again.
    assert_eq!(host.admin("/readyz").body, first.body);
}

#[test]
fn while_it_drains_it_is_not_ready_and_finishes_what_it_began() {
    let mut host = host();
    let (_, session) = create(&host, "echo");
    let token = host.join(&session, "a");
    let mut device = Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).unwrap();
    assert!(device.subscribe(&format!("/{}/waiting", session.id), 1));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| host.request(&session, "wait", json!({"millis": 2500})));
        assert_eq!(device.heard().1, "2500");
        host.signal_to_end();
        let ready = until("the drain to begin", || Some(host.admin("/readyz")).filter(|ready| ready.status != 200));
        assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("draining")));
        let create = || http::post(host.admin, "/v1/sessions", "{\"type\": \"echo\"}");
        // Once the IoT port has answered all that it was asked.
        let refused = until("operations to be refused", || Some(create()).filter(|answer| answer.status != 201));
        assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("stopping")));
        assert_eq!(host.admin("/livez").status, 200);
        assert_eq!(asked.join().unwrap().json(), json!({"result": 2500}));
    });
    assert!(host.wait().success());
}

#[test]
fn an_id_that_cannot_be_decoded_is_no_session() {
    let host = host();
    for id in ["%ff", "%zz", "12345678901234567890", "a", "1%00"] {
        let code = |answer: http::Response| (answer.status, answer.json()["code"].clone());
        assert_eq!(code(host.admin(&format!("/v1/sessions/{id}"))), (404, json!("session_not_found")), "{id}");
        assert_eq!(code(http::request(host.admin, "DELETE", &format!("/v1/sessions/{id}"), &[], "")), (404, json!("session_not_found")));
        let asked = http::post(host.admin, &format!("/v1/sessions/{id}/requests"), "{\"method\": \"state\"}");
        assert_eq!(code(asked), (404, json!("session_not_found")));
        let joined = http::post(host.iot, &format!("/v1/sessions/{id}/join"), "{\"pin\": \"1\", \"client\": \"a\"}");
        assert_eq!(code(joined), (403, json!("invalid_credentials")), "as a wrong pin");
    }
}
