use std::{collections::BTreeMap, fs, time::Duration};

use bytes::Bytes;
use conductor_abi::wire::Grants;
use serde_json::Map;

use super::*;
use crate::store::{
    Change, Extra, Kicked, Loaded, StoredClient, StoredTimer,
    contract::{id, save, saved, session, wait},
    lock::LockError,
    open,
    transfer::create,
};

fn place(url: &str, folder: &Path) -> Place {
    Place::of(url, folder).unwrap().unwrap()
}

fn read_at_rest(place: &Place) -> Result<Stock, StockError> {
    read(place, 0, Beside::NoHost)
}

/// One of each kind of thing that a store keeps.
fn everything(number: u64) -> StoredSession {
    let session_id = format!("{number:06}");
    let joined = |name: &str, expires_at| StoredClient::Joined { client_id: name.into(), expires_at };
    let mut grants = Grants::default();
    grants.publish = Some(vec!["a/#".into()]);
    let mut rest = Map::new();
    rest.insert("note".into(), serde_json::json!({"z": 1, "a": [null, 1.5, "ä\u{1}"]}));
    let extra = Extra {
        labels: BTreeMap::from([("room".into(), "4 \u{1f600}".into())]),
        locked: number.is_multiple_of(2),
        max_clients: Some(7),
        grants: BTreeMap::from([("phone".into(), grants)]),
        timers: BTreeMap::from([
            ("once".into(), StoredTimer { due: 1_735_689_600_123, every: None }),
            ("again".into(), StoredTimer { due: 1_735_689_600_000, every: Some(1000) }),
        ]),
        tokens_until: 1_735_776_000,
        lifetime: Some(0),
        empty_timeout: Some(60_000),
        kicked: Kicked { count: 2, floor: 0, clients: BTreeMap::from([("gone".into(), 2)]) },
        rest,
    };
    let clients = vec![joined("phone", 9), StoredClient::Foreign(serde_json::Value::Null), joined("späce 1", u64::from(u32::MAX))];
    let one = StoredSession::clone(&session(&session_id));
    match number % 4 {
        0 => StoredSession { created_at: 0, ..one },
        1 => StoredSession { clients, created_at: 1_735_689_600_000 + number, ..one },
        _ => StoredSession { clients, extra: Some(Box::new(extra)), type_name: "an odd \"type\"".into(), ..one },
    }
}

/// Fills a store the way that a host does.
fn fill_by_host(url: &str, folder: &Path, sessions: u64) {
    let (store, _) = open(url, folder, Duration::ZERO, 0).unwrap();
    let mut answers = Vec::new();
    for number in 0..sessions {
        let session = everything(number);
        let id = session.id.to_string();
        answers.push(store.apply(Change::Create(Arc::new(session))));
        if number % 10 == 3 {
            let state = SavedState { version: number as u32, bytes: Bytes::from(number.to_le_bytes().to_vec()) };
            answers.push(store.apply(save(&id, state)));
        }
        if number % 100 == 99 {
            answers.push(store.apply(Change::Close(session_id(number))));
        }
    }
    for answer in answers {
        wait(answer).unwrap();
    }
    wait(store.shutdown());
}

fn session_id(number: u64) -> SessionId {
    id(&format!("{number:06}"))
}

/// All of a store, comparable.
fn all(place: &Place) -> (String, Vec<(SessionId, SavedState)>) {
    let stock = read_at_rest(place).unwrap();
    let mut text = Vec::new();
    format::render(&mut text, &stock.content).unwrap();
    (String::from_utf8(text).unwrap(), stock.states().map(Result::unwrap).collect())
}

