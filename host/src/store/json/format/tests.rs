//! Loading: what the reference wrote, what we wrote, and what is refused and left alone.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;

use super::{
    super::super::{
        Change, Extra, Loaded, Store, StoredClient,
        contract::{id, join, session, wait},
        disk::RealDisk,
        model::names,
    },
    super::{Opened, Queue, open},
    *,
};

const GRANTED: u64 = 1_800_000_000;

/// As Python's `json.dump(…, indent=4)` writes it.
const REFERENCE: &str = r#"{
    "123456": {
        "id": "123456",
        "pin": "042",
        "type": "active",
        "clients": [
            "phone",
            "sp\u00e4ce unit",
            "\ud83d\ude00"
        ]
    },
    "000001": {
        "id": "000001",
        "pin": "999",
        "type": "default",
        "clients": []
    }
}"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn holding(content: impl AsRef<[u8]>) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(place.file(), content).unwrap();
        place
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("session_data.json")
    }

    fn open(&self) -> Opened<Queue> {
        open(&self.file(), GRANTED, Duration::from_secs(3600), RealDisk)
    }

    /// Applies one change and gives the file's new content.
    fn after(&self, change: Change) -> String {
        let (store, _) = self.open().unwrap();
        wait(store.apply(change)).unwrap();
        wait(store.shutdown());
        fs::read_to_string(self.file()).unwrap()
    }
}

