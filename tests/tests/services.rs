//! Services in the real host: they see, make, close and ask all sessions, and one that misbehaves harms nothing but itself.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use conductor_tests::{
    Host, HostOptions, Response, Session, Version, Way, artefacts,
    host::{run, run_refused},
    http::post,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

const STEWARD: &str = "conductor_test_steward";

/// Adds a service `name`, which is `service` in the steward's plugin.
fn with(options: HostOptions, name: &str, service: &str) -> HostOptions {
    let options = options.set(&format!("services.{name}.plugin"), json!(artefacts::plugin(STEWARD)));
    options.set(&format!("services.{name}.service"), json!(service))
}

fn request(host: &Host, service: &str, method: &str, params: Value) -> Response {
    post(host.admin, &format!("/v1/services/{service}/requests"), &json!({ "method": method, "params": params }).to_string())
}

/// What the steward answers.
fn ask(host: &Host, method: &str, params: Value) -> Value {
    let answer = request(host, "steward", method, params);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"].clone()
}

/// Status and code of a refusal, and its words.
fn refused(answer: &Response) -> (u16, String, String) {
    let text = |key: &str| answer.json()[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("detail"))
}

/// What the steward was told, once `last` is among it.
fn told(host: &Host, last: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    until(last, || {
        all.extend(serde_json::from_value::<Vec<String>>(ask(host, "told", Value::Null)).unwrap());
        all.iter().any(|line| line == last).then(|| std::mem::take(&mut all))
    })
}

fn listed(host: &Host, name: &str) -> Value {
    let listed = host.admin("/v1/services").json();
    let items = listed["items"].as_array().unwrap();
    items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{listed}")).clone()
}

