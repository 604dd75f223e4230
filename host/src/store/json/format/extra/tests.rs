//! What few sessions have, written and read again; and what is refused.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{LAST_TIME, parse, parse_all, render},
    *,
};
use crate::store::{
    StoredSession,
    change::Content,
    contract::{id, publishing, session},
};

fn holding(extra: Extra, clients: &[&str]) -> Content {
    let mut record = StoredSession::clone(&session("1"));
    record.clients = clients.iter().map(|name| StoredClient::Joined { client_id: (*name).into(), expires_at: 5 }).collect();
    record.extra = Some(Box::new(extra));
    Content { sessions: [(record.id, Arc::new(record))].into(), ..Content::default() }
}

fn written(content: &Content) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes, content).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn read(text: &str) -> Result<Option<Extra>, String> {
    Ok(parse(text.as_bytes(), 0)?.sessions[&id("1")].extra.as_deref().cloned())
}

fn everything() -> Extra {
    Extra {
        labels: [("room".into(), "4".into())].into(),
        locked: true,
        max_clients: Some(8),
        grants: [("phone".into(), publishing(&["news/#"]))].into(),
        timers: [
            ("round".into(), StoredTimer { due: 1_735_689_600_123, every: Some(1000) }),
            ("end".into(), StoredTimer { due: 1_735_689_600_000, every: None }),
        ]
        .into(),
        lifetime: Some(0),
        empty_timeout: Some(60_000),
        tokens_until: 7,
        kicked: Kicked { count: 3, floor: 1, clients: [("phone".into(), 3)].into() },
        rest: json!({"x": [1]}).as_object().cloned().unwrap(),
    }
}

#[test]
fn the_keys_stand_behind_the_others_and_before_the_unknown_ones() {
    let expected = r#""expires": {
            "phone": 5
        },
        "labels": {
            "room": "4"
        },
        "locked": true,
        "max_clients": 8,
        "grants": {
            "phone": {
                "publish": [
                    "news/#"
                ]
            }
        },
        "timers": {
            "end": {
                "due": "2025-01-01T00:00:00.000Z"
            },
            "round": {
                "due": "2025-01-01T00:00:00.123Z",
                "every": 1000
            }
        },
        "lifetime": 0,
        "empty_timeout": 60000,
        "tokens_until": 7,
        "kicked": {
            "count": 3,
            "floor": 1,
            "clients": {
                "phone": 3
            }
        },
        "x": [
            1
        ]
    }
}"#;
    let text = written(&holding(everything(), &["phone"]));
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(read(&text), Ok(Some(everything())));
}

#[test]
fn what_says_nothing_is_not_kept() {
    let nothing = r#""labels": {}, "locked": false, "grants": {"phone": {}, "gone": {"publish": []}}, "timers": {}, "tokens_until": 0"#;
    let text = written(&holding(Extra::default(), &["phone"]));
    assert!(!text.contains("labels"));
    assert_eq!(read(&text), Ok(None));
    let text = text.replacen("\"expires\"", &format!("{nothing}, \"expires\""), 1);
    assert_eq!(read(&text), Ok(None));
}

