//! Runs a service in a plain unit test: a host with sessions of its own behind it.

mod world;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use conductor_abi::{
    contract::HostObj,
    rules,
    wire::{EventMeta, code, event},
};
use serde::Serialize;
use serde_json::Value;

use self::world::{FakeApp, World, no_such_session};
use super::{
    Logged, Rig,
    fake::{FakeHost, State, lock},
};
use crate::{CloseReason, Error, Link, Result, Service, Session, error::from_failure, export, guard, logging};

/// A message that the service sent.
///
/// ```
/// # fn f(sent: conductor_sdk::testing::Announced) {
/// assert_eq!((sent.session.as_str(), sent.name.as_str()), ("100001", "news"));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announced {
    /// The session it was sent in.
    pub session: String,
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

/// What the service asked of a session's conductor.
///
/// ```
/// # fn f(asked: conductor_sdk::testing::Asked) {
/// assert_eq!(asked.method, "state");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Asked {
    /// Of which session.
    pub session: String,
    /// For which method.
    pub method: String,
    /// With which parameters.
    pub params: Value,
}

/// One service, and the hands of the test around it: it opens and closes sessions, whose clients join and send, and it answers for their
/// conductors. Ids are `"100001"`, `"100002"` and so on. Time is virtual, and all runs on the test's
/// thread inside of the functions here and in a fixed order, as with the [`Rig`].
///
/// ```
/// use conductor_sdk::{prelude::*, testing::ServiceRig};
///
/// struct Relay;
/// impl Service for Relay {
///     type Config = ();
///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Relay) }
///     async fn message(&mut self, host: &Host, session: &str, message: &Message) -> Result<()> {
///         host.publish(session, "heard", message.payload()).await
///     }
/// }
///
/// let mut rig = ServiceRig::start::<Relay>(()).unwrap();
/// let session = rig.open("default");
/// rig.message(&session, "ann", "say", "hi").unwrap();
/// assert_eq!(rig.announced()[0].payload, b"hi");
/// ```
pub struct ServiceRig {
    rig: Rig,
    world: Arc<Mutex<World>>,
}

impl ServiceRig {
    /// Makes an `S` called `"test"` on a host without sessions, at the time 1 000 000 000 s after the Unix epoch.
    ///
    /// # Errors
    /// Those of `S::create`, and a config that does not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// let rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(ServiceRig::start::<Idle>(serde_json::json!({ "colour": "red" })).is_err());
    /// ```
    pub fn start<S: Service>(config: impl Serialize) -> Result<Self> {
        Self::start_among::<S>(config, &[])
    }

    /// As [`start`](Self::start), with a session of each of these types there already.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// struct Greeter;
    /// impl Service for Greeter {
    ///     type Config = ();
    ///     async fn create(host: &Host, _: ()) -> Result<Self> {
    ///         for session in host.sessions().await? {
    ///             host.publish(session.id(), "hello", session.type_name()).await?;
    ///         }
    ///         Ok(Greeter)
    ///     }
    /// }
    /// let mut rig = ServiceRig::start_among::<Greeter>((), &["default", "quiz"]).unwrap();
    /// assert_eq!(rig.announced().len(), 2);
    /// ```
    pub fn start_among<S: Service>(config: impl Serialize, types: &[&str]) -> Result<Self> {
        let now = Duration::from_secs(1_000_000_000);
        let state = Arc::new(Mutex::new(State { now, ..State::default() }));
        let mut world = World::default();
        for name in types {
            world.open(name, now);
        }
        // Those are no news.
        world.news.clear();
        let world = Arc::new(Mutex::new(world));
        guard::install_hook();
        logging::install(HostObj::new(FakeHost(state.clone())));
        let host = HostObj::new(FakeApp { base: FakeHost(state.clone()), world: world.clone() });
        let offer = export::offer_service::<S>("test");
        let own = Session::new(host, String::new(), "test".into(), &"5eed".repeat(16), offer.surroundings()?)?;
        let config = serde_json::to_vec(&config)?;
        let hooks = offer.manifest().hooks;
        let (tasks, deadline) = (Vec::new(), rules::DEADLINE);
        let rig = Rig { hooks, conductor: None, faulted: None, state, tasks, following: false, deadline };
        let mut rig = Self { rig, world };
        let created = guard::run(Some(own.clone()), offer.create(own, &config, None));
        rig.rig.take_in(created)?;
        rig.tell_news();
        Ok(rig)
    }

