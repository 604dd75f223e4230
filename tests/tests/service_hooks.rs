//! Every hook and every call of a service: stories played in the SDK's test kit and in the real host must be the same in both, and must
//! have every name of the contract.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::collections::{BTreeMap, BTreeSet};

use conductor_abi::{
    rules,
    wire::{call, event},
};
use conductor_sdk::{
    CloseReason, Error, Link,
    testing::{Rig, ServiceRig},
};
use conductor_test_steward::{Page, Steward};
use conductor_tests::{
    Host, HostOptions, Mqtt, Session, Version, Way, artefacts,
    http::post,
    link::{external, wait_down, wait_up},
    mosquitto::Mosquitto,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

/// The client whose device hears what the service says in the first session.
const WATCHER: &str = "ann";
/// The steward's method that makes each call.
const CALLS: [(&str, &str); 8] = [
    (call::SESSIONS, "list"),
    (call::CREATE_SESSION, "create"),
    (call::CLOSE_SESSION, "close"),
    (call::ASK, "ask"),
    (call::PUBLISH, "publish"),
    (call::CLIENTS, "clients"),
    (call::NOW, "now"),
    (call::SLEEP, "sleep"),
];
/// How the steward writes down that it was told of each event.
const EVENTS: [(&str, &str); 6] = [
    (event::SESSION_OPENED, "opened "),
    (event::SESSION_CLOSED, "closed "),
    (event::MESSAGE, "message "),
    (event::LINK, "link "),
    (event::REQUEST, "asked for "),
    (event::CLOSE, "farewell HostStopping "),
];

trait Stage {
    /// Somebody opens a session of the type `page`: its id.
    fn open(&mut self) -> String;
    /// Somebody closes it.
    fn close(&mut self, session: &str);
    /// Its conductor closes it.
    fn end(&mut self, session: &str);
    /// A client joins and connects.
    fn join(&mut self, session: &str, client: &str);
    fn message(&mut self, session: &str, client: &str, name: &str, payload: &str);
    /// The message of the error.
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String>;
    fn link(&mut self, up: bool);
    fn stop(&mut self);
    /// What the service said to all and to [`WATCHER`] in the first session.
    fn said(&mut self, count: usize) -> Vec<String>;
    /// The level at which this was logged.
    fn logged(&mut self, text: &str) -> String;
}

/// The session that is there when the service starts.
const FIRST: &str = "the first";

struct Kit(ServiceRig);

impl Kit {
    fn start() -> Self {
        // A conductor as it is answers for all sessions.
        let mut page = Rig::start::<Page>(()).unwrap();
        let mut rig = ServiceRig::start_among::<Steward>(json!({}), &["page"]).unwrap();
        rig.answer(move |asked| page.request(&asked.method, &asked.params));
        Self(rig)
    }

    fn id(&self, session: &str) -> String {
        if session == FIRST { self.0.sessions()[0].clone() } else { session.to_owned() }
    }
}

fn text(error: Error) -> String {
    error.message().to_owned()
}

impl Stage for Kit {
    fn open(&mut self) -> String {
        self.0.open("page")
    }
    fn close(&mut self, session: &str) {
        self.0.end(session, CloseReason::Requested).unwrap();
    }
    fn end(&mut self, session: &str) {
        self.0.end(session, CloseReason::Conductor).unwrap();
    }
    fn join(&mut self, session: &str, client: &str) {
        self.0.join(&self.id(session), client).unwrap();
    }
    fn message(&mut self, session: &str, client: &str, name: &str, payload: &str) {
        // An error of the hook is logged, and nobody's.
        drop(self.0.message(&self.id(session), client, name, payload));
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.0.request(method, params).map_err(text)
    }
    fn link(&mut self, up: bool) {
        self.0.link(if up { Link::Up } else { Link::Down }).unwrap();
    }
    fn stop(&mut self) {
        self.0.close(CloseReason::HostStopping).unwrap();
    }
    fn said(&mut self, count: usize) -> Vec<String> {
        let first = self.id(FIRST);
        let said: Vec<_> = self.0.announced().into_iter().filter(|said| said.session == first).collect();
        assert_eq!(said.len(), count, "{said:?}");
        let line = |said: conductor_sdk::testing::Announced| {
            let to = said.client.map(|client| format!("to/{client}/")).unwrap_or_default();
            format!("{to}{} {} {}", said.name, String::from_utf8(said.payload).unwrap(), said.qos)
        };
        said.into_iter().map(line).collect()
    }
    fn logged(&mut self, text: &str) -> String {
        let lines = self.0.logged();
        let line = lines.iter().find(|line| line.message.contains(text)).unwrap_or_else(|| panic!("{text:?} is not in {lines:?}"));
        ["ERROR", "WARN", "INFO"][usize::from(line.level) - 1].to_owned()
    }
}

struct Real {
    host: Host,
    first: Session,
    /// By session.
    sessions: BTreeMap<String, Session>,
    /// By session and client.
    devices: BTreeMap<(String, String), Mqtt>,
    broker: Option<Mosquitto>,
}

impl Real {
    fn start(broker_outside: bool, deadline: &str) -> Self {
        let broker = broker_outside.then(Mosquitto::open);
        let options = broker.as_ref().map_or_else(HostOptions::default, |broker| external(&format!("mqtt://{}", broker.address)));
        let options = options.plugin("page", "conductor_test_steward");
        let options = options.set("services.steward.plugin", json!(artefacts::plugin("conductor_test_steward")));
        let mut host = Host::start(options.set("services.steward.deadline", json!(deadline)));
        let first = host.create("page");
        // So that the session is there when the service starts.
        host.kill();
        host.start_again();
        if broker.is_some() {
            wait_up(&host);
        }
        Self { host, first, sessions: BTreeMap::new(), devices: BTreeMap::new(), broker }
    }

    fn session(&self, session: &str) -> &Session {
        if session == FIRST { &self.first } else { &self.sessions[session] }
    }
}

impl Stage for Real {
    fn open(&mut self) -> String {
        let session = self.host.create("page");
        let id = session.id.clone();
        self.sessions.insert(id.clone(), session);
        id
    }
    fn close(&mut self, session: &str) {
        self.host.close(&self.sessions[session]);
    }
    fn end(&mut self, session: &str) {
        assert_eq!(self.host.request(&self.sessions[session], "end", Value::Null).status, 200);
    }
    fn join(&mut self, session: &str, client: &str) {
        let mut device = device(&self.host, self.session(session), client, Version::V5, Way::Tcp);
        if client == WATCHER {
            for filter in ["news", "farewell", "to/ann/#"] {
                assert!(device.subscribe(&topic(&self.first, filter), 2));
            }
        }
        self.devices.insert((session.to_owned(), client.to_owned()), device);
    }
    fn message(&mut self, session: &str, client: &str, name: &str, payload: &str) {
        let topic = topic(self.session(session), name);
        let device = self.devices.get_mut(&(session.to_owned(), client.to_owned())).unwrap();
        assert!(device.publish(&topic, payload, 1, false));
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let answer = post(self.host.admin, "/v1/services/steward/requests", &json!({ "method": method, "params": params }).to_string());
        if answer.status == 200 {
            return Ok(answer.json()["result"].clone());
        }
        // The host says whose fault it is.
        let mut detail = answer.json()["detail"].as_str().unwrap().to_owned();
        for start in ["the service steward: ", "it is faulted: "] {
            detail = detail.strip_prefix(start).unwrap_or(&detail).to_owned();
        }
        Err(detail)
    }
    fn link(&mut self, up: bool) {
        let broker = self.broker.as_mut().unwrap();
        if up {
            broker.start_again();
            wait_up(&self.host);
        } else {
            broker.kill();
            wait_down(&self.host, "");
        }
    }
    fn stop(&mut self) {
        self.host.stop();
    }
    fn said(&mut self, count: usize) -> Vec<String> {
        let prefix = topic(&self.first, "");
        let watcher = self.devices.get_mut(&(FIRST.to_owned(), WATCHER.to_owned())).unwrap();
        (0..count)
            .map(|_| {
                let message = watcher.message();
                format!("{} {} {}", message.topic.strip_prefix(&prefix).unwrap(), message.payload, message.qos)
            })
            .collect()
    }
    fn logged(&mut self, text: &str) -> String {
        until(text, || {
            let log = self.host.log();
            let line: Value = serde_json::from_str(log.lines().find(|line| line.contains(text))?).ok()?;
            line["level"].as_str().map(str::to_owned)
        })
    }
}

/// A play: what was seen, with the sessions numbered, since their ids differ.
struct Play<'a> {
    stage: &'a mut dyn Stage,
    sessions: Vec<String>,
    seen: Vec<String>,
    calls: BTreeSet<&'static str>,
}

