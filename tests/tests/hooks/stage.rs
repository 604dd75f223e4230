//! Where a story is played: the test kit, and the real host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    time::Duration,
};

use conductor_abi::rules;
use conductor_sdk::{
    CloseReason, Error, Link,
    testing::{Rig, Sent},
};
use conductor_test_range::{Ask, Range};
use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way, artefacts, http,
    link::{external, wait_down, wait_up},
    mosquitto::Mosquitto,
    mqtt::topic,
    until,
};
use serde_json::{Value, json};

use super::stories::Story;

/// Long enough to count as later in the host, and short enough to wait for.
const SOON: Duration = Duration::from_millis(60);
/// The plugin in the host's own folder.
const PLUGIN: &str = "range.so";
/// The device that hears what the conductor says.
pub(crate) const WATCHER: &str = "watcher";

pub(crate) trait Stage {
    /// The reason where it was refused.
    fn join(&mut self, client: &str) -> Result<(), String>;
    /// With a last will, which `disconnect` brings about.
    fn connect(&mut self, client: &str);
    fn disconnect(&mut self, client: &str);
    /// By a client that is connected, at QoS 1: whether it was let through.
    fn message(&mut self, client: &str, name: &str, payload: &str, retain: bool) -> bool;
    /// The message of the error.
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String>;
    /// Lets [`SOON`] pass.
    fn wait(&mut self);
    /// The link to the broker is lost, or comes back.
    fn link(&mut self, up: bool);
    /// The host dies and starts again.
    fn restart(&mut self);
    /// The host stops in good order and starts again; this many messages that the conductor sent meanwhile.
    fn stop_and_start(&mut self, count: usize) -> Vec<String>;
    /// The session moves to another build of its plugin; this many messages that the conductor sent meanwhile.
    fn move_over(&mut self, count: usize) -> Vec<String>;
    /// Lets so much time pass that each grant has ended, or will soon.
    fn outlive_grants(&mut self);
    /// The session ends by itself.
    fn end_lifetime(&mut self);
    /// An administrator closes the session.
    fn close(&mut self);
    fn labels(&mut self) -> BTreeMap<String, String>;
    /// What the conductor said to all and to the watcher since the last look: this many messages, each with its topic in the session.
    fn said(&mut self, count: usize) -> Vec<String>;
    /// The level at which this was logged.
    fn logged(&mut self, text: &str) -> String;
}

pub(crate) struct Kit {
    rig: Rig,
    pub(crate) told: BTreeSet<String>,
    pub(crate) asked: BTreeSet<String>,
}

impl Kit {
    pub(crate) fn start(story: &Story) -> Self {
        let mut rig = Rig::start::<Range>(()).unwrap();
        if let Some(deadline) = story.deadline {
            rig.set_deadline(deadline);
        }
        Self { rig, told: BTreeSet::new(), asked: BTreeSet::new() }
    }

    pub(crate) fn look(&mut self) {
        self.told.extend(self.rig.events());
        self.asked.extend(self.rig.calls());
    }
}

fn text(error: Error) -> String {
    error.message().to_owned()
}

