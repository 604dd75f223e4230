//! What clients of the replaced system rely on: `/api`, byte for byte where it matters.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use conductor_tests::{Host, HostOptions, Response, Session, http, request};
use serde_json::{Value, json};

const WRONG: &str = "Could not validate session credentials";

fn host() -> Host {
    Host::start(HostOptions::default().plugin("echo", "conductor_test_echo").plugin("faulty", "conductor_test_faulty"))
}

/// A JSON answer of status 200, of the type and with the protection that every answer has.
fn ok(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    json_answer(answer)
}

fn json_answer(answer: &Response) -> Value {
    let content_type = answer.header("content-type").unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(content_type.split(';').next(), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    assert_eq!(answer.header("etag"), None);
    answer.json()
}

/// The status, and an error that is JSON.
fn refused(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.header("content-type").is_some_and(|t| t.contains("json")), "{answer:?}");
    answer.json()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn sessions(host: &Host) -> usize {
    host.admin("/v1/sessions?limit=500").json()["items"].as_array().unwrap().len()
}

#[test]
fn create_session_answers_id_pin_type_clients_in_this_order() {
    let host = host();
    let answer = ok(&host.admin("/api/createSession?type=default"));
    assert_eq!(keys(&answer), ["id", "pin", "type", "clients"]);
    for key in ["id", "pin"] {
        let digits = answer[key].as_str().unwrap();
        assert!(digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()), "{answer}");
    }
    assert_eq!((&answer["type"], &answer["clients"]), (&json!("default"), &json!([])));
}

#[test]
fn ids_and_pins_have_the_digits_of_the_settings_and_keep_leading_zeros() {
    let host = Host::start(HostOptions::default().set("sessions.id_digits", json!(7)).set("sessions.pin_digits", json!(3)));
    // One pin in ten begins with a zero: without one among 400 the zeros are lost.
    let zero = (0..400).find_map(|_| {
        let session = host.create("default");
        assert_eq!((session.id.len(), session.pin.len()), (7, 3), "{session:?}");
        session.pin.starts_with('0').then_some(session)
    });
    let zero = zero.expect("a pin with a leading zero");
    host.join(&zero, "a");
    let without = json!({"id": zero.id, "pin": zero.pin.trim_start_matches('0'), "client": "a"});
    assert_eq!(host.join_raw(&without.to_string()).json(), json!({"token": WRONG}));
}

#[test]
fn create_session_without_a_known_type_is_400_and_names_the_types() {
    let host = host();
    refused(&host.admin("/api/createSession"), 400);
    refused(&host.admin("/api/createSession?type="), 400);
    let error = refused(&host.admin("/api/createSession?type=Default"), 400).to_string();
    for name in ["active", "default", "echo", "faulty"] {
        assert!(error.contains(name), "{error}");
    }
    assert_eq!(sessions(&host), 0);
}

#[test]
fn close_session_says_success_once() {
    let host = host();
    let session = host.create("default");
    let close = || ok(&host.admin(&format!("/api/closeSession?id={}&pin=1&type=x", session.id)));
    assert_eq!(close(), "Success");
    assert_eq!(close(), "Error");
    for id in ["", "x", "00000000000000000000", "-1", "%00"] {
        assert_ne!(host.admin(&format!("/api/closeSession?id={id}")).json(), "Success", "{id}");
    }
}

#[test]
fn conductor_request_says_what_is_missing() {
    let host = host();
    let session = host.create("default");
    let id = &session.id;
    assert_eq!(ok(&host.admin(&format!("/api/conductorRequest?id={id}&method=state"))), "State");
    // A method's name comes back as it came, markup included.
    for (sent, shown) in [("M", "M"), ("State", "State"), ("%3Cb%3E%22", "<b>\""), ("%E5%AE%A2", "客")] {
        let answer = ok(&host.admin(&format!("/api/conductorRequest?id={id}&method={sent}")));
        assert_eq!(answer, format!("Error: No handler function registered for method: {shown}"));
    }
    for unknown in ["none", "1", "9999999999999"] {
        assert_eq!(ok(&host.admin(&format!("/api/conductorRequest?id={unknown}&method=state"))), "Could not locate session");
    }
    for query in ["", "?id=1", "?method=state", &format!("?id={id}")] {
        refused(&host.admin(&format!("/api/conductorRequest{query}")), 400);
    }
    host.close(&session);
    assert_eq!(host.ask(&session, "state", ""), "Could not locate session");
}