impl<'a> Play<'a> {
    fn of(stage: &'a mut dyn Stage) -> Self {
        Self { stage, sessions: Vec::new(), seen: Vec::new(), calls: BTreeSet::new() }
    }

    fn see(&mut self, what: &str, seen: &str) {
        let numbered = self.sessions.iter().enumerate();
        let seen = numbered.fold(seen.to_owned(), |seen, (number, id)| seen.replace(id, &format!("session {}", number + 1)));
        self.seen.push(format!("{what}: {seen}"));
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let answer = self.stage.request(method, params);
        if answer.is_ok() {
            self.calls.extend(CALLS.iter().filter(|(_, by)| *by == method).map(|(call, _)| *call));
        }
        answer
    }

    fn asked(&mut self, method: &str, params: Value) {
        let answer = self.ask(method, params);
        self.see(&format!("asked for {method}"), &format!("{answer:?}"));
    }

    /// What the service was told, up to this.
    fn told(&mut self, last: &str) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        until(last, || {
            all.extend(serde_json::from_value::<Vec<String>>(self.ask("told", Value::Null).unwrap()).unwrap());
            all.iter().any(|line| line == last).then_some(())
        });
        all
    }

    fn see_told(&mut self, last: &str) {
        for line in self.told(last) {
            self.see("told", &line);
        }
    }

    fn list(&mut self, page: u32) {
        let mut lines: Vec<String> = serde_json::from_value(self.ask("list", json!(page)).unwrap()).unwrap();
        let number = |line: &String| self.sessions.iter().position(|id| line.starts_with(id.as_str()));
        lines.sort_by_key(number);
        self.see("listed", &lines.join(", "));
    }
}

