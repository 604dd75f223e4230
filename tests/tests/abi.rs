//! Plugin binaries that were built once, with an earlier SDK, and are loaded for ever: **a plugin built with SDK 1.0 loads in every
//! later 1.x host.** What they are: `tests/abi/README.md`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::PathBuf;

use conductor_tests::{
    Host, HostOptions, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

fn kept(version: &str, library: &str) -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("abi").join(version).join(library);
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