#[test]
fn a_store_at_rest_is_read_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let json = place("json:sessions.json", folder.path());
    assert!(matches!(read_at_rest(&json), Err(StockError::Missing(_))));
    create(json.file(), &[session("1")]).unwrap();
    assert_eq!(read_at_rest(&json).unwrap().counts(), Counts { sessions: 1, ..Counts::default() });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let (store, _) = open("json:sessions.json", folder.path(), Duration::ZERO, 0).unwrap();
    let held = |read: Result<Stock, _>| matches!(read, Err(StockError::Open(OpenError::Lock(LockError::Held { .. }))));
    assert!(held(read_at_rest(&json)));
    for _ in 0..2 {
        wait(store.apply(save("1", saved(1, "x")))).unwrap();
    }
    let beside = read(&json, 0, Beside::AHost).unwrap();
    assert_eq!((beside.counts().saved, beside.bytes()), (1, 1));
    wait(store.shutdown());
    // Of a session that is not there: a leftover.
    fs::write(folder.path().join("sessions.json.state/2-0-0.state"), "").unwrap();
    let stock = read_at_rest(&json).unwrap();
    assert_eq!((stock.counts().saved, stock.left()), (1, 1));
    assert!(held(read_at_rest(&json)), "while it is read no host can start");
    drop(stock);
    assert_eq!(fs::read_dir(folder.path().join("sessions.json.state")).unwrap().count(), 2, "nothing is removed");
    fs::write(json.file(), "{\"1\": 2, \"3\": 4").unwrap();
    let Err(StockError::Damaged { problems, .. }) = read_at_rest(&json) else { panic!("it is damaged") };
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_store_goes_through_others_and_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    fill_by_host("json:a.json", folder.path(), 400);
    let urls = ["json:a.json", "sqlite:b.db", "json:sub/c.json", "sqlite:sub/d.db", "sqlite:e.db", "json:f.json"];
    let places = urls.map(|url| place(url, folder.path()));
    let first = all(&places[0]);
    assert!(first.0.contains("\"resting\"") && first.1.len() == 40 && first.0.contains("\"note\""), "{}", first.0);
    let counts = read_at_rest(&places[0]).unwrap().counts();
    let mut progress = 0;
    for (index, pair) in places.windows(2).enumerate() {
        let stock = read_at_rest(&pair[0]).unwrap();
        let written = match index % 2 {
            0 => export(&stock, &pair[1], false, &mut || progress += 1),
            _ => import(&stock, &pair[1], 0, false, &mut || progress += 1),
        };
        assert_eq!(written.unwrap().unwrap(), counts);
        drop(stock);
        assert_eq!(all(&pair[1]), first);
    }
    assert_eq!(progress, 40 * (places.len() - 1));
    // A host takes it up as it is.
    for place in &places[2..4] {
        let (store, Loaded { sessions, resting }) = open(&place.to_string(), folder.path(), Duration::ZERO, 0).unwrap();
        assert_eq!((sessions.len(), resting.len()), (396, 4));
        assert_eq!(wait(store.state(session_id(3))).unwrap().unwrap().version, 3);
    }
    assert!(fs::read(places[0].file()).unwrap() == fs::read(places[5].file()).unwrap(), "to the byte");
}

#[test]
fn nothing_is_mixed_and_nothing_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to, rests] = ["json:a.json", "json:b.json", "json:c.json"].map(|url| place(url, folder.path()));
    fill_by_host("json:a.json", folder.path(), 4);
    create(to.file(), &[session("9")]).unwrap();
    let before = fs::read(to.file()).unwrap();
    let stock = read_at_rest(&from).unwrap();
    for dry_run in [true, false] {
        let import = |to: &Place, now| import(&stock, to, now, dry_run, &mut || ());
        let export = |to: &Place| export(&stock, to, dry_run, &mut || ());
        assert!(matches!(import(&to, 0), Err(StockError::NotEmpty { sessions: 1, .. })));
        assert!(matches!(export(&to), Err(StockError::Exists(_))));
        let elsewhere = place("json:none/b.json", folder.path());
        assert!(matches!(export(&elsewhere), Err(StockError::Write { .. })));
        fs::create_dir_all(folder.path().join("d.json.state")).unwrap();
        assert!(matches!(export(&place("json:d.json", folder.path())), Err(StockError::Exists(_))));
        // An id that would be taken by a session while tokens of another one are good.
        let text = "{\"resting\": {\"000001\": 50, \"7\": 60}}";
        fs::write(rests.file(), text).unwrap();
        assert!(matches!(import(&rests, 49), Err(StockError::Resting { .. })));
        assert_eq!(fs::read_to_string(rests.file()).unwrap(), text);
        fs::write(folder.path().join("d.json.state/2-0-0.state"), "").unwrap();
        assert!(matches!(import(&place("json:d.json", folder.path()), 0), Err(StockError::Open(OpenError::Unusable { .. }))));
        assert_eq!(import(&rests, 50).unwrap().is_none(), dry_run);
    }
    assert_eq!(fs::read(to.file()).unwrap(), before);
    let resting: Vec<_> = read_at_rest(&rests).unwrap().content.resting.iter().collect();
    assert_eq!(resting, [(id("7"), 60)], "what rested goes on resting, but for what is a session");
}

