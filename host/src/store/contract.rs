//! What every store promises, run over each of them; and the plain model that random changes are compared with.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Applied, Change, Store, StoreError, StoredClient, StoredSession, open};
use crate::sessions::{Pin, SessionId};

/// Runs each function once per store, with a fresh place for it.
macro_rules! over_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory { $(#[test] fn $test() { super::$test(&super::Place::new("memory:")); })* }
        mod json { $(#[test] fn $test() { super::$test(&super::Place::new("json:sub/sessions.json")); })* }
    };
}

over_every_store! {
    a_session_is_created_once_and_closed_once,
    a_first_join_appends_and_a_second_changes_the_expiry_alone,
    clients_expire_and_leave,
    what_changes_nothing_succeeds_without_a_new_revision,
    a_value_that_is_no_string_matches_nothing,
    a_record_that_was_handed_out_never_changes,
    changes_that_are_not_awaited_keep_their_order,
    a_dropped_future_takes_nothing_back,
    many_threads_lose_nothing,
    shutdown_waits_for_what_is_queued,
    random_changes_agree_with_the_model,
}

/// Where a store is opened, again and again.
pub(super) struct Place {
    folder: TempDir,
    url: &'static str,
}

impl Place {
    fn new(url: &'static str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url }
    }

    fn open(&self) -> (Arc<dyn Store>, Vec<Arc<StoredSession>>) {
        open(self.url, self.folder.path(), Duration::from_secs(60), 0).unwrap()
    }

    fn keeps(&self) -> bool {
        self.url != "memory:"
    }
}

/// The future's value; a test fails rather than hang.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("no answer within a minute") })
}

pub(super) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

pub(super) fn session(number: &str) -> Arc<StoredSession> {
    Arc::new(StoredSession {
        id: id(number),
        pin: Pin::parse("0424").unwrap(),
        type_name: "default".into(),
        created_at: 1_735_689_600_123,
        clients: Vec::new(),
        revision: 0,
        rest: None,
    })
}

pub(super) fn create(number: &str) -> Change {
    Change::Create(session(number))
}

pub(super) fn join(number: &str, client: &str, expires_at: u64) -> Change {
    Change::Join { id: id(number), client_id: client.into(), expires_at }
}

fn expire(number: &str, now: u64) -> Change {
    Change::Expire { id: id(number), now }
}

pub(super) fn leave(number: &str, client: &str) -> Change {
    Change::Leave { id: id(number), client_id: client.into() }
}

pub(super) fn names(session: &StoredSession) -> Vec<(String, u64)> {
    let name = |client: &StoredClient| match client {
        StoredClient::Joined { client_id, expires_at } => (client_id.to_string(), *expires_at),
        StoredClient::Foreign(value) => (value.to_string(), 0),
    };
    session.clients.iter().map(name).collect()
}

/// The record after a change that must succeed.
fn done(store: &Arc<dyn Store>, change: Change) -> Arc<StoredSession> {
    wait(store.apply(change)).unwrap().unwrap()
}

fn a_session_is_created_once_and_closed_once(place: &Place) {
    let (store, loaded) = place.open();
    assert!(loaded.is_empty());
    assert_eq!(done(&store, create("0123")).id, id("0123"));
    assert!(matches!(wait(store.apply(create("0123"))), Err(StoreError::Exists(taken)) if taken == id("0123")));
    done(&store, create("123"));
    assert!(wait(store.apply(Change::Close(id("0123")))).unwrap().is_none());
    for change in [Change::Close(id("0123")), join("0123", "a", 1), expire("0123", 1), leave("0123", "a")] {
        assert!(matches!(wait(store.apply(change)), Err(StoreError::NoSuchSession(absent)) if absent == id("0123")));
    }
    done(&store, create("0123"));
    assert_eq!(store.trouble(), None);
}

fn a_first_join_appends_and_a_second_changes_the_expiry_alone(place: &Place) {
    let (store, _) = place.open();
    let made = done(&store, create("1"));
    assert_eq!(done(&store, join("1", "späce unit", 10)).revision, made.revision + 1);
    done(&store, join("1", "客户端", 20));
    let again = done(&store, join("1", "späce unit", 30));
    assert_eq!(names(&again), [("späce unit".into(), 30), ("客户端".into(), 20)]);
    assert_eq!(again.revision, made.revision + 3);
    assert!(again.pin.matches(made.pin) && again.created_at == made.created_at && again.type_name == made.type_name);
}

fn clients_expire_and_leave(place: &Place) {
    let (store, _) = place.open();
    done(&store, create("1"));
    for (client, expires_at) in [("a", 10), ("b", 11), ("c", 12), ("d", 10)] {
        done(&store, join("1", client, expires_at));
    }
    assert_eq!(names(&done(&store, expire("1", 10))), [("b".into(), 11), ("c".into(), 12)]);
    let left = done(&store, leave("1", "b"));
    assert_eq!((names(&left), left.revision), (vec![("c".into(), 12)], 6));
}

fn what_changes_nothing_succeeds_without_a_new_revision(place: &Place) {
    let (store, _) = place.open();
    done(&store, create("1"));
    let before = done(&store, join("1", "a", 10));
    for change in [expire("1", 9), leave("1", "b"), join("1", "a", 10)] {
        assert!(Arc::ptr_eq(&before, &done(&store, change)));
    }
}

fn a_value_that_is_no_string_matches_nothing(place: &Place) {
    let (store, _) = place.open();
    let foreign = [serde_json::Value::Null, 5.into(), serde_json::json!({"client_id": "a", "expires_at": 0})];
    let mut made = StoredSession::clone(&session("1"));
    made.clients = foreign.iter().cloned().map(StoredClient::Foreign).collect();
    let before = done(&store, Change::Create(made.into()));
    for change in [leave("1", "null"), leave("1", "5"), leave("1", "a"), expire("1", u64::MAX)] {
        assert!(Arc::ptr_eq(&before, &done(&store, change)));
    }
    let joined = done(&store, join("1", "5", 9));
    assert_eq!(joined.clients[..3], before.clients[..]);
    assert_eq!(joined.clients[3].client_id(), Some("5"));
}

fn a_record_that_was_handed_out_never_changes(place: &Place) {
    let (store, _) = place.open();
    let made = done(&store, create("1"));
    let joined = done(&store, join("1", "a", 1));
    done(&store, leave("1", "a"));
    assert_eq!((made.clients.len(), joined.clients.len()), (0, 1));
}

fn changes_that_are_not_awaited_keep_their_order(place: &Place) {
    let (store, _) = place.open();
    let made = store.apply(create("1"));
    let joined = store.apply(join("1", "a", 1));
    let left = store.apply(leave("1", "a"));
    let closed = store.apply(Change::Close(id("1")));
    // Awaited the other way round: the order is that of the calls.
    assert!(wait(closed).unwrap().is_none());
    assert_eq!(names(&wait(left).unwrap().unwrap()), []);
    assert_eq!(wait(joined).unwrap().unwrap().revision, 1);
    assert!(wait(made).is_ok());
}

fn a_dropped_future_takes_nothing_back(place: &Place) {
    let (store, _) = place.open();
    drop(store.apply(create("1")));
    drop(store.apply(join("1", "a", 1)));
    assert_eq!(names(&done(&store, expire("1", 0))), [("a".into(), 1)]);
}

fn many_threads_lose_nothing(place: &Place) {
    let (store, _) = place.open();
    done(&store, create("999"));
    let threads = (0..64_u64).map(|n| {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let (own, client) = (format!("{n:04}"), format!("c{n}"));
            done(&store, create(&own));
            done(&store, join("999", &client, n));
            done(&store, join(&own, "x", 1));
            done(&store, join("999", &client, n + 1000));
            match n % 3 {
                0 => assert!(wait(store.apply(Change::Close(id(&own)))).unwrap().is_none()),
                1 => assert_eq!(done(&store, leave("999", &client)).clients.iter().find(|c| c.client_id() == Some(&client)), None),
                _ => {}
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());

    let shared = done(&store, expire("999", 0));
    let mut clients = names(&shared);
    clients.sort_by_key(|(_, expires_at)| *expires_at);
    let expected: Vec<_> = (0..64).filter(|n| n % 3 != 1).map(|n| (format!("c{n}"), n + 1000)).collect();
    assert_eq!(clients, expected);
    assert_eq!(shared.revision, 64 * 2 + (0..64).filter(|n| n % 3 == 1).count() as u64);
    if place.keeps() {
        wait(store.shutdown());
        let (_store, loaded) = place.open();
        let ids: Vec<_> = loaded.iter().map(|session| session.id.to_string()).collect();
        let expected = (0..64).filter(|n| n % 3 != 0).map(|n| format!("{n:04}"));
        assert_eq!(ids, std::iter::once("999".to_owned()).chain(expected).collect::<Vec<_>>());
        assert_eq!(names(&loaded[0]), names(&shared));
    }
}

fn shutdown_waits_for_what_is_queued(place: &Place) {
    let (store, _) = place.open();
    let made: Vec<_> = (0..20).map(|n| store.apply(create(&format!("{n:02}")))).collect();
    wait(store.shutdown());
    if place.keeps() {
        let (_store, loaded) = place.open();
        assert_eq!(loaded.len(), 20);
        assert!(matches!(wait(store.apply(create("77"))), Err(StoreError::Write(_))));
        assert!(store.trouble().is_some());
    }
    assert!(made.into_iter().all(|made| wait(made).is_ok()));
}

fn random_changes_agree_with_the_model(place: &Place) {
    let groups = prop::collection::vec((prop::collection::vec(op(), 1..6), any::<bool>()), 1..8);
    proptest!(ProptestConfig::with_cases(48), |(groups in groups)| {
        let place = Place::new(place.url);
        let (mut store, _) = place.open();
        let mut model = Model::default();
        for (ops, reopen) in groups {
            let answers: Vec<_> = ops.iter().map(|op| store.apply(op.change())).collect();
            for (op, answer) in ops.iter().zip(answers) {
                prop_assert_eq!(seen(&wait(answer)), model.expect(op), "{:?}", op);
            }
            if reopen && place.keeps() {
                wait(store.shutdown());
                let opened = place.open();
                store = opened.0;
                model.reopen();
                prop_assert_eq!(model.listed(), listed(&opened.1));
            }
        }
    });
}

/// A change to one of few sessions and clients, so that they meet.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create(u8),
    Close(u8),
    Join(u8, u8, u64),
    Expire(u8, u64),
    Leave(u8, u8),
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (session, client, time) = (0..3_u8, 0..3_u8, 0..6_u64);
    prop_oneof![
        3 => session.clone().prop_map(Op::Create),
        1 => session.clone().prop_map(Op::Close),
        4 => (session.clone(), client.clone(), time.clone()).prop_map(|(s, c, t)| Op::Join(s, c, t)),
        2 => (session.clone(), time).prop_map(|(s, t)| Op::Expire(s, t)),
        2 => (session, client).prop_map(|(s, c)| Op::Leave(s, c)),
    ]
}

impl Op {
    pub(super) fn change(&self) -> Change {
        match self {
            Self::Create(s) => create(&s.to_string()),
            Self::Close(s) => Change::Close(id(&s.to_string())),
            Self::Join(s, c, t) => join(&s.to_string(), &c.to_string(), *t),
            Self::Expire(s, t) => expire(&s.to_string(), *t),
            Self::Leave(s, c) => leave(&s.to_string(), &c.to_string()),
        }
    }
}

type Clients = Vec<(String, u64)>;
/// Revision and clients after a change, or why not.
type Seen = Result<Option<(u64, Clients)>, &'static str>;

/// Sessions as a list of pairs each, edited in place.
#[derive(Default)]
pub(super) struct Model(BTreeMap<u8, (u64, Clients)>);

impl Model {
    pub(super) fn expect(&mut self, op: &Op) -> Seen {
        let (Op::Create(s) | Op::Close(s) | Op::Join(s, ..) | Op::Expire(s, _) | Op::Leave(s, _)) = op;
        if let Op::Create(_) = op {
            if self.0.contains_key(s) {
                return Err("exists");
            }
            self.0.insert(*s, (0, Vec::new()));
        }
        let (revision, clients) = self.0.get_mut(s).ok_or("no such session")?;
        let before = clients.clone();
        match op {
            Op::Create(_) => {}
            Op::Close(_) => {
                self.0.remove(s);
                return Ok(None);
            }
            Op::Join(_, c, t) => match clients.iter().position(|(name, _)| *name == c.to_string()) {
                Some(at) => clients[at].1 = *t,
                None => clients.push((c.to_string(), *t)),
            },
            Op::Expire(_, now) => clients.retain(|(_, expires_at)| expires_at > now),
            Op::Leave(_, c) => clients.retain(|(name, _)| *name != c.to_string()),
        }
        *revision += u64::from(*clients != before);
        Ok(Some((*revision, clients.clone())))
    }

    pub(super) fn reopen(&mut self) {
        self.0.values_mut().for_each(|(revision, _)| *revision = 0);
    }

    pub(super) fn listed(&self) -> Vec<(String, Clients)> {
        self.0.iter().map(|(s, (_, clients))| (s.to_string(), clients.clone())).collect()
    }
}

pub(super) fn seen(answer: &Applied) -> Seen {
    match answer {
        Ok(after) => Ok(after.as_ref().map(|session| (session.revision, names(session)))),
        Err(StoreError::Exists(_)) => Err("exists"),
        Err(StoreError::NoSuchSession(_)) => Err("no such session"),
        Err(StoreError::Write(_)) => Err("write"),
    }
}

pub(super) fn listed(sessions: &[Arc<StoredSession>]) -> Vec<(String, Clients)> {
    sessions.iter().map(|session| (session.id.to_string(), names(session))).collect()
}
