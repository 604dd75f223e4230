//! What survives a restart: every live session and the clients that joined it.
//!
//! A store is a log of [`Change`]s with an answer each: `apply` returns once the change would survive `kill -9` and a power
//! cut, and says so by an error where it would not. Changes that arrive together share one write.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use crate::sessions::{Pin, SessionId};

/// One session as it is stored. Immutable: a change makes a new one with the next `revision`, so that the store and the
/// live session share the memory.
#[derive(Clone, Debug)]
pub struct StoredSession {
    /// Unique among live sessions.
    pub id: SessionId,
    /// What devices show to join.
    pub pin: Pin,
    /// A key of `[types]`, whether or not it is configured any more.
    pub type_name: Arc<str>,
    /// Milliseconds since the Unix epoch; 0 where the file that brought the session did not say.
    pub created_at: u64,
    /// In the order of their first join.
    pub clients: Vec<StoredClient>,
    /// Counts the changes in this process: of two records of a session the one with the larger number is newer.
    pub revision: u64,
    /// Keys of the stored object that this version does not know, written back as they were.
    pub rest: Option<Box<Map<String, Value>>>,
}

/// An entry of a session's list of clients.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredClient {
    /// A device that joined.
    Joined {
        /// The name it gave.
        client_id: Box<str>,
        /// When its latest grant ends, in seconds since the Unix epoch.
        expires_at: u64,
    },
    /// A value that is no string (null, a number…), as the reference's file may hold: kept and shown, matches no join.
    Foreign(Value),
}

impl StoredClient {
    /// The device's name; nothing for a foreign value.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Joined { client_id, .. } => Some(client_id),
            Self::Foreign(_) => None,
        }
    }
}

/// One change, applied whole or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new session. Refused with [`StoreError::Exists`] where the id is stored already.
    Create(Arc<StoredSession>),
    /// The session ends and is forgotten.
    Close(SessionId),
    /// A device joins, or joins again: then only its expiry changes.
    Join {
        /// Which session.
        id: SessionId,
        /// The device.
        client_id: Box<str>,
        /// When its grant ends, in seconds since the Unix epoch.
        expires_at: u64,
    },
    /// Every client whose `expires_at` is at or before `now` (seconds since the Unix epoch) leaves.
    Expire {
        /// Which session.
        id: SessionId,
        /// The time to compare with.
        now: u64,
    },
    /// One client leaves.
    Leave {
        /// Which session.
        id: SessionId,
        /// The device.
        client_id: Box<str>,
    },
}

/// Why a change was refused. Nothing of it was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The change names a session that is not stored (closed meanwhile, say).
    #[error("there is no session {0} in the store")]
    NoSuchSession(SessionId),
    /// The id to create is taken.
    #[error("session {0} is in the store already")]
    Exists(SessionId),
    /// The medium failed; what was stored before is untouched.
    #[error("the session store cannot be written: {0}")]
    Write(Arc<str>),
}

/// The record after the change; nothing after [`Change::Close`].
pub type Applied = Result<Option<Arc<StoredSession>>, StoreError>;

/// Where sessions are kept. One per host; shared by all threads.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Queues the change **before it returns** (so two calls in order are applied in order) and resolves once it is
    /// durable. Dropping the future does not take the change back.
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied>;

    /// Why the last write failed, while that is still so. Shown by `/readyz`.
    fn trouble(&self) -> Option<Arc<str>>;

    /// Resolves when everything queued before it is durable. Called once, at the end.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}
