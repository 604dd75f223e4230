//! One session's part of the broker: a router and a store of its own, and who is connected.
//!
//! No two sessions share a room, so nothing in one can reach another: that is what keeps sessions apart; the grants are the second
//! line. A room is made at a session's first accepted connection (or retained message of the host's) and is gone when the session
//! closes, or when nothing is connected, stored or retained any more.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use mqtt5::broker::{DynamicStorage, MemoryBackend, StorageBackend, router::MessageRouter, storage::QueueLimits};

use super::{
    Ended, Events, Limits,
    connection::{Connection, EndReason},
};
use tokio::time::Instant;

use crate::{sessions::SessionId, tokens::grant::Grant};

/// How long what the host said last has to reach the clients before their connections are ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Connections end within a second or are cut; longer than this nobody waits for them.
const END_WAIT: Duration = Duration::from_secs(3);

pub(super) struct Room {
    pub(super) session: SessionId,
    pub(super) router: Arc<MessageRouter>,
    pub(super) store: Arc<DynamicStorage>,
    pub(super) events: Arc<dyn Events>,
    inside: Mutex<Inside>,
    /// Who was said to be connected. Held while it is said, so that it is said in order; no call on the broker takes this lock.
    announced: Mutex<HashSet<Arc<str>>>,
}

#[derive(Default)]
struct Inside {
    /// A client has two connections for the moment of a take-over.
    connections: HashMap<Arc<str>, Vec<Arc<Connection>>>,
    /// Publishes of the host's under way.
    publishing: usize,
    /// When the last of them was done.
    spoke_at: Option<Instant>,
    /// Counts entries and publishes, so that housekeeping notices that something happened while it looked.
    uses: u64,
}

impl Room {
    pub(super) fn new(session: SessionId, events: Arc<dyn Events>, limits: &Limits) -> Self {
        let queue = QueueLimits { max_messages: limits.queued_messages, max_bytes: limits.queued_bytes };
        let store = Arc::new(DynamicStorage::Memory(MemoryBackend::with_queue_limits(queue)));
        let router = MessageRouter::with_storage(Arc::clone(&store)).with_retained_limits(limits.retained_messages, limits.retained_bytes);
        Self { session, router: Arc::new(router), store, events, inside: Mutex::default(), announced: Mutex::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the directory of rooms locked, so that a room that was closed is never entered.
    pub(super) fn enter(&self, connection: &Arc<Connection>) {
        let mut inside = self.inside();
        inside.uses += 1;
        inside.connections.entry(Arc::clone(&connection.client_id)).or_default().push(Arc::clone(connection));
    }

    pub(super) fn connected(&self, client_id: &Arc<str>) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        announced.insert(Arc::clone(client_id));
        tracing::debug!(session = %self.session, client = &**client_id, "connected");
        self.events.connected(self.session, client_id);
    }

    pub(super) fn leave(&self, connection: &Arc<Connection>) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let was_last = {
            let mut inside = self.inside();
            let others = inside.connections.get_mut(&connection.client_id).is_some_and(|all| {
                all.retain(|one| !Arc::ptr_eq(one, connection));
                !all.is_empty()
            });
            if !others {
                inside.connections.remove(&connection.client_id);
            }
            !others
        };
        if was_last && announced.remove(&connection.client_id) {
            self.events.disconnected(self.session, &connection.client_id);
        }
    }

    pub(super) fn announced(&self) -> Vec<Arc<str>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn connections_of(&self, client_id: &str) -> Vec<Arc<Connection>> {
        self.inside().connections.get(client_id).cloned().unwrap_or_default()
    }

    /// Marks a publish of the host's as under way, as [`Self::enter`] with the directory locked.
    pub(super) fn publishing(self: &Arc<Self>) -> Publishing {
        let mut inside = self.inside();
        inside.uses += 1;
        inside.publishing += 1;
        Publishing(Arc::clone(self))
    }

    /// Ends all connections without their last wills.
    pub(super) async fn end_all(&self, reason: EndReason) -> Ended {
        // What the conductor said last may still stand in the connections' lanes, which the library does not let us see.
        let spoke_at = {
            let inside = self.inside();
            inside.spoke_at.filter(|_| !inside.connections.is_empty())
        };
        if let Some(spoke_at) = spoke_at {
            tokio::time::sleep_until(spoke_at + LAST_WORDS).await;
        }
        let all: Vec<_> = self.inside().connections.values().flatten().cloned().collect();
        self.end(&all, reason).await;
        // A delayed will waits with the room in its hands.
        for id in self.store.session_client_ids().await.unwrap_or_default() {
            self.router.cancel_pending_will(&id);
        }
        Ended::Kicked(all.len())
    }

