//! Sessions without a conductor: parked with a reason, closable, joinable, and back once their plugin is. On every store that lasts.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use conductor_tests::{
    Host, HostOptions, Response, STORES, Session, Version, Way, host, http,
    mqtt::{device, topic},
    until,
    versions::build,
};
use serde_json::{Value, json};

/// A host with a plugin file of its own; what is in `down` and `hangs` keeps its conductors from being made.
struct Place {
    host: Host,
    plugin: PathBuf,
    down: PathBuf,
    hangs: PathBuf,
}

impl Place {
    fn start(store: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [plugin, down, hangs] = ["plugin.so", "down", "hangs"].map(|name| folder.path().join(name));
        fs::write(&plugin, build("one")).unwrap();
        let mut options = HostOptions::default().set("store.url", json!(store));
        for (kind, conductor) in [("t", "lasting"), ("lazy", "lasting_lazy"), ("door", "doorkeeper")] {
            options = options
                .set(&format!("types.{kind}.plugin"), json!(plugin))
                .set(&format!("types.{kind}.conductor"), json!(conductor))
                .set(&format!("types.{kind}.required"), json!(false))
                .set(&format!("types.{kind}.deadline"), json!("1s"))
                .set(&format!("types.{kind}.config.down"), json!(down))
                .set(&format!("types.{kind}.config.hangs"), json!(hangs));
        }
        Self { host: Host::start_in(folder, options), plugin, down, hangs }
    }

    fn ask(&self, session: &Session, method: &str, params: Value) -> Value {
        let answer = self.host.request(session, method, params);
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        answer.json()["result"].clone()
    }

    fn shown(&self, session: &Session) -> Value {
        self.host.show(session).json()
    }

    fn is_live(&self, session: &Session) {
        until("a conductor", || (self.shown(session)["state"] == "live").then_some(()));
        assert_eq!(self.shown(session)["parked"], Value::Null);
    }

    /// Parked, for want of what; the reason.
    fn is_parked(&self, session: &Session, lacks: &str, words: &str) {
        let shown = until("it is parked", || Some(self.shown(session)).filter(|shown| shown["state"] == "unavailable"));
        assert_eq!(shown["parked"]["lacks"], lacks, "{shown}");
        assert!(shown["reason"].as_str().unwrap().contains(words), "{shown}");
        assert!(shown["parked"]["since"].as_str().unwrap().ends_with('Z'), "{shown}");
        let tries = shown["parked"]["tries"].as_u64().unwrap();
        assert!((tries == 0) == (lacks == "plugin"), "{shown}");
        let answer = self.host.request(session, "told", Value::Null);
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")), "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(words), "{answer:?}");
    }

    fn join(&self, session: &Session, client: &str, pin: &str) -> Response {
        let body = json!({ "pin": pin, "client": client }).to_string();
        http::post(self.host.iot, &format!("/v1/sessions/{}/join", session.id), &body)
    }

    /// A number of `/v1/metrics`, by name and labels.
    fn metric(&self, sample: &str) -> u64 {
        let start = format!("conductor_host_{sample} ");
        let text = self.host.admin("/v1/metrics").body;
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {start} in\n{text}")).parse().unwrap()
    }

    fn reload(&self) -> Value {
        let answer = http::post(self.host.admin, "/v1/plugins/reload", "{}");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn settings(&self) -> PathBuf {
        self.host.folder().join("host.toml")
    }

    fn restart(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.host.kill();
        meanwhile(self);
        self.host.start_again();
    }
}

/// How late, of the one timer that was told.
fn late(told: &Value) -> u64 {
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0][0], "soon");
    told[0][1].as_u64().unwrap()
}

fn write_without_section(settings: &Path, section: &str) -> String {
    let before = fs::read_to_string(settings).unwrap();
    let mut without = String::new();
    let mut inside = false;
    for line in before.lines() {
        if line.starts_with('[') {
            inside = line.starts_with(&format!("[{section}")) && matches!(line.as_bytes()[section.len() + 1], b']' | b'.');
        }
        if !inside {
            without += &format!("{line}\n");
        }
    }
    fs::write(settings, without).unwrap();
    before
}

