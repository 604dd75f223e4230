//! The handle that a conductor has on its session.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice, RVec},
    async_ffi::FfiFuture,
    contract::{Event, HostObj},
    wire::{self, ClientInfo, PublishMeta, SleepMeta, SpawnMeta, call, code},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;

use crate::{
    Client, Error, Result,
    error::{from_failure, into_failure},
    guard,
    runtime::Surroundings,
    task::{Task, TaskOutput, cancellable},
};

/// What a conductor can do with its session. A cheap handle: clone it into tasks.
///
/// Its functions may be called from any thread, in any order, and never re-enter the conductor: what they cause (a message,
/// a close) comes as an event of its own. After the session is closed they answer with an error whose
/// [`is_closed`](Error::is_closed) is true.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// async fn tell_all(session: &Session) -> Result<()> {
///     let text = format!("{} clients in session {}", session.clients().len(), session.id());
///     session.publish("status", text).qos(1).await
/// }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    host: HostObj,
    id: String,
    type_name: String,
    /// Not for secrets: the same seed gives the same numbers, so that a session can be played again.
    random: Mutex<Xoshiro256PlusPlus>,
    surroundings: Surroundings,
}

impl Session {
    pub(crate) fn new(host: HostObj, id: String, type_name: String, seed: &str, surroundings: Surroundings) -> Result<Self> {
        let mut bytes = <Xoshiro256PlusPlus as SeedableRng>::Seed::default();
        let pairs = seed.as_bytes().chunks_exact(2);
        if pairs.len() != bytes.len() {
            return Err(Error::of(code::INTERNAL, "the host gave a seed that is not 64 hexadecimal digits"));
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digits = std::str::from_utf8(pair).ok();
            *byte = digits
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| Error::of(code::INTERNAL, "the host gave a seed that is not hexadecimal"))?;
        }
        let random = Mutex::new(Xoshiro256PlusPlus::from_seed(bytes));
        Ok(Self(Arc::new(Inner { host, id, type_name, random, surroundings })))
    }

    pub(crate) fn host(&self) -> &HostObj {
        &self.0.host
    }

    /// What the conductor's code runs in.
    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.0.surroundings
    }

    pub(crate) async fn call(&self, kind: &str, subject: &str, client: &str, meta: &[u8], body: &[u8]) -> Result<RVec<u8>> {
        let event = Event {
            kind: kind.into(),
            subject: subject.into(),
            client: client.into(),
            meta: RSlice::from_slice(meta),
            body: RSlice::from_slice(body),
        };
        match self.0.host.call(event).await {
            ROk(reply) => Ok(reply),
            RErr(failure) => Err(from_failure(&failure)),
        }
    }

    /// The session's id: decimal digits, leading zeros kept. Every topic of the session begins with `/{id}/`.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// let topic = format!("/{}/lamp", session.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The name of the session's type in the host's settings (which may differ from the conductor's own name).
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// tracing::info!("a session of type {}", session.type_name());
    /// # }
    /// ```
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.0.type_name
    }

    /// The host's time, in milliseconds. Use it in place of `SystemTime::now()`: tests and replays set it.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// let deadline = session.now() + std::time::Duration::from_secs(30);
    /// # }
    /// ```
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let millis = call_now(self, call::NOW).and_then(|reply| Ok(serde_json::from_slice::<u64>(&reply)?));
        match millis {
            Ok(millis) => SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            Err(error) => {
                tracing::warn!(%error, "the host did not tell the time; this machine's clock is used");
                #[expect(clippy::disallowed_methods, reason = "the host's clock does not answer")]
                SystemTime::now()
            }
        }
    }

    /// 64 random bits, from a generator that the host seeds for each session (xoshiro256++). **Not for secrets.**
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// let heads = session.random() & 1 == 0;
    /// # }
    /// ```
    #[must_use]
    pub fn random(&self) -> u64 {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A random number from 0 to `end - 1`, all equally likely; 0 where `end` is 0.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// let die = session.random_below(6) + 1;
    /// # }
    /// ```
    #[must_use]
    pub fn random_below(&self, end: u64) -> u64 {
        if end == 0 {
            return 0;
        }
        let unbiased = u64::MAX - u64::MAX % end;
        loop {
            let drawn = self.random();
            if drawn < unbiased {
                return drawn % end;
            }
        }
    }

    /// Sends `payload` to the clients that subscribed to `/{id}/{name}`. Set quality and retention on the returned value,
    /// then `.await` it. The conductor does not hear its own messages.
    ///
    /// Returns when the broker has taken the message, not when clients have it.
    ///
    /// # Errors
    /// A name with a wildcard or empty, a closed session, a host without a broker, a broker that is down.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.publish("lamp", "on").await?;
    /// session.publish("score", "3:2").qos(1).retain(true).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish<'a>(&'a self, name: &'a str, payload: impl AsRef<[u8]>) -> Publish<'a> {
        Publish { session: self, client: None, name, payload: payload.as_ref().to_vec(), meta: PublishMeta::default(), within: None }
    }

    /// Sends `payload` on `/{id}/to/{client}/{name}`. It is private only where the other clients' grants are narrowed: by
    /// default every client may subscribe to everything in its session.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); a client that has not joined, or an empty name, is one too.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.publish_to("ann", "hand", r#"["7♠","Q♥"]"#).qos(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_to<'a>(&'a self, client: &'a str, name: &'a str, payload: impl AsRef<[u8]>) -> Publish<'a> {
        Publish { client: Some(client), ..self.publish(name, payload) }
    }

    /// The clients that joined and whose grant has not ended, in the order of their first join.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::Session) {
    /// let alone = session.clients().len() == 1;
    /// # }
    /// ```
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        let clients = call_now(self, call::CLIENTS).and_then(|reply| Ok(serde_json::from_slice::<Vec<ClientInfo>>(&reply)?));
        match clients {
            Ok(clients) => clients.into_iter().map(Client::new).collect(),
            Err(error) => {
                if !error.is_closed() {
                    tracing::warn!(%error, "the host did not tell the clients; none are assumed");
                }
                Vec::new()
            }
        }
    }

    /// Waits, without a thread. In an event handler the deadline goes on counting: what takes long belongs into
    /// [`spawn`](Self::spawn).
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.sleep(std::time::Duration::from_millis(200)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the session is closed.
    pub async fn sleep(&self, duration: Duration) -> Result<()> {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut meta = SleepMeta::default();
        meta.micros = micros;
        let meta = to_json(&meta)?;
        self.call(call::SLEEP, "", "", &meta, &[]).await.map(drop)
    }

    /// Runs `future` beside the conductor until it ends or the session does; it is dropped when the session closes. It runs
    /// on the host's threads, possibly while the conductor handles an event: share state through `Arc` and a lock, or
    /// channels. It may return `()` or [`Result<()>`](Result), or never; an error is logged. A panic in it makes the session faulted,
    /// as one in the conductor does.
    ///
    /// # Errors
    /// Where the session is closed, or has too many tasks.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// async fn tick(session: Session) -> Result<()> {
    ///     loop {
    ///         session.sleep(std::time::Duration::from_secs(1)).await?;
    ///         session.publish("tick", "").await?;
    ///     }
    /// }
    /// # fn f(session: &Session) -> Result<()> {
    /// let task = session.spawn(tick(session.clone()))?;
    /// task.cancel();
    /// # Ok(()) }
    /// ```
    pub fn spawn<F>(&self, future: F) -> Result<Task>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        let (task, cancellable) = cancellable(async move { future.await.into_result() });
        // Guarded from here on: the task may be dropped before it is ever polled.
        let guarded = guard::run(Some(self.clone()), cancellable);
        let reply = async move {
            match guarded.await {
                Ok(()) => ROk(RVec::new()),
                Err(error) => RErr(into_failure(error)),
            }
        };
        let meta = to_json(&SpawnMeta::default())?;
        self.0.host.spawn(&meta, FfiFuture::new(reply)).map_err(|failure| from_failure(&failure))?;
        Ok(task)
    }

    /// Closes this session: no event but `close` comes after the current one, the clients' connections end, their tokens
    /// are refused. Returns as soon as the host has accepted it.
    ///
    /// # Errors
    /// Where it is closed already, and in [`Conductor::create`](crate::Conductor::create) where the session is not made yet: an error of `create` is what ends
    /// it there.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.publish("game", "over").qos(1).await?;
    /// session.close().await?;
    /// # Ok(()) }
    /// ```
    pub async fn close(&self) -> Result<()> {
        self.call(call::CLOSE, "", "", &[], &[]).await.map(drop)
    }
}