#[test]
fn a_database_without_sessions_is_filled_or_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fill_by_host("json:a.json", folder.path(), 40);
    let [from, to] = ["json:a.json", "sqlite:b.db"].map(|url| place(url, folder.path()));
    // A host was there; its sessions are closed, and two ids rest.
    let (store, _) = open("sqlite:b.db", folder.path(), Duration::ZERO, 0).unwrap();
    for (number, until) in [("000001", 50), ("7", 60)] {
        let clients = vec![StoredClient::Joined { client_id: "a".into(), expires_at: until }];
        let one = StoredSession { clients, created_at: 0, ..StoredSession::clone(&session(number)) };
        wait(store.apply(Change::Create(Arc::new(one)))).unwrap();
        wait(store.apply(Change::Close(id(number)))).unwrap();
    }
    wait(store.shutdown());
    let stock = read_at_rest(&from).unwrap();
    assert!(matches!(import(&stock, &to, 49, false, &mut || ()), Err(StockError::Resting { .. })));
    let before = all(&to);
    // One that vanishes in the midst of it.
    let [state, aside] = ["000033-1735689600033-3.state", "kept"].map(|name| states::folder(from.file()).join(name));
    fs::rename(&state, &aside).unwrap();
    assert!(matches!(import(&stock, &to, 50, false, &mut || ()), Err(StockError::Write { .. })));
    assert_eq!(all(&to), before);
    fs::rename(&aside, &state).unwrap();
    assert_eq!(import(&stock, &to, 50, false, &mut || ()).unwrap().unwrap(), Counts { resting: 1, ..stock.counts() });
    let (store, loaded) = open("sqlite:b.db", folder.path(), Duration::ZERO, 0).unwrap();
    assert_eq!((loaded.sessions.len(), loaded.resting), (40, vec![(id("7"), 60)]));
    assert_eq!(wait(store.state(session_id(33))).unwrap().unwrap().version, 33);
    // And not a second time, nor beside a host.
    assert!(matches!(import(&stock, &to, 50, true, &mut || ()), Err(StockError::Open(OpenError::Lock(LockError::Held { .. })))));
    wait(store.shutdown());
    assert!(matches!(import(&stock, &to, 50, true, &mut || ()), Err(StockError::NotEmpty { sessions: 40, .. })));
}

#[test]
fn a_database_is_read_beside_its_host_and_without_one_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    fill_by_host("sqlite:a.db", folder.path(), 40);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (db, before) = (place("sqlite:a.db", folder.path()), names());
    let rests = read(&db, 0, Beside::AHost).unwrap();
    let (counts, bytes) = (rests.counts(), rests.bytes());
    assert_eq!((counts.sessions, counts.saved, bytes), (40, 4, 32));
    assert_eq!(names(), before);
    let (store, _) = open("sqlite:a.db", folder.path(), Duration::ZERO, 0).unwrap();
    wait(store.apply(save("000001", saved(5, "live")))).unwrap();
    assert_eq!(read(&db, 0, Beside::AHost).unwrap().counts(), Counts { saved: 5, ..counts });
    assert_eq!(super::session(&db, id("000001")).unwrap().unwrap().1, Some(saved(5, "live")));
    assert!(super::session(&db, id("77")).unwrap().is_none());
    let (copy, copied, _) = backup(&db, &folder.path().join("copy.db"), &mut || ()).unwrap();
    assert_eq!((copied, super::session(&copy, id("000001")).unwrap().unwrap().1), (Counts { saved: 5, ..counts }, Some(saved(5, "live"))));
    assert!(matches!(read_at_rest(&db), Err(StockError::Open(OpenError::Lock(_)))));
    wait(store.shutdown());
    assert!(matches!(backup(&db, &folder.path().join("copy.db"), &mut || ()), Err(StockError::Exists(_))));
    fs::write(folder.path().join("copy.db"), "SQLite format 3, or not").unwrap();
    assert!(matches!(read(&copy, 0, Beside::AHost), Err(StockError::Damaged { .. })));
}

