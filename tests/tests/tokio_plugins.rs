//! tokio inside a plugin: with the SDK's help, without it, and what it costs those who do not want it.
#![cfg(target_os = "linux")]

use conductor_tests::{
    Host, HostOptions, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// The thread of a plugin's runtime.
const THREAD: &str = "plugin-tokio";

fn with_user(options: HostOptions) -> HostOptions {
    let options = options.plugin("tokio_user", "conductor_test_tokio_user").plugin("no_tokio", "conductor_test_tokio_user");
    options.set("sessions.deadline", json!("1s"))
}

fn runtimes(host: &Host) -> usize {
    host.thread_names().iter().filter(|name| *name == THREAD).count()
}

#[test]
fn a_plugin_that_asks_for_tokio_has_it_everywhere() {
    let host = Host::start(with_user(HostOptions::default()));
    let session = host.create("tokio_user");
    let mut device = device(&host, &session, "a", Version::V5, Way::Tcp);
    assert!(device.subscribe(&topic(&session, "#"), 1));

    assert_eq!(host.ask(&session, "wait", ""), Value::Null);
    assert_eq!(host.ask(&session, "connect", ""), "hello");
    // The code itself goes on running on the host's threads, tasks too.
    host.ask(&session, "task", "");
    let (name, thread) = device.heard();
    assert_eq!(name, topic(&session, "task"));
    assert!(thread != THREAD, "{thread}");
    // The host's own futures work on the plugin's thread, where the host's runtime is not.
    assert_eq!(host.ask(&session, "elsewhere", ""), THREAD);
    assert_eq!(device.heard(), (topic(&session, "elsewhere"), "1".to_owned()));
    // A handler that is given up at its deadline finds tokio in its drop.
    assert_eq!(host.request(&session, "hang", Value::Null).status, 504);
    assert_eq!(device.heard().0, topic(&session, "dropped"));
    // A panic on the plugin's thread is told and harms nobody.
    assert_eq!(host.ask(&session, "panic_elsewhere", ""), true);
    until("the log to tell", || host.log().contains("panic: in a task of tokio's at ").then_some(()));
    assert_eq!(host.ask(&session, "fine", ""), "fine");
    assert_eq!(runtimes(&host), 1, "one thread for the whole library: {:?}", host.thread_names());
}

#[test]
fn without_the_help_tokio_panics_and_the_panic_is_contained() {
    let host = Host::start(with_user(HostOptions::default()));
    let other = host.create("no_tokio");
    for method in ["wait", "connect"] {
        let session = host.create("no_tokio");
        let told = host.request(&session, method, Value::Null);
        assert_eq!(told.status, 502, "{told:?}");
        assert!(told.json().to_string().contains("no reactor running"), "{told:?}");
        assert_eq!(host.show(&session).json()["state"], "faulted");
    }
    assert_eq!(host.ask(&other, "fine", ""), "fine");
}

/// `default` and `active` are built together with the plugin above, so their SDK has the feature `tokio`, too.
#[test]
fn a_library_that_does_not_ask_for_tokio_starts_nothing() {
    let host = Host::start(HostOptions::default());
    for type_name in ["default", "active"] {
        let session = host.create(type_name);
        assert_eq!(host.ask(&session, "state", ""), "State");
        host.ask(&session, "start", "");
    }
    assert_eq!(runtimes(&host), 0, "{:?}", host.thread_names());
}
