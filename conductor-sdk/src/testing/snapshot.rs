//! What a host would find after a restart, as bytes.

use std::{collections::BTreeMap, time::Duration};

use conductor_abi::wire;
use serde::{Deserialize, Serialize};

use super::{
    Rig,
    fake::{Armed, Member, State, lock},
};
use crate::{Conductor, Error, Grants, Result, Saved};

/// The form of a snapshot. Later versions of this crate read it: keys are added, never renamed.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    /// Milliseconds since the Unix epoch.
    time: u64,
    clients: Vec<Client>,
    rules: wire::JoinRules,
    labels: BTreeMap<String, String>,
    /// In the order in which those of one moment fire.
    timers: Vec<Timer>,
    saved: Option<SavedState>,
}

#[derive(Serialize, Deserialize)]
struct Client {
    id: String,
    grants: wire::Grants,
    /// Seconds since the Unix epoch.
    expires_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Timer {
    name: String,
    /// Milliseconds since the Unix epoch.
    due: u64,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
}

/// What was saved: as text where it is text, so that a snapshot in a repository can be read.
#[derive(Serialize, Deserialize)]
struct SavedState {
    version: u32,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Rig {
    /// What a host would find of this session if it died now: saved state, timers, clients and what they may do, rules for joining,
    /// labels, and the time. JSON, for [`start_from_snapshot`](Self::start_from_snapshot), now or in a later version of the plugin: a
    /// snapshot in a file holds a new build to what an old one saved.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// let snapshot = rig.snapshot();
    /// let again = Rig::start_from_snapshot::<Lamp>((), &snapshot).unwrap();
    /// assert_eq!(again.clients(), ["ann"]);
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let state = lock(&self.state);
        let mut timers: Vec<_> = state.timers.iter().collect();
        timers.sort_by_key(|(_, armed)| armed.number);
        let snapshot = Snapshot {
            time: state.millis(),
            clients: state
                .clients
                .iter()
                .map(|member| Client { id: member.id.clone(), grants: member.grants.clone().into_wire(), expires_at: member.expires_at })
                .collect(),
            rules: state.rules,
            labels: state.labels.clone(),
            timers: timers
                .into_iter()
                .map(|(name, armed)| Timer { name: name.clone(), due: millis(armed.due), every: armed.every.map(millis) })
                .collect(),
            saved: state.saved.as_ref().map(|saved| SavedState {
                version: saved.version(),
                content: match std::str::from_utf8(saved.bytes()) {
                    Ok(text) => Content::Text(text.to_owned()),
                    Err(_) => Content::Bytes(saved.bytes().to_vec()),
                },
            }),
        };
        drop(state);
        // Texts and numbers alone: there is nothing in it that JSON cannot say.
        serde_json::to_vec_pretty(&snapshot).unwrap_or_default()
    }

    /// Starts a rig where a [`snapshot`](Self::snapshot) was taken, with `C` as the plugin's newest code: `C::restore` runs, or `C::create`
    /// where nothing was saved. Time goes on from there.
    ///
    /// # Errors
    /// Bytes that are no snapshot; those of `C`, and a config that does not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// /// The next build, which reads what an earlier one saved.
    /// struct Score(u32);
    /// impl Conductor for Score {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Score(0)) }
    ///     async fn restore(_: &Session, _: (), saved: Saved) -> Result<Self> { Ok(Score(saved.parse()?)) }
    ///     fn methods() -> Methods<Self> { Methods::new().on("score", Self::score) }
    /// }
    /// impl Score {
    ///     async fn score(&mut self, _: &Session, _: ()) -> Result<u32> { Ok(self.0) }
    /// }
    /// // In a real test: include_bytes!("snapshot-of-1.0.json").
    /// let kept = br#"{"time": 1000000000000, "clients": [], "rules": {}, "labels": {}, "timers": [], "saved": {"version": 0, "text": "17"}}"#;
    /// let mut rig = Rig::start_from_snapshot::<Score>((), kept).unwrap();
    /// assert_eq!(rig.request("score", ()).unwrap(), 17);
    /// ```
    pub fn start_from_snapshot<C: Conductor>(config: impl Serialize, snapshot: impl AsRef<[u8]>) -> Result<Self> {
        let snapshot: Snapshot =
            serde_json::from_slice(snapshot.as_ref()).map_err(|e| Error::new(format!("this is no snapshot of a session: {e}")))?;
        let Snapshot { time, clients, rules, labels, timers, saved } = snapshot;
        let numbered = timers.into_iter().zip(1..);
        let timers: BTreeMap<_, _> = numbered
            .map(|(timer, number)| {
                let (due, every) = (Duration::from_millis(timer.due), timer.every.map(Duration::from_millis));
                (timer.name, Armed { due, number, every })
            })
            .collect();
        let member = |client: Client| Member { id: client.id, grants: Grants::from_wire(client.grants), expires_at: client.expires_at };
        let saved = saved.map(|saved| {
            let bytes = match saved.content {
                Content::Text(text) => text.into_bytes(),
                Content::Bytes(bytes) => bytes,
            };
            Saved::new(saved.version, bytes)
        });
        let clients = clients.into_iter().map(member).collect();
        let count = timers.len() as u64;
        let now = Duration::from_millis(time);
        Self::start_with::<C>(config, State { now, clients, rules, labels, timers, saved, count, ..State::default() })
    }
}
