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
        resting::Resting,
    },
    check, connect,
    new::{self, States},
};
use crate::sessions::SessionId;

/// What a database holds.
pub(in crate::store) type Held = (Content, BTreeMap<SessionId, SavedState>);

/// All files of the database in `file`.
pub(in crate::store) fn files(file: &Path) -> Vec<PathBuf> {
    check::all(file).into()
}

/// All that is in it while no host works with it: the caller has its lock. Nothing where it is not there.
pub(in crate::store) fn read(target: &Path) -> Result<Option<Held>, OpenError> {
    let mut states = BTreeMap::new();
    let found = check::read(target, |id, state| drop(states.insert(id, state)))?;
    Ok(found.map(|found| (found.content, states)))
}

/// All that was in it at one moment, whether a host works with it or not.
pub(in crate::store) fn read_beside(target: &Path) -> Result<Option<Held>, OpenError> {
    if !held(target)? {
        let found = read(target);
        // One that has begun meanwhile may have changed what was read.
        if !held(target)? {
            return found;
        }
    }
    let mut states = BTreeMap::new();
    let found = check::live(target, |id, state| drop(states.insert(id, state)))?;
    Ok(Some((found.content, states)))
}

/// Whether a host works with it.
fn held(target: &Path) -> Result<bool, OpenError> {
    match FileLock::if_used("store", target, beside(target, ".lock")) {
        Ok(_) => Ok(false),
        Err(LockError::Held { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Puts all of it where nothing is.
pub(in crate::store) fn create(target: &Path, content: &Content, states: States<'_>) -> io::Result<()> {
    new::create(target, content, states)
}

/// Puts all of it into a database that is there, is understood and has no sessions, all in one transaction; the caller has its lock. `rested` are the ids that rest in it.
pub(in crate::store) fn fill(target: &Path, rested: &Resting, content: &Content, states: States<'_>) -> io::Result<()> {
    // Of a version that was read before: `connect` brings an older one to ours.
    let version = check::read(target, |_, _| {}).map_err(|error| io::Error::other(error.to_string()))?.map_or(0, |found| found.version);
    let db = connect(target, version).map_err(|error| check::io_error(&error))?;
    let filled = new::fill(&db, content, rested, states);
    let closed = db.close().map_err(|(_, error)| check::io_error(&error));
    filled.and(closed)
}
