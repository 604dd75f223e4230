//! From the Python session manager and back: its files, Python's own `json` and PyJWT as judges, the real host in between.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Instant,
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way, artefacts,
    host::{Ended, run},
    tools::Program,
};
use serde_json::{Value, json};

/// Ten thousand sessions, written as the old program writes them: in the order of their ids, and in another one.
const WRITE: &str = r##"
import json, random, sys
odd = ["unit 1", "späce unit", "客户端", "\U0001f600", "q\"uo\\te/", "tab\tline\n\r\b\f", "\x00\x1f\x7f\x80\u2028", "", "null", "7",
       None, None, 7, -3, True, False, 1.5, 1e22, 1e-7, 0.1, 18446744073709551615, [], {}, [None, ["a", {"b": [1, {}]}]], {"z": 1, "a": "ä"}]
sessions = {}
for n in range(10_000):
    id, pin = f"{n * 97:06d}", f"{n * 7 % 1000:03d}"
    type = "robot" if n % 100 == 99 else "active" if n % 10 == 9 else "default"
    clients = [] if n % 3 else ["unit 1"] + [f"device {m}" for m in range(n % 5)]
    sessions[id] = {"id": id, "pin": pin, "type": type, "clients": odd if n % 1000 == 0 else clients}
def save(file, sessions):
    with open(file, "w+") as out:
        out.write(json.dumps(sessions, indent=4))
save(sys.argv[1], sessions)
mixed = list(sessions.items())
random.Random(1).shuffle(mixed)
save(sys.argv[2], dict(mixed))
"##;

/// Whether Python writes the second file as it is once it has read it, and how it compares to the first.
const COMPARE: &str = r#"
import json, sys
first, second = [open(file, newline="").read() for file in sys.argv[1:3]]
print("stable" if json.dumps(json.loads(second), indent=4) == second else "unstable")
print("equal" if json.loads(first) == json.loads(second) else "different", "same" if first == second else "other")
"#;

/// A token of the old program: PyJWT, RS256, five claims.
const SIGN: &str = r#"
import jwt, sys, time
now = int(time.time())
topics = [f"/{sys.argv[2]}/#"]
claims = {"sub": sys.argv[3], "iat": now, "exp": now + 86400, "subs": topics, "publ": topics}
print(jwt.encode(claims, open(sys.argv[1], "rb").read(), algorithm="RS256"))
"#;

/// Reads a token with the old public key.
const VERIFY: &str = r#"
import jwt, sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
public = load_pem_private_key(open(sys.argv[1], "rb").read(), None).public_key()
print(jwt.decode(sys.argv[2], public, algorithms=["RS256"])["sub"])
"#;

const SETTINGS: &str = r#"
import os
IOT_PORT = 8888
ADMIN_PORT = 50001
ID_SIZE = 6
PIN_SIZE = 3
SESSION_STORAGE = 'session_data.json'
JWT_MODE = os.environ.get('MQTT_AUTH_MODE')
if not JWT_MODE:
    JWT_MODE = 'dev_no_auth'
elif JWT_MODE == 'dev_jwt_auth':
    JWT_PRIVATE_KEY_LOC = './local_mqtt_keys/private_key.pem'
CONDUCTOR_INTERFACES = {"default": DefaultConductor, "active": ActiveConductor, "robot": RobotConductor}
"#;

fn python(script: &str, arguments: &[&Path]) -> Vec<String> {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
    let packages: &[(&str, &str)] = if script.contains("jwt") { &[("jwt", "pyjwt"), ("cryptography", "cryptography")] } else { &[] };
    let (code, lines) = Program::python(script, packages, &arguments).end();
    assert_eq!(code, Some(0), "{lines:?}");
    lines
}

/// A folder in which the old program was, with the settings, the `.env` and the key of its mode with signed tokens.
fn old_program() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (home, deployment) = (folder.path().join("session_manager"), folder.path().join("deployment"));
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(deployment.join("certs/local_mqtt_keys")).unwrap();
    fs::write(home.join("settings.py"), SETTINGS).unwrap();
    fs::write(deployment.join(".env"), "deployment_mode=dev\nmqtt_auth_mode=dev_jwt_auth\n").unwrap();
    let key = old_key(folder.path());
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/tests/keys/test-rsa.pem"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    folder
}

fn old_key(folder: &Path) -> PathBuf {
    folder.join("deployment/certs/local_mqtt_keys/private_key.pem")
}

