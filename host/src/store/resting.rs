//! Ids of sessions that are gone, for as long as a token of such a session is valid: with the id in other hands, it would open somebody else's
//! session.

use std::collections::{BTreeMap, BTreeSet};

use crate::sessions::SessionId;

/// As many as one creation forgets, so that none has to forget all those of a busy day. A session makes one id rest at most, so all are
/// forgotten in time.
const FORGOTTEN: usize = 4;

/// Until when each id rests, in seconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Resting {
    ends: BTreeMap<SessionId, u64>,
    /// The same, by time.
    order: BTreeSet<(u64, SessionId)>,
}

/// What was known of some ids before an edit, one of them or several.
#[derive(Debug, Default)]
pub(super) struct Rested(Vec<(SessionId, Option<u64>)>);

impl Rested {
    /// The ids about which something else is known now.
    pub(super) fn ids(&self) -> impl Iterator<Item = SessionId> {
        self.0.iter().map(|(id, _)| *id)
    }
}

impl Resting {
    pub(super) fn get(&self, id: SessionId) -> Option<u64> {
        self.ends.get(&id).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// In the order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.ends.iter().map(|(id, until)| (*id, *until))
    }

    /// Whether `id` still rests at `now`.
    pub(super) fn rests(&self, id: SessionId, now: u64) -> bool {
        self.ends.get(&id).is_some_and(|until| *until > now)
    }

    /// From now on `id` rests; not where `until` is 0, which is no time.
    pub(super) fn rest(&mut self, id: SessionId, until: u64) -> Rested {
        let mut rested = Rested::default();
        if until > 0 {
            rested.0.push((id, self.set(id, Some(until))));
        }
        rested
    }

    /// `id` has a session again, and some of those that are over at `now` are forgotten.
    pub(super) fn wake(&mut self, id: SessionId, now: u64) -> Rested {
        let over = self.order.iter().take_while(|(until, _)| *until <= now).take(FORGOTTEN).map(|(_, id)| *id);
        let mut gone: Vec<_> = over.filter(|over| *over != id).collect();
        if self.ends.contains_key(&id) {
            gone.push(id);
        }
        Rested(gone.into_iter().map(|id| (id, self.set(id, None))).collect())
    }

    pub(super) fn take_back(&mut self, rested: Rested) {
        for (id, until) in rested.0 {
            self.set(id, until);
        }
    }

    /// Gives what was there before.
    fn set(&mut self, id: SessionId, until: Option<u64>) -> Option<u64> {
        let before = match until {
            Some(until) => self.ends.insert(id, until),
            None => self.ends.remove(&id),
        };
        if let Some(before) = before {
            self.order.remove(&(before, id));
        }
        self.order.extend(until.map(|until| (until, id)));
        before
    }
}

impl FromIterator<(SessionId, u64)> for Resting {
    fn from_iter<I: IntoIterator<Item = (SessionId, u64)>>(ends: I) -> Self {
        let mut resting = Self::default();
        for (id, until) in ends {
            resting.set(id, Some(until));
        }
        resting
    }
}
