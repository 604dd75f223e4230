//! The service `heartbeat`: tells each session how it is, again and again. Copy it where yours looks after all sessions.
//!
//! ```toml
//! [services.heartbeat]
//! plugin = "target/release/conductor_heartbeat"
//! config = { interval = 10, topic = "heartbeat", labels = { site = "north" } }
//! ```
//!
//! All three may be left out. At each interval (seconds, 0.1 to 86400; 10 by default) it publishes on `/{id}/{topic}` of every session, QoS 0
//! and not retained, a JSON object:
//!
//! | key | meaning |
//! | --- | --- |
//! | `session`, `type` | which session |
//! | `state` | of its conductor, as on the admin port: `live`, `idle`, … |
//! | `clients` | how many are in it |
//! | `messages` | of its clients, since the session was opened or the service started; those that were lost to a full mailbox not counted |
//! | `uptime` | of the session in seconds; null where that is not known |
//! | `labels` | those of the config; absent where there are none |
//!
//! The method `state` answers how many rounds it has made and how many sessions it told in the last one.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conductor_sdk::{prelude::*, serde_json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Seconds from one heartbeat to the next.
    interval: Interval,
    /// The name of the message.
    topic: Topic,
    /// Added to each heartbeat.
    labels: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Interval(Duration::from_secs(10)), topic: Topic("heartbeat".into()), labels: BTreeMap::new() }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
struct Interval(Duration);

impl TryFrom<f64> for Interval {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let fits = (0.1..=86_400.0).contains(&seconds);
        fits.then(|| Self(Duration::from_secs_f64(seconds))).ok_or(format!("interval is {seconds}, expected seconds from 0.1 to 86400"))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
struct Topic(String);

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let fits = !name.is_empty() && name.len() <= 256 && !name.contains(['+', '#', '\0']);
        if fits { Ok(Self(name)) } else { Err(format!("topic is {name:?}, expected 1 to 256 bytes without + and #")) }
    }
}

/// What a heartbeat says.
#[derive(Serialize)]
struct Beat<'a> {
    session: &'a str,
    r#type: &'a str,
    state: &'static str,
    clients: usize,
    messages: u64,
    uptime: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

/// How it is, for the method `state`.
#[derive(Clone, Copy, Default, Serialize, JsonSchema)]
struct Rounds {
    rounds: u64,
    sessions: usize,
}

/// What the loop and the events share.
#[derive(Default)]
struct Counted {
    messages: HashMap<String, u64>,
    rounds: Rounds,
}

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<Counted>>);

