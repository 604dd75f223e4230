//! Ids that rest: those of closed sessions for which a token was issued that has not expired. A new session under such an id would be open to
//! whoever holds the token, wherever only the token is looked at.
//!
//! The store keeps them, and refuses a session under one; this copy is there so that none is drawn. All times are in seconds since the Unix epoch.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::SessionId;

#[derive(Debug, Default)]
pub(super) struct Resting(Mutex<Ids>);

#[derive(Debug, Default)]
struct Ids {
    until: HashMap<SessionId, u64>,
    /// The same, in order.
    ends: BTreeSet<(u64, SessionId)>,
}

impl Ids {
    /// Costs as much as has ended since the last time.
    fn forget_ended(&mut self, now: u64) {
        while let Some(&(until, id)) = self.ends.first()
            && until <= now
        {
            self.ends.pop_first();
            self.until.remove(&id);
        }
    }
}

impl Resting {
    /// As the store had them.
    pub(super) fn of(ids: impl IntoIterator<Item = (SessionId, u64)>) -> Self {
        let resting = Self::default();
        ids.into_iter().for_each(|(id, until)| resting.note(id, until));
        resting
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        // Nothing that can panic comes between two edits.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id rests until then, or longer where that is known already. 0 is not at all.
    pub(super) fn note(&self, id: SessionId, until: u64) {
        let mut ids = self.lock();
        let known = ids.until.get(&id).copied().unwrap_or(0);
        if until > known {
            ids.ends.remove(&(known, id));
            ids.ends.insert((until, id));
            ids.until.insert(id, until);
        }
    }

    /// Whether the id rests now.
    pub(super) fn has(&self, id: SessionId, now: u64) -> bool {
        self.lock().until.get(&id).is_some_and(|until| *until > now)
    }

    /// How many rest now, and when the first of them is free.
    pub(super) fn count(&self, now: u64) -> (usize, Option<u64>) {
        let mut ids = self.lock();
        ids.forget_ended(now);
        (ids.until.len(), ids.ends.first().map(|(until, _)| *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::place::id;

    #[test]
    fn an_id_rests_until_its_latest_end_and_then_leaves_nothing() {
        let resting = Resting::of([(id("1"), 10), (id("2"), 20)]);
        resting.note(id("1"), 30);
        resting.note(id("1"), 25);
        resting.note(id("3"), 0);
        assert_eq!(resting.count(9), (2, Some(20)));
        let rest = |now| ["1", "2", "3"].map(|text| resting.has(id(text), now));
        assert_eq!((rest(19), rest(20), rest(29), rest(30)), ([true, true, false], [true, false, false], [true, false, false], [false; 3]));
        assert_eq!(resting.count(20), (1, Some(30)));
        assert_eq!(resting.count(30), (0, None));
        let ids = resting.lock();
        assert!(ids.until.is_empty() && ids.ends.is_empty());
    }
}
