//! What survives a restart: every live session and the clients that joined it.
//!
//! A store is a log of [`Change`]s with an answer each: `apply` returns once the change would survive `kill -9` and a power
//! cut, and says so by an error where it would not. Changes that arrive together share one write.

mod change;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod damage;
pub(crate) mod disk;
#[cfg(test)]
mod faults;
pub(crate) mod json;
mod kicked;
pub mod lock;
mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power_cut;
mod queue;
mod resting;
mod sqlite;
pub mod stock;
mod taken_over;
pub mod transfer;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use conductor_abi::wire::Grants;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

pub use self::kicked::Kicked;
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
    /// In the order of their first join, each name once.
    pub clients: Vec<StoredClient>,
    /// Counts the changes in this process: of two records of a session the one with the larger number is newer.
    pub revision: u64,
    /// What few sessions have; nothing where all of it is empty.
    pub extra: Option<Box<Extra>>,
}

/// What few sessions have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Pairs of texts that its conductor has given it, for administrators to see.
    pub labels: BTreeMap<String, String>,
    /// Whether nobody new may join.
    pub locked: bool,
    /// How many clients may be in it, where its conductor has said so.
    pub max_clients: Option<u32>,
    /// What single clients may do, where its conductor has said so; names without the leading `/{id}/`. Only of clients in its list.
    pub grants: BTreeMap<Box<str>, Grants>,
    /// By name.
    pub timers: BTreeMap<Box<str>, StoredTimer>,
    /// When the latest token ends that the list of clients does not tell of, in seconds since the Unix epoch: of a client that left, or that joined
    /// again for a shorter time. 0 where there is none.
    pub tokens_until: u64,
    /// How long after its creation the session ends, in milliseconds; 0 is never, nothing is as the settings say.
    pub lifetime: Option<u64>,
    /// How long it may be without clients, in milliseconds; 0 is for ever, nothing is as the settings say.
    pub empty_timeout: Option<u64>,
    /// Who was sent away, for resume tokens from before.
    pub kicked: Kicked,
    /// Keys of the stored object that this version does not know, written back as they were.
    pub rest: Map<String, Value>,
}

/// A timer that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTimer {
    /// When it was first due, in milliseconds since the Unix epoch. One that repeats is due at this and at each `every` after it: its
    /// firing changes nothing here.
    pub due: u64,
    /// Where it repeats: the time between two due times, in milliseconds; more than 0.
    pub every: Option<u64>,
}

/// State that a conductor has saved.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedState {
    /// Of its author's choosing.
    pub version: u32,
    /// What it saved.
    pub bytes: Bytes,
}

impl fmt::Debug for SavedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its author alone knows what must not be in a log.
        f.debug_struct("SavedState").field("version", &self.version).field("bytes", &self.bytes.len()).finish()
    }
}

impl StoredSession {
    /// Whether the client is in the session's list.
    #[must_use]
    pub fn has(&self, client_id: &str) -> bool {
        self.clients.iter().any(|client| client.client_id() == Some(client_id))
    }

    /// How often somebody was sent away.
    #[must_use]
    pub fn kicks(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.kicked.count)
    }

    /// Whether a resume token of this client with this count is good: it was not sent away since.
    #[must_use]
    pub fn may_resume(&self, client_id: &str, count: u64) -> bool {
        self.extra.as_ref().is_none_or(|extra| extra.kicked.lets(client_id, count))
    }

    /// Whether a client of this name may join: one that is in the session always may. `most` is how many clients may be in it where its conductor has not said so.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Full`].
    pub fn admits(&self, client_id: &str, most: u32) -> Result<(), StoreError> {
        if self.has(client_id) {
            return Ok(());
        }
        let extra = self.extra.as_ref();
        if extra.is_some_and(|extra| extra.locked) {
            return Err(StoreError::Locked(self.id));
        }
        let clients = self.clients.iter().filter(|client| client.client_id().is_some()).count();
        let most = extra.and_then(|extra| extra.max_clients).unwrap_or(most);
        if clients < most as usize { Ok(()) } else { Err(StoreError::Full(self.id)) }
    }

    /// When the latest token that was issued for this session ends, in seconds since the Unix epoch; 0 where there was none, or none that is still known.
    #[must_use]
    pub fn tokens_until(&self) -> u64 {
        let unlisted = self.extra.as_ref().map_or(0, |extra| extra.tokens_until);
        self.clients.iter().map(StoredClient::expires_at).fold(unlisted, u64::max)
    }

    /// When the latest grant of this client ends, in seconds since the Unix epoch; nothing where it did not join.
    #[must_use]
    pub fn granted_until(&self, client_id: &str) -> Option<u64> {
        self.clients.iter().find_map(|client| match client {
            StoredClient::Joined { client_id: known, expires_at } if **known == *client_id => Some(*expires_at),
            _ => None,
        })
    }
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

    /// When its latest grant ends, in seconds since the Unix epoch; 0 for a foreign value.
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        match self {
            Self::Joined { expires_at, .. } => *expires_at,
            Self::Foreign(_) => 0,
        }
    }
}

