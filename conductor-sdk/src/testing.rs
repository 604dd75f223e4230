//! Runs a conductor in a plain unit test: no host, no runtime, no waiting.
//!
//! The [`Rig`] drives the very object that the host would, through the same binary contract, with a host of its own behind
//! it: messages are recorded, time is virtual, and a sleep is over as soon as nothing else is left to do. What a conductor may ask is decided
//! by the same code as in the host, so that what passes here passes there.
//!
//! A test drives the session ([`join`](Rig::join), [`message`](Rig::message), [`request`](Rig::request), [`advance`](Rig::advance), …) and
//! looks at what became of it ([`published`](Rig::published), [`saved`](Rig::saved), [`grants`](Rig::grants), …), or says what it expects
//! ([`expect_published`](Rig::expect_published), [`expect_logged`](Rig::expect_logged)): then the whole session is told where it was not so.
//!
//! - **Deadline.** An event has 5 s of virtual time, as by default in the host ([`set_deadline`](Rig::set_deadline) for another): what
//!   waits longer is given up. What waits for another thread has as long in real time. A handler that blocks its thread blocks the test.
//! - **Panic.** The conductor is faulted then, as in the host: it is told nothing more, requests answer with the panic, joins are
//!   refused where it has [`joining`](crate::Conductor::joining) and go on otherwise.
//! - **Restarts and upgrades.** [`restart`](Rig::restart) plays a host that dies and starts again, also with newer code; [`replace`](Rig::replace)
//!   an upgrade of the running session, in which the old code may save; [`snapshot`](Rig::snapshot) and
//!   [`start_from_snapshot`](Rig::start_from_snapshot) do the same with bytes that can be kept in a file.
//!
//! What devices see (their connections, retained messages, quality of service) is the broker's affair and not played.

mod events;
mod expect;
mod fake;
mod members;
mod messages;
mod service;
mod snapshot;
mod time;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use conductor_abi::{
    async_ffi::FfiFuture,
    contract::{ConductorObj, HostObj, Reply},
    rules,
    wire::{EventMeta, code, event},
};
use serde::Serialize;
use serde_json::Value;

pub use self::messages::{Logged, Published, Sent};
pub use self::service::{Announced, Asked, ServiceRig};
use self::{
    events::{PEER, caller},
    fake::{FakeHost, State, lock},
};
use crate::{CloseReason, Conductor, Error, Result, Saved, Session, export, guard, logging};

