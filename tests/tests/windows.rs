//! The host and plugins built for Windows, run under Wine by real clients on this side. Built and started by `cargo xtask test --windows`.
#![cfg(all(unix, feature = "windows"))]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way, artefacts,
    host::{Ended, run, run_refused},
    http,
    mqtt::{device, topic},
};
use serde_json::{Value, json};

/// One of Windows' own commands, on files of a folder.
fn cmd(folder: &Path, words: &[&str]) -> Output {
    let command = Command::new(artefacts::folder().join("wine")).args(["cmd", "/c"]).args(words).current_dir(folder).output();
    command.expect("the program that `cargo xtask test --windows` wrote")
}

fn asked(host: &Host, session: &Session, method: &str) -> Value {
    host.ask(session, method, "")
}

#[test]
fn a_session_is_created_joined_asked_and_talked_in_and_found_again_after_a_restart() {
    let mut host = Host::start(HostOptions::default());
    let (session, closed) = (host.create("default"), host.create("active"));
    let token = host.join(&session, "späce unit");
    assert_eq!(asked(&host, &session, "state"), "State");
    assert_eq!(asked(&host, &closed, "stop"), "Stopped");
    for (version, way) in conductor_tests::mqtt::EVERY_WAY {
        let mut hears = Mqtt::connect(&host, version, way, &Credentials::new("späce unit", &session.id, &token)).unwrap();
        assert!(hears.subscribe(&topic(&session, "#"), 1));
        let mut says = device(&host, &session, "b", Version::V5, Way::Tcp);
        assert!(says.publish(&topic(&session, "x"), "from b", 1, false));
        assert_eq!(hears.message().payload, "from b", "{version:?} {way:?}");
        let elsewhere = topic(&closed, "x");
        assert!(!says.subscribe(&elsewhere, 0), "another session's");
    }
    assert_eq!(host.close(&closed), "Success");

    // A second host on the same state is told so.
    let second = run_refused(host.folder(), &HostOptions::default());
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("another conductor-host uses this state folder"), "{second:?}");

    // Ctrl-C drains; then the process is ended from outside, as a power cut would.
    host.stop();
    assert!(!host.folder().join("ready.json").exists());
    host.start_again();
    let late = host.create("default");
    host.kill();
    host.start_again();
    assert_eq!(host.clients(&session), ["späce unit", "b"]);
    assert_eq!(host.show(&closed).status, 404);
    assert_eq!((asked(&host, &session, "state"), asked(&host, &late, "state")), ("State".into(), "State".into()));
    Mqtt::connect(&host, Version::V311, Way::Tcp, &Credentials::new("späce unit", &session.id, &token)).unwrap().disconnect();
    host.stop();
}

#[test]
fn a_panic_in_a_plugin_ends_one_session_and_a_blocked_thread_delays_no_other_type() {
    let options = HostOptions::default().plugin("faulty", "conductor_test_faulty").set("sessions.deadline", json!("1s"));
    let mut host = Host::start(options);
    let (other, default) = (host.create("faulty"), host.create("default"));
    for method in ["panic", "panic_later"] {
        let session = host.create("faulty");
        let told = host.request(&session, method, Value::Null);
        assert!(told.status == 502 && told.json().to_string().contains("poll"), "the panic's words: {told:?}");
        assert_eq!(host.request(&session, "fine", Value::Null).status, 502);
        assert_eq!(host.close(&session), "Success");
        assert_eq!(asked(&host, &other, "fine"), "fine");
    }
    let blocked = host.create("faulty");
    assert_eq!(host.request(&blocked, "block", json!({"millis": 3000})).status, 504);
    assert_eq!(asked(&host, &default, "state"), "State");
    assert_eq!(host.admin("/readyz").status, 200);
    host.stop();
}

