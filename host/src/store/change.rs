//! The one place where a change edits a record; every store goes through it.

use std::{collections::BTreeMap, sync::Arc};

use conductor_abi::wire::Grants;

use super::{Applied, Change, Extra, StoreError, StoredClient, StoredSession};
use crate::sessions::SessionId;

/// The sessions of a store, in the order of their ids.
pub(super) type Sessions = BTreeMap<SessionId, Arc<StoredSession>>;

impl Change {
    /// The session that the change is about.
    #[must_use]
    pub fn id(&self) -> SessionId {
        match self {
            Self::Create(session) => session.id,
            Self::Close(id)
            | Self::Join { id, .. }
            | Self::Grant { id, .. }
            | Self::JoinRules { id, .. }
            | Self::Labels { id, .. }
            | Self::Timer { id, .. }
            | Self::Fired { id, .. }
            | Self::Save { id, .. }
            | Self::Expire { id, .. }
            | Self::Leave { id, .. } => *id,
        }
    }

    /// What this change makes of `current`, the stored record of its session: a new record with the next revision, or the very
    /// same one (`Arc::ptr_eq`) where there was nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for a creation where there is a record, [`StoreError::NoSuchSession`] for all else where there is none;
    /// [`StoreError::Locked`] and [`StoreError::Full`] for a join, [`StoreError::NoSuchClient`] for a leaving.
    pub fn apply_to(&self, current: Option<&Arc<StoredSession>>) -> Applied {
        let current = match (self, current) {
            (Self::Create(new), Some(_)) => return Err(StoreError::Exists(new.id)),
            (Self::Create(new), None) => return Ok(Some(Arc::clone(new))),
            (_, None) => return Err(StoreError::NoSuchSession(self.id())),
            (_, Some(current)) => current,
        };
        match self {
            Self::Close(_) => return Ok(None),
            Self::Join { client_id, .. } => current.admits(client_id)?,
            // So that of two who send it away at once, one knows that it was the other.
            Self::Leave { client_id, .. } if !current.has(client_id) => return Err(StoreError::NoSuchClient(current.id)),
            // Kept beside the record.
            Self::Save { .. } => return Ok(Some(Arc::clone(current))),
            _ => {}
        }
        let mut next = StoredSession::clone(current);
        let mut extra = next.extra.take().map_or_else(Extra::default, |extra| *extra);
        self.edit(&mut next.clients, &mut extra);
        next.extra = (extra != Extra::default()).then(|| Box::new(extra));
        if next.clients == current.clients && next.extra == current.extra {
            return Ok(Some(Arc::clone(current)));
        }
        next.revision += 1;
        Ok(Some(Arc::new(next)))
    }

    fn edit(&self, clients: &mut Vec<StoredClient>, extra: &mut Extra) {
        match self {
            Self::Create(_) | Self::Close(_) | Self::Save { .. } => {}
            Self::Join { client_id, expires_at, grants, .. } => {
                join(clients, client_id, *expires_at);
                if let Some(grants) = grants {
                    grant(extra, client_id, grants);
                }
            }
            Self::Grant { client_id, grants, .. } => {
                if clients.iter().any(|client| client.client_id() == Some(client_id)) {
                    grant(extra, client_id, grants);
                }
            }
            Self::JoinRules { locked, max_clients, .. } => {
                extra.locked = locked.unwrap_or(extra.locked);
                extra.max_clients = max_clients.or(extra.max_clients);
            }
            Self::Labels { labels, .. } => extra.labels.clone_from(labels),
            Self::Timer { name, timer: Some(timer), .. } => drop(extra.timers.insert(name.clone(), *timer)),
            Self::Timer { name, timer: None, .. } => drop(extra.timers.remove(name)),
            Self::Fired { name, timer, next, .. } => match (extra.timers.get_mut(name).filter(|set| *set == timer), next) {
                (Some(set), Some(next)) => *set = *next,
                (Some(_), None) => drop(extra.timers.remove(name)),
                (None, _) => {}
            },
            Self::Expire { now, .. } => {
                keep(clients, extra, |client| !matches!(client, StoredClient::Joined { expires_at, .. } if expires_at <= now));
            }
            Self::Leave { client_id, .. } => keep(clients, extra, |client| client.client_id() != Some(client_id)),
        }
    }
}

/// Joining again keeps the place in the list.
fn join(clients: &mut Vec<StoredClient>, client_id: &str, expires_at: u64) {
    let entry = StoredClient::Joined { client_id: client_id.into(), expires_at };
    match clients.iter_mut().find(|client| client.client_id() == Some(client_id)) {
        Some(known) => *known = entry,
        None => {
            clients.reserve_exact(1);
            clients.push(entry);
        }
    }
}

/// Everything is what a client may do where nothing is said.
fn grant(extra: &mut Extra, client_id: &str, grants: &Grants) {
    if *grants == Grants::default() {
        extra.grants.remove(client_id);
    } else {
        extra.grants.insert(client_id.into(), grants.clone());
    }
}

/// Who leaves takes along what was said of him.
fn keep(clients: &mut Vec<StoredClient>, extra: &mut Extra, stays: impl Fn(&StoredClient) -> bool) {
    clients.retain(|client| {
        let stays = stays(client);
        if let (false, Some(client_id)) = (stays, client.client_id()) {
            extra.grants.remove(client_id);
        }
        stays
    });
    // A record lives as long as nothing changes: no room for who is gone.
    clients.shrink_to_fit();
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