#[test]
fn query_values_are_trimmed_the_last_counts_and_unknown_ones_are_ignored() {
    let host = host();
    ok(&host.admin("/api/createSession?type=%20default%09"));
    ok(&host.admin("/api/createSession?type=+default+"));
    let answer = ok(&host.admin("/api/createSession?type=none&type=default&type=active&more=1&%20=2"));
    assert_eq!(answer["type"], "active");
    refused(&host.admin("/api/createSession?type=default&type=none"), 400);
    let session = host.create("default");
    let target = format!("/api/conductorRequest?id=%20{id}%0A&id=+{id}&method=none&method=%20state%20&_=1", id = session.id);
    assert_eq!(ok(&host.admin(&target)), "State");
}

#[test]
fn escapes_that_cannot_be_decoded_are_400() {
    let host = host();
    let id = host.create("default").id;
    for escape in ["%FF", "%zz", "%", "%4", "%C3%28", "%ed%a0%80"] {
        for target in [
            format!("/api/createSession?type=default{escape}"),
            format!("/api/closeSession?id={id}{escape}"),
            format!("/api/conductorRequest?id={id}&method=state&params={escape}"),
        ] {
            refused(&host.admin(&target), 400);
        }
    }
    assert_eq!(sessions(&host), 1);
}

#[test]
fn other_methods_are_405_and_do_nothing() {
    let host = host();
    let session = host.create("default");
    for target in [
        "/api/createSession?type=default".to_owned(),
        format!("/api/closeSession?id={}", session.id),
        format!("/api/conductorRequest?id={}&method=state", session.id),
    ] {
        for method in ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE"] {
            let answer = request(host.admin, method, &target, &[], "");
            assert_eq!(answer.status, 405, "{method} {target}: {answer:?}");
        }
    }
    assert_eq!(sessions(&host), 1);
}

#[test]
fn unknown_routes_are_404() {
    let host = host();
    for target in
        ["/", "/api", "/api/", "/api/createsession?type=default", "/api/createSession/?type=default", "//api/createSession?type=default"]
    {
        assert_eq!(host.admin(target).status, 404, "{target}");
    }
    // Each port has its own routes only.
    assert_eq!(request(host.admin, "POST", "/api/joinSession", &[], "{}").status, 404);
    assert_eq!(http::get(host.iot, "/api/createSession?type=default").status, 404);
    assert_eq!(http::get(host.iot, "/v1/sessions").status, 404);
    assert_eq!(sessions(&host), 0);
}

#[test]
fn nothing_is_ever_answered_from_a_cache() {
    let host = host();
    let session = host.create("default");
    let target = format!("/api/conductorRequest?id={}&method=state", session.id);
    for header in [("If-None-Match", "*"), ("If-None-Match", "\"x\""), ("If-Modified-Since", "Fri, 31 Dec 2100 23:59:59 GMT")] {
        assert_eq!(ok(&request(host.admin, "GET", &target, &[header], "")), "State");
    }
}

