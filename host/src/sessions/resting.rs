//! Ids that rest: those of closed sessions for which a token was issued that has not expired. A new session under such an id would be open to
//! whoever holds the token, wherever only the token is looked at.
//!
//! The store keeps them, and refuses a session under one; this copy is there so that none is drawn. All times are in seconds since the Unix epoch.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Manager, SessionId};

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

impl Manager {
    /// How many ids of closed sessions are not given out yet.
    #[must_use]
    pub fn resting_ids(&self) -> usize {
        self.resting.count(self.world().clock.seconds()).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        conductors::catalog::Catalog,
        sessions::{
            Caller, Limits, Phase, Session,
            manager::Refused,
            place::{DAY, NOW, Place, id, stored},
        },
        store::{Change, StoreError},
    };

    fn create(place: &Place) -> Result<Arc<Session>, Refused> {
        let session = place.manager.reserve(&Arc::new(Catalog::missing(&"gone".into())), Limits::default())?;
        place.run(session.store())?;
        assert!(session.move_on(Phase::Storing, Phase::Open));
        Ok(session)
    }

    /// Creates a session, has clients join, closes it: its id.
    fn used(place: &Place, clients: &[&str]) -> Result<SessionId, Refused> {
        let session = create(place)?;
        for client in clients {
            let (manager, session) = (place.manager.clone(), session.clone());
            place.run(manager.join_session(&session, (*client).to_owned(), &Caller::host())).unwrap();
        }
        place.close(&session.id().to_string());
        Ok(session.id())
    }

    #[test]
    fn no_id_is_given_out_while_a_token_of_its_former_session_is_good() {
        // Of ten ids five may be taken.
        let place = Place::with_ids(1, []);
        let (mut ids, day) = (Vec::new(), DAY.as_secs());
        for second in 0..5 {
            place.set_time(NOW + second);
            let id = used(&place, &["a", "b"]).unwrap();
            assert!(!ids.contains(&id), "an id that rests was given out");
            ids.push(id);
        }
        assert_eq!(place.manager.resting_ids(), 5);
        let refused = create(&place).unwrap_err();
        assert!(matches!(refused, Refused::IdsRest { digits: 1, resting: 5, seconds } if seconds == day - 4), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("5 of the 1-digit ids rest") && text.contains("sessions.id_digits") && text.contains("token.ttl"), "{text}");
        // As soon as the first one's tokens are over, there is one more.
        place.set_time(NOW + day);
        let next = used(&place, &["a"]).unwrap();
        assert!(create(&place).is_err() && !ids[1..].contains(&next));
        place.set_time(NOW + 3 * day);
        assert!(create(&place).is_ok());
        assert_eq!(place.manager.resting_ids(), 0);
        let refused = create(&place).unwrap_err();
        assert!(matches!(refused, Refused::NoFreeId { digits: 1 }) && refused.to_string().contains("close sessions"), "{refused:?}");
    }

    #[test]
    fn an_id_without_tokens_is_free_at_once_and_one_whose_clients_left_is_not() {
        let place = Place::with_ids(1, []);
        for _ in 0..20 {
            used(&place, &[]).unwrap();
        }
        assert_eq!(place.manager.resting_ids(), 0);
        let session = create(&place).unwrap();
        place.run(place.manager.join_session(&session, "a".to_owned(), &Caller::host())).unwrap();
        place.run(place.manager.kick(&session, "a", Caller::host())).unwrap();
        assert!(session.record().clients.is_empty());
        place.close(&session.id().to_string());
        assert!(
            place.manager.resting.has(session.id(), NOW + DAY.as_secs() - 1)
                && !place.manager.resting.has(session.id(), NOW + DAY.as_secs())
        );
    }

    #[test]
    fn a_join_that_the_closing_does_not_see_makes_the_id_rest_too() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let session = place.manager.get(id("111111")).unwrap();
        assert!(session.move_on(Phase::Open, Phase::Closing));
        place.run(place.manager.join_session(&session, "a".to_owned(), &Caller::host())).unwrap();
        assert!(place.manager.resting.has(id("111111"), NOW + DAY.as_secs() - 1));
    }

    #[test]
    fn the_store_keeps_what_rests_and_the_next_manager_begins_with_it() {
        let place = Place::with([stored("111111", NOW, &[("a", NOW + 10)])]);
        place.close("111111");
        let store = &place.manager.world().store;
        let again = place.run(store.apply(Change::Create(Arc::new(stored("111111", NOW + 9, &[])))));
        assert!(matches!(again, Err(StoreError::Resting(_))), "{again:?}");
        assert!(place.manager.resting.has(id("111111"), NOW + 9));
        assert!(place.run(store.apply(Change::Create(Arc::new(stored("111111", NOW + 10, &[]))))).is_ok());
    }

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
