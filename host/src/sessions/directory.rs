//! Which sessions there are: a sharded map by id, in order of the ids.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use super::{Session, SessionId};

/// Enough that threads seldom meet at one lock.
const SHARDS: usize = 32;

/// All live sessions, hidden ones included. The locks are held for a map operation, never across a wait.
#[derive(Debug, Default)]
pub struct Directory {
    shards: [RwLock<BTreeMap<u64, Arc<Session>>>; SHARDS],
}

impl Directory {
    fn shard(&self, id: SessionId) -> &RwLock<BTreeMap<u64, Arc<Session>>> {
        let shard = usize::try_from(id.packed() % SHARDS as u64).unwrap_or(0);
        &self.shards[shard]
    }

    /// The session of that id.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.shard(id).read().unwrap_or_else(PoisonError::into_inner).get(&id.packed()).cloned()
    }

    /// Adds a session; false where its id is taken.
    pub fn add(&self, session: Arc<Session>) -> bool {
        use std::collections::btree_map::Entry;
        let mut shard = self.shard(session.id()).write().unwrap_or_else(PoisonError::into_inner);
        match shard.entry(session.id().packed()) {
            Entry::Vacant(place) => {
                place.insert(session);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Takes a session out.
    pub fn remove(&self, id: SessionId) -> Option<Arc<Session>> {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(&id.packed())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `limit` sessions behind `after`, in the order of their packed ids.
    #[must_use]
    pub fn page(&self, after: Option<SessionId>, limit: usize) -> Vec<Arc<Session>> {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.packed()));
        let mut page = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            page.extend(shard.range((from, Bound::Unbounded)).filter(|(_, session)| session.is_open()).take(limit).map(|(_, s)| s.clone()));
        }
        page.sort_unstable_by_key(|session| session.id().packed());
        page.truncate(limit);
        page
    }

    /// Looks at each that is open, in no order. `look` must not come back to the directory.
    pub fn for_each(&self, mut look: impl FnMut(&Session)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter(|session| session.is_open()).for_each(|session| look(session));
        }
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect::<Vec<_>>()).collect()
    }
}
