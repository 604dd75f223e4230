//! The one place where a change edits a record; every store goes through it.

use std::{collections::BTreeMap, mem, sync::Arc};

use conductor_abi::wire::Grants;

use super::{
    Applied, Change, Extra, Loaded, StoreError, StoredClient, StoredSession,
    resting::{Rested, Resting},
};
use crate::sessions::SessionId;

/// The sessions of a store, in the order of their ids.
pub(super) type Sessions = BTreeMap<SessionId, Arc<StoredSession>>;

/// What a store knows, saved state apart.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) sessions: Sessions,
    pub(super) resting: Resting,
}

impl Content {
    pub(super) fn loaded(&self) -> Loaded {
        Loaded { sessions: self.sessions.values().cloned().collect(), resting: self.resting.iter().collect() }
    }

    /// What would be answered to `change` now.
    pub(super) fn ask(&self, change: &Change) -> Applied {
        let id = change.id();
        let applied = change.apply_to(self.sessions.get(&id))?;
        match (change, &applied) {
            (Change::Create(_), Some(new)) if self.resting.rests(id, new.created_at / 1000) => Err(StoreError::Resting(id)),
            _ => Ok(applied),
        }
    }

    /// Makes `change`; the second value is there only where something is now other than before.
    pub(super) fn apply(&mut self, change: &Change) -> (Applied, Option<Undo>) {
        let id = change.id();
        let applied = self.ask(change);
        let before = self.sessions.get(&id).cloned();
        let resting = match (&applied, &before) {
            (Err(_), _) => return (applied, None),
            (Ok(Some(after)), Some(before)) if Arc::ptr_eq(before, after) => return (applied, None),
            (Ok(Some(after)), _) => {
                self.sessions.insert(id, Arc::clone(after));
                if before.is_none() { self.resting.wake(id, after.created_at / 1000) } else { Rested::default() }
            }
            (Ok(None), before) => {
                self.sessions.remove(&id);
                before.as_ref().map(|before| self.resting.rest(id, before.tokens_until())).unwrap_or_default()
            }
        };
        (applied, Some(Undo { id, before, resting }))
    }

    pub(super) fn take_back(&mut self, undo: Undo) {
        match undo.before {
            Some(before) => self.sessions.insert(undo.id, before),
            None => self.sessions.remove(&undo.id),
        };
        self.resting.take_back(undo.resting);
    }
}

/// How to take one change back.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) id: SessionId,
    pub(super) before: Option<Arc<StoredSession>>,
    pub(super) resting: Rested,
}

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
            | Self::Limits { id, .. }
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
    /// Whether an id rests is not looked at here. [`StoreError::Exists`] for a creation where there is a record, [`StoreError::NoSuchSession`] for all else where there is none;
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
                extra.tokens_until = extra.tokens_until.max(join(clients, client_id, *expires_at));
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
            Self::Limits { lifetime, empty_timeout, .. } => {
                extra.lifetime = lifetime.unwrap_or(extra.lifetime);
                extra.empty_timeout = empty_timeout.unwrap_or(extra.empty_timeout);
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
                if extra.tokens_until <= *now {
                    extra.tokens_until = 0;
                }
            }
            Self::Leave { client_id, .. } => {
                let was = clients.iter().find(|client| client.client_id() == Some(client_id)).map_or(0, StoredClient::expires_at);
                extra.tokens_until = extra.tokens_until.max(was);
                keep(clients, extra, |client| client.client_id() != Some(client_id));
            }
        }
    }
}

/// Joining again keeps the place in the list. Gives when a token ends that the list does not tell of from now on, or 0.
fn join(clients: &mut Vec<StoredClient>, client_id: &str, expires_at: u64) -> u64 {
    let entry = StoredClient::Joined { client_id: client_id.into(), expires_at };
    match clients.iter_mut().find(|client| client.client_id() == Some(client_id)) {
        Some(known) => {
            let was = mem::replace(known, entry).expires_at();
            if was > expires_at { was } else { 0 }
        }
        None => {
            clients.reserve_exact(1);
            clients.push(entry);
            0
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
