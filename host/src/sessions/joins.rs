//! Which session a client joined last, for brokers without tokens: there a client's name is all that a connection shows.
//!
//! The index keeps the order of joins and nothing else. Whether a client is in a session, and until when, the session's
//! record says, and it is asked each time; so an entry too many would cost memory and no more. It is kept in memory, made from the stored records
//! at the start, and only where [`Manager::remember_joins`] was called.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, Weak},
};

use super::{Manager, Session};
use crate::store::{StoredClient, StoredSession};

/// Each client's sessions, the one joined last at the end.
type Order = HashMap<Box<str>, Vec<Weak<Session>>>;

/// The order of joins. The lock is held for a look through one client's sessions; within it a session's own lock is taken, never
/// the other way round.
#[derive(Debug, Default)]
pub(super) struct Joins(RwLock<Order>);

impl Joins {
    /// From what is stored: a later end of the grant is a later join. Of joins within one second the one of the younger session
    /// counts as the later.
    fn of(sessions: &[Arc<Session>]) -> Self {
        let mut joins = Vec::new();
        for session in sessions {
            let record = session.record();
            for client in &record.clients {
                if let StoredClient::Joined { client_id, expires_at } = client {
                    joins.push((*expires_at, record.created_at, client_id.clone(), session));
                }
            }
        }
        joins.sort_by_key(|(expires_at, created_at, ..)| (*expires_at, *created_at));
        let mut order = Order::new();
        for (_, _, client_id, session) in joins {
            order.entry(client_id).or_default().push(Arc::downgrade(session));
        }
        Self(RwLock::new(order))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Order> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn joined(&self, client_id: &str, session: &Arc<Session>) {
        let mut order = self.write();
        remove(&mut order, client_id, session);
        order.entry(client_id.into()).or_default().push(Arc::downgrade(session));
    }

    fn left(&self, client_id: &str, session: &Arc<Session>, is_back: impl FnOnce() -> bool) {
        let mut order = self.write();
        // Looked at under the lock: a join since then is in the record before it comes here.
        if !is_back() {
            remove(&mut order, client_id, session);
        }
    }

    /// The first answer, beginning with the session joined last.
    fn last<T>(&self, client_id: &str, ask: impl Fn(Arc<Session>) -> Option<T>) -> Option<T> {
        let order = self.0.read().unwrap_or_else(PoisonError::into_inner);
        order.get(client_id)?.iter().rev().filter_map(Weak::upgrade).find_map(ask)
    }
}

fn remove(order: &mut Order, client_id: &str, session: &Arc<Session>) {
    let Some(sessions) = order.get_mut(client_id) else { return };
    if let Some(place) = sessions.iter().rposition(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(session))) {
        sessions.remove(place);
    }
    if sessions.is_empty() {
        order.remove(client_id);
    }
}

impl Session {
    /// When this client's grant ends, in seconds since the Unix epoch; nothing where that is over or the session is not open.
    pub(crate) fn granted_until(&self, client_id: &str, now: u64) -> Option<u64> {
        if !self.is_open() {
            return None;
        }
        self.record().granted_until(client_id).filter(|end| *end > now)
    }
}

impl Manager {
    /// From now on [`Manager::joined_last`] has answers. To be called once, before anybody can join.
    pub fn remember_joins(&self) {
        self.joins.get_or_init(|| Joins::of(&self.directory.all()));
    }

    /// The live session that this client joined last, of those where its grant goes on; before it when that ends, in seconds since
    /// the Unix epoch.
    #[must_use]
    pub fn joined_last(&self, client_id: &str) -> Option<(u64, Arc<Session>)> {
        let now = self.world().clock.seconds();
        self.joins.get()?.last(client_id, |session| {
            let expires_at = session.granted_until(client_id, now)?;
            Some((expires_at, session))
        })
    }

    /// After the join is in the session's record.
    pub(super) fn note_join(&self, client_id: &str, session: &Arc<Session>) {
        let Some(joins) = self.joins.get() else { return };
        joins.joined(client_id, session);
        // Closed meanwhile, and nobody would take the client out again.
        if !self.has(session) {
            joins.left(client_id, session, || false);
        }
    }

    /// After one client was taken out of the session.
    pub(super) fn note_leaving_of(&self, session: &Arc<Session>, client_id: &str) {
        if let Some(joins) = self.joins.get() {
            joins.left(client_id, session, || self.has(session) && session.record().granted_until(client_id).is_some());
        }
    }

    /// After the clients of `before` whose grants ended up to `now` were taken out of the session; all of them where it is no more.
    pub(super) fn note_leaving(&self, session: &Arc<Session>, before: &StoredSession, now: u64) {
        before.expired(now).for_each(|client_id| self.note_leaving_of(session, client_id));
    }

    /// Whether this very session is live.
    pub(super) fn has(&self, session: &Arc<Session>) -> bool {
        self.directory.get(session.id()).is_some_and(|live| Arc::ptr_eq(&live, session))
    }
}

#[cfg(test)]
#[path = "joins_tests.rs"]
mod tests;
