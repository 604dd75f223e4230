//! Runs a conductor in a plain unit test: no host, no runtime, no waiting.
//!
//! The [`Rig`] drives the very object that the host would, through the same binary contract, with a host of its own behind
//! it: messages are recorded, time is virtual, and a sleep is over as soon as nothing else is left to do.

mod fake;
mod members;
mod time;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice},
    async_ffi::FfiFuture,
    contract::{ConductorObj, Event, HostObj, Reply},
    wire::{EventMeta, code, event, leave},
};
use serde::Serialize;
use serde_json::Value;

use self::fake::{FakeHost, State, lock};
use crate::{CloseReason, Conductor, Error, Result, Saved, Session, error::from_failure, export, guard, logging};

/// A message that the conductor sent.
///
/// ```
/// # fn f(sent: conductor_sdk::testing::Published) {
/// assert_eq!(sent.name, "lamp");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The client it was for; nothing where it was for all.
    pub client: Option<String>,
    /// The name after `/{id}/`.
    pub name: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// 0 to 2.
    pub qos: u8,
    /// Whether the broker would keep it.
    pub retain: bool,
}

/// A line that the conductor logged.
///
/// ```
/// # fn f(line: conductor_sdk::testing::Logged) {
/// assert_eq!(line.level, 3);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logged {
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub level: u8,
    /// The text.
    pub message: String,
}

/// One conductor in one session, and the hands of the test around it.
///
/// ```
/// use conductor_sdk::{prelude::*, testing::Rig};
///
/// struct Echo;
/// impl Conductor for Echo {
///     type Config = ();
///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Echo) }
///     async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
///         session.publish("echo", message.payload()).await
///     }
/// }
///
/// let mut rig = Rig::start::<Echo>(()).unwrap();
/// rig.message("ann", "say", "hi").unwrap();
/// assert_eq!(rig.published()[0].payload, b"hi");
/// ```
pub struct Rig {
    /// What its manifest says that it wants to be told.
    hooks: Vec<String>,
    conductor: Option<ConductorObj>,
    /// It panicked: the host would tell it nothing more.
    faulted: Option<Error>,
    state: Arc<Mutex<State>>,
    tasks: Vec<FfiFuture<Reply>>,
    /// Whether it is telling what followed from an event.
    following: bool,
}

impl Rig {
    /// Makes a `C` in a session `"123456"` of type `"test"`, at the time 1 000 000 000 s after the Unix epoch.
    ///
    /// # Errors
    /// Those of `C::create`, and a config that does not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// let rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(Rig::start::<Lamp>(serde_json::json!({ "colour": "red" })).is_err());
    /// ```
    pub fn start<C: Conductor>(config: impl Serialize) -> Result<Self> {
        Self::start_with::<C>(config, None)
    }

    /// As [`start`](Self::start), in a session that has saved state: `C::restore` runs. The state may be what an earlier build saved.
    ///
    /// # Errors
    /// Those of `C::restore`, and a config that does not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// struct Score(u32);
    /// impl Conductor for Score {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Score(0)) }
    ///     async fn restore(_: &Session, _: (), saved: Saved) -> Result<Self> { Ok(Score(saved.parse()?)) }
    /// }
    /// assert!(Rig::start_from::<Score>((), 0, "17").is_ok());
    /// assert!(Rig::start_from::<Score>((), 0, "much").is_err());
    /// ```
    pub fn start_from<C: Conductor>(config: impl Serialize, version: u32, bytes: impl AsRef<[u8]>) -> Result<Self> {
        Self::start_with::<C>(config, Some(Saved::new(version, bytes.as_ref().to_vec())))
    }

