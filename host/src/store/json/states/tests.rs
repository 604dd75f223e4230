//! Saved state: what is written where and in which order, what a failing disk and a crash leave behind, and what is refused.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use super::{
    super::{
        super::{
            Change, OpenError, Store,
            contract::{create, id, join, save, saved, session, wait},
            disk::RealDisk,
            faults::{IO_ERROR, NO_SPACE, SAVE_STEPS, STEPS, Step},
        },
        GROUP, open,
        tests::{Bench, NEVER, is_write_error},
    },
    *,
};

/// Of the sessions that tests make.
const CREATED: &str = "1735689600123";

fn in_folder(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Bench {
    /// Session 1 has saved `former`.
    fn saved(retry: Duration) -> Self {
        let bench = Self::new(retry);
        bench.apply(save("1", former())).unwrap();
        bench
    }

    fn states(&self) -> PathBuf {
        folder(&self.file)
    }

    fn state(&self, number: &str) -> Option<SavedState> {
        wait(self.store.state(id(number))).unwrap()
    }

    /// What the next start finds.
    fn restarted(&self) -> Option<SavedState> {
        found(&self.file)
    }

    /// Queues `changes` so that they share one batch.
    fn together<const N: usize>(&self, changes: [Change; N]) -> [futures_util::future::BoxFuture<'static, super::super::Applied>; N] {
        self.disk.hold(Step::Create);
        let first = self.store.apply(join("1", "a", 11));
        self.disk.wait_until_held();
        let answers = changes.map(|change| self.store.apply(change));
        self.disk.release();
        wait(first).unwrap();
        answers
    }
}

fn former() -> SavedState {
    saved(1, "former")
}

fn latter() -> SavedState {
    saved(2, "latter")
}

/// The state of session 1 in a copy of this store.
fn found(file: &Path) -> Option<SavedState> {
    let copy = tempfile::tempdir().unwrap();
    let target = copy.path().join("sessions.json");
    fs::copy(file, &target).unwrap();
    if folder(file).exists() {
        fs::create_dir(folder(&target)).unwrap();
        for name in in_folder(&folder(file)) {
            fs::copy(folder(file).join(&name), folder(&target).join(&name)).unwrap();
        }
    }
    let (store, _) = open(&target, 0, NEVER, RealDisk).unwrap();
    wait(store.state(id("1"))).unwrap()
}

#[test]
fn a_state_is_a_line_and_its_bytes_in_a_file_of_its_session() {
    let bench = Bench::new(NEVER);
    let before = fs::read(&bench.file).unwrap();
    assert!(!bench.states().exists());
    bench.apply(save("1", saved(7, "a\nb\0c\n"))).unwrap();
    let name = format!("1-{CREATED}-0.state");
    assert_eq!(in_folder(&bench.states()), [&*name]);
    // `printf '7\na\nb\0c\n' | sha256sum`
    let expected = "conductor-state 1 7 fa8c67b5efa6a1e5fdc6a008384af5bf38d3733cc3d148c97e8cf58590cd82c8\na\nb\0c\n";
    assert_eq!(fs::read_to_string(bench.states().join(name)).unwrap(), expected);
    assert_eq!(fs::read(&bench.file).unwrap(), before);
    bench.apply(save("1", latter())).unwrap();
    assert_eq!(in_folder(&bench.states()), [format!("1-{CREATED}-1.state")]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&bench.states()), mode(&bench.states().join(format!("1-{CREATED}-1.state")))), (0o700, 0o600));
    }
}

#[test]
fn a_save_costs_its_own_file_alone_and_is_answered_after_the_last_sync() {
    for step in SAVE_STEPS {
        let bench = Bench::new(NEVER);
        let before = bench.disk.log().len();
        bench.disk.hold(step);
        let mut answer = bench.store.apply(save("1", former()));
        bench.disk.wait_until_held();
        assert!((&mut answer).now_or_never().is_none(), "answered before {step:?}");
        bench.disk.release();
        wait(answer).unwrap();
        assert_eq!(bench.disk.log()[before..], SAVE_STEPS);
        bench.apply(save("1", latter())).unwrap();
        assert_eq!(bench.disk.log()[before + SAVE_STEPS.len()..], [&SAVE_STEPS[..], &[Step::Remove]].concat());
    }
}

