//! Files with a sum, and what is made of one that does not fit.

use std::fs;

use crate::store::{
    Change, Store as _, StoredSession,
    change::Content,
    contract::{session, wait},
    disk::RealDisk,
    json::{
        format::{parse, parse_all, render},
        open,
        tests::NEVER,
    },
};

/// As it is written.
fn written(numbers: impl IntoIterator<Item = usize>) -> String {
    let sessions = numbers.into_iter().map(|number| session(&number.to_string())).map(|session| (session.id, session)).collect();
    let mut bytes = Vec::new();
    render(&mut bytes, &Content { sessions, ..Content::default() }).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn problem(text: &str) -> String {
    parse(text.as_bytes(), 0).unwrap_err()
}

#[test]
fn what_is_written_has_its_sum_whatever_its_size() {
    // The sum by another program.
    assert_eq!(written([]), "{\n    \"sum\": \"4eb0715613a94ca868f4707fbf38be74deba1dc6e2662b5fb8d2c2a65b4433c1\"\n}");
    for count in [0, 1, 2, 90, 91, 92, 1000] {
        assert_eq!(parse(written(0..count).as_bytes(), 0).unwrap().sessions.len(), count);
    }
}

#[test]
fn an_edited_file_is_refused_until_its_sum_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sessions.json");
    let edited = written([1, 2]).replacen("\"0424\"", "\"0425\"", 1);
    fs::write(&file, &edited).unwrap();
    let open = || open(&file, 0, NEVER, RealDisk);
    let message = open().unwrap_err().to_string();
    let sum = edited.split('"').nth_back(1).unwrap();
    assert!(message.contains(&format!("its \"sum\" begins with {}, and that of its content with ", &sum[..8])), "{message}");
    for part in ["sessions.json cannot be used", "delete its last key, \"sum\"", "left as it is"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("0425") && fs::read_to_string(&file).unwrap() == edited, "{message}");

    // As the message says.
    let without = format!("{}\n}}", &edited[..edited.rfind(",\n    \"sum\"").unwrap()]);
    fs::write(&file, without).unwrap();
    let (store, loaded) = open().unwrap();
    assert_eq!(loaded.sessions[0].pin.reveal(), "0425");
    wait(store.apply(Change::Create(session("3")))).unwrap();
    wait(store.shutdown());
    let again = fs::read_to_string(&file).unwrap();
    assert!(again.contains("\"sum\"") && parse(again.as_bytes(), 0).is_ok(), "{again}");
}

#[test]
fn a_sum_is_the_last_key_and_there_once() {
    let good = written([1]);
    let (content, end) = good.split_at(good.rfind("\"sum\"").unwrap());
    let sum = end.split('"').nth(3).unwrap();
    assert!(parse(format!("{content}\"sum\"\n:\t \"{sum}\" }}\n\n").as_bytes(), 0).is_ok(), "what is behind it means nothing");
    let (not_last, wrong) = ("its \"sum\" is not the last key", "its \"sum\" begins with ");
    let behind = r#""2": {"id": "2", "pin": "918273", "type": "t"}"#;
    for (text, expected) in [
        (format!("{content}\"sum\": \"{sum}\", {behind}}}"), not_last),
        (format!("{{\"sum\": \"{sum}\", {behind}}}"), not_last),
        (format!("{content}\"s\\u0075m\": \"{sum}\"}}"), not_last),
        (format!("{content}\"sum\": \"{}\"}}", &sum[1..]), not_last),
        (format!("{content}\"sum\": \"\"}}"), not_last),
        (format!("{content}\"sum\": \"{}\"}}", "918273".repeat(10) + "91é"), not_last),
        (format!("{content}\"sum\": \"{}\"}}", sum.to_uppercase()), wrong),
        (format!("{content} \"sum\": \"{sum}\"}}"), wrong),
        (format!("{content}\"sum\": 918273}}"), "its \"sum\" is not a string"),
        (format!("{content}\"sum\": \"{sum}\", \"sum\": \"{sum}\"}}"), "the key \"sum\" is there twice"),
    ] {
        let message = problem(&text);
        assert!(message.contains(expected) && !message.contains("918273"), "{message}\n{text}");
    }
    // A session may have such a key, and so may what somebody keeps in it.
    let mut odd = StoredSession::clone(&session("1"));
    let rest = serde_json::json!({"sum": {"sum": 1}}).as_object().cloned().unwrap();
    odd.extra = Some(Box::new(crate::store::Extra { rest, ..Default::default() }));
    let content = Content { sessions: [(odd.id, odd.into())].into(), ..Content::default() };
    let mut bytes = Vec::new();
    render(&mut bytes, &content).unwrap();
    parse(&bytes, 0).unwrap();
}

#[test]
fn what_is_wrong_beside_it_is_told_as_well() {
    let text = written([1, 2]).replace("\"0424\"", "\"918x\"");
    let problems = parse_all(text.as_bytes(), 0).unwrap_err();
    assert!(problems.len() == 3 && problems[2].contains("its \"sum\" begins with "), "{problems:?}");
    assert!(problem(&text).contains("session 1: its `pin`"), "the place first");
}
