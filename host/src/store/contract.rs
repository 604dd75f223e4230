//! What every store promises, run over each of them.

mod limits;

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use conductor_abi::wire::Grants;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Change, Extra, Loaded, SavedState, Store, StoreError, StoredClient, StoredSession, StoredTimer,
    model::{Model, names, op, rows, seen},
    open,
};
use crate::sessions::{Pin, SessionId};
use limits::*;

/// Runs each function once per store, with a fresh place for it.
macro_rules! over_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory { $(#[test] fn $test() { super::$test(&super::Place::new("memory:")); })* }
        mod sqlite { $(#[test] fn $test() { super::$test(&super::Place::new("sqlite:sub/sessions.db")); })* }
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
    a_client_may_do_what_was_said_last,
    rules_labels_and_timers_replace_what_was_said,
    limits_are_what_was_said_last,
    tokens_that_the_list_does_not_tell_of_are_known_until_they_are_over,
    an_id_rests_until_its_last_token_is_over,
    a_record_takes_no_more_room_than_it_needs,
    a_state_is_what_was_saved_last_and_ends_with_its_session,
    states_that_are_not_awaited_keep_their_order,
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
        let (store, loaded) = self.open_all();
        (store, loaded.sessions)
    }

    fn open_all(&self) -> (Arc<dyn Store>, Loaded) {
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
        extra: None,
    })
}

pub(super) fn create(number: &str) -> Change {
    Change::Create(session(number))
}

/// A creation at a time in seconds since the Unix epoch.
pub(super) fn create_at(number: &str, now: u64) -> Change {
    Change::Create(Arc::new(StoredSession { created_at: now * 1000, ..StoredSession::clone(&session(number)) }))
}

pub(super) fn limits(number: &str, lifetime: Option<Option<u64>>, empty_timeout: Option<Option<u64>>) -> Change {
    Change::Limits { id: id(number), lifetime, empty_timeout }
}

pub(super) fn join(number: &str, client: &str, expires_at: u64) -> Change {
    Change::Join { id: id(number), client_id: client.into(), expires_at, grants: None }
}

pub(super) fn expire(number: &str, now: u64) -> Change {
    Change::Expire { id: id(number), now }
}

pub(super) fn leave(number: &str, client: &str) -> Change {
    Change::Leave { id: id(number), client_id: client.into() }
}

pub(super) fn grant(number: &str, client: &str, grants: Grants) -> Change {
    Change::Grant { id: id(number), client_id: client.into(), grants }
}

pub(super) fn rules(number: &str, locked: Option<bool>, max_clients: Option<u32>) -> Change {
    Change::JoinRules { id: id(number), locked, max_clients }
}

pub(super) fn labels(number: &str, labels: BTreeMap<String, String>) -> Change {
    Change::Labels { id: id(number), labels }
}

pub(super) fn timer(number: &str, name: &str, timer: Option<StoredTimer>) -> Change {
    Change::Timer { id: id(number), name: name.into(), timer }
}

pub(super) fn save(number: &str, state: SavedState) -> Change {
    Change::Save { id: id(number), state }
}

pub(super) fn saved(version: u32, bytes: impl Into<Vec<u8>>) -> SavedState {
    SavedState { version, bytes: bytes.into().into() }
}

/// What it may publish, and everything else.
pub(super) fn publishing(topics: &[&str]) -> Grants {
    let mut grants = Grants::default();
    grants.publish = Some(topics.iter().map(ToString::to_string).collect());
    grants
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
    // Of two who send it away, one is told that it had gone.
    assert!(matches!(wait(store.apply(leave("1", "b"))), Err(StoreError::NoSuchClient(session)) if session == id("1")));
    assert_eq!(done(&store, join("1", "b", 12)).revision, 7);
}

fn what_changes_nothing_succeeds_without_a_new_revision(place: &Place) {
    let (store, _) = place.open();
    done(&store, create("1"));
    let before = done(&store, join("1", "a", 10));
    for change in [expire("1", 9), join("1", "a", 10)] {
        assert!(Arc::ptr_eq(&before, &done(&store, change)));
    }
}

fn a_value_that_is_no_string_matches_nothing(place: &Place) {
    let (store, _) = place.open();
    let foreign = [serde_json::Value::Null, 5.into(), serde_json::json!({"client_id": "a", "expires_at": 0})];
    let mut made = StoredSession::clone(&session("1"));
    made.clients = foreign.iter().cloned().map(StoredClient::Foreign).collect();
    let before = done(&store, Change::Create(made.into()));
    for client in ["null", "5", "a"] {
        assert!(matches!(wait(store.apply(leave("1", client))), Err(StoreError::NoSuchClient(_))));
    }
    assert!(Arc::ptr_eq(&before, &done(&store, expire("1", u64::MAX))));
    let joined = done(&store, join("1", "5", 9));
    assert_eq!(joined.clients[..3], before.clients[..]);
    assert_eq!(joined.clients[3].client_id(), Some("5"));
}

fn a_client_may_do_what_was_said_last(place: &Place) {
    let (store, _) = place.open();
    let grants = |record: &StoredSession, client: &str| record.extra.as_ref().and_then(|extra| extra.grants.get(client)).cloned();
    let joining = |topics| Change::Join { id: id("1"), client_id: "a".into(), expires_at: 9, grants: Some(publishing(topics)) };
    done(&store, create("1"));
    assert_eq!(grants(&done(&store, joining(&["x"])), "a"), Some(publishing(&["x"])));
    assert_eq!(grants(&done(&store, join("1", "a", 10)), "a"), Some(publishing(&["x"])), "stays where nothing is said");
    let before = done(&store, grant("1", "a", publishing(&[])));
    assert_eq!((grants(&before, "a"), before.revision), (Some(publishing(&[])), 3));
    assert!(Arc::ptr_eq(&before, &done(&store, grant("1", "b", publishing(&[])))), "b is not in the session");
    assert!(Arc::ptr_eq(&before, &done(&store, grant("1", "a", publishing(&[])))));
    assert!(done(&store, grant("1", "a", Grants::default())).extra.is_none(), "everything is what needs no word");
    for goes in [leave("1", "a"), expire("1", 9)] {
        done(&store, join("1", "b", 20));
        done(&store, joining(&["y"]));
        done(&store, grant("1", "b", publishing(&["z"])));
        let left = done(&store, goes);
        assert_eq!((grants(&left, "a"), grants(&left, "b")), (None, Some(publishing(&["z"]))));
        assert_eq!(grants(&done(&store, join("1", "a", 9)), "a"), None, "who comes back begins anew");
    }
}

fn rules_labels_and_timers_replace_what_was_said(place: &Place) {
    let (store, _) = place.open();
    let made = done(&store, create("1"));
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect::<BTreeMap<_, _>>();
    let [once, every] = [None, Some(1)].map(|every| StoredTimer { due: 5, every });
    done(&store, rules("1", Some(true), None));
    done(&store, rules("1", None, Some(4)));
    done(&store, labels("1", pairs(&[("a", "1"), ("b", "2")])));
    done(&store, labels("1", pairs(&[("c", "")])));
    done(&store, timer("1", "t", Some(once)));
    done(&store, timer("1", "u", Some(once)));
    let all = done(&store, timer("1", "u", Some(every)));
    let expected = Extra {
        labels: pairs(&[("c", "")]),
        locked: true,
        max_clients: Some(4),
        timers: [("t".into(), once), ("u".into(), every)].into(),
        ..Extra::default()
    };
    assert_eq!((all.extra.as_deref(), all.revision), (Some(&expected), made.revision + 7));
    for change in [rules("1", None, None), rules("1", Some(true), Some(4)), timer("1", "v", None), timer("1", "u", Some(every))] {
        assert!(Arc::ptr_eq(&all, &done(&store, change)));
    }
    assert!(Arc::ptr_eq(&all, &done(&store, labels("1", pairs(&[("c", "")])))));
    if place.keeps() {
        wait(store.shutdown());
        let (store, loaded) = place.open();
        assert_eq!(loaded[0].extra.as_deref(), Some(&expected));
        for change in [labels("1", BTreeMap::new()), rules("1", Some(false), None), timer("1", "t", None)] {
            done(&store, change);
        }
        let last = done(&store, timer("1", "u", None));
        assert_eq!(last.extra.as_deref(), Some(&Extra { max_clients: Some(4), ..Extra::default() }));
    }
    for change in [labels("2", BTreeMap::new()), rules("2", None, None), timer("2", "t", None), grant("2", "a", Grants::default())] {
        assert!(matches!(wait(store.apply(change)), Err(StoreError::NoSuchSession(_) | StoreError::Write(_))));
    }
}

fn a_record_takes_no_more_room_than_it_needs(place: &Place) {
    let (store, _) = place.open();
    done(&store, create("1"));
    let changes = (0..9).map(|n| join("1", &n.to_string(), n)).chain([leave("1", "8"), expire("1", 4), join("1", "9", 5)]);
    for change in changes.chain([labels("1", [("a".into(), "b".into())].into()), expire("1", 8)]) {
        let record = done(&store, change);
        assert_eq!(record.clients.capacity(), record.clients.len());
    }
    done(&store, timer("1", "t", Some(StoredTimer { due: 1, every: None })));
    done(&store, timer("1", "t", None));
    assert!(done(&store, labels("1", BTreeMap::new())).extra.is_none());
}

fn a_state_is_what_was_saved_last_and_ends_with_its_session(place: &Place) {
    let (mut store, _) = place.open();
    let state = |store: &Arc<dyn Store>, number: &str| wait(store.state(id(number))).unwrap();
    assert!(matches!(wait(store.apply(save("1", saved(1, "a")))), Err(StoreError::NoSuchSession(absent)) if absent == id("1")));
    assert_eq!(state(&store, "1"), None);
    done(&store, create("1"));
    done(&store, create("01"));
    assert_eq!(state(&store, "1"), None);
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
    for last in [saved(0, ""), saved(u32::MAX, large), saved(7, "\n\0first\n"), saved(7, "second")] {
        let record = done(&store, expire("1", 0));
        assert!(Arc::ptr_eq(&record, &done(&store, save("1", last.clone()))), "the record stays as it is");
        assert_eq!(state(&store, "1"), Some(last.clone()));
        if place.keeps() {
            wait(store.shutdown());
            store = place.open().0;
            assert_eq!(state(&store, "1"), Some(last));
        }
    }
    assert_eq!(state(&store, "01"), None);
    done(&store, save("01", saved(3, "other")));
    wait(store.apply(Change::Close(id("1")))).unwrap();
    assert_eq!(state(&store, "1"), None);
    done(&store, create("1"));
    assert_eq!((state(&store, "1"), state(&store, "01")), (None, Some(saved(3, "other"))));
    if place.keeps() {
        wait(store.shutdown());
        store = place.open().0;
        assert_eq!((state(&store, "1"), state(&store, "01")), (None, Some(saved(3, "other"))));
        wait(store.shutdown());
        assert!(matches!(wait(store.state(id("1"))), Err(StoreError::State(..))));
    }
}

fn states_that_are_not_awaited_keep_their_order(place: &Place) {
    let (store, _) = place.open();
    let changes = [create("1"), save("1", saved(1, "a")), save("1", saved(2, "b"))].map(|change| store.apply(change));
    let first = store.state(id("1"));
    let closed = [save("1", saved(3, "c")), Change::Close(id("1")), save("1", saved(4, "d"))].map(|change| store.apply(change));
    let second = store.state(id("1"));
    let again = [create("1"), save("1", saved(5, "e"))].map(|change| store.apply(change));
    let third = store.state(id("1"));
    assert_eq!(wait(third).unwrap(), Some(saved(5, "e")));
    assert_eq!(wait(second).unwrap(), None);
    assert_eq!(wait(first).unwrap(), Some(saved(2, "b")));
    assert!(changes.into_iter().chain(again).all(|change| wait(change).is_ok()));
    let closed = closed.map(|change| seen(&wait(change)).map(|after| after.is_some()));
    assert_eq!(closed, [Ok(true), Ok(false), Err("no such session")]);
    // All at once: what was saved for the session before is not the new one's.
    let changes = [save("1", saved(6, "f")), Change::Close(id("1")), create("1")].map(|change| store.apply(change));
    assert_eq!(wait(store.state(id("1"))).unwrap(), None);
    assert!(changes.into_iter().all(|change| wait(change).is_ok()));
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
    let [made, saves] = [|n| create(&format!("{n:02}")), |n| save(&format!("{n:02}"), saved(n, "x"))]
        .map(|change: fn(u32) -> Change| (0..50).map(|n| store.apply(change(n))).collect::<Vec<_>>());
    wait(store.shutdown());
    if place.keeps() {
        let (again, loaded) = place.open();
        assert_eq!(loaded.len(), 50);
        assert!((0..50).all(|n| wait(again.state(id(&format!("{n:02}")))).unwrap() == Some(saved(n, "x"))));
        assert!(matches!(wait(store.apply(create("77"))), Err(StoreError::Write(_))));
        assert!(store.trouble().is_some());
    }
    assert!(made.into_iter().chain(saves).all(|done| wait(done).is_ok()));
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
                let opened = place.open_all();
                store = opened.0;
                model.reopen();
                prop_assert_eq!(model.rows(), rows(&opened.1.sessions));
                prop_assert_eq!(model.resting(), opened.1.resting);
            }
            let states: Vec<_> = (0..3).map(|s| wait(store.state(id(&s.to_string()))).unwrap()).collect();
            prop_assert_eq!(states, model.states());
        }
    });
}