#[test]
fn saves_that_wait_share_a_sync_and_of_one_session_only_the_last_is_written() {
    let bench = Bench::new(NEVER);
    let (syncs, folders) = (bench.disk.count(Step::SyncFolder), bench.disk.count(Step::Folder));
    let [first, second, ..] =
        bench.together([save("1", former()), save("1", latter()), create("2"), save("2", former()), create("3"), save("3", former())]);
    assert!(wait(first).is_ok() && wait(second).is_ok());
    assert_eq!([1, 2, 3].map(|n| bench.state(&n.to_string())), [Some(latter()), Some(former()), Some(former())]);
    // The first change, FILE once more, and the folder of states.
    assert_eq!((bench.disk.count(Step::SyncFolder) - syncs, in_folder(&bench.states()).len()), (3, 3));
    assert_eq!(bench.disk.count(Step::Folder) - folders, 3, "one for each file");
}

#[test]
fn sessions_need_not_wait_for_all_that_is_saved() {
    let bench = Bench::new(NEVER);
    let many: Vec<_> = (0..40).map(|n| bench.store.apply(create(&format!("9{n:02}")))).collect();
    many.into_iter().for_each(|made| assert!(wait(made).is_ok()));
    bench.disk.hold(Step::SyncFolder);
    let first = bench.store.apply(join("1", "a", 11));
    bench.disk.wait_until_held();
    let before = bench.disk.log().len();
    let saves: Vec<_> = (0..40).map(|n| bench.store.apply(save(&format!("9{n:02}"), saved(n, "x")))).collect();
    bench.disk.hold(Step::Folder);
    bench.disk.wait_until_held();
    let joined = bench.store.apply(join("1", "b", 20));
    let closed = bench.store.apply(Change::Close(id("939")));
    // Each is there when it is asked for, whoever waits before it; the last never has to be.
    let state = bench.store.state(id("938"));
    bench.disk.release();
    assert_eq!(wait(state).unwrap(), Some(saved(38, "x")));
    assert!([first, joined, closed].into_iter().all(|done| wait(done).is_ok()));
    assert!(saves.into_iter().all(|saved| wait(saved).is_ok()));
    let steps = bench.disk.log()[before..].to_vec();
    // FILE is what is made without a look at the folder of states.
    let file = (1..steps.len()).find(|at| steps[*at] == Step::Create && steps[at - 1] != Step::Folder).unwrap();
    let folders = |steps: &[Step]| steps.iter().filter(|step| **step == Step::Folder).count();
    assert_eq!((folders(&steps[..file]), folders(&steps)), (GROUP, 39), "{steps:?}");
    assert_eq!(in_folder(&bench.states()).len(), 39);
}

#[test]
fn a_failing_step_refuses_its_save_and_leaves_the_former_state() {
    for (step, error) in SAVE_STEPS.into_iter().flat_map(|step| [(step, NO_SPACE), (step, IO_ERROR)]) {
        let bench = Bench::saved(NEVER);
        let says = io::Error::from_raw_os_error(error).to_string();
        let names = in_folder(&bench.states());

        bench.disk.fail(step, error, 1);
        assert!(is_write_error(&bench.apply(save("1", latter())), &says), "{step:?}");
        assert!(bench.store.trouble().is_some_and(|why| why.contains(&says)), "{step:?}");
        assert_eq!((bench.state("1"), bench.restarted()), (Some(former()), Some(former())), "{step:?}");
        assert_eq!(in_folder(&bench.states()), names, "{step:?}");
        // FILE is another matter, and does not end the trouble.
        bench.apply(join("1", "b", 20)).unwrap();
        assert!(bench.store.trouble().is_some());

        bench.apply(save("1", latter())).unwrap();
        assert_eq!((bench.state("1"), bench.restarted()), (Some(latter()), Some(latter())), "{step:?}");
        assert_eq!((bench.store.trouble(), in_folder(&bench.states()).len()), (None, 1), "{step:?}");
    }
}

#[test]
fn a_save_that_fails_concerns_no_other_unless_the_folder_does() {
    for step in SAVE_STEPS {
        let bench = Bench::saved(NEVER);
        bench.apply(create("2")).unwrap();
        bench.apply(save("2", former())).unwrap();
        bench.disk.hold(Step::Remove);
        let before = bench.store.apply(save("2", former()));
        bench.disk.wait_until_held();
        let [joined, first, other] = [join("1", "c", 30), save("1", latter()), save("2", latter())].map(|change| bench.store.apply(change));
        // Behind the write of FILE, before the first save.
        bench.disk.hold(Step::Folder);
        bench.disk.wait_until_held();
        bench.disk.fail(step, IO_ERROR, 1);
        bench.disk.release();
        assert!(wait(before).is_ok() && wait(joined).is_ok(), "{step:?}");
        assert!(is_write_error(&wait(first), ""), "{step:?}");
        assert_eq!(wait(other).is_ok(), step != Step::SyncFolder, "{step:?}");
        let second = if step == Step::SyncFolder { former() } else { latter() };
        assert_eq!((bench.state("1"), bench.state("2")), (Some(former()), Some(second)), "{step:?}");
    }
}