/// One change, applied whole or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new session. Refused with [`StoreError::Exists`] where the id is stored already, and with [`StoreError::Resting`] where it rests beyond
    /// the session's `created_at`.
    Create(Arc<StoredSession>),
    /// The session ends and is forgotten. Its id rests until its last token is over ([`StoredSession::tokens_until`]), which is known as soon as
    /// the session is gone.
    Close(SessionId),
    /// A device joins, or joins again: then only its expiry changes.
    Join {
        /// Which session.
        id: SessionId,
        /// The device.
        client_id: Box<str>,
        /// When its grant ends, in seconds since the Unix epoch.
        expires_at: u64,
        /// What it may do from now on, where its conductor has said so now: in place of what was said before, which stays otherwise.
        grants: Option<Grants>,
        /// How many clients may be in the session where its conductor has not said so.
        max_clients: u32,
    },
    /// What a client may do. Nothing happens where the client is not in the session.
    Grant {
        /// Which session.
        id: SessionId,
        /// The device.
        client_id: Box<str>,
        /// In place of what was said before.
        grants: Grants,
    },
    /// Who may join. What is nothing stays as it is.
    JoinRules {
        /// Which session.
        id: SessionId,
        /// Whether nobody new may join.
        locked: Option<bool>,
        /// How many clients may be in it.
        max_clients: Option<u32>,
    },
    /// How long the session lives. What is nothing stays as it is; `Some(None)` is as the settings say.
    Limits {
        /// Which session.
        id: SessionId,
        /// As [`Extra::lifetime`].
        lifetime: Option<Option<u64>>,
        /// As [`Extra::empty_timeout`].
        empty_timeout: Option<Option<u64>>,
    },
    /// Another pin, in place of the one before.
    Pin {
        /// Which session.
        id: SessionId,
        /// What devices show from now on.
        pin: Pin,
    },
    /// The labels, in place of those before.
    Labels {
        /// Which session.
        id: SessionId,
        /// Pairs of texts.
        labels: BTreeMap<String, String>,
    },
    /// A timer is set, in place of one of its name, or taken away.
    Timer {
        /// Which session.
        id: SessionId,
        /// Its name.
        name: Box<str>,
        /// Nothing takes it away.
        timer: Option<StoredTimer>,
    },
    /// A timer has fired: it is taken away, or the next takes its place. Nothing happens where another one has its name by now.
    Fired {
        /// Which session.
        id: SessionId,
        /// Its name.
        name: Box<str>,
        /// The one that fired.
        timer: StoredTimer,
        /// Of one that repeats, when it is due next.
        next: Option<StoredTimer>,
    },
    /// The state of its conductor, in place of what was saved before. It is kept beside the record, which stays as it is:
    /// [`Store::state`] has it. Where it fails, what was saved before is still there.
    Save {
        /// Which session.
        id: SessionId,
        /// The state.
        state: SavedState,
    },
    /// Every client whose `expires_at` is at or before `now` (seconds since the Unix epoch) leaves, and tokens that are over are forgotten.
    Expire {
        /// Which session.
        id: SessionId,
        /// The time to compare with.
        now: u64,
    },
    /// One client is sent away: it leaves, and its resume tokens of before are void ([`Kicked`]). Refused with [`StoreError::NoSuchClient`] where it is not in the session.
    Leave {
        /// Which session.
        id: SessionId,
        /// The device.
        client_id: Box<str>,
    },
}

/// Why a change was refused. It was taken back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The change names a session that is not stored (closed meanwhile, say).
    #[error("there is no session {0} in the store")]
    NoSuchSession(SessionId),
    /// The id to create is taken.
    #[error("session {0} is in the store already")]
    Exists(SessionId),
    /// The id to create was another session's, and a token of that one is not over yet.
    #[error("the id {0} rests until the last token of its former session is over")]
    Resting(SessionId),
    /// Nobody new may join.
    #[error("session {0} is locked")]
    Locked(SessionId),
    /// It has as many clients as it may have.
    #[error("session {0} is full")]
    Full(SessionId),
    /// The client that is to leave is not in the session: it left already.
    #[error("there is no such client in session {0}")]
    NoSuchClient(SessionId),
    /// The medium failed; what was stored before is untouched.
    #[error("the session store cannot be written: {0}")]
    Write(Arc<str>),
    /// Saved state is there and cannot be had.
    #[error("the saved state of session {0} cannot be read: {1}")]
    State(SessionId, Arc<str>),
}

/// The record after the change; nothing after [`Change::Close`].
pub type Applied = Result<Option<Arc<StoredSession>>, StoreError>;