#[test]
fn http_1_0_without_a_host_is_answered_then_closed() {
    let host = host();
    let answer = http::raw(host.admin, b"GET /api/createSession?type=default HTTP/1.0\r\n\r\n");
    assert_eq!(keys(&ok(&answer)), ["id", "pin", "type", "clients"]);
    let body = json!({"id": "1", "pin": "1", "client": "a"}).to_string();
    let post = format!("POST /api/joinSession HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(http::raw(host.iot, post.as_bytes()).json(), json!({"token": WRONG}));
}

#[test]
fn params_reach_a_handler_as_json_or_as_text() {
    let host = host();
    let session = host.create("echo");
    let got = |query: &str| host.ask(&session, "params", query);
    assert_eq!(got(""), Value::Null);
    assert_eq!(got("&params="), Value::Null);
    assert_eq!(got("&params=None"), "None");
    assert_eq!(got("&params=d"), "d");
    assert_eq!(got("&params=%7B%22a%22%3A%5B1%2C2.5%2Cnull%5D%7D"), json!({"a": [1, 2.5, null]}));
    assert_eq!(got("&params=12"), 12);
    assert_eq!(got("&params=%22d%22"), "d");
    assert_eq!(got("&params=true"), true);
    assert_eq!(got("&params=%7Bbroken"), "{broken");
    assert_eq!(got("&params=a+b%2Bc%26"), "a b+c&");
    assert_eq!(got("&params=1&params=2"), 2);
}

#[test]
fn failures_that_the_reference_does_not_know_are_those_of_v1() {
    let host = host();
    let problem = |answer: &Response, status: u16| {
        let body = refused(answer, status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        assert!(body["code"].is_string(), "{body}");
    };
    let ask =
        |session: &Session, method: &str, more: &str| host.admin(&format!("/api/conductorRequest?id={}&method={method}{more}", session.id));
    problem(&ask(&host.create("echo"), "say", "&params=1"), 422);
    let faulty = host.create("faulty");
    let failed = ask(&faulty, "fail", "");
    assert!(failed.status >= 400, "{failed:?}");
    problem(&failed, failed.status);
    problem(&ask(&faulty, "panic", ""), 502);
    problem(&ask(&faulty, "fine", ""), 502);
}

#[test]
fn default_answers_its_methods_whatever_the_parameters() {
    let host = host();
    let session = host.create("default");
    for params in ["", "&params=None", "&params=%7B%7D", "&params=%5B1%5D", "&params=d", "&params=%7B"] {
        for (method, result) in [("state", "State"), ("start", "Start"), ("stop", "Stop")] {
            assert_eq!(host.ask(&session, method, params), result, "{params}");
        }
    }
    assert_eq!(host.ask(&session, "pause", ""), "Error: No handler function registered for method: pause");
}

/// The order of the keys, too.
#[test]
fn conductors_describe_themselves() {
    let host = host();
    for (type_name, methods) in [("default", &["state", "start", "stop"][..]), ("active", &["state", "start", "stop", "pause"])] {
        let session = host.create(type_name);
        let described: Vec<_> = methods.iter().map(|method| format!(r#"{{"method":"{method}","params":[]}}"#)).collect();
        for params in ["", "&params=d"] {
            let answer = host.admin(&format!("/api/conductorRequest?id={}&method=request_api{params}", session.id));
            assert_eq!((answer.status, answer.body), (200, format!("[{}]", described.join(","))));
        }
    }
    let described = host.ask(&host.create("echo"), "request_api", "");
    assert!(described.to_string().contains(r#"{"method":"say","params":["name","payload","qos","retain","client"]}"#), "{described}");
}

#[test]
fn active_starts_and_stops_in_any_order() {
    let host = host();
    let session = host.create("active");
    for (method, result) in [
        ("stop", "Stopped"),
        ("pause", "Stopped"),
        ("state", "State"),
        ("start", "Started"),
        ("start", "Started"),
        ("state", "State"),
        ("pause", "Stopped"),
        ("stop", "Stopped"),
        ("start", "Started"),
    ] {
        assert_eq!(host.ask(&session, method, "&params=d"), result, "{method}");
    }
    assert_eq!(host.close(&session), "Success");
}

#[test]
fn a_join_answers_a_token_and_nothing_else() {
    let host = host();
    let session = host.create("default");
    let body = json!({"id": session.id, "pin": session.pin, "client": "a", "more": [1]}).to_string();
    for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense", ""] {
        let answer = request(host.iot, "POST", "/api/joinSession", &[("Content-Type", content_type)], &body);
        let token = ok(&answer);
        assert_eq!(keys(&token), ["token"]);
        assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3, "{token}");
    }
    assert_eq!(ok(&request(host.iot, "POST", "/api/joinSession", &[], &body))["token"].as_str().unwrap().split('.').count(), 3);
}

#[test]
fn wrong_credentials_all_look_the_same() {
    let host = host();
    let Session { id, pin } = host.create("default");
    let other_pin = if pin == "000000" { "000001" } else { "000000" };
    let closed = host.create("default");
    host.close(&closed);
    let number: u64 = pin.parse().unwrap();
    for body in [
        json!({}),
        json!({"id": id, "pin": other_pin, "client": "a"}),
        json!({"id": "999999999", "pin": pin, "client": "a"}),
        json!({"id": closed.id, "pin": closed.pin, "client": "a"}),
        json!({"pin": pin, "client": "a"}),
        json!({"id": id, "client": "a"}),
        json!({"id": null, "pin": pin, "client": "a"}),
        json!({"id": id, "pin": null, "client": "a"}),
        json!({"id": id.parse::<u64>().unwrap(), "pin": pin, "client": "a"}),
        json!({"id": id, "pin": number, "client": "a"}),
        json!({"id": [id], "pin": pin, "client": "a"}),
        json!({"id": id, "pin": {"pin": pin}, "client": "a"}),
        json!({"id": true, "pin": pin, "client": "a"}),
        // Nothing is trimmed here.
        json!({"id": format!(" {id}"), "pin": pin, "client": "a"}),
        json!({"id": id, "pin": format!("{pin} "), "client": "a"}),
        json!({"id": format!("0{id}"), "pin": pin, "client": "a"}),
        json!({"id": id, "pin": format!("0{pin}"), "client": "a"}),
        json!({"id": "", "pin": "", "client": ""}),
        // A client without a name.
        json!({"id": id, "pin": pin}),
        json!({"id": id, "pin": pin, "client": null}),
        json!({"id": id, "pin": pin, "client": 7}),
        json!({"id": id, "pin": pin, "client": ["a"]}),
    ] {
        let answer = host.join_raw(&body.to_string());
        assert_eq!(ok(&answer), json!({"token": WRONG}), "{body}");
    }
    assert_eq!(host.clients(&Session { id, pin }), Vec::<String>::new());
}

#[test]
fn a_clients_name_is_any_printable_text_without_the_marks_of_topics() {
    let host = host();
    let session = host.create("default");
    let join = |client: &str| {
        let body = json!({"id": session.id, "pin": session.pin, "client": client}).to_string();
        ok(&host.join_raw(&body))["token"].clone()
    };
    let long = ["a".repeat(64), "é".repeat(64)];
    for good in ["a", "späce unit", "客户端", "A.b-c_d", "42", "😀", "a b  c", "'\"<>", long[0].as_str(), long[1].as_str()] {
        assert_ne!(join(good), WRONG, "{good}");
    }
    let long = ["a".repeat(65), "客".repeat(64), "é".repeat(65)];
    for bad in [
        "",
        "a+b",
        "#",
        "a/b",
        "$a",
        "a\\b",
        "a\0",
        "a\n",
        "\t",
        "a\u{7f}",
        "a\u{85}",
        long[0].as_str(),
        long[1].as_str(),
        long[2].as_str(),
    ] {
        assert_eq!(join(bad), WRONG, "{bad:?}");
    }
    assert_eq!(host.clients(&session).len(), 10);
}

#[test]
fn a_body_that_is_no_object_is_an_error_of_decoding() {
    let host = host();
    for body in ["", "nonsense", "{", "{'id': 1}", "[]", "[1]", "\"text\"", "null", "1", "true", "{} {}"] {
        assert_eq!(ok(&host.join_raw(body)), "Error decoding request body:", "{body}");
    }
    let post = b"POST /api/joinSession HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{\"id\":\"\xff\"".as_slice();
    assert_eq!(ok(&http::raw(host.iot, post)), "Error decoding request body:");
}

#[test]
fn deep_and_large_bodies_do_no_harm() {
    let host = host();
    let deep = "[".repeat(4000);
    assert_eq!(ok(&host.join_raw(&deep)), "Error decoding request body:");
    let large = format!("{{\"id\": \"{}\"}}", "1".repeat(5000));
    let answer = host.join_raw(&large);
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(host.admin("/livez").status, 200);
}

fn assert_open_to_browsers(answer: &Response) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type"), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST, GET, OPTIONS"), "{answer:?}");
}

#[test]
fn every_answer_of_a_join_is_open_to_browsers() {
    let host = host();
    let session = host.create("default");
    let good = json!({"id": session.id, "pin": session.pin, "client": "a"}).to_string();
    for origin in [None, Some(("Origin", "https://example.org")), Some(("Origin", "null"))] {
        let headers = origin.as_slice();
        for body in [good.as_str(), "{}", "nonsense"] {
            let answer = request(host.iot, "POST", "/api/joinSession", headers, body);
            assert_eq!(answer.status, 200);
            assert_open_to_browsers(&answer);
        }
        let preflight =
            [headers, &[("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type")]].concat();
        let answer = request(host.iot, "OPTIONS", "/api/joinSession", &preflight, "");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        assert_open_to_browsers(&answer);
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = request(host.iot, method, "/api/joinSession", headers, "");
            assert_eq!(answer.status, 405, "{method}");
            assert_open_to_browsers(&answer);
        }
    }
}