#[test]
fn a_plugin_is_replaced_while_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, new) = (folder.path().join("mine.dll"), folder.path().join("new.dll"));
    fs::copy(artefacts::plugin("conductor_default"), &mine).unwrap();
    fs::copy(artefacts::plugin("conductor_active"), &new).unwrap();
    let mut host = Host::start(HostOptions::default().set("types.mine.plugin", json!(mine)));
    let session = host.create("mine");
    assert_eq!(asked(&host, &session, "stop"), "Stop");

    // What is open is a copy, which the system guards; the file itself is free: it is overwritten in place, removed, put there again.
    let copies: Vec<PathBuf> =
        fs::read_dir(host.store_file().with_file_name("plugins")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(copies.len(), 2, "default and active; `mine` is the former: {copies:?}");
    for copy in copies {
        let before = fs::read(&copy).unwrap();
        let name = copy.file_name().unwrap().to_str().unwrap();
        assert!(!cmd(copy.parent().unwrap(), &["copy", "/y", "..\\..\\host.toml", name]).status.success());
        assert_eq!(fs::read(&copy).unwrap(), before);
    }
    for words in [&["copy", "/y", "new.dll", "mine.dll"] as &[&str], &["del", "mine.dll"], &["move", "/y", "new.dll", "mine.dll"]] {
        let output = cmd(folder.path(), words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert_eq!(asked(&host, &session, "stop"), "Stop");
    }
    assert!(mine.exists() && !new.exists());
    let second = host.create("mine");
    assert_eq!(asked(&host, &second, "stop"), "Stop", "the file is read when the host is told to");

    let reloaded = http::post(host.admin, "/v1/plugins/reload", &json!({"move": "none"}).to_string());
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    let third = host.create("mine");
    let answers = [&session, &second, &third].map(|session| asked(&host, session, "stop"));
    assert_eq!(answers, ["Stop", "Stop", "Stopped"], "the live ones keep their code");

    host.stop();
    host.start_again();
    assert_eq!((asked(&host, &session, "stop"), asked(&host, &second, "stop")), ("Stopped".into(), "Stopped".into()));
    host.stop();
}

#[test]
fn inspect_shows_a_dll_and_what_is_no_plugin_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = artefacts::plugin("conductor_default");
    let inspect = |file: &Path| run(folder.path(), &["plugin", "inspect", file.to_str().unwrap()]);
    let Ended { code, stdout, stderr } = inspect(&plugin);
    assert_eq!(code, Some(0), "{stderr}");
    for line in ["  format    PE library for Windows (x86-64)", "  contract  1.0.0, and this host has 1.0.0", "conductor \"default\""] {
        assert!(stdout.lines().any(|shown| shown == line), "{line}\n{stdout}");
    }
    for (library, offers) in [("quiz", "conductor \"quiz\""), ("remote", "conductor \"remote\""), ("heartbeat", "service \"heartbeat\"")] {
        let shown = inspect(&artefacts::plugin(&format!("conductor_{library}")));
        assert!(shown.code == Some(0) && shown.stdout.lines().any(|line| line == offers), "{shown:?}");
    }

    let whole = fs::read(&plugin).unwrap();
    let place = |name: &str, content: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        file
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let elf = maps.split_whitespace().find(|word| word.contains("/libc.so")).expect("this process has a libc");
    for (file, words) in [
        (place("cut.dll", &whole[..whole.len() / 3]), "the file is cut short or damaged ("),
        (place("start.dll", &whole[..100]), "this is a program for MS-DOS, or a Windows library that is cut short, not a shared library"),
        (place("linux.dll", &fs::read(elf).unwrap()), "this is a Linux library (x86-64), but this host needs a Windows DLL (x86-64)"),
        (artefacts::folder().join("bcryptprimitives.dll"), "this is a shared library, but not a plugin: it exports no usable symbol"),
        (folder.path().join("nothing.dll"), "there is no such file"),
    ] {
        let name = file.file_name().unwrap().to_str().unwrap();
        let expected = format!("{name}: {words}");
        let shown = inspect(&file);
        assert_eq!(shown.code, Some(1), "{shown:?}");
        let begins = shown.stderr.starts_with(r"plugin Z:\") && shown.stderr.lines().next().unwrap().contains(&expected);
        assert!(begins && shown.stderr.lines().count() <= 5, "{expected}\n{shown:?}");
        let served = run_refused(folder.path(), &HostOptions::default().set("types.bad.plugin", json!(file)));
        assert_eq!(served.code, Some(1), "{served:?}");
        assert!(served.stderr.contains(&expected), "{expected}\n{served:?}");
    }
}
