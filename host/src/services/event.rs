//! What happens to a service.

use std::sync::Arc;

use bytes::Bytes;
use conductor_abi::wire::{EventMeta, event, link};
use tokio::time::Instant;

use super::Service;
use crate::{
    broker::Message,
    conductors::{
        Trouble,
        instance::{Incoming, Instance},
    },
    sessions::{Caller, CloseReason, SessionId},
};

/// What happened.
pub(super) enum What {
    /// An administrator asks.
    Request { method: String, params: Bytes, caller: Caller },
    /// A client of some session sent a message.
    Message(Message),
    /// A session was opened.
    Opened { id: SessionId, type_name: Arc<str> },
    /// A session has closed.
    Closed { id: SessionId, type_name: Arc<str>, reason: CloseReason },
    /// The link to an external broker came up or was lost; which is asked when it is told, so that the last word is true.
    Link,
    /// The end.
    Close(CloseReason),
}

impl What {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Request { .. } => event::REQUEST,
            Self::Message(_) => event::MESSAGE,
            Self::Opened { .. } => event::SESSION_OPENED,
            Self::Closed { .. } => event::SESSION_CLOSED,
            Self::Link => event::LINK,
            Self::Close(_) => event::CLOSE,
        }
    }

    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::Close(_))
    }

    /// Whether there is room for it in a mailbox that is full of requests and messages: nobody could tell it again.
    pub(super) fn has_room_reserved(&self) -> bool {
        !matches!(self, Self::Request { .. } | Self::Message(_))
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Request { params, .. } => params.len(),
            Self::Message(message) => message.payload.len(),
            _ => 0,
        }
    }

    /// Tells a live service.
    pub(super) async fn tell(&self, instance: &Instance, service: &Service, time: u64, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut meta = EventMeta::default();
        (meta.time, meta.deadline) = (time, Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        let (subject, client, body) = match self {
            Self::Request { method, params, caller } => {
                meta.caller = Some(caller.meta());
                (method.as_str(), "", params.as_ref())
            }
            Self::Message(message) => {
                (meta.qos, meta.retain, meta.will) = (message.qos, message.retain, message.will);
                meta.session = Some(message.session.to_string());
                let name = message.topic.strip_prefix(&message.session.topic_prefix()).unwrap_or(&message.topic);
                (name, message.client_id.as_deref().unwrap_or_default(), message.payload.as_ref())
            }
            Self::Opened { id, type_name } => {
                (meta.session, meta.type_name) = (Some(id.to_string()), Some(type_name.to_string()));
                ("", "", &[][..])
            }
            Self::Closed { id, type_name, reason } => {
                (meta.session, meta.type_name) = (Some(id.to_string()), Some(type_name.to_string()));
                (reason.as_str(), "", &[][..])
            }
            Self::Link => match service.world().broker.link() {
                Some(up) => (if up { link::UP } else { link::DOWN }, "", &[][..]),
                None => return Ok(Vec::new()),
            },
            Self::Close(_) if !service.wants(event::CLOSE) => return Ok(Vec::new()),
            Self::Close(reason) => (reason.as_str(), "", &[][..]),
        };
        instance.handle(Incoming { kind: self.name(), subject, client, meta: &meta, body }).await
    }
}
