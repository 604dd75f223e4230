//! Writing: what is shared, in which order, and what a failing disk leaves behind.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::{
    super::{
        contract::{FIRST_PIN, create, id, join, leave, session, wait},
        disk::RealDisk,
        faults::{FaultyDisk, IO_ERROR, NO_SPACE, SAVE_STEPS, STEPS, Step},
        lock::LockError,
        model::{Clients, Model, Row, names, op, rows, seen},
    },
    *,
};

pub(super) const NEVER: Duration = Duration::from_secs(3600);

pub(super) struct Bench {
    pub(super) folder: tempfile::TempDir,
    pub(super) file: PathBuf,
    pub(super) disk: FaultyDisk,
    pub(super) store: JsonStore,
}

impl Bench {
    /// A store with session 1, which client `a` joined.
    pub(super) fn new(retry: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        let disk = FaultyDisk::default();
        let (store, _) = JsonStore::open(&file, 0, retry, disk.clone()).unwrap();
        let bench = Self { folder, file, disk, store };
        bench.apply(create("1")).unwrap();
        bench.apply(join("1", "a", 10)).unwrap();
        bench
    }

    pub(super) fn apply(&self, change: Change) -> Applied {
        wait(self.store.apply(change))
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    /// What the next start would find.
    fn on_disk(&self) -> Vec<(String, Clients)> {
        content(&self.bytes())
    }

    fn leftover(&self) -> bool {
        beside(&self.file, ".tmp").exists()
    }
}

fn content(bytes: &[u8]) -> Vec<(String, Clients)> {
    format::parse(bytes, 0).unwrap().sessions.into_values().map(|session| (session.id.to_string(), names(&session))).collect()
}

fn one() -> Vec<(String, Clients)> {
    vec![("1".into(), vec![("a".into(), 10)])]
}

pub(super) fn is_write_error(answer: &Applied, says: &str) -> bool {
    matches!(answer, Err(StoreError::Write(why)) if why.contains(says))
}

#[test]
fn all_that_waits_shares_one_write() {
    let bench = Bench::new(NEVER);
    let before = bench.disk.count(Step::Create);
    bench.disk.hold(Step::Create);
    let first = bench.store.apply(create("2"));
    bench.disk.wait_until_held();
    let changes = (0..100).map(|n| if n % 2 == 0 { create(&format!("9{n:02}")) } else { join("1", &n.to_string(), 20) });
    let answers: Vec<_> = changes.map(|change| bench.store.apply(change)).collect();
    bench.disk.release();
    assert!(wait(first).is_ok() && answers.into_iter().all(|answer| wait(answer).is_ok()));
    assert_eq!(bench.disk.count(Step::Create) - before, 2);
    assert_eq!(bench.on_disk().len(), 52);
}

#[test]
fn an_answer_waits_for_the_last_sync() {
    for step in STEPS {
        let bench = Bench::new(NEVER);
        let before = bench.disk.log().len();
        bench.disk.hold(step);
        let mut answer = bench.store.apply(create("2"));
        bench.disk.wait_until_held();
        assert!((&mut answer).now_or_never().is_none(), "answered before {step:?}");
        bench.disk.release();
        wait(answer).unwrap();
        assert_eq!(bench.disk.log()[before..], STEPS);
    }
}

#[test]
fn what_changes_nothing_is_not_written() {
    let bench = Bench::new(NEVER);
    let before = bench.disk.log();
    assert!(bench.apply(leave("1", "b")).is_err());
    bench.apply(join("1", "a", 10)).unwrap();
    bench.apply(Change::Expire { id: id("1"), now: 9 }).unwrap();
    assert!(bench.apply(create("1")).is_err());
    assert_eq!(bench.disk.log(), before);
}

#[test]
fn the_file_is_whole_at_every_step() {
    let bench = Bench::new(NEVER);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (file, steps) = (bench.file.clone(), Arc::clone(&seen));
    bench.disk.observe(move |step| steps.lock().unwrap().push((step, content(&fs::read(&file).unwrap()))));
    bench.apply(create("2")).unwrap();
    let both = vec![one().remove(0), ("2".into(), vec![])];
    let expected = STEPS.map(|step| (step, if step == Step::SyncFolder { both.clone() } else { one() }));
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn a_failing_step_refuses_its_changes_and_loses_nothing() {
    for (step, error) in STEPS.into_iter().flat_map(|step| [(step, NO_SPACE), (step, IO_ERROR)]) {
        let bench = Bench::new(NEVER);
        let before = bench.bytes();
        let says = std::io::Error::from_raw_os_error(error).to_string();

        bench.disk.fail(step, error, 1);
        assert!(is_write_error(&bench.apply(create("2")), &says), "{step:?}");
        assert!(bench.store.trouble().is_some_and(|why| why.contains(&says)), "{step:?}");
        assert_eq!(bench.bytes(), before, "{step:?}");
        assert!(!bench.leftover(), "{step:?}");

        bench.disk.fail(step, error, usize::MAX);
        assert!(is_write_error(&bench.apply(join("1", "b", 20)), &says), "{step:?}");
        assert!(is_write_error(&bench.apply(Change::Close(id("1"))), &says), "{step:?}");
        assert!(matches!(bench.apply(Change::Close(id("2"))), Err(StoreError::NoSuchSession(_))), "{step:?}");

        bench.disk.recover();
        let joined = bench.apply(join("1", "c", 30)).unwrap().unwrap();
        assert_eq!((names(&joined), joined.revision), (vec![("a".into(), 10), ("c".into(), 30)], 2), "{step:?}");
        assert_eq!(bench.store.trouble(), None, "{step:?}");
        assert_eq!(bench.on_disk(), [("1".into(), names(&joined))], "{step:?}");
        assert!(!bench.leftover(), "{step:?}");
    }
}

#[test]
fn a_failed_write_answers_as_if_its_changes_had_never_come() {
    let bench = Bench::new(NEVER);
    bench.disk.hold(Step::SyncFolder);
    let first = bench.store.apply(create("2"));
    bench.disk.wait_until_held();
    let changes = [create("3"), create("3"), join("3", "a", 1), Change::Close(id("3")), join("1", "a", 10), create("1")];
    let answers = changes.map(|change| bench.store.apply(change));
    bench.disk.fail(Step::Sync, IO_ERROR, 1);
    bench.disk.release();
    wait(first).unwrap();
    let answers = answers.map(|answer| seen(&wait(answer)));
    let unchanged = Ok(Some(Row { pin: FIRST_PIN.to_owned(), revision: 1, clients: vec![("a".into(), 10)], ..Row::default() }));
    assert_eq!(answers, [Err("write"), Err("write"), Err("no such session"), Err("no such session"), unchanged, Err("exists")]);
}

#[test]
fn refused_changes_that_reached_the_file_are_written_over() {
    // At the change, and then at the attempt to put the earlier state back: the file holds what was refused.
    let bench = Bench::new(NEVER);
    bench.disk.hold(Step::SyncFolder);
    let refused = bench.store.apply(join("1", "b", 20));
    bench.disk.wait_until_held();
    bench.disk.fail(Step::SyncFolder, IO_ERROR, 1);
    bench.disk.fail(Step::Create, IO_ERROR, 1);
    bench.disk.release();
    assert!(is_write_error(&wait(refused), ""));
    assert_ne!(bench.on_disk(), one());
    wait(bench.store.shutdown());
    assert_eq!(bench.on_disk(), one());

    // A change without effect is durable only once that is over.
    let bench = Bench::new(NEVER);
    bench.disk.fail(Step::SyncFolder, IO_ERROR, usize::MAX);
    assert!(is_write_error(&bench.apply(join("1", "b", 20)), ""));
    assert!(is_write_error(&bench.apply(join("1", "a", 10)), ""));
    bench.disk.recover();
    bench.apply(join("1", "a", 10)).unwrap();
    assert_eq!(bench.on_disk(), one());
}

#[test]
fn trouble_ends_by_itself_once_the_disk_works() {
    let bench = Bench::new(Duration::from_millis(1));
    bench.disk.fail(Step::Sync, NO_SPACE, 3);
    assert!(is_write_error(&bench.apply(create("2")), ""));
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.store.trouble().is_some() {
        assert!(Instant::now() < deadline, "still in trouble");
        thread::yield_now();
    }
    assert_eq!(bench.on_disk(), one());
}

#[test]
fn random_faults_leave_what_was_acknowledged() {
    let steps = [&SAVE_STEPS[..], &[Step::Remove]].concat();
    let fault = prop::option::of((prop::sample::select(steps), prop::sample::select(vec![NO_SPACE, IO_ERROR])));
    let groups = prop::collection::vec((prop::collection::vec(op(), 1..6), fault), 1..10);
    proptest!(ProptestConfig::with_cases(64), |(groups in groups)| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        let disk = FaultyDisk::default();
        let (mut store, _) = JsonStore::open(&file, 0, NEVER, disk.clone()).unwrap();
        let mut model = Model::default();
        for (ops, fault) in groups {
            if let Some((step, error)) = fault {
                disk.fail(step, error, 1);
            }
            let answers: Vec<_> = ops.iter().map(|op| store.apply(op.change())).collect();
            for (op, answer) in ops.iter().zip(answers) {
                match seen(&wait(answer)) {
                    Err("write") => prop_assert!(fault.is_some()),
                    answer => prop_assert_eq!(answer, model.expect(op), "{:?}", op),
                }
            }
            disk.recover();
            wait(store.shutdown());
            let (again, loaded) = JsonStore::open(&file, 0, NEVER, disk.clone()).unwrap();
            store = again;
            model.reopen();
            prop_assert_eq!(rows(&loaded.sessions), model.rows());
            prop_assert_eq!(loaded.resting, model.resting());
            let states: Vec<_> = (0..3).map(|s| wait(store.state(id(&s.to_string()))).unwrap()).collect();
            prop_assert_eq!(states, model.states());
        }
    });
}

fn open_file(file: &Path) -> Opened<JsonStore> {
    JsonStore::open(file, 0, NEVER, RealDisk)
}

#[test]
fn a_missing_file_is_an_empty_store_and_its_folders_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a/b/sessions.json");
    let (store, loaded) = open_file(&file).unwrap();
    assert!(loaded.sessions.is_empty() && !file.exists());
    wait(store.apply(create("1"))).unwrap();
    assert!(file.exists());
}

