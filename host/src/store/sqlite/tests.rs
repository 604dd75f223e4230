//! What is in the file, what a failing disk leaves behind, and how a start begins.

mod damage;
mod faults;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use super::{
    super::{
        Applied, Change, SavedState, Store, StoreError, StoredSession,
        contract::{create as created, id, join, labels, limits, rules, save, saved, session, wait},
        lock::LockError,
        model::names,
        queue::Work,
    },
    *,
};
use crate::sessions::SessionId;

pub(super) const NEVER: Duration = Duration::from_secs(3600);

pub(super) struct Bench {
    pub(super) _folder: tempfile::TempDir,
    pub(super) file: PathBuf,
    pub(super) store: Queue,
}

pub(super) fn open_file(file: &Path) -> Opened<Queue> {
    open(file, None, 0, NEVER)
}

impl Bench {
    /// A store with session 1, which client `a` joined.
    pub(super) fn new(retry: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.db");
        let (store, _) = open(&file, None, 0, retry).unwrap();
        let bench = Self { _folder: folder, file, store };
        bench.apply(created("1")).unwrap();
        bench.apply(join("1", "a", 10)).unwrap();
        bench
    }

    pub(super) fn apply(&self, change: Change) -> Applied {
        wait(self.store.apply(change))
    }

    /// On the writer's thread.
    pub(super) fn run<T: Send + 'static>(&self, run: impl FnOnce(&Connection) -> T + Send + 'static) -> T {
        let (to, from) = mpsc::channel();
        self.store.work.send(Work::Run(Box::new(move |db| to.send(run(db)).unwrap()))).unwrap();
        from.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    /// The files as they would be after kill -9, elsewhere.
    pub(super) fn killed(&self) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("sessions.db");
        // On the writer's thread, between two transactions.
        let [from, copies] = [check::all(&self.file), check::all(&to)];
        self.run(move |_| {
            for (from, to) in from.iter().zip(copies).filter(|(from, _)| from.exists()) {
                fs::copy(from, to).unwrap();
            }
        });
        (folder, to)
    }

    /// What the next start would find, were the host killed now.
    pub(super) fn on_disk(&self) -> Vec<(String, Vec<(String, u64)>)> {
        let (_folder, copy) = self.killed();
        let (_store, loaded) = open_file(&copy).unwrap();
        loaded.sessions.iter().map(|session| (session.id.to_string(), names(session))).collect()
    }
}

