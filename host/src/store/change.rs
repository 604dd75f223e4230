//! The one place where a change edits a record; every store goes through it.

use std::{collections::BTreeMap, sync::Arc};

use super::{Applied, Change, StoreError, StoredClient, StoredSession};
use crate::sessions::SessionId;

/// The sessions of a store, in the order of their ids.
pub(super) type Sessions = BTreeMap<SessionId, Arc<StoredSession>>;

impl Change {
    /// The session that the change is about.
    #[must_use]
    pub fn id(&self) -> SessionId {
        match self {
            Self::Create(session) => session.id,
            Self::Close(id) | Self::Join { id, .. } | Self::Expire { id, .. } | Self::Leave { id, .. } => *id,
        }
    }

    /// What this change makes of `current`, the stored record of its session: a new record with the next revision, or the very
    /// same one (`Arc::ptr_eq`) where there was nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for a creation where there is a record, [`StoreError::NoSuchSession`] for all else where there is none.
    pub fn apply_to(&self, current: Option<&Arc<StoredSession>>) -> Applied {
        let current = match (self, current) {
            (Self::Create(new), Some(_)) => return Err(StoreError::Exists(new.id)),
            (Self::Create(new), None) => return Ok(Some(Arc::clone(new))),
            (_, None) => return Err(StoreError::NoSuchSession(self.id())),
            (_, Some(current)) => current,
        };
        let keep: &dyn Fn(&StoredClient) -> bool = match self {
            Self::Create(_) | Self::Close(_) => return Ok(None),
            Self::Join { client_id, expires_at, .. } => return Ok(Some(joined(current, client_id, *expires_at))),
            Self::Expire { now, .. } => &|client| !matches!(client, StoredClient::Joined { expires_at, .. } if expires_at <= now),
            Self::Leave { client_id, .. } => &|client| client.client_id() != Some(client_id),
        };
        if current.clients.iter().all(keep) {
            return Ok(Some(Arc::clone(current)));
        }
        Ok(Some(next(current, current.clients.iter().filter(|client| keep(client)).cloned().collect())))
    }
}

/// Joining again keeps the place in the list.
fn joined(current: &Arc<StoredSession>, client_id: &str, expires_at: u64) -> Arc<StoredSession> {
    let entry = StoredClient::Joined { client_id: client_id.into(), expires_at };
    let mut clients = Vec::with_capacity(current.clients.len() + 1);
    clients.clone_from(&current.clients);
    match clients.iter_mut().find(|client| client.client_id() == Some(client_id)) {
        Some(known) if *known == entry => return Arc::clone(current),
        Some(known) => *known = entry,
        None => clients.push(entry),
    }
    next(current, clients)
}

fn next(current: &StoredSession, clients: Vec<StoredClient>) -> Arc<StoredSession> {
    Arc::new(StoredSession {
        id: current.id,
        pin: current.pin,
        type_name: Arc::clone(&current.type_name),
        created_at: current.created_at,
        clients,
        revision: current.revision + 1,
        rest: current.rest.clone(),
    })
}

/// How to take one change back.
pub(super) struct Undo {
    id: SessionId,
    before: Option<Arc<StoredSession>>,
}

impl Undo {
    pub(super) fn take_back(self, sessions: &mut Sessions) {
        match self.before {
            Some(before) => sessions.insert(self.id, before),
            None => sessions.remove(&self.id),
        };
    }
}

/// Applies `change` to `sessions`; the second value is there only where they differ from before.
pub(super) fn apply(sessions: &mut Sessions, change: &Change) -> (Applied, Option<Undo>) {
    let id = change.id();
    let before = sessions.get(&id).cloned();
    let applied = change.apply_to(before.as_ref());
    match &applied {
        Err(_) => return (applied, None),
        Ok(Some(after)) if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, after)) => return (applied, None),
        Ok(Some(after)) => sessions.insert(id, Arc::clone(after)),
        Ok(None) => sessions.remove(&id),
    };
    (applied, Some(Undo { id, before }))
}
