//! Every hook and every call of a conductor: one scenario, played in the SDK's test kit and in the real host, must be the same in both.
//! What the kit cannot play (what devices see, restarts that kill) has tests of its own below.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{collections::BTreeMap, time::Duration};

use conductor_sdk::{CloseReason, testing::Rig};
use conductor_test_range::{Ask, Range};
use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// Long enough to count as later in the host, and short enough to wait for.
const SOON: Duration = Duration::from_millis(60);

/// Where a scenario is played.
trait Stage {
    /// The reason where it was refused.
    fn join(&mut self, client: &str) -> Result<(), String>;
    fn connect(&mut self, client: &str);
    fn disconnect(&mut self, client: &str);
    /// By a client that is connected.
    fn message(&mut self, client: &str, name: &str, payload: &str);
    /// The message of the error.
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String>;
    /// Lets [`SOON`] pass.
    fn wait(&mut self);
    fn restart(&mut self);
    fn labels(&mut self) -> BTreeMap<String, String>;
}

struct Kit(Rig);

impl Stage for Kit {
    fn join(&mut self, client: &str) -> Result<(), String> {
        self.0.join(client).map_err(|error| error.message().to_owned())
    }
    fn connect(&mut self, client: &str) {
        self.0.connect(client).unwrap();
    }
    fn disconnect(&mut self, client: &str) {
        // An error of a hook is logged, and nobody's.
        drop(self.0.disconnect(client));
    }
    fn message(&mut self, client: &str, name: &str, payload: &str) {
        drop(self.0.message(client, name, payload));
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.0.request(method, params).map_err(|error| error.message().to_owned())
    }
    fn wait(&mut self) {
        self.0.advance(SOON);
    }
    fn restart(&mut self) {
        self.0.restart::<Range>(()).unwrap();
    }
    fn labels(&mut self) -> BTreeMap<String, String> {
        self.0.labels()
    }
}

/// The real host.
struct Real {
    host: Host,
    session: Session,
    tokens: BTreeMap<String, String>,
    devices: BTreeMap<String, Mqtt>,
}

impl Real {
    fn start() -> Self {
        let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range"));
        let session = host.create("range");
        Self { host, session, tokens: BTreeMap::new(), devices: BTreeMap::new() }
    }
}

impl Stage for Real {
    fn join(&mut self, client: &str) -> Result<(), String> {
        let body = json!({ "pin": self.session.pin, "client": client }).to_string();
        let answer = conductor_tests::request(self.host.iot, "POST", &format!("/v1/sessions/{}/join", self.session.id), &[], &body);
        let answer_text = |key: &str| answer.json()[key].as_str().unwrap().to_owned();
        if answer.status != 200 {
            return Err(answer_text("detail"));
        }
        self.tokens.insert(client.to_owned(), answer_text("token"));
        Ok(())
    }
    fn connect(&mut self, client: &str) {
        let credentials = Credentials::new(client, &self.session.id, &self.tokens[client]);
        let device = Mqtt::connect(&self.host, Version::V5, Way::Tcp, &credentials).unwrap();
        self.devices.insert(client.to_owned(), device);
    }
    fn disconnect(&mut self, client: &str) {
        drop(self.devices.remove(client));
    }
    fn message(&mut self, client: &str, name: &str, payload: &str) {
        let topic = topic(&self.session, name);
        self.devices.get_mut(client).unwrap().publish(&topic, payload, 1, false);
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let answer = self.host.request(&self.session, method, params);
        if answer.status == 200 { Ok(answer.json()["result"].clone()) } else { Err(answer.json()["detail"].as_str().unwrap().to_owned()) }
    }
    fn wait(&mut self) {
        std::thread::sleep(SOON);
    }
    fn restart(&mut self) {
        self.devices.clear();
        self.host.kill();
        self.host.start_again();
    }
    fn labels(&mut self) -> BTreeMap<String, String> {
        serde_json::from_value(self.host.show(&self.session).json()["labels"].clone()).unwrap_or_default()
    }
}

