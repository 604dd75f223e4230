//! A session's record, and how its conductor changes it: also while the session is made and not stored yet.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Session, status::Phase};
use crate::store::{Applied, Change, StoreError, StoredSession};

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
            self.world().store.apply(Change::Close(self.id())).await?;
            return Err(error);
        }
        Ok(())
    }
}