    /// Somebody opens a session; the service is told. Its id.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert_eq!(rig.open("default"), "100001");
    /// ```
    pub fn open(&mut self, type_name: &str) -> String {
        let now = lock(&self.rig.state).now;
        let id = lock(&self.world).open(type_name, now);
        self.tell_news();
        id
    }

    /// Somebody closes a session, or it ends; the service is told.
    ///
    /// # Errors
    /// A session that is not there.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start_among::<Idle>((), &["default"]).unwrap();
    /// rig.end("100001", CloseReason::Conductor).unwrap();
    /// assert!(rig.end("100001", CloseReason::Conductor).is_err());
    /// ```
    pub fn end(&mut self, session: &str, reason: CloseReason) -> Result<()> {
        lock(&self.world).close(session, reason.as_str()).map_err(|failure| from_failure(&failure))?;
        self.tell_news();
        Ok(())
    }

    /// A client joins a session. (A service is not told; [`Host::clients`](crate::Host::clients) lists it.)
    ///
    /// # Errors
    /// A session that is not there; a name that no client can have.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start_among::<Idle>((), &["default"]).unwrap();
    /// rig.join("100001", "ann").unwrap();
    /// assert!(rig.join("100001", "").is_err());
    /// ```
    pub fn join(&mut self, session: &str, client: &str) -> Result<()> {
        let mut world = lock(&self.world);
        let known = world.sessions.get_mut(session);
        let known = known.ok_or_else(|| from_failure(&no_such_session(session)))?;
        rules::client(client).map_err(|reason| Error::of(code::REFUSED, reason))?;
        if !known.clients.iter().any(|other| other == client) {
            known.clients.push(client.to_owned());
        }
        Ok(())
    }

    /// A client of a session sends a message, QoS 0, not retained; the service is told where it has the hook.
    ///
    /// # Errors
    /// A session that is not there; a name that cannot be published to, or a payload that is too large (the broker refuses that, and the service
    /// does not hear of it); what the service's `message` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start_among::<Idle>((), &["default"]).unwrap();
    /// rig.message("100001", "ann", "switch", "on").unwrap();
    /// assert!(rig.message("100002", "ann", "switch", "on").unwrap_err().is_no_such_session());
    /// ```
    pub fn message(&mut self, session: &str, client: &str, name: &str, payload: impl AsRef<[u8]>) -> Result<()> {
        lock(&self.world).known(session).map_err(|failure| from_failure(&failure))?;
        let payload = payload.as_ref();
        rules::publish(name, 0)
            .and_then(|()| rules::payload(payload.len(), rules::MAX_PAYLOAD))
            .map_err(|reason| Error::of(code::REFUSED, reason))?;
        if !self.rig.hooks.iter().any(|hook| hook == event::MESSAGE) {
            return Ok(());
        }
        let mut meta = EventMeta::default();
        meta.session = Some(session.to_owned());
        let told = self.rig.event(event::MESSAGE, name, client, payload, meta).map(drop);
        self.tell_news();
        told
    }

    /// Asks the service for a method, as an administrator; `()` as parameters means none.
    ///
    /// # Errors
    /// What the service answered, or a [`code`](crate::Error::code) below zero for an unknown method or parameters that do not fit.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.request("fly", ()).unwrap_err().message().contains("no method"));
    /// ```
    pub fn request(&mut self, method: &str, params: impl Serialize) -> Result<Value> {
        let answer = self.rig.request(method, params);
        self.tell_news();
        answer
    }