#[test]
fn a_save_shares_the_fate_of_the_sessions_that_it_came_with() {
    let bench = Bench::saved(NEVER);
    bench.disk.hold(Step::SyncFolder);
    let first = bench.store.apply(create("9"));
    bench.disk.wait_until_held();
    let answers = [create("2"), save("2", latter()), save("1", latter()), Change::Close(id("1"))].map(|change| bench.store.apply(change));
    bench.disk.fail(Step::Sync, IO_ERROR, 1);
    bench.disk.release();
    wait(first).unwrap();
    let [created, of_new, of_old, closed] = answers.map(wait);
    assert!([created, of_old, closed].iter().all(|answer| is_write_error(answer, "")));
    assert!(matches!(of_new, Err(StoreError::NoSuchSession(_))));
    assert_eq!((bench.state("1"), bench.state("2"), bench.restarted()), (Some(former()), None, Some(former())));
    assert_eq!(in_folder(&bench.states()).len(), 1);
}

#[test]
fn a_crash_at_any_step_leaves_one_whole_state() {
    for (had, expected) in [(true, [Some(former()), Some(latter())]), (false, [None, Some(latter())])] {
        let bench = if had { Bench::saved(NEVER) } else { Bench::new(NEVER) };
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (file, steps) = (bench.file.clone(), Arc::clone(&seen));
        bench.disk.observe(move |step| steps.lock().unwrap().push((step, found(&file))));
        bench.apply(save("1", latter())).unwrap();
        let late = [Step::SyncFolder, Step::Remove];
        let steps = SAVE_STEPS.into_iter().chain(had.then_some(Step::Remove));
        let expected: Vec<_> = steps.map(|step| (step, expected[usize::from(late.contains(&step))].clone())).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

#[test]
fn a_refused_save_that_reached_its_name_is_removed_as_soon_as_that_works() {
    let bench = Bench::saved(NEVER);
    bench.disk.fail(Step::SyncFolder, IO_ERROR, 1);
    bench.disk.fail(Step::Remove, IO_ERROR, 1);
    assert!(is_write_error(&bench.apply(save("1", latter())), ""));
    assert_eq!((in_folder(&bench.states()).len(), bench.state("1")), (2, Some(former())));
    wait(bench.store.shutdown());
    assert_eq!((in_folder(&bench.states()).len(), bench.restarted()), (1, Some(former())));

    // The same where the end is that nobody has the store any more.
    let Bench { folder: _folder, file, disk, store } = Bench::saved(NEVER);
    disk.fail(Step::SyncFolder, IO_ERROR, 1);
    disk.fail(Step::Remove, IO_ERROR, 1);
    assert!(is_write_error(&wait(store.apply(save("1", latter()))), ""));
    drop(store);
    let deadline = Instant::now() + Duration::from_secs(30);
    let again = loop {
        match open(&file, 0, NEVER, RealDisk) {
            Ok((again, _)) => break again,
            Err(error) => assert!(matches!(error, OpenError::Lock(_)) && Instant::now() < deadline, "{error}"),
        }
        thread::yield_now();
    };
    assert_eq!(wait(again.state(id("1"))).unwrap(), Some(former()));

    // The same where it is the rename that says so.
    let bench = Bench::saved(NEVER);
    bench.disk.fail_late();
    assert!(is_write_error(&bench.apply(save("1", latter())), ""));
    assert_eq!((bench.state("1"), bench.restarted(), in_folder(&bench.states()).len()), (Some(former()), Some(former()), 1));

    // Removed, but not durably: the folder is synced once more.
    let bench = Bench::saved(NEVER);
    bench.disk.fail(Step::SyncFolder, IO_ERROR, 2);
    assert!(is_write_error(&bench.apply(save("1", latter())), ""));
    let before = bench.disk.count(Step::SyncFolder);
    wait(bench.store.shutdown());
    assert_eq!(bench.disk.count(Step::SyncFolder), before + 1);
}

#[test]
fn a_file_that_cannot_be_removed_is_trouble_and_nothing_worse() {
    let bench = Bench::saved(Duration::from_millis(1));
    bench.disk.fail(Step::Remove, IO_ERROR, 3);
    bench.apply(save("1", latter())).unwrap();
    assert_eq!((bench.state("1"), bench.restarted()), (Some(latter()), Some(latter())));
    until_well(&bench);
    assert_eq!(in_folder(&bench.states()).len(), 1);
}

#[test]
fn trouble_ends_by_itself_once_the_folder_works() {
    for step in SAVE_STEPS {
        let bench = Bench::saved(Duration::from_millis(1));
        bench.disk.fail(step, NO_SPACE, 3);
        assert!(is_write_error(&bench.apply(save("1", latter())), ""), "{step:?}");
        until_well(&bench);
        assert_eq!((bench.state("1"), in_folder(&bench.states()).len()), (Some(former()), 1), "{step:?}");
    }
}

fn until_well(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.store.trouble().is_some() {
        assert!(Instant::now() < deadline, "still in trouble");
        thread::yield_now();
    }
}

#[test]
fn a_state_goes_after_its_session_and_not_before() {
    for step in STEPS {
        let bench = Bench::saved(NEVER);
        bench.disk.fail(step, IO_ERROR, 1);
        assert!(is_write_error(&bench.apply(Change::Close(id("1"))), ""), "{step:?}");
        assert_eq!((bench.state("1"), bench.restarted()), (Some(former()), Some(former())), "{step:?}");
        bench.disk.hold(Step::Remove);
        let mut closed = bench.store.apply(Change::Close(id("1")));
        bench.disk.wait_until_held();
        assert!(closed.as_mut().now_or_never().is_some_and(|closed| closed.is_ok()), "durable without it");
        assert!(!fs::read_to_string(&bench.file).unwrap().contains("0424"));
        bench.disk.release();
        assert_eq!(bench.state("1"), None);
        assert!(in_folder(&bench.states()).is_empty());
    }
}

#[test]
fn what_is_left_over_is_removed_at_the_start_and_nothing_else() {
    let bench = Bench::saved(NEVER);
    wait(bench.store.shutdown());
    let current = format!("1-{CREATED}-0.state");
    // Higher numbers count; only whole names do.
    let content = fs::read(bench.states().join(&current)).unwrap();
    let later = format!("1-{CREATED}-30.state");
    let foreign = ["x".to_owned(), format!("1-{CREATED}-030.state"), format!("1-{CREATED}-+31.state"), format!("1-{CREATED}-32.state.bak")];
    let foreign = [&foreign[..], &[format!("1-{CREATED}-33-4.state"), format!("1-{CREATED}-{}.state", u64::MAX)]].concat();
    let left = ["tmp".to_owned(), "1-5-0.state".into(), format!("01-{CREATED}-0.state"), format!("1-{CREATED}-9.state"), later.clone()];
    for name in foreign.iter().chain(&left) {
        fs::write(bench.states().join(name), &content).unwrap();
    }
    let (store, _) = open(&bench.file, 0, NEVER, RealDisk).unwrap();
    let mut expected = [&foreign[..], &[later]].concat();
    expected.sort();
    assert_eq!(in_folder(&bench.states()), expected);
    assert_eq!(wait(store.state(id("1"))).unwrap(), Some(former()));
    wait(store.apply(save("1", latter()))).unwrap();
    assert!(bench.states().join(format!("1-{CREATED}-31.state")).exists());
}

#[test]
fn a_store_whose_file_was_taken_away_keeps_its_states() {
    let bench = Bench::saved(NEVER);
    wait(bench.store.shutdown());
    let away = bench.folder.path().join("away");
    fs::rename(&bench.file, &away).unwrap();
    let error = open(&bench.file, 0, NEVER, RealDisk).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }));
    let message = error.to_string();
    assert!(message.contains("it is missing, and the saved state of its sessions is there"), "{message}");
    assert!(message.contains("together with what belongs to it") && message.contains("sessions.json.state"), "{message}");
    fs::rename(&away, &bench.file).unwrap();
    assert_eq!(bench.restarted(), Some(former()));
}

