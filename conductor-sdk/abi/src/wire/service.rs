//! What only services are told and may ask.

use serde::{Deserialize, Serialize};

/// What a session has as a conductor, in [`SessionInfo`].
pub mod state {
    /// It is made at the session's first event.
    pub const IDLE: &str = "idle";
    /// It answers.
    pub const LIVE: &str = "live";
    /// It panicked.
    pub const FAULTED: &str = "faulted";
    /// It cannot be had.
    pub const UNAVAILABLE: &str = "unavailable";
    /// It was closed: the session is ending.
    pub const CLOSED: &str = "closed";
}

/// `meta` of the calls of a service that concern one session: [`call::CLIENTS`](super::call::CLIENTS), [`call::CLOSE_SESSION`](super::call::CLOSE_SESSION), [`call::ASK`](super::call::ASK).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionMeta {
    /// Its id.
    pub session: String,
}

/// `meta` of [`call::SESSIONS`](super::call::SESSIONS).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionsMeta {
    /// The id that the page before ended with, whether that session is still there or not; absent for the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most sessions to answer with; the host may answer with fewer at a time. 0, the default, leaves it to the host.
    #[serde(skip_serializing_if = "super::is_none")]
    pub limit: u32,
}

/// One session in the reply of [`call::SESSIONS`](super::call::SESSIONS).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// When it was made, in milliseconds since the Unix epoch; 0 where that is not known.
    pub created_at: u64,
    /// What it has as a conductor: one of [`state`].
    pub state: String,
    /// How many clients are in it.
    pub clients: u64,
}

/// The reply of [`call::CREATE_SESSION`](super::call::CREATE_SESSION).
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionCreated {
    /// Its id.
    pub id: String,
    /// What devices need to join it. Not for logs.
    pub pin: String,
}

impl std::fmt::Debug for SessionCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCreated").field("id", &self.id).finish_non_exhaustive()
    }
}
