//! What a conductor changes about a stored session while it is tried whether it can be made at all (after a restart, in a move): held back until it
//! can, and forgotten where it cannot. So whoever makes one again begins from what was there before.
//!
//! Held is what a conductor does about itself: state, timers, labels, who may join. What it does to others takes effect at once, as in any
//! other event: what it publishes, whom it sends away, and what it grants.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    Session,
    manager::{Refused, to_its_end},
    session::Inner,
};
use crate::{
    conductors::Trouble,
    store::{Applied, Change, StoreError, StoredSession},
};

/// While it is there, changes are held back; where it goes without [`Attempt::succeeded`], they are forgotten, and what the conductor still
/// asks for is refused. Also where the whole move is given up.
pub(super) struct Attempt<'a>(&'a Arc<Session>);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if inner.held().take().is_some() {
            // In one step with that: what is under way must not come to the store instead.
            inner.life = inner.life.wrapping_add(1);
        }
    }
}

impl Attempt<'_> {
    /// The conductor was made: what it has changed counts. All of it is handed to the store at once, so that it shares a write.
    ///
    /// # Errors
    /// The store refused; what was stored before is still there.
    pub(super) async fn succeeded(self) -> Result<(), Trouble> {
        let session = self.0.clone();
        let queued: Vec<(Change, BoxFuture<'static, Applied>)> = {
            let mut inner = session.lock();
            let held = inner.held().take().unwrap_or_default();
            // Queued under the lock, so that no later change of the conductor's can overtake these.
            held.into_iter().map(|change| (change.clone(), session.world().store.apply(change))).collect()
        };
        if queued.is_empty() {
            return Ok(());
        }
        let stored = to_its_end(async move { session.note_stored(queued).await.map_err(Refused::from) }).await;
        stored.map_err(|error| Trouble::Unavailable(format!("what it changed while it was made could not be kept: {error}").into()))
    }
}

impl Session {
    /// Holds back what its conductors change from now on.
    pub(super) fn begin_attempt(self: &Arc<Self>) -> Attempt<'_> {
        *self.lock().held() = Some(Vec::new());
        Attempt(self)
    }

    /// A change by the conductor of this `life`.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSession`] where that is not the session's present one any more; those of the store.
    pub(crate) async fn change_by(&self, life: u32, change: Change) -> Result<(), StoreError> {
        match self.hold(life, change)? {
            None => Ok(()),
            Some(change) => self.change(change).await.map(drop),
        }
    }

    /// Gives the change back where it is not held.
    fn hold(&self, life: u32, change: Change) -> Result<Option<Change>, StoreError> {
        let mut inner = self.lock();
        if inner.life != life {
            return Err(StoreError::NoSuchSession(self.id()));
        }
        if inner.hot.as_ref().is_none_or(|hot| hot.held.is_none()) {
            return Ok(Some(change));
        }
        let current = inner.record_with_held();
        let changed = change.apply_to(Some(&current))?.is_none_or(|next| !Arc::ptr_eq(&next, &current));
        let saves = matches!(change, Change::Save { .. });
        if let Some(held) = inner.held() {
            if saves {
                held.retain(|held| !matches!(held, Change::Save { .. }));
            }
            if saves || changed {
                held.push(change);
            }
        }
        Ok(None)
    }

    /// Its record as its conductor sees it: with what is held back.
    pub(super) fn record_with_held(&self) -> Arc<StoredSession> {
        self.lock().record_with_held()
    }

    async fn note_stored(self: &Arc<Self>, queued: Vec<(Change, BoxFuture<'static, Applied>)>) -> Result<(), StoreError> {
        let (mut result, mut timers) = (Ok(()), Vec::new());
        for (change, applied) in queued {
            match applied.await {
                Ok(record) => record.into_iter().for_each(|record| self.update_record(record)),
                Err(error) => {
                    tracing::error!(session = %self.id(), %error, "what the conductor changed while it was made could not be kept");
                    result = Err(error);
                    continue;
                }
            }
            if let Change::Timer { name, timer, .. } = change {
                timers.push((name, timer));
            }
        }
        // Once all is noted: one that is due by now would be told, though it was called off.
        if let Some(manager) = self.world().manager.upgrade() {
            timers.iter().for_each(|(name, timer)| manager.requeue(self, name, *timer));
        }
        result
    }
}

impl Inner {
    fn held(&mut self) -> &mut Option<Vec<Change>> {
        &mut self.hot.get_or_insert_default().held
    }

    fn record_with_held(&self) -> Arc<StoredSession> {
        let held = self.hot.iter().filter_map(|hot| hot.held.as_ref()).flatten();
        held.fold(self.record.clone(), |record, change| match change.apply_to(Some(&record)) {
            Ok(Some(next)) => next,
            _ => record,
        })
    }
}
