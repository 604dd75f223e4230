//! The conductor `gateway` and the service `caretaker`: most of what the SDK 1.0 had when it was complete, used as an author would.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, time::Duration};

use conductor_sdk::{
    prelude::*,
    serde_json::{self, Value, value::RawValue},
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    url: String,
    token: Secret,
    #[serde(default)]
    spare: Option<Secret>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Known {
    values: BTreeMap<String, Value>,
}

pub struct Gateway {
    settings: Settings,
    known: Known,
    left: Vec<String>,
}

impl Conductor for Gateway {
    type Config = Settings;

    async fn create(session: &Session, settings: Settings) -> Result<Self> {
        tracing::info!(session = session.id(), kind = session.type_name(), "talks to {} with {:?}", settings.url, settings.token);
        session.set_labels([("gateway", "new")]).await?;
        session.set_max_clients(3).await?;
        session.every("sweep", Duration::from_secs(60)).await?;
        Ok(Self { settings, known: Known::default(), left: Vec::new() })
    }

    async fn restore(session: &Session, settings: Settings, saved: Saved) -> Result<Self> {
        if saved.version() != 2 {
            return Err(Error::new(format!("{} bytes of version {} are not mine", saved.bytes().len(), saved.version())));
        }
        session.set_labels([("gateway", "old")]).await?;
        Ok(Self { settings, known: saved.parse()?, left: Vec::new() })
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("key", Self::key).on("lock", Self::lock).otherwise(Self::get)
    }

    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        Ok(match (joining.client(), joining.peer()) {
            ("mallory", _) => Join::refuse("not you"),
            (_, Some("192.0.2.1")) => Join::refuse("not from there"),
            ("reader", _) => Grants::all().subscribe(["values/#"]).publish(Vec::<String>::new()).into(),
            ("nobody", _) => Grants::none().into(),
            _ => Join::accept(),
        })
    }

    async fn left(&mut self, _: &Session, left: &Left) -> Result<()> {
        let why = match left.reason() {
            Leave::Kicked => "sent away",
            Leave::Expired => "expired",
            _ => "of a later version",
        };
        self.left.push(format!("{} {why}", left.client()));
        Ok(())
    }

    async fn connected(&mut self, session: &Session, client: &str) -> Result<()> {
        session.publish_to(client, "values", serde_json::to_vec(&self.known)?).qos(1).await
    }

    async fn disconnected(&mut self, session: &Session, client: &str) -> Result<()> {
        session.publish("gone", client).await
    }

    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        let Some(name) = message.name().strip_prefix("set/") else { return Ok(()) };
        if message.is_will() || message.is_retained() || message.qos() > 1 || message.sender().is_none() {
            return Err(Error::new("not like this").with_code(7).with_data(message.name()));
        }
        self.known.values.insert(name.to_owned(), message.json()?);
        session.save(&self.known).version(2).await?;
        session.publish(&format!("values/{name}"), message.payload()).retain(true).await?;
        session.once("changed", Duration::from_secs(1)).await
    }

    async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
        match timer.name() {
            "changed" => session.publish("changed", if timer.late() > Duration::from_secs(1) { "late" } else { "in time" }).await,
            _ => session.cancel_timer("changed").await,
        }
    }

    async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
        session.publish("closed", format!("{reason:?}")).await
    }
}

impl Gateway {
    async fn key(&mut self, session: &Session, client: Option<String>) -> Result<usize> {
        if let Some(client) = client {
            session.set_grants(&client, Grants::all().publish(["set/+"])).await?;
        }
        let spare = self.settings.spare.as_ref().map_or(0, |spare| spare.expose().len());
        Ok(self.settings.token.expose().len() + spare)
    }

    async fn lock(&mut self, session: &Session, locked: bool) -> Result<Vec<String>> {
        session.lock_joining(locked).await?;
        for client in session.clients().iter().filter(|client| client.id() == "reader") {
            session.kick(client.id()).await?;
        }
        Ok(std::mem::take(&mut self.left))
    }

