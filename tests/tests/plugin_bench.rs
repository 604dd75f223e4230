//! `conductor-host plugin bench`, as an author meets it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use conductor_tests::{artefacts, host::Ended, until};
use serde_json::Value;

fn bench(plugin: &str, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let output = command(plugin, arguments).env("TMPDIR", folder.path()).output().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(plugin: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(artefacts::binary());
    command.args(["plugin", "bench"]).arg(artefacts::plugin(plugin)).args(arguments);
    command
}

fn bench_json(plugin: &str, arguments: &[&str]) -> Value {
    let ended = bench(plugin, &[arguments, &["--json"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
}

#[test]
fn what_a_conductor_has_is_measured_and_adds_up() {
    let report = bench_json("conductor_test_range", &["--sessions", "20", "--clients", "3", "--seconds", "0.3"]);
    assert_eq!((&report["conductor"], &report["method"], &report["message_name"]), (&"range".into(), &"heard".into(), &"bench".into()));
    let count = |part: &str| report[part]["count"].as_u64().unwrap();
    // One message of the range more for each session that closes: it says how, and whether it could save.
    assert_eq!((count("create"), count("join"), count("close"), &report["published"]), (20, 60, 20, &(2 * 20).into()));
    for part in ["create", "join", "request", "message", "close"] {
        let of = |key: &str| report[part][key].as_f64().unwrap();
        assert!(of("p50_us") > 0.0 && of("per_second") > 0.0, "{part}: {report}");
        assert!(of("p50_us") <= of("p90_us") && of("p90_us") <= of("p99_us") && of("p99_us") <= of("max_us"), "{part}: {report}");
        assert_eq!(report[part]["errors"], serde_json::json!({}), "{report}");
    }
    assert!(count("request") > 20 && count("message") > 20 && report["calls_per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["seconds"].as_f64().unwrap() >= 0.3 && report["ended_early"] == false, "{report}");
    assert!(report["bytes_per_session_made"].is_u64() && report["bytes_per_session_used"].is_u64(), "{report}");
}

#[test]
fn what_a_conductor_has_not_is_left_out_and_errors_are_told_by_kind() {
    let few = ["--sessions", "2", "--clients", "1", "--seconds", "0.1"];
    let ended = bench("conductor_default", &few);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.lines().any(|line| line == "asked     state"), "{ended:?}");
    assert!(!ended.stdout.contains("message ") && !ended.stdout.contains("error "), "{ended:?}");

    let wrong = bench_json("conductor_test_echo", &[&few[..], &["--method", "wait", "--params", "{\"millis\": \"long\"}"]].concat());
    let errors = wrong["request"]["errors"].as_object().unwrap();
    let (kind, count) = errors.iter().next().unwrap();
    assert!(errors.len() == 1 && kind.contains("do not fit") && count.as_u64().unwrap() > 2, "{wrong}");
    assert_eq!(wrong["request"]["count"], 0);
}

#[test]
fn a_config_is_checked_and_gets_its_secrets_as_serve_does() {
    let few = ["--conductor", "keeper", "--sessions", "1", "--clients", "0", "--seconds", "0"];
    let measured = |config: &str| bench("conductor_test_tokio_user", &[&few[..], &["--config", config]].concat());
    let ended = measured(r#"{"token":{"env":"TMPDIR"},"saets":3}"#);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), "--config.saets: unknown key; did you mean seats?\n"), "{ended:?}");
    let ended = measured(r#"{"token":{"env":"NOT_THERE"},"seats":300}"#);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    for told in [
        "--config.token: the environment variable \"NOT_THERE\" is not set",
        "--config.seats: found 300, expected an integer from 0 to 255",
    ] {
        assert!(ended.stderr.lines().any(|line| line.starts_with(told)), "{told}: {ended:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (plugin, arguments, words) in [
        ("conductor_default", &["--conductor", "other"][..], "offers no conductor"),
        ("conductor_default", &["--config", "{\"a\": 1}"], "--config.a: unknown key; it takes no config"),
        ("conductor_default", &["--config", "{"], "--config: this is no JSON"),
        ("conductor_default", &["--config", "[]"], "--config: expected a JSON object"),
        ("conductor_default", &["--params", "x"], "--params: this is no JSON"),
    ] {
        let ended = bench(plugin, arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let ended = bench("conductor_default", &["--sessions", "0"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn an_interrupt_ends_it_early_with_what_was_measured() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command("conductor_test_range", &["--sessions", "2", "--seconds", "600", "--json"]);
    let child = command.env("TMPDIR", folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let catches = format!("/proc/{}/status", child.id());
    until("it to catch interrupts", || {
        let status = std::fs::read_to_string(&catches).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(caught.trim(), 16).ok()? & 2 != 0).then_some(())
    });
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Where it comes before the first session is made, nothing was measured.
    let (status, told) = if output.stdout.is_empty() { (1, output.stderr) } else { (0, output.stdout) };
    let told = String::from_utf8(told).unwrap();
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert!(told.contains("\"ended_early\":true") || told.contains("ended early"), "{told}");
}