#[test]
fn a_second_host_is_refused_until_the_first_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sessions.json");
    let (store, _) = open_file(&file).unwrap();
    let error = open_file(&file).unwrap_err();
    assert!(matches!(error, OpenError::Lock(LockError::Held { .. })));
    assert!(error.to_string().starts_with("another conductor-host uses this store: "), "{error}");
    assert!(error.to_string().contains("sessions.json"), "{error}");
    wait(store.shutdown());
    open_file(&file).unwrap();
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_the_owner_may_read_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/sessions.json");
        fs::create_dir(folder.path().join("new")).unwrap();
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let (store, _) = open_file(&file).unwrap();
        wait(store.apply(create("1"))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&beside(&file, ".lock"))), (0o600, 0o600));
        let (_store, _) = open_file(&folder.path().join("made/sessions.json")).unwrap();
        assert_eq!(mode(&folder.path().join("made")), 0o700);
    }

    #[test]
    fn a_link_stays_a_link_and_shares_the_lock_of_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, chain] = ["real/sessions.json", "link.json", "chain.json"].map(|name| folder.path().join(name));
        // Relative, and to a folder and file that are not there yet.
        symlink("real/sessions.json", &link).unwrap();
        symlink("link.json", &chain).unwrap();
        let (store, _) = open_file(&chain).unwrap();
        wait(store.apply(create("1"))).unwrap();
        assert!(chain.is_symlink() && link.is_symlink() && real.is_file() && !real.is_symlink());
        for path in [&real, &link, &chain] {
            assert!(matches!(open_file(path), Err(OpenError::Lock(LockError::Held { .. }))));
        }
        wait(store.shutdown());
        assert_eq!(open_file(&link).unwrap().1.sessions.len(), 1);
    }

    #[test]
    fn a_leftover_is_replaced_and_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, victim) = (folder.path().join("sessions.json"), folder.path().join("victim"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, beside(&file, ".tmp")).unwrap();
        let (store, _) = open_file(&file).unwrap();
        wait(store.apply(Change::Create(session("1")))).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert!(file.is_file() && !file.is_symlink());
    }

    #[test]
    fn a_loop_of_links_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        symlink("sessions.json", &file).unwrap();
        assert!(open_file(&file).unwrap_err().to_string().contains("too many symbolic links"));
    }
}