fn ask(stage: &mut dyn Stage, ask: &Ask) -> Result<Value, String> {
    stage.request("ask", serde_json::to_value(ask).unwrap())
}

/// What was heard, once it ends with `last`: in the host some of it takes a moment.
fn heard(stage: &mut dyn Stage, last: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    until(last, || {
        all.extend(serde_json::from_value::<Vec<String>>(stage.request("heard", Value::Null).unwrap()).unwrap());
        all.last().is_some_and(|line| line == last).then(|| std::mem::take(&mut all))
    })
}

/// The story; what it saw, to compare.
fn play(stage: &mut dyn Stage) -> Vec<String> {
    let mut seen = Vec::new();
    let mut note = |what: &str, result: Result<Value, String>| seen.push(format!("{what}: {result:?}"));

    // Made: what was set before the session was stored is there.
    stage.wait();
    note("made", Ok(json!([heard(stage, "timer birth"), stage.labels()])));

    // Joins.
    for client in ["ann", "bob", "mallory", "astray", "listener", "ann"] {
        note("join", stage.join(client).map(Value::from));
    }
    ask(stage, &Ask::FailAt("joining".into())).unwrap();
    note("join", stage.join("eve").map(Value::from));
    note("clients", stage.request("grants", Value::Null));
    note("joins", Ok(json!(heard(stage, "joining ann"))));

    // Connections and messages; an error in a hook is nobody's.
    stage.connect("bob");
    stage.message("bob", "buzz", "1");
    ask(stage, &Ask::FailAt("message".into())).unwrap();
    stage.message("bob", "buzz", "2");
    stage.message("bob", "buzz", "3");
    stage.disconnect("bob");
    note("connection", Ok(json!(heard(stage, "disconnected bob"))));

    // Who may join.
    ask(stage, &Ask::MaxClients(3)).unwrap();
    note("full", stage.join("eve").map(Value::from));
    note("again", stage.join("bob").map(Value::from));
    note("kick", ask(stage, &Ask::Kick("listener".into())));
    note("kick", ask(stage, &Ask::Kick("listener".into())));
    note("room", stage.join("eve").map(Value::from));
    ask(stage, &Ask::MaxClients(9)).unwrap();
    ask(stage, &Ask::Lock(true)).unwrap();
    note("locked", stage.join("new").map(Value::from));
    note("again", stage.join("eve").map(Value::from));
    ask(stage, &Ask::Lock(false)).unwrap();
    note("members", Ok(json!(heard(stage, "joining eve"))));

    // What is wrong is refused in the same words.
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
        Ask::PublishTo("nobody".into(), "a".into(), String::new()),
    ];
    for wrong in &wrong {
        note("wrong", ask(stage, wrong));
    }
    ask(stage, &Ask::Labels(BTreeMap::from([("phase".into(), "two".into())]))).unwrap();
    note("labels", Ok(json!(stage.labels())));
    note("grant", ask(stage, &Ask::Grant("ann".into(), names(&["stage/#"]), names(&[]))));

    // Timers: in their order, each once, one that is taken away never.
    ask(stage, &Ask::Once("gone".into(), 1000)).unwrap();
    ask(stage, &Ask::CancelTimer("gone".into())).unwrap();
    ask(stage, &Ask::CancelTimer("never was".into())).unwrap();
    ask(stage, &Ask::FailAt("timer".into())).unwrap();
    ask(stage, &Ask::Once("first".into(), 20)).unwrap();
    ask(stage, &Ask::Once("second".into(), 40)).unwrap();
    stage.wait();
    note("timers", Ok(json!(heard(stage, "timer second"))));
    // More than a mailbox has reserved would be refused; one name is one timer, however often it is set.
    for _ in 0..3 {
        ask(stage, &Ask::Once("again".into(), 20)).unwrap();
    }
    stage.wait();
    note("timers", Ok(json!(heard(stage, "timer again"))));

    // A restart keeps what was saved, and who was there; timers go on.
    ask(stage, &Ask::Save(3)).unwrap();
    ask(stage, &Ask::Save(4)).unwrap();
    ask(stage, &Ask::Once("over the restart".into(), 50)).unwrap();
    stage.restart();
    stage.wait();
    note("restart", Ok(json!(heard(stage, "timer over the restart"))));
    note("score", stage.request("score", Value::Null));
    note("clients", stage.request("grants", Value::Null));
    note("labels", Ok(json!(stage.labels())));
    note("close", ask(stage, &Ask::Close));
    seen
}