fn sessions_file(folder: &Path) -> PathBuf {
    folder.join("session_manager/session_data.json")
}

/// Two sessions and three entries of clients.
fn few() -> Value {
    json!({
        "000042": {"id": "000042", "pin": "007", "type": "default", "clients": ["unit 1", null]},
        "900000": {"id": "900000", "pin": "123", "type": "robot", "clients": ["späce"]},
    })
}

fn write_few(folder: &Path) {
    fs::write(sessions_file(folder), few().to_string()).unwrap();
}

/// Runs `migrate` in a folder of its own, so that the outcome can be compared to nothing at all.
fn migrate(arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[&["migrate"], arguments].concat())
}

fn migrate_in(from: &Path, into: &Path, more: &[&str]) -> Ended {
    let plugins = artefacts::folder();
    let arguments = ["--from", from.to_str().unwrap(), "--into", into.to_str().unwrap(), "--plugins", plugins.to_str().unwrap()];
    migrate(&[&arguments, more].concat())
}

fn migrate_back(host: &Path, to: &Path, more: &[&str]) -> Ended {
    let config = host.join("host.toml");
    migrate(&[&["--to", to.to_str().unwrap(), "--config", config.to_str().unwrap()], more].concat())
}

/// Starts the host on the settings that were written, on ports that are free.
fn serve(folder: tempfile::TempDir) -> Host {
    let mut options = HostOptions::default().as_written();
    for section in ["ADMIN__", "IOT__", "MQTT__", "MQTT__WEBSOCKET_"] {
        options = options.environment(&format!("CONDUCTOR_HOST__{section}LISTEN"), "127.0.0.1:0");
    }
    Host::start_in(folder, options)
}

fn said(ended: &Ended, part: &str) {
    assert!(ended.stdout.contains(part) || ended.stderr.contains(part), "{part:?} is not in {ended:?}");
}

#[track_caller]
fn done(ended: &Ended) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
}

#[track_caller]
fn refused(ended: &Ended, part: &str) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
}

/// Everything below a folder: what it is, its mode, its last change and its content.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        for path in entries.chain([folder.clone()]) {
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if about.is_dir() && path != folder {
                folders.push(path.clone());
            }
            found.insert(path, (about.mode(), about.mtime(), about.mtime_nsec(), content));
        }
    }
    found
}