    async fn get(&mut self, _: &Session, request: Request) -> Result<Box<RawValue>> {
        if request.method() == "echo" {
            return Ok(request.params().to_owned());
        }
        let value = self.known.values.get(request.method()).ok_or_else(|| request.unknown())?;
        let text = request.parse::<Option<bool>>()?.unwrap_or_default().then(|| format!("{value:#}"));
        Ok(RawValue::from_string(text.unwrap_or_else(|| value.to_string()))?)
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rules {
    /// How many sessions of this type there are to be.
    at_least: BTreeMap<String, usize>,
}

pub struct Caretaker {
    rules: Rules,
    heard: Vec<String>,
}

impl Service for Caretaker {
    type Config = Rules;

    async fn create(host: &Host, rules: Rules) -> Result<Self> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for session in host.sessions().await? {
            *counts.entry(session.type_name().to_owned()).or_default() += 1;
        }
        for (kind, wanted) in &rules.at_least {
            for _ in counts.get(kind).copied().unwrap_or_default()..*wanted {
                let made: NewSession = host.create_session(kind).await?;
                tracing::info!(service = host.name(), "made {} with a pin of {} digits", made.id(), made.pin().len());
            }
        }
        host.spawn(greet(host.clone())).map(drop)?;
        Ok(Self { rules, heard: Vec::new() })
    }

    fn methods() -> Methods<Self, Host> {
        Methods::new().on("heard", Self::heard).on("busiest", Self::busiest).otherwise(Self::other)
    }

    async fn message(&mut self, host: &Host, session: &str, message: &Message) -> Result<()> {
        self.heard.push(format!("{session} {} {}", message.sender().unwrap_or("?"), message.text()?));
        if let Some(client) = message.sender() {
            host.publish_to(session, client, "heard", message.payload()).qos(1).await?;
        }
        Ok(())
    }

    async fn session_opened(&mut self, host: &Host, opened: &SessionOpened) -> Result<()> {
        host.publish(opened.id(), "welcome", opened.type_name()).retain(true).await
    }

    async fn session_closed(&mut self, host: &Host, closed: &SessionClosed) -> Result<()> {
        self.heard.push(format!("{} {:?}", closed.type_name(), closed.reason()));
        if self.rules.at_least.contains_key(closed.type_name()) && closed.reason() != CloseReason::HostStopping {
            host.create_session(closed.type_name()).await?;
        }
        Ok(())
    }

    async fn link(&mut self, _: &Host, link: Link) -> Result<()> {
        self.heard.push(if link == Link::Down { "silence".into() } else { "sound".into() });
        Ok(())
    }

    async fn close(&mut self, host: &Host, _: CloseReason) -> Result<()> {
        for session in host.session_page(None, 1).await? {
            match host.close_session(session.id()).await {
                Err(error) if !error.is_no_such_session() && !error.is_closed() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Caretaker {
    async fn heard(&mut self, _: &Host, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.heard))
    }

    async fn busiest(&mut self, host: &Host, (): ()) -> Result<Option<String>> {
        let sessions = host.sessions().await?;
        let live = sessions.iter().filter(|session| session.state() == SessionState::Live && session.created_at() <= Some(host.now()));
        Ok(live.max_by_key(|session| session.clients()).map(|session| session.id().to_owned()))
    }

    /// Any other method is one of the busiest session's conductor.
    async fn other(&mut self, host: &Host, request: Request) -> Result<Value> {
        let session = self.busiest(host, ()).await?.ok_or_else(|| request.unknown())?;
        host.ask(&session, request.method(), request.params()).await
    }
}

async fn greet(host: Host) -> Result<()> {
    host.sleep(Duration::from_secs(5)).await?;
    for session in host.sessions().await? {
        host.publish(session.id(), "hello", host.random_below(1).to_string()).await?;
    }
    Ok(())
}

export_plugin! {
    conductors { "gateway" => Gateway }
    services { "caretaker" => Caretaker }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conductor_sdk::{
        serde_json::json,
        testing::{Rig, Sent, ServiceRig},
        tracing::Level,
    };

    fn gateway() -> Rig {
        Rig::start::<Gateway>(json!({ "url": "https://example.org", "token": "swordfish" })).unwrap()
    }

    #[test]
    fn who_joins_may_do_what_it_is_granted() {
        let mut rig = gateway();
        assert!(!rig.expect_logged(Level::INFO, "talks to https://example.org").message.contains("swordfish"));
        assert_eq!(rig.join("mallory").unwrap_err().message(), "not you");
        assert!(rig.join_from("ann", "192.0.2.1").is_err());
        for client in ["ann", "reader", "nobody"] {
            rig.join(client).unwrap();
        }
        assert!(rig.join("eve").is_err());
        assert_eq!(rig.grants("nobody"), Some(Grants::none()));
        assert_eq!(rig.grants("reader").unwrap().subscribe_list(), Some(&["values/#".to_owned()][..]));
        assert_eq!(rig.request("key", json!("ann")).unwrap(), 9);
        assert_eq!(rig.grants("ann").unwrap().publish_list(), Some(&["set/+".to_owned()][..]));
        rig.request("lock", true).unwrap();
        assert_eq!((rig.kicked(), rig.clients()), (vec!["reader".to_owned()], vec!["ann".to_owned(), "nobody".to_owned()]));
        rig.leave("nobody", Leave::Expired).unwrap();
        assert_eq!(rig.request("lock", false).unwrap(), json!(["reader sent away", "nobody expired"]));
        assert!(Rig::start::<Gateway>(json!({ "url": "x", "token": 1 })).is_err());
    }

    #[test]
    fn values_are_told_saved_and_there_after_a_restart() {
        let mut rig = gateway();
        rig.join("ann").unwrap();
        rig.connect("ann").unwrap();
        rig.expect_published_to("ann", "values", r#"{"values":{}}"#);
        rig.message("ann", "set/lamp", "true").unwrap();
        assert!(rig.expect_published("values/lamp", "true").retain);
        for sent in
            [Sent::by("ann", "set/x", "1").as_will(), Sent::by("ann", "set/x", "1").retained(), Sent::by_somebody("set/x", "1").qos(1)]
        {
            assert_eq!(rig.send(sent).unwrap_err().code(), 7);
        }
        rig.expect_nothing_published();
        assert_eq!((rig.request("lamp", ()).unwrap(), rig.request("echo", [1]).unwrap()), (json!(true), json!([1])));
        assert!(rig.request("door", ()).unwrap_err().message().contains("no method"));
        assert_eq!(rig.timers(), ["changed", "sweep"]);
        rig.advance(Duration::from_secs(1));
        rig.expect_published("changed", "in time");

        rig.message("ann", "set/door", r#""open""#).unwrap();
        let kept = rig.snapshot();
        rig.pass_down_time(Duration::from_secs(10));
        let settings = json!({ "url": "https://example.org", "token": "swordfish" });
        rig.restart::<Gateway>(&settings).unwrap();
        assert_eq!((rig.request("door", ()).unwrap(), rig.labels()["gateway"].as_str()), (json!("open"), "old"));
        rig.expect_published("changed", "late");
        rig.disconnect("ann").unwrap();
        rig.expect_published("gone", "ann");
        rig.close(CloseReason::Requested).unwrap();
        rig.expect_published("closed", "Requested");

        let mut again = Rig::start_from_snapshot::<Gateway>(&settings, kept).unwrap();
        assert_eq!((again.clients(), again.request("lamp", ()).unwrap()), (vec!["ann".to_owned()], json!(true)));
        assert!(Rig::start_from::<Gateway>(&settings, 1, "{}").unwrap_err().message().contains("version 1"));
    }

    #[test]
    fn the_service_looks_after_sessions() {
        let mut rig = ServiceRig::start_among::<Caretaker>(json!({ "at_least": { "gateway": 2 } }), &["gateway", "lobby"]).unwrap();
        assert_eq!((rig.created(), rig.sessions().len()), (vec!["100003".to_owned()], 3));
        assert!(rig.logged()[0].message.contains("made 100003"));
        rig.join("100002", "ann").unwrap();
        rig.message("100002", "ann", "say", "hi").unwrap();
        let announced = rig.announced();
        let line = |index: usize| (announced[index].session.as_str(), announced[index].name.as_str(), announced[index].client.as_deref());
        assert_eq!((line(0), line(1)), (("100003", "welcome", None), ("100002", "heard", Some("ann"))));
        rig.answer(|asked| Ok(json!([asked.session, asked.method, asked.params])));
        assert_eq!(rig.request("state", [1]).unwrap(), json!(["100002", "state", [1]]));
        assert_eq!(rig.asked()[0].method, "state");
        assert_eq!(rig.tasks(), 1);
        rig.advance(Duration::from_secs(5));
        assert_eq!((rig.announced().len(), rig.tasks()), (3, 0));
        rig.end("100001", CloseReason::Conductor).unwrap();
        assert_eq!((rig.created(), rig.open("lobby")), (vec!["100004".to_owned()], "100005".to_owned()));
        rig.link(Link::Down).unwrap();
        assert_eq!(rig.request("heard", ()).unwrap(), json!(["100002 ann hi", "gateway Conductor", "silence"]));
        rig.close(CloseReason::HostStopping).unwrap();
        assert_eq!(rig.closed(), ["100002"]);
    }
}
