//! Runs a conductor in a plain unit test: no host, no runtime, no waiting.
//!
//! The [`Rig`] drives the very object that the host would, through the same binary contract, with a host of its own behind
//! it: messages are recorded, time is virtual, and a sleep is over as soon as nothing else is left to do.

mod fake;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice},
    async_ffi::FfiFuture,
    contract::{ConductorObj, Event, HostObj, Reply},
    wire::{EventMeta, code, event},
};
use serde::Serialize;
use serde_json::Value;

use self::fake::{FakeHost, State, lock};
use crate::{CloseReason, Conductor, Error, Link, Result, Session, error::from_failure, export, guard, logging};

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
    conductor: Option<ConductorObj>,
    /// It panicked: the host would tell it nothing more.
    faulted: Option<Error>,
    state: Arc<Mutex<State>>,
    tasks: Vec<FfiFuture<Reply>>,
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
        guard::install_hook();
        let state = Arc::new(Mutex::new(State { now: Duration::from_secs(1_000_000_000), ..State::default() }));
        logging::install(HostObj::new(FakeHost(state.clone())));
        let session = Session::new(HostObj::new(FakeHost(state.clone())), "123456".into(), "test".into(), &"5eed".repeat(16))?;
        let config = serde_json::to_vec(&config)?;
        let mut rig = Self { conductor: None, faulted: None, state, tasks: Vec::new() };
        let created = guard::run(Some(&session), export::offer::<C>("test").create(session.clone(), &config));
        rig.conductor = Some(rig.run(created)?);
        Ok(rig)
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

    /// The link to the broker comes up or is lost.
    ///
    /// # Errors
    /// What the conductor's `link` answered.
    ///
    /// ```
    /// # use conductor_sdk::{Link, prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.link(Link::Down).unwrap();
    /// ```
    pub fn link(&mut self, link: Link) -> Result<()> {
        self.event(event::LINK, link.as_str(), "", &[], EventMeta::default()).map(drop)
    }

    /// A client joins: [`Session::clients`] lists it.
    ///
    /// # Errors
    /// Where the session is closed.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// ```
    pub fn join(&mut self, client: &str) -> Result<()> {
        let mut state = lock(&self.state);
        if state.closed || state.closing {
            return Err(Error::of(code::CLOSED, "the session is closed"));
        }
        if !state.clients.iter().any(|known| known == client) {
            state.clients.push(client.to_owned());
        }
        Ok(())
    }

    /// Lets time pass: tasks run, and sleeps that end within it end in their order.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.advance(std::time::Duration::from_secs(60));
    /// ```
    pub fn advance(&mut self, duration: Duration) {
        let end = lock(&self.state).now + duration;
        self.run_tasks();
        while self.wake_next(end) {
            self.run_tasks();
        }
        lock(&self.state).now = end;
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

    /// Runs `future` to its end, tasks beside it; where all wait, time goes on to the next sleep that ends.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            self.run_tasks();
            if !self.wake_next(Duration::MAX) {
                // Woken from a thread of the author's own.
                thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    fn run_tasks(&mut self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            self.tasks.append(&mut lock(&self.state).spawned);
            self.tasks.retain_mut(|task| Pin::new(task).poll(&mut Context::from_waker(&waker)).is_pending());
            if lock(&self.state).spawned.is_empty() {
                return;
            }
        }
    }

    /// Moves time to the next sleep that ends by `end`.
    fn wake_next(&mut self, end: Duration) -> bool {
        let mut state = lock(&self.state);
        let Some(entry) = state.sleepers.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((due, _), waker) = entry.remove_entry();
        state.now = state.now.max(due);
        drop(state);
        waker.wake();
        true
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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests;
