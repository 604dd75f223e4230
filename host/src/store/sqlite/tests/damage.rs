//! Flipped bits and lost ends: what was acknowledged, or a refusal that leaves the files as they are.

use std::{collections::BTreeMap, thread};

use super::*;
use crate::store::damage::{All, damages, places};

/// The files beside each other; nothing where there is none.
type Files = [Option<Vec<u8>>; 3];

fn files(target: &Path) -> Files {
    check::all(target).map(|file| fs::read(file).ok())
}

fn put(target: &Path, files: &Files) {
    for (path, content) in check::all(target).iter().zip(files) {
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
}

/// What the next start finds.
fn found([file, log, shared]: &Files) -> Result<All, String> {
    let mut states = BTreeMap::new();
    let state = |id: SessionId, state| drop(states.insert(id.to_string(), state));
    let look = |db: &Connection, version| check::whole(db, version, state);
    let found = check::examine(file.clone().unwrap(), log.as_deref().unwrap_or_default(), shared.as_deref(), look)?;
    Ok(All::new(found.content.sessions.values(), found.content.resting.iter(), states))
}

/// What a real start answers: which sessions, and a state.
fn started(target: &Path) -> Result<(usize, Option<SavedState>), String> {
    let (store, loaded) = open_file(target).map_err(|error| error.to_string())?;
    let state = wait(store.state(id("3"))).map_err(|error| error.to_string())?;
    wait(store.shutdown());
    Ok((loaded.sessions.len(), state))
}

/// A store with a bit of everything, how it was before its last change, and how it is, its files after kill -9 and after an end in order.
struct Sample {
    before: All,
    all: All,
    killed: Files,
    ended: Files,
}

fn sample() -> Sample {
    let bench = Bench::new(NEVER);
    wait(bench.store.shutdown());
    // Small pages: more of them, and less to flip that means nothing.
    let small = "PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM; PRAGMA journal_mode = WAL";
    Connection::open(&bench.file).unwrap().execute_batch(small).unwrap();
    let bench = Bench { store: open_file(&bench.file).unwrap().0, ..bench };
    let some: BTreeMap<_, _> = [("room".to_owned(), "4".repeat(30))].into();
    for n in 2..16 {
        let number = n.to_string();
        bench.apply(created(&number)).unwrap();
        bench.apply(join(&number, "phone", 100 + n)).unwrap();
        bench.apply(labels(&number, some.clone())).unwrap();
    }
    // Partly in the database, partly in the log, which has been used before.
    bench.run(|db| db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap());
    bench.apply(save("3", saved(7, vec![9; 1500]))).unwrap();
    bench.apply(Change::Close(id("4"))).unwrap();
    bench.apply(save("5", saved(8, "short"))).unwrap();
    let (_elsewhere, copy) = bench.killed();
    let before = found(&files(&copy)).unwrap();
    bench.apply(join("6", "tablet", 500)).unwrap();
    let (_elsewhere, copy) = bench.killed();
    let (all, killed) = (found(&files(&copy)).unwrap(), files(&copy));
    assert!(all.sessions.len() == 14 && all.resting.len() == 1 && all.states.len() == 2 && all != before);
    assert_eq!(started(&copy), Ok((14, Some(saved(7, vec![9; 1500])))));
    wait(bench.store.shutdown());
    Sample { before, all, killed, ended: files(&bench.file) }
}

/// Damages file `which` of `whole`, `count` times, by flips and by cuts in turn; gives how often a start was refused.
fn damage(whole: &Files, which: usize, count: usize, full: usize, accepts: impl Fn(&All) -> bool + Sync) -> usize {
    let length = whole[which].as_ref().unwrap().len();
    let damages: Vec<_> = damages(count, length).collect();
    let half = |part: usize| {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("sessions.db");
        let mut refused = 0;
        for (n, damage) in damages.iter().enumerate().filter(|(n, _)| n % 2 == part) {
            let mut damaged = whole.clone();
            damage.to(damaged[which].as_mut().unwrap());
            let what = format!("file {which} of {length} bytes: {damage:?}");
            let found = found(&damaged);
            match &found {
                Ok(all) => assert!(accepts(all), "{what}: {all:?}"),
                Err(message) => {
                    assert!(!message.contains("0424"), "{message}");
                    refused += 1;
                }
            }
            if n % full == 0 {
                put(&target, &damaged);
                let started = started(&target);
                assert_eq!(started.as_ref().ok().map(|(sessions, _)| *sessions), found.ok().map(|all| all.sessions.len()), "{what}");
                if let Err(message) = started {
                    assert!(message.contains("left as it is"), "{message}");
                    assert!(files(&target) == damaged, "{what}: touched");
                }
            }
        }
        refused
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0) + other.join().unwrap()
    })
}

#[test]
fn a_database_with_flipped_bits_is_what_was_stored_or_is_refused() {
    let Sample { all, ended, .. } = sample();
    let refused = damage(&ended, 0, 4000, 50, |found| *found == all);
    // The rest is in room that nothing uses.
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_database_that_was_killed_is_what_was_stored_or_is_refused() {
    let Sample { all, killed, .. } = sample();
    let refused = [(0, 2000), (1, 3000), (2, 500)].map(|(which, count)| damage(&killed, which, count, 50, |found| *found == all));
    assert!(refused[0] > 50 && refused[1] > 300, "{refused:?}");
}

#[test]
fn a_log_without_its_index_loses_the_last_transaction_at_most() {
    // As a power cut may leave it: nobody can say whether the last one was ever whole. What is cut off behind a commit leaves no trace at all.
    let Sample { before, all, mut killed, .. } = sample();
    killed[2] = None;
    let (mut refused, mut shorter) = (0, 0);
    let log = killed[1].clone().unwrap();
    for bit in places(1000, log.len() * 8) {
        let mut flipped = log.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        killed[1] = Some(flipped);
        match found(&killed) {
            Ok(found) => {
                assert!(found == all || found == before, "{bit}");
                shorter += usize::from(found == before);
            }
            Err(_) => refused += 1,
        }
    }
    // All that is not in the last transaction, or of an earlier log behind the end.
    assert!(refused > 100 && shorter > 20, "{refused} {shorter}");
}