fn a_life(play: &mut Play<'_>) {
    let found = play.told_at_the_start();
    play.sessions.push(found);
    let first = play.sessions[0].clone();
    play.stage.join(FIRST, WATCHER);

    // Opened by somebody, and by the service.
    let second = play.stage.open();
    play.sessions.push(second.clone());
    let made = play.ask("create", json!("page")).unwrap();
    let third = made[0].as_str().unwrap().to_owned();
    play.see("pin", &made[1].as_str().unwrap().len().to_string());
    play.sessions.push(third.clone());
    play.see_told(&format!("opened {third} page"));

    // What it may ask.
    play.stage.join(&second, "bob");
    play.asked("ask", json!([second, "double", 21]));
    play.asked("ask", json!([first, "double", 2]));
    play.asked("ask", json!([third, "refuse", null]));
    play.asked("ask", json!([third, "fly", null]));
    play.asked("ask", json!([third, "double", "x"]));
    play.asked("ask", json!(["000000", "double", 1]));
    [0, 1, 2].into_iter().for_each(|page| play.list(page));
    for session in [&first, &second, &third] {
        play.asked("clients", json!(session));
    }
    play.asked("clients", json!("000000"));
    play.asked("now", Value::Null);
    play.asked("sleep", json!(20));
    play.asked("fly", Value::Null);
    play.asked("sleep", json!("x"));
    play.asked("fail", Value::Null);
    play.asked("heard", Value::Null);

    // What it says and hears.
    play.asked("publish", json!([first, "", "news", "to all"]));
    play.asked("publish", json!([first, WATCHER, "note", "to one"]));
    play.asked("publish", json!([first, "bob", "note", "to nobody"]));
    play.asked("publish", json!([first, "", "a/+", ""]));
    play.asked("publish", json!([first, "", "large", "x".repeat(rules::MAX_PAYLOAD + 1)]));
    play.asked("publish", json!(["000000", "", "news", ""]));
    let said = play.stage.said(2).join(", ");
    play.see("said", &said);
    play.stage.message(FIRST, WATCHER, "say", "hi");
    play.stage.message(&second, "bob", "say/2", "ho");
    play.see_told(&format!("message {second} say/2 bob ho"));
    play.asked("heard", Value::Null);

    // Closed by somebody, by the service, and by the conductor.
    play.stage.close(&second);
    play.asked("close", json!(third));
    play.asked("close", json!(third));
    let fourth = play.stage.open();
    play.sessions.push(fourth.clone());
    play.stage.end(&fourth);
    play.see_told(&format!("closed {fourth} page Conductor"));
    play.list(0);

    play.stage.stop();
    let said = play.stage.said(1).remove(0);
    play.see("said", &said);
    let logged = play.stage.logged("the steward none leaves 1 sessions: HostStopping");
    play.see("logged", &logged);
}

