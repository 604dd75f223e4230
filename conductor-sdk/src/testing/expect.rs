//! Assertions that tell the whole session where they fail.

use std::fmt::Write as _;

use tracing::Level;

use super::{Logged, Published, Rig, fake::lock};
use crate::Grants;

impl Rig {
    /// Takes the first message to all that was sent with this name and payload; those before and after it stay for
    /// [`published`](Self::published).
    ///
    /// # Panics
    /// Where there is none, with all that was said and the [`report`](Self::report).
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp {
    /// #     type Config = ();
    /// #     async fn create(session: &Session, _: ()) -> Result<Self> { session.publish("lamp", "off").await?; Ok(Lamp) }
    /// # }
    /// let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert_eq!(rig.expect_published("lamp", "off").qos, 0);
    /// ```
    #[track_caller]
    pub fn expect_published(&mut self, name: &str, payload: impl AsRef<[u8]>) -> Published {
        self.expect_message(None, name, payload.as_ref())
    }

    /// As [`expect_published`](Self::expect_published), of a message to one client.
    ///
    /// # Panics
    /// Where there is none.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp {
    /// #     type Config = ();
    /// #     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) }
    /// #     async fn connected(&mut self, session: &Session, client: &str) -> Result<()> { session.publish_to(client, "hello", "").await }
    /// # }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// rig.connect("ann").unwrap();
    /// rig.expect_published_to("ann", "hello", "");
    /// ```
    #[track_caller]
    pub fn expect_published_to(&mut self, client: &str, name: &str, payload: impl AsRef<[u8]>) -> Published {
        self.expect_message(Some(client), name, payload.as_ref())
    }

    /// Nothing was sent that was not looked at.
    ///
    /// # Panics
    /// Where something was.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.expect_nothing_published();
    /// ```
    #[track_caller]
    pub fn expect_nothing_published(&mut self) {
        let count = lock(&self.state).published.len();
        assert!(count == 0, "{count} messages were published where none was expected\n{}", self.report());
    }

    /// Takes the first line of the log at this level with `part` in it. Lines of the rig itself count: it logs what the host would (a
    /// hook or a task that failed, at `WARN`; a panic, at `ERROR`).
    ///
    /// # Panics
    /// Where there is none.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig, tracing::Level};
    /// # struct Lamp;
    /// # impl Conductor for Lamp {
    /// #     type Config = ();
    /// #     async fn create(_: &Session, _: ()) -> Result<Self> { tracing::warn!("no bulb"); Ok(Lamp) }
    /// # }
    /// let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.expect_logged(Level::WARN, "bulb");
    /// ```
    #[track_caller]
    pub fn expect_logged(&mut self, level: Level, part: &str) -> Logged {
        let wanted = crate::logging::number(level);
        let found = {
            let logged = &mut lock(&self.state).logged;
            logged.iter().position(|line| line.level == wanted && line.message.contains(part)).map(|at| logged.remove(at))
        };
        found.unwrap_or_else(|| panic!("nothing with {part:?} was logged at {level}\n{}", self.report()))
    }

    #[track_caller]
    fn expect_message(&mut self, client: Option<&str>, name: &str, payload: &[u8]) -> Published {
        let found = {
            let published = &mut lock(&self.state).published;
            let matches = |sent: &Published| sent.client.as_deref() == client && sent.name == name && sent.payload == payload;
            published.iter().position(matches).map(|at| published.remove(at))
        };
        found.unwrap_or_else(|| {
            let to = client.map(|client| format!(" to {client}")).unwrap_or_default();
            panic!("no message {name:?}{to} with the payload {} was published\n{}", shown(payload), self.report())
        })
    }

    /// All that a test can know of the session, for people: what was published and logged and not looked at yet, clients, timers, saved
    /// state. What the `expect_…` functions say where they fail.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// assert!(rig.report().contains("ann"));
    /// ```
    #[must_use]
    pub fn report(&self) -> String {
        let state = lock(&self.state);
        let mut text = format!("the session at {}.{:03} s, {} tasks:\n", state.now.as_secs(), state.now.subsec_millis(), state.running);
        let mut part = |name: &str, lines: Vec<String>| {
            let lines = if lines.is_empty() { "nothing".to_owned() } else { lines.join(&format!("\n{:12}", "")) };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<10}{lines}");
        };
        let conductor = match &self.faulted {
            Some(fault) => format!("faulted: {}", fault.message()),
            None if state.closed => "closed".to_owned(),
            None if state.closing => "asked for its session to be closed".to_owned(),
            None => "live".to_owned(),
        };
        part("conductor", vec![conductor]);
        part("published", state.published.iter().map(published).collect());
        part("logged", state.logged.iter().map(|line| format!("{} {}", level_name(line.level), line.message)).collect());
        part("clients", state.clients.iter().map(|member| format!("{}: {}", member.id, granted(&member.grants))).collect());
        part("kicked", state.kicked.clone());
        let timer = |(name, armed): (&String, &super::fake::Armed)| {
            let every = armed.every.map(|every| format!(", then every {every:?}")).unwrap_or_default();
            format!("{name:?} in {:?}{every}", armed.due.saturating_sub(state.now))
        };
        part("timers", state.timers.iter().map(timer).collect());
        part("labels", state.labels.iter().map(|(name, value)| format!("{name:?} = {value:?}")).collect());
        let saved = state.saved.iter().map(|saved| format!("version {}: {}", saved.version(), shown(saved.bytes())));
        part("saved", saved.collect());
        text
    }
}

fn published(sent: &Published) -> String {
    let to = sent.client.as_ref().map(|client| format!(" to {client}")).unwrap_or_default();
    let retained = if sent.retain { ", retained" } else { "" };
    format!("{:?}{to}: {} (QoS {}{retained})", sent.name, shown(&sent.payload), sent.qos)
}

fn granted(grants: &Grants) -> String {
    let list = |names: Option<&[String]>| names.map_or_else(|| "all".to_owned(), |names| format!("{names:?}"));
    format!("subscribe {}, publish {}", list(grants.subscribe_list()), list(grants.publish_list()))
}

fn level_name(level: u8) -> &'static str {
    match level {
        0 | 1 => "ERROR",
        2 => "WARN",
        3 => "INFO",
        4 => "DEBUG",
        _ => "TRACE",
    }
}

/// Bytes as text where they are; of many, the beginning.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MOST => format!("{text:?}"),
        Ok(text) => format!("{:?}… ({} bytes)", text.chars().take(MOST).collect::<String>(), text.len()),
        Err(_) => format!("{:?}… ({} bytes)", &bytes[..bytes.len().min(16)], bytes.len()),
    }
}