impl Stage for Kit {
    fn join(&mut self, client: &str) -> Result<(), String> {
        self.rig.join(client).map_err(text)
    }
    fn connect(&mut self, client: &str) {
        self.rig.connect(client).unwrap();
    }
    fn disconnect(&mut self, client: &str) {
        // An error of a hook is logged, and nobody's.
        drop(self.rig.send(Sent::by(client, "will", client).qos(1).as_will()));
        drop(self.rig.disconnect(client));
    }
    fn message(&mut self, client: &str, name: &str, payload: &str, retain: bool) -> bool {
        let sent = Sent::by(client, name, payload).qos(1);
        let sent = self.rig.send(if retain { sent.retained() } else { sent });
        // An error of the hook is logged, and not the sender's.
        !sent.is_err_and(|error| error.message().contains("may not publish"))
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.rig.request(method, params).map_err(text)
    }
    fn wait(&mut self) {
        self.rig.advance(SOON);
    }
    fn link(&mut self, up: bool) {
        self.rig.link(if up { Link::Up } else { Link::Down }).unwrap();
    }
    fn restart(&mut self) {
        self.rig.restart::<Range>(()).unwrap();
    }
    fn stop_and_start(&mut self, count: usize) -> Vec<String> {
        self.rig.close(CloseReason::HostStopping).unwrap();
        let said = self.said(count);
        self.rig = Rig::start_from_snapshot::<Range>((), self.rig.snapshot()).unwrap();
        said
    }
    fn move_over(&mut self, count: usize) -> Vec<String> {
        self.rig.replace::<Range>(()).unwrap();
        self.said(count)
    }
    fn outlive_grants(&mut self) {
        self.rig.advance(rules::GRANT_TTL);
    }
    fn end_lifetime(&mut self) {
        self.rig.close(CloseReason::Expired).unwrap();
    }
    fn close(&mut self) {
        self.rig.close(CloseReason::Requested).unwrap();
    }
    fn labels(&mut self) -> BTreeMap<String, String> {
        self.rig.labels()
    }
    fn said(&mut self, count: usize) -> Vec<String> {
        // What its tasks do, and the host does by itself: the end of a session that its conductor closed.
        self.rig.advance(SOON);
        if self.rig.is_closed() {
            drop(self.rig.close(CloseReason::Conductor));
        }
        let said = self.rig.published();
        assert_eq!(said.len(), count, "{said:?}");
        let line = |sent: conductor_sdk::testing::Published| {
            let to = sent.client.map(|client| format!("to/{client}/")).unwrap_or_default();
            format!("{to}{} {} {}", sent.name, String::from_utf8(sent.payload).unwrap(), sent.qos)
        };
        self.look();
        said.into_iter().map(line).collect()
    }
    fn logged(&mut self, text: &str) -> String {
        let level = |line: &conductor_sdk::testing::Logged| ["ERROR", "WARN", "INFO"][usize::from(line.level) - 1].to_owned();
        let found = self.rig.logged().iter().find(|line| line.message.contains(text)).map(level);
        found.unwrap_or_else(|| panic!("{text:?} was not logged"))
    }
}

/// The real host.
pub(crate) struct Real {
    pub(crate) host: Host,
    pub(crate) session: Session,
    tokens: BTreeMap<String, String>,
    devices: BTreeMap<String, Mqtt>,
    broker: Option<Mosquitto>,
}

impl Real {
    pub(crate) fn start(story: &Story) -> Self {
        let broker = story.broker_outside.then(Mosquitto::open);
        let options = broker.as_ref().map_or_else(HostOptions::default, |broker| external(&format!("mqtt://{}", broker.address)));
        // A file of its own, which the story may change.
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join(PLUGIN);
        fs::copy(artefacts::plugin("conductor_test_range"), &plugin).unwrap();
        let options = options.set("types.range.plugin", json!(plugin));
        let options = if story.short_grants { options.set("token.ttl", json!("1s")) } else { options };
        let options = match story.deadline {
            Some(deadline) => options.set("sessions.deadline", json!(format!("{}ms", deadline.as_millis()))),
            None => options,
        };
        let host = Host::start_in(folder, options);
        if broker.is_some() {
            wait_up(&host);
        }
        let session = host.create("range");
        Self { broker, ..Self::of(host, session) }
    }

    pub(crate) fn usual() -> Self {
        let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range"));
        let session = host.create("range");
        Self::of(host, session)
    }

    pub(crate) fn of(host: Host, session: Session) -> Self {
        Self { host, session, tokens: BTreeMap::new(), devices: BTreeMap::new(), broker: None }
    }
}

/// As the host's texts begin that say whose fault it is, and the kit's do not.
fn said_by_the_plugin(detail: &str) -> String {
    detail.strip_prefix("the session's conductor is faulted: ").unwrap_or(detail).to_owned()
}

