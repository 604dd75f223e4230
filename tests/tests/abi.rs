//! Plugin binaries that were built once, with an earlier SDK, and are loaded for ever: **a plugin built with SDK 1.0 loads in every
//! later 1.x host.** What they are: `tests/abi/README.md`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    fs,
    path::{Path, PathBuf},
};

use conductor_tests::{
    Host, HostOptions, Version, Way, artefacts,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("abi")
}

fn kept(version: &str, library: &str) -> Value {
    let file = folder().join(version).join(library);
    assert!(file.is_file(), "{} is part of the repository", file.display());
    json!(file)
}

#[test]
fn plugins_of_1_0_do_in_this_host_what_they_did_in_theirs() {
    let options = HostOptions::default()
        .set("types.default.plugin", kept("1.0.0", "libconductor_default.so"))
        .set("types.echo.plugin", kept("1.0.0", "libconductor_test_echo.so"))
        .set("types.faulty.plugin", kept("1.0.0", "libconductor_test_faulty.so"));
    let mut host = Host::start(options);
    let (default, echo, faulty) = (host.create("default"), host.create("echo"), host.create("faulty"));
    // Requests, parameters, results.
    assert_eq!(host.ask(&default, "state", "&params=[1]"), "State");
    assert_eq!(host.request(&echo, "params", json!({"a": [1]})).json()["result"], json!({"a": [1]}));
    assert_eq!(host.ask(&echo, "whoami", ""), json!([echo.id, "echo"]));
    assert_eq!(host.request(&echo, "say", json!({"name": 1})).status, 422);
    assert_eq!(host.request(&echo, "nothing", json!(null)).status, 404);
    // Messages both ways, one to a client, the list of clients.
    let mut ann = device(&host, &echo, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&echo, "#"), 1));
    assert!(ann.publish(&topic(&echo, "ask"), "who is there", 1, false));
    let mut heard = [ann.heard(), ann.heard()];
    heard.sort();
    assert_eq!(heard, [(topic(&echo, "answer"), "who is there".to_owned()), (topic(&echo, "ask"), "who is there".to_owned())]);
    assert_eq!(host.ask(&echo, "clients", ""), json!(["ann"]));
    assert_eq!(host.ask(&echo, "heard", "")[0]["sender"], "ann");
    assert_eq!(host.request(&echo, "say", json!({"name": "hand", "payload": "7", "qos": 1, "client": "ann"})).status, 200);
    assert_eq!(ann.heard(), (topic(&echo, "to/ann/hand"), "7".to_owned()));
    // Sleeps, tasks and the log.
    assert_eq!(host.request(&echo, "wait", json!({"millis": 5})).json()["result"], 5);
    assert_eq!(ann.heard(), (topic(&echo, "waiting"), "5".to_owned()));
    assert_eq!(host.request(&echo, "spawn", json!({"millis": 5})).status, 200);
    assert_eq!([ann.heard().1, ann.heard().1], ["0", "1"]);
    until("a line of the plugin", || host.log().contains("\"created\"").then_some(()));
    // Panics: at a poll, in a task, in the drop of a future that its deadline ends.
    assert_eq!(host.request(&faulty, "panic", json!(null)).status, 502);
    let faulty = host.create("faulty");
    assert_eq!(host.request(&faulty, "panic_in_task", json!(null)).status, 200);
    until("the fault", || (host.request(&faulty, "fine", json!(null)).status == 502).then_some(()));
    // The conductor ends its session, and the host ends the others.
    assert_eq!(host.request(&echo, "close", json!(null)).status, 200);
    ann.gone();
    host.create("echo");
    host.stop();
    until("the reason", || host.log().contains("HostStopping").then_some(()));
}

/// Each of this plugin that was ever kept, and the one of this build. What is asked of it here, all of them know.
fn all_of(plugin: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder()).expect("a folder of this repository").map(|entry| entry.expect("an entry").path());
    let kept = entries.filter_map(|folder| {
        let file = folder.join(format!("lib{plugin}.so"));
        let name = folder.file_name()?.to_string_lossy().replace('.', "_");
        file.is_file().then_some((name, file))
    });
    let all: Vec<_> = kept.chain([("this".to_owned(), artefacts::plugin(plugin))]).collect();
    assert!(all.len() > 1, "none of {plugin} is kept in tests/abi");
    all
}

#[test]
fn every_hook_and_every_call_of_kept_plugins_is_served() {
    let ranges = all_of("conductor_test_range");
    let options = |options: HostOptions, (name, file): &(String, PathBuf)| options.set(&format!("types.{name}.plugin"), json!(file));
    let mut host = Host::start(ranges.iter().fold(HostOptions::default(), options));
    for (name, _) in &ranges {
        all_of_range(&mut host, name);
    }
}

