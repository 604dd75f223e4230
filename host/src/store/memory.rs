//! `memory:`: sessions that end with the process. For tests and trials.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    Applied, Change, Store,
    change::{self, Sessions},
};

/// A map behind a lock that is held for one change of it and never across an await.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    sessions: Mutex<Sessions>,
}

impl Store for MemoryStore {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        // A poisoned lock holds a whole map all the same: nothing that could panic comes between two edits of it.
        let (applied, _) = change::apply(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner), &change);
        std::future::ready(applied).boxed()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        None
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}