#[test]
fn a_session_whose_plugin_is_missing_waits_for_it() {
    for store in STORES {
        let mut place = Place::start(store);
        let [eager, lazy, closed, gone] = ["t", "lazy", "t", "door"].map(|kind| place.host.create(kind));
        for session in [&eager, &lazy] {
            place.ask(session, "save", json!([3, 42]));
            place.ask(session, "once", json!(["soon", 300]));
        }
        let set = Instant::now();
        let token = place.host.join(&eager, "before");
        // The file is away, and one type is not in the settings.
        let mut settings = String::new();
        place.host.kill();
        fs::remove_file(&place.plugin).unwrap();
        let mut options = HostOptions::default().as_written();
        settings.push_str(&write_without_section(&place.settings(), "types.door"));
        options = options.set("store.url", json!(store));
        place.host.start_again_with(options);
        for session in [&eager, &lazy, &closed] {
            place.is_parked(session, "plugin", "there is no such file");
        }
        place.is_parked(&gone, "plugin", "is not in the settings");
        let listed = place.host.admin("/v1/sessions").json();
        assert_eq!(listed["items"].as_array().unwrap().iter().filter(|item| item["parked"]["lacks"] == "plugin").count(), 4, "{listed}");
        assert_eq!(place.metric("parked_sessions{type=\"t\",lacks=\"plugin\"}"), 2);
        assert_eq!(place.metric("parked_sessions{type=\"door\",lacks=\"plugin\"}"), 1);
        let log = place.host.log();
        let line = log.lines().find(|line| line.contains("sessions are parked") && line.contains("\"t\"")).unwrap();
        assert!(line.contains("\"sessions\":2") && line.contains("there is no such file"), "{line}");
        // Who is in it talks; who knows the pin comes in.
        let mut old = conductor_tests::Mqtt::connect(
            &place.host,
            Version::V5,
            Way::Tcp,
            &conductor_tests::Credentials::new("before", &eager.id, &token),
        )
        .unwrap();
        assert!(old.subscribe(&topic(&eager, "#"), 1));
        let mut new = device(&place.host, &eager, "new", Version::V5, Way::Tcp);
        assert!(new.publish(&topic(&eager, "m"), "hello", 1, false));
        assert_eq!(old.heard().1, "hello");
        until("a message that was dropped is counted", || (place.metric("messages_dropped_total") == 1).then_some(()));
        assert_eq!(place.join(&gone, "a", &gone.pin).status, 200, "nobody knows what its plugin would have said");
        assert_eq!(place.join(&gone, "a", "000000000").status, 403);
        assert_eq!(place.host.close(&closed), "Success");
        assert_eq!(place.host.show(&closed).status, 404);
        // Back, while the timers are overdue: the file first, and then the type.
        until("the timers are due", || (set.elapsed().as_millis() > 500).then_some(()));
        fs::write(&place.plugin, build("one")).unwrap();
        place.host.signal_to_reload();
        for session in [&eager, &lazy] {
            // The timer brings the lazy one to its conductor.
            place.is_live(session);
            let told = until("the timer", || Some(place.ask(session, "told", Value::Null)).filter(|told| told != &json!([])));
            assert!((200..20_000).contains(&late(&told)), "{told}");
            assert_eq!(place.ask(session, "restored", Value::Null), json!([3, 42]));
        }
        assert_eq!(place.host.clients(&eager), ["before", "new"]);
        place.is_parked(&gone, "plugin", "is not in the settings");
        fs::write(place.settings(), settings).unwrap();
        let report = place.reload();
        let door = report["types"].as_array().unwrap().iter().find(|kind| kind["type"] == "door").unwrap();
        assert_eq!(door["sessions"]["tried_again"], 1, "{report}");
        place.is_live(&gone);
        assert_eq!(place.metric("parked_sessions{type=\"door\",lacks=\"plugin\"}"), 0);
        assert_eq!(place.join(&gone, "bad", &gone.pin).json()["code"], "join_refused");
    }
}

#[test]
fn a_restore_that_fails_is_tried_again_until_it_does_not() {
    for store in STORES {
        let mut place = Place::start(store);
        let [eager, lazy, door] = ["t", "lazy", "door"].map(|kind| place.host.create(kind));
        for session in [&eager, &lazy] {
            place.ask(session, "save", json!([1, 7]));
            place.ask(session, "once", json!(["soon", 1]));
        }
        place.ask(&eager, "save", json!([2, 8]));
        place.restart(|place| {
            fs::write(&place.down, "").unwrap();
            fs::write(&place.hangs, "").unwrap();
        });
        for session in [&eager, &door] {
            place.is_parked(session, "conductor", "what it needs is down");
        }
        // An event has to come first: here it is one that was told before.
        assert_eq!(place.host.request(&lazy, "restored", Value::Null).status, 503);
        place.is_parked(&lazy, "conductor", "what it needs is down");
        assert!(place.metric("errors_total{type=\"t\"}") >= 1);
        assert_eq!(place.metric("parked_sessions{type=\"t\",lacks=\"conductor\"}"), 1);
        // Its type has no say in joins; that of the other has, and cannot be asked.
        let mut device = device(&place.host, &eager, "a", Version::V5, Way::Tcp);
        assert!(device.publish(&topic(&eager, "m"), "", 1, false));
        until("a message that was dropped is counted", || (place.metric("messages_dropped_total") >= 1).then_some(()));
        let answer = place.join(&door, "a", &door.pin);
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")));
        // Made, but not in time.
        fs::remove_file(&place.down).unwrap();
        until("it hangs", || place.shown(&eager)["reason"].as_str()?.contains("within its deadline").then_some(()));
        assert!(place.shown(&eager)["parked"]["tries"].as_u64().unwrap() >= 2);
        fs::remove_file(&place.hangs).unwrap();
        for (session, state) in [(&eager, json!([2, 8])), (&lazy, json!([1, 7]))] {
            place.is_live(session);
            assert_eq!(place.ask(session, "restored", Value::Null), state);
        }
        place.is_live(&door);
        assert_eq!(place.join(&door, "bad", &door.pin).json()["code"], "join_refused");
        assert!(place.host.log().contains("the session is not parked any more"));
    }
}

