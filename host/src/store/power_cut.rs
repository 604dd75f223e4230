//! Every point at which the power can go while the JSON store writes. kill -9 shows no missing sync, so this disk keeps account of what was
//! synced: production's code runs on it, and at each of its operations the disk is built as a power cut could leave it, and opened.
//!
//! The account is a pessimist's: a file has the content of its last sync, and of what was written since all, half or nothing; a name is in its folder
//! as at the folder's last sync, and each later change of a name has happened or not, whatever came before or after it.

mod account;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Change, Loaded, SavedState, Store, StoredSession,
    contract::{id, join, save, saved, session, wait},
    json,
    model::names,
    queue::Queue,
};
use account::{Event, Reckoned, Unsynced, Watched};

/// Where the store's file is, from the top on: its folder is made by the store.
const FILE: &str = "kept/sessions.json";

fn open(disk: &Watched) -> (Queue, Loaded) {
    json::open(&disk.top.join(FILE), 0, Duration::from_secs(3600), disk.clone()).unwrap()
}

/// A session as it must be found: its clients and its state.
type Seen = (Vec<String>, Option<SavedState>);

/// Where there is no session, and its id rests.
fn rests(until: u64) -> Seen {
    (vec![format!("rests until {until}")], None)
}

/// What must be found of each session.
type Expected = BTreeMap<&'static str, Option<Seen>>;

/// The folder whose sync fails, and changes: of which session, and what is left of the session then.
type Scene = (Option<&'static str>, Vec<(Change, &'static str, Option<Seen>)>);

/// As one is made that much later, when the tokens that end at 5 are over.
fn made(number: &str, later: u64) -> Change {
    let mut made = StoredSession::clone(&session(number));
    made.created_at += later;
    Change::Create(made.into())
}

/// Scenes with all kinds of writes; the changes of one are asked for at once, and each is of another session.
fn scenes() -> Vec<Scene> {
    let one = |change, number, clients: &[&str], state: Option<&SavedState>| {
        vec![(change, number, Some((clients.iter().map(ToString::to_string).collect(), state.cloned())))]
    };
    let gone = |number: &'static str| vec![(Change::Close(id(number)), number, None)];
    // More than one buffer, so that it comes in several writes.
    let [a, b, c] = [saved(1, "first"), saved(2, vec![7; 150_000]), saved(3, "third")];
    let joined = |number: &'static str, client| join(number, client, 5);
    let fine = |changes: Vec<_>| (None, changes);
    vec![
        fine(one(made("1", 1), "1", &[], None)),
        fine(one(joined("1", "x"), "1", &["x"], None)),
        fine(one(save("1", a.clone()), "1", &["x"], Some(&a))),
        fine(one(made("2", 2), "2", &[], None)),
        fine(one(save("1", b.clone()), "1", &["x"], Some(&b))),
        fine([one(save("1", c.clone()), "1", &["x"], Some(&c)), one(save("2", b.clone()), "2", &[], Some(&b))].concat()),
        // Refused, and so it is not there once that is said.
        (Some("kept"), one(joined("1", "z"), "1", &["x", "z"], Some(&c))),
        (Some("kept/sessions.json.state"), one(save("1", a.clone()), "1", &["x"], Some(&a))),
        fine([one(joined("1", "y"), "1", &["x", "y"], Some(&c)), gone("2"), one(made("3", 3), "3", &[], None)].concat()),
        fine(gone("1")),
        // The same id again: what was saved for the session before is not its own.
        fine(one(made("1", 4), "1", &[], None)),
        fine(one(save("3", a.clone()), "3", &[], Some(&a))),
        fine(one(save("1", b.clone()), "1", &[], Some(&b))),
        fine(gone("3")),
        fine(one(made("3", 5), "3", &[], None)),
        fine(one(join("3", "x", 1 << 40), "3", &["x"], None)),
        fine(vec![(Change::Close(id("3")), "3", Some(rests(1 << 40)))]),
    ]
}

/// Plays scenes; what each of their changes, by number, was to make of its session.
fn play(disk: &Watched, store: &Queue, scenes: Vec<Scene>) -> Vec<(&'static str, Option<Seen>)> {
    let mut outcomes = Vec::new();
    for (fails, scene) in scenes {
        let first = outcomes.len();
        disk.account.lock().unwrap().fails = fails.map(PathBuf::from);
        let (changes, made): (Vec<_>, Vec<_>) = scene.into_iter().map(|(change, number, seen)| (change, (number, seen))).unzip();
        outcomes.extend(made);
        disk.ask(store, changes.into_iter().enumerate().map(|(at, change)| (first + at, change)));
    }
    outcomes
}

fn watched(top: &Path) -> Watched {
    Watched { top: top.canonicalize().unwrap(), account: Arc::default() }
}

fn end(store: Queue, disk: &Watched) -> Vec<Event> {
    wait(store.shutdown());
    disk.account.lock().unwrap().events.clone()
}

/// What a start finds on a disk that was left so.
fn found(left: &BTreeMap<PathBuf, Option<Vec<u8>>>) -> BTreeMap<String, Seen> {
    let folder = tempfile::tempdir().unwrap();
    lay(left, folder.path());
    let (store, loaded) = open(&watched(folder.path()));
    let seen = |session: &StoredSession| {
        let clients = names(session).into_iter().map(|(client, _)| client).collect();
        (session.id.to_string(), (clients, wait(store.state(session.id)).unwrap()))
    };
    let resting = loaded.resting.iter().filter(|(_, until)| *until > 5).map(|(id, until)| (id.to_string(), rests(*until)));
    loaded.sessions.iter().map(|session| seen(session)).chain(resting).collect()
}

