//! The stories: together they have every hook and every call.

use std::{collections::BTreeMap, time::Duration};

use conductor_abi::rules;
use conductor_test_range::Ask;
use serde_json::{Value, json};

use super::stage::{Stage, WATCHER, ask, heard};

pub(crate) struct Story {
    /// Of each event, where it is not the usual one.
    pub(crate) deadline: Option<Duration>,
    pub(crate) broker_outside: bool,
    /// Grants end as soon as can be.
    pub(crate) short_grants: bool,
    /// What must be in it, so that it cannot become empty.
    pub(crate) tells: &'static [&'static str],
    tell: fn(&mut dyn Stage, &mut Notes),
}

/// What was seen, to compare.
pub(crate) struct Notes(Vec<String>);

impl Notes {
    fn note(&mut self, what: &str, result: Result<Value, String>) {
        self.0.push(format!("{what}: {result:?}"));
    }

    fn see(&mut self, what: &str, seen: impl Into<Value>) {
        self.note(what, Ok(seen.into()));
    }
}

impl Story {
    const fn new(tells: &'static [&'static str], tell: fn(&mut dyn Stage, &mut Notes)) -> Self {
        Self { deadline: None, broker_outside: false, short_grants: false, tells, tell }
    }

    pub(crate) fn play(&self, stage: &mut dyn Stage) -> Vec<String> {
        let mut notes = Notes(Vec::new());
        (self.tell)(stage, &mut notes);
        notes.0
    }
}

pub(crate) const A_LIFE: Story = Story {
    // A mebibyte and more to save takes its time in a debug build on a busy machine.
    deadline: Some(Duration::from_secs(60)),
    ..Story::new(
        &[
            "create",
            "restore 4 version 7",
            "joining ann",
            "left listener Kicked",
            "connected bob",
            "message bob will bob qos 1 will",
            "disconnected bob",
            "message bob buzz 3 qos 1 retained",
            "timer second",
            "say/task",
            "closed Conductor",
        ],
        a_life,
    )
};
pub(crate) const THREE_ENDS: Story = Story::new(
    &[
        "closed HostStopping",
        "closed/saved yes",
        "restore 1005 version 7",
        "closed Replaced",
        "restore 2005 version 7",
        "closed Requested",
        rules::NOT_STORED,
    ],
    three_ends,
);
pub(crate) const A_GRANT_ENDS: Story = Story { short_grants: true, ..Story::new(&["left listener Expired"], a_grant_ends) };
pub(crate) const A_LIFETIME_ENDS: Story = Story::new(&["closed Expired", rules::NOT_STORED], a_lifetime_ends);
pub(crate) const A_PANIC: Story = Story::new(&["panic: as ordered at "], a_panic);
pub(crate) const A_PANIC_IN_A_TASK: Story = Story::new(&["panic: in a task at "], a_panic_in_a_task);
pub(crate) const NEVER_ENDS: Story =
    Story { deadline: Some(Duration::from_secs(2)), ..Story::new(&[rules::GIVEN_UP, "joining ann"], never_ends) };
pub(crate) const A_LINK: Story = Story { broker_outside: true, ..Story::new(&["link Down", "link Up"], a_link) };

fn born(stage: &mut dyn Stage) -> Vec<String> {
    stage.wait();
    heard(stage, "timer birth")
}

fn watch(stage: &mut dyn Stage) {
    stage.join(WATCHER).unwrap();
    stage.connect(WATCHER);
    heard(stage, "connected watcher");
}