#[test]
fn a_newer_plugin_restores_what_an_older_one_could_not() {
    for store in STORES {
        let mut place = Place::start(store);
        let session = place.host.create("t");
        place.ask(&session, "save", json!([5, 77]));
        // A restart by itself mends nothing, and loses nothing.
        for (version, words) in [("broken", "this version restores nothing"), ("panicking", "this version panics")] {
            place.restart(|place| fs::write(&place.plugin, build(version)).unwrap());
            place.is_parked(&session, "conductor", words);
        }
        assert!(place.metric("faults_total{type=\"t\"}") >= 1);
        fs::write(&place.plugin, build("two")).unwrap();
        let report = place.reload();
        let tried = report["types"].as_array().unwrap().iter().find(|kind| kind["type"] == "t").unwrap();
        assert_eq!(tried["sessions"]["tried_again"], 1, "{report}");
        place.is_live(&session);
        assert_eq!(place.ask(&session, "restored", Value::Null), json!([5, 77]));
    }
}

#[test]
fn one_that_ends_while_it_is_parked_takes_along_what_it_saved_and_its_conductor_is_not_told() {
    for store in STORES {
        let mut place = Place::start(store);
        let [closed, expired, kept] = ["t"; 3].map(|kind| place.host.create(kind));
        for session in [&closed, &expired, &kept] {
            place.ask(session, "save", json!([1, 7]));
        }
        place.restart(|place| fs::write(&place.down, "").unwrap());
        for session in [&closed, &expired, &kept] {
            place.is_parked(session, "conductor", "what it needs is down");
        }
        assert_eq!(place.host.close(&closed), "Success");
        let target = format!("/v1/sessions/{}", expired.id);
        assert_eq!(conductor_tests::request(place.host.admin, "PATCH", &target, &[], r#"{"lifetime": "1s"}"#).status, 200);
        until("the end of the other", || place.host.log().contains(r#""reason":"expired""#).then_some(()));
        place.restart(|place| fs::remove_file(&place.down).unwrap());
        place.is_live(&kept);
        assert_eq!(place.ask(&kept, "restored", Value::Null), json!([1, 7]), "{store}");
        let has_state = |session: &Session| {
            let shown = host::run(place.host.folder(), &["session", "state", &session.id, "--raw", "--config", "host.toml"]);
            (shown.code, shown.stdout)
        };
        assert_eq!(has_state(&kept), (Some(0), "7".to_owned()), "{store}");
        for session in [&closed, &expired] {
            assert_eq!((place.host.show(session).status, has_state(session)), (404, (Some(1), String::new())), "{store}");
        }
        // The hook is there: only one that has a conductor is told.
        let told =
            |reason: &str| place.host.log().lines().filter(|line| line.contains(&format!("one that lasts closes: {reason}"))).count();
        assert_eq!((told("Requested"), told("Expired")), (0, 0), "{store}");
        assert_eq!(place.host.close(&kept), "Success");
        assert_eq!(told("Requested"), 1, "{store}");
    }
}

#[test]
fn conductors_that_block_their_threads_are_all_made_after_a_restart() {
    STORES.iter().for_each(|store| all_are_made_though_they_block(store));
}

fn all_are_made_though_they_block(store: &str) {
    // More than are made at a time, of a type that turns out to be slow while they are.
    const MANY: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let blocks = folder.path().join("blocks");
    fs::write(&blocks, "").unwrap();
    let session = |number: usize| {
        let id = format!("{:06}", number * 7);
        (id.clone(), json!({ "id": id, "pin": "123", "type": "slow", "clients": [] }))
    };
    let stored: serde_json::Map<String, Value> = (0..MANY).map(session).collect();
    fs::create_dir(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("state/sessions.json"), Value::Object(stored).to_string()).unwrap();
    if store.starts_with("sqlite:") {
        let url = format!("store.url={store}");
        let imported = host::run(folder.path(), &["store", "import", "--from", "json:state/sessions.json", "--set", &url]);
        assert_eq!(imported.code, Some(0), "{imported:?}");
    }
    let options = HostOptions::default()
        .set("store.url", json!(store))
        .plugin("slow", "conductor_test_versions")
        .set("types.slow.conductor", json!("lasting"))
        .set("types.slow.config.blocks", json!(blocks));
    let host = Host::start_in(folder, options);
    until("the type is slow", || host.log().contains("the whole type runs apart").then_some(()));
    fs::remove_file(&blocks).unwrap();
    let sample = format!("conductor_host_sessions{{type=\"slow\",state=\"live\"}} {MANY}\n");
    until("all of them", || host.admin("/v1/metrics").body.contains(&sample).then_some(()));
    until("the log says so", || host.log().contains("\"made\":400,\"parked\":0").then_some(()));
}