#[test]
fn a_service_sees_and_changes_all_sessions() {
    let options = with(with(HostOptions::default(), "steward", "steward"), "still", "deaf").plugin("page", STEWARD);
    let options = options
        .set("services.heartbeat.plugin", json!(artefacts::plugin("conductor_heartbeat")))
        .set("services.heartbeat.config.interval", json!(0.1));
    let mut host = Host::start(options);
    let shown = listed(&host, "steward");
    assert_eq!((&shown["state"], &shown["service"], &shown["dropped"]), (&json!("live"), &json!("steward"), &json!(0)));
    assert_eq!(shown["hooks"], json!(["message", "session_opened", "session_closed", "link", "close"]));
    assert_eq!(shown["sha256"].as_str().unwrap().len(), 64);
    assert_eq!((&listed(&host, "still")["hooks"], &listed(&host, "heartbeat")["state"]), (&json!([]), &json!("live")));

    // Made by an administrator and by the service: both are told, and listed, whatever the size of a page.
    let first = host.create("default");
    let made = ask(&host, "create", json!("page"));
    let second = Session { id: made[0].as_str().unwrap().to_owned(), pin: made[1].as_str().unwrap().to_owned() };
    let opened = format!("opened {} page", second.id);
    assert_eq!(told(&host, &opened), [format!("opened {} default", first.id), opened]);
    assert!(host.log().contains(r#""caller":"host (service:steward)""#), "the log says who made it");
    let mut ann = device(&host, &first, "ann", Version::V5, Way::Tcp);
    let mut bob = device(&host, &second, "bob", Version::V311, Way::Tcp);
    let mut lines = vec![format!("{} default idle 1 true", first.id), format!("{} page live 1 true", second.id)];
    for page in [0, 1] {
        let mut found: Vec<String> = serde_json::from_value(ask(&host, "list", json!(page))).unwrap();
        found.sort();
        lines.sort();
        assert_eq!(found, lines);
    }
    assert_eq!(ask(&host, "clients", json!(second.id)), json!(["bob"]));

    // It hears what clients say in all sessions, and not what it says itself.
    ann.subscribe(&topic(&first, "news"), 1);
    bob.subscribe(&topic(&second, "to/bob/#"), 1);
    ann.publish(&topic(&first, "say"), "hi", 1, false);
    bob.publish(&topic(&second, "say"), "ho", 1, false);
    ask(&host, "publish", json!([first.id, "", "news", "to all"]));
    ask(&host, "publish", json!([second.id, "bob", "note", "to one"]));
    assert_eq!(ann.heard(), (topic(&first, "news"), "to all".to_owned()));
    assert_eq!(bob.heard(), (topic(&second, "to/bob/note"), "to one".to_owned()));
    let last = format!("message {} say bob ho", second.id);
    assert_eq!(told(&host, &last), [format!("message {} say ann hi", first.id), last]);

    // The heartbeat of a session comes in that session.
    ann.subscribe(&topic(&first, "heartbeat"), 0);
    let beat: Value = serde_json::from_str(&ann.heard().1).unwrap();
    let uptime = beat["uptime"].as_u64().unwrap();
    let expected = json!({ "session": first.id, "type": "default", "state": "idle", "clients": 1, "messages": 1, "uptime": uptime });
    assert_eq!(beat, expected);
    assert!(request(&host, "heartbeat", "state", Value::Null).json()["result"]["rounds"].as_u64().unwrap() > 0);

    // It asks conductors; what they answer with comes through.
    assert_eq!(ask(&host, "ask", json!([second.id, "double", 21])), 42);
    assert_eq!(ask(&host, "ask", json!([first.id, "state", null])), "State");
    let answer = request(&host, "steward", "ask", json!([second.id, "refuse", null]));
    assert_eq!(refused(&answer), (500, "service_error".into(), "not me".into()));
    assert_eq!(answer.json()["service"], json!({ "code": 9, "data": "why" }));
    for (params, expected, words) in [
        (json!([second.id, "fly", null]), 404, "there is no method \"fly\""),
        (json!([second.id, "double", "x"]), 422, "the parameters do not fit"),
        (json!(["000000", "double", 1]), 500, "there is no session \"000000\""),
    ] {
        let (status, _, detail) = refused(&request(&host, "steward", "ask", params));
        assert!(status == expected && detail.contains(words), "{status} {detail}");
    }
    let (.., detail) = refused(&request(&host, "steward", "create", json!("nothing")));
    assert!(detail.contains("there is no type \"nothing\"; configured are: active, default, page"), "{detail}");
    let (.., detail) = refused(&request(&host, "steward", "publish", json!([first.id, "bob", "note", "x"])));
    assert!(detail.contains("there is no client \"bob\" in this session"), "{detail}");

    // A session that it closes is gone, and its devices with it; of one that closes by itself it is told as well.
    ask(&host, "close", json!(second.id));
    bob.gone();
    assert_eq!(host.show(&second).status, 404);
    let (.., detail) = refused(&request(&host, "steward", "close", json!(second.id)));
    assert!(detail.contains("there is no session"), "{detail}");
    let third = host.create("page");
    assert_eq!(host.request(&third, "end", Value::Null).status, 200);
    let last = format!("closed {} page Conductor", third.id);
    let expected = [format!("closed {} page Requested", second.id), format!("opened {} page", third.id), last.clone()];
    assert_eq!(told(&host, &last), expected);

    // When the host stops it still reaches the sessions.
    ann.unsubscribe(&topic(&first, "heartbeat"));
    ann.subscribe(&topic(&first, "farewell"), 1);
    host.stop();
    let said = std::iter::repeat_with(|| ann.heard()).find(|(topic, _)| topic.ends_with("/farewell")).unwrap();
    assert_eq!(said, (topic(&first, "farewell"), "HostStopping State".to_owned()));
    let log = host.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} is not in the log"));
    assert!(place("the steward none leaves 1 sessions: HostStopping") > place(r#""service":"steward""#));
    host.start_again();
    assert_eq!(told(&host, &format!("found {}", first.id)), [format!("found {}", first.id)]);
}

#[test]
fn a_service_that_misbehaves_harms_nothing_else() {
    let options = with(with(with(HostOptions::default(), "steward", "steward"), "tasks", "steward"), "slow", "steward");
    let host = Host::start(options.set("services.slow.deadline", json!("200ms")));
    let refusal = |service: &str, method: &str, params: Value| refused(&request(&host, service, method, params));
    let (status, code, detail) = refusal("nobody", "mark", Value::Null);
    assert_eq!((status, code.as_str()), (404, "service_not_found"));
    assert_eq!(detail, "there is no service \"nobody\"; configured are: slow, steward, tasks");
    let (status, code, detail) = refusal("steward", "fly", Value::Null);
    assert!((status, code.as_str()) == (404, "unknown_method") && detail.contains("mark, told"), "{detail}");
    assert_eq!(refusal("steward", "block", json!("x")).1, "invalid_params");
    assert_eq!(post(host.admin, "/v1/services/steward/requests", "no json").status, 400);
    let answer = request(&host, "steward", "fail", Value::Null);
    assert_eq!((answer.status, &answer.json()["service"]), (500, &json!({ "code": 7, "data": [1] })));

    // What never ends and what blocks its thread meet the deadline; the service goes on.
    let (status, code, detail) = refusal("slow", "never", Value::Null);
    assert_eq!((status, code.as_str(), detail.as_str()), (504, "deadline", "the service slow: it did not answer within its deadline"));
    assert_eq!(refusal("slow", "block", json!(400)).1, "deadline");
    until("an answer after the block", || {
        let answer = request(&host, "slow", "mark", Value::Null);
        (answer.status == 200).then(|| assert_eq!(answer.json()["result"], "slow none"))
    });
    assert!(host.log().contains("the service blocks its thread; it runs apart from now on"));

    // A panic, in a handler or in a task, ends that service alone.
    assert_eq!(host.admin("/readyz").json()["status"], "ready");
    let (status, code, detail) = refusal("steward", "panic", Value::Null);
    assert_eq!((status, code.as_str()), (502, "faulted"));
    assert!(detail.starts_with("the service steward: it is faulted: panic: as ordered at "), "{detail}");
    assert_eq!(request(&host, "tasks", "panic_in_task", Value::Null).status, 200);
    until("the fault of a task", || (listed(&host, "tasks")["state"] == "faulted").then_some(()));
    let shown = listed(&host, "steward");
    assert!(shown["state"] == "faulted" && shown["reason"].as_str().unwrap().contains("as ordered"), "{shown}");
    assert_eq!(refusal("steward", "mark", Value::Null).0, 502);
    let ready = host.admin("/readyz").json();
    assert_eq!(ready["status"], "degraded");
    let plugins = ready["parts"]["plugins"]["reason"].as_str().unwrap();
    assert!(plugins.contains("service steward is faulted: panic: as ordered") && plugins.contains("service tasks is faulted"), "{plugins}");
    assert_eq!(request(&host, "slow", "mark", Value::Null).status, 200);
    let session = host.create("default");
    assert_eq!(host.ask(&session, "state", ""), "State");
    let mut ann = device(&host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.publish(&topic(&session, "say"), "hi", 1, false));
    let heard = until("a message", || Some(request(&host, "slow", "heard", Value::Null).json()["result"].clone()).filter(|n| *n == 1));
    assert_eq!(heard, 1);
}

#[test]
fn what_cannot_be_made_stops_the_start_or_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let options = with(with(HostOptions::default(), "a", "steward"), "b", "deaf").set("log.level", json!("info"));
    let wrong = options.clone().set("services.a.config.colour", json!("red")).set("services.b.config.x", json!(1));
    let wrong = with(wrong, "c", "butler").set("services.d.plugin", json!(artefacts::plugin("conductor_default")));
    let wrong = wrong.set("services.e.plugin", json!(artefacts::plugin(STEWARD)));
    let ended = run_refused(folder.path(), &wrong.plugin("heartbeat", "conductor_heartbeat"));
    assert_eq!(ended.code, Some(1));
    for words in [
        "service a: services.a.config.colour: unknown key",
        "service b: services.b.config.x: unknown key; it takes no config",
        "it offers no service \\\"butler\\\"; it offers \\\"steward\\\", \\\"deaf\\\": set service",
        "it offers no service; its conductor \\\"default\\\" can be used in [types.NAME]",
        "it offers several services, none of them named as the table \\\"e\\\": \\\"steward\\\", \\\"deaf\\\"",
        "it offers no conductor; its service \\\"heartbeat\\\" can be used in [services.NAME]",
    ] {
        assert!(ended.stderr.contains(words), "{words}\n{}", ended.stderr);
    }

    let failing = options.clone().set("services.a.config.fail", json!("no key today"));
    let ended = run_refused(folder.path(), &failing);
    assert!(ended.code == Some(1) && ended.stderr.contains("the host does not start: service a: no key today"), "{}", ended.stderr);
    let blocked = options.clone().set("services.a.config.block", json!(2000)).set("services.a.deadline", json!("100ms"));
    let ended = run_refused(folder.path(), &blocked);
    assert!(ended.stderr.contains("service a: it was not made within its deadline"), "{}", ended.stderr);

    // Not required, it is told, listed and no more.
    let spared = with(failing, "p", "steward").set("services.p.config.panic", json!(true));
    let spared = ["a", "p", "m"].iter().fold(spared, |options, name| options.set(&format!("services.{name}.required"), json!(false)));
    let host = Host::start(spared.set("services.m.plugin", json!("plugins/missing")));
    let shown = |name: &str| (listed(&host, name)["state"].clone(), listed(&host, name)["reason"].as_str().unwrap_or_default().to_owned());
    assert_eq!(shown("a"), (json!("unavailable"), "no key today".to_owned()));
    assert!(shown("m").0 == "unavailable" && shown("m").1.contains("there is no such file"), "{:?}", shown("m"));
    assert!(shown("p").0 == "faulted" && shown("p").1.contains("as ordered"), "{:?}", shown("p"));
    assert_eq!(shown("b").0, "live");
    assert_eq!(refused(&request(&host, "a", "mark", Value::Null)), (503, "unavailable".into(), "the service a: no key today".into()));
    assert!(host.log().contains("service a: no key today"));
    assert_eq!(host.admin("/readyz").json()["status"], "degraded");
}

#[test]
fn inspect_shows_what_services_a_plugin_offers() {
    let (folder, file) = (tempfile::tempdir().unwrap(), artefacts::plugin("conductor_heartbeat"));
    let ended = run(folder.path(), &["plugin", "inspect", file.to_str().unwrap()]);
    let expected = "
service \"heartbeat\"
  made      when the host starts
  hooks     message, session_closed
  config    {interval?: double, topic?: string, labels?: {[any name]: string}}
  methods   state -> {rounds: uint64, sessions: uint}
";
    assert!(ended.code == Some(0) && ended.stdout.ends_with(expected), "{}", ended.stdout);
    let ended = run(folder.path(), &["plugin", "inspect", "--json", file.to_str().unwrap()]);
    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&shown["conductors"], &shown["services"][0]["name"]), (&json!([]), &json!("heartbeat")));
    assert_eq!(shown["services"][0]["requires"], json!([]));
}