fn all_of_range(host: &mut Host, kind: &str) {
    let session = host.create(kind);
    let mut all: Vec<String> = Vec::new();
    macro_rules! heard {
        ($last:expr) => {
            until($last, || {
                let heard = host.ask(&session, "heard", "");
                all.extend(heard.as_array().expect("a list").iter().map(|line| line.as_str().expect("a text").to_owned()));
                all.last().is_some_and(|line| line == $last).then(|| std::mem::take(&mut all))
            })
        };
    }
    macro_rules! ask {
        ($what:tt) => {{
            let answer = host.request(&session, "ask", json!($what));
            assert_eq!(answer.status, 200, "{kind}: {} {}", json!($what), answer.body);
        }};
    }
    let join = |host: &Host, client: &str| {
        let body = json!({ "pin": session.pin, "client": client }).to_string();
        conductor_tests::request(host.iot, "POST", &format!("/v1/sessions/{}/join", session.id), &[], &body).status
    };
    // create, a timer and a label out of it, joining.
    assert_eq!(heard!("timer birth"), ["create", "timer birth"], "{kind}");
    assert_eq!(host.show(&session).json()["labels"]["made"], "yes");
    assert_eq!((join(host, "mallory"), join(host, "listener")), (403, 200));
    // connected, message both ways, to one client, grants, disconnected.
    let mut ann = device(host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "#"), 1) && ann.publish(&topic(&session, "buzz"), "1", 1, false));
    assert_eq!(ann.heard(), (topic(&session, "buzz"), "1".to_owned()));
    ask!({"publish": ["news", "2"]});
    assert_eq!(ann.heard(), (topic(&session, "news"), "2".to_owned()));
    ask!({"publish_to": ["ann", "hand", "3"]});
    assert_eq!(ann.heard(), (topic(&session, "to/ann/hand"), "3".to_owned()));
    ask!({"grant": ["ann", ["stage/#"], []]});
    assert!(!ann.publish(&topic(&session, "buzz"), "no more", 1, false));
    ann.disconnect();
    let expected = ["joining mallory", "joining listener", "joining ann", "connected ann", "message ann buzz 1 qos 1", "disconnected ann"];
    assert_eq!(heard!("disconnected ann"), expected, "{kind}");
    // left, and who may join.
    assert_eq!(host.ask(&session, "grants", ""), json!(["listener", "ann"]));
    ask!({"kick": "listener"});
    assert_eq!(heard!("left listener Kicked"), ["left listener Kicked"], "{kind}");
    ask!({"lock": true});
    assert_eq!(join(host, "bob"), 403);
    ask!({"lock": false});
    ask!({"max_clients": 1});
    assert_eq!(join(host, "bob"), 403);
    ask!({"max_clients": 9});
    ask!({"labels": {"phase": "two"}});
    assert_eq!(host.show(&session).json()["labels"], json!({"phase": "two"}));
    // An error in a hook, and timers.
    ask!({"once": ["gone", 60_000]});
    ask!({"cancel_timer": "gone"});
    let failures = |host: &Host| host.log().matches("timer fails, as ordered").count();
    let before = failures(host);
    ask!({"fail_at": "timer"});
    ask!({"once": ["fails", 5]});
    // Whoever asks what was heard before takes the order away.
    until("an error in the log", || (failures(host) > before).then_some(()));
    ask!({"once": ["second", 5]});
    assert_eq!(heard!("timer second"), ["timer second"], "{kind}");
    // State and timers over a restart; close, from within.
    ask!({"save": 4});
    ask!({"every": ["beat", 100]});
    host.kill();
    host.start_again();
    assert_eq!(heard!("timer beat")[..2], ["restore 4 version 7", "timer beat"], "{kind}");
    assert_eq!((host.ask(&session, "score", ""), host.show(&session).json()["labels"]["phase"].clone()), (json!(4), json!("two")));
    let mut bob = device(host, &session, "bob", Version::V5, Way::Tcp);
    assert!(bob.subscribe(&topic(&session, "closed"), 1));
    ask!("close");
    assert_eq!(bob.heard(), (topic(&session, "closed"), "Conductor".to_owned()));
    bob.gone();
}

#[test]
fn every_hook_and_every_call_of_kept_services_is_served() {
    let stewards = all_of("conductor_test_steward");
    let options = stewards.iter().fold(HostOptions::default(), |options, (name, file)| {
        let key = |key: &str| format!("services.{name}.{key}");
        options.set(&key("plugin"), json!(file)).set(&key("service"), json!("steward")).set(&key("config.mark"), json!("kept"))
    });
    let mut host = Host::start(options);
    for (name, _) in &stewards {
        let ask = |method: &str, params: Value| {
            let body = json!({ "method": method, "params": params }).to_string();
            let answer = conductor_tests::request(host.admin, "POST", &format!("/v1/services/{name}/requests"), &[], &body);
            assert_eq!(answer.status, 200, "{name} {method}: {}", answer.body);
            answer.json()["result"].clone()
        };
        assert_eq!(ask("mark", Value::Null), json!(format!("{name} kept")));
        ask("told", Value::Null);
        let made = ask("create", json!("default"));
        let [id, pin] = [0, 1].map(|at| made[at].as_str().expect("a text").to_owned());
        let session = conductor_tests::Session { id, pin };
        let mut ann = device(&host, &session, "ann", Version::V5, Way::Tcp);
        assert!(ann.subscribe(&topic(&session, "#"), 1) && ann.publish(&topic(&session, "buzz"), "1", 1, false));
        assert_eq!(ann.heard(), (topic(&session, "buzz"), "1".to_owned()));
        ask("publish", json!([session.id, "ann", "hand", "2"]));
        assert_eq!(ann.heard(), (topic(&session, "to/ann/hand"), "2".to_owned()));
        assert_eq!(ask("ask", json!([session.id, "state", null])), "State");
        assert_eq!(ask("clients", json!(session.id)), json!(["ann"]));
        assert_eq!(ask("list", json!(1)), json!([format!("{} default live 1 true", session.id)]));
        ask("close", json!(session.id));
        ann.gone();
        let told = ask("told", Value::Null);
        let expected = [
            format!("opened {} default", session.id),
            format!("message {} buzz ann 1", session.id),
            format!("closed {} default Requested", session.id),
        ];
        assert_eq!(told, json!(expected), "{name}");
    }
    host.stop();
    for _ in &stewards {
        until("the close of a service", || host.log().contains("the steward kept leaves 0 sessions: HostStopping").then_some(()));
    }
}
