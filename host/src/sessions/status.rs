//! What others may know of a session: where it is in its life, and what it has as a conductor.

use std::{sync::Arc, time::Duration};

use crate::conductors::Trouble;

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
    /// There is none for now; why. A session is parked then: see [`Session::parked`](super::Session::parked).
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

/// Before the second try.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What keeps a parked session from its conductor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its type has no plugin: it is not in the settings, or its file is missing or refused. Looked at when plugins are loaded.
    Plugin,
    /// The plugin made no conductor: `restore` or `create` failed, or what was saved cannot be read. Tried again, after ever longer pauses.
    Conductor,
}

impl Lack {
    /// Its name on the admin port.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Conductor => "conductor",
        }
    }
}

/// Why a session has no conductor, since when, and how often one was tried to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// What it lacks.
    pub lack: Lack,
    /// In words.
    pub reason: Arc<str>,
    /// When that began, in milliseconds since the Unix epoch.
    pub since: u64,
    /// Tries that failed, one after the other.
    pub tries: u32,
}

impl Parked {
    /// For want of a plugin.
    pub(super) fn without_plugin(reason: Arc<str>, now: u64) -> Arc<Self> {
        Arc::new(Self { lack: Lack::Plugin, reason, since: now, tries: 0 })
    }

    /// After a conductor could not be made, again perhaps.
    pub(super) fn after(trouble: &Trouble, before: Option<&Self>, now: u64) -> Arc<Self> {
        let reason = match trouble {
            Trouble::Unavailable(reason) | Trouble::Faulted(reason) => reason.clone(),
            Trouble::Deadline => "it was not made within its deadline".into(),
            other => other.to_string().into(),
        };
        let before = before.filter(|before| before.lack == Lack::Conductor);
        let (since, tries) = before.map_or((now, 0), |before| (before.since, before.tries));
        Arc::new(Self { lack: Lack::Conductor, reason, since, tries: tries.saturating_add(1) })
    }

    /// Before the next try; nothing where only a plugin helps.
    pub(super) fn pause(&self) -> Option<Duration> {
        let doublings = self.tries.checked_sub(1)?;
        Some(LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(doublings.min(16))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_between_tries_grow_and_the_first_failure_counts_as_the_begin() {
        let failed = |before: Option<&Parked>, now| Parked::after(&Trouble::Deadline, before, now);
        let mut parked = failed(Some(&Parked::without_plugin("gone".into(), 5)), 10);
        let mut pauses = Vec::new();
        for now in 11..=20 {
            pauses.push(parked.pause().unwrap().as_secs());
            parked = failed(Some(&parked), now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!((parked.since, parked.tries, parked.lack), (10, 11, Lack::Conductor));
        let always = Parked { tries: u32::MAX, ..(*parked).clone() };
        assert_eq!((always.pause(), failed(Some(&always), 0).tries), (Some(LONGEST_PAUSE), u32::MAX));
        assert_eq!(Parked::without_plugin("gone".into(), 5).pause(), None);
    }
}
