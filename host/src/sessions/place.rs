//! For tests: a manager with sessions of a type that no plugin has, at times of the test's choosing.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Runtime;

use super::{
    Caller, CloseReason, Limits, Manager, Pin, SessionId,
    clock::Clock,
    manager::Refused,
    world::{Counts, World},
};
use crate::{
    broker::{Broker, BrokerError, Ended, Endpoints, NoBroker},
    conductors::{catalog::Catalog, pool::Pool},
    config::Settings,
    joins::{Joins, Shown, secret::Secrets},
    store::{Applied, Change, Loaded, SavedState, Store, StoreError, StoredClient, StoredSession},
    tokens::grant::Grant,
};

/// When a place begins, in seconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_800_000_000;
/// How long a join is good for.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

thread_local! {
    static TIME: Cell<u64> = const { Cell::new(NOW) };
    static FAILING: Cell<usize> = const { Cell::new(0) };
    static CONNECTED: RefCell<Option<Vec<Arc<str>>>> = const { RefCell::new(None) };
}

pub(crate) struct Place {
    pub(crate) manager: Arc<Manager>,
    runtime: Runtime,
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

fn pin() -> Pin {
    Pin::parse("424242").unwrap()
}

/// A session made at `created` (seconds), with clients and the ends of their grants.
pub(crate) fn stored(session: &str, created: u64, clients: &[(&str, u64)]) -> StoredSession {
    let joined =
        clients.iter().map(|(client_id, expires_at)| StoredClient::Joined { client_id: (*client_id).into(), expires_at: *expires_at });
    StoredSession {
        id: id(session),
        pin: pin(),
        type_name: "gone".into(),
        created_at: created * 1000,
        clients: std::iter::once(StoredClient::Foreign(serde_json::Value::Null)).chain(joined).collect(),
        revision: 0,
        extra: None,
    }
}

/// A store that answers a moment after it has made the change, as one on a disk does.
#[derive(Debug)]
struct Later(Arc<dyn Store>);

impl Store for Later {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        if matches!(change, Change::Save { .. } | Change::Close(_) | Change::Fired { .. }) && FAILING.get() > 0 {
            FAILING.set(FAILING.get() - 1);
            return Box::pin(std::future::ready(Err(StoreError::Write("no space".into()))));
        }
        let applied = self.0.apply(change);
        Box::pin(async move {
            tokio::task::yield_now().await;
            applied.await
        })
    }

    fn state(&self, id: SessionId) -> BoxFuture<'static, Result<Option<SavedState>, StoreError>> {
        self.0.state(id)
    }

    fn trouble(&self) -> Option<Arc<str>> {
        self.0.trouble()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.shutdown()
    }
}

/// A broker that says who is connected, in whatever session, as the test has it; or that it cannot know.
#[derive(Debug)]
struct Told;

impl Broker for Told {
    fn open_session(&self, session: SessionId) {
        NoBroker.open_session(session);
    }

    fn publish<'a>(
        &'a self,
        id: SessionId,
        topic: &'a str,
        payload: Bytes,
        qos: u8,
        retain: bool,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        NoBroker.publish(id, topic, payload, qos, retain)
    }

    fn set_grant<'a>(&'a self, session: SessionId, client_id: &'a str, grant: Grant) -> BoxFuture<'a, ()> {
        NoBroker.set_grant(session, client_id, grant)
    }

    fn kick<'a>(&'a self, session: SessionId, client_id: &'a str) -> BoxFuture<'a, Ended> {
        NoBroker.kick(session, client_id)
    }

    fn close_session(&self, session: SessionId) -> BoxFuture<'_, Ended> {
        NoBroker.close_session(session)
    }

    fn connected(&self, _: SessionId) -> Option<Vec<Arc<str>>> {
        CONNECTED.with_borrow(Clone::clone)
    }

    fn endpoints(&self) -> Endpoints {
        NoBroker.endpoints()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        NoBroker.trouble()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        NoBroker.shutdown()
    }
}

impl Place {
    /// All runs on this thread, whose time is the place's.
    pub(crate) fn with(sessions: impl IntoIterator<Item = StoredSession>) -> Self {
        Self::of(Limits::default(), 6, sessions)
    }

    /// With limits for all sessions that have none of their own.
    pub(crate) fn limited(limits: Limits, sessions: impl IntoIterator<Item = StoredSession>) -> Self {
        Self::of(limits, 6, sessions)
    }

    /// With ids of so many digits.
    pub(crate) fn with_ids(id_digits: u8, sessions: impl IntoIterator<Item = StoredSession>) -> Self {
        Self::of(Limits::default(), id_digits, sessions)
    }

    /// With what is in a store that lasts.
    pub(crate) fn on(url: &str, folder: &Path) -> Self {
        Self::start(Limits::default(), 6, crate::store::open(url, folder, DAY, NOW).unwrap())
    }

    fn of(limits: Limits, id_digits: u8, sessions: impl IntoIterator<Item = StoredSession>) -> Self {
        let (store, loaded) = crate::store::open("memory:", Path::new("/"), DAY, NOW).unwrap();
        let sessions: Vec<_> = sessions.into_iter().map(Arc::new).collect();
        for session in &sessions {
            futures_util::FutureExt::now_or_never(store.apply(Change::Create(session.clone()))).unwrap().unwrap();
        }
        Self::start(limits, id_digits, (store, Loaded { sessions, ..loaded }))
    }

    fn start(limits: Limits, id_digits: u8, (store, loaded): (Arc<dyn Store>, Loaded)) -> Self {
        TIME.set(NOW);
        FAILING.set(0);
        CONNECTED.set(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pool = Pool::start(runtime.handle().clone()).unwrap();
        let manager = Manager::new(Catalog::default(), loaded, |manager| World {
            pool,
            broker: Arc::new(Told),
            store: Arc::new(Later(store)),
            clock: Clock::of(|| UNIX_EPOCH + Duration::from_secs(TIME.get())),
            grant_ttl: DAY,
            max_clients: 1000,
            joins: Joins::new(&Settings::load(None, std::iter::empty(), &[]).unwrap().0.joins, Secrets::of(&[7; 32])),
            max_state: 1 << 20,
            limits,
            id_digits,
            pin_digits: 6,
            manager,
            counts: Counts::default(),
        });
        Self { manager, runtime }
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The store refuses so many of the next saves, closings and timers that have fired.
    pub(crate) fn fail(&self, times: usize) {
        FAILING.set(times);
    }

    /// Who is connected from now on, in every session; nothing where the broker cannot know.
    pub(crate) fn connect(&self, clients: Option<&[&str]>) {
        CONNECTED.set(clients.map(|clients| clients.iter().copied().map(Arc::from).collect()));
    }

    pub(crate) fn set_time(&self, seconds: u64) {
        TIME.set(seconds);
    }

    pub(crate) fn join(&self, session: &str, client: &str) -> Result<(), Refused> {
        let joining = self.manager.join(Some(id(session)), Shown::Pin(Some(pin())), client.to_owned(), Caller::host());
        self.runtime.block_on(joining).map(drop)
    }

    pub(crate) fn close(&self, session: &str) {
        self.runtime.block_on(self.manager.close(id(session), CloseReason::Requested, Caller::host())).unwrap();
    }

    pub(crate) fn end_expired_grants(&self) {
        self.runtime.block_on(self.manager.end_expired_grants()).unwrap();
    }
}
