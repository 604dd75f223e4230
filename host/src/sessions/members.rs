//! The clients of sessions: who joins, what they may do, when they leave.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use conductor_abi::{
    rules,
    wire::{Grants, JoinReply, code, event, leave},
};
use futures_util::{StreamExt, stream};

use super::{
    Caller, Manager, Session, SessionId,
    event::What,
    manager::{Joined, Refused, to_its_end},
    world::count,
};
use crate::{
    conductors::{Trouble, clip},
    store::{Change, StoreError, StoredClient, StoredSession},
    tokens::grant::Grant,
};

/// A look for grants that are over goes through all sessions, so there is a pause between two.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// Before the next try where the store refused.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The longest sleep until the next grant ends.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Sessions whose grants are ended at a time.
const EXPIRING_AT_ONCE: usize = 1024;

impl StoredSession {
    /// What the client may do, as MQTT topic filters.
    #[must_use]
    pub fn grant(&self, client_id: &str) -> Grant {
        match self.extra.as_ref().and_then(|extra| extra.grants.get(client_id)) {
            None => Grant::whole_session(self.id),
            Some(grants) => Grant::within_session(self.id, grants.subscribe.as_deref(), grants.publish.as_deref()),
        }
    }

    /// The clients whose grant ended up to `now`, in seconds since the Unix epoch.
    pub(super) fn expired(&self, now: u64) -> impl Iterator<Item = &str> {
        self.clients.iter().filter_map(move |client| match client {
            StoredClient::Joined { client_id, expires_at } if *expires_at <= now => Some(&**client_id),
            _ => None,
        })
    }
}

impl Session {
    /// Tells the conductor, where it has the hook and its session is not idle for good.
    pub(super) fn inform(self: &Arc<Self>, what: What) {
        if self.kind().wants(what.name()) {
            self.post_alone(what);
        }
    }
}

impl Manager {
    pub(super) async fn join_session(&self, session: &Arc<Session>, client_id: String, caller: &Caller) -> Result<Joined, Refused> {
        let grants = self.ask_conductor(session, &client_id, caller).await?;
        let before = session.record();
        let now = self.world.clock.seconds();
        let expires_at = now.saturating_add(self.world.grant_ttl.as_secs());
        let id = session.id();
        // Before it is stored: what ends empty sessions is to know of each join that it finds there.
        self.note_life(id);
        let change = Change::Join { id, client_id: client_id.as_str().into(), expires_at, grants, max_clients: self.world.max_clients };
        let record = session.change(change).await.map_err(|error| match Refused::from(error) {
            // Closed meanwhile: like any other session that is not there.
            Refused::NoSuchSession => Refused::Credentials,
            other => other,
        })?;
        if !session.is_open() {
            // Closed meanwhile, by whom this join was not seen in the record.
            self.resting.note(id, expires_at);
        }
        let grant = record.grant(&client_id);
        if before.has(&client_id) && before.grant(&client_id) != grant {
            self.world.broker.set_grant(id, &client_id, session.record().grant(&client_id)).await;
        }
        self.note_join(&client_id, session);
        if self.next_expiry.fetch_min(expires_at, Ordering::Relaxed) > expires_at {
            self.earlier_expiry.notify_one();
        }
        count(&self.world.counts.joins);
        tracing::info!(session = %id, client = client_id, %caller, "client joined");
        let resume = self.world.joins.resume_of(&record, &client_id);
        let grant = if self.world.broker.link().is_some() { grant } else { Grant::whole_session(id) };
        Ok(Joined { session: id, now, grant, resume })
    }

