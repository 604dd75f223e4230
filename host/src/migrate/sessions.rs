//! The sessions of the reference's file, and whether they will be the same on the way back.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::{
    Failed,
    old::read_bytes,
    reference::Session,
    report::{Report, by_type, count, name_some, shown, summary},
};
use crate::store::{StoredSession, transfer};

/// The largest file with sessions that is read, in bytes: some millions of sessions. Memory takes several times as much.
const MAX_SESSIONS: u64 = 1 << 30;

/// What of the new settings concerns sessions.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) id_digits: usize,
    pub(super) pin_digits: usize,
    pub(super) types: Vec<String>,
}

/// Reads the file and says what is in it. Clients count as granted until `granted_until` (seconds since the Unix epoch).
///
/// # Errors
/// Where the file cannot be read, or not all of it is understood: then all that is not is listed.
pub(super) fn take(file: &Path, granted_until: u64, expected: &Expected, report: &mut Report) -> Result<Vec<Arc<StoredSession>>, Failed> {
    let text = read_bytes(file, MAX_SESSIONS)?;
    let refused = |problems| Failed::Refused { file: file.to_owned(), problems };
    let sessions = transfer::parse(&text, granted_until).map_err(refused)?;
    let inexact = inexact_numbers(&text);
    if !inexact.is_empty() {
        return Err(refused(inexact));
    }
    // What was understood above is JSON, each key once.
    let source: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| refused(vec![error.to_string()]))?;
    report.taken.push(summary(&sessions));
    compare(&source, &sessions, report);
    describe(&sessions, expected, report);
    Ok(sessions)
}