fn lay(left: &BTreeMap<PathBuf, Option<Vec<u8>>>, folder: &Path) {
    for (path, content) in left {
        let path = folder.join(path);
        match content {
            // In the order of their paths, so the one above comes first.
            None => fs::create_dir(path).unwrap(),
            Some(content) => fs::write(path, content).unwrap(),
        }
    }
}

/// What is to be found after the events up to a point: by session, as acknowledged, and as it may be besides.
fn expected(events: &[Event], outcomes: &[(&'static str, Option<Seen>)]) -> (Expected, Expected) {
    let has = |event| events.contains(&event);
    let (mut certain, mut possible) = (Expected::new(), Expected::new());
    for (number, (session, seen)) in outcomes.iter().enumerate() {
        if has(Event::Acknowledged(number)) {
            certain.insert(session, seen.clone());
        } else if !has(Event::Refused(number)) {
            // The first that is not answered is the one under way.
            possible.entry(session).or_insert_with(|| seen.clone());
        }
    }
    (certain, possible)
}

fn check(found: &BTreeMap<String, Seen>, (certain, possible): &(Expected, Expected), what: &str) {
    for session in ["1", "2", "3"] {
        let (seen, acknowledged) = (found.get(session), certain.get(session).and_then(Option::as_ref));
        let under_way = possible.get(session).map(Option::as_ref);
        assert!(
            seen == acknowledged || Some(seen) == under_way,
            "{what}: session {session}: {seen:?}, acknowledged {acknowledged:?}, or {under_way:?}"
        );
    }
    assert!(found.keys().all(|number| ["1", "2", "3"].contains(&&**number)), "{what}: {found:?}");
}

#[test]
fn what_was_acknowledged_is_there_wherever_the_power_goes() {
    let top = tempfile::tempdir().unwrap();
    let disk = watched(top.path());
    let (store, _) = open(&disk);
    let outcomes = play(&disk, &store, scenes());
    let events = end(store, &disk);
    let (mut reckoned, mut images, mut both) = (Reckoned::default(), 0, 0);
    for point in 0..=events.len() {
        if let Some(last) = point.checked_sub(1) {
            reckoned.apply(&events[last]);
        }
        let expected = expected(&events[..point], &outcomes);
        let left = reckoned.left();
        images += left.len();
        let all: BTreeSet<_> = left
            .iter()
            .map(|left| {
                let found = found(left);
                check(&found, &expected, &format!("before {:?}", events.get(point)));
                found.into_iter().map(|(number, (clients, state))| (number, clients, state.map(|state| state.version))).collect::<Vec<_>>()
            })
            .collect();
        both += usize::from(all.len() > 1);
    }
    let count = |of: fn(&Event) -> bool| events.iter().filter(|event| of(event)).count();
    let (done, refused) = (count(|event| matches!(event, Event::Acknowledged(_))), count(|event| matches!(event, Event::Refused(_))));
    assert_eq!((done + refused, refused), (outcomes.len(), 2));
    // Enough to be believed: points, disks that a power cut may leave, and points after which there may be the one or the other.
    assert!(events.len() > 100 && images > 300 && both > done / 2, "{} points, {images} images, {both} undecided", events.len());
}

#[test]
fn what_is_acknowledged_after_a_kill_is_there_after_a_power_cut() {
    let top = tempfile::tempdir().unwrap();
    let disk = watched(top.path());
    let (store, _) = open(&disk);
    let outcomes = play(&disk, &store, scenes());
    let events = end(store, &disk);
    let mut killed = Reckoned::default();
    for point in 0..=events.len() {
        match point.checked_sub(1).map(|last| &events[last]) {
            None => {}
            Some(Event::Acknowledged(_) | Event::Refused(_)) => continue,
            Some(last) => killed.apply(last),
        }
        // The program that comes next sees all of it, which says nothing of a power cut.
        let again = tempfile::tempdir().unwrap();
        lay(&killed.image((1 << killed.pending.len()) - 1, Unsynced::All), again.path());
        let disk = watched(again.path());
        disk.account.lock().unwrap().files = killed.files.len();
        let (store, loaded) = open(&disk);
        // Nothing changes by this; all the same it is acknowledged, and so it has to be there from then on.
        let clients = |session: &StoredSession| names(session).into_iter().map(|(client, _)| client).collect::<Vec<_>>();
        let joined: BTreeMap<_, _> = loaded.sessions.iter().map(|session| (session.id.to_string(), clients(session))).collect();
        let rejoin = |session: &StoredSession| {
            names(session).into_iter().map(|(client, until)| join(&session.id.to_string(), &client, until)).collect::<Vec<_>>()
        };
        disk.ask(&store, loaded.sessions.iter().flat_map(|session| rejoin(session)).enumerate());
        let before = disk.account.lock().unwrap().events.len();
        for (number, change) in [made("9", 9), save("9", saved(9, "again"))].into_iter().enumerate() {
            disk.ask(&store, [(number, change)]);
        }
        let events_after = end(store, &disk);
        let mut cut = killed.clone();
        for end in [before, events_after.len()] {
            let from = if end == before { 0 } else { before };
            events_after[from..end].iter().for_each(|event| cut.apply(event));
            let expected = expected(&events[..point], &outcomes);
            for left in cut.left() {
                let mut found = found(&left);
                let again = found.remove("9");
                assert!(end == before || again == Some((Vec::new(), Some(saved(9, "again")))), "before {:?}: {again:?}", events.get(point));
                check(&found, &expected, &format!("killed before {:?}", events.get(point)));
                for (number, clients) in joined.iter().filter(|(_, clients)| !clients.is_empty()) {
                    let seen = found.get(number).map(|(clients, _)| clients);
                    assert_eq!(seen, Some(clients), "killed before {:?}: session {number}", events.get(point));
                }
            }
        }
    }
}
