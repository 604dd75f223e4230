//! The directory of sessions and their lives: create, close, ask, join, list, restore, expire, stop.
//!
//! What changes a session runs to its end even if whoever asked goes away meanwhile: half a creation would be worse than one
//! that nobody learnt of.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use conductor_abi::{rules, wire::event};
use futures_util::{StreamExt, stream};
use serde_json::value::RawValue;
use tokio::sync::{Notify, RwLock};

use super::{
    Caller, CloseReason, Pin, Session, SessionId,
    directory::Directory,
    ears::{Ear, Ears},
    event::{Event, What},
    joins::Joins,
    lifetimes::{Lifetimes, Limits},
    resting::Resting,
    status::Phase,
    timers::Timers,
    world::{World, count},
};
use crate::{
    broker::{Events, Message},
    conductors::{
        Trouble,
        catalog::{Catalog, Type},
    },
    store::{Change, Loaded, StoreError, StoredSession},
    tokens::grant::Grant,
};

/// Of 10^digits ids, this part may be in use, so that guessing stays hard.
const LIVE_PART: u64 = 10;
/// Of 10^digits ids, when this part is in use a warning says so.
const CROWDED_PART: u64 = 100;
/// Of 10^digits ids, this part may be in use or rest, so that a new one is found at once.
const TAKEN_PART: u64 = 2;
/// So often another id is tried where the store refuses one.
const ID_TRIES: usize = 3;

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No such type is configured.
    #[error("there is no type {name:?}; configured are: {}", known.join(", "))]
    UnknownType {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No such session is live.
    #[error("{}", rules::NOT_STORED)]
    NoSuchSession,
    /// Id, pin or client do not do.
    #[error("the session's credentials could not be validated")]
    Credentials,
    /// Its source has had too many.
    #[error("too many attempts; try again in {seconds} s")]
    Limited {
        /// Until then.
        seconds: u64,
    },
    /// A tenth of all ids is in use.
    #[error("no session id is free: a tenth of all {digits}-digit ids is in use; close sessions or raise sessions.id_digits")]
    NoFreeId {
        /// The setting.
        digits: u8,
    },
    /// Half of all ids is in use or rests.
    #[error(
        "no session id is free: {resting} of the {digits}-digit ids rest until the tokens for their closed sessions have expired, the first \
         of them in {seconds} s; raise sessions.id_digits, or lower token.ttl for tokens to come"
    )]
    IdsRest {
        /// The setting.
        digits: u8,
        /// How many rest.
        resting: usize,
        /// Until the first is free.
        seconds: u64,
    },
    /// The conductor did not.
    #[error(transparent)]
    Conductor(#[from] Trouble),
    /// Nobody new may join.
    #[error("{}", rules::LOCKED)]
    Locked,
    /// There are as many clients as may be.
    #[error("{}", rules::FULL)]
    Full,
    /// The conductor does not want this client; its reason.
    #[error("{0}")]
    Declined(String),
    /// There is no such client in the session.
    #[error("there is no such client in the session")]
    NoSuchClient,
    /// The store did not.
    #[error(transparent)]
    Store(StoreError),
    /// The host is stopping.
    #[error("{}", rules::STOPPING)]
    Stopping,
    /// The host itself went wrong.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchSession(_) => Self::NoSuchSession,
            StoreError::Locked(_) => Self::Locked,
            StoreError::Full(_) => Self::Full,
            StoreError::NoSuchClient(_) => Self::NoSuchClient,
            other => Self::Store(other),
        }
    }
}

/// A client that joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Which session.
    pub session: SessionId,
    /// When its grant begins, in seconds since the Unix epoch.
    pub now: u64,
    /// What its token is to say. Where the broker is in the host, that is the whole session: there the record is looked at, which can change.
    pub grant: Grant,
    /// What the client comes back with.
    pub resume: String,
}

/// The manager. One per host; shared by both ports and the broker.
#[derive(Debug)]
pub struct Manager {
    pub(super) world: Arc<World>,
    pub(super) catalog: ArcSwap<Catalog>,
    pub(super) directory: Directory,
    /// Kept only where [`Manager::remember_joins`] was called.
    pub(super) joins: OnceLock<Joins>,
    stopping: AtomicBool,
    /// Whether it was said that many ids are in use.
    crowded: AtomicBool,
    /// Who hears of all sessions.
    pub(crate) ears: Ears,
    pub(super) timers: Timers,
    pub(super) lifetimes: Lifetimes,
    pub(super) resting: Resting,
    /// No grant ends before this (seconds since the Unix epoch), so nothing need be looked through.
    pub(super) next_expiry: AtomicU64,
    /// Rung when a grant ends earlier than all others.
    pub(super) earlier_expiry: Notify,
    /// Read by whoever sends a client away, written by whoever ends grants: of a client that both take out, one tells that it left.
    pub(super) leaving: RwLock<()>,
}