impl Stage for Real {
    fn join(&mut self, client: &str) -> Result<(), String> {
        let body = json!({ "pin": self.session.pin, "client": client }).to_string();
        let answer = conductor_tests::request(self.host.iot, "POST", &format!("/v1/sessions/{}/join", self.session.id), &[], &body);
        let answer_text = |key: &str| answer.json()[key].as_str().unwrap().to_owned();
        if answer.status != 200 {
            return Err(said_by_the_plugin(&answer_text("detail")));
        }
        self.tokens.insert(client.to_owned(), answer_text("token"));
        Ok(())
    }
    fn connect(&mut self, client: &str) {
        let will = topic(&self.session, "will");
        let credentials = Credentials::new(client, &self.session.id, &self.tokens[client]).will(&will, client, false);
        let mut device = Mqtt::connect(&self.host, Version::V5, Way::Tcp, &credentials).unwrap();
        if client == WATCHER {
            for filter in ["say/#", "closed/#", "to/watcher/#"] {
                assert!(device.subscribe(&topic(&self.session, filter), 2));
            }
        }
        self.devices.insert(client.to_owned(), device);
    }
    fn disconnect(&mut self, client: &str) {
        drop(self.devices.remove(client));
    }
    fn message(&mut self, client: &str, name: &str, payload: &str, retain: bool) -> bool {
        let topic = topic(&self.session, name);
        self.devices.get_mut(client).unwrap().publish(&topic, payload, 1, retain)
    }
    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let answer = self.host.request(&self.session, method, params);
        let detail = || said_by_the_plugin(answer.json()["detail"].as_str().unwrap());
        if answer.status == 200 { Ok(answer.json()["result"].clone()) } else { Err(detail()) }
    }
    fn wait(&mut self) {
        std::thread::sleep(SOON);
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
    fn restart(&mut self) {
        self.host.kill();
        self.devices.clear();
        self.host.start_again();
    }
    fn stop_and_start(&mut self, count: usize) -> Vec<String> {
        self.host.stop();
        let said = self.said(count);
        self.devices.clear();
        self.host.start_again();
        said
    }
    fn move_over(&mut self, count: usize) -> Vec<String> {
        // Other bytes are another build.
        let mut file = File::options().append(true).open(self.host.folder().join(PLUGIN)).unwrap();
        file.write_all(&[0]).unwrap();
        drop(file);
        let report = http::post(self.host.admin, "/v1/plugins/reload", &json!({ "move": "all" }).to_string()).json();
        let kinds = report["types"].as_array().unwrap();
        let range = kinds.iter().find(|kind| kind["type"] == "range").unwrap();
        assert_eq!(range["sessions"]["moved"], 1, "{report}");
        self.said(count)
    }
    fn outlive_grants(&mut self) {
        // They are short here, and who waits for what follows waits long enough.
    }
    fn end_lifetime(&mut self) {
        let target = format!("/v1/sessions/{}", self.session.id);
        let answer = conductor_tests::request(self.host.admin, "PATCH", &target, &[], &json!({ "lifetime": "1s" }).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    fn close(&mut self) {
        self.host.close(&self.session);
    }
    fn labels(&mut self) -> BTreeMap<String, String> {
        serde_json::from_value(self.host.show(&self.session).json()["labels"].clone()).unwrap_or_default()
    }
    fn said(&mut self, count: usize) -> Vec<String> {
        let prefix = topic(&self.session, "");
        let watcher = self.devices.get_mut(WATCHER).unwrap();
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
            let line = log.lines().find(|line| line.contains(text))?;
            let line: Value = serde_json::from_str(line).ok()?;
            line["level"].as_str().map(str::to_owned)
        })
    }
}

pub(crate) fn ask(stage: &mut dyn Stage, ask: &Ask) -> Result<Value, String> {
    stage.request("ask", serde_json::to_value(ask).unwrap())
}

/// What was heard, once it ends with `last`: in the host some of it takes a moment. That a timer was late is left out, where nobody waits
/// for that: it says how fast the machine is.
pub(crate) fn heard(stage: &mut dyn Stage, last: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    until(last, || {
        all.extend(serde_json::from_value::<Vec<String>>(stage.request("heard", Value::Null).unwrap()).unwrap());
        all.retain(|line| !line.starts_with("late ") || last.starts_with("late "));
        all.last().is_some_and(|line| line == last).then(|| std::mem::take(&mut all))
    })
}
