//! `sqlite:FILE`: a database that other programs can read while the host runs.
//!
//! One thread owns the sessions and writes them: the file is what a start reads, and never looked at for a session afterwards. All that waits when it starts
//! shares a transaction, and is answered once that is durable. A change writes the rows that it concerns, so it costs the same whatever the number of sessions.
//! A transaction that fails refuses its changes and takes them back.

pub(super) mod aside;
mod check;
pub(super) mod new;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tokio::sync::oneshot;

use super::{
    Applied, Change, OpenError, Opened, SavedState, Store, StoreError,
    change::Content,
    disk::{RealDisk, beside, make_private, sync_names},
    json::{self, ended},
    lock::{FileLock, LockError},
    taken_over,
    transfer::{AtRest, Counts},
};
use crate::sessions::SessionId;
use writer::Writer;

/// How long after a failed transaction the next try, where no change brings one earlier.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// How long a transaction waits for another program that writes to the file, which none should.
const BUSY: Duration = Duration::from_secs(2);

/// What the log keeps on the disk once its content is in the database, in bytes.
const LOG_LIMIT: i64 = 8 << 20;

/// Why it cannot be written, while that is so.
type Trouble = Arc<Mutex<Option<Arc<str>>>>;

type State = Result<Option<SavedState>, StoreError>;

/// The handle to the writer thread, which ends when [`Store::shutdown`] is called or this is dropped.
#[derive(Debug)]
pub(super) struct SqliteStore {
    /// Unbounded, so that `apply` never waits: what is in it is bounded by those who await an answer each, and they are
    /// bounded where requests and joins come in.
    queue: mpsc::Sender<Work>,
    /// Shared with the writer, which sets it; either holds the lock for a clone of the value.
    trouble: Trouble,
    writer: JoinHandle<()>,
}

enum Work {
    Change(Change, oneshot::Sender<Applied>),
    State(SessionId, oneshot::Sender<State>),
    Shutdown(oneshot::Sender<()>),
    /// On the writer's thread, with its database.
    #[cfg(test)]
    Run(Box<dyn FnOnce(&Connection) + Send>),
}

