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
    wire::{ClientInfo, PublishMeta, SleepMeta, call, code},
};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use super::{Trouble, asks, library::Libraries};
use crate::{
    broker::BrokerError,
    sessions::{Session, task::Task},
    store::StoredClient,
};

/// One session, as its conductor sees it. Holds it weakly: the session owns the conductor, which owns this.
pub struct SessionHost {
    session: Weak<Session>,
    /// Which of the session's conductors this is for.
    life: u32,
    runtime: Handle,
}

impl SessionHost {
    /// For the conductor that `session` has in this `life`.
    #[must_use]
    pub(crate) fn new(session: &Arc<Session>, life: u32) -> Self {
        Self { session: Arc::downgrade(session), life, runtime: session.world().pool.runtime().clone() }
    }

    fn session(&self) -> Result<Arc<Session>, Failure> {
        let session = self.session.upgrade().filter(|session| session.lives(self.life));
        session.ok_or_else(|| Failure::new(code::CLOSED, "the session is closed"))
    }

    /// The calls that need no waiting.
    fn answer_now(&self, call: &Event<'_>) -> Option<Result<Vec<u8>, Failure>> {
        Some(match call.kind.as_str() {
            call::NOW => match self.session.upgrade() {
                Some(session) => Ok(session.world().clock.millis().to_string().into_bytes()),
                None => Err(Failure::new(code::CLOSED, "the session is closed")),
            },
            call::CLIENTS => self.session().and_then(|session| clients(&session)),
            call::CLOSE => self.session().and_then(|session| close(&session)),
            _ => return None,
        })
    }

    async fn answer(&self, call: Event<'_>) -> Result<Vec<u8>, Failure> {
        let session = self.session()?;
        match call.kind.as_str() {
            call::PUBLISH => publish(&session, &call).await.map(|()| Vec::new()),
            call::SLEEP => {
                let SleepMeta { micros, .. } = meta(&call)?;
                drop(session);
                tokio::time::sleep(Duration::from_micros(micros)).await;
                self.session().map(|_| Vec::new())
            }
            _ => asks::answer(&session, &call).await,
        }
    }
}

pub(super) fn meta<T: Default + DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
    if call.meta.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(call.meta.as_slice())
        .map_err(|e| Failure::new(code::REFUSED, format!("the meta of {:?} does not fit: {e}", call.kind.as_str())))
}

fn clients(session: &Session) -> Result<Vec<u8>, Failure> {
    let now = session.world().clock.seconds();
    let record = session.record();
    let infos: Vec<ClientInfo> = record
        .clients
        .iter()
        .filter_map(|client| match client {
            StoredClient::Joined { client_id, expires_at } if *expires_at > now => {
                let mut info = ClientInfo::default();
                (info.client_id, info.expires_at) = (client_id.to_string(), Some(*expires_at));
                Some(info)
            }
            _ => None,
        })
        .collect();
    serde_json::to_vec(&infos).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
}

fn close(session: &Arc<Session>) -> Result<Vec<u8>, Failure> {
    let manager = session.world().manager.upgrade();
    let accepted = manager.is_some_and(|manager| manager.close_by_conductor(session));
    accepted.then(Vec::new).ok_or_else(|| Failure::new(code::CLOSED, "the session is being closed, or not made yet"))
}

async fn publish(session: &Session, call: &Event<'_>) -> Result<(), Failure> {
    let PublishMeta { qos, retain, .. } = meta(call)?;
    let (name, client) = (call.subject.as_str(), call.client.as_str());
    rules::publish(name, qos).map_err(|reason| Failure::new(code::REFUSED, reason))?;
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
    let sent = session.world().broker.publish(session.id(), &topic, payload, qos, retain).await;
    sent.map_err(|error| {
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
        BorrowingFfiFuture::new(OnHost { future: Some(Box::pin(answer)), runtime: self.runtime.clone() })
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        let session = self.session()?;
        let added = session.add_task(self.life, |number| Task::new(session.clone(), self.life, number, task));
        let (number, task) = added.map_err(|trouble| {
            let code = if matches!(trouble, Trouble::Overloaded) { code::OVERLOADED } else { code::CLOSED };
            Failure::new(code, trouble.to_string())
        })?;
        session.world().pool.push(task);
        Ok(number)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        let session = self.session.upgrade();
        let id = session.as_ref().map(|session| session.id().to_string()).unwrap_or_default();
        log(level, &id, target, message, fields);
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
        log(level, "", &format!("{}: {target}", self.file), message, fields);
    }
}

fn log(level: u8, session: &str, source: &str, message: &str, fields: &[u8]) {
    let fields = String::from_utf8_lossy(fields);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(target: "plugin", session, source, %fields, "{message}")
        };
    }
    match level {
        0 | 1 => line!(error),
        2 => line!(warn),
        3 => line!(info),
        4 => line!(debug),
        _ => line!(trace),
    }
}

fn reply(answer: Result<Vec<u8>, Failure>) -> Reply {
    match answer {
        Ok(bytes) => ROk(bytes.into()),
        Err(failure) => RErr(failure),
    }
}

/// Enters the host's runtime at each poll and at the drop: a plugin may poll on a thread of its own, where timers and
/// sockets of the host would find none.
struct OnHost<F> {
    /// Nothing only while it is dropped.
    future: Option<Pin<Box<F>>>,
    runtime: Handle,
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