impl Counts {
    fn with<T>(&self, f: impl FnOnce(&mut Counted) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Heartbeat(Counts);

impl Service for Heartbeat {
    type Config = Config;

    async fn create(host: &Host, config: Config) -> Result<Self> {
        let counts = Counts::default();
        host.spawn(beat(host.clone(), config, counts.clone()))?;
        Ok(Self(counts))
    }

    fn methods() -> Methods<Self, Host> {
        Methods::new().on("state", Self::state)
    }

    async fn message(&mut self, _: &Host, session: &str, _: &Message) -> Result<()> {
        self.0.with(|counted| match counted.messages.get_mut(session) {
            Some(count) => *count += 1,
            None => drop(counted.messages.insert(session.to_owned(), 1)),
        });
        Ok(())
    }

    async fn session_closed(&mut self, _: &Host, closed: &SessionClosed) -> Result<()> {
        // Its id may come again.
        self.0.with(|counted| counted.messages.remove(closed.id()));
        Ok(())
    }
}

impl Heartbeat {
    async fn state(&mut self, _: &Host, (): ()) -> Result<Rounds> {
        Ok(self.0.with(|counted| counted.rounds))
    }
}

/// Ends with the service.
async fn beat(host: Host, config: Config, counts: Counts) -> Result<()> {
    let Config { interval: Interval(interval), topic: Topic(topic), labels } = config;
    loop {
        let begun = host.now();
        let mut told = 0;
        for session in host.sessions().await? {
            let now = host.now();
            let beat = Beat {
                session: session.id(),
                r#type: session.type_name(),
                state: session.state().as_str(),
                clients: session.clients(),
                messages: counts.with(|counted| counted.messages.get(session.id()).copied().unwrap_or_default()),
                uptime: session.created_at().map(|made| now.duration_since(made).unwrap_or_default().as_secs()),
                labels: &labels,
            };
            match host.publish(session.id(), &topic, serde_json::to_vec(&beat)?).await {
                Ok(()) => told += 1,
                Err(error) if error.is_closed() => return Ok(()),
                // It has ended meanwhile.
                Err(error) if error.is_no_such_session() => {}
                Err(error) => {
                    // It would be the same with the others: the broker is down.
                    tracing::warn!(%error, "no more heartbeats in this round");
                    break;
                }
            }
        }
        counts.with(|counted| counted.rounds = Rounds { rounds: counted.rounds.rounds + 1, sessions: told });
        let spent = host.now().duration_since(begun).unwrap_or_default();
        host.sleep(interval.saturating_sub(spent)).await?;
    }
}

export_plugin! { services { "heartbeat" => Heartbeat } }

#[cfg(test)]
mod tests {
    use super::*;
    use conductor_sdk::{
        serde_json::{Value, json},
        testing::{Announced, ServiceRig},
    };

    fn beats(sent: &[Announced]) -> Vec<Value> {
        sent.iter().map(|sent| serde_json::from_slice(&sent.payload).unwrap()).collect()
    }

    #[test]
    fn each_session_is_told_how_it_is_at_each_interval() {
        let config = json!({ "interval": 2, "topic": "pulse", "labels": { "site": "north" } });
        let mut rig = ServiceRig::start_among::<Heartbeat>(config, &["quiz"]).unwrap();
        rig.join("100001", "ann").unwrap();
        rig.message("100001", "ann", "buzz", "").unwrap();
        rig.message("100001", "ann", "buzz", "").unwrap();
        rig.advance(Duration::from_millis(1));
        let first = rig.announced();
        assert_eq!((first.len(), first[0].name.as_str(), first[0].session.as_str(), first[0].qos), (1, "pulse", "100001", 0));
        let labels = json!({ "site": "north" });
        let expected = json!({
            "session": "100001", "type": "quiz", "state": "live", "clients": 1, "messages": 2, "uptime": 0, "labels": labels
        });
        assert_eq!(beats(&first), [expected]);

        rig.open("lobby");
        rig.advance(Duration::from_secs(4));
        let later = beats(&rig.announced());
        assert_eq!(later.len(), 4, "two rounds, two sessions: {later:?}");
        let line = |beat: &Value| format!("{} {} {} {}", beat["session"], beat["clients"], beat["messages"], beat["uptime"]);
        assert_eq!((line(&later[2]).as_str(), line(&later[3]).as_str()), ("\"100001\" 1 2 4", "\"100002\" 0 0 3"));
        assert_eq!(rig.request("state", ()).unwrap(), json!({ "rounds": 3, "sessions": 2 }));
    }

    #[test]
    fn a_session_that_ended_is_forgotten_and_without_config_it_beats_each_ten_seconds() {
        let mut rig = ServiceRig::start_among::<Heartbeat>(json!({}), &["quiz", "quiz"]).unwrap();
        rig.message("100001", "ann", "buzz", "").unwrap();
        rig.end("100001", CloseReason::Requested).unwrap();
        rig.advance(Duration::from_secs(25));
        let sent = rig.announced();
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|sent| sent.session == "100002" && sent.name == "heartbeat"), "{sent:?}");
        assert!(beats(&sent).iter().all(|beat| beat["messages"] == 0 && beat.get("labels").is_none()));
        rig.close(CloseReason::HostStopping).unwrap();
        assert_eq!(rig.tasks(), 0);
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused_in_words() {
        for (config, why) in [
            (json!({ "interval": 0 }), "interval is 0, expected seconds from 0.1 to 86400"),
            (json!({ "topic": "a/#" }), "topic is \"a/#\", expected 1 to 256 bytes without + and #"),
            (json!({ "intervall": 1 }), "unknown field `intervall`"),
        ] {
            let refused = ServiceRig::start::<Heartbeat>(config).unwrap_err();
            assert!(refused.message().contains(why), "{}", refused.message());
        }
    }
}
