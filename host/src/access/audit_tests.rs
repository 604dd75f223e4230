use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::SystemTime,
};

use axum::{Router, body::Body, middleware::from_fn_with_state, routing::any};
use futures_util::FutureExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::access::Role;

fn clock() -> Clock {
    Clock::of(|| SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123))
}

fn settings(folder: &TempDir, max_bytes: u64, keep: u32) -> Settings {
    Settings { file: Some(folder.path().join("audit.log")), max_bytes, keep }
}

fn audit(folder: &TempDir) -> Arc<Audit> {
    Audit::open(&settings(folder, 1 << 20, 2), clock()).unwrap().unwrap()
}

fn refusal(settings: &Settings) -> String {
    Audit::open(settings, clock()).unwrap_err().to_string()
}

fn entry(session: &str) -> Entry {
    let who = WhoView { name: "ci".to_owned(), role: Role::Operator.as_str(), method: "token" };
    Entry {
        who: Some(who),
        request: "POST /v1/sessions".to_owned(),
        session: Some(session.to_owned()),
        status: Some(201),
        ..Entry::default()
    }
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"))).collect()
}

#[test]
fn a_line_says_who_did_what_when() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    audit.record(&mut entry("123456"));
    let text = fs::read_to_string(&audit.file).unwrap();
    assert_eq!(
        text,
        "{\"time\":\"2027-01-15T08:00:00.123Z\",\"who\":{\"name\":\"ci\",\"role\":\"operator\",\"method\":\"token\"},\
         \"request\":\"POST /v1/sessions\",\"session\":\"123456\",\"status\":201}\n"
    );
    assert_eq!(fs::metadata(&audit.file).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_full_file_is_renamed_and_so_many_are_kept() {
    for keep in [0_u32, 1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(&settings(&folder, 400, keep), clock()).unwrap().unwrap();
        // Two lines fit into a file.
        for number in 0..9 {
            audit.record(&mut entry(&format!("{number:04}")));
        }
        let name = |old: u32| if old == 0 { audit.file.clone() } else { audit.file.with_file_name(format!("audit.log.{old}")) };
        let sessions = |old: u32| lines(&name(old)).iter().map(|line| line["session"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(sessions(0), ["0008"]);
        for old in 1..=keep {
            let first = 8 - 2 * old;
            assert_eq!(sessions(old), [format!("{first:04}"), format!("{:04}", first + 1)], "{old} of {keep}");
        }
        assert!(!name(keep + 1).exists());
        assert_eq!(audit.trouble(), None);
    }
}

#[test]
fn a_line_that_a_crash_cut_is_ended_and_no_other_begins_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    audit.record(&mut entry("1111"));
    let whole = fs::read_to_string(&audit.file).unwrap();
    fs::write(&audit.file, format!("{whole}{{\"time\":\"20")).unwrap();
    audit.record(&mut entry("2222"));
    let text = fs::read_to_string(&audit.file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("1111") && lines[1] == "{\"time\":\"20" && lines[2].starts_with('{') && lines[2].contains("2222"), "{text}");
}

#[test]
fn a_file_that_cannot_be_trusted_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, 1 << 20, 1);
    let (file, other) = (folder.path().join("audit.log"), folder.path().join("other"));
    fs::write(&other, "").unwrap();
    symlink(&other, &file).unwrap();
    assert!(refusal(&settings).contains("symbolic link"), "{}", refusal(&settings));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(refusal(&settings).contains("audit.file"), "{}", refusal(&settings));
    fs::remove_dir(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(refusal(&settings).contains("not a regular file"), "{}", refusal(&settings));
    fs::remove_file(&file).unwrap();
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&settings).contains("chmod 600"), "{}", refusal(&settings));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Audit::open(&settings, clock()).is_ok());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&settings).contains("chmod o-w"), "{}", refusal(&settings));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let nowhere = Settings { file: Some(folder.path().join("none/audit.log")), ..settings };
    assert!(refusal(&nowhere).contains("cannot be opened"), "{}", refusal(&nowhere));
    assert!(Audit::open(&Settings { file: None, ..nowhere }, clock()).unwrap().is_none());
}

