//! `conductor-host store` and `conductor-host session`: the real program, on stores that real hosts filled, beside hosts that run and without.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::SystemTime,
};

use conductor_tests::{
    Host, HostOptions, Session,
    host::{Ended, run},
    until,
};
use serde_json::{Value, json};

/// Each durable store, and the url of one of its kind.
const STORES: [(&str, &str); 2] = [("json", "json:state/sessions.json"), ("sqlite", "sqlite:state/sessions.db")];

fn options(url: &str) -> HostOptions {
    // Timers fire when they are due, and mark it on what is kept: not while this looks.
    HostOptions::default().plugin("range", "conductor_test_range").set("store.url", json!(url))
}

/// A host with three sessions: one that saved and has a timer, a label and a client, one plain, one that was closed while a token of it was good.
fn filled(url: &str) -> (Host, Session) {
    let host = Host::start(options(url));
    let (saver, _, closed) = (host.create("range"), host.create("default"), host.create("default"));
    for ask in [json!({"save": 41}), json!({"save": 42}), json!({"labels": {"room": "4"}}), json!({"once": ["late", 3_600_000]})] {
        assert_eq!(host.request(&saver, "ask", ask.clone()).status, 200, "{ask}");
    }
    host.join(&saver, "phone");
    host.join(&closed, "phone");
    host.close(&closed);
    (host, saver)
}

/// What `filled` leaves, as all commands count it.
const COUNTS: [(&str, &str); 5] = [("sessions", "2"), ("clients", "1"), ("saved states", "1"), ("timers", "1"), ("resting ids", "1")];

/// Runs the program on the settings of the folder, with its store elsewhere where `url` says so.
fn conductor_host(folder: &Path, command: &[&str], url: Option<&str>) -> Ended {
    let set = url.map(|url| format!("store.url={url}"));
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    // Beside the folder, so that only what the command itself makes is new in it.
    let outputs = tempfile::tempdir().unwrap();
    let config = folder.join("host.toml");
    run(outputs.path(), &[command, &["--config", config.to_str().unwrap()], &set].concat())
}

fn well(ended: Ended) -> String {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout
}

/// What it said, once it was refused.
fn refused(ended: Ended) -> String {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    ended.stderr
}

/// The columns of the table that a command printed.
fn columns(stdout: &str, name: &str) -> Vec<String> {
    let line = stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {stdout}"));
    line.split_whitespace().map(str::to_owned).collect()
}

fn counted(stdout: &str, times: usize) {
    for (name, count) in COUNTS {
        assert_eq!(columns(stdout, name), vec![count; times], "{name}\n{stdout}");
    }
}