#[test]
fn the_view_shows_what_is_there_and_no_pin() {
    let bench = Bench::new(NEVER);
    let mut other = StoredSession::clone(&session("007"));
    (other.type_name, other.created_at) = ("quiz".into(), 0);
    other.clients = vec![super::super::StoredClient::Foreign(serde_json::Value::Null)];
    let pairs = [("room".to_owned(), "ä \"4\"".to_owned())].into();
    for change in [
        Change::Create(other.into()),
        labels("007", pairs),
        rules("007", Some(true), Some(3)),
        limits("007", Some(Some(0)), Some(Some(60_000))),
    ] {
        bench.apply(change).unwrap();
    }
    let reader = Connection::open_with_flags(&bench.file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut view = reader.prepare("SELECT * FROM active_sessions ORDER BY id").unwrap();
    let columns: Vec<_> = view.column_names().map(str::to_owned).collect();
    assert_eq!(columns, ["id", "type", "created_at", "clients", "labels", "locked", "max_clients", "lifetime_ms", "empty_timeout_ms"]);
    let rows = view.query_map([], |row| {
        Ok(format!(
            "{} {} {:?} {} {} {} {:?} {:?} {:?}",
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, Option<String>>(2)?,
            row.get::<_, i64>(3)?,
            row.get::<_, String>(4)?,
            row.get::<_, i64>(5)?,
            row.get::<_, Option<i64>>(6)?,
            row.get::<_, Option<i64>>(7)?,
            row.get::<_, Option<i64>>(8)?
        ))
    });
    let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    let expected = [
        r#"007 quiz None 0 {"room":"ä \"4\""} 1 Some(3) Some(0) Some(60000)"#,
        r#"1 default Some("2025-01-01T00:00:00.123Z") 1 {} 0 None None None"#,
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_change_writes_the_rows_that_it_concerns_and_answers_durably() {
    let bench = Bench::new(NEVER);
    let settings = bench.run(|db| {
        ["journal_mode", "synchronous"]
            .map(|name| db.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap())
    });
    assert_eq!(settings, [rusqlite::types::Value::Text("wal".into()), rusqlite::types::Value::Integer(2)]);
    for n in 0..2000 {
        drop(bench.store.apply(created(&format!("9{n:05}"))));
    }
    bench.apply(save("1", saved(1, "x"))).unwrap();
    let log = beside(&bench.file, "-wal");
    bench.run(|db| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap());
    bench.apply(join("1", "b", 20)).unwrap();
    // The pages of the row and of the tally, however many sessions there are.
    let pages = (fs::metadata(log).unwrap().len() - 32) / (4096 + 24);
    assert!(pages <= 2, "{pages}");
    assert_eq!(bench.on_disk().len(), 2001);
}

#[test]
fn changes_that_wait_share_a_transaction() {
    let bench = Bench::new(NEVER);
    let transactions = || bench.run(|db| rows::Tally::read(db).unwrap().transactions);
    let before = transactions();
    let (go, wait_for_go) = mpsc::channel::<()>();
    bench.store.work.send(Work::Run(Box::new(move |_| wait_for_go.recv().unwrap()))).unwrap();
    let answers: Vec<_> = (0..300).map(|n| bench.store.apply(created(&format!("9{n:05}")))).collect();
    go.send(()).unwrap();
    assert!(answers.into_iter().all(|answer| wait(answer).is_ok()));
    assert_eq!(transactions() - before, 2, "256 and the rest");
    bench.apply(join("1", "a", 10)).unwrap();
    assert!(bench.apply(created("1")).is_err());
    assert_eq!(transactions() - before, 2, "what changes nothing is not written");
}

#[test]
fn a_json_store_is_taken_over_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let [json, file] = ["sessions.json", "sessions.db"].map(|name| folder.path().join(name));
    let url = "json:sessions.json";
    let (before, _) = super::super::open(url, folder.path(), Duration::ZERO, 0).unwrap();
    for change in [created("1"), join("1", "a", 10), save("1", saved(3, "x")), created("02"), join("02", "b", 9), Change::Close(id("02"))] {
        wait(before.apply(change)).unwrap();
    }
    let open = || open(&file, Some(&json), 0, NEVER);
    assert!(matches!(open(), Err(OpenError::Lock(LockError::Held { .. }))), "a host works with it");
    assert!(!file.exists());
    wait(before.shutdown());
    let text = fs::read(&json).unwrap();
    // A file that cannot be understood leaves nothing behind.
    fs::write(&json, "{").unwrap();
    assert!(matches!(open(), Err(OpenError::Unusable { .. })) && !file.exists());
    fs::write(&json, &text).unwrap();
    // Nor does saved state that cannot.
    let state = fs::read_dir(beside(&json, ".state")).unwrap().next().unwrap().unwrap().path();
    let saved_state = fs::read(&state).unwrap();
    fs::write(&state, "x").unwrap();
    assert!(matches!(open(), Err(OpenError::Unusable { file: named, .. }) if named == json.canonicalize().unwrap()) && !file.exists());
    fs::write(&state, saved_state).unwrap();
    let (store, loaded) = open().unwrap();
    assert_eq!((names(&loaded.sessions[0]), &loaded.resting[..]), (vec![("a".into(), 10)], &[(id("02"), 9)][..]));
    assert_eq!(wait(store.state(id("1"))).unwrap(), Some(saved(3, "x")));
    wait(store.apply(Change::Close(id("1")))).unwrap();
    wait(store.shutdown());
    assert_eq!(fs::read(&json).unwrap(), text);
    let (store, loaded) = open().unwrap();
    assert!(loaded.sessions.is_empty(), "the database counts from then on");
    wait(store.shutdown());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with(".new-")), "{names:?}");
    // Whoever takes the database away starts without sessions.
    fs::remove_file(&file).unwrap();
    let (store, loaded) = open().unwrap();
    assert!(loaded.sessions.is_empty() && loaded.resting.is_empty(), "what was taken over once does not come back");
    wait(store.shutdown());
    // A database that was made before there was a marker counts as one that took it over.
    let marker = beside(&json, ".imported");
    fs::remove_file(&marker).unwrap();
    wait(open().unwrap().0.shutdown());
    assert!(fs::read_to_string(&marker).unwrap().contains("store import"));
}

