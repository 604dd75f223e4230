//! New code for running sessions: plugins are loaded again without a restart, and sessions move to them where they are told to.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use conductor_tests::{
    Host, HostOptions, Response, Session, Version, Way,
    dev::DevHost,
    http,
    mqtt::{device, topic},
    until,
    versions::build,
};
use serde_json::{Value, json};

/// A host with a plugin file of its own.
struct Place {
    host: Host,
    /// Written over in place, as a careless copy does.
    plugin: PathBuf,
}

impl Place {
    fn start(version: &str) -> Self {
        Self::start_with(version, |options, _| options)
    }

    fn start_with(version: &str, more: impl FnOnce(HostOptions, &Path) -> HostOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("plugin.so");
        fs::write(&plugin, build(version)).unwrap();
        let options = HostOptions::default().set("types.t.plugin", json!(plugin)).set("types.t.conductor", json!("counter"));
        let options = more(options, &plugin);
        Self { host: Host::start_in(folder, options), plugin }
    }

    fn overwrite(&self, bytes: impl AsRef<[u8]>) {
        fs::write(&self.plugin, bytes).unwrap();
    }

    fn reload(&self, which: &str) -> Value {
        let answer = http::post(self.host.admin, "/v1/plugins/reload", &json!({ "move": which }).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn move_one(&self, session: &Session) -> Response {
        http::post(self.host.admin, &format!("/v1/sessions/{}/move", session.id), "")
    }

    /// The plugins in use: version by version how many sessions run it, and for which types it is current.
    fn plugins(&self) -> Vec<Value> {
        self.host.admin("/v1/plugins").json()["items"].as_array().unwrap().clone()
    }

    fn plugin_of(&self, session: &Session) -> Value {
        self.host.show(session).json()["plugin"].clone()
    }

    fn version(&self, session: &Session) -> Value {
        self.host.ask(session, "version", "")
    }

    /// A session that has counted so far.
    fn counted(&self, count: u32) -> Session {
        let session = self.host.create("t");
        for expected in 1..=count {
            assert_eq!(self.host.ask(&session, "count", ""), expected);
        }
        session
    }

    fn settings(&self, change: impl FnOnce(String) -> String) {
        let file = self.host.folder().join("host.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(text)).unwrap();
    }
}

/// What a reload says about a type.
fn of<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["types"].as_array().unwrap().iter().find(|kind| kind["type"] == name).unwrap_or_else(|| panic!("{report}"))
}

/// Moved, stayed, failed, tried again.
fn tally(report: &Value, name: &str) -> [u64; 4] {
    ["moved", "stayed", "failed", "tried_again"].map(|key| of(report, name)["sessions"][key].as_u64().unwrap())
}

fn in_use(plugins: &[Value]) -> Vec<(u64, bool)> {
    let mut found: Vec<_> = plugins
        .iter()
        .filter(|plugin| plugin["file"].as_str().unwrap().ends_with("plugin.so"))
        .inspect(|plugin| assert_eq!(plugin["sessions"], plugin["session_ids"].as_array().unwrap().len()))
        .map(|plugin| (plugin["sessions"].as_u64().unwrap(), plugin["old"].as_bool().unwrap()))
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn new_sessions_take_new_code_and_old_ones_keep_theirs() {
    let place = Place::start("one");
    let old = place.counted(2);
    let first = place.plugin_of(&old);
    assert_eq!(first.as_str().unwrap().len(), 64);
    assert_eq!(of(&place.reload("none"), "t")["outcome"], "unchanged");

    // Overwriting the file harms nobody, whatever it is overwritten with, and by itself changes nothing.
    place.overwrite(b"garbage");
    assert_eq!(place.host.ask(&old, "count", ""), 3);
    let report = place.reload("all");
    assert_eq!((&of(&report, "t")["outcome"], &of(&report, "t")["keeps"]), (&json!("refused"), &first));
    assert!(of(&report, "t")["reason"].as_str().unwrap().contains("plugin.so: "), "{report}");
    let after_refusal = place.host.create("t");
    assert_eq!((place.version(&old), place.version(&after_refusal)), (json!("one"), json!("one")));

    place.overwrite(build("two"));
    assert_eq!(place.version(&place.host.create("t")), "one", "nobody has said reload");
    let report = place.reload("none");
    assert_eq!((&of(&report, "t")["outcome"], &of(&report, "t")["old"]), (&json!("loaded"), &first));
    assert_eq!(tally(&report, "t"), [0, 3, 0, 0]);
    assert_eq!(of(&report, "default")["outcome"], "unchanged");
    let new = place.host.create("t");
    assert_eq!((place.version(&old), place.version(&new)), (json!("one"), json!("two")));
    assert_eq!(place.plugin_of(&new), of(&report, "t")["new"]);
    assert_eq!(place.host.ask(&old, "count", ""), 4);
    assert_eq!(in_use(&place.plugins()), [(1, false), (3, true)]);
    let described = place.plugins().into_iter().find(|plugin| plugin["sha256"] == place.plugin_of(&new)).unwrap();
    assert_eq!(
        (&described["types"], &described["conductors"]),
        (&json!(["t"]), &json!(["counter", "deaf", "lazy", "lasting", "lasting_lazy", "doorkeeper"]))
    );

    // By signal, with the settings read anew: a type more, a type less, and what counts at the next start only.
    place.overwrite(build("three"));
    place.settings(|text| text.replace("[types.default]", "[types.fresh]").replace("id_digits", "#") + "[sessions]\nid_digits = 7\n");
    let default = place.host.create("default");
    place.host.signal_to_reload();
    until("the reload", || place.host.log().contains("SIGHUP: the plugins were looked at").then_some(()));
    assert_eq!(place.version(&place.host.create("t")), "three");
    assert_eq!(place.version(&new), "two");
    assert_eq!(place.host.ask(&place.host.create("fresh"), "state", ""), "State");
    assert_eq!(place.host.ask(&default, "state", ""), "State", "its type is gone, and it goes on");
    assert_eq!(place.host.admin("/api/createSession?type=default").status, 400);
    assert_eq!(place.reload("none")["needs_restart"], json!(["sessions.id_digits"]));

    // Wrong settings change nothing, and all that is wrong is told.
    place.overwrite(build("four"));
    place.settings(|text| text + "[iot]\nlitsen = 1\n[mqtt]\nbroker = 7\n");
    let refused = http::post(place.host.admin, "/v1/plugins/reload", "");
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid_settings")));
    assert!(!refused.json()["mistakes"].as_array().unwrap().is_empty());
    assert_eq!(place.version(&place.host.create("t")), "three");
    assert_eq!(http::post(place.host.admin, "/v1/plugins/reload", "{\"mvoe\": \"all\"}").status, 400);
}

#[test]
fn sessions_move_with_what_they_saved_and_whoever_is_connected() {
    let place = Place::start("one");
    let (saved, unsaved) = (place.counted(3), place.counted(0));
    assert_eq!(place.host.ask(&saved, "save", ""), Value::Null);
    assert_eq!(place.host.ask(&saved, "count", ""), 4);
    let mut ann = device(&place.host, &saved, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&saved, "#"), 1));
    assert_eq!(place.host.ask(&saved, "spawn", ""), Value::Null);
    assert_eq!(ann.heard(), (topic(&saved, "beat"), "one".to_owned()));
    assert_eq!(place.host.ask(&saved, "lend", ""), Value::Null);
    assert_eq!(place.host.ask(&unsaved, "use_lent", ""), Value::Null);

    let two = build("two");
    assert_eq!(place.host.request(&saved, "tick_in", json!(3000)).status, 200);
    place.overwrite(two);
    assert_eq!(tally(&place.reload("saved"), "t"), [1, 1, 0, 0]);
    assert_eq!((place.version(&saved), place.version(&unsaved)), (json!("two"), json!("one")));
    until("the end of its tasks", || place.host.log().contains("the task is gone").then_some(()));
    // Whoever has kept the old one's handle can do nothing with it.
    let answer = place.host.request(&unsaved, "use_lent", Value::Null);
    assert_eq!(answer.json()["conductor"]["code"], -32002, "{answer:?}");
    // It was told to close, and saved what it had then.
    assert_eq!(place.host.ask(&saved, "count", ""), 5);
    until("the last word of the old one", || (ann.heard() == (topic(&saved, "moved"), "one".to_owned())).then_some(()));
    // The same connection, and the timer goes on.
    assert!(ann.publish(&topic(&saved, "x"), "hello", 1, false));
    until("the new one", || (ann.heard() == (topic(&saved, "heard"), "two hello".to_owned())).then_some(()));
    until("the timer", || (place.host.ask(&saved, "ticks", "") == 1).then_some(()));
    assert_eq!(place.host.clients(&saved), ["ann"]);

    assert_eq!(tally(&place.reload("all"), "t"), [1, 0, 0, 0]);
    assert_eq!(place.version(&unsaved), "two");
    assert_eq!(in_use(&place.plugins()), [(2, false)], "nobody runs the old code");

    // One at a time; and once it is there, there is nothing to do.
    place.overwrite(build("three"));
    place.reload("none");
    let moved = place.move_one(&saved);
    assert_eq!((moved.status, &moved.json()["moved"]), (200, &json!(true)));
    assert_eq!(moved.json()["new"], place.plugin_of(&saved));
    assert_eq!((place.version(&saved), place.version(&unsaved)), (json!("three"), json!("two")));
    assert_eq!(place.move_one(&saved).json()["moved"], false);
    assert_eq!(place.move_one(&Session { id: "000000".into(), pin: String::new() }).status, 404);
    // It moves behind what it was asked before, and one reload runs at a time.
    let try_reload = |which: &str| http::post(place.host.admin, "/v1/plugins/reload", &json!({ "move": which }).to_string());
    let (asked, moved, refused) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| place.host.request(&unsaved, "stay", json!(1000)));
        until("the request", || place.host.log().contains("\"staying\"").then_some(()));
        let moving = scope.spawn(|| until("its turn", || Some(try_reload("all")).filter(|answer| answer.status == 200)));
        let refused = until("a second one", || Some(try_reload("none")).filter(|answer| answer.status != 200));
        (asking.join().unwrap(), moving.join().unwrap(), refused)
    });
    assert_eq!((asked.status, tally(&moved.json(), "t")), (200, [1, 0, 0, 0]));
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("reload_running")));
    assert_eq!(place.version(&unsaved), "three");
    // A restart takes the newest code, too.
    let mut place = place;
    place.host.stop();
    place.host.start_again();
    assert_eq!((place.version(&saved), place.host.ask(&saved, "count", "")), (json!("three"), json!(6)));
}