impl Manager {
    /// A manager with what the store held; [`Manager::start`] makes their conductors. `world` puts together what
    /// all sessions share, with the way back to the manager.
    #[must_use]
    pub fn new(catalog: Catalog, loaded: Loaded, world: impl FnOnce(Weak<Self>) -> World) -> Arc<Self> {
        let Loaded { sessions, resting } = loaded;
        let manager = Arc::new_cyclic(|manager: &Weak<Self>| {
            let world = Arc::new(world(manager.clone()));
            Self {
                lifetimes: Lifetimes::new(world.clock.millis()),
                world,
                catalog: ArcSwap::from_pointee(catalog),
                directory: Directory::default(),
                joins: OnceLock::new(),
                resting: Resting::of(resting),
                stopping: AtomicBool::new(false),
                crowded: AtomicBool::new(false),
                ears: Ears::default(),
                timers: Timers::default(),
                next_expiry: AtomicU64::new(0),
                earlier_expiry: Notify::new(),
                leaving: RwLock::new(()),
            }
        });
        manager.restore(sessions);
        manager
    }

    /// The types as they are now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// What all sessions share.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// How many sessions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.directory.len()
    }

    /// The live session of that id.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.directory.get(id).filter(|session| session.is_open())
    }

    /// Looks at each session that is open, in no order; the map is not locked meanwhile but for a part of it at a time.
    pub fn for_each(&self, look: impl FnMut(&Session)) {
        self.directory.for_each(look);
    }

    /// Up to `limit` sessions behind `after`, in a fixed order.
    #[must_use]
    pub fn page(&self, after: Option<SessionId>, limit: usize) -> Vec<Arc<Session>> {
        self.directory.page(after, limit)
    }

    /// Whether the host is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn check_running(&self) -> Result<(), Refused> {
        if self.is_stopping() { Err(Refused::Stopping) } else { Ok(()) }
    }

    /// Makes a session: its conductor (unless it is lazy), then its place in the store.
    ///
    /// # Errors
    /// Nothing is left of the session then.
    pub async fn create(self: &Arc<Self>, type_name: &str, caller: Caller) -> Result<Arc<Session>, Refused> {
        self.create_with(type_name, Limits::default(), caller).await
    }

    /// As [`create`](Self::create), for a session with limits of its own.
    ///
    /// # Errors
    /// As there.
    pub async fn create_with(self: &Arc<Self>, type_name: &str, limits: Limits, caller: Caller) -> Result<Arc<Session>, Refused> {
        self.check_running()?;
        let catalog = self.catalog();
        let Some(kind) = catalog.get(type_name).cloned() else {
            let known = catalog.iter().map(|kind| kind.name.to_string()).collect();
            return Err(Refused::UnknownType { name: type_name.to_owned(), known });
        };
        let manager = self.clone();
        to_its_end(async move {
            for _ in 1..ID_TRIES {
                match manager.create_of(&kind, limits, &caller).await {
                    // It knows more of its ids than this host, which then draws another one.
                    Err(Refused::Store(StoreError::Exists(_) | StoreError::Resting(_))) => {}
                    created => return created,
                }
            }
            manager.create_of(&kind, limits, &caller).await
        })
        .await
    }

    async fn create_of(&self, kind: &Arc<Type>, limits: Limits, caller: &Caller) -> Result<Arc<Session>, Refused> {
        let plugin = kind.plugin.as_ref().map_err(|reason| Trouble::Unavailable(reason.clone()))?;
        if let Some(reason) = kind.lane.quarantine() {
            return Err(Trouble::Quarantined(reason).into());
        }
        let lazy = plugin.manifest.lazy;
        let session = self.reserve(kind, limits)?;
        let id = session.id();
        if !lazy && let Err(trouble) = session.ask(What::Make(Some(caller.clone())), kind.deadline).await {
            self.discard(&session).await;
            return Err(trouble.into());
        }
        match session.store().await {
            Ok(()) => {
                session.move_on(Phase::Storing, Phase::Open);
                self.set_timers(&session);
                self.watch(&session, true);
                self.ears.tell(|ear| ear.opened(&session));
                tracing::info!(session = %id, r#type = %kind.name, %caller, "session created");
                Ok(session)
            }
            Err(error) => {
                tracing::error!(session = %id, %error, "session not created");
                self.discard(&session).await;
                Err(error.into())
            }
        }
    }

    /// A hidden session under an id that nobody has and that does not rest.
    pub(super) fn reserve(&self, kind: &Arc<Type>, limits: Limits) -> Result<Arc<Session>, Refused> {
        let World { id_digits: digits, pin_digits, clock, .. } = *self.world;
        let space = 10_u64.saturating_pow(u32::from(digits));
        let live = self.directory.len();
        if live as u64 >= space / LIVE_PART {
            return Err(Refused::NoFreeId { digits });
        }
        let crowded = live as u64 + 1 >= space / CROWDED_PART;
        if !self.crowded.swap(crowded, Ordering::Relaxed) && crowded {
            tracing::warn!(
                sessions = live + 1,
                "a hundredth of all {digits}-digit ids is in use, so guesses meet one more often; at a tenth no session is created any more: close sessions or raise sessions.id_digits"
            );
        }
        let now = clock.seconds();
        let (resting, first) = self.resting.count(now);
        if (live + resting) as u64 >= space / TAKEN_PART {
            return Err(Refused::IdsRest { digits, resting, seconds: first.unwrap_or(now).saturating_sub(now) });
        }
        let internal = |error: super::ids::RandomnessError| Refused::Internal(error.to_string());
        let pin = Pin::random(pin_digits).map_err(internal)?;
        loop {
            let (id, created_at) = (SessionId::random(digits).map_err(internal)?, clock.millis());
            if self.resting.has(id, created_at / 1000) {
                continue;
            }
            let record = StoredSession {
                id,
                pin,
                type_name: kind.name.clone(),
                created_at,
                clients: Vec::new(),
                revision: 0,
                extra: limits.stored(),
            };
            let session = Session::new(Arc::new(record), kind.clone(), self.world.clone(), Phase::Making);
            if self.directory.add(session.clone()) {
                self.world.broker.open_session(session.id());
                return Ok(session);
            }
        }
    }

    /// Undoes a creation that failed.
    async fn discard(&self, session: &Arc<Session>) {
        self.close_conductor(session, CloseReason::Requested, rules::CLOSE_DEADLINE).await;
        // It may have published, retained, while it was made: a later session of this id must not find that.
        self.world.broker.close_session(session.id()).await;
        self.directory.remove(session.id());
        self.timers.forget(session.id());
    }

    async fn close_conductor(&self, session: &Arc<Session>, reason: CloseReason, patience: Duration) {
        // Of a type whose threads are all blocked, nobody can answer; the conductor is closed when they come back.
        let patience = if session.kind().lane.quarantine().is_some() { Duration::from_secs(1) } else { patience };
        if let Err(error) = session.ask(What::Close(reason), patience).await {
            tracing::warn!(session = %session.id(), %error, "the conductor did not close well");
        }
    }

    /// Closes a session: from the store first, then its conductor, then its clients' connections.
    ///
    /// # Errors
    /// [`Refused::NoSuchSession`], also where it has expired and turns out to be in use again; [`Refused::Store`]. The session goes on then.
    pub async fn close(self: &Arc<Self>, id: SessionId, reason: CloseReason, caller: Caller) -> Result<(), Refused> {
        self.check_running()?;
        let session = self.get(id).ok_or(Refused::NoSuchSession)?;
        if !session.move_on(Phase::Open, Phase::Closing) {
            return Err(Refused::NoSuchSession);
        }
        let manager = self.clone();
        to_its_end(async move { manager.close_at_last(&session, reason, &caller).await }).await
    }

    async fn close_at_last(&self, session: &Arc<Session>, reason: CloseReason, caller: &Caller) -> Result<(), Refused> {
        let id = session.id();
        self.restore_to_close(session, caller).await;
        if reason == CloseReason::Expired && !self.is_over(session).await {
            session.move_on(Phase::Closing, Phase::Open);
            self.watch(session, false);
            return Err(Refused::NoSuchSession);
        }
        if let Err(error) = self.world.store.apply(Change::Close(id)).await {
            tracing::error!(session = %id, %error, "session not closed");
            session.move_on(Phase::Closing, Phase::Open);
            return Err(error.into());
        }
        // Before the id is free. What a join under way has not noted in the record yet, it notes itself.
        self.resting.note(id, session.record().tokens_until());
        self.close_conductor(session, reason, rules::CLOSE_DEADLINE).await;
        let ended = self.world.broker.close_session(id).await;
        self.directory.remove(id);
        self.timers.forget(id);
        self.lifetimes.forget(id);
        self.note_leaving(session, &session.record(), u64::MAX);
        self.ears.tell(|ear| ear.closed(session, reason));
        tracing::info!(session = %id, reason = reason.as_str(), %caller, ?ended, "session closed");
        Ok(())
    }

    /// A conductor closes its session. True where that was accepted.
    pub(crate) fn close_by_conductor(self: &Arc<Self>, session: &Arc<Session>) -> bool {
        if self.is_stopping() || !session.move_on(Phase::Open, Phase::Closing) {
            return false;
        }
        let (manager, session) = (self.clone(), session.clone());
        self.world.pool.runtime().spawn(async move {
            // An error is logged where it happens; there is nobody else to tell.
            let _ = manager.close_at_last(&session, CloseReason::Conductor, &Caller::host()).await;
        });
        true
    }

    /// Asks a session's conductor.
    ///
    /// # Errors
    /// [`Refused::NoSuchSession`]; [`Refused::Conductor`], also where the answer is not JSON.
    pub async fn request(&self, id: SessionId, method: String, params: Bytes, caller: Caller) -> Result<Vec<u8>, Refused> {
        self.check_running()?;
        let session = self.get(id).ok_or(Refused::NoSuchSession)?;
        count(&self.world.counts.requests);
        let timeout = session.kind().deadline;
        let result = session.ask(What::Request { method, params, caller }, timeout).await?;
        if let Err(error) = serde_json::from_slice::<&RawValue>(&result) {
            session.kind().lane.tally.errors.add();
            tracing::warn!(session = %id, %error, "the conductor's answer is not JSON");
            return Err(Trouble::InvalidReply(error.to_string()).into());
        }
        Ok(result)
    }

    /// Refuses everything new, and closes all live conductors: their sessions stay stored.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let live = self.directory.all().into_iter().filter(|session| session.has_conductor());
        stream::iter(live)
            // What is in its mailbox comes before, with deadlines of its own.
            .for_each_concurrent(None, |session| async move {
                self.close_conductor(&session, CloseReason::HostStopping, 2 * rules::CLOSE_DEADLINE).await;
            })
            .await;
    }
}