#[test]
fn what_cannot_be_written_is_counted_and_told_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    audit.record(&mut entry("1111"));
    let moved = folder.path().join("moved");
    fs::rename(&audit.file, &moved).unwrap();
    symlink(&moved, &audit.file).unwrap();
    for _ in 0..3 {
        audit.record(&mut entry("2222"));
    }
    assert_eq!(lines(&moved).len(), 1, "a link is not followed");
    assert!(audit.trouble().unwrap().contains("symbolic link"));
    fs::remove_file(&audit.file).unwrap();
    assert_eq!(audit.trouble(), None, "asking is enough to find that it works again");
    let told = lines(&audit.file);
    assert_eq!((told.len(), &told[0]["unrecorded"]), (1, &Value::from(3)), "{told:?}");
    audit.record(&mut entry("3333"));
    assert_eq!(lines(&audit.file)[1].get("unrecorded"), None);
}

#[test]
fn refusals_cannot_fill_it_and_what_was_done_is_always_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    let refused = || Entry { status: Some(403), ..entry("1111") };
    for _ in 0..REFUSALS + 50 {
        audit.record(&mut Entry { who: None, ..refused() });
    }
    assert_eq!(lines(&audit.file).len() as u64, REFUSALS);
    // Nobody without an identity hides what somebody with one tried.
    for _ in 0..REFUSALS + 50 {
        audit.record(&mut refused());
    }
    let found = lines(&audit.file);
    assert_eq!((found.len() as u64, &found[REFUSALS as usize]["unrecorded"]), (2 * REFUSALS, &Value::from(50)));
    audit.record(&mut entry("2222"));
    let last = lines(&audit.file).pop().unwrap();
    assert_eq!((&last["session"], &last["unrecorded"]), (&Value::from("2222"), &Value::from(50)));
}

#[test]
fn refusals_are_admitted_again_with_time() {
    let mut state = Refusals(1, 100);
    assert!(state.admit(100));
    assert!(!state.admit(100));
    assert!(state.admit(101));
    assert!(!state.admit(101));
    // A clock that goes back gives nothing, and takes nothing.
    assert!(!state.admit(50));
}

/// A router with one route, whose answer is that, or never comes.
fn router(audit: &Arc<Audit>, answers: Option<StatusCode>) -> Router {
    let handler = move || async move {
        match answers {
            Some(status) => status,
            None => std::future::pending().await,
        }
    };
    Router::new().route("/v1/sessions/{id}", any(handler)).layer(from_fn_with_state(audit.clone(), record))
}

fn request(method: &str, target: &str) -> Request {
    Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_request_that_is_cut_off_is_recorded_too() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    let mut call = Box::pin(router(&audit, None).oneshot(request("DELETE", "/v1/sessions/123456")));
    assert!(call.as_mut().now_or_never().is_none());
    assert!(lines(&audit.file).is_empty());
    drop(call);
    let line = lines(&audit.file).pop().unwrap();
    assert_eq!((&line["request"], &line["session"]), (&Value::from("DELETE /v1/sessions/{id}"), &Value::from("123456")));
    assert!(line.get("status").is_some_and(Value::is_null), "{line}");
}

#[tokio::test]
async fn what_can_change_nothing_is_recorded_only_where_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let audit = audit(&folder);
    let mut recorded = 0;
    for (method, target, status, expected) in [
        ("GET", "/v1/sessions/1234", StatusCode::OK, None),
        ("GET", "/v1/sessions/1234", StatusCode::NOT_FOUND, None),
        ("POST", "/nowhere", StatusCode::OK, None),
        ("GET", "/v1/sessions/1234", StatusCode::UNAUTHORIZED, Some(("GET /v1/sessions/{id}", Some("1234")))),
        ("GET", "/v1/sessions/1234", StatusCode::FORBIDDEN, Some(("GET /v1/sessions/{id}", Some("1234")))),
        ("GET", "/v1/sessions/1234", StatusCode::MISDIRECTED_REQUEST, Some(("GET /v1/sessions/{id}", Some("1234")))),
        ("PATCH", "/v1/sessions/cha_abc", StatusCode::OK, Some(("PATCH /v1/sessions/{id}", None))),
        ("cha_abc", "/v1/sessions/1234?id=cha_abc", StatusCode::OK, Some(("(another method) /v1/sessions/{id}", Some("1234")))),
    ] {
        let _ = router(&audit, Some(status)).oneshot(request(method, target)).await.unwrap();
        let all = lines(&audit.file);
        let told = all.get(recorded).map(|line| (line["request"].as_str().unwrap(), line.get("session").map(|id| id.as_str().unwrap())));
        assert_eq!(told, expected, "{method} {target} {status}");
        recorded = all.len();
    }
}