#[test]
fn ten_thousand_sessions_come_are_served_and_go_back_unchanged() {
    let old = old_program();
    let (source, mixed) = (sessions_file(old.path()), old.path().join("mixed.json"));
    python(WRITE, &[&source, &mixed]);
    let into = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let ended = migrate_in(old.path(), into.path(), &[]);
    let way_in = began.elapsed();
    done(&ended);
    said(&ended, "10000 sessions with 10248 clients (active 900, default 9000, robot 100)");
    said(&ended, "100 sessions of type robot: no such type in the new settings");
    let checked = run(into.path(), &["config", "check", "host.toml"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");

    let mut host = serve(into);
    let (mut cursor, mut listed) = (String::new(), 0);
    loop {
        let page = host.admin(&format!("/v1/sessions?limit=500{cursor}")).json();
        listed += page["items"].as_array().unwrap().len();
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, 10_000);
    let session = |n: usize| Session { id: format!("{:06}", n * 97), pin: format!("{:03}", n * 7 % 1000) };
    assert_eq!(host.ask(&session(1), "state", ""), "State");
    assert_eq!(host.ask(&session(9), "start", ""), "Started");
    assert_eq!(host.request(&session(99), "state", Value::Null).status, 503);
    // The pin is 021, and its zero counts. A client that is listed already leaves the list as it is.
    assert_eq!(session(3).pin, "021");
    let token = host.join(&session(3), "unit 1");
    let short = json!({"id": session(3).id, "pin": "21", "client": "unit 1"}).to_string();
    assert!(host.join_raw(&short).body.contains("Could not validate"));
    // The key is the old one, and so is the username.
    assert_eq!(python(VERIFY, &[&old_key(old.path()), Path::new(&token)]), ["unit 1"]);
    let mut device = Mqtt::connect(&host, Version::V311, Way::Tcp, &Credentials::new("unit 1", "unit 1", &token)).unwrap();
    assert!(device.publish(&format!("/{}/x", session(3).id), "p", 1, false));
    device.disconnect();
    host.stop();

    let back = old.path().join("back.json");
    let began = Instant::now();
    let ended = migrate_back(host.folder(), &back, &[]);
    let way_back = began.elapsed();
    done(&ended);
    println!("10,000 sessions: {way_in:?} in, {way_back:?} back");
    said(&ended, "active, default, robot");
    assert_eq!(python(COMPARE, &[&source, &back]), ["stable", "equal same"]);
    // In another order it is another text with the same meaning.
    let into = tempfile::tempdir().unwrap();
    done(&migrate_in(&mixed, into.path(), &[]));
    let back = old.path().join("back again.json");
    done(&migrate_back(into.path(), &back, &[]));
    assert_eq!(python(COMPARE, &[&mixed, &back]), ["stable", "equal other"]);
}

#[test]
fn what_the_host_added_goes_back_as_the_old_program_would_have_it() {
    let old = old_program();
    write_few(old.path());
    let into = tempfile::tempdir().unwrap();
    done(&migrate_in(old.path(), into.path(), &[]));
    let mut host = serve(into);
    let made = host.create("active");
    assert_eq!((made.id.len(), made.pin.len()), (6, 3));
    host.join(&made, "客户端");
    host.close(&Session { id: "900000".into(), pin: "123".into() });
    host.stop();
    let back = old.path().join("back.json");
    let ended = migrate_back(host.folder(), &back, &[]);
    done(&ended);
    said(&ended, "1 session: the time of creation");
    assert_eq!(fs::metadata(&back).unwrap().mode() & 0o777, 0o600, "there are pins in it");
    let expected = json!({
        "000042": few()["000042"],
        &made.id: {"id": made.id, "pin": made.pin, "type": "active", "clients": ["客户端"]},
    });
    let text = fs::read_to_string(&back).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    assert!(
        text.starts_with("{\n    \"000042\": {\n        \"id\": \"000042\",\n        \"pin\": \"007\",\n        \"type\": \"default\",\n"),
        "{text}"
    );
    assert!(text.contains("\\u5ba2\\u6237\\u7aef") && text.ends_with("}\n}"), "{text}");
    // Those that were there before are first, as in a dictionary of Python's.
    assert!(text.find("000042") < text.find(&made.id));
}

#[test]
fn a_dry_run_says_the_same_and_writes_nothing() {
    let world = tempfile::tempdir().unwrap();
    let old = old_program();
    write_few(old.path());
    let (into, back) = (world.path().join("new/host"), world.path().join("back.json"));
    let same = |dry: &Ended, real: &Ended| {
        let report = |ended: &Ended| ended.stdout.rsplit_once("\n\n").unwrap().0.to_owned();
        assert_eq!(report(dry), report(real));
        assert!(dry.stdout.contains("Dry run: nothing was written") && real.stdout.contains("Written"), "{dry:?}");
    };
    let before = [everything(world.path()), everything(old.path())];
    let dry = migrate_in(old.path(), &into, &["--dry-run"]);
    done(&dry);
    assert_eq!([everything(world.path()), everything(old.path())], before);
    let real = migrate_in(old.path(), &into, &[]);
    done(&real);
    said(&real, "private_key.pem (mode 0644): if anybody may have, make a new key");
    same(&dry, &real);
    assert_eq!(everything(old.path()), before[1], "the source is only read");
    for (file, mode) in [("host.toml", 0o600), ("state/sessions.json", 0o600), ("state/token-key.pem", 0o600), ("state", 0o700)] {
        assert_eq!(fs::metadata(into.join(file)).unwrap().mode() & 0o777, mode, "{file}");
    }
    assert_eq!(fs::read(into.join("state/token-key.pem")).unwrap(), fs::read(old_key(old.path())).unwrap());

    // Where a host has been, and where none has.
    for lock in [false, true] {
        if lock {
            fs::write(into.join("state/sessions.json.lock"), "").unwrap();
        }
        let before = everything(world.path());
        let dry = migrate_back(&into, &back, &["--dry-run"]);
        done(&dry);
        assert_eq!(everything(world.path()), before);
        let real = migrate_back(&into, &back, &[]);
        done(&real);
        same(&dry, &real);
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn damaged_files_are_refused_with_their_place_and_nothing_is_touched() {
    let good = serde_json::to_string_pretty(&few()).unwrap();
    let mut damaged: Vec<(Vec<u8>, String)> = Vec::new();
    for part in 1..=25 {
        let cut = &good.as_bytes()[..(good.len() - 1) * part / 25];
        damaged.push((cut.to_vec(), "line ".into()));
    }
    let broken = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    for (from, to, place) in [
        ("\"000042\",", "\"000043\",", "session 000042: its `id` is not the key"),
        ("\"000042\",", "42,", "session 000042: its `id` is missing or not a string"),
        ("\"000042\":", "\"0000x2\":", "\"0000x2\" is not a session id"),
        ("\"000042\":", "\"\":", "\"\" is not a session id"),
        ("\"000042\":", "\"1234567890123\":", "\"1234567890123\" is not a session id"),
        ("\"900000\":", "\"000042\":", "session 000042: "),
        ("\"id\": \"000042\",", "", "session 000042: its `id`"),
        ("\"pin\": \"007\",", "", "session 000042: its `pin`"),
        ("\"007\"", "7", "session 000042: its `pin`"),
        ("\"007\"", "\"0 7\"", "session 000042: its `pin`"),
        ("\"007\"", "\"1234567890123\"", "session 000042: its `pin`"),
        ("\"pin\": \"007\"", "\"pin\": \"007\", \"pin\": \"008\"", "the key \"pin\" is twice in one object at line 4"),
        ("\"default\"", "null", "session 000042: its `type`"),
        ("\"default\"", "\"\"", "session 000042: its `type`"),
        ("[\n      \"unit 1\",\n      null\n    ]", "\"unit 1\"", "session 000042: its `clients` is not a list"),
        ("null", "NaN", "line 8"),
        ("null", "\"\\ud800\"", "line 8"),
        ("null", "123456789012345678901234567890", "line 8: a number with more digits"),
        ("null", "{\"a\": 1, \"a\": 2}", "line 8"),
        ("null", "1e999", "line 8"),
        ("null", "'text'", "line 8"),
        ("null", "null,", "line 9"),
        ("null", "\"\t\"", "line 8"),
    ] {
        damaged.push((broken(from, to), place.into()));
    }
    for (text, place) in [
        (&b"[]"[..], "line 1: expected a JSON object of sessions"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"null", "line 1"),
        (b"{\"000042\": []}", "session 000042: expected a JSON object"),
        (b"{\"000042\": null}", "session 000042: expected a JSON object"),
        (b"{}{}", "something follows"),
        (b"{} x", "line 1"),
        (b"\xef\xbb\xbf{}", "line 1: it begins with a byte order mark"),
        (b"\xff\xfe{\0}\0", "line 1"),
        (b"{\"000042\": {\"id\": \"\xff\"}}", "line 1"),
        (b"\0\0\0\0", "line 1"),
    ] {
        damaged.push((text.to_vec(), place.into()));
    }
    assert!(damaged.len() >= 50, "{}", damaged.len());
    let folder = tempfile::tempdir().unwrap();
    let (source, into) = (folder.path().join("session_data.json"), folder.path().join("new"));
    for (text, place) in damaged {
        fs::write(&source, &text).unwrap();
        let before = everything(folder.path());
        let ended = migrate_in(&source, &into, &[]);
        refused(&ended, &place);
        said(&ended, "session_data.json is not taken");
        said(&ended, "Repair it");
        assert!(!ended.stderr.contains("007") && !ended.stderr.contains("008"), "a pin is shown: {}", ended.stderr);
        assert_eq!(everything(folder.path()), before);
    }
}

#[test]
fn all_sessions_that_are_not_understood_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("session_data.json");
    let sessions: serde_json::Map<String, Value> =
        (0..30).map(|n| (format!("{n:06}"), json!({"id": format!("{n:06}"), "pin": n, "type": "default", "clients": []}))).collect();
    fs::write(&source, Value::Object(sessions).to_string()).unwrap();
    let ended = migrate_in(&source, &folder.path().join("new"), &[]);
    refused(&ended, "and 10 more");
    assert_eq!(ended.stderr.matches("its `pin`").count(), 20);
}

#[test]
fn what_is_there_is_never_replaced() {
    let old = old_program();
    write_few(old.path());
    for name in ["host.toml", "state/sessions.json", "state/token-key.pem"] {
        for link in [false, true] {
            let into = tempfile::tempdir().unwrap();
            let file = into.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            if link {
                symlink("/nowhere/at/all", &file).unwrap();
            } else {
                fs::write(&file, "mine").unwrap();
            }
            let before = everything(into.path());
            for more in [&[][..], &["--dry-run"]] {
                let ended = migrate_in(old.path(), into.path(), more);
                refused(&ended, "is there already and is not replaced");
                said(&ended, name);
                assert_eq!(everything(into.path()), before);
            }
        }
    }
    let into = tempfile::tempdir().unwrap();
    // No folder at all.
    let (file, link) = (into.path().join("file"), into.path().join("link"));
    fs::write(&file, "mine").unwrap();
    symlink("/nowhere/at/all", &link).unwrap();
    let before = everything(into.path());
    for place in [&file, &link] {
        for more in [&[][..], &["--dry-run"]] {
            refused(&migrate_in(old.path(), place, more), "is there already and is not replaced");
        }
    }
    assert_eq!(everything(into.path()), before);
    let into = tempfile::tempdir().unwrap();
    done(&migrate_in(old.path(), into.path(), &[]));
    let before = everything(old.path());
    for more in [&[][..], &["--dry-run"]] {
        refused(&migrate_back(into.path(), &sessions_file(old.path()), more), "is there already and is not replaced");
    }
    assert_eq!(everything(old.path()), before);
    let nowhere = into.path().join("no folder/back.json");
    refused(&migrate_back(into.path(), &nowhere, &[]), "cannot be written");
}

#[test]
fn a_host_that_runs_is_left_alone() {
    let old = old_program();
    write_few(old.path());
    let into = tempfile::tempdir().unwrap();
    done(&migrate_in(old.path(), into.path(), &[]));
    let host = serve(into);
    // Its files are away, and still the folder is its own.
    let aside = old.path().join("aside");
    fs::rename(host.folder().join("host.toml"), &aside).unwrap();
    for more in [&[][..], &["--dry-run"]] {
        refused(&migrate_in(old.path(), host.folder(), more), "another conductor-host uses this state folder");
    }
    fs::rename(&aside, host.folder().join("host.toml")).unwrap();
    let back = old.path().join("back.json");
    for more in [&[][..], &["--dry-run"]] {
        refused(&migrate_back(host.folder(), &back, more), "another conductor-host uses this store");
    }
    assert!(!back.exists());
    assert_eq!(host.ask(&Session { id: "000042".into(), pin: "007".into() }, "state", ""), "State");
}

#[test]
fn tokens_of_the_old_program_are_not_taken_and_new_ones_are_had_for_the_old_pin() {
    let old = old_program();
    write_few(old.path());
    let into = tempfile::tempdir().unwrap();
    done(&migrate_in(old.path(), into.path(), &[]));
    let host = serve(into);
    let token = python(SIGN, &[&old_key(old.path()), Path::new("000042"), Path::new("unit 1")]).remove(0);
    let connect = |token: &str| Mqtt::connect(&host, Version::V311, Way::Tcp, &Credentials::new("unit 1", "unit 1", token)).map(|_| ());
    connect(&token).expect_err("it has the claims of the old program alone");
    connect(&host.join(&Session { id: "000042".into(), pin: "007".into() }, "unit 1")).unwrap();
}

#[test]
fn wrong_command_lines_and_settings_are_told_apart_from_failures() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| run(folder.path(), &[&["migrate"], arguments].concat());
    for arguments in [&[][..], &["--from", "x"], &["--to", "x", "--into", "y"], &["--from", "x", "--to", "y"], &["--into", "x"]] {
        assert_eq!(code(arguments).code, Some(2), "{arguments:?}");
    }
    fs::write(folder.path().join("wrong.toml"), "[iot]\nlisten = 1\n").unwrap();
    let ended = code(&["--to", "x", "--config", "wrong.toml"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    said(&ended, "wrong.toml:2: iot.listen");
    fs::write(folder.path().join("memory.toml"), "[store]\nurl = \"memory:\"\n").unwrap();
    refused(&code(&["--to", "x", "--config", "memory.toml"]), "in memory");
    refused(&code(&["--to", "x"]), "there is no session store");
    refused(&code(&["--from", "nothing", "--into", "y"]), "nothing cannot be read");
    // Ports of the old settings that would meet.
    fs::write(folder.path().join("s.json"), "{}").unwrap();
    fs::write(folder.path().join("settings.py"), "IOT_PORT = 1883\n").unwrap();
    refused(&code(&["--from", "s.json", "--settings", "settings.py", "--into", "y"]), "would not be accepted");
    assert!(!folder.path().join("y").exists());
}