#[test]
fn where_new_code_makes_no_conductor_the_old_one_goes_on() {
    let place = Place::start_with("one", |options, _| options.set("types.t.deadline", json!("1s")));
    let session = place.counted(2);
    for (version, reason) in
        [("broken", "this version restores nothing"), ("panicking", "this version panics"), ("slow", "did not answer within its deadline")]
    {
        place.overwrite(build(version));
        let report = place.reload("all");
        assert_eq!(tally(&report, "t"), [0, 0, 1, 0], "{version}");
        let failure = &of(&report, "t")["sessions"]["failures"][0];
        assert_eq!(failure["session"], session.id.as_str());
        let told = failure["reason"].as_str().unwrap();
        assert!(told.contains(reason) && told.contains("it runs the old code again"), "{told}");
        assert_eq!((place.version(&session), place.host.show(&session).json()["state"].clone()), (json!("one"), json!("live")));
    }
    // What the attempts saved is not the old one's.
    assert_eq!(place.host.ask(&session, "count", ""), 3);
    let answer = place.move_one(&session);
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("not_moved")));

    // Where both fail there is none, and why is told; it is tried again with the code that comes next.
    place.overwrite(build("two"));
    assert_eq!(tally(&place.reload("all"), "t"), [1, 0, 0, 0]);
    assert_eq!(place.host.ask(&session, "count", ""), 4);
    assert_eq!(place.host.ask(&session, "crash", "")["code"], "faulted");
    place.overwrite(build("hopeless"));
    assert_eq!(tally(&place.reload("all"), "t"), [0, 0, 1, 0]);
    let shown = place.host.show(&session).json();
    assert_eq!((&shown["state"], &shown["plugin"]), (&json!("unavailable"), &Value::Null));
    place.overwrite(build("three"));
    let report = place.reload("none");
    assert_eq!(tally(&report, "t"), [0, 0, 0, 1]);
    until("the conductor", || (place.version(&session) == "three").then_some(()));
    assert_eq!(place.host.ask(&session, "count", ""), 4, "as the last move had saved it");

    // A conductor that panicked is made again, of the same code, where one asks for that.
    assert_eq!(place.host.ask(&session, "crash", "")["code"], "faulted");
    assert_eq!(tally(&place.reload("all"), "t"), [0, 0, 0, 0]);
    assert_eq!(place.move_one(&session).json()["moved"], true);
    assert_eq!(place.host.ask(&session, "count", ""), 4);
}