    /// Ends one client's connection without its last will, and forgets it.
    pub(super) async fn kick(&self, client_id: &str, library_id: &str) -> Ended {
        let all = self.connections_of(client_id);
        self.end(&all, EndReason::AdministrativeAction).await;
        self.router.cancel_pending_will(library_id);
        let slot = self.router.lock_session(library_id).await;
        self.router.unregister_client(library_id).await;
        self.warn(self.store.remove_session(library_id).await);
        self.warn(self.store.remove_all_inflight_messages(library_id).await);
        self.warn(self.store.remove_queued_messages(library_id).await);
        drop(slot);
        Ended::Kicked(all.len())
    }

    /// Ends these connections; that they went has been told when this returns, also of one that had just left by itself.
    async fn end(&self, connections: &[Arc<Connection>], reason: EndReason) {
        for connection in connections {
            connection.end_silently(reason);
        }
        let all = join_all(connections.iter().map(|connection| connection.ended()));
        if tokio::time::timeout(END_WAIT, all).await.is_err() {
            tracing::warn!("MQTT connections did not end in time");
        }
        // Who leaves is out of the list of connections before it is told, which is done under this lock.
        drop(self.announced.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn set_grant(&self, client_id: &str, library_id: &str, grant: Grant) {
        for connection in self.connections_of(client_id) {
            connection.set_grant(grant.clone());
        }
        self.narrow(library_id, &grant).await;
    }

    /// Ends a client's subscriptions, live and stored, that the grant does not allow, and what is queued with them.
    pub(super) async fn narrow(&self, library_id: &str, grant: &Grant) {
        let slot = self.router.lock_session(library_id).await;
        let Ok(Some(mut session)) = self.store.get_session(library_id).await else { return };
        let before = session.subscriptions.len();
        session.subscriptions.retain(|filter, _| grant.may_subscribe(filter));
        if session.subscriptions.len() == before {
            return;
        }
        let kept = session.subscriptions.clone();
        let stored = self.store.update_session(library_id, session.connection_token, move |stored| stored.subscriptions = kept).await;
        self.warn(stored);
        self.warn(self.router.set_client_subscriptions(&slot, Some(&session)).await);
        self.empty_queue(library_id);
    }

    /// Takes out what is queued now. The library's own call for that would also forget what a live connection still has in hand.
    pub(super) fn empty_queue(&self, library_id: &str) {
        let queue = self.store.queue_handle(library_id);
        queue.clear(Some(queue.next_seq()));
    }

    /// The store is memory: it does not fail, but if it did, someone must know.
    fn warn<T>(&self, result: mqtt5::Result<T>) {
        if let Err(error) = result {
            tracing::warn!(session = %self.session, %error, "the MQTT store failed");
        }
    }

    /// A handler that was cut has left its entry in the router.
    pub(super) async fn clean_up_after(&self, connection: &Arc<Connection>) {
        if self.connections_of(&connection.client_id).len() == 1 {
            self.router.disconnect_client(&connection.library_id).await;
        }
    }

    /// Forgets what has expired. A mark, if nothing is stored or retained: with it [`Self::still_idle`] can be asked.
    pub(super) async fn tidy(&self) -> Option<u64> {
        let mark = self.inside().uses;
        self.warn(self.store.cleanup_expired().await);
        self.router.sweep_sessions().await;
        let stored = self.store.session_client_ids().await.is_ok_and(|ids| ids.is_empty());
        (stored && self.router.get_retained_messages("#").await.is_empty()).then_some(mark)
    }

    /// Whether nobody has come since the mark was made and nobody is here. Asked with the directory of rooms locked.
    pub(super) fn still_idle(&self, mark: u64) -> bool {
        let inside = self.inside();
        // Who is just leaving may still have to be told: before anything of a next room's.
        let all_told = self.announced.try_lock().is_ok_and(|announced| announced.is_empty());
        all_told && inside.uses == mark && inside.publishing == 0 && inside.connections.is_empty()
    }
}

/// A publish of the host's under way.
pub(super) struct Publishing(Arc<Room>);

impl std::ops::Deref for Publishing {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.0
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let mut inside = self.0.inside();
        inside.publishing -= 1;
        inside.spoke_at = Some(Instant::now());
    }
}
