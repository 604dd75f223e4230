//! Sessions that end by themselves, and ids that rest after the end.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{collections::BTreeSet, sync::Mutex};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Response, STORES, Session, Version, Way, artefacts,
    http::post,
    mqtt::{device, topic},
    request, until,
};
use serde_json::{Value, json};

fn options() -> HostOptions {
    HostOptions::default()
        .plugin("echo", "conductor_test_echo")
        .plugin("range", "conductor_test_range")
        .plugin("lazy", "conductor_test_versions")
}

/// Creates a session by `/v1`; with limits of its own, where `more` has some.
fn create(host: &Host, type_name: &str, more: &Value) -> Session {
    let mut body = json!({ "type": type_name });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = post(host.admin, "/v1/sessions", &body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    Session { id: text("id"), pin: text("pin") }
}

fn patch(host: &Host, session: &Session, body: &Value) -> Response {
    request(host.admin, "PATCH", &format!("/v1/sessions/{}", session.id), &[], &body.to_string())
}

fn wait_for_end(host: &Host, session: &Session) {
    until("the end of the session", || (host.show(session).status == 404).then_some(()));
}

fn metric(host: &Host, name: &str) -> u64 {
    let text = host.admin("/v1/metrics").body;
    let head = format!("conductor_host_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

/// The limits that it shows: how long it lives, how long it may be empty, and whether it says when it ends.
fn limits(shown: &Value) -> (Option<&str>, Option<&str>, bool) {
    (shown["lifetime"].as_str(), shown["empty_timeout"].as_str(), shown.get("ends_at").is_some())
}

#[test]
fn the_end_of_a_lifetime_is_a_close_like_any_other_with_a_reason_of_its_own() {
    let options = options().set("services.steward.plugin", json!(artefacts::plugin("conductor_test_steward")));
    let host = Host::start(options.set("services.steward.service", json!("steward")));
    let session = create(&host, "range", &json!({"lifetime": "1h 30m", "empty_timeout": null}));
    let shown = host.show(&session).json();
    assert_eq!(limits(&shown), (Some("1h 30m"), None, true), "{shown}");
    let token = host.join(&session, "a");
    let mut listener = device(&host, &session, "a", Version::V5, Way::Tcp);
    assert!(listener.subscribe(&topic(&session, "closed"), 1));
    // It is over before long, or is already.
    let changed = patch(&host, &session, &json!({"lifetime": "1s"}));
    assert_eq!((changed.status, limits(&changed.json())), (200, (Some("1s"), None, true)), "{changed:?}");
    assert_eq!(listener.heard(), (topic(&session, "closed"), "Expired".to_owned()));
    listener.gone();
    wait_for_end(&host, &session);
    Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).expect_err("the session is closed");
    let again = post(host.iot, &format!("/v1/sessions/{}/join", session.id), &json!({"pin": session.pin, "client": "a"}).to_string());
    assert_eq!((again.status, &again.json()["code"]), (403, &json!("invalid_credentials")));
    until("the count", || (metric(&host, "sessions_expired_total") == 1).then_some(()));
    assert_eq!(metric(&host, "ids_resting"), 1);
    let closed = format!("closed {} range Expired", session.id);
    until("the service to be told", || {
        let told = post(host.admin, "/v1/services/steward/requests", r#"{"method": "told"}"#).json();
        told["result"].as_array().unwrap().contains(&json!(closed)).then_some(())
    });
    let log = host.log();
    let line = log.lines().find(|line| line.contains("session closed")).unwrap();
    assert!(line.contains(r#""reason":"expired""#) && line.contains(&session.id), "{line}");
}

#[test]
fn a_session_ends_once_it_was_empty_for_long_enough_and_not_while_somebody_is_connected() {
    let host = Host::start(options().set("sessions.empty_timeout", json!("1s")).set("types.echo.empty_timeout", json!("none")));
    let (kept, left) = (host.create("echo"), host.create("default"));
    let full = create(&host, "default", &json!({"empty_timeout": "1h"}));
    assert_eq!(limits(&host.show(&kept).json()), (None, None, false));
    assert_eq!(limits(&host.show(&full).json()), (None, Some("1h"), true));
    let connected = device(&host, &full, "a", Version::V5, Way::Tcp);
    until("the connection to be known", || host.show(&full).json().get("ends_at").is_none().then_some(()));
    let shown = patch(&host, &full, &json!({"empty_timeout": "1s"})).json();
    assert_eq!(limits(&shown), (None, Some("1s"), false), "{shown}");
    // By the time that this one has ended, the one before had been empty for longer, were it empty.
    wait_for_end(&host, &left);
    wait_for_end(&host, &host.create("default"));
    assert_eq!((host.show(&full).status, host.show(&kept).status), (200, 200));
    connected.disconnect();
    wait_for_end(&host, &full);
    assert_eq!(host.show(&kept).status, 200);
    // Without a broker that knows, the list of clients counts.
    let host = Host::start(options().set("sessions.empty_timeout", json!("1s")).set("mqtt.broker", json!("none")));
    let listed = create(&host, "default", &json!({"empty_timeout": "1h"}));
    host.join(&listed, "a");
    assert_eq!(limits(&patch(&host, &listed, &json!({"empty_timeout": "1s"})).json()), (None, Some("1s"), false));
    wait_for_end(&host, &host.create("default"));
    let target = format!("/v1/sessions/{}/clients/a", listed.id);
    assert_eq!(request(host.admin, "DELETE", &target, &[], "").status, 204);
    wait_for_end(&host, &listed);
}

#[test]
fn what_was_due_while_the_host_was_down_ends_at_the_start_and_its_conductor_is_told() {
    STORES.iter().for_each(|store| due_while_down(store));
}

fn due_while_down(store: &str) {
    let options = || options().set("store.url", json!(store));
    let mut host = Host::start(options());
    let (live, saved, fresh) = (host.create("echo"), host.create("lazy"), host.create("lazy"));
    let (asked, own) = (host.create("lazy"), create(&host, "echo", &json!({"lifetime": "none"})));
    for (session, kept) in [(&saved, 7), (&asked, 8)] {
        assert_eq!(host.request(session, "keep", json!(kept)).status, 200);
    }
    let shown = host.show(&own).json();
    host.kill();
    host.start_again();
    // Closed by an administrator, before it had any event: its conductor is made for that, from what it saved.
    assert_eq!(host.close(&asked), "Success");
    let said = |line: &str| host.log().lines().filter(|known| known.contains(line)).count();
    assert_eq!(said("the lazy one that kept 8 closes: Requested"), 1);
    host.kill();
    // The settings hold for sessions that are there already, but not for one with a limit of its own.
    host.start_again_with(options().set("sessions.lifetime", json!("1s")));
    [&live, &saved, &fresh].into_iter().for_each(|session| wait_for_end(&host, session));
    assert_eq!(host.show(&own).json(), shown);
    let said = |line: &str| host.log().lines().filter(|known| known.contains(line)).count();
    // It cannot be found any more while it is being closed; this is told when all of it is over.
    until("the ends", || (said(r#""reason":"expired""#) == 3).then_some(()));
    assert_eq!(said("the lazy one that kept 7 closes: Expired"), 1);
    assert_eq!(said("the lazy one that kept"), 2, "one that had saved nothing was made to be closed");
    assert!(
        host.log().lines().any(|line| line.contains("closing") && line.contains("Expired")),
        "the one that is made at the start was not told"
    );
}

/// Creates, joins and closes sessions, many at a time, since the store shares writes: no id comes twice.
fn use_ids(host: &Host, known: &Mutex<BTreeSet<String>>) {
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..IDS / WRITERS {
                    let session = host.create("default");
                    host.join(&session, "a");
                    assert_eq!(host.close(&session), "Success");
                    assert!(known.lock().unwrap().insert(session.id.clone()), "{} came twice", session.id);
                }
            });
        }
    });
}

/// Of 10,000: without a rest it were as good as certain that one of twice as many comes twice.
const IDS: usize = 256;
const WRITERS: usize = 16;

#[test]
fn an_id_rests_until_the_last_token_for_it_is_over_also_after_a_kill() {
    STORES.iter().for_each(|store| an_id_rests(store));
}

fn an_id_rests(store: &str) {
    let mut host = Host::start(options().set("store.url", json!(store)).set("sessions.id_digits", json!(4)));
    let known = Mutex::default();
    use_ids(&host, &known);
    let last = host.create("default");
    let token = host.join(&last, "a");
    assert_eq!(host.close(&last), "Success");
    known.lock().unwrap().insert(last.id.clone());
    host.kill();
    host.start_again();
    assert_eq!(metric(&host, "ids_resting"), IDS as u64 + 1);
    Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &last.id, &token)).expect_err("the session is closed");
    use_ids(&host, &known);
    // An id for which there never was a token is free at once.
    for _ in 0..20 {
        let session = host.create("default");
        assert_eq!(host.close(&session), "Success");
        assert!(!known.lock().unwrap().contains(&session.id));
    }
    assert_eq!(metric(&host, "ids_resting"), 2 * IDS as u64 + 1);
    // Of all that the store keeps of them.
    host.kill();
    host.start_again();
    assert_eq!(metric(&host, "ids_resting"), 2 * IDS as u64 + 1);
}

#[test]
fn the_way_back_from_limits_of_its_own_is_null_and_then_the_settings_hold_also_when_they_change() {
    STORES.iter().for_each(|store| the_way_back(store));
}

fn the_way_back(store: &str) {
    let settings = |lifetime: &str| {
        let options = options().set("store.url", json!(store)).set("sessions.lifetime", json!(lifetime));
        options.set("types.default.empty_timeout", json!("1h"))
    };
    let mut host = Host::start(settings("2days"));
    let session = create(&host, "default", &json!({"lifetime": "3h", "empty_timeout": "none"}));
    assert_eq!(limits(&host.show(&session).json()), (Some("3h"), None, true));
    // One of them alone.
    assert_eq!(limits(&patch(&host, &session, &json!({"lifetime": null})).json()), (Some("2days"), None, true));
    host.kill();
    host.start_again_with(settings("3days"));
    assert_eq!(limits(&host.show(&session).json()), (Some("3days"), None, true), "the way back is stored, and so is what stayed");
    assert_eq!(limits(&patch(&host, &session, &json!({"lifetime": "none", "empty_timeout": null})).json()), (None, Some("1h"), true));
    host.kill();
    host.start_again_with(settings("4days"));
    assert_eq!(limits(&host.show(&session).json()), (None, Some("1h"), true));
    // One that the settings end already is closed at once.
    host.kill();
    host.start_again_with(settings("1s"));
    assert_eq!(patch(&host, &session, &json!({"lifetime": null})).status, 200);
    wait_for_end(&host, &session);
}

#[test]
fn limits_that_cannot_be_are_refused_and_nothing_has_changed() {
    let host = Host::start(options().set("sessions.lifetime", json!("2days")));
    let session = create(&host, "default", &json!({"lifetime": "2h", "empty_timeout": "10m"}));
    let refused = |answer: Response| (answer.status, answer.json()["code"].as_str().unwrap().to_owned());
    for wrong in [
        json!({"lifetime": "soon"}),
        json!({"lifetime": ""}),
        json!({"lifetime": 60}),
        json!({"lifetime": "0s"}),
        json!({"lifetime": "3651days"}),
        json!({"empty_timeout": "-1s"}),
        json!({"lifetime": "1h", "empty_timeout": "None"}),
    ] {
        assert_eq!(refused(patch(&host, &session, &wrong)), (400, "invalid_request".to_owned()), "{wrong}");
        let mut body = wrong.clone();
        body["type"] = json!("default");
        assert_eq!(refused(post(host.admin, "/v1/sessions", &body.to_string())), (400, "invalid_request".to_owned()), "{wrong}");
    }
    assert_eq!(refused(patch(&host, &session, &json!({"life_time": "1h"}))), (400, "invalid_request".to_owned()));
    assert_eq!(limits(&host.show(&session).json()), (Some("2h"), Some("10m"), true));
    // What is not given stays.
    assert_eq!(limits(&patch(&host, &session, &json!({})).json()), (Some("2h"), Some("10m"), true));
    assert_eq!(limits(&patch(&host, &session, &json!({"lifetime": "none"})).json()), (None, Some("10m"), true));
    assert_eq!(limits(&patch(&host, &session, &json!({"empty_timeout": "none"})).json()), (None, None, false));
    // A limit of the settings is shown like one of its own.
    assert_eq!(limits(&host.show(&host.create("default")).json()), (Some("2days"), None, true));
    host.close(&session);
    assert_eq!(refused(patch(&host, &session, &json!({"lifetime": "1h"}))), (404, "session_not_found".to_owned()));
}