#[test]
fn what_an_attempt_changes_counts_once_it_has_made_a_conductor() {
    let place = Place::start("one");
    let session = place.counted(0);
    let about = || {
        let shown = place.host.show(&session).json();
        (shown["labels"].clone(), shown["locked"].clone())
    };
    // All timers that this conductor was told of. One that an attempt has set would be told before the last one.
    let told = || {
        assert_eq!(place.host.request(&session, "tick_in", json!(5)).status, 200);
        until("the timer", || {
            let told = place.host.ask(&session, "told", "");
            told.as_array().unwrap().last().is_some_and(|last| last == "tick").then_some(told)
        })
    };
    place.overwrite(build("broken"));
    assert_eq!(tally(&place.reload("all"), "t"), [0, 0, 1, 0]);
    assert_eq!((place.version(&session), about(), told()), (json!("one"), (Value::Null, Value::Null), json!(["tick"])));
    place.overwrite(build("two"));
    assert_eq!(tally(&place.reload("saved"), "t"), [0, 1, 0, 0], "nothing is saved");
    assert_eq!(tally(&place.reload("all"), "t"), [1, 0, 0, 0]);
    assert_eq!((place.version(&session), place.host.ask(&session, "ticks", "")), (json!("two"), json!(0)));

    place.overwrite(build("eager"));
    assert_eq!(tally(&place.reload("all"), "t"), [1, 0, 0, 0]);
    // The one it called off is not told.
    assert_eq!(
        (place.version(&session), about(), told()),
        (json!("eager"), (json!({"made_by": "eager"}), json!(true)), json!(["begun", "tick"]))
    );
    place.overwrite(build("three"));
    assert_eq!(tally(&place.reload("saved"), "t"), [1, 0, 0, 0]);
    assert_eq!(place.host.ask(&session, "count", ""), 1000, "what it saved last");
}

