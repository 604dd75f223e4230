//! Which store.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::super::{OpenError, Url, json::states, sqlite, taken_over};

/// Where a store is that outlives its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `json:FILE`.
    Json(PathBuf),
    /// `sqlite:FILE`.
    Sqlite(PathBuf),
}

impl Place {
    /// What `url` names, relative to `base`; nothing for `memory:`.
    ///
    /// # Errors
    /// Where the url is unknown.
    pub fn of(url: &str, base: &Path) -> Result<Option<Self>, OpenError> {
        Ok(match Url::parse(url)? {
            Url::Memory => None,
            Url::Json(file) => Some(Self::Json(base.join(file))),
            Url::Sqlite(file) => Some(Self::Sqlite(base.join(file))),
        })
    }

    /// As [`Place::of`]; but the `json:` store in the file `before`, where that is there, was never taken over, and what `url` names is not there: a host that starts takes it over.
    ///
    /// # Errors
    /// Where the url is unknown.
    pub fn in_use(url: &str, base: &Path, before: Option<PathBuf>) -> Result<Option<Self>, OpenError> {
        let named = Self::of(url, base)?;
        Ok(named.map(|named| match before {
            Some(before) if before.exists() && !taken_over::is(&before) && named.there().is_none() => Self::Json(before),
            _ => named,
        }))
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Json(file) | Self::Sqlite(file) => file,
        }
    }

    /// Something of it that is there, were it a link that leads nowhere.
    pub(super) fn there(&self) -> Option<PathBuf> {
        let files = match self {
            Self::Json(file) => vec![file.clone(), states::folder(file)],
            Self::Sqlite(file) => sqlite::aside::files(file),
        };
        files.into_iter().find(|file| file.symlink_metadata().is_ok())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(file) => write!(f, "json:{}", file.display()),
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
        }
    }
}