impl Play<'_> {
    /// The session that the service found when it was made.
    fn told_at_the_start(&mut self) -> String {
        let told: Vec<String> = serde_json::from_value(self.ask("told", Value::Null).unwrap()).unwrap();
        let [found] = told.as_slice() else { panic!("{told:?}") };
        found.strip_prefix("found ").unwrap().to_owned()
    }
}

fn misbehaves(play: &mut Play<'_>) {
    play.stage.join(FIRST, WATCHER);
    // In words of their own: the kit's are those of a conductor.
    let late = play.ask("never", Value::Null).unwrap_err();
    assert!(late.ends_with("did not answer within its deadline"), "{late}");
    play.asked("heard", Value::Null);
    play.asked("panic", Value::Null);
    play.asked("heard", Value::Null);
    play.stage.message(FIRST, WATCHER, "say", "hi");
    play.asked("told", Value::Null);
}

fn a_link(play: &mut Play<'_>) {
    play.stage.link(false);
    let mut all = play.told("link Down");
    play.stage.link(true);
    all.extend(play.told("link Up"));
    // The same may be told twice; and it starts with a link that is up, or not yet.
    all.dedup();
    all[all.len() - 2..].iter().for_each(|line| play.see("told", line));
}

#[test]
fn the_kit_and_the_host_tell_one_story_of_a_service() {
    type Story = fn(&mut Play<'_>);
    let stories: [(&str, bool, &str, Story); 3] =
        [("a life", false, "30s", a_life), ("one that misbehaves", false, "1s", misbehaves), ("a broker outside", true, "30s", a_link)];
    let (mut told, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for (name, broker_outside, deadline, story) in stories {
        let played = |stage: &mut dyn Stage| {
            let mut play = Play::of(stage);
            story(&mut play);
            (play.seen, play.calls)
        };
        let (in_kit, calls) = played(&mut Kit::start());
        let (in_host, _) = played(&mut Real::start(broker_outside, deadline));
        for (kit, host) in in_kit.iter().zip(&in_host) {
            assert_eq!(kit, host, "kit and host differ in the story {name:?}");
        }
        assert_eq!(in_kit.len(), in_host.len(), "{name}");
        asked.extend(calls);
        let line_of = |written: &str| in_kit.iter().any(|line| line.contains(&format!(": {written}")) || line.starts_with(written));
        told.extend(EVENTS.iter().filter(|(_, written)| line_of(written)).map(|(event, _)| *event));
    }
    let own = |of_services: &[&'static str], as_conductors: &[&'static str]| -> BTreeSet<&str> {
        assert!(as_conductors.iter().all(|name| event::ALL.contains(name) || call::ALL.contains(name)));
        [of_services, as_conductors].concat().into_iter().collect()
    };
    let hooks = own(event::OF_SERVICES, &[event::REQUEST, event::MESSAGE, event::LINK, event::CLOSE]);
    let calls = own(call::OF_SERVICES, &[call::PUBLISH, call::CLIENTS, call::NOW, call::SLEEP]);
    assert_eq!(told, hooks, "each hook of a service must be in a story, and in the plugin `steward`");
    assert_eq!(asked, calls, "each call of a service must be in a story, and in the plugin `steward`");
}
