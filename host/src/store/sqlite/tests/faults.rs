//! A disk that is full, and commits that fail.

use std::{thread, time::Instant};

use proptest::prelude::*;

use super::*;
use crate::store::{
    contract::expire,
    model::{Model, op, rows as model_rows, seen},
};

/// From now on there is no room for another page.
fn fill(db: &Connection) {
    let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
}

fn empty(db: &Connection) {
    db.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
}

/// Every commit fails from now on, as late as SQLite can say so: at the commit itself.
fn break_commits(db: &Connection) {
    db.execute_batch(
        "PRAGMA foreign_keys = ON;
         CREATE TEMP TABLE parent (a PRIMARY KEY);
         CREATE TEMP TABLE child (a REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
         CREATE TEMP TRIGGER broken AFTER UPDATE ON main.tally BEGIN INSERT INTO child VALUES (1); END;",
    )
    .unwrap();
}

fn mend_commits(db: &Connection) {
    db.execute_batch("DROP TRIGGER temp.broken").unwrap();
}

fn big(number: &str, version: u32) -> Change {
    save(number, saved(version, vec![7; 100_000]))
}

fn is_refused(answer: &Applied, says: &str) -> bool {
    matches!(answer, Err(StoreError::Write(why)) if why.contains(says))
}

#[test]
fn a_full_disk_refuses_its_changes_and_loses_nothing() {
    let bench = Bench::new(NEVER);
    bench.apply(save("1", saved(1, "former"))).unwrap();
    bench.run(fill);
    let before = bench.on_disk();
    assert!(is_refused(&bench.apply(big("1", 2)), "full"));
    assert!(bench.store.trouble().is_some_and(|why| why.contains("full")));
    assert_eq!(wait(bench.store.state(id("1"))).unwrap(), Some(saved(1, "former")));
    assert_eq!(bench.on_disk(), before);
    // What has room goes on, and says that the trouble is over.
    bench.apply(join("1", "b", 20)).unwrap();
    assert_eq!(bench.store.trouble(), None);
    assert!(is_refused(&bench.apply(big("1", 2)), "full"));
    bench.run(empty);
    bench.apply(big("1", 3)).unwrap();
    assert_eq!(bench.store.trouble(), None);
    wait(bench.store.shutdown());
    let (store, loaded) = open_file(&bench.file).unwrap();
    assert_eq!((names(&loaded.sessions[0]), loaded.sessions[0].revision), (vec![("a".into(), 10), ("b".into(), 20)], 0));
    assert_eq!(wait(store.state(id("1"))).unwrap(), Some(saved(3, vec![7; 100_000])));
}

#[test]
fn a_commit_that_fails_answers_as_if_its_changes_had_never_come() {
    let bench = Bench::new(NEVER);
    bench.run(break_commits);
    let (go, wait_for_go) = mpsc::channel::<()>();
    bench.store.work.send(Work::Run(Box::new(move |_| wait_for_go.recv().unwrap()))).unwrap();
    let changes =
        [created("3"), created("3"), join("3", "a", 1), save("1", saved(1, "x")), Change::Close(id("1")), join("1", "a", 10), created("1")];
    let answers = changes.map(|change| bench.store.apply(change));
    go.send(()).unwrap();
    let answers = answers.map(|answer| seen(&wait(answer)));
    // The log may hold them until another commit succeeds: so even what changes nothing is not acknowledged.
    assert_eq!(answers, [Err("write"), Err("write"), Err("no such session"), Err("write"), Err("write"), Err("write"), Err("exists")]);
    assert!(bench.apply(join("1", "a", 10)).is_err() && bench.store.trouble().is_some());
    assert_eq!(wait(bench.store.state(id("1"))).unwrap(), None);
    bench.run(mend_commits);
    bench.apply(join("1", "a", 10)).unwrap();
    assert_eq!((bench.store.trouble(), bench.on_disk()), (None, vec![("1".into(), vec![("a".into(), 10)])]));
    assert!(bench.apply(expire("3", 0)).is_err());
}

#[test]
fn trouble_ends_by_itself_once_the_disk_works() {
    let bench = Bench::new(Duration::from_millis(1));
    bench.run(break_commits);
    assert!(is_refused(&bench.apply(created("2")), ""));
    assert!(bench.store.trouble().is_some());
    bench.run(mend_commits);
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.store.trouble().is_some() {
        assert!(Instant::now() < deadline, "still in trouble");
        thread::yield_now();
    }
    assert_eq!(bench.on_disk().len(), 1);
}

#[test]
fn a_refused_change_that_reached_the_log_is_written_over() {
    // As where the sync of a commit fails: its frames are in the log, whole, and SQLite says that it failed.
    let bench = Bench::new(NEVER);
    let (_elsewhere, copy) = bench.killed();
    let [log, log_of_copy] = [&bench.file, &copy].map(|file| beside(file, "-wal"));
    let acknowledged = fs::read(&log).unwrap();
    let db = Connection::open(&copy).unwrap();
    let mut tally = rows::Tally::read(&db).unwrap();
    tally.put_session(&db, id("66"), Some(&session("66"))).unwrap();
    tally.write(&db).unwrap();
    let longer = fs::read(&log_of_copy).unwrap();
    assert!(longer.len() > acknowledged.len() && longer.starts_with(&acknowledged));
    drop(db);
    bench.run(break_commits);
    assert!(is_refused(&bench.apply(created("66")), ""));
    fs::write(&log, &longer).unwrap();
    bench.run(mend_commits);
    // The next commit, of whatever, takes its place; then the log begins anew.
    bench.apply(join("1", "a", 11)).unwrap();
    assert_eq!(bench.on_disk(), [("1".into(), vec![("a".into(), 11)])]);
    let length = || fs::metadata(&log).unwrap().len();
    let before = length();
    bench.apply(join("1", "a", 12)).unwrap();
    assert_eq!(length(), before, "written over from its beginning");
    assert_eq!(bench.on_disk(), [("1".into(), vec![("a".into(), 12)])]);
}

#[test]
fn what_another_program_writes_is_not_taken_for_ours() {
    let bench = Bench::new(NEVER);
    bench.run(break_commits);
    assert!(is_refused(&bench.apply(created("2")), ""));
    bench.run(mend_commits);
    bench.apply(created("2")).unwrap();
    bench.run(|db| {
        db.execute_batch("UPDATE tally SET transactions = transactions + 1").unwrap();
        fill(db);
    });
    assert!(is_refused(&bench.apply(big("1", 1)), "full"));
    bench.run(empty);
    assert!(is_refused(&bench.apply(created("3")), "restart the host"));
}

#[test]
fn random_faults_leave_what_was_acknowledged() {
    let groups = prop::collection::vec((prop::collection::vec(op(), 1..6), 0..3_u8, any::<bool>()), 1..10);
    proptest!(ProptestConfig::with_cases(32), |(groups in groups)| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.db");
        let mut bench = Bench { file: file.clone(), store: open_file(&file).unwrap().0, _folder: folder };
        let mut model = Model::default();
        for (ops, fault, kill) in groups {
            match fault {
                1 => bench.run(fill),
                2 => bench.run(break_commits),
                _ => {}
            }
            let answers: Vec<_> = ops.iter().map(|op| bench.store.apply(op.change())).collect();
            for (op, answer) in ops.iter().zip(answers) {
                match seen(&wait(answer)) {
                    Err("write") => prop_assert!(fault > 0),
                    answer => prop_assert_eq!(answer, model.expect(op), "{:?}", op),
                }
            }
            match fault {
                1 => bench.run(empty),
                2 => bench.run(mend_commits),
                _ => {}
            }
            if kill {
                let (elsewhere, copy) = bench.killed();
                bench = Bench { store: open_file(&copy).unwrap().0, file: copy, _folder: elsewhere };
            } else {
                wait(bench.store.shutdown());
                bench.store = open_file(&bench.file).unwrap().0;
            }
            model.reopen();
            // What the writer has is what was loaded.
            let states: Vec<_> = (0..3).map(|s| wait(bench.store.state(id(&s.to_string()))).unwrap()).collect();
            prop_assert_eq!(states, model.states());
            let (_elsewhere, copy) = bench.killed();
            let (_store, loaded) = open_file(&copy).unwrap();
            prop_assert_eq!((model_rows(&loaded.sessions), loaded.resting), (model.rows(), model.resting()));
        }
    });
}