/// Says of which sessions the reference would read something else in what is written back.
fn compare(source: &Map<String, Value>, sessions: &[Arc<StoredSession>], report: &mut Report) {
    let (mut twice, mut unlisted, mut further, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for session in sessions {
        let id = session.id.to_string();
        let (Some(Value::Object(before)), Ok(Value::Object(after))) = (source.get(&id), serde_json::to_value(Session(session))) else {
            others.push(id);
            continue;
        };
        let list = |object: &Map<String, Value>| object.get("clients").and_then(Value::as_array).map(Vec::len);
        match list(before) {
            None => unlisted.push(id.clone()),
            before if before != list(&after) => twice.push(id.clone()),
            _ if before.get("clients") != after.get("clients") => others.push(id.clone()),
            _ => {}
        }
        if before.keys().any(|key| !after.contains_key(key)) {
            further.push(id.clone());
        }
        if ["id", "pin", "type"].iter().any(|key| before.get(*key) != after.get(*key)) {
            others.push(id);
        }
    }
    for (what, sessions) in [
        ("a client that is listed twice is listed once", twice),
        ("there is no list of clients; it is an empty one now", unlisted),
        ("there are keys that the old program does not write; they are kept, and left out on the way back", further),
        ("something is not kept as it was", others),
    ] {
        if !sessions.is_empty() {
            report.changed.push(format!("{}: {what} ({})", count(sessions.len(), "session"), name_some(&sessions)));
        }
    }
}

/// Says which sessions are not like those that the new settings make.
fn describe(sessions: &[Arc<StoredSession>], expected: &Expected, report: &mut Report) {
    let names = |what: &dyn Fn(&StoredSession) -> bool| -> Vec<String> {
        sessions.iter().filter(|session| what(session)).map(|session| session.id.to_string()).collect()
    };
    let Expected { id_digits, pin_digits, types } = expected;
    let other_length = names(&|session| session.id.to_string().len() != *id_digits || session.pin.reveal().len() != *pin_digits);
    if !other_length.is_empty() {
        report.taken.push(format!(
            "{} with an id or pin of another length than new ones get ({id_digits} and {pin_digits}); they work as before ({})",
            count(other_length.len(), "session"),
            name_some(&other_length)
        ));
    }
    for (name, number) in by_type(sessions) {
        if !types.iter().any(|known| known == name) {
            report.to_do.push(format!(
                "{} of type {}: no such type in the new settings; they are kept, and unavailable until it is there",
                count(number, "session"),
                shown(name)
            ));
        }
    }
    let foreign = sessions.iter().flat_map(|session| &session.clients).filter(|client| client.client_id().is_none()).count();
    if foreign > 0 {
        let entries = if foreign == 1 { "1 entry" } else { &format!("{foreign} entries") };
        report.taken.push(format!("{entries} of clients' lists: no names (null, numbers…); they are kept, and match no device"));
    }
    if sessions.iter().any(|session| session.clients.iter().any(|client| client.client_id().is_some())) {
        report
            .changed
            .push("clients have an end now: one that does not join again leaves its session's list once token.ttl has passed".into());
    }
}

/// The lines of numbers that cannot be kept to the last digit. Python's have no bounds.
pub(crate) fn inexact_numbers(text: &[u8]) -> Vec<String> {
    let (mut line, mut at, mut found) = (1, 0, Vec::new());
    while let Some(byte) = text.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'\n' => line += 1,
            b'"' => {
                while let Some(inner) = text.get(at).filter(|inner| **inner != b'"') {
                    at += if *inner == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                at += text[at..].iter().take_while(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte)).count();
                if !is_exact(&text[start..at]) {
                    found.push(format!("line {line}: a number with more digits than can be kept"));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_exact(number: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(number) else { return false };
    let Ok(value) = serde_json::from_str::<Value>(text) else { return false };
    if text.contains(['.', 'e', 'E']) {
        return text.parse().ok() == value.as_f64();
    }
    // An integer that is too large becomes a fraction.
    value.is_i64() || value.is_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected { id_digits: 6, pin_digits: 3, types: vec!["default".into()] }
    }

    fn run(text: &str) -> (Result<Vec<Arc<StoredSession>>, String>, Report) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session_data.json");
        std::fs::write(&file, text).unwrap();
        let mut report = Report::default();
        let taken = take(&file, 9, &expected(), &mut report).map_err(|error| error.to_string());
        (taken, report)
    }

    fn session(id: &str, rest: &str) -> String {
        format!("{id:?}: {{\"id\": {id:?}, \"pin\": \"042\", \"type\": \"default\"{rest}}}")
    }

    #[test]
    fn what_the_reference_writes_is_taken_without_a_remark() {
        let (taken, report) = run(&format!("{{{}, {}}}", session("000001", ", \"clients\": []"), session("000002", ", \"clients\": []")));
        assert_eq!(taken.unwrap().len(), 2);
        assert_eq!(report.taken, ["2 sessions with 0 clients (default 2)"]);
        assert!(report.changed.is_empty() && report.left.is_empty() && report.to_do.is_empty(), "{report:?}");
    }

    #[test]
    fn what_is_not_as_the_reference_would_read_it_is_told() {
        let sessions = [
            session("000001", ", \"clients\": [\"a\", \"b\", \"a\"]"),
            session("000002", ""),
            session("000003", ", \"clients\": [null, null, 7], \"note\": 1"),
            session("4", ", \"clients\": []").replace("default", "o dd"),
        ];
        let (taken, report) = run(&format!("{{{}}}", sessions.join(",")));
        assert_eq!(taken.unwrap()[1].clients.len(), 2, "by id: 4 is first");
        let text = report.to_string();
        for line in [
            "4 sessions with 5 clients (default 3, \"o dd\" 1)",
            "1 session: a client that is listed twice is listed once (000001)",
            "1 session: there is no list of clients; it is an empty one now (000002)",
            "1 session: there are keys that the old program does not write",
            "1 session with an id or pin of another length than new ones get (6 and 3); they work as before (4)",
            "1 session of type \"o dd\": no such type",
            "3 entries of clients' lists: no names",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("not kept") && !text.contains("042"), "{text}");
    }

    #[test]
    fn all_that_is_not_understood_is_listed() {
        let sessions: Vec<_> = [
            session("1234567890123", ", \"clients\": []"),
            session("000002", ", \"clients\": 7"),
            session("000003", ", \"clients\": []").replace("042", "x"),
            session("000004", ", \"clients\": []"),
            session("000004", ", \"clients\": []"),
        ]
        .into();
        let error = run(&format!("{{{}}}", sessions.join(","))).0.unwrap_err();
        for part in [
            "\"1234567890123\" is not a session id",
            "session 000002: its `clients`",
            "session 000003: its `pin`",
            "000004: it is there twice",
        ] {
            assert!(error.contains(part), "{part}\n{error}");
        }
    }

    #[test]
    fn a_file_that_memory_may_not_hold_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (size, problem) in [(MAX_SESSIONS + 1, "it is larger than 1073741824 bytes"), (10, "expected a JSON object")] {
            file.as_file().set_len(size).unwrap();
            let error = take(file.path(), 9, &expected(), &mut Report::default()).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_number_that_would_change_is_refused_with_its_line() {
        for (number, good) in [
            ("18446744073709551615", true),
            ("-9223372036854775808", true),
            ("18446744073709551616", false),
            ("-9223372036854775809", false),
            ("0.1", true),
            ("1e+16", true),
            ("-0.0", true),
            ("123456789012345678901234567890", false),
        ] {
            let (taken, _) =
                run(&format!("{{\n{}}}", session("000001", &format!(", \"clients\": [\n\"1\\\"234567890123456789012\", {number}]"))));
            assert_eq!(taken.is_ok(), good, "{number} {taken:?}");
            if let Err(error) = taken {
                assert!(error.contains("line 3: a number"), "{error}");
            }
        }
    }
}