fn a_life(stage: &mut dyn Stage, seen: &mut Notes) {
    // Made: what was set before the session was stored is there.
    seen.see("made", json!([born(stage), stage.labels()]));
    watch(stage);

    // Joins.
    for client in ["ann", "bob", "mallory", "astray", "listener", "ann"] {
        seen.note("join", stage.join(client).map(Value::from));
    }
    // Names that no client can have. Each way in says it in its own words.
    for client in ["", "a/#", "iotserver", " "] {
        seen.see(client, stage.join(client).is_ok());
    }
    ask(stage, &Ask::FailAt("joining".into())).unwrap();
    seen.note("join", stage.join("eve").map(Value::from));
    seen.note("clients", stage.request("grants", Value::Null));
    seen.see("joins", heard(stage, "joining ann"));

    // Connections and messages; an error in a hook is nobody's.
    stage.connect("bob");
    stage.message("bob", "buzz", "1", false);
    ask(stage, &Ask::FailAt("message".into())).unwrap();
    stage.message("bob", "buzz", "2", false);
    stage.message("bob", "buzz", "3", true);
    ask(stage, &Ask::Grant("bob".into(), None, Some(vec!["buzz/+".into(), "will".into()]))).unwrap();
    seen.see("may not", stage.message("bob", "buzz", "4", false));
    seen.see("may", stage.message("bob", "buzz/1", "5", false));
    stage.disconnect("bob");
    seen.see("connection", heard(stage, "disconnected bob"));

    // What it says.
    ask(stage, &Ask::Publish("say/1".into(), "to all".into())).unwrap();
    ask(stage, &Ask::PublishTo(WATCHER.into(), "say/2".into(), "to one".into())).unwrap();
    seen.see("said", stage.said(2));
    for (level, text) in [(1, "an error of the range"), (2, "a warning of the range"), (3, "news of the range")] {
        ask(stage, &Ask::Log(level, text.into())).unwrap();
        seen.see("logged", stage.logged(text));
    }
    ask(stage, &Ask::FailAt("disconnected".into())).unwrap();
    stage.connect("bob");
    stage.disconnect("bob");
    heard(stage, "message bob will bob qos 1 will");
    seen.see("logged", stage.logged("disconnected fails, as ordered"));

    // Time, and what runs beside.
    seen.note("slept", ask(stage, &Ask::Sleep(20)));
    ask(stage, &Ask::Spawn(20)).unwrap();
    seen.see("said", stage.said(2));
    ask(stage, &Ask::FailInTask).unwrap();
    stage.wait();
    seen.see("logged", stage.logged("a task fails, as ordered"));

    // Who may join.
    ask(stage, &Ask::MaxClients(4)).unwrap();
    seen.note("full", stage.join("eve").map(Value::from));
    seen.note("again", stage.join("bob").map(Value::from));
    seen.note("kick", ask(stage, &Ask::Kick("listener".into())));
    seen.note("kick", ask(stage, &Ask::Kick("listener".into())));
    seen.note("room", stage.join("eve").map(Value::from));
    ask(stage, &Ask::MaxClients(9)).unwrap();
    ask(stage, &Ask::Lock(true)).unwrap();
    seen.note("locked", stage.join("new").map(Value::from));
    seen.note("again", stage.join("eve").map(Value::from));
    ask(stage, &Ask::Lock(false)).unwrap();
    seen.see("members", heard(stage, "joining eve"));

    wrong(stage, seen);
    ask(stage, &Ask::Labels(BTreeMap::from([("phase".into(), "two".into())]))).unwrap();
    seen.see("labels", json!(stage.labels()));

    // Timers: in their order, each once, one that is taken away never.
    ask(stage, &Ask::Once("gone".into(), 30_000)).unwrap();
    ask(stage, &Ask::CancelTimer("gone".into())).unwrap();
    ask(stage, &Ask::CancelTimer("never was".into())).unwrap();
    ask(stage, &Ask::FailAt("timer".into())).unwrap();
    ask(stage, &Ask::Once("first".into(), 20)).unwrap();
    ask(stage, &Ask::Once("second".into(), 40)).unwrap();
    stage.wait();
    seen.see("timers", heard(stage, "timer second"));
    // More than a mailbox has reserved would be refused; one name is one timer, however often it is set.
    for millis in [30_000, 30_000, 20] {
        ask(stage, &Ask::Once("again".into(), millis)).unwrap();
    }
    stage.wait();
    seen.see("timers", heard(stage, "timer again"));

    // A kill keeps what was saved, and who was there; timers go on.
    ask(stage, &Ask::Save(3)).unwrap();
    ask(stage, &Ask::Save(4)).unwrap();
    // Not before the kill, however slow the machine.
    ask(stage, &Ask::Once("over the restart".into(), 2000)).unwrap();
    stage.restart();
    (0..35).for_each(|_| stage.wait());
    seen.see("restart", heard(stage, "timer over the restart"));
    seen.note("score", stage.request("score", Value::Null));
    seen.note("clients", stage.request("grants", Value::Null));
    seen.see("labels", json!(stage.labels()));
    stage.connect(WATCHER);
    seen.note("close", ask(stage, &Ask::Close));
    seen.see("said", stage.said(2));
}

