//! A broker outside of this process: the host is one of its clients, `iotserver`, which hears and says everything.
//!
//! The library of the embedded broker gives the packets; the connection is ours. What the libraries' clients could not: two
//! connections at once for one MQTT session, so that a token is renewed without a gap; one MQTT session over both versions of the
//! protocol and over restarts; acknowledgements of each message with their reasons; TLS with a provider that is named and the
//! system's certificates.
//!
//! One task does it all ([`link::Link`]). It shares with this handle a [`desk::Desk`]: what is queued, what is closed, how the link is.

mod backoff;
mod clearing;
mod closed;
mod desk;
mod dial;
mod echoes;
mod link;
mod opening;
mod outbox;
mod renewal;
mod serving;
mod settings;
mod tls;
mod trouble;
mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use self::{desk::Desk, link::Link, outbox::Outgoing, trouble::Trouble};
use super::{Broker, BrokerError, Ended, Endpoints, Events, Limits, check_message};
use crate::{sessions::SessionId, tokens::grant::Grant};

pub use settings::{LinkSettings, LinkToken};

/// What waiting for the broker may take: for room, for an acknowledgement, for a session to be cleared.
const WAIT: Duration = Duration::from_secs(2);

/// The broker outside. Made without connecting; [`ExternalBroker::start`] begins.
pub struct ExternalBroker {
    desk: Arc<Desk>,
    settings: Arc<LinkSettings>,
    /// The longest message, in bytes: the same as with the embedded broker.
    most: usize,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for ExternalBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalBroker").field("address", &self.settings.address).finish_non_exhaustive()
    }
}

impl ExternalBroker {
    /// A broker that is not connected to.
    #[must_use]
    pub fn new(settings: LinkSettings) -> Arc<Self> {
        let desk = Arc::new(Desk::new(&format!("{}: {}", settings.address, Trouble::NotYet)));
        Arc::new(Self { desk, settings: Arc::new(settings), most: Limits::default().packet_bytes, task: Mutex::default() })
    }

    /// Connects in the background, for ever, until [`Broker::shutdown`]. To be called once, within a runtime.
    pub fn start(&self, events: Arc<dyn Events>) {
        let link = Link::new(self.desk.clone(), self.settings.clone(), events);
        *self.task() = Some(tokio::spawn(link.run()));
    }

    /// From here on messages of clients are neither heard nor acknowledged: the broker keeps those of QoS 1 and 2 for the host that
    /// follows. What the host sends still goes out.
    pub fn stop_hearing(&self) {
        self.desk.stop_hearing();
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, session: SessionId, topic: &str, payload: Bytes, qos: u8, retain: bool) -> Result<(), BrokerError> {
        check_message(topic, &payload, qos, self.most)?;
        let end = Instant::now() + WAIT;
        let mut message = Outgoing { session, topic: topic.to_owned(), payload, qos, retain, tries: 0, answer: None };
        loop {
            // Asked for before the look, so that room made between the two is noticed.
            let room = self.desk.room.notified();
            message = match self.queue(message)? {
                Queued::Kept => return Ok(()),
                Queued::Under(fate) => {
                    return match timeout_at(end, fate).await {
                        Ok(Ok(result)) => result,
                        // Of QoS 0 is nothing kept.
                        Ok(Err(_)) | Err(_) if qos == 0 => Err(BrokerError::Failed("it does not take the message".to_owned())),
                        // It is queued, and will be sent.
                        Ok(Err(_)) | Err(_) => Ok(()),
                    };
                }
                Queued::Full(message) => message,
            };
            if timeout_at(end, room).await.is_err() {
                return Err(BrokerError::Failed("too many messages wait for it".to_owned()));
            }
        }
    }

    /// One try to queue a message.
    fn queue(&self, mut message: Outgoing) -> Result<Queued, BrokerError> {
        let mut state = self.desk.state();
        if state.closed.contains(message.session) {
            return Err(BrokerError::Closed(message.session));
        }
        let down = || BrokerError::Down(state.trouble.clone());
        if state.ended || (!state.up && message.qos == 0) {
            return Err(down());
        }
        let (answer, fate) = oneshot::channel();
        message.answer = state.up.then_some(answer);
        match state.outbox.push(message) {
            Ok(()) if state.up => {
                drop(state);
                self.desk.wake.notify_one();
                Ok(Queued::Under(fate))
            }
            Ok(()) => Ok(Queued::Kept),
            Err(message) if state.up => Ok(Queued::Full(message)),
            Err(_) => Err(BrokerError::Down(format!("{}; too many messages wait for it already", state.trouble).into())),
        }
    }
}

/// What became of a message.
enum Queued {
    /// It is sent when the link is back.
    Kept,
    /// It is being sent: what becomes of it.
    Under(oneshot::Receiver<Result<(), BrokerError>>),
    /// There is no room now.
    Full(Outgoing),
}

impl Broker for ExternalBroker {
    fn open_session(&self, session: SessionId) {
        self.desk.state().closed.open(session);
        self.desk.wake.notify_one();
    }

    fn publish<'a>(
        &'a self,
        session: SessionId,
        topic: &'a str,
        payload: Bytes,
        qos: u8,
        retain: bool,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.send(session, topic, payload, qos, retain).boxed()
    }

    fn set_grant<'a>(&'a self, _: SessionId, _: &'a str, _: Grant) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn kick<'a>(&'a self, _: SessionId, _: &'a str) -> BoxFuture<'a, Ended> {
        async { Ended::TokenOnly }.boxed()
    }

    /// Clears what is retained of the session: before it returns, where the link is up and the broker quick (2 s), else later.
    fn close_session(&self, session: SessionId) -> BoxFuture<'_, Ended> {
        async move {
            let (cleared, up) = {
                let mut state = self.desk.state();
                state.outbox.withdraw(|message| message.session == session, |_| BrokerError::Closed(session));
                (state.closed.close(session), state.up)
            };
            if up {
                self.desk.wake.notify_one();
                if timeout_at(Instant::now() + WAIT, cleared).await.is_err() {
                    tracing::warn!(%session, "what is retained of the session at the MQTT broker is not cleared yet");
                }
            }
            Ended::TokenOnly
        }
        .boxed()
    }

    fn connected(&self, _: SessionId) -> Option<Vec<Arc<str>>> {
        None
    }

    fn link(&self) -> Option<bool> {
        Some(self.desk.state().up)
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints::default()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        let state = self.desk.state();
        (!state.up).then(|| state.trouble.clone())
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            self.desk.stop.send_replace(true);
            let task = self.task().take();
            if let Some(task) = task
                && let Err(error) = task.await
            {
                tracing::error!(%error, "the link to the MQTT broker broke");
            }
        }
        .boxed()
    }
}
