//! A database for those who do not work with it as a host does.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    super::{
        OpenError, SavedState,
        change::Content,
        disk::beside,
        lock::{FileLock, LockError},
    },
    check::{self, Found},
    connect,
    new::{self, States},
    rows::{self, Kept},
};
use crate::sessions::SessionId;

/// What a database holds.
pub(in crate::store) struct Held {
    pub(in crate::store) content: Content,
    pub(in crate::store) states: BTreeMap<SessionId, SavedState>,
    /// Of the file's format.
    version: i32,
}

/// All files of the database in `file`.
pub(in crate::store) fn files(file: &Path) -> Vec<PathBuf> {
    check::all(file).into()
}

/// All that is in it while no host works with it: the caller has its lock. Nothing where it is not there.
pub(in crate::store) fn read(target: &Path) -> Result<Option<Held>, OpenError> {
    let mut states = BTreeMap::new();
    let found = check::read(target, |db, version| check::whole(db, version, |id, state| drop(states.insert(id, state))))?;
    Ok(found.map(|Found { content, version, .. }| Held { content, states, version }))
}

/// All that was in it at one moment, whether a host works with it or not.
pub(in crate::store) fn read_beside(target: &Path) -> Result<Option<Held>, OpenError> {
    let live = || {
        let mut states = BTreeMap::new();
        let Found { content, version, .. } = check::live(target, |id, state| drop(states.insert(id, state)))?;
        Ok(Some(Held { content, states, version }))
    };
    either(target, || read(target), live)
}

/// A session and what its conductor has saved at one moment, whether a host works with it or not; others are not looked at. Nothing where [`read_beside`] has
/// to say whether that is there.
pub(in crate::store) fn kept(target: &Path, id: SessionId) -> Result<Option<Kept>, OpenError> {
    let at_rest = || Ok(check::read(target, |db, version| rows::kept(db, version, id))?.flatten());
    either(target, at_rest, || check::live_kept(target, id))
}

/// What `at_rest` reads where no host works with it all the while, else what `live` does.
fn either<T>(
    target: &Path,
    at_rest: impl FnOnce() -> Result<T, OpenError>,
    live: impl FnOnce() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    if !held(target)? {
        let found = at_rest();
        // One that has begun meanwhile may have changed what was read.
        if !held(target)? {
            return found;
        }
    }
    live()
}

/// Whether a host works with it.
fn held(target: &Path) -> Result<bool, OpenError> {
    match FileLock::if_used("store", target, beside(target, ".lock")) {
        Ok(_) => Ok(false),
        Err(LockError::Held { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Puts all of it into a database without sessions, of which `there` is what was read; all in one transaction. The caller has its lock.
pub(in crate::store) fn fill(target: &Path, there: &Held, content: &Content, states: States<'_>) -> io::Result<()> {
    let db = connect(target, there.version).map_err(|error| check::io_error(&error))?;
    new::fill(db, content, &there.content.resting, states)
}