#[test]
fn a_start_refuses_what_it_cannot_go_on_from_and_leaves_it_alone() {
    let bench = Bench::new(NEVER);
    wait(bench.store.shutdown());
    let good = fs::read(&bench.file).unwrap();
    let foreign = |sql: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.db");
        fs::write(&file, &good).unwrap();
        Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        fs::read(&file).unwrap()
    };
    let cases = [
        (foreign("PRAGMA user_version = 99"), "written by a later conductor-host: its format is 99"),
        (foreign("PRAGMA user_version = 0"), "its format is 0"),
        (foreign("PRAGMA application_id = 5"), "not one of conductor-host"),
        (foreign("DELETE FROM sessions"), "one is missing"),
        (foreign("UPDATE sessions SET record = replace(record, '0424', '0425')"), "session 1 is damaged"),
        (foreign("DROP VIEW active_sessions"), "active_sessions is missing in it"),
        (b"{}".to_vec(), "not an SQLite database"),
        (Vec::new(), "it is empty"),
    ];
    for (content, expected) in cases {
        fs::write(&bench.file, &content).unwrap();
        let message = open_file(&bench.file).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("left as it is"), "{message}");
        assert!(!message.contains("0424") && !message.contains("0425"), "{message}");
        assert!(
            fs::read(&bench.file).unwrap() == content && !beside(&bench.file, "-wal").exists() && !beside(&bench.file, "-shm").exists()
        );
    }
    fs::remove_file(&bench.file).unwrap();
    fs::write(beside(&bench.file, "-wal"), "").unwrap();
    assert!(open_file(&bench.file).unwrap_err().to_string().contains("it is missing, and its -wal is there"));
    fs::remove_file(beside(&bench.file, "-wal")).unwrap();
    fs::write(&bench.file, &good).unwrap();
    fs::write(beside(&bench.file, "-journal"), "x").unwrap();
    assert!(open_file(&bench.file).unwrap_err().to_string().contains("-journal"));
    fs::remove_file(beside(&bench.file, "-journal")).unwrap();
    assert_eq!(open_file(&bench.file).unwrap().1.sessions.len(), 1);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_only_the_owner_may_read() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let [real, link] = ["real/sessions.db", "link.db"].map(|name| folder.path().join(name));
    symlink("real/sessions.db", &link).unwrap();
    let (store, _) = open_file(&link).unwrap();
    wait(store.apply(created("1"))).unwrap();
    assert!(link.is_symlink() && matches!(open_file(&real), Err(OpenError::Lock(LockError::Held { .. }))));
    wait(store.shutdown());
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    let (store, loaded) = open_file(&real).unwrap();
    wait(store.apply(created("2"))).unwrap();
    assert_eq!(loaded.sessions.len(), 1);
    for file in check::all(&real) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    wait(store.shutdown());
    assert!(real.exists() && !beside(&real, "-wal").exists(), "all of the log is in the database");
}

#[test]
fn what_changes_nothing_after_a_kill_is_answered_once_the_log_is_durable() {
    let (_folder, file) = Bench::new(NEVER).killed();
    let (store, _) = open_file(&file).unwrap();
    let alone = || {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("sessions.db");
        fs::copy(&file, &copy).unwrap();
        open_file(&copy).unwrap().1.sessions.len()
    };
    assert_eq!(alone(), 0);
    wait(store.apply(join("1", "a", 10))).unwrap();
    // Written once more with all before it, and then taken into the database.
    assert_eq!(alone(), 1);
}

#[test]
fn a_start_after_two_power_cuts_goes_on_from_an_older_shm() {
    let (_folder, file) = Bench::new(NEVER).killed();
    let (store, _) = open_file(&file).unwrap();
    // The kernel may write this back at any time, and nothing that follows.
    let shm = fs::read(beside(&file, "-shm")).unwrap();
    wait(store.apply(join("1", "b", 20))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("sessions.db");
    for suffix in ["", "-wal"] {
        fs::copy(beside(&file, suffix), beside(&copy, suffix)).unwrap();
    }
    fs::write(beside(&copy, "-shm"), &shm).unwrap();
    let (_store, loaded) = open_file(&copy).unwrap();
    assert_eq!(names(&loaded.sessions[0]), [("a".into(), 10), ("b".into(), 20)]);
}