impl Events for Manager {
    fn message(&self, message: Message) {
        let Some(session) = self.directory.get(message.session) else { return };
        self.ears.message(&message);
        let kind = session.kind();
        // Without a plugin nobody knows whether its conductor would hear it.
        if !kind.wants(event::MESSAGE) && kind.plugin.is_ok() || self.is_stopping() {
            return;
        }
        let deadline = tokio::time::Instant::now() + kind.deadline;
        let event = Event { what: What::Message(message), deadline, time: self.world.clock.millis(), answer: None };
        match session.post(event) {
            Ok(()) => count(&self.world.counts.messages),
            Err(Trouble::Overloaded | Trouble::Quarantined(_)) => {
                count(&self.world.counts.dropped);
                tracing::debug!(session = %session.id(), "a message was dropped: the conductor's mailbox is full");
            }
            Err(_) => count(&self.world.counts.dropped),
        }
    }

    fn connected(&self, session: SessionId, client_id: &str) {
        self.tell_connection(session, client_id, true);
    }

    fn disconnected(&self, session: SessionId, client_id: &str) {
        self.note_life(session);
        self.tell_connection(session, client_id, false);
    }

    fn link(&self, _: bool) {
        self.directory.all().iter().for_each(Session::tell_link);
        self.ears.tell(Ear::link);
    }
}

/// Runs a change in a task of its own: dropping the returned future does not stop it.
pub(crate) async fn to_its_end<T: Send + 'static>(change: impl Future<Output = Result<T, Refused>> + Send + 'static) -> Result<T, Refused> {
    tokio::spawn(change).await.unwrap_or_else(|error| Err(Refused::Internal(error.to_string())))
}