#[test]
fn a_leftover_of_saved_state_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["json:a.json", "json:b.json"].map(|url| place(url, folder.path()));
    fill_by_host("json:a.json", folder.path(), 4);
    fs::write(to.file(), "{}").unwrap();
    let folder = states::folder(to.file());
    fs::create_dir(&folder).unwrap();
    // Newer than what is imported, if it counted.
    fs::copy(states::folder(from.file()).join("000003-1735689600123-0.state"), folder.join("000003-1735689600123-70.state")).unwrap();
    let expected = all(&from);
    import(&read_at_rest(&from).unwrap(), &to, 0, false, &mut || ()).unwrap();
    assert_eq!(all(&to), expected);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn where_it_fails_nothing_of_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    // So many that some are written before the one that is missing.
    fill_by_host("json:a.json", folder.path(), 800);
    let from = place("json:a.json", folder.path());
    let damage = states::folder(from.file()).join("000793-1735689600793-79.state");
    let stock = read_at_rest(&from).unwrap();
    fs::remove_file(&damage).unwrap();
    for (url, before) in [("json:b.json", None), ("json:c.json", Some("{\n}")), ("json:d.json", Some("{\"resting\": {\"1\": 2}}"))] {
        let to = place(url, folder.path());
        if let Some(before) = before {
            fs::write(to.file(), before).unwrap();
        }
        let failed = import(&stock, &to, 0, false, &mut || ());
        assert!(matches!(&failed, Err(StockError::Write { problem, .. }) if problem.to_string().contains("is gone")), "{failed:?}");
        assert_eq!(fs::read_to_string(to.file()).ok().as_deref(), before);
        assert!(!states::folder(to.file()).exists());
    }
    let to = place("json:e.json", folder.path());
    assert!(export(&stock, &to, false, &mut || ()).is_err());
    assert!(!to.file().exists() && !states::folder(to.file()).exists());
    drop(stock);
    // Damaged before it is read: said with all of it, and not begun.
    for file in ["000033-1735689600033-3.state", "000023-1735689600123-2.state"] {
        fs::write(states::folder(from.file()).join(file), "conductor-state 1 0 00\n").unwrap();
    }
    let stock = read_at_rest(&from).unwrap();
    let Err(StockError::Damaged { problems, .. }) = import(&stock, &to, 0, false, &mut || ()) else { panic!("it is damaged") };
    assert!(problems.len() == 2 && problems[0].contains("session 000023"), "{problems:?}");
}

#[test]
fn one_session_is_read_whatever_the_others_are() {
    let folder = tempfile::tempdir().unwrap();
    fill_by_host("json:a.json", folder.path(), 40);
    let json = place("json:a.json", folder.path());
    fs::write(states::folder(json.file()).join("000013-1735689600013-1.state"), "x").unwrap();
    let (_store, _) = open("json:a.json", folder.path(), Duration::ZERO, 0).unwrap();
    let found = |number| super::session(&json, session_id(number));
    let state = found(33).unwrap().unwrap().1.unwrap();
    assert_eq!((state.version, &state.bytes[..]), (33, &33_u64.to_le_bytes()[..]));
    assert!(matches!(found(1), Ok(Some((_, None)))));
    assert!(matches!(found(77), Ok(None)));
    assert!(matches!(found(13), Err(StockError::Damaged { problems, .. }) if problems.len() == 1));
}

#[test]
fn a_backup_beside_a_host_is_of_one_moment() {
    of_one_moment("json:a.json", 20);
}

#[test]
fn a_backup_of_a_database_beside_a_host_is_of_one_moment() {
    of_one_moment("sqlite:a.db", 40);
}

fn of_one_moment(url: &str, rounds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(url, folder.path(), Duration::ZERO, 0).unwrap();
    let here = place(url, folder.path());
    wait(store.apply(Change::Create(session("1")))).unwrap();
    // In this order: a label, then a state that is as the label. A moment has the same number twice, or a label that is one ahead.
    let (busy, stop) = (Arc::clone(&store), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let changes = std::thread::spawn(move || {
        let mut number = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let labels = BTreeMap::from([("n".to_owned(), number.to_string())]);
            wait(busy.apply(Change::Labels { id: id("1"), labels })).unwrap();
            wait(busy.apply(save("1", saved(number, "x")))).unwrap();
            number += 1;
        }
        number
    });
    for round in 0..rounds {
        let copy = folder.path().join(format!("copy-{round}.json"));
        let (copy, counts, problems) = backup(&here, &copy, &mut || ()).unwrap();
        assert_eq!((counts.sessions, problems.len()), (1, 0));
        let beside = super::session(&here, id("1")).unwrap().unwrap();
        let copied = super::session(&copy, id("1")).unwrap().unwrap();
        for (session, state) in [copied, beside] {
            moment(&session, state);
        }
        read(&here, 0, Beside::AHost).unwrap();
        let states = fs::read_dir(states::folder(copy.file())).map_or(0, Iterator::count);
        assert_eq!(states, if matches!(here, Place::Json(_)) { counts.saved } else { 0 });
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(changes.join().unwrap() > 0);
}

fn moment(session: &StoredSession, state: Option<SavedState>) {
    let label: Option<u32> = session.extra.as_ref().map(|extra| extra.labels["n"].parse().unwrap());
    let saved = state.map(|state| state.version);
    let moment = match (label, saved) {
        (None | Some(0), None) => true,
        (Some(label), Some(saved)) => label == saved || label == saved + 1,
        _ => false,
    };
    assert!(moment, "label {label:?}, state {saved:?}");
}