#[test]
fn what_has_no_conductor_yet_takes_the_newest_code() {
    let place = Place::start_with("one", |options, plugin| {
        let missing = plugin.with_file_name("later.so");
        let options = options.set("types.lazy.plugin", json!(plugin)).set("types.deaf.plugin", json!(plugin));
        options
            .set("types.later.plugin", json!(missing))
            .set("types.later.required", json!(false))
            .set("types.later.conductor", json!("counter"))
    });
    let (lazy, deaf) = (place.host.create("lazy"), place.host.create("deaf"));
    assert_eq!(place.plugin_of(&lazy), Value::Null);
    assert_eq!(place.host.admin("/readyz").json()["status"], "degraded");
    place.overwrite(build("two"));
    fs::write(place.plugin.with_file_name("later.so"), build("late")).unwrap();
    // Another conductor of the same file, which has an ear for the timer that waits.
    place.settings(|text| text.replace("[types.deaf]", "[types.deaf]\nconductor = \"counter\""));
    let report = place.reload("saved");
    assert_eq!(tally(&report, "deaf"), [1, 0, 0, 0]);
    assert_eq!(tally(&report, "lazy"), [0, 0, 0, 0]);
    assert_eq!(place.version(&lazy), "two");
    until("the timer that nobody heard", || (place.host.ask(&deaf, "ticks", "") == 1).then_some(()));
    assert_eq!(place.host.ask(&deaf, "count", ""), 8);
    assert_eq!((&of(&report, "later")["outcome"], &of(&report, "later")["old"]), (&json!("loaded"), &Value::Null));
    assert_eq!(place.version(&place.host.create("later")), "late");
    assert_eq!(place.host.admin("/readyz").json()["status"], "ready");
    // Only the settings of the type have changed: new sessions get them, and a move brings them to others.
    let old = place.counted(1);
    place.settings(|text| text.replace("[types.t]", "[types.t]\nconfig = { name = \"my \" }"));
    let report = place.reload("none");
    assert_eq!(of(&report, "t")["old"], of(&report, "t")["new"]);
    assert_eq!((place.version(&old), place.version(&place.host.create("t"))), (json!("two"), json!("my two")));
    assert_eq!(place.move_one(&old).json()["moved"], true);
    assert_eq!((place.version(&old), place.host.ask(&old, "count", "")), (json!("my two"), json!(2)));
}