#[test]
fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    let bench = Bench::new(NEVER);
    bench.apply(create("2")).unwrap();
    bench.apply(save("2", former())).unwrap();
    bench.apply(save("1", saved(7, "hunter2\nhunter2"))).unwrap();
    let path = bench.states().join(format!("1-{CREATED}-1.state"));
    let good = fs::read_to_string(&path).unwrap();
    let sum = good.split_whitespace().nth(3).unwrap();
    let line = "its first line is not `conductor-state 1 VERSION SHA256`";
    let content = "it is damaged: its content is not what was saved";
    for (bytes, problem) in [
        (String::new(), line),
        (good.replace("conductor-state", "hunter2"), line),
        (good.replace('\n', " "), line),
        (good[..30].into(), line),
        (good.replace(" 7 ", " "), line),
        (good.replace(" 7 ", " 7 7 "), line),
        (good.replace(" 7 ", " hunter2 "), line),
        (good.replace(" 7 ", " -7 "), line),
        (format!("\n{good}"), line),
        (good.replace(" 1 ", " 2 "), "a format that this version of the host does not know"),
        (good.replace(" 7 ", " 8 "), content),
        (good.replace(sum, "hunter2"), content),
        (good.replace("hunter2\nh", "hunter2\ni"), content),
        (good[..good.len() - 1].into(), content),
        (format!("{good}\n"), content),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = wait(bench.store.state(id("1"))).unwrap_err();
        assert!(matches!(error, StoreError::State(of, _) if of == id("1")));
        let message = error.to_string();
        assert!(message.contains(problem) && message.contains(&*path.display().to_string()), "{message}");
        assert!(message.starts_with("the saved state of session 1 cannot be read: "), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bytes);
    }
    fs::write(&path, [&b"conductor-state 1 \xff"[..], b"\n"].concat()).unwrap();
    assert!(wait(bench.store.state(id("1"))).unwrap_err().to_string().contains(line));
    fs::remove_file(&path).unwrap();
    assert!(wait(bench.store.state(id("1"))).unwrap_err().to_string().contains("the file is gone"));
    fs::create_dir(&path).unwrap();
    assert!(wait(bench.store.state(id("1"))).unwrap_err().to_string().contains("not a regular file"));
    fs::remove_dir(&path).unwrap();
    assert_eq!(bench.state("2"), Some(former()));
    fs::write(&path, good).unwrap();
    assert_eq!(bench.state("1"), Some(saved(7, "hunter2\nhunter2")));
}