/// For calls that the contract says are ready at the first poll.
fn call_now(session: &Session, kind: &str) -> Result<RVec<u8>> {
    let call = pin!(session.call(kind, "", "", &[], &[]));
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => reply,
        Poll::Pending => Err(Error::of(code::INTERNAL, format!("the host did not answer {kind:?} at once"))),
    }
}

pub(crate) fn to_json(meta: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(meta).map_err(|e| Error::of(code::INTERNAL, e.to_string()))
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.0.id).field("type_name", &self.0.type_name).finish_non_exhaustive()
    }
}

/// A message about to be sent: made by [`Session::publish`] and [`Session::publish_to`] (a service's: by those of
/// [`Host`](crate::Host)), sent by `.await`: on any thread, and two that are awaited one after the other arrive in that order.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # async fn f(session: &Session) -> Result<()> {
/// session.publish("state", "ready").retain(true).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Publish<'a> {
    session: &'a Session,
    /// Nothing: to all.
    client: Option<&'a str>,
    name: &'a str,
    payload: Vec<u8>,
    meta: PublishMeta,
    /// In which session, where a service says it.
    within: Option<String>,
}

/// How a message is sent, and in which session.
#[derive(Serialize)]
struct Placed<'a> {
    #[serde(flatten)]
    meta: PublishMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl Publish<'_> {
    /// In the session of this id: a service's message.
    pub(crate) fn within(mut self, session: &str) -> Self {
        self.within = Some(session.to_owned());
        self
    }

    /// MQTT quality of service: 0 (the default), 1 or 2.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.publish("order", "66").qos(2).await
    /// # }
    /// ```
    pub fn qos(mut self, qos: u8) -> Self {
        self.meta.qos = qos;
        self
    }

    /// Whether the broker keeps it for those who subscribe later.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.publish("board", "…").retain(true).await
    /// # }
    /// ```
    pub fn retain(mut self, retain: bool) -> Self {
        self.meta.retain = retain;
        self
    }
}

impl<'a> IntoFuture for Publish<'a> {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if self.client == Some("") {
                return Err(Error::of(code::REFUSED, "a message to one client needs that client's name"));
            }
            let (meta, session) = (self.meta, self.within.as_deref());
            let plain = meta.qos == 0 && !meta.retain && session.is_none();
            let meta = if plain { Vec::new() } else { to_json(&Placed { meta, session })? };
            self.session.call(wire::call::PUBLISH, self.name, self.client.unwrap_or_default(), &meta, &self.payload).await.map(drop)
        })
    }
}
