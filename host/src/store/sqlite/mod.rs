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

use std::{io, iter, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{
    OpenError, Opened,
    change::Content,
    disk::{RealDisk, beside, make_private, sync_names},
    json,
    lock::FileLock,
    queue::{Queue, Trouble},
    stock::{self, Beside, Counts, Place, StockError},
    taken_over,
};
use writer::Writer;

/// How long a transaction waits for another program that writes to the file, which none should.
const BUSY: Duration = Duration::from_secs(2);

/// What the log keeps on the disk once its content is in the database, in bytes.
const LOG_LIMIT: i64 = 8 << 20;

/// Locks and loads `file`, which is made where it is missing, with the content of the `json:` store in `import` where that is there and was not taken over before.
pub(super) fn open(file: &Path, import: Option<&Path>, granted_until: u64, retry: Duration) -> Opened<Queue> {
    let failed = |source| OpenError::Io { file: file.to_owned(), source };
    let target = json::resolve(&RealDisk, file).map_err(failed)?;
    let lock = FileLock::acquire("store", &target, beside(&target, ".lock"))?;
    // Where that cannot be told, reading it says why.
    let import = import.filter(|json| json.try_exists().unwrap_or(true));
    let read = || check::read(&target, |db, version| check::whole(db, version, |_, _| {}));
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
                    new::create(&target, &Content::default(), &mut iter::empty()).map_err(failed)?;
                }
                Some(json) => {
                    self::import(json, &target, granted_until)?;
                    taken_over::mark(json);
                }
                None => new::create(&target, &Content::default(), &mut iter::empty()).map_err(failed)?,
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
    let writer = Writer::new(db, found.content, tally, trouble.clone(), unsettled, retry, lock);
    let queue = Queue::start(trouble, move |queue| writer.run(queue)).map_err(failed)?;
    Ok((queue, loaded))
}

/// Makes `target` of a `json:` store, which stays as it is; without sessions where there is none.
fn import(json: &Path, target: &Path, granted_until: u64) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { file: target.to_owned(), source };
    let read = stock::read(&Place::Json(json.to_owned()), granted_until, Beside::NoHost);
    let stock = match read.and_then(|stock| stock.whole().map(|()| stock)) {
        Err(StockError::Missing(_)) => return new::create(target, &Content::default(), &mut iter::empty()).map_err(failed),
        read => read.map_err(StockError::at_start)?,
    };
    new::create(target, &stock.content, &mut stock.states()).map_err(failed)?;
    let Counts { sessions, saved: states, resting, .. } = stock.counts();
    tracing::info!(
        store = %target.display(), sessions, states, resting,
        "made the session store from {}, which is kept and not read any more", json.display()
    );
    Ok(())
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
