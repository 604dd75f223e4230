//! What a conductor may ask of its session: the host's side of the binary contract.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use conductor_abi::{
    abi_stable::std_types::{RErr, ROk},
    async_ffi::{BorrowingFfiFuture, FfiFuture},
    contract::{Event, Failure, HostObj, HostObject, Reply},
    rules,
    wire::{ClientInfo, SleepMeta, call, code},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::runtime::Handle;

use super::{Trouble, asks, catalog::Type, library::Libraries};
use crate::{
    broker::BrokerError,
    sessions::{Session, SessionId, clock::Clock, task::Task},
    store::{StoredClient, StoredSession},
};

/// A line of a plugin in the host's log; `$who` is a variable that is named as the field that says whose it is.
macro_rules! log_line {
    ($level:expr, $who:ident, $target:ident, $message:ident, $fields:ident) => {{
        let (source, fields): (&str, _) = ($target.as_ref(), String::from_utf8_lossy($fields));
        let (message, fields) = ($crate::conductors::clip($message), $crate::conductors::clip(&fields));
        let $who: &str = $who.as_ref();
        match $level {
            0 | 1 => tracing::error!(target: "plugin", $who, source, %fields, "{message}"),
            2 => tracing::warn!(target: "plugin", $who, source, %fields, "{message}"),
            3 => tracing::info!(target: "plugin", $who, source, %fields, "{message}"),
            4 => tracing::debug!(target: "plugin", $who, source, %fields, "{message}"),
            _ => tracing::trace!(target: "plugin", $who, source, %fields, "{message}"),
        }
    }};
}
pub(crate) use log_line;

/// One session, as its conductor sees it. Holds it weakly: the session owns the conductor, which owns this.
pub struct SessionHost {
    session: Weak<Session>,
    /// Known after the session's end, too: a thread of the plugin may outlive it.
    id: SessionId,
    kind: Arc<Type>,
    clock: Clock,
    /// Which of the session's conductors this is for.
    life: u32,
    runtime: Handle,
}

impl SessionHost {
    /// For the conductor that `session` has in this `life`.
    #[must_use]
    pub fn new(session: &Arc<Session>, life: u32) -> Self {
        let (id, kind, world) = (session.id(), session.kind().clone(), session.world());
        Self { session: Arc::downgrade(session), id, kind, clock: world.clock, life, runtime: world.pool.runtime().clone() }
    }

    fn session(&self) -> Result<Arc<Session>, Failure> {
        let session = self.session.upgrade().filter(|session| session.lives(self.life));
        session.ok_or_else(|| Failure::new(code::CLOSED, rules::CLOSED))
    }

    /// The calls that need no waiting.
    fn answer_now(&self, call: &Event<'_>) -> Option<Result<Vec<u8>, Failure>> {
        Some(match call.kind.as_str() {
            call::NOW => Ok(self.clock.millis().to_string().into_bytes()),
            call::CLIENTS => self.session().and_then(|session| clients(&session)),
            call::CLOSE => self.session().and_then(|session| close(&session)),
            _ => return None,
        })
    }

    async fn answer(&self, call: Event<'_>) -> Result<Vec<u8>, Failure> {
        let session = self.session()?;
        match call.kind.as_str() {
            call::PUBLISH => {
                let sending: Sending = meta(&call)?;
                if !sending.session.is_empty() && SessionId::parse(&sending.session) != Some(session.id()) {
                    return Err(Failure::new(code::REFUSED, "a conductor publishes in its own session alone"));
                }
                publish(&session, &call, &sending).await
            }
            call::SLEEP => {
                let SleepMeta { micros, .. } = meta(&call)?;
                drop(session);
                tokio::time::sleep(Duration::from_micros(micros)).await;
                self.session().map(|_| Vec::new())
            }
            _ => asks::answer(&session, self.life, &call).await,
        }
    }
}

pub(crate) fn meta<T: Default + DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
    if call.meta.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(call.meta.as_slice())
        .map_err(|e| Failure::new(code::REFUSED, format!("the meta of {:?} does not fit: {e}", call.kind.as_str())))
}

pub(crate) fn clients(session: &Session) -> Result<Vec<u8>, Failure> {
    let record = session.record();
    let info = |(client_id, expires_at): (&str, u64)| {
        let mut info = ClientInfo::default();
        (info.client_id, info.expires_at) = (client_id.to_string(), Some(expires_at));
        info
    };
    let infos: Vec<ClientInfo> = present(&record, session.world().clock.seconds()).map(info).collect();
    serde_json::to_vec(&infos).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
}

/// The clients whose grant has not ended by `now`, each with its end; in seconds since the Unix epoch.
pub(crate) fn present(record: &StoredSession, now: u64) -> impl Iterator<Item = (&str, u64)> {
    record.clients.iter().filter_map(move |client| match client {
        StoredClient::Joined { client_id, expires_at } if *expires_at > now => Some((&**client_id, *expires_at)),
        _ => None,
    })
}

