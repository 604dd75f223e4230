//! MQTT, behind a narrow trait: sessions know neither the library nor whether the broker is in this process.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use conductor_abi::rules;
use futures_util::future::BoxFuture;

use crate::{
    sessions::SessionId,
    tokens::grant::{self, Grant},
};

mod connection;
mod embedded;
mod external;
pub(crate) mod gate;
mod limits;
mod listen;
mod none;
mod room;
mod stream;
mod websocket;

pub use embedded::EmbeddedBroker;
pub use external::{ExternalBroker, LinkSettings, LinkToken};
pub use limits::Limits;
pub use none::NoBroker;
pub(crate) use none::Nobody;

/// A message that a client of a session sent, as the conductor hears it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Known from the connection, never from the topic.
    pub session: SessionId,
    /// The whole topic, `/{id}/name`.
    pub topic: String,
    /// As sent.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it was sent to be retained.
    pub retain: bool,
    /// Who sent it; nothing where the broker cannot know.
    pub client_id: Option<Arc<str>>,
    /// Whether it is a last will.
    pub will: bool,
}

/// What the broker tells. Called from the broker's own tasks: an implementation queues and returns, it never waits. It may call
/// the broker.
pub trait Events: Send + Sync + 'static {
    /// An accepted message of a client, wills included; not the host's own, not a refused one.
    fn message(&self, message: Message);
    /// A client's connection was accepted.
    fn connected(&self, session: SessionId, client_id: &str);
    /// A client's last connection ended (not said where the same client took over with a new one). Follows its last will.
    fn disconnected(&self, session: SessionId, client_id: &str);
    /// Whether messages can pass changed: the link to an external broker came up or was lost. An embedded broker never says so.
    fn link(&self, up: bool);
}

/// What a CONNECT packet claims.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<'a> {
    /// May be empty: then the client gets the token's `client_id`.
    pub client_id: &'a str,
    /// The MQTT username.
    pub username: Option<&'a str>,
    /// The MQTT password: the token.
    pub password: Option<&'a [u8]>,
    /// Where the connection comes from.
    pub peer: SocketAddr,
}

/// A connection that may go on.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The session it belongs to for good.
    pub session: SessionId,
    /// The client's id in that session.
    pub client_id: Arc<str>,
    /// What it may subscribe and publish: its record in the session intersected with its token.
    pub grant: Grant,
    /// When the connection must end.
    pub expires_at: SystemTime,
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Token missing, false, expired or of a closed session; username or client id not the token's; client not in the record.
    BadCredentials,
    /// The token is good, the last will's topic is outside the grant (or the session ended meanwhile).
    NotAuthorized,
    /// The source connects, or fails, more often than it may. Nothing is said of what it has shown.
    TooFast,
}

/// Decides about connections. The gate's one question; asked on the broker's threads, so an answer takes microseconds.
pub trait Admission: Send + Sync + 'static {
    /// # Errors
    /// The refusal to tell the client.
    fn admit(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, Refusal>;

    /// Whether what is to be shown may be found by trying: then a source that has failed too often is refused unseen.
    fn can_be_guessed(&self) -> bool {
        false
    }
}

/// How ended connections ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This many connections were ended.
    Kicked(usize),
    /// The broker cannot end connections: they live until their token expires.
    TokenOnly,
}

/// Where devices reach the broker, or are to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Plain MQTT over TCP.
    pub tcp: Vec<SocketAddr>,
    /// MQTT over WebSocket, path `/mqtt`, on a port of its own.
    pub websocket: Vec<SocketAddr>,
    /// MQTT over TLS.
    pub tls: Vec<SocketAddr>,
    /// MQTT over WebSocket over TLS, path `/mqtt`, on a port of its own.
    pub websocket_tls: Vec<SocketAddr>,
}

/// Why a message did not go out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// No broker is configured.
    #[error("no MQTT broker is configured (mqtt.broker = \"none\")")]
    None,
    /// The topic cannot be published to (a wildcard, a NUL, too long).
    #[error("{0:?} is not a topic that can be published to")]
    Topic(String),
    /// The session is closed.
    #[error("session {0} is closed")]
    Closed(SessionId),
    /// The link to the external broker is down, and the message was not kept to be sent later.
    #[error("the MQTT broker cannot be reached: {0}")]
    Down(Arc<str>),
    /// The broker failed.
    #[error("the MQTT broker failed: {0}")]
    Failed(String),
}

/// Whether a message of the host's can be one at all: what each broker asks before it looks at itself. `most` is in bytes.
///
/// # Errors
/// [`BrokerError::Topic`]; [`BrokerError::Failed`] for a QoS that there is not and a payload that is too long.
fn check_message(topic: &str, payload: &[u8], qos: u8, most: usize) -> Result<(), BrokerError> {
    if !grant::is_valid_topic(topic) {
        return Err(BrokerError::Topic(topic.to_owned()));
    }
    if qos > 2 {
        return Err(BrokerError::Failed(format!("there is no QoS {qos}")));
    }
    rules::payload(payload.len(), most).map_err(BrokerError::Failed)
}

/// The broker of this host.
pub trait Broker: Send + Sync + fmt::Debug + 'static {
    /// A new session has this id, which an ended one may have had: what was remembered of that one's end counts no more.
    fn open_session(&self, session: SessionId);
    /// Sends to the session's subscribers; not heard as an event. Waits up to 2 s where a subscriber of QoS 1 or 2 is slow.
    fn publish<'a>(
        &'a self,
        session: SessionId,
        topic: &'a str,
        payload: Bytes,
        qos: u8,
        retain: bool,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;
    /// Replaces what one client may do, at once: its subscriptions that are no longer allowed end, stored ones too. A connection that was
    /// admitted and is not up yet is refused: [`Admission`] may have gone by what held before.
    fn set_grant<'a>(&'a self, session: SessionId, client_id: &'a str, grant: Grant) -> BoxFuture<'a, ()>;
    /// Ends one client's connection and forgets its stored subscriptions and queue. Its last will is not sent. Later connects of
    /// that client are [`Admission`]'s to refuse; one admitted but not yet connected is refused.
    fn kick<'a>(&'a self, session: SessionId, client_id: &'a str) -> BoxFuture<'a, Ended>;
    /// Ends all connections of a session and drops all it held (retained messages, queues, wills). Later connects of that
    /// session are [`Admission`]'s to refuse; one admitted but not yet connected is refused.
    fn close_session(&self, session: SessionId) -> BoxFuture<'_, Ended>;
    /// The clients connected now; nothing where the broker cannot know who is there. Where it can, a session of which it says nobody is empty.
    fn connected(&self, session: SessionId) -> Option<Vec<Arc<str>>>;
    /// Whether the host reaches a broker outside of it; nothing where there is none outside. Changes are told by [`Events::link`]
    /// after this says so.
    fn link(&self) -> Option<bool> {
        None
    }
    /// Where it listens.
    fn endpoints(&self) -> Endpoints;
    /// What is wrong with it, while something is. Shown by `/readyz`.
    fn trouble(&self) -> Option<Arc<str>>;
    /// Stops listening, tells clients, ends connections.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