/// Each flipped bit, and each length.
#[test]
fn no_damage_goes_unseen() {
    let header = |state: &SavedState| format!("{MAGIC} {FORMAT} {} {}\n", state.version, hash(state.version, &state.bytes)).into_bytes();
    let good = [header(&latter()), latter().bytes.to_vec()].concat();
    assert_eq!(parse(good.clone()), Ok(latter()));
    for at in 0..good.len() {
        assert!(parse(good[..at].to_vec()).is_err(), "{at} bytes");
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(parse(bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_tells_what_was_saved() {
    let log = Log::default();
    let writer = log.clone();
    let told = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // For the writer's thread as well; the only test that does so.
    tracing::subscriber::set_global_default(told).unwrap();
    let secret = saved(9, "xyzzy42");
    assert_eq!(format!("{secret:?}"), "SavedState { version: 9, bytes: 7 }");
    let bench = Bench::saved(NEVER);
    let mut shown = format!("{:?} {:?}", save("1", secret.clone()), bench.store);
    for step in SAVE_STEPS {
        bench.disk.fail(step, IO_ERROR, 1);
        let error = bench.apply(save("1", secret.clone())).unwrap_err();
        shown += &format!("{error} {error:?} {:?}", bench.store.trouble());
    }
    bench.apply(save("1", secret.clone())).unwrap();
    let path = bench.states().join(&in_folder(&bench.states())[0]);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("xyzzy42", "xyzzy42xyzzy42")).unwrap();
    let error = wait(bench.store.state(id("1"))).unwrap_err();
    shown += &format!("{error} {error:?}");
    wait(bench.store.shutdown());
    drop(open(&bench.file, 0, NEVER, RealDisk).unwrap());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the folder of saved state cannot be written"), "{log}");
    // As text, as Debug shows bytes, and as hexadecimal digits.
    for (form, text) in [("xyzzy42", &shown), ("xyzzy42", &log), ("120, 121, 122", &shown), ("78797a7a79", &log)] {
        assert!(!text.contains(form), "{text}");
    }
}

#[test]
fn an_equal_session_of_another_time_has_another_state() {
    let bench = Bench::saved(NEVER);
    wait(bench.store.shutdown());
    let mut again = super::super::super::StoredSession::clone(&session("1"));
    again.created_at += 1;
    let sessions = [(again.id, Arc::new(again))].into();
    let (current, left) = list(&bench.states(), &sessions).unwrap();
    assert!(current.is_empty() && left.len() == 1);
}