#[test]
fn a_file_of_the_reference_loads_and_its_clients_count_as_granted() {
    let place = Place::holding(REFERENCE);
    let (_store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    let [first, second] = &loaded[..] else { panic!("{loaded:?}") };
    assert_eq!((first.id, second.id), (id("000001"), id("123456")));
    assert!(second.pin.matches(Pin::parse("042").unwrap()));
    assert_eq!((&*second.type_name, second.created_at, second.revision), ("active", 0, 0));
    assert_eq!(names(second), ["phone", "späce unit", "😀"].map(|name| (name.to_owned(), GRANTED)));
    assert_eq!((&*first.type_name, first.clients.len()), ("default", 0));
    assert_eq!(fs::read_to_string(place.file()).unwrap(), REFERENCE, "loading writes nothing");
}

#[test]
fn open_grants_from_now_on_for_the_given_time() {
    let place = Place::holding(REFERENCE);
    let url = format!("json:{}", place.file().file_name().unwrap().display());
    let (_store, Loaded { sessions: loaded, .. }) =
        super::super::super::open(&url, place.folder.path(), Duration::from_secs(100), 1_700_000_000).unwrap();
    assert_eq!(names(&loaded[1])[0].1, 1_700_000_100);
}

#[test]
fn the_file_is_the_references_format_with_our_keys_behind() {
    let place = Place::holding("{}");
    place.after(Change::Create(session("007")));
    let written = place.after(join("007", "späce unit", 1_800_000_001));
    let expected = r#"{
    "007": {
        "id": "007",
        "pin": "0424",
        "type": "default",
        "clients": [
            "späce unit"
        ],
        "created_at": "2025-01-01T00:00:00.123Z",
        "expires": {
            "späce unit": 1800000001
        }
    },
    "sum": "9174a65e989517676e26ae2ed59638fdf0c2fb8243fc299c5e6734caa687ad0e"
}"#;
    assert_eq!(written, expected);
    let (_store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    assert_eq!((loaded[0].created_at, names(&loaded[0])), (1_735_689_600_123, vec![("späce unit".into(), 1_800_000_001)]));
}

#[test]
fn the_end_of_time_can_be_written_and_read() {
    let mut late = StoredSession::clone(&session("1"));
    (late.created_at, late.clients) = (u64::MAX, vec![StoredClient::Joined { client_id: "a".into(), expires_at: u64::MAX }]);
    let place = Place::holding("{}");
    place.after(Change::Create(late.into()));
    let (_store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    assert_eq!((loaded[0].created_at, names(&loaded[0])), (LAST_TIME, vec![("a".into(), u64::MAX)]));
}

#[test]
fn values_that_are_no_strings_stay_in_their_place_and_a_second_name_goes() {
    let clients = json!([null, "a", 5, "a", {"x": [1.5, true]}, "b", null, -1, []]);
    let place = Place::holding(json!({"1": {"id": "1", "pin": "2", "type": "t", "clients": clients}}).to_string());
    let (store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    let joined: Vec<_> = loaded[0].clients.iter().filter_map(StoredClient::client_id).collect();
    assert_eq!(joined, ["a", "b"]);
    wait(store.shutdown());
    let (store, _) = place.open().unwrap();
    wait(store.apply(join("1", "c", 7))).unwrap();
    let written: Value = serde_json::from_slice(&fs::read(place.file()).unwrap()).unwrap();
    assert_eq!(written["1"]["clients"], json!([null, "a", 5, {"x": [1.5, true]}, "b", null, -1, [], "c"]));
    assert_eq!(written["1"]["expires"], json!({"a": GRANTED, "b": GRANTED, "c": 7}));
}

#[test]
fn unknown_keys_are_written_back_in_their_order() {
    let content = r#"{"1": {"id": "1", "zeta": {"b": 1, "a": [null]}, "pin": "2", "alpha": "x", "type": "t", "clients": [], "beta": 3}}"#;
    let written = Place::holding(content).after(join("1", "c", 7));
    let fields: Map<String, Value> = serde_json::from_str::<Map<String, Value>>(&written).unwrap()["1"].as_object().unwrap().clone();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["id", "pin", "type", "clients", "expires", "zeta", "alpha", "beta"]);
    assert_eq!(serde_json::to_string(&fields["zeta"]).unwrap(), r#"{"b":1,"a":[null]}"#);
    assert_eq!(fields["alpha"], "x");
}

#[test]
fn a_known_key_among_the_unknown_ones_is_not_written_twice() {
    let mut odd = StoredSession::clone(&session("1"));
    odd.extra = json!({"pin": "1", "x": 2}).as_object().cloned().map(|rest| Box::new(Extra { rest, ..Extra::default() }));
    let place = Place::holding("{}");
    place.after(Change::Create(odd.into()));
    let (_store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    assert!(loaded[0].pin.matches(session("1").pin));
    assert_eq!(loaded[0].extra.as_ref().map(|extra| &extra.rest), json!({"x": 2}).as_object());
}

#[test]
fn ids_that_rest_are_behind_the_sessions() {
    let place = Place::holding("{}");
    place.after(Change::Create(session("007")));
    place.after(join("007", "a", 1_800_000_001));
    place.after(Change::Create(session("8")));
    let with_one = place.after(Change::Close(id("007")));
    assert!(with_one.contains("    },\n    \"resting\": {\n        \"007\": 1800000001\n    },\n    \"sum\": "), "{with_one}");
    place.after(join("8", "a", 1_700_000_000));
    place.after(Change::Close(id("8")));
    let (_store, loaded) = place.open().unwrap();
    assert_eq!((loaded.sessions.len(), loaded.resting), (0, vec![(id("8"), 1_700_000_000), (id("007"), 1_800_000_001)]));
    // In the way of nobody, wherever it stands and whatever is edited.
    let good = r#""77": {"id": "77", "pin": "918273", "type": "t"}"#;
    let place = Place::holding(format!("{{\"resting\": {{\"77\": 5, \"78\": 6}}, {good}}}"));
    let (_store, loaded) = place.open().unwrap();
    assert_eq!((loaded.sessions.len(), loaded.resting), (1, vec![(id("78"), 6)]));
    for (wrong, problem) in
        [("[918273]", "not an object of session ids"), ("{\"7x\": 6}", "session ids"), ("{\"78\": \"918273\"}", "seconds")]
    {
        let text = format!("{{{good}, \"resting\": {wrong}}}");
        let message = parse(text.as_bytes(), 0).unwrap_err();
        assert!(message.contains(problem) && !message.contains("918273"), "{message}");
        assert_eq!(parse_all(text.as_bytes(), 0).unwrap_err().len(), 1);
    }
    let twice = parse(format!("{{\"resting\": {{}}, {good}, \"resting\": {{}}}}").as_bytes(), 0).unwrap_err();
    assert!(twice.contains("\"resting\" is there twice"), "{twice}");
}

#[test]
fn sessions_of_a_type_share_its_name() {
    let one = |id: &str, name: &str| format!(r#""{id}": {{"id": "{id}", "pin": "1", "type": "{name}", "clients": []}}"#);
    let place = Place::holding(format!("{{{}, {}, {}}}", one("1", "käse/ +"), one("2", "käse/ +"), one("3", "b")));
    let (_store, Loaded { sessions: loaded, .. }) = place.open().unwrap();
    assert_eq!(&*loaded[0].type_name, "käse/ +", "taken as it is");
    assert!(Arc::ptr_eq(&loaded[0].type_name, &loaded[1].type_name));
    assert_eq!(&*loaded[2].type_name, "b");
}

/// A session that would load, with `from` replaced by `to`.
fn broken(from: &str, to: &str) -> String {
    let good = r#"{
    "77": {"id": "77", "pin": "918273", "type": "t", "clients": ["a"], "created_at": "2025-01-01T00:00:00Z", "expires": {"a": 5}, "x": {"y": 1}}
}"#;
    assert!(parse(good.as_bytes(), 0).is_ok() && good.contains(from), "{from}");
    good.replacen(from, to, 1)
}

#[test]
fn what_would_be_a_guess_stops_the_start_and_is_left_alone() {
    let pin = r#""pin": "918273""#;
    let cases: Vec<(Vec<u8>, &str)> = [
        (String::new(), "it is empty"),
        (" \n\t".into(), "it is empty"),
        ("[918273]".into(), "expected a JSON object"),
        ("\"918273\"".into(), "expected a JSON object"),
        ("918273".into(), "expected a JSON object"),
        ("null".into(), "expected a JSON object"),
        ("{".into(), "at line 1 column 1"),
        (REFERENCE[..REFERENCE.len() - 40].into(), "EOF while parsing a value at line 15"),
        (broken(", \"type\"", " \"type\""), "line 2 column"),
        (broken("\n}", "\n},"), "something follows the JSON object"),
        (broken("\n}", "\n}{}"), "line 3"),
        (broken("\"77\":", "\"78\":"), "session 78: its `id` is not the key"),
        (broken("\"77\":", "\"077\":"), "session 077: its `id` is not the key"),
        (broken("\"77\":", "\"7x\":"), "\"7x\" is not a session id"),
        (broken("\"77\":", "\"\":"), "\"\" is not a session id"),
        (broken("\"77\":", "\"1234567890123\":"), "is not a session id"),
        (broken("\"id\": \"77\"", "\"id\": 77"), "session 77: its `id` is missing or not a string"),
        (broken("\"id\": \"77\", ", ""), "session 77: its `id` is missing"),
        (broken(pin, "\"pin\": 918273"), "session 77: its `pin` is not"),
        (broken(pin, "\"pin\": null"), "session 77: its `pin` is not"),
        (broken(pin, "\"pin\": \"918273x\""), "session 77: its `pin` is not"),
        (broken(pin, "\"pin\": \"\""), "session 77: its `pin` is not"),
        (broken(pin, "\"pin\": \"9182739182739\""), "session 77: its `pin` is not"),
        (broken("\"pin\": \"918273\", ", ""), "session 77: its `pin` is not"),
        (broken("\"type\": \"t\", ", ""), "session 77: its `type` is missing"),
        (broken("\"t\"", "\"\""), "session 77: its `type` is missing, empty"),
        (broken("\"t\"", "918273"), "session 77: its `type` is"),
        (broken("[\"a\"]", "\"918273\""), "session 77: its `clients` is not a list"),
        (broken("[\"a\"]", "null"), "session 77: its `clients` is not a list"),
        (broken("{\"a\": 5}", "[918273]"), "session 77: its `expires` is not an object"),
        (broken("{\"a\": 5}", "{\"a\": \"918273\"}"), "session 77: a value in its `expires`"),
        (broken("{\"a\": 5}", "{\"a\": -5}"), "session 77: a value in its `expires`"),
        (broken("\"2025-01-01T00:00:00Z\"", "918273"), "session 77: its `created_at` is not a time"),
        (broken("\"2025-01-01T00:00:00Z\"", "\"1969-01-01T00:00:00Z\""), "session 77: its `created_at` is not a time"),
        (broken(pin, &format!("{pin}, {pin}")), "the key \"pin\" is twice in one object at line 2"),
        (broken("\"y\": 1", "\"y\": 1, \"y\": 2"), "the key \"y\" is twice in one object"),
        (broken("\"a\": 5", "\"a\": 5, \"a\": 5"), "the key \"a\" is twice in one object"),
        (r#"{"77": "918273"}"#.into(), "session 77: expected a JSON object"),
        (r#"{"77": 918273}"#.into(), "session 77: expected a JSON object"),
        (REFERENCE.replace("000001", "123456"), "session 123456: it is there twice"),
        (broken("\"y\": 1", "\"y\": 1e999"), "number out of range"),
        (broken("\"y\": 1", &format!("\"y\": {}", "[".repeat(5000))), "recursion limit"),
    ]
    .map(|(content, expected)| (content.into_bytes(), expected))
    .into_iter()
    .chain([(b"{\"7\xff\": {}}".to_vec(), "invalid unicode"), (b"\xef\xbb\xbf{}".to_vec(), "it begins with a byte order mark")])
    .collect();
    for (content, expected) in cases {
        let place = Place::holding(&content);
        let shown = String::from_utf8_lossy(&content);
        let message = place.open().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\n{shown}");
        assert!(message.contains("session_data.json") && message.contains("left as it is"), "{message}");
        assert!(!message.contains("918273"), "{message}");
        assert_eq!(fs::read(place.file()).unwrap(), content);
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| open(&path, 0, Duration::ZERO, RealDisk).unwrap_err().to_string();
    let message = open(folder.path().into());
    assert!(message.contains("not a regular file"), "{message}");
    assert!(open(folder.path().join("..")).contains("not the name of a file"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(open(folder.path().join("file/sessions.json")).contains("cannot be opened"));
}
