//! `memory:`: sessions that end with the process. For tests and trials.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{Applied, Change, SavedState, Store, StoreError, change::Content};
use crate::sessions::SessionId;

/// Maps behind a lock that is held for one change of them and never across an await.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    content: Content,
    /// Of stored sessions only.
    states: BTreeMap<SessionId, SavedState>,
}

impl Store for MemoryStore {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        // A poisoned lock holds whole maps all the same: nothing that could panic comes between two edits of them.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, _) = kept.content.apply(&change);
        match (change, &applied) {
            (Change::Save { id, state }, Ok(_)) => drop(kept.states.insert(id, state)),
            (Change::Close(id), Ok(_)) => drop(kept.states.remove(&id)),
            _ => {}
        }
        std::future::ready(applied).boxed()
    }

    fn state(&self, id: SessionId) -> BoxFuture<'static, Result<Option<SavedState>, StoreError>> {
        let state = self.kept.lock().unwrap_or_else(PoisonError::into_inner).states.get(&id).cloned();
        std::future::ready(Ok(state)).boxed()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        None
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}