/// All files below a folder: what would differ if anything was changed or made.
fn seen(folder: &Path) -> BTreeMap<String, (u64, SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        if meta.is_dir() {
            found.extend(seen(&path));
        } else {
            found.insert(path.display().to_string(), (meta.ino(), meta.modified().unwrap(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn sessions_go_into_every_other_store_and_a_host_takes_them_up() {
    for (from, url) in STORES {
        let (mut host, saver) = filled(url);
        let token_was_for = host.clients(&saver);
        // While a host has it, what happens after the copy would be lost.
        let words = refused(conductor_host(host.folder(), &["store", "export", "--to", "json:copy.json"], None));
        assert!(words.contains("another conductor-host uses this store"), "{words}");
        // No last words: range saves another score when it is told to close.
        host.kill();
        for (to, _) in STORES {
            let folder = host.folder().to_owned();
            let path = |name: &str| folder.join(name).display().to_string();
            let copy = format!("{to}:{}", path(&format!("copy-of-{from}.{to}")));
            let before = seen(&folder);
            let dry = well(conductor_host(&folder, &["store", "export", "--to", &copy, "--dry-run"], None));
            counted(&dry, 1);
            assert!(dry.contains("Dry run: nothing was written") && seen(&folder) == before, "{dry}");
            let said = well(conductor_host(&folder, &["store", "export", "--to", &copy], None));
            counted(&said, 2);
            assert!(!said.contains(&saver.pin), "{said}");
            let words = refused(conductor_host(&folder, &["store", "export", "--to", &copy], None));
            assert!(words.contains("is there already and is not replaced"), "{words}");

            // Into a new store, and not a second time.
            let other = format!("{to}:{}", path(&format!("imported/{from}-{to}.db")));
            let before = seen(&folder);
            counted(&well(conductor_host(&folder, &["store", "import", "--from", &copy, "--dry-run"], Some(&other))), 1);
            assert!(seen(&folder) == before && !folder.join("imported").join(format!("{from}-{to}.db")).exists());
            // A file alone says itself what it is.
            let alone = copy.split_once(':').unwrap().1;
            counted(&well(conductor_host(&folder, &["store", "import", "--from", alone], Some(&other))), 2);
            let words = refused(conductor_host(&folder, &["store", "import", "--from", &copy], Some(&other)));
            assert!(words.contains("has 2 session(s) already"), "{words}");
            counted(&well(conductor_host(&folder, &["store", "check"], Some(&other))), 1);

            host.start_again_with(options(&other));
            assert_eq!(host.clients(&saver), token_was_for);
            assert_eq!(host.ask(&saver, "score", ""), 42, "from {from} to {to}");
            assert_eq!(host.show(&saver).json()["labels"], json!({"room": "4"}));
            host.kill();
        }
    }
}

#[test]
fn a_host_that_runs_is_looked_at_copied_and_not_disturbed() {
    for (kind, url) in STORES {
        let (mut host, saver) = filled(url);
        let folder = host.folder().to_owned();
        let text = well(conductor_host(&folder, &["session", "state", &saver.id], None));
        assert_eq!(text, format!("session {} (type \"range\"): version 7, 2 bytes, JSON\n\n42\n", saver.id));
        assert_eq!(well(conductor_host(&folder, &["session", "state", &saver.id, "--raw"], None)), "42");
        let object: Value = serde_json::from_str(&well(conductor_host(&folder, &["session", "state", &saver.id, "--json"], None))).unwrap();
        assert_eq!(object, json!({"id": saver.id, "type": "range", "version": 7, "bytes": 2, "json": 42}));
        let plain = host.create("default");
        let words = refused(conductor_host(&folder, &["session", "state", &plain.id], None));
        assert!(words.contains("has saved nothing"), "{words}");
        host.close(&plain);
        let words = refused(conductor_host(&folder, &["session", "state", &plain.id], None));
        assert!(words.contains(&format!("there is no session {}", plain.id)), "{words}");
        let words = refused(conductor_host(&folder, &["session", "state", "12x"], None));
        assert!(words.contains("is not a session id"), "{words}");

        counted(&well(conductor_host(&folder, &["store", "check"], None)), 1);
        let copy = folder.join("copy.backup");
        let said = well(conductor_host(&folder, &["store", "backup", copy.to_str().unwrap()], None));
        counted(&said, 1);
        assert!(said.contains(&format!("store import --from {kind}:{}", copy.display())) && !said.contains(&saver.pin), "{said}");
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let words = refused(conductor_host(&folder, &["store", "backup", copy.to_str().unwrap()], None));
        assert!(words.contains("is there already and is not replaced"), "{words}");
        let words = refused(conductor_host(&folder, &["store", "import", "--from", copy.to_str().unwrap()], None));
        assert!(words.contains("another conductor-host uses this store"), "{words}");
        // It did not notice.
        assert_eq!(host.request(&saver, "ask", json!({"save": 43})).status, 200);
        assert_eq!(well(conductor_host(&folder, &["session", "state", &saver.id, "--raw"], None)), "43");
        let of_copy = format!("{kind}:{}", copy.display());
        assert_eq!(well(conductor_host(&folder, &["session", "state", &saver.id, "--raw"], Some(&of_copy))), "42");

        // Restored as docs/store-commands.md says, once the host is gone.
        host.kill();
        counted(&well(conductor_host(&folder, &["store", "import", "--from", &of_copy], Some(&format!("{url}-restored")))), 2);
    }
}

#[test]
fn ten_thousand_sessions_come_back_as_they_went_out() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.toml"), "").unwrap();
    // As the Python session manager writes it.
    let sessions: Vec<_> = (0..10_000)
        .map(|number| {
            let id = format!("{:06}", number * 97);
            let names = (0..number % 4).map(|client| format!("\n            \"unit {client}\"")).chain((number % 50 == 0).then(|| "\n            null".into()));
            let clients = match names.collect::<Vec<_>>() {
                none if none.is_empty() => "[]".to_owned(),
                some => format!("[{}\n        ]", some.join(",")),
            };
            let (pin, kind) = (number % 1000, if number % 10 == 9 { "active" } else { "default" });
            format!(
                "    \"{id}\": {{\n        \"id\": \"{id}\",\n        \"pin\": \"{pin:03}\",\n        \"type\": \"{kind}\",\n        \"clients\": {clients}\n    }}"
            )
        })
        .collect();
    let text = format!("{{\n{}\n}}", sessions.join(",\n")).into_bytes();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("session_data.json"), &text).unwrap();

    // Through every kind of store, the first one again at the end, and back.
    let mut from = path("session_data.json");
    let mut ours: Vec<Vec<u8>> = Vec::new();
    for (number, (kind, _)) in STORES.iter().chain(&STORES[..1]).enumerate() {
        let store = format!("{kind}:{}", path(&format!("store-{number}")));
        let said = well(conductor_host(folder.path(), &["store", "import", "--from", &from], Some(&store)));
        assert_eq!(columns(&said, "sessions"), ["10000", "10000"], "{said}");
        assert_eq!(columns(&said, "clients"), ["15200", "15200"], "{said}");
        assert!(said.contains("1000 sessions of type active: no such type in the settings"), "{said}");
        if *kind == "json" {
            ours.push(fs::read(path(&format!("store-{number}"))).unwrap());
        }
        from = store;
    }
    assert!(ours.len() == 2 && ours[0] == ours[1], "json is the same behind the others");
    let said = well(conductor_host(folder.path(), &["store", "export", "--to", &path("back.json")], Some(&from)));
    assert!(said.contains("15000 clients: the end of the grant"), "{said}");
    assert!(fs::read(path("back.json")).unwrap() == text, "the reference's file is the same, to the byte");
}

#[test]
fn a_json_store_of_many_sessions_names_the_command_that_moves_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    let session = |number| format!(r#""{number:06}": {{"id": "{number:06}", "pin": "1", "type": "default", "clients": []}}"#);
    let sessions: Vec<_> = (0..999).map(session).collect();
    fs::write(folder.path().join("state/sessions.json"), format!("{{{}}}", sessions.join(",\n"))).unwrap();
    let (mut host, ended) = Host::try_start_in(folder, options("json:state/sessions.json"));
    assert!(ended.is_none(), "{}", host.log());
    let warnings = |host: &Host| -> Vec<String> {
        host.log().lines().filter(|line| line.contains("a json: store writes all sessions at each change")).map(str::to_owned).collect()
    };
    // It counts before each change: so many were there before the join, and it said nothing.
    let thousandth = host.create("default");
    host.join(&thousandth, "phone");
    assert_eq!(warnings(&host), [""; 0]);
    let more = host.create("default");
    until("the warning", || (!warnings(&host).is_empty()).then_some(()));
    host.join(&more, "phone");
    host.create("default");
    host.stop();
    let said = warnings(&host);
    let [warning] = &said[..] else { panic!("once, and not {said:?}") };
    // What it tells to run, run.
    let command = warning.split('`').nth(1).unwrap_or_else(|| panic!("no command in {warning}"));
    let words: Vec<_> = command.split_whitespace().filter(|word| !["--config", "SETTINGS"].contains(word)).collect();
    assert!(words[0] == "conductor-host" && words.len() == 5, "{command}");
    let said = well(conductor_host(host.folder(), &words[1..], Some("sqlite:state/sessions.db")));
    assert_eq!(columns(&said, "sessions"), ["1002", "1002"], "{said}");
}

#[test]
fn what_is_damaged_is_named_with_all_of_it_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.toml"), "").unwrap();
    let damaged = folder.path().join("damaged.json");
    let session =
        |id: &str, pin: &str| format!(r#""{id}": {{"id": "{id}", "pin": {pin}, "type": "default", "clients": [12345678901234567890123]}}"#);
    let text = |pins: [&str; 2]| format!("{{{},\n{}}}", session("000001", pins[0]), session("000002", pins[1]));
    let from = damaged.display().to_string();
    for (pins, problems) in [
        (["\"91x8\"", "918"], &["session 000001: its `pin`", "session 000002: its `pin`"][..]),
        (["\"918\"", "\"918\""], &["line 1: a number with more digits", "line 2: a number with more digits"]),
    ] {
        fs::write(&damaged, text(pins)).unwrap();
        let before = seen(folder.path());
        for (kind, _) in STORES {
            let to = format!("{kind}:{}/new.db", folder.path().display());
            let words = refused(conductor_host(folder.path(), &["store", "import", "--from", &from], Some(&to)));
            assert!(problems.iter().all(|problem| words.contains(problem)) && !words.contains("91"), "{words}");
        }
        assert!(seen(folder.path()) == before);
    }
    let store = format!("json:{}", damaged.display());
    // One problem hides no other, and the sum of what was edited is one.
    let sum = format!("\"sum\": \"{}\"}}", "0".repeat(64));
    fs::write(&damaged, text(["1", "2"]).replace("}}", &format!("}}, {sum}"))).unwrap();
    let words = refused(conductor_host(folder.path(), &["store", "check"], Some(&store)));
    assert!(words.contains("session 000002: its `pin`") && words.contains("its \"sum\" begins with 00000000"), "{words}");
    fs::write(&damaged, text(["1", "2"])).unwrap();
    let words = refused(conductor_host(folder.path(), &["store", "check"], Some(&store)));
    assert!(words.contains("session 000001: its `pin`") && words.contains("session 000002: its `pin`"), "{words}");
    for command in [&["store", "backup", "x"][..], &["store", "export", "--to", "json:x"], &["session", "state", "000001"]] {
        assert!(refused(conductor_host(folder.path(), command, Some(&store))).contains("is damaged"));
    }
    // None, and one that no file can be.
    for (url, part) in [("json:none.json", "there is no session store"), ("memory:", "memory")] {
        for command in
            [&["store", "check"][..], &["store", "export", "--to", "json:x"], &["store", "backup", "x"], &["session", "state", "1"]]
        {
            let words = refused(conductor_host(folder.path(), command, Some(url)));
            assert!(words.contains(part), "{command:?} {words}");
        }
    }
    let ended = conductor_host(folder.path(), &["store", "import", "--from", "memory:"], None);
    assert!(ended.code == Some(2) && ended.stderr.contains("name a file"), "{ended:?}");
    let ended = conductor_host(folder.path(), &["store", "check"], Some("nonsense"));
    assert!(ended.code == Some(2) && ended.stderr.contains("store.url"), "{ended:?}");
}

#[test]
fn a_damaged_state_is_copied_told_and_hides_no_other() {
    let (mut host, saver) = filled("json:state/sessions.json");
    host.stop();
    let states = host.folder().join("state/sessions.json.state");
    let file = fs::read_dir(&states).unwrap().next().unwrap().unwrap().path();
    let mut content = fs::read(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&file, &content).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let said_of = |words: &str| assert!(words.contains(&format!("session {}: its saved state ({name})", saver.id)), "{words}");
    said_of(&refused(conductor_host(host.folder(), &["store", "check"], None)));
    said_of(&refused(conductor_host(host.folder(), &["session", "state", &saver.id], None)));
    said_of(&refused(conductor_host(host.folder(), &["store", "export", "--to", "json:copy.json"], None)));
    let copy = host.folder().join("copy.json");
    let ended = conductor_host(host.folder(), &["store", "backup", copy.to_str().unwrap()], None);
    assert_eq!(ended.code, Some(1), "a copy that is not whole is no success");
    said_of(&ended.stderr);
    counted(&ended.stdout, 1);
    assert_eq!(fs::read(host.folder().join("copy.json.state").join(name)).unwrap(), content);
}

#[test]
fn what_a_first_start_would_take_over_is_the_store_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("host.toml"), "").unwrap();
    fs::create_dir(path("state")).unwrap();
    let session = |id: &str| format!(r#"{{"{id}": {{"id": "{id}", "pin": "918", "type": "default", "clients": []}}}}"#);
    fs::write(path("state/sessions.json"), session("000001")).unwrap();
    fs::write(path("other.json"), session("000002")).unwrap();
    let said = well(conductor_host(folder.path(), &["store", "check"], None));
    assert!(said.starts_with(&format!("json:{}: ok\n", path("state/sessions.json"))), "{said}");
    let words = refused(conductor_host(folder.path(), &["store", "import", "--from", &path("other.json")], None));
    assert!(words.contains("which the host takes over at its first start"), "{words}");
    assert!(!folder.path().join("state/sessions.db").exists());
    // What it would take over may be taken over now, and is left where it is, and counts no more.
    assert!(well(conductor_host(folder.path(), &["store", "import", "--from", &path("state/sessions.json")], None)).contains("sqlite:"));
    assert!(
        well(conductor_host(folder.path(), &["store", "check"], None)).starts_with(&format!("sqlite:{}: ok\n", path("state/sessions.db")))
    );
    assert_eq!(fs::read_to_string(path("state/sessions.json")).unwrap(), session("000001"));
}