fn close(session: &Arc<Session>) -> Result<Vec<u8>, Failure> {
    let manager = session.world().manager.upgrade();
    let accepted = manager.is_some_and(|manager| manager.close_by_conductor(session));
    accepted.then(Vec::new).ok_or_else(|| Failure::new(code::CLOSED, rules::NOT_CLOSABLE))
}

/// What a message's meta says: a [`PublishMeta`](conductor_abi::wire::PublishMeta) and a [`SessionMeta`](conductor_abi::wire::SessionMeta)
/// in one object.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sending {
    qos: u8,
    retain: bool,
    pub(crate) session: String,
}

/// Sends in `session`, which has been compared with the one that is named.
pub(crate) async fn publish(session: &Session, call: &Event<'_>, sending: &Sending) -> Result<Vec<u8>, Failure> {
    let (name, client) = (call.subject.as_str(), call.client.as_str());
    rules::publish(name, sending.qos).map_err(|reason| Failure::new(code::REFUSED, reason))?;
    let mut topic = session.id().topic_prefix();
    if !client.is_empty() {
        if !session.record().has(client) {
            return Err(Failure::new(code::REFUSED, format!("there is no client {client:?} in this session")));
        }
        topic.push_str("to/");
        topic.push_str(client);
        topic.push('/');
    }
    topic.push_str(name);
    let payload = Bytes::copy_from_slice(call.body.as_slice());
    let sent = session.world().broker.publish(session.id(), &topic, payload, sending.qos, sending.retain).await;
    sent.map(|()| Vec::new()).map_err(|error| {
        let code = match error {
            BrokerError::None | BrokerError::Down(_) | BrokerError::Failed(_) => code::UNAVAILABLE,
            BrokerError::Topic(_) => code::REFUSED,
            BrokerError::Closed(_) => code::CLOSED,
        };
        Failure::new(code, error.to_string())
    })
}

impl HostObject for SessionHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        if let Some(answer) = self.answer_now(&call) {
            return BorrowingFfiFuture::new(std::future::ready(reply(answer)));
        }
        let answer = async move { reply(self.answer(call).await) };
        BorrowingFfiFuture::new(OnHost::new(answer, &self.runtime))
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        let session = self.session()?;
        let added = session.add_task(self.life, |number| Task::new(session.clone(), self.life, number, task));
        let (number, task) = added.map_err(no_task)?;
        session.world().pool.push(task);
        Ok(number)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        if level <= 1 {
            self.kind.lane.tally.error_lines.add();
        }
        let session = self.id.to_string();
        log_line!(level, session, target, message, fields);
    }
}

/// Why a task was not taken.
pub(crate) fn no_task(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Overloaded => Failure::new(code::OVERLOADED, rules::TOO_MANY_TASKS),
        other => Failure::new(code::CLOSED, other.to_string()),
    }
}

/// The host as a library as a whole sees it: its log.
#[derive(Clone, Debug)]
pub struct LibraryHost {
    /// Named in each line.
    pub file: Arc<str>,
}

impl LibraryHost {
    /// The plugins of this process, which see the host so: what `serve` loads, and what `plugin inspect` shows. For the arguments
    /// see [`Libraries::new`].
    #[must_use]
    pub fn libraries(copies: PathBuf, log_level: u8) -> Libraries {
        Libraries::new(copies, log_level, |file| {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
            HostObj::new(Self { file: name.into() })
        })
    }
}

impl HostObject for LibraryHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        let failure = Failure::new(code::UNSUPPORTED, format!("{:?} needs a session", call.kind.as_str()));
        BorrowingFfiFuture::new(std::future::ready(RErr(failure)))
    }

    fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
        Err(Failure::new(code::UNSUPPORTED, "a task needs a session"))
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        let (session, target) = ("", format!("{}: {target}", self.file));
        log_line!(level, session, target, message, fields);
    }
}

pub(crate) fn reply(answer: Result<Vec<u8>, Failure>) -> Reply {
    match answer {
        Ok(bytes) => ROk(bytes.into()),
        Err(failure) => RErr(failure),
    }
}

/// Enters the host's runtime at each poll and at the drop: a plugin may poll on a thread of its own, where timers and
/// sockets of the host would find none.
pub(crate) struct OnHost<F> {
    /// Nothing only while it is dropped.
    future: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F> OnHost<F> {
    pub(crate) fn new(future: F, runtime: &Handle) -> Self {
        Self { future: Some(Box::pin(future)), runtime: runtime.clone() }
    }
}

impl<F: Future> Future for OnHost<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        match this.future.as_mut() {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for OnHost<F> {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

impl fmt::Debug for SessionHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHost").field("session", &self.session.upgrade()).finish_non_exhaustive()
    }
}