#[test]
fn the_kit_and_the_host_tell_one_story() {
    let kit = play(&mut Kit(Rig::start::<Range>(()).unwrap()));
    let real = play(&mut Real::start());
    for (kit, real) in kit.iter().zip(&real) {
        assert_eq!(kit, real, "kit and host differ");
    }
    assert_eq!(kit.len(), real.len());
    // The story itself: every hook was told.
    let told = kit.join("\n");
    for hook in [
        "create",
        "restore 4 version 7",
        "joining",
        "left listener Kicked",
        "connected bob",
        "disconnected bob",
        "message bob buzz 3",
        "timer",
    ] {
        assert!(told.contains(hook), "{hook} is missing from the story:\n{told}");
    }
    assert!(!told.contains("gone"));
}

/// A hook that is added to the SDK must be added to the story.
#[test]
fn the_story_has_every_hook() {
    let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range"));
    let types = host.admin("/v1/types").json();
    let range = types["items"].as_array().unwrap().iter().find(|kind| kind["type"] == "range").unwrap().clone();
    let hooks: Vec<&str> = range["hooks"].as_array().unwrap().iter().map(|hook| hook.as_str().unwrap()).collect();
    assert_eq!(hooks, ["joining", "left", "connected", "disconnected", "message", "timer", "link", "close"]);
}

#[test]
fn grants_hold_for_devices_at_once_and_after_a_restart() {
    let mut real = Real::start();
    let (session, host) = (real.session.clone(), &real.host);
    let mut ann = device(host, &session, "ann", Version::V5, Way::Tcp);
    let mut bob = device(host, &session, "bob", Version::V311, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "#"), 1) && bob.subscribe(&topic(&session, "stage/#"), 1));
    // The listener joined with less.
    let mut listener = device(host, &session, "listener", Version::V5, Way::Tcp);
    assert!(!listener.subscribe(&topic(&session, "#"), 1) && listener.subscribe(&topic(&session, "stage/1"), 1));
    assert!(!listener.publish(&topic(&session, "stage/1"), "mine", 1, false));
    // A narrower grant ends the subscription that it does not allow, and the right to publish, of a connection that is there.
    ask(&mut real, &Ask::Grant("ann".into(), Some(vec!["stage/#".into()]), Some(Vec::new()))).unwrap();
    assert!(!ann.publish(&topic(&session, "stage/1"), "no more", 1, false));
    assert!(ann.subscribe(&topic(&session, "stage/#"), 1) && !ann.subscribe(&topic(&session, "#"), 1));
    assert!(bob.publish(&topic(&session, "hidden"), "not for ann", 1, false));
    assert!(bob.publish(&topic(&session, "stage/1"), "for all", 1, false));
    for device in [&mut ann, &mut bob, &mut listener] {
        assert_eq!(device.message().payload, "for all");
    }
    // It is stored: the same token, after a kill, opens no more.
    let token = real.host.join(&session, "ann");
    ask(&mut real, &Ask::Grant("ann".into(), Some(vec!["stage/#".into()]), Some(vec!["buzz".into()]))).unwrap();
    real.restart();
    let mut ann = Mqtt::connect(&real.host, Version::V5, Way::Tcp, &Credentials::new("ann", &session.id, &token)).unwrap();
    assert!(!ann.publish(&topic(&session, "stage/1"), "no", 1, false) && ann.publish(&topic(&session, "buzz"), "yes", 1, false));
    assert!(!ann.subscribe(&topic(&session, "#"), 1) && ann.subscribe(&topic(&session, "stage/1"), 1));
    // Who is accepted as before keeps it, too.
    real.join("regular").unwrap();
    ask(&mut real, &Ask::Grant("regular".into(), None, Some(Vec::new()))).unwrap();
    real.join("regular").unwrap();
    let mut regular = device(&real.host, &session, "regular", Version::V5, Way::Tcp);
    assert!(!regular.publish(&topic(&session, "stage/1"), "no", 1, false) && regular.subscribe(&topic(&session, "#"), 1));
    // Wider again, at once, by the same token.
    ask(&mut real, &Ask::Grant("ann".into(), None, None)).unwrap();
    assert!(ann.publish(&topic(&session, "stage/1"), "again", 1, false) && ann.subscribe(&topic(&session, "#"), 1));
}

