//! What happens to a session's conductor.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use conductor_abi::wire::{CallerMeta, EventMeta, close, event, link};
use tokio::{sync::oneshot, time::Instant};

use super::{Session, moving::Order};
use crate::{
    broker::Message,
    conductors::{
        Trouble,
        instance::{Incoming, Instance},
    },
};

/// The port through which somebody speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The trusted one.
    Admin,
    /// The public one.
    Iot,
    /// None: the host itself, or a conductor.
    Host,
}

impl Port {
    /// Its name in events and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Iot => "iot",
            Self::Host => "host",
        }
    }
}

/// Who is behind an operation.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it came in.
    pub port: Port,
    /// Address of the other side.
    pub peer: Option<SocketAddr>,
    /// Who that is, where the port knows.
    pub principal: Option<String>,
}

impl Caller {
    /// The host itself.
    #[must_use]
    pub fn host() -> Self {
        Self { port: Port::Host, peer: None, principal: None }
    }

    /// The service of this name.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self { principal: Some(format!("service:{name}")), ..Self::host() }
    }

    /// Somebody at `port`.
    #[must_use]
    pub fn at(port: Port, peer: SocketAddr) -> Self {
        Self { port, peer: Some(peer), principal: None }
    }

    pub(crate) fn meta(&self) -> CallerMeta {
        let mut meta = CallerMeta::default();
        meta.port = self.port.as_str().to_owned();
        meta.peer = self.peer.map(|peer| peer.to_string());
        meta.principal.clone_from(&self.principal);
        meta
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.port.as_str())?;
        self.peer.iter().try_for_each(|peer| write!(f, " {peer}"))?;
        self.principal.iter().try_for_each(|principal| write!(f, " ({principal})"))
    }
}

/// Why a session's conductor is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// An administrator asked for it.
    Requested,
    /// The conductor asked for it.
    Conductor,
    /// Its time was over.
    Expired,
    /// The host stops.
    HostStopping,
    /// Newer code takes over.
    Replaced,
}

impl CloseReason {
    /// Its name in events and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => close::REQUESTED,
            Self::Conductor => close::CONDUCTOR,
            Self::Expired => close::EXPIRED,
            Self::HostStopping => close::HOST_STOPPING,
            Self::Replaced => close::REPLACED,
        }
    }
}

/// An event in a mailbox.
pub(super) struct Event {
    pub(super) what: What,
    pub(super) deadline: Instant,
    /// When it happened, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// Whom to answer; an error of an event that nobody waits for is logged.
    pub(super) answer: Option<oneshot::Sender<Result<Vec<u8>, Trouble>>>,
}

impl Event {
    /// That the conductor is to be made for this event, before it is told.
    pub(super) fn making(&self) -> Self {
        let caller = match &self.what {
            What::Request { caller, .. } | What::Joining { caller, .. } => Some(caller.clone()),
            _ => None,
        };
        // The making's own time is that of any event, whatever is left of this one's.
        Self { what: What::Make(caller), deadline: Instant::now(), time: self.time, answer: None }
    }
}

/// What happened.
pub(super) enum What {
    /// The conductor is to be made, if it is not yet; for whom.
    Make(Option<Caller>),
    /// An administrator asks.
    Request { method: String, params: Bytes, caller: Caller },
    /// A client sent a message.
    Message(Message),
    /// A client asks to join.
    Joining { client_id: String, caller: Caller },
    /// A client has left for good.
    Left { client_id: String, reason: &'static str },
    /// A client's connection came up, or its last one ended.
    Connection { client_id: String, up: bool },
    /// A timer is due, since this time in milliseconds since the Unix epoch.
    Timer { name: String, due: u64 },
    /// The link to an external broker came up or was lost; which is asked when it is told, so that the last word is true.
    Link,
    /// The session goes over to the code that its type has now.
    Move(Order),
    /// The end.
    Close(CloseReason),
}

impl What {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Make(_) => "make",
            Self::Request { .. } => event::REQUEST,
            Self::Message(_) => event::MESSAGE,
            Self::Joining { .. } => event::JOINING,
            Self::Left { .. } => event::LEFT,
            Self::Connection { up: true, .. } => event::CONNECTED,
            Self::Connection { up: false, .. } => event::DISCONNECTED,
            Self::Timer { .. } => event::TIMER,
            Self::Link => event::LINK,
            Self::Move(_) => "move",
            Self::Close(_) => event::CLOSE,
        }
    }

    pub(super) fn moves(&self) -> bool {
        matches!(self, Self::Move(_))
    }

    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::Close(_))
    }

    /// Whether there is room for it in a mailbox that is full of requests and messages: nobody could tell it again.
    pub(super) fn has_room_reserved(&self) -> bool {
        !matches!(self, Self::Make(_) | Self::Request { .. } | Self::Message(_))
    }

    /// Whether it may wait for its turn as long as it takes, and has the deadline's time from then on: nobody waits for the answer, and
    /// what is not told is lost.
    pub(super) fn is_news(&self) -> bool {
        matches!(self, Self::Left { .. } | Self::Connection { .. } | Self::Timer { .. } | Self::Link)
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Request { params, .. } => params.len(),
            Self::Message(message) => message.payload.len(),
            _ => 0,
        }
    }

    pub(super) fn caller(&self) -> Option<CallerMeta> {
        match self {
            Self::Make(caller) => caller.as_ref().map(Caller::meta),
            Self::Request { caller, .. } | Self::Joining { caller, .. } => Some(caller.meta()),
            _ => None,
        }
    }

    /// Whether a conductor has to be there, or is made for it.
    pub(super) fn needs_conductor(&self) -> bool {
        !matches!(self, Self::Make(_) | Self::Move(_) | Self::Close(_))
    }

    /// Tells a live conductor.
    pub(super) async fn tell(&self, instance: &Instance, session: &Session, time: u64, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let (kind, id) = (session.kind(), session.id());
        let left = deadline.saturating_duration_since(Instant::now());
        let mut meta = EventMeta::default();
        (meta.time, meta.deadline, meta.caller) = (time, Some(millis(left)), self.caller());
        let kind_name = self.name();
        let (subject, client, body) = match self {
            Self::Make(_) | Self::Move(_) => return Ok(Vec::new()),
            Self::Request { method, params, .. } => (method.as_str(), "", params.as_ref()),
            Self::Message(message) => {
                (meta.qos, meta.retain, meta.will) = (message.qos, message.retain, message.will);
                let name = message.topic.strip_prefix(&id.topic_prefix()).unwrap_or(&message.topic);
                (name, message.client_id.as_deref().unwrap_or_default(), message.payload.as_ref())
            }
            Self::Joining { client_id, .. } => ("", client_id.as_str(), &[][..]),
            Self::Left { client_id, reason } => (*reason, client_id.as_str(), &[][..]),
            Self::Connection { client_id, .. } => ("", client_id.as_str(), &[][..]),
            Self::Timer { name, due } => {
                meta.late = session.world().clock.millis().saturating_sub(*due);
                (name.as_str(), "", &[][..])
            }
            Self::Link => match session.world().broker.link() {
                Some(up) => (if up { link::UP } else { link::DOWN }, "", &[][..]),
                None => return Ok(Vec::new()),
            },
            Self::Close(_) if !kind.wants(event::CLOSE) => return Ok(Vec::new()),
            Self::Close(reason) => (reason.as_str(), "", &[][..]),
        };
        instance.handle(Incoming { kind: kind_name, subject, client, meta: &meta, body }).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