    fn start_with<C: Conductor>(config: impl Serialize, saved: Option<Saved>) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { now: Duration::from_secs(1_000_000_000), saved, ..State::default() }));
        let mut rig = Self { hooks: Vec::new(), conductor: None, faulted: None, state, tasks: Vec::new(), following: false };
        rig.make::<C>(config)?;
        Ok(rig)
    }

    /// The host is killed and starts again, with `C` as the plugin's newest code: conductor and tasks are gone without a word; clients,
    /// labels, timers and saved state are as they were. `C::restore` runs, or `C::create` where nothing was saved. Timers that were due
    /// meanwhile (see [`advance`](Self::advance)) fire.
    ///
    /// # Errors
    /// Those of `C`, and a config that does not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.restart::<Lamp>(()).unwrap();
    /// ```
    pub fn restart<C: Conductor>(&mut self, config: impl Serialize) -> Result<()> {
        if lock(&self.state).closed {
            return Err(Error::of(code::CLOSED, "the session is closed"));
        }
        // What the old life still says while it is dropped, it says to nobody.
        let state = std::mem::take(&mut *lock(&self.state));
        lock(&self.state).closed = true;
        self.end();
        let State { now, clients, rules, labels, saved, timers, published, logged, .. } = state;
        let state = State { now, clients, rules, labels, saved, timers, published, logged, ..State::default() };
        (self.state, self.faulted) = (Arc::new(Mutex::new(state)), None);
        self.make::<C>(config)?;
        self.follow_up();
        Ok(())
    }

    fn make<C: Conductor>(&mut self, config: impl Serialize) -> Result<()> {
        guard::install_hook();
        logging::install(HostObj::new(FakeHost(self.state.clone())));
        let offer = export::offer::<C>("test");
        let host = HostObj::new(FakeHost(self.state.clone()));
        let session = Session::new(host, "123456".into(), "test".into(), &"5eed".repeat(16), offer.surroundings()?)?;
        let config = serde_json::to_vec(&config)?;
        self.hooks = offer.manifest().hooks;
        let saved = lock(&self.state).saved.clone();
        let created = guard::run(Some(&session), offer.create(session.clone(), &config, saved));
        self.conductor = Some(self.run(created)?);
        Ok(())
    }

    /// Asks for a method; `()` as parameters means none.
    ///
    /// # Errors
    /// What the conductor answered, or [`code`](Error::code) below zero for an unknown method or parameters that do not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.request("fly", ()).unwrap_err().message().contains("no method"));
    /// ```
    pub fn request(&mut self, method: &str, params: impl Serialize) -> Result<Value> {
        let body = serde_json::to_vec(&params)?;
        let reply = self.event(event::REQUEST, method, "", &body, EventMeta::default())?;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// A client sends a message, QoS 0, not retained.
    ///
    /// # Errors
    /// What the conductor's `message` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.message("ann", "switch", "on").unwrap();
    /// ```
    pub fn message(&mut self, client: &str, name: &str, payload: impl AsRef<[u8]>) -> Result<()> {
        self.event(event::MESSAGE, name, client, payload.as_ref(), EventMeta::default()).map(drop)
    }

    /// Closes the conductor, drops it and ends its tasks. Later events answer that it is closed.
    ///
    /// # Errors
    /// What the conductor's `close` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.close(CloseReason::Requested).unwrap();
    /// ```
    pub fn close(&mut self, reason: CloseReason) -> Result<()> {
        let result = self.event(event::CLOSE, reason.as_str(), "", &[], EventMeta::default()).map(drop);
        lock(&self.state).closed = true;
        self.end();
        result
    }

    /// What was sent since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.published().is_empty());
    /// ```
    pub fn published(&mut self) -> Vec<Published> {
        std::mem::take(&mut lock(&self.state).published)
    }

    /// What was logged since the last call. (Not where the test binary has a `tracing` subscriber of its own.)
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.logged().is_empty());
    /// ```
    pub fn logged(&mut self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.state).logged)
    }

    /// How many spawned tasks run.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert_eq!(rig.tasks(), 0);
    /// ```
    pub fn tasks(&mut self) -> usize {
        self.run_tasks();
        self.tasks.len()
    }

    /// Whether the conductor asked for its session to be closed, or the rig closed it.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(!rig.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = lock(&self.state);
        state.closed || state.closing
    }

    /// Tells the conductor, if it has this hook. What it answers is logged where it is an error, as the host does.
    fn tell(&mut self, kind: &str, subject: &str, client: &str, meta: EventMeta) {
        if let Err(error) = self.tell_hook(kind, subject, client, meta) {
            let message = format!("the conductor failed at {kind}: {}", error.message());
            lock(&self.state).logged.push(Logged { level: 2, message });
        }
    }

    /// Tells the conductor, if it has this hook; nothing otherwise.
    fn tell_hook(&mut self, kind: &str, subject: &str, client: &str, meta: EventMeta) -> Result<Option<Vec<u8>>> {
        if !self.hooks.iter().any(|hook| hook == kind) {
            return Ok(None);
        }
        self.event(kind, subject, client, &[], meta).map(Some)
    }

    /// What the last event led to, in the order in which the host would tell it.
    fn follow_up(&mut self) {
        // What follows from these is told by the same loop.
        if !std::mem::replace(&mut self.following, true) {
            self.tell_what_follows();
            self.following = false;
        }
    }

    fn tell_what_follows(&mut self) {
        loop {
            let kicked = std::mem::take(&mut lock(&self.state).kicked);
            for client in &kicked {
                self.tell(event::LEFT, leave::KICKED, client, EventMeta::default());
            }
            let due = {
                let mut state = lock(&self.state);
                let now = state.now;
                let live = !(state.closed || state.closing);
                live.then(|| state.next_timer(now)).flatten().map(|(_, name)| (state.fire(&name), name))
            };
            match due {
                Some((late, name)) => {
                    let mut meta = EventMeta::default();
                    meta.late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                    self.tell(event::TIMER, &name, "", meta);
                }
                None if kicked.is_empty() => return,
                None => {}
            }
        }
    }

    fn event(&mut self, kind: &str, subject: &str, client: &str, body: &[u8], mut meta: EventMeta) -> Result<Vec<u8>> {
        meta.time = u64::try_from(lock(&self.state).now.as_millis()).unwrap_or(u64::MAX);
        let meta = serde_json::to_vec(&meta)?;
        if let Some(fault) = &self.faulted {
            return Err(fault.clone());
        }
        let mut conductor = self.conductor.take().ok_or_else(|| Error::of(code::CLOSED, "the conductor is closed"))?;
        let event = Event {
            kind: kind.into(),
            subject: subject.into(),
            client: client.into(),
            meta: RSlice::from_slice(&meta),
            body: RSlice::from_slice(body),
        };
        let reply = self.run(conductor.handle(event));
        self.conductor = Some(conductor);
        let answer = self.answer(reply);
        if kind != event::CLOSE {
            self.follow_up();
        }
        answer
    }

    fn answer(&mut self, reply: Reply) -> Result<Vec<u8>> {
        match reply {
            ROk(bytes) => Ok(bytes.to_vec()),
            RErr(failure) => {
                let error = from_failure(&failure);
                if failure.code == code::PANIC {
                    self.faulted = Some(error.clone());
                    self.end();
                }
                Err(error)
            }
        }
    }

    /// Drops the conductor and its tasks. They may still call the host: outside of its lock.
    fn end(&mut self) {
        self.tasks.clear();
        let spawned = std::mem::take(&mut lock(&self.state).spawned);
        drop(spawned);
        self.conductor = None;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
