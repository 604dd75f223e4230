//! What others may know of a session: where it is in its life, and what it has as a conductor.

use std::sync::Arc;

/// Where a session is in its life. Only an open one can be found, joined and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is not stored yet: its record is changed in memory.
    Making,
    /// It is being stored.
    Storing,
    /// It lives.
    Open,
    /// It is being closed, or is.
    Closing,
}

/// What a session has as a conductor, to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is made at the first event.
    NotMade,
    /// It answers.
    Live,
    /// It panicked; why.
    Faulted(Arc<str>),
    /// It cannot be had; why.
    Unavailable(Arc<str>),
    /// It was closed.
    Gone,
}

impl Status {
    /// Whether it answers.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    /// Whether it has ended, well or not: then it may ask for nothing more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Faulted(_) | Self::Unavailable(_) | Self::Gone)
    }
}