impl SqliteStore {
    /// Locks and loads `file`, which is made where it is missing, with the content of the `json:` store in `import` where that is there.
    pub(super) fn open(file: &Path, import: Option<&Path>, granted_until: u64, retry: Duration) -> Opened<Self> {
        let failed = |source| OpenError::Io { file: file.to_owned(), source };
        let target = json::resolve(&RealDisk, file).map_err(failed)?;
        let lock = FileLock::acquire("store", &target, beside(&target, ".lock"))?;
        // Where that cannot be told, reading it says why.
        let import = import.filter(|json| json.try_exists().unwrap_or(true));
        let read = || check::read(&target, |_, _| {});
        let found = match read()? {
            Some(found) => {
                if let Some(json) = import {
                    tracing::info!(store = %target.display(), "{} is there as well, and is not read", json.display());
                    taken_over::mark(json);
                }
                found
            }
            None => {
                match import {
                    Some(json) if taken_over::is(json) => {
                        tracing::info!(
                            store = %target.display(),
                            "made without sessions: {json} was taken over before. `conductor-host store import --from json:{json}` reads it again",
                            json = json.display()
                        );
                        new::create(&target, &Content::default(), &mut std::iter::empty()).map_err(failed)?;
                    }
                    Some(json) => {
                        self::import(json, &target, granted_until)?;
                        taken_over::mark(json);
                    }
                    None => new::create(&target, &Content::default(), &mut std::iter::empty()).map_err(failed)?,
                }
                read()?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?
            }
        };
        for file in check::all(&target) {
            match make_private(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        // Left by a host that was killed: its end may not be durable yet, and nothing is answered on it before it is.
        let unsettled = beside(&target, "-wal").metadata().is_ok_and(|log| log.len() > 0);
        let db = connect(&target, found.version).map_err(|error| failed(check::io_error(&error)))?;
        sync_names(&RealDisk, &target).map_err(failed)?;
        let tally = rows::Tally::read(&db).map_err(|error| failed(check::io_error(&error)))?;
        if tally != found.tally {
            // Nothing is written when this is dropped.
            let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            let problem = "SQLite does not read in it what is there".into();
            return Err(OpenError::Unusable { file: target, problem });
        }
        let loaded = found.content.loaded();
        let trouble = Trouble::default();
        let writer = Writer::new(db, found.content, tally, Arc::clone(&trouble), unsettled, retry, lock);
        let (queue, work) = mpsc::channel();
        let writer = thread::Builder::new().name("store".into()).spawn(move || writer.run(&work)).map_err(failed)?;
        Ok((Self { queue, trouble, writer }, loaded))
    }
}

/// Makes `target` of a `json:` store, which stays as it is.
fn import(json: &Path, target: &Path, granted_until: u64) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { file: target.to_owned(), source };
    let Some(at_rest) = json::at_rest::read(json, granted_until)? else {
        return new::create(target, &Content::default(), &mut std::iter::empty()).map_err(failed);
    };
    let Counts { sessions, resting, states } = at_rest.counts();
    create(target, at_rest).map_err(failed)?;
    tracing::info!(
        store = %target.display(), sessions, states, resting,
        "made the session store from {}, which is kept and not read any more", json.display()
    );
    Ok(())
}

/// Makes a new file, whole or not at all.
pub(super) fn create(target: &Path, at_rest: AtRest) -> io::Result<()> {
    let AtRest { sessions, resting, states } = at_rest;
    let sessions = sessions.into_iter().map(|session| (session.id, session)).collect();
    new::create(target, &Content { sessions, resting: resting.into_iter().collect() }, &mut states.into_iter().map(Ok))
}

/// What is in `target` while no host uses it; nothing where it is not there. Nothing is changed.
pub(super) fn read_at_rest(file: &Path) -> Result<Option<AtRest>, OpenError> {
    let failed = |source| OpenError::Io { file: file.to_owned(), source };
    let target = match file.canonicalize() {
        Ok(target) => target,
        // One that is gone while its log is there is not one that never was.
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_owned(),
        Err(error) => return Err(failed(error)),
    };
    let _lock = FileLock::if_used("store", &target, beside(&target, ".lock"))?;
    let mut states = Vec::new();
    let found = check::read(&target, |id, state| states.push((id, state)))?;
    Ok(found.map(|found| {
        let loaded = found.content.loaded();
        AtRest { sessions: loaded.sessions, resting: loaded.resting, states }
    }))
}

/// Copies the database, whether a host works with it or not, into a new file, which is then looked at as at a start.
pub(super) fn backup(file: &Path, to: &Path) -> Result<Counts, OpenError> {
    let failed = |file: &Path, source| OpenError::Io { file: file.to_owned(), source };
    match read_at_rest(file) {
        Ok(Some(at_rest)) => create(to, at_rest).map_err(|source| failed(to, source))?,
        Ok(None) => return Err(failed(file, io::ErrorKind::NotFound.into())),
        Err(OpenError::Lock(LockError::Held { path, .. })) => {
            new::put(to, |copy| copy_live(&path, copy).map_err(|error| check::io_error(&error))).map_err(|source| failed(to, source))?;
        }
        Err(error) => return Err(error),
    }
    let found = check::read(to, |_, _| {})?.ok_or_else(|| failed(to, io::ErrorKind::NotFound.into()))?;
    Ok(found.tally.counts())
}

/// In one step: it sees one moment of the file, and those who write do not wait for it.
fn copy_live(file: &Path, copy: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (from, mut into) = (Connection::open_with_flags(file, flags)?, Connection::open_with_flags(copy, flags)?);
    from.busy_timeout(BUSY)?;
    into.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")?;
    match rusqlite::backup::Backup::new(&from, &mut into)?.step(-1)? {
        rusqlite::backup::StepResult::Done => {}
        _ => return Err(check::damaged("the store was in use all the time")),
    }
    into.close().map_err(|(_, error)| error)
}

/// Opens a file that was looked at, for its writer.
fn connect(target: &Path, version: i32) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", LOG_LIMIT, |_| Ok(()))?;
    // The two last ones mean something on macOS alone, where a sync does less by itself.
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")?;
    if version < schema::VERSION {
        schema::migrate(&db, version)?;
    }
    Ok(db)
}

impl Store for SqliteStore {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        let (answer, answered) = oneshot::channel();
        // Where the writer has ended, this drops `answer`, which is what the future then sees.
        let _ = self.queue.send(Work::Change(change, answer));
        answered.map(|answer| answer.unwrap_or_else(|_| Err(StoreError::Write(ended())))).boxed()
    }

    /// The writer reads it, in its turn: so it is what was durable when this was called.
    fn state(&self, id: SessionId) -> BoxFuture<'static, State> {
        let (answer, answered) = oneshot::channel();
        let _ = self.queue.send(Work::State(id, answer));
        answered.map(move |answer| answer.unwrap_or_else(|_| Err(StoreError::State(id, ended())))).boxed()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        if self.writer.is_finished() {
            return Some(ended());
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let (answer, answered) = oneshot::channel();
        // Where the writer has ended, there is nothing left to wait for.
        let _ = self.queue.send(Work::Shutdown(answer));
        answered.map(|_| ()).boxed()
    }
}