#[test]
fn a_client_that_is_sent_away_is_cut_and_its_token_is_good_no_more_until_it_joins_again() {
    let mut real = Real::start();
    let session = real.session.clone();
    let token = real.host.join(&session, "ann");
    let credentials = Credentials::new("ann", &session.id, &token).will(&topic(&session, "will"), "gone", false);
    let mut ann = Mqtt::connect(&real.host, Version::V5, Way::Tcp, &credentials).unwrap();
    let mut bob = device(&real.host, &session, "bob", Version::V5, Way::Tcp);
    assert!(bob.subscribe(&topic(&session, "#"), 1));
    ask(&mut real, &Ask::Kick("ann".into())).unwrap();
    ann.gone();
    assert!(Mqtt::connect(&real.host, Version::V5, Way::Tcp, &credentials).is_err());
    assert_eq!(real.host.clients(&session), ["bob"]);
    // An administrator can, too.
    let kick = |client: &str| {
        conductor_tests::request(real.host.admin, "DELETE", &format!("/v1/sessions/{}/clients/{client}", session.id), &[], "")
    };
    assert_eq!((kick("bob").status, kick("bob").status), (204, 404));
    assert_eq!(kick("bob").json()["code"], "client_not_found");
    bob.gone();
    let heard = heard(&mut real, "left bob Kicked");
    assert!(heard.contains(&"left ann Kicked".to_owned()) && !heard.iter().any(|line| line.starts_with("message")), "{heard:?}");
    let mut ann = device(&real.host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "#"), 1));
}