    /// Whether the client may join, and what it may do then where the conductor says so.
    async fn ask_conductor(&self, session: &Arc<Session>, client_id: &str, caller: &Caller) -> Result<Option<Grants>, Refused> {
        // The store looks again when it comes to it; here it spares the conductor a question that is answered already.
        session.record().admits(client_id, self.world.max_clients)?;
        if !session.kind().wants(event::JOINING) {
            return Ok(None);
        }
        let what = What::Joining { client_id: client_id.to_owned(), caller: caller.clone() };
        let reply = match session.ask(what, session.kind().deadline).await {
            // A plugin whose manifest says more than its code does.
            Err(Trouble::Conductor { code: code::UNSUPPORTED, .. }) => return Ok(None),
            answer => answer?,
        };
        if reply.is_empty() {
            return Ok(None);
        }
        let wrong = |reason: String| Refused::Conductor(Trouble::Conductor { code: code::INTERNAL, message: reason, data: None });
        let reply: JoinReply = serde_json::from_slice(&reply).map_err(|e| wrong(format!("the answer to a join cannot be read: {e}")))?;
        if let Some(reason) = reply.refuse {
            let reason = clip(&reason).into_owned();
            tracing::info!(session = %session.id(), client = client_id, %caller, reason, "the conductor refused a join");
            return Err(Refused::Declined(reason));
        }
        if let Some(grants) = &reply.grants {
            rules::grants(grants).map_err(wrong)?;
        }
        Ok(reply.grants)
    }

    /// Replaces what a client may do, at once.
    ///
    /// # Errors
    /// [`Refused::NoSuchClient`]; [`Refused::Store`].
    pub(crate) async fn set_grants(&self, session: &Session, client_id: &str, grants: Grants) -> Result<(), Refused> {
        self.check_running()?;
        let record = session.change(Change::Grant { id: session.id(), client_id: client_id.into(), grants }).await?;
        if !record.has(client_id) {
            return Err(Refused::NoSuchClient);
        }
        // As it is now: of two changes at once, the broker is to hear the later one last.
        self.world.broker.set_grant(session.id(), client_id, session.record().grant(client_id)).await;
        Ok(())
    }

    /// Sends a client away: its record goes first, then its connections; the conductor is told.
    ///
    /// # Errors
    /// [`Refused::NoSuchClient`]; [`Refused::Store`].
    pub async fn kick(self: &Arc<Self>, session: &Arc<Session>, client_id: &str, caller: Caller) -> Result<(), Refused> {
        self.check_running()?;
        let (manager, session, client_id) = (self.clone(), session.clone(), client_id.to_owned());
        to_its_end(async move {
            let turn = manager.leaving.read().await;
            let before = session.record();
            if !before.has(&client_id) {
                return Err(Refused::NoSuchClient);
            }
            let id = session.id();
            session.change(Change::Leave { id, client_id: client_id.as_str().into() }).await?;
            drop(turn);
            manager.note_leaving_of(&session, &client_id);
            manager.note_life(id);
            let ended = manager.world.broker.kick(id, &client_id).await;
            tracing::info!(session = %id, client = client_id, %caller, ?ended, "client sent away");
            session.inform(What::Left { client_id, reason: leave::KICKED });
            Ok(())
        })
        .await
    }

    pub(super) fn tell_connection(&self, session: SessionId, client_id: &str, up: bool) {
        tracing::debug!(%session, client_id, up, "connection");
        if let Some(session) = self.directory.get(session).filter(|_| !self.is_stopping()) {
            session.inform(What::Connection { client_id: client_id.to_owned(), up });
        }
    }

    /// Ends grants when their time is over, until the host stops. Sleeps while none can be. Called once.
    pub(super) fn run_expiry(self: &Arc<Self>) {
        let manager = Arc::downgrade(self);
        self.world.pool.runtime().spawn(async move {
            while let Some(manager) = manager.upgrade().filter(|manager| !manager.is_stopping()) {
                let pause = match manager.end_expired_grants().await {
                    Ok(()) => BETWEEN_LOOKS,
                    Err(error) => {
                        tracing::error!(%error, "grants that are over could not be ended; tried again in a minute");
                        AFTER_FAILURE
                    }
                };
                tokio::time::sleep(pause).await;
                let next = manager.next_expiry.load(Ordering::Relaxed);
                let left = Duration::from_secs(next.saturating_sub(manager.world.clock.seconds()));
                tokio::select! {
                    () = manager.earlier_expiry.notified() => {}
                    // Cut short, so that a clock that is set is noticed.
                    () = tokio::time::sleep(left.min(LONGEST_SLEEP)), if next != u64::MAX => {}
                }
            }
        });
    }

