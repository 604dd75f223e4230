//! A session's record, and how its conductor changes it: also while the session is made and not stored yet.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{Session, status::Phase};
use crate::store::{Applied, Change, Store, StoreError, StoredSession};

/// Before the second try of what the store has to take in the end; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Tries what cannot be taken back any more until it is `done`, which is true also where it need not be done now.
pub(super) async fn until_done<F: Future<Output = bool>>(mut done: impl FnMut() -> F) {
    let mut pause = FIRST_PAUSE;
    while !done().await {
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

impl Session {
    /// Changes what is stored of the session. Of one that is not stored yet the record is changed in memory, and stored with it.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn change(&self, change: Change) -> Result<Arc<StoredSession>, StoreError> {
        let applied = match self.change_unstored(change) {
            Ok(applied) => applied,
            Err(applying) => applying.await,
        };
        let record = applied?.ok_or(StoreError::NoSuchSession(self.id()))?;
        self.update_record(record.clone());
        Ok(record)
    }

    /// The record as the store has it behind all changes that are under way, that of others too.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSession`] where it was closed; those of the store.
    pub(super) async fn stored_record(&self) -> Result<Arc<StoredSession>, StoreError> {
        // A change of nothing: it costs no write.
        self.change(Change::Limits { id: self.id(), lifetime: None, empty_timeout: None }).await
    }

    /// What became of a change in memory; or the store's answer to come.
    fn change_unstored(&self, change: Change) -> Result<Applied, BoxFuture<'static, Applied>> {
        let mut inner = self.lock();
        if inner.phase != Phase::Making {
            drop(inner);
            return Err(self.world().store.apply(change));
        }
        let applied = change.apply_to(Some(&inner.record));
        if let (Change::Save { state, .. }, Ok(_)) = (change, &applied) {
            inner.hot.get_or_insert_default().unstored = Some(state);
        }
        if let Ok(Some(record)) = &applied {
            inner.record = record.clone();
        }
        Ok(applied)
    }

    /// Stores the new session, and what its conductor has saved while it was made. What comes from now on goes to the store, behind this.
    ///
    /// # Errors
    /// Those of the store; nothing is left there then.
    pub(super) async fn store(&self) -> Result<(), StoreError> {
        let (created, saved) = {
            let mut inner = self.lock();
            inner.phase = Phase::Storing;
            let saved = inner.hot.as_mut().and_then(|hot| hot.unstored.take());
            let store = &self.world().store;
            // Queued under the lock, so that no change of the conductor's can overtake it.
            let created = store.apply(Change::Create(inner.record.clone()));
            let saved = saved.map(|state| store.apply(Change::Save { id: self.id(), state }));
            (created, saved)
        };
        if let Some(record) = created.await? {
            self.update_record(record);
        }
        if let Some(saved) = saved
            && let Err(error) = saved.await
        {
            self.forget().await;
            return Err(error);
        }
        Ok(())
    }

    /// Takes a session out of the store that nobody was told of. Where that fails it is tried until it succeeds: else it would be there after a
    /// restart. (It is, where the host ends before.)
    async fn forget(&self) {
        let (id, store) = (self.id(), self.world().store.clone());
        // While it is stored, no other session gets this id; so the one that is closed is this one.
        let close =
            async move |store: &dyn Store| matches!(store.apply(Change::Close(id)).await, Ok(_) | Err(StoreError::NoSuchSession(_)));
        if close(&*store).await {
            return;
        }
        tracing::error!(session = %id, "a session that was not created stays in the store until that can be written");
        self.world().pool.runtime().spawn(async move { until_done(|| close(&*store)).await });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        conductors::catalog::Catalog,
        sessions::place::{NOW, Place, id, stored},
        store::SavedState,
    };

    #[test]
    fn a_session_that_was_not_created_does_not_stay_in_a_store_that_failed_for_a_while() {
        for failing in [1, 4] {
            let place = Place::with([]);
            let world = place.manager.world.clone();
            let record = Arc::new(stored("111111", NOW, &[]));
            let session = Session::new(record.clone(), Arc::new(Catalog::missing(&record.type_name)), world.clone(), Phase::Making);
            place.run(async {
                tokio::time::pause();
                let state = SavedState { version: 1, bytes: Bytes::from_static(b"x") };
                session.change(Change::Save { id: id("111111"), state }).await.unwrap();
                // The save is refused, and then the closing, for a while.
                place.fail(failing);
                assert!(matches!(session.store().await, Err(StoreError::Write(_))));
                tokio::time::sleep(10 * LONGEST_PAUSE).await;
                assert!(world.store.apply(Change::Create(record.clone())).await.is_ok(), "it is still there");
                tokio::time::sleep(10 * LONGEST_PAUSE).await;
                assert!(matches!(world.store.apply(Change::Create(record)).await, Err(StoreError::Exists(_))), "a later one was closed");
            });
        }
    }
}