#[test]
fn a_refused_join_is_told_on_v1_and_looks_like_a_wrong_pin_on_api() {
    let mut real = Real::start();
    let session = real.session.clone();
    let api = |real: &Real, client: &str, pin: &str| {
        let answer = real.host.join_raw(&json!({ "id": session.id, "pin": pin, "client": client }).to_string());
        (answer.status, answer.body.clone())
    };
    let wrong_pin = api(&real, "ann", "0");
    assert_eq!(api(&real, "mallory", &session.pin), wrong_pin);
    ask(&mut real, &Ask::MaxClients(0)).unwrap();
    assert_eq!(api(&real, "ann", &session.pin), wrong_pin);
    ask(&mut real, &Ask::Lock(true)).unwrap();
    assert_eq!(api(&real, "ann", &session.pin), wrong_pin);
    let v1 = |real: &Real, client: &str| {
        let body = json!({ "pin": session.pin, "client": client }).to_string();
        let answer = conductor_tests::request(real.host.iot, "POST", &format!("/v1/sessions/{}/join", session.id), &[], &body);
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned(), answer.json()["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(v1(&real, "ann").1, "session_locked");
    ask(&mut real, &Ask::Lock(false)).unwrap();
    assert_eq!(v1(&real, "ann").1, "session_full");
    ask(&mut real, &Ask::MaxClients(9)).unwrap();
    assert_eq!(v1(&real, "mallory"), (403, "join_refused".into(), "not you".into()));
    let view = real.host.show(&session).json();
    assert_eq!((&view["max_clients"], &view["labels"]["made"]), (&json!(9), &json!("yes")));
}

#[test]
fn many_joins_at_once_do_not_overfill_a_session() {
    let mut real = Real::start();
    ask(&mut real, &Ask::MaxClients(5)).unwrap();
    let (iot, session) = (real.host.iot, real.session.clone());
    let joins: Vec<_> = (0..40)
        .map(|number| {
            let body = json!({ "pin": session.pin, "client": format!("c{number}") }).to_string();
            let target = format!("/v1/sessions/{}/join", session.id);
            std::thread::spawn(move || conductor_tests::request(iot, "POST", &target, &[], &body).status)
        })
        .collect();
    let statuses: Vec<u16> = joins.into_iter().map(|join| join.join().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert_eq!(real.host.clients(&session).len(), 5);
}

#[test]
fn a_timer_that_repeats_fires_again_and_again_and_goes_on_after_a_kill() {
    let mut real = Real::start();
    ask(&mut real, &Ask::Every("tick".into(), 30)).unwrap();
    let ticks = |real: &mut Real, count: usize| {
        let mut seen = 0;
        until("ticks", || {
            let heard: Vec<String> = serde_json::from_value(real.request("heard", Value::Null).unwrap()).unwrap();
            seen += heard.iter().filter(|line| *line == "timer tick").count();
            (seen >= count).then_some(())
        });
    };
    ticks(&mut real, 5);
    real.restart();
    ticks(&mut real, 5);
    ask(&mut real, &Ask::CancelTimer("tick".into())).unwrap();
    real.wait();
    real.request("heard", Value::Null).unwrap();
    real.wait();
    assert_eq!(real.request("heard", Value::Null).unwrap(), json!([]));
}

#[test]
fn timers_are_told_in_the_order_in_which_they_are_due_and_none_is_lost_while_the_conductor_is_busy() {
    let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range").set("sessions.deadline", json!("400ms")));
    let session = host.create("range");
    let mut real = Real { host, session, tokens: BTreeMap::new(), devices: BTreeMap::new() };
    heard(&mut real, "timer birth");
    // Due together, after a restart: by due time, whatever their names.
    let names: Vec<String> = (0..12).map(|number| format!("{:02}", number * 7 % 12)).collect();
    for (number, name) in names.iter().enumerate() {
        ask(&mut real, &Ask::Once(name.clone(), 1500 + number as u64)).unwrap();
    }
    real.host.kill();
    std::thread::sleep(Duration::from_millis(2600));
    real.host.start_again();
    let all = heard(&mut real, &format!("late {}", names[11]));
    let told: Vec<_> = all.iter().filter_map(|line| line.strip_prefix("timer ")).collect();
    assert_eq!(told, names);
    // What was saved while the session was made is there, too.
    assert_eq!(all[0], "restore 0 version 7");
    // Each takes most of the deadline, so that the last waits much longer for its turn.
    ask(&mut real, &Ask::Slow(250)).unwrap();
    for number in 0..4 {
        ask(&mut real, &Ask::Once(format!("slow {number}"), 200 + number)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1400));
    let mut told = heard(&mut real, "timer slow 3");
    told.retain(|line| line.starts_with("timer slow"));
    assert_eq!(told, ["timer slow 0", "timer slow 1", "timer slow 2", "timer slow 3"]);
}

#[test]
fn the_reasons_of_an_end_are_told() {
    let real = Real::start();
    let session = real.session.clone();
    let mut ann = device(&real.host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "closed"), 1));
    real.host.close(&session);
    assert_eq!(ann.message().payload, format!("{:?}", CloseReason::Requested));
}

#[test]
fn a_client_whose_grant_is_over_has_left() {
    let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range").set("token.ttl", json!("1s")));
    let session = host.create("range");
    let mut real = Real { host, session, tokens: BTreeMap::new(), devices: BTreeMap::new() };
    real.join("listener").unwrap();
    let heard = heard(&mut real, "left listener Expired");
    assert!(heard.contains(&"joining listener".to_owned()), "{heard:?}");
    assert!(real.host.clients(&real.session).is_empty());
}