#[test]
fn the_admin_port_is_not_open_to_browsers() {
    let host = host();
    let answer = request(host.admin, "GET", "/v1/sessions", &[("Origin", "https://example.org")], "");
    assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
}

#[test]
fn a_client_that_joins_again_gets_a_new_token_and_is_listed_once() {
    let host = host();
    let session = host.create("default");
    let first = host.join(&session, "a");
    host.join(&session, "b");
    assert_ne!(host.join(&session, "a"), first);
    assert_eq!(host.clients(&session), ["a", "b"]);
}

/// Header and claims, unchecked.
fn parts(token: &str) -> [Value; 2] {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    [(); 2].map(|()| serde_json::from_slice(&parts.next().unwrap()).unwrap())
}

#[test]
fn a_token_says_who_what_where_and_how_long() {
    let host = host();
    let session = host.create("default");
    let [header, claims] = parts(&host.join(&session, "späce unit"));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("JWT"), &json!("ES256")));
    assert!(header["kid"].is_string(), "{header}");
    let topics = json!([format!("/{}/#", session.id)]);
    assert_eq!((&claims["subs"], &claims["publ"]), (&topics, &topics));
    assert_eq!((&claims["sub"], &claims["sid"]), (&json!(session.id), &json!(session.id)));
    assert_eq!((&claims["client_id"], &claims["iss"]), (&json!("späce unit"), &json!("conductor-host")));
    assert_eq!(claims["exp"].as_u64().unwrap(), claims["iat"].as_u64().unwrap() + 86_400);
    assert!(claims["jti"].is_string() && claims["nbf"].is_u64() && claims.get("aud").is_none(), "{claims}");
}

#[test]
fn the_subject_is_the_client_where_the_settings_say_so() {
    let host = Host::start(HostOptions::default().set("mqtt.username", json!("client_id")).set("token.ttl", json!("90s")));
    let session = host.create("default");
    let [_, claims] = parts(&host.join(&session, "unit 7"));
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("unit 7"), &json!("unit 7")));
    assert_eq!(claims["exp"].as_u64().unwrap(), claims["iat"].as_u64().unwrap() + 90);
}

/// The port of a listener that was told to be off is not there; the other one is.
#[test]
fn the_ports_are_apart() {
    let host = host();
    let ports: [SocketAddr; 4] = [host.admin, host.iot, host.mqtt.unwrap(), host.mqtt_websocket.unwrap()];
    for (index, port) in ports.iter().enumerate() {
        assert!(!ports[..index].contains(port), "{ports:?}");
    }
}
