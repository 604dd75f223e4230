//! What a service learns of sessions.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use conductor_abi::wire::{self, state};

use crate::CloseReason;

/// One session, as a service sees it.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # async fn f(host: &Host) -> Result<()> {
/// for session in host.sessions().await? {
///     tracing::info!("{} is a {} with {} clients", session.id(), session.type_name(), session.clients());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo(wire::SessionInfo);

impl SessionInfo {
    pub(crate) fn new(info: wire::SessionInfo) -> Self {
        Self(info)
    }

    /// Its id: decimal digits, leading zeros kept.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::SessionInfo) {
    /// let topic = format!("/{}/news", session.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The name of its type in the host's settings.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::SessionInfo) {
    /// let is_quiz = session.type_name() == "quiz";
    /// # }
    /// ```
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.0.type_name
    }

    /// When it was made, in milliseconds; nothing where the file that brought it did not say.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::SessionInfo, host: &conductor_sdk::Host) {
    /// let age = session.created_at().and_then(|made| host.now().duration_since(made).ok());
    /// # }
    /// ```
    #[must_use]
    pub fn created_at(&self) -> Option<SystemTime> {
        Some(self.0.created_at).filter(|millis| *millis > 0).map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// What it has as a conductor.
    ///
    /// ```
    /// # use conductor_sdk::SessionState;
    /// # fn f(session: &conductor_sdk::SessionInfo) {
    /// if session.state() == SessionState::Faulted { tracing::warn!("session {} is faulted", session.id()); }
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> SessionState {
        SessionState::parse(&self.0.state)
    }

    /// How many clients are in it.
    ///
    /// ```
    /// # fn f(session: &conductor_sdk::SessionInfo) {
    /// let deserted = session.clients() == 0;
    /// # }
    /// ```
    #[must_use]
    pub fn clients(&self) -> usize {
        usize::try_from(self.0.clients).unwrap_or(usize::MAX)
    }
}

/// What a session has as a conductor.
///
/// ```
/// # use conductor_sdk::SessionState;
/// assert_eq!(SessionState::Live.as_str(), "live");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// It is made at the session's first event.
    Idle,
    /// It answers.
    Live,
    /// It panicked.
    Faulted,
    /// It cannot be had.
    Unavailable,
    /// It was closed: the session is ending.
    Closed,
    /// A state that this version of the SDK does not know.
    Other,
}

impl SessionState {
    fn parse(text: &str) -> Self {
        match text {
            state::IDLE => Self::Idle,
            state::LIVE => Self::Live,
            state::FAULTED => Self::Faulted,
            state::UNAVAILABLE => Self::Unavailable,
            state::CLOSED => Self::Closed,
            _ => Self::Other,
        }
    }

    /// Its name, as the admin port shows it; `other` for one that this version does not know.
    ///
    /// ```
    /// # use conductor_sdk::SessionState;
    /// assert_eq!(SessionState::Idle.as_str(), "idle");
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => state::IDLE,
            Self::Live => state::LIVE,
            Self::Faulted => state::FAULTED,
            Self::Unavailable => state::UNAVAILABLE,
            Self::Closed => state::CLOSED,
            Self::Other => "other",
        }
    }
}

/// A session that a service has made.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # async fn f(host: &Host) -> Result<()> {
/// let lobby = host.create_session("lobby").await?;
/// host.publish(lobby.id(), "motd", "welcome").retain(true).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSession {
    id: String,
    pin: String,
}

impl NewSession {
    pub(crate) fn new(created: wire::SessionCreated) -> Self {
        Self { id: created.id, pin: created.pin }
    }

    /// Its id.
    ///
    /// ```
    /// # fn f(made: &conductor_sdk::NewSession) {
    /// tracing::info!("made session {}", made.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What devices need to join it. Keep it out of logs; [`Debug`] does.
    ///
    /// ```
    /// # fn f(made: &conductor_sdk::NewSession) {
    /// let invitation = format!("enter {} and {}", made.id(), made.pin());
    /// # }
    /// ```
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }
}

impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A session was opened; see [`Service::session_opened`](crate::Service::session_opened).
///
/// ```
/// # fn f(opened: &conductor_sdk::SessionOpened) {
/// tracing::info!("session {} of type {}", opened.id(), opened.type_name());
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionOpened {
    id: String,
    type_name: String,
}

impl SessionOpened {
    pub(crate) fn new(id: String, type_name: String) -> Self {
        Self { id, type_name }
    }

    /// Its id.
    ///
    /// ```
    /// # fn f(opened: &conductor_sdk::SessionOpened) {
    /// let topic = format!("/{}/news", opened.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its type.
    ///
    /// ```
    /// # fn f(opened: &conductor_sdk::SessionOpened) {
    /// let is_quiz = opened.type_name() == "quiz";
    /// # }
    /// ```
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.type_name
    }
}

/// A session has closed; see [`Service::session_closed`](crate::Service::session_closed).
///
/// ```
/// # fn f(closed: &conductor_sdk::SessionClosed) {
/// tracing::info!("session {} has closed: {:?}", closed.id(), closed.reason());
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionClosed {
    id: String,
    type_name: String,
    reason: CloseReason,
}

impl SessionClosed {
    pub(crate) fn new(id: String, type_name: String, reason: &str) -> Self {
        Self { id, type_name, reason: CloseReason::parse(reason) }
    }

    /// The id that it had. A later session may get it again.
    ///
    /// ```
    /// # fn f(closed: &conductor_sdk::SessionClosed, counts: &mut std::collections::HashMap<String, u64>) {
    /// counts.remove(closed.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its type.
    ///
    /// ```
    /// # fn f(closed: &conductor_sdk::SessionClosed) {
    /// let was_quiz = closed.type_name() == "quiz";
    /// # }
    /// ```
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Why it closed. (What a service closes has [`CloseReason::Requested`], as what an administrator closes.)
    ///
    /// ```
    /// # use conductor_sdk::CloseReason;
    /// # fn f(closed: &conductor_sdk::SessionClosed) {
    /// let by_itself = closed.reason() == CloseReason::Conductor;
    /// # }
    /// ```
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        self.reason
    }
}