    /// The link to an external broker comes up or is lost.
    ///
    /// # Errors
    /// What the service's `link` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// rig.link(Link::Down).unwrap();
    /// ```
    pub fn link(&mut self, link: Link) -> Result<()> {
        let told = self.rig.tell_hook(event::LINK, link.as_str(), "", &[], EventMeta::default()).map(drop);
        self.tell_news();
        told
    }

    /// Says what the conductors of all sessions answer to [`Host::ask`](crate::Host::ask). Before, they know no method.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// rig.answer(|asked| match asked.method.as_str() {
    ///     "state" => Ok("State".into()),
    ///     _ => Err(Error::new("not now").with_code(3)),
    /// });
    /// ```
    pub fn answer(&mut self, answers: impl FnMut(&Asked) -> Result<Value> + Send + 'static) {
        lock(&self.world).answers = Box::new(answers);
    }

    /// Lets time pass: the service's tasks run, and sleeps that end within it end.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// rig.advance(std::time::Duration::from_secs(60));
    /// ```
    pub fn advance(&mut self, duration: Duration) {
        self.rig.advance(duration);
        self.tell_news();
    }

    /// Closes the service, drops it and ends its tasks. Later events answer that it is closed.
    ///
    /// # Errors
    /// What the service's `close` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// rig.close(CloseReason::HostStopping).unwrap();
    /// ```
    pub fn close(&mut self, reason: CloseReason) -> Result<()> {
        self.rig.close(reason)
    }

    /// The ids of the sessions that are there.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let rig = ServiceRig::start_among::<Idle>((), &["default"]).unwrap();
    /// assert_eq!(rig.sessions(), ["100001"]);
    /// ```
    #[must_use]
    pub fn sessions(&self) -> Vec<String> {
        lock(&self.world).sessions.keys().cloned().collect()
    }

    /// What was sent since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.announced().is_empty());
    /// ```
    pub fn announced(&mut self) -> Vec<Announced> {
        std::mem::take(&mut lock(&self.world).announced)
    }

    /// The ids of the sessions that the service made since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.created().is_empty());
    /// ```
    pub fn created(&mut self) -> Vec<String> {
        std::mem::take(&mut lock(&self.world).created)
    }

    /// The ids of the sessions that the service closed since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.closed().is_empty());
    /// ```
    pub fn closed(&mut self) -> Vec<String> {
        std::mem::take(&mut lock(&self.world).closed)
    }

    /// What the service asked of conductors since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.asked().is_empty());
    /// ```
    pub fn asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut lock(&self.world).asked)
    }

    /// What was logged since the last call. (Not where the test binary has a `tracing` subscriber of its own.)
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert!(rig.logged().is_empty());
    /// ```
    pub fn logged(&mut self) -> Vec<Logged> {
        self.rig.logged()
    }

    /// How many spawned tasks run.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::ServiceRig};
    /// # struct Idle;
    /// # impl Service for Idle { type Config = (); async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Idle) } }
    /// # let mut rig = ServiceRig::start::<Idle>(()).unwrap();
    /// assert_eq!(rig.tasks(), 0);
    /// ```
    pub fn tasks(&mut self) -> usize {
        self.rig.tasks()
    }

    /// Tells of sessions that were opened and closed, those included that follow from the telling.
    fn tell_news(&mut self) {
        loop {
            let news = std::mem::take(&mut lock(&self.world).news);
            if news.is_empty() {
                return;
            }
            for (kind, subject, id, type_name) in news {
                let mut meta = EventMeta::default();
                (meta.session, meta.type_name) = (Some(id), Some(type_name));
                self.rig.tell(kind, subject, "", meta);
            }
        }
    }
}

impl fmt::Debug for ServiceRig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRig").field("rig", &self.rig).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