/// Where sessions are kept. One per host; shared by all threads.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Queues the change **before it returns** (so two calls in order are applied in order) and resolves once it is
    /// durable. Dropping the future does not take the change back.
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied>;

    /// What the conductor of a session saved last, as durable; nothing where it never did, or there is no such session. After [`Change::Close`] it is
    /// gone, for a later session of that id as well. Asked behind all changes that were queued before. [`StoreError::State`] where it is there and cannot
    /// be read; it stays as it is then.
    fn state(&self, id: SessionId) -> BoxFuture<'static, Result<Option<SavedState>, StoreError>>;

    /// Why the last write failed, while that is still so. Shown by `/readyz`.
    fn trouble(&self) -> Option<Arc<str>>;

    /// Resolves when everything queued before it is durable. Called once, at the end.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

/// Why the host cannot start on its store. No message holds a pin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The setting names no store that this version knows. Only the scheme is shown: what follows it may hold a password.
    #[error("the store url begins with {0:?}, which is unknown; it must be `sqlite:FILE`, `json:FILE` or `memory:`")]
    Scheme(String),
    /// A scheme that needs a file, without one.
    #[error("the store url `{0}:` names no file; write `{0}:FILE`, for example `sqlite:state/sessions.db` or `json:state/sessions.json`")]
    NoFile(&'static str),
    /// Another process works with this file, or its lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    /// The operating system refused an operation.
    #[error("the session store {} cannot be opened: {source}", file.display())]
    Io {
        /// The file of the store.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is there and is not what this host can go on from.
    #[error(
        "the session store {0} cannot be used: {problem}. The file was left as it is: put a backup in its place, repair it, or move it away to start \
         without sessions, together with what belongs to it ({0}.state, or {0}-wal and {0}-shm)",
        file.display()
    )]
    Unusable {
        /// The file of the store.
        file: PathBuf,
        /// Where in the file, what was found and what was expected.
        problem: String,
    },
}

/// What a store holds when it is opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of their ids.
    pub sessions: Vec<Arc<StoredSession>>,
    /// Ids that rest, in their order, and until when, in seconds since the Unix epoch. None of a session that is there; some may be over.
    pub resting: Vec<(SessionId, u64)>,
}

/// A store and what it holds.
pub type Opened<S> = Result<(S, Loaded), OpenError>;

/// What a url names.
#[derive(Clone, Copy)]
enum Url<'a> {
    Memory,
    Json(&'a str),
    Sqlite(&'a str),
}

impl<'a> Url<'a> {
    fn parse(url: &'a str) -> Result<Self, OpenError> {
        match url.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("json", "")) => Err(OpenError::NoFile("json")),
            Some(("sqlite", "")) => Err(OpenError::NoFile("sqlite")),
            Some(("json", file)) => Ok(Self::Json(file)),
            Some(("sqlite", file)) => Ok(Self::Sqlite(file)),
            Some((scheme, _)) => Err(OpenError::Scheme(scheme.to_owned())),
            None => Err(OpenError::Scheme(url.to_owned())),
        }
    }
}

/// Opens the store that `url` names (`sqlite:FILE` or `json:FILE`, relative to `base`, or `memory:`) and returns it with what it holds. Blocks: it
/// reads the whole file. Stored clients without an expiry, as the reference writes them, count as granted `now` (seconds since the Unix epoch), for `grant_ttl`.
///
/// The store belongs to this process from then on: until [`Store::shutdown`] has resolved or the process has ended.
///
/// # Errors
/// Where the url is unknown, another process uses the store, or the file cannot be read and understood; the file is not touched then.
pub fn open(url: &str, base: &Path, grant_ttl: Duration, now: u64) -> Opened<Arc<dyn Store>> {
    open_or_import(url, base, None, grant_ttl, now)
}

/// As [`open`]. Where a `sqlite:` store is made since its file is missing, it begins with all that the `json:` store in the file `import` holds, where that is
/// there, which stays as it is. That happens once: FILE.imported beside it says so from then on, and from the first start that finds both.
///
/// # Errors
/// As [`open`], and for `import` as well.
pub fn open_or_import(url: &str, base: &Path, import: Option<&Path>, grant_ttl: Duration, now: u64) -> Opened<Arc<dyn Store>> {
    let granted_until = now.saturating_add(grant_ttl.as_secs());
    match Url::parse(url)? {
        Url::Memory => Ok((Arc::new(memory::MemoryStore::default()), Loaded::default())),
        Url::Json(file) => {
            let (store, loaded) = json::open(&base.join(file), granted_until, queue::RETRY, disk::RealDisk)?;
            Ok((Arc::new(store), loaded))
        }
        Url::Sqlite(file) => {
            let (store, loaded) = sqlite::open(&base.join(file), import, granted_until, queue::RETRY)?;
            Ok((Arc::new(store), loaded))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        open(url, Path::new("/nowhere"), Duration::ZERO, 0).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_url_is_refused_with_the_known_ones_and_without_its_secrets() {
        for url in ["redis://user:hunter2@host", "", "json", "memory", "memory:x", "JSON:a"] {
            let message = refusal(url);
            assert!(message.contains("`sqlite:FILE`, `json:FILE` or `memory:`"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(refusal("json:").contains("names no file") && refusal("sqlite:").contains("names no file"));
    }
}