#[test]
fn development_mode_reloads_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("libdev.so");
    let host = DevHost::start(folder.path(), &["--type", "counter=dev", "--log-level", "debug"]);
    assert_eq!(http::get(host.admin, "/v1/types").json()["items"][0]["available"], false, "it is waited for");
    let log = || fs::read_to_string(folder.path().join("host.log")).unwrap();
    until("commands to begin with", || log().contains("join:   curl -s http://127.0.0.1:").then_some(()));
    let create = || http::post(host.admin, "/v1/sessions", "{\"type\":\"counter\"}");
    let ask = |id: &str, method: &str| {
        http::post(host.admin, &format!("/v1/sessions/{id}/requests"), &json!({ "method": method }).to_string()).json()["result"].clone()
    };
    fs::write(&plugin, build("one")).unwrap();
    let created = until("the plugin that was not there", || Some(create()).filter(|answer| answer.status == 201)).json();
    let id = created["id"].as_str().unwrap();
    assert_eq!((ask(id, "version"), ask(id, "count")), (json!("one"), json!(1)));
    // Half a file: refused, told once, and tried again when it is whole.
    let two = build("two");
    fs::write(&plugin, &two[..two.len() / 2]).unwrap();
    until("the refusal", || log().contains("reload: refused").then_some(()));
    fs::write(&plugin, &two[..two.len() / 2]).unwrap();
    until("another try", || log().contains("reload: refused as before").then_some(()));
    assert_eq!(ask(id, "version"), "one");
    fs::write(&plugin, &two).unwrap();
    until("the new code", || (ask(id, "version") == "two").then_some(()));
    assert_eq!(ask(id, "count"), 2, "what it had saved at its close");
    until("its line", || log().contains("reloaded counter in ").then_some(()));
    assert_eq!(log().matches("reload: refused;").count(), 1, "{}", log());
    assert!(fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().file_name() != "state"), "nothing is kept here");
}