#[test]
fn what_would_be_a_guess_is_refused_without_its_value() {
    let good = written(&holding(everything(), &["phone"]));
    let with = |key: &str, value: &str| {
        let mut file: Value = serde_json::from_str(&good).unwrap();
        file["1"][key] = serde_json::from_str(value).unwrap();
        file.to_string()
    };
    let whole = "from 0 to 4294967295";
    let cases = [
        ("labels", r#"["hunter2"]"#, "an object of texts"),
        ("labels", "null", "an object of texts"),
        ("labels", r#"{"a": ["hunter2"]}"#, "an object of texts"),
        ("labels", r#"{"a": 4}"#, "an object of texts"),
        ("locked", r#""hunter2""#, "neither true nor false"),
        ("locked", "null", "neither true nor false"),
        ("locked", "1", "neither true nor false"),
        ("kicked", r#"["hunter2"]"#, "an object with whole numbers"),
        ("kicked", "{}", "an object with whole numbers"),
        ("kicked", r#"{"count": 1, "floor": "hunter2", "clients": {}}"#, "an object with whole numbers"),
        ("kicked", r#"{"count": 1, "floor": 0, "clients": {"a": "hunter2"}}"#, "an object with whole numbers"),
        ("kicked", r#"{"count": 1, "floor": 0, "clients": {}, "hunter2": 1}"#, "an object with whole numbers"),
        ("max_clients", r#""hunter2""#, whole),
        ("max_clients", "null", whole),
        ("max_clients", "-1", whole),
        ("max_clients", "1.0", whole),
        ("max_clients", "4294967296", whole),
        ("grants", r#"["hunter2"]"#, "an object of clients"),
        ("grants", r#"{"phone": null}"#, "an object of clients"),
        ("grants", r#"{"phone": ["hunter2"]}"#, "an object of clients"),
        ("grants", r#"{"phone": {"publish": "hunter2"}}"#, "an object of clients"),
        ("grants", r#"{"phone": {"publish": null}}"#, "an object of clients"),
        ("grants", r#"{"phone": {"subscribe": ["hunter2", 4]}}"#, "an object of clients"),
        ("grants", r#"{"phone": {"retain": "hunter2"}}"#, "an object of clients"),
        ("grants", r#"{"gone": {"retain": "hunter2"}}"#, "an object of clients"),
        ("lifetime", r#""hunter2""#, "a whole number of milliseconds"),
        ("empty_timeout", "-1", "a whole number of milliseconds"),
        ("tokens_until", "1.5", "a whole number of seconds"),
        ("timers", r#"["hunter2"]"#, "an object of timers"),
        ("timers", r#"{"t": "hunter2"}"#, "an object of timers"),
        ("timers", r#"{"t": {}}"#, "an object of timers"),
        ("timers", r#"{"t": {"every": 4}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": 1735689600000}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "hunter2"}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "1969-12-31T23:59:59Z"}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "2025-01-01T00:00:00Z", "every": 0}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "2025-01-01T00:00:00Z", "every": -4}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "2025-01-01T00:00:00Z", "every": null}}"#, "an object of timers"),
        ("timers", r#"{"t": {"due": "2025-01-01T00:00:00Z", "hunter2": 4}}"#, "an object of timers"),
    ];
    for (key, value, expected) in cases {
        let text = with(key, value);
        let message = read(&text).unwrap_err();
        assert!(message.starts_with(&format!("session 1: its `{key}` is ")) && message.contains(expected), "{message}\n{value}");
        assert!(!message.contains("hunter2") && !message.contains("0424"), "{message}");
        assert_eq!(parse_all(text.as_bytes(), 0).unwrap_err().len(), 1);
    }
    assert!(
        read(&good.replacen("\"locked\"", "\"room\": 1, \"locked\": true, \"locked\"", 1)).unwrap_err().contains("\"locked\" is twice")
    );
}

#[test]
fn a_time_beyond_the_last_is_the_last() {
    let late = |due| Extra { timers: [("t".into(), StoredTimer { due, every: Some(u64::MAX) })].into(), ..Extra::default() };
    assert_eq!(read(&written(&holding(late(u64::MAX), &[]))), Ok(Some(late(LAST_TIME))));
}

fn any_extra() -> impl Strategy<Value = Extra> {
    let topics = || prop::option::of(prop::collection::vec(any::<String>(), 0..3));
    let grants = (topics(), topics()).prop_map(|(subscribe, publish)| {
        let mut grants = Grants::default();
        (grants.subscribe, grants.publish) = (subscribe, publish);
        grants
    });
    let client = prop::sample::select(vec!["phone", "späce unit", "\u{1}\""]).prop_map(Box::<str>::from);
    let timer = (0..=LAST_TIME, prop::option::of(1..u64::MAX)).prop_map(|(due, every)| StoredTimer { due, every });
    let maps = (
        prop::collection::btree_map(any::<String>(), any::<String>(), 0..3),
        prop::collection::btree_map(client, grants.prop_filter("says something", |grants| *grants != Grants::default()), 0..3),
        prop::collection::btree_map(any::<String>().prop_map(Box::<str>::from), timer, 0..3),
        prop::collection::btree_map("[a-z]{1,2}", prop::sample::select(vec![json!(null), json!({"a": [1.5]}), json!("x")]), 0..3),
    );
    let kicked = (any::<u64>(), any::<u64>(), prop::collection::btree_map(any::<String>().prop_map(Box::<str>::from), any::<u64>(), 0..3))
        .prop_map(|(count, floor, clients)| Kicked { count, floor, clients });
    let numbers = (any::<Option<u64>>(), any::<Option<u64>>(), any::<u64>(), kicked);
    (maps, any::<bool>(), any::<Option<u32>>(), numbers).prop_map(|((labels, grants, timers, rest), locked, max_clients, numbers)| {
        let rest = rest.into_iter().filter(|(key, _)| key != "id").collect();
        let (lifetime, empty_timeout, tokens_until, kicked) = numbers;
        Extra { labels, locked, max_clients, grants, timers, lifetime, empty_timeout, tokens_until, kicked, rest }
    })
}

proptest! {
    #[test]
    fn whatever_few_sessions_have_is_read_as_it_was_written(extra in any_extra()) {
        let sessions = holding(extra.clone(), &["phone", "späce unit", "\u{1}\""]);
        let text = written(&sessions);
        let again = parse(text.as_bytes(), 0).unwrap();
        prop_assert_eq!(again.sessions[&id("1")].extra.as_deref().cloned().unwrap_or_default(), extra);
        prop_assert_eq!(written(&again), text);
    }
}