    /// Ends grants whose time is over. Looks at nothing while none can be.
    ///
    /// # Errors
    /// Those of the store; what was not ended is tried again the next time.
    pub async fn end_expired_grants(&self) -> Result<(), StoreError> {
        let now = self.world.clock.seconds();
        if self.next_expiry.load(Ordering::Relaxed) > now {
            return Ok(());
        }
        // Whom a kick takes out meanwhile would be told to have left twice.
        let _turn = self.leaving.write().await;
        // Set before the look, so that a join during it lowers it again.
        self.next_expiry.store(u64::MAX, Ordering::Relaxed);
        let over = self.directory.all().into_iter().filter(|session| self.has_expired_grants(session, now));
        // Together, since the store shares writes; not all at once, since each waits in memory.
        let ended = stream::iter(over).map(|session| self.end_grants(session, now)).buffer_unordered(EXPIRING_AT_ONCE);
        let failed = ended.filter_map(|ended| std::future::ready(ended.err())).collect::<Vec<_>>().await;
        match failed.into_iter().next() {
            None => Ok(()),
            Some(error) => {
                self.next_expiry.store(0, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Whether a grant of the session is over; the end of those that are not is noted.
    fn has_expired_grants(&self, session: &Session, now: u64) -> bool {
        let mut over = false;
        for client in &session.record().clients {
            match client {
                StoredClient::Joined { expires_at, .. } if *expires_at <= now => over = true,
                StoredClient::Joined { expires_at, .. } => {
                    self.next_expiry.fetch_min(*expires_at, Ordering::Relaxed);
                }
                StoredClient::Foreign(_) => {}
            }
        }
        over
    }

    async fn end_grants(&self, session: Arc<Session>, now: u64) -> Result<(), StoreError> {
        let before = session.record();
        match self.world.store.apply(Change::Expire { id: session.id(), now }).await {
            Ok(record) => {
                record.into_iter().for_each(|record| session.update_record(record));
                self.note_leaving(&session, &before, now);
                self.note_life(session.id());
                tracing::info!(session = %session.id(), "grants ended");
                for client_id in before.expired(now).filter(|client_id| !session.record().has(client_id)) {
                    session.inform(What::Left { client_id: client_id.to_owned(), reason: leave::EXPIRED });
                }
                Ok(())
            }
            // Closed meanwhile.
            Err(StoreError::NoSuchSession(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::sessions::place::{NOW, Place, id, stored};

    #[test]
    fn of_a_kick_and_the_end_of_a_grant_the_later_sees_what_the_earlier_did() {
        let place = Place::with([stored("111111", NOW, &[("ann", NOW + 1), ("bob", NOW + 9)])]);
        let session = place.manager.get(id("111111")).unwrap();
        place.set_time(NOW + 1);
        place.run(async {
            // As if bob were being sent away.
            let kicking = place.manager.leaving.read().await;
            let mut ending = std::pin::pin!(place.manager.end_expired_grants());
            for _ in 0..9 {
                assert!(poll!(ending.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            assert!(session.record().has("ann"));
            drop(kicking);
            ending.await.unwrap();
            assert!(!session.record().has("ann"));
            // As if grants were being ended.
            let ending = place.manager.leaving.write().await;
            let mut kicking = std::pin::pin!(place.manager.kick(&session, "bob", Caller::host()));
            for _ in 0..9 {
                assert!(poll!(kicking.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            assert!(session.record().has("bob"));
            drop(ending);
            kicking.await.unwrap();
            assert!(!session.record().has("bob"));
        });
    }
}
