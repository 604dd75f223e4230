//! Sync before answer, as strace sees the real program: between the arrival of a request and the answer to it there is a sync of the store that was begun after the
//! change was written, and that succeeded.

use std::{collections::BTreeMap, fs, path::Path};

use conductor_tests::{Host, http, until};
use serde_json::json;

use super::Medium;

const READS: &[&str] = &["read", "recvfrom", "recvmsg", "readv"];
const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg", "pwrite64", "pwritev"];
const SYNCS: &[&str] = &["fsync", "fdatasync"];
const RENAMES: &[&str] = &["rename", "renameat", "renameat2"];

#[test]
fn json() {
    let host = traced(Medium::Json);
    let sessions = ["sessions.json.tmp>", "/sessions.json\"", "/state>"];
    let states = ["sessions.json.state/tmp>", ".state\"", "sessions.json.state>"];
    for (change, [temporary, target, folder]) in changes(&host).into_iter().zip([sessions, sessions, states, sessions]) {
        assert_in_order(&change, &[(WRITES, temporary), (SYNCS, temporary), (RENAMES, target), (SYNCS, folder)]);
        assert_nothing_after(&change, temporary);
    }
}

#[test]
fn sqlite() {
    let host = traced(Medium::Sqlite);
    let changes = changes(&host);
    for change in &changes {
        assert_in_order(change, &[(WRITES, "sessions.db-wal>"), (SYNCS, "sessions.db-wal>")]);
        assert_nothing_after(change, "sessions.db-wal>");
    }
    // The first one made the log's name durable as well.
    assert_in_order(&changes[0], &[(SYNCS, "sessions.db-wal>"), (SYNCS, "/state>")]);
}

/// Whoever was killed may have left names that are not durable yet.
#[test]
fn a_start_syncs_the_names_that_it_finds() {
    for medium in [Medium::Json, Medium::Sqlite] {
        let mut host = traced(medium);
        host.create("echo");
        host.kill();
        host.start_again();
        let trace = host.folder().join("trace");
        let above = format!("{}>", host.folder().file_name().unwrap().to_str().unwrap());
        http::request(host.admin, "GET", "/livez", &[("X-Change", "end")], "");
        until("the trace", || fs::read_to_string(&trace).ok().filter(|text| text.contains("X-Change: end")));
        assert_in_order(&calls(&trace), &[(SYNCS, "/state>"), (SYNCS, &above)]);
    }
}

/// A system call; where it began and ended are lines of what strace wrote.
#[derive(Debug)]
struct Call {
    name: String,
    /// Arguments, where files have their paths, and the result.
    text: String,
    begun: usize,
    ended: Option<usize>,
}

impl Call {
    fn is(&self, names: &[&str], text: &str) -> bool {
        names.contains(&&*self.name) && self.text.contains(text)
    }

    fn succeeded(&self) -> bool {
        self.ended.is_some() && self.text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-'))
    }
}

/// A host below strace, with its trace in `trace`.
fn traced(medium: Medium) -> Host {
    let folder = tempfile::tempdir().unwrap();
    let names = [READS, WRITES, SYNCS, RENAMES].concat().join(",");
    let trace = folder.path().join("trace").display().to_string();
    // The host is the child of the test, and strace a process beside it.
    let strace = ["strace", "-D", "-f", "-y", "-s", "200", "--seccomp-bpf", "-e", &format!("trace={names}"), "-o", &trace];
    let found = std::process::Command::new("strace").arg("-V").output();
    found.unwrap_or_else(|e| panic!("strace: {e}; install it, or run `cargo xtask test`, which does"));
    Host::start_in(folder, medium.options().under(&strace))
}

/// What the host does for a create, a join, a save and a close: the calls between the arrival of each and its answer.
fn changes(host: &Host) -> [Vec<Call>; 4] {
    let ask = |name: &str, to, method: &str, target: &str, body: &str| {
        let answer = http::request(to, method, target, &[("X-Change", name)], body);
        assert!((200..300).contains(&answer.status), "{answer:?}");
        answer
    };
    let made = ask("create", host.admin, "POST", "/v1/sessions", "{\"type\": \"echo\"}").json();
    let session = format!("/v1/sessions/{}", made["id"].as_str().unwrap());
    ask("join", host.iot, "POST", &format!("{session}/join"), &json!({"pin": made["pin"], "client": "a"}).to_string());
    let keep = json!({"method": "keep", "params": {"number": 1, "bytes": 50_000}}).to_string();
    ask("save", host.admin, "POST", &format!("{session}/requests"), &keep);
    ask("close", host.admin, "DELETE", &session, "");
    ask("end", host.admin, "GET", "/livez", "");
    let trace = host.folder().join("trace");
    ["create", "join", "save", "close"].map(|name| {
        let arrival = format!("X-Change: {name}");
        until("the trace", || fs::read_to_string(&trace).ok().filter(|text| text.contains("X-Change: end")));
        between(calls(&trace), &arrival)
    })
}

fn calls(trace: &Path) -> Vec<Call> {
    let (mut calls, mut unfinished) = (Vec::<Call>::new(), BTreeMap::new());
    for (line, text) in fs::read_to_string(trace).unwrap().lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some((_, rest)) = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>")) {
            // Its beginning may be older than the trace.
            let Some(at) = unfinished.remove(thread) else { continue };
            let call: &mut Call = &mut calls[at];
            call.text.push_str(rest);
            call.ended = Some(line);
        } else if let Some((name, text)) = text.split_once('(') {
            let whole = text.strip_suffix(" <unfinished ...>");
            if whole.is_some() {
                unfinished.insert(thread.to_owned(), calls.len());
            }
            let ended = whole.is_none().then_some(line);
            calls.push(Call { name: name.to_owned(), text: whole.unwrap_or(text).to_owned(), begun: line, ended });
        }
    }
    calls
}

/// The calls from the one that read the request up to the one that writes the answer.
fn between(calls: Vec<Call>, arrival: &str) -> Vec<Call> {
    let arrived =
        calls.iter().find(|call| call.is(READS, arrival)).and_then(|call| call.ended).unwrap_or_else(|| panic!("{arrival} was not read"));
    let answer = calls.iter().find(|call| call.begun > arrived && call.is(WRITES, "HTTP/1.1 2")).map(|call| call.begun).expect("an answer");
    calls.into_iter().filter(|call| call.begun > arrived && call.begun < answer && call.ended.is_some_and(|ended| ended < answer)).collect()
}

/// Each step is a call that succeeded and was begun after the one before had ended.
fn assert_in_order(calls: &[Call], steps: &[(&[&str], &str)]) {
    let mut after = 0;
    for (names, text) in steps {
        let step = calls.iter().find(|call| call.begun >= after && call.succeeded() && call.is(names, text));
        let step = step.unwrap_or_else(|| panic!("no {names:?} of {text} after line {after} and before the answer: {calls:#?}"));
        after = step.ended.unwrap() + 1;
    }
}

/// Nothing is written to this file once its last sync has begun.
fn assert_nothing_after(calls: &[Call], file: &str) {
    let synced = calls.iter().rfind(|call| call.is(SYNCS, file)).map_or(0, |call| call.begun);
    let late = calls.iter().find(|call| call.is(WRITES, file) && call.ended.unwrap() > synced);
    assert!(late.is_none(), "written and not synced: {late:?}");
}
