//! Why nothing was read or written.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::super::{OpenError, json::aside::Unread};

/// How many lines or ids a message lists.
pub(super) const LISTED: usize = 20;

/// Why nothing was read or written. No text holds a pin.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The store cannot be opened: a host has it, say.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is none.
    #[error("there is no session store {}: no session was ever kept there, or another file is meant", .0.display())]
    Missing(PathBuf),
    /// The store is there, and not all of it is understood.
    #[error("the session store {} is damaged:\n{}It was left as it is", file.display(), Listed(problems))]
    Damaged {
        /// Its file.
        file: PathBuf,
        /// All that is wrong, each with its session or its line.
        problems: Vec<String>,
    },
    /// A new store was to be made where something is.
    #[error("{} is there already and is not replaced; nothing was written. Choose another place, or move it away", .0.display())]
    Exists(PathBuf),
    /// Sessions were to be put into a store that has some.
    #[error(
        "the store {place} has {sessions} session(s) already, and sessions are not mixed; nothing was written. Close them, or move the store away \
         (`conductor-host store backup FILE` keeps a copy)"
    )]
    NotEmpty {
        /// The store.
        place: String,
        /// How many it has.
        sessions: usize,
    },
    /// Sessions were to be put into a store in which their ids rest.
    #[error(
        "in the store {place} these ids rest, since tokens of former sessions are still good: {ids}; nothing was written. Wait until they are over \
         (token.ttl), or import into a store that is new"
    )]
    Resting {
        /// The store.
        place: String,
        /// Some of the ids.
        ids: String,
    },
    /// The medium failed.
    #[error("{} cannot be written: {problem}; nothing was kept of it", file.display())]
    Write {
        /// The file of the store that was to be.
        file: PathBuf,
        /// What the operating system said.
        problem: io::Error,
    },
}

impl StockError {
    /// One that is refused for what is in it, in the words for that.
    pub(super) fn damage(error: OpenError) -> Self {
        match error {
            OpenError::Unusable { file, problem } => Self::Damaged { file, problems: vec![problem] },
            other => other.into(),
        }
    }

    /// Why the files of a `json:` store are not read.
    pub(super) fn unread(target: &Path, unread: Unread) -> Self {
        let file = target.to_owned();
        match unread {
            Unread::Missing => Self::Missing(file),
            Unread::Damaged(problems) => Self::Damaged { file, problems },
            Unread::Io(source) => OpenError::Io { file, source }.into(),
        }
    }

    /// Why a host that was to read it cannot start; the first problem of several.
    pub(in crate::store) fn at_start(self) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Damaged { file, problems } => OpenError::Unusable { file, problem: problems.into_iter().next().unwrap_or_default() },
            Self::Missing(file) => OpenError::Io { file, source: io::ErrorKind::NotFound.into() },
            Self::Exists(file) => OpenError::Io { file, source: io::ErrorKind::AlreadyExists.into() },
            Self::Write { file, problem } => OpenError::Io { file, source: problem },
            Self::NotEmpty { ref place, .. } | Self::Resting { ref place, .. } => {
                OpenError::Io { file: place.into(), source: io::Error::other(self.to_string()) }
            }
        }
    }
}

/// Lines of a list, the first few of it.
pub(crate) struct Listed<'a>(pub(crate) &'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.0.iter().take(LISTED) {
            writeln!(f, "  - {problem}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}