/// One conductor in one session, and the hands of the test around it.
///
/// The conductor and its tasks run on the test's thread, inside of the functions here and in a fixed order: each returns when what it caused is done,
/// or waits for time to pass.
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
    deadline: Duration,
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
        Self::start_with::<C>(config, State { making: true, ..State::default() })
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
        let saved = Some(Saved::new(version, bytes.as_ref().to_vec()));
        Self::start_with::<C>(config, State { saved, ..State::default() })
    }

    fn start_with<C: Conductor>(config: impl Serialize, state: State) -> Result<Self> {
        let now = state.now.max(Duration::from_secs(1_000_000_000));
        let state = Arc::new(Mutex::new(State { now, ..state }));
        let (hooks, tasks, deadline) = (Vec::new(), Vec::new(), rules::DEADLINE);
        let mut rig = Self { hooks, conductor: None, faulted: None, state, tasks, following: false, deadline };
        rig.make::<C>(config)?;
        lock(&rig.state).making = false;
        rig.follow_up();
        Ok(rig)
    }

    /// How long each event may take from now on, other than 5 s. ([`close`](Self::close) has 10 s in any case.)
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # use std::time::Duration;
    /// struct Slow;
    /// impl Conductor for Slow {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Slow) }
    ///     async fn message(&mut self, session: &Session, _: &Message) -> Result<()> { session.sleep(Duration::from_secs(2)).await }
    /// }
    /// let mut rig = Rig::start::<Slow>(()).unwrap();
    /// assert!(rig.message("ann", "say", "hi").is_ok());
    /// rig.set_deadline(Duration::from_secs(1));
    /// assert!(rig.message("ann", "say", "hi").unwrap_err().message().contains("deadline"));
    /// ```
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
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
            return Err(Error::of(code::CLOSED, rules::CLOSED));
        }
        self.begin_anew::<C>(config)
    }

    /// The running session moves to `C`, a newer build of the plugin: its conductor is told
    /// [`close(Replaced)`](CloseReason::Replaced), in which it may save; its tasks end and it is dropped; and `C::restore` makes another from what was
    /// saved last, or `C::create` where nothing was. Clients, grants, labels and timers stay, and what `close` did to them is
    /// told to the new one. An error of the old one's `close` is logged, and the session moves all the same. One that panicked is made anew, too.
    ///
    /// # Errors
    /// Those of `C`, and a config that does not fit (the host would then make the old one again; here there is none any more). A session that is
    /// closed, also by its conductor in this very `close`.
    ///
    /// ```
    /// use conductor_sdk::{prelude::*, testing::Rig};
    ///
    /// struct Game { score: u32 }
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Self { score: 7 }) }
    ///     async fn restore(_: &Session, _: (), saved: Saved) -> Result<Self> { Ok(Self { score: saved.parse()? }) }
    ///     async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
    ///         match reason {
    ///             CloseReason::HostStopping | CloseReason::Replaced => session.save(&self.score).await,
    ///             _ => Ok(()),
    ///         }
    ///     }
    /// }
    ///
    /// let mut rig = Rig::start::<Game>(()).unwrap();
    /// rig.replace::<Game>(()).unwrap();
    /// assert_eq!(rig.saved().unwrap().bytes(), b"7");
    /// ```
    pub fn replace<C: Conductor>(&mut self, config: impl Serialize) -> Result<()> {
        if self.is_closed() {
            return Err(Error::of(code::CLOSED, rules::CLOSED));
        }
        lock(&self.state).ending = Some(CloseReason::Replaced);
        if self.faulted.is_none() {
            // Logged there.
            let _ = self.drive(event::CLOSE, CloseReason::Replaced.as_str(), "", &[], EventMeta::default());
        }
        if self.is_closed() {
            lock(&self.state).closed = true;
            self.end();
            return Err(Error::of(code::CLOSED, rules::CLOSED));
        }
        self.begin_anew::<C>(config)
    }

    /// Drops the conductor and makes another, in the same session.
    fn begin_anew<C: Conductor>(&mut self, config: impl Serialize) -> Result<()> {
        // What the old life still says while it is dropped, it says to nobody.
        let state = std::mem::take(&mut *lock(&self.state));
        lock(&self.state).closed = true;
        self.end();
        let State { now, clients, rules, labels, saved, timers, leaving, kicked, published, logged, told, asked, count, spawned, .. } =
            state;
        // Tasks that never ran; the old life is over before the new one begins.
        drop(spawned);
        let kept = State {
            now,
            clients,
            rules,
            labels,
            saved,
            timers,
            leaving,
            kicked,
            published,
            logged,
            told,
            asked,
            count,
            ..State::default()
        };
        (self.state, self.faulted) = (Arc::new(Mutex::new(kept)), None);
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
        let created = guard::run(Some(session.clone()), offer.create(session, &config, saved));
        self.take_in(created)
    }

    /// Waits for what is made, and keeps it as what is told from now on.
    fn take_in(&mut self, created: impl Future<Output = Result<ConductorObj>>) -> Result<()> {
        match self.run(created, self.deadline) {
            Some(Ok(conductor)) if self.faulted.is_none() => self.conductor = Some(conductor),
            Some(Err(error)) => return Err(error),
            None => return Err(Error::of(code::DEADLINE, rules::GIVEN_UP)),
            // A task that it spawned panicked meanwhile.
            Some(Ok(conductor)) => drop(conductor),
        }
        self.faulted.clone().map_or(Ok(()), Err)
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
        let reply = self.event(event::REQUEST, method, "", &body, caller("admin", PEER))?;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// Closes the conductor, drops it and ends its tasks. Later events answer that it is closed. After
    /// [`Session::close`](crate::Session::close) the host would do this by itself; here it is the test's to do.
    ///
    /// With [`HostStopping`](CloseReason::HostStopping) and [`Replaced`](CloseReason::Replaced) the session goes on, so what is saved in `close` is kept:
    /// take a [`snapshot`](Self::snapshot) and [`start_from_snapshot`](Self::start_from_snapshot). [`replace`](Self::replace) is all of an
    /// upgrade in one.
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
        let ended = lock(&self.state).ending.replace(reason).is_some();
        let result = match self.faulted {
            // A faulted one is told nothing, and its session ends all the same.
            Some(_) if !ended => Ok(()),
            _ if ended => Err(Error::of(code::CLOSED, rules::CLOSED)),
            _ => self.tell_hook(event::CLOSE, reason.as_str(), "", &[], EventMeta::default()).map(drop),
        };
        lock(&self.state).closed = true;
        self.end();
        result
    }

    /// The names of the events that the conductor was told since its start, its making apart: `request`, `message`, `joining`, … For a test that
    /// wants to know what it has not tried.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// let _ = rig.request("fly", ());
    /// assert!(rig.events().contains("request"));
    /// ```
    #[must_use]
    pub fn events(&self) -> BTreeSet<String> {
        lock(&self.state).told.clone()
    }

    /// The names of the calls by which the conductor has asked something of its session since its start: `publish`, `save`, `timer`, … (Spawned tasks and
    /// lines for the log have none.)
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp {
    /// #     type Config = ();
    /// #     async fn create(session: &Session, _: ()) -> Result<Self> { session.publish("lamp", "off").await?; Ok(Lamp) }
    /// # }
    /// let rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.calls().contains("publish"));
    /// ```
    #[must_use]
    pub fn calls(&self) -> BTreeSet<String> {
        lock(&self.state).asked.clone()
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
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report())
    }
}

#[cfg(test)]
mod host_rules;
#[cfg(test)]
mod tests;