/// What is wrong is refused in the same words.
fn wrong(stage: &mut dyn Stage, seen: &mut Notes) {
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let wrong = [
        Ask::SaveBytes((1 << 20) + 1),
        Ask::Once(String::new(), 1),
        Ask::Once("n".repeat(129), 1),
        Ask::Every("fast".into(), 1),
        Ask::Grant("nobody".into(), None, None),
        Ask::Grant("ann".into(), names(&["/x"]), None),
        Ask::Grant("ann".into(), None, names(&["a#"])),
        Ask::Kick("nobody".into()),
        Ask::Labels(BTreeMap::from([(String::new(), String::new())])),
        Ask::Publish("a/+".into(), String::new()),
        Ask::Publish("large".into(), "x".repeat(rules::MAX_PAYLOAD + 1)),
        Ask::PublishTo("nobody".into(), "a".into(), String::new()),
    ];
    for wrong in &wrong {
        seen.note("wrong", ask(stage, wrong));
    }
    seen.note("wrong", stage.request("fly", Value::Null));
    seen.note("wrong", stage.request("ask", json!({"fly": 1})));
    seen.note("grant", ask(stage, &Ask::Grant("ann".into(), names(&["stage/#"]), names(&[]))));
}

fn three_ends(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    watch(stage);
    ask(stage, &Ask::Save(5)).unwrap();
    seen.see("said", stage.stop_and_start(2));
    seen.see("restored", heard(stage, "restore 1005 version 7"));
    seen.note("clients", stage.request("grants", Value::Null));
    stage.connect(WATCHER);
    heard(stage, "connected watcher");

    // What the old code saves as it goes is what the new code begins with; who is there stays.
    seen.see("said", stage.move_over(2));
    seen.see("restored", heard(stage, "restore 2005 version 7"));
    seen.note("clients", stage.request("grants", Value::Null));
    ask(stage, &Ask::Publish("say/1".into(), "to all".into())).unwrap();
    seen.see("said", stage.said(1));

    stage.close();
    seen.see("said", stage.said(2));
}

fn a_grant_ends(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    stage.join("listener").unwrap();
    stage.outlive_grants();
    seen.see("left", heard(stage, "left listener Expired"));
    seen.note("clients", stage.request("grants", Value::Null));
}

fn a_lifetime_ends(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    watch(stage);
    ask(stage, &Ask::Save(6)).unwrap();
    stage.end_lifetime();
    seen.see("said", stage.said(2));
}

fn a_panic(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    watch(stage);
    ask(stage, &Ask::Once("never told".into(), 20)).unwrap();
    seen.note("panics", ask(stage, &Ask::Panic));
    over(stage, seen);
}

fn a_panic_in_a_task(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    watch(stage);
    ask(stage, &Ask::PanicInTask).unwrap();
    stage.wait();
    over(stage, seen);
}

/// It is told nothing more, and all can hear why.
fn over(stage: &mut dyn Stage, seen: &mut Notes) {
    // A task may take its time to begin.
    seen.see("logged", stage.logged("the conductor is faulted"));
    seen.note("asked", stage.request("score", Value::Null));
    seen.note("joins", stage.join("ann").map(Value::from));
    seen.see("hears", stage.message(WATCHER, "buzz", "1", false));
    stage.wait();
    seen.note("asked", stage.request("heard", Value::Null));
    seen.see("labels", json!(stage.labels()));
    stage.close();
}

fn never_ends(stage: &mut dyn Stage, seen: &mut Notes) {
    born(stage);
    seen.note("asked", ask(stage, &Ask::Hang));
    seen.note("asked", ask(stage, &Ask::Sleep(3_600_000)));
    seen.note("asked", stage.request("score", Value::Null));
    seen.note("joins", stage.join("ann").map(Value::from));
    seen.see("heard", heard(stage, "joining ann"));
}

fn a_link(stage: &mut dyn Stage, seen: &mut Notes) {
    seen.see("made", born(stage));
    stage.link(false);
    // The same may be told twice.
    let mut all = heard(stage, "link Down");
    stage.link(true);
    all.extend(heard(stage, "link Up"));
    all.dedup();
    seen.see("link", all);
}
