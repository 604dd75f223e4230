//! What a file holds, found without touching it: it and its log are read, and put together in memory. So a file that is refused is left as it is, to the
//! byte, and one that no host works with can be read by a command.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, MAIN_DB, OpenFlags,
    backup::{Backup, StepResult},
    ffi,
};

use super::{
    super::{OpenError, SavedState, change::Content, disk::beside, json},
    rows::{self, Kept, Tally},
    schema::{self, APPLICATION_ID, VERSION},
    wal,
};
use crate::sessions::SessionId;

/// What is in a file.
pub(super) struct Found {
    pub(super) content: Content,
    pub(super) tally: Tally,
    /// Of the file's format.
    pub(super) version: i32,
}

/// What `look` finds in `target`, the end of all links, which is of the version that it is told; nothing where `target` is not there.
pub(super) fn read<T>(target: &Path, look: impl FnOnce(&Connection, i32) -> rusqlite::Result<T>) -> Result<Option<T>, OpenError> {
    let failed = |source| OpenError::Io { file: target.to_owned(), source };
    let unusable = |problem| OpenError::Unusable { file: target.to_owned(), problem };
    let [log, shared, journal] = FILES.map(|suffix| beside(target, suffix));
    let [file, log, shared] = [target, &log, &shared].map(json::read);
    match (file.map_err(failed)?, log.map_err(failed)?, shared.map_err(failed)?) {
        (None, None, _) => Ok(None),
        (None, Some(_), _) => Err(unusable("it is missing, and its -wal is there".into())),
        (Some(file), log, shared) => {
            if journal.metadata().is_ok_and(|found| found.len() > 0) {
                return Err(unusable("there is a -journal beside it, which only another program can have left there".into()));
            }
            examine(file, &log.unwrap_or_default(), shared.as_deref(), look).map(Some).map_err(unusable)
        }
    }
}

/// What SQLite puts beside a file.
pub(super) const FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// All paths of a database.
pub(super) fn all(target: &Path) -> [PathBuf; 3] {
    [target.to_owned(), beside(target, FILES[0]), beside(target, FILES[1])]
}

/// What `look` finds in a file with this content, of which `log` and `shared` are what is beside it.
pub(super) fn examine<T>(
    file: Vec<u8>,
    log: &[u8],
    shared: Option<&[u8]>,
    look: impl FnOnce(&Connection, i32) -> rusqlite::Result<T>,
) -> Result<T, String> {
    let image = image(file, log, shared)?;
    let (Some(application), Some(version), true) = (header_word(&image, 68), header_word(&image, 60), image.starts_with(MAGIC)) else {
        return Err(NO_DATABASE.into());
    };
    let read = move || {
        known(application, version)?;
        let mut db = Connection::open_in_memory()?;
        db.deserialize_read_exact(MAIN_DB, &*image, image.len(), false)?;
        // SQLite has a copy of its own.
        drop(image);
        look(&db, version)
    };
    read().map_err(|error| words(&error))
}

/// The file with what counts in its log.
fn image(mut file: Vec<u8>, log: &[u8], shared: Option<&[u8]>) -> Result<Vec<u8>, String> {
    // SQLite would begin anew.
    if file.is_empty() {
        return Err("it is empty".into());
    }
    let wal = wal::check(log, shared)?;
    if wal.size > 0 {
        if !file.starts_with(MAGIC) && !wal.pages.contains_key(&1) {
            return Err(NO_DATABASE.into());
        }
        file.resize(wal.size as usize * wal.page_size, 0);
        for (page, at) in wal.pages {
            let to = (page as usize - 1) * wal.page_size;
            // A page that a later transaction has cut off.
            if let Some(there) = file.get_mut(to..to + wal.page_size) {
                there.copy_from_slice(&log[at..at + wal.page_size]);
            }
        }
        if page_size(&file) != Some(wal.page_size) {
            return Err("its -wal is not of this file: the pages have another size".into());
        }
    }
    match file.get_mut(18..20) {
        // "Has a log" and "has none": in memory there is none.
        Some(versions) if *versions == [2, 2] || *versions == [1, 1] => versions.copy_from_slice(&[1, 1]),
        _ => return Err(NO_DATABASE.into()),
    }
    Ok(file)
}

const MAGIC: &[u8] = b"SQLite format 3\0";
const NO_DATABASE: &str = "it is not an SQLite database, or its first page is damaged";

fn page_size(file: &[u8]) -> Option<usize> {
    match u16::from_be_bytes(file.get(16..18)?.try_into().ok()?) {
        1 => Some(65_536),
        size => Some(size.into()),
    }
}

fn header_word(image: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(image.get(at..at + 4)?.try_into().ok()?))
}

/// All that is in the file of a host that runs, at one moment. Whoever writes does not wait for it.
pub(super) fn live(target: &Path, state: impl FnMut(SessionId, SavedState)) -> Result<Found, OpenError> {
    beside_host(target, |from| {
        let mut db = Connection::open_in_memory()?;
        match Backup::new(from, &mut db)?.step(-1)? {
            StepResult::Done => {}
            _ => return Err(damaged("the store was in use all the time")),
        }
        let version = version(&db)?;
        whole(&db, version, state)
    })
}

/// As [`live`], of one session alone: see [`rows::kept`].
pub(super) fn live_kept(target: &Path, id: SessionId) -> Result<Option<Kept>, OpenError> {
    beside_host(target, |db| {
        // All that is read is of its moment.
        let _moment = db.unchecked_transaction()?;
        rows::kept(db, version(db)?, id)
    })
}

fn beside_host<T>(target: &Path, look: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OpenError> {
    let read = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(target, flags)?;
        db.busy_timeout(super::BUSY)?;
        look(&db)
    };
    read().map_err(|error| OpenError::Unusable { file: target.to_owned(), problem: words(&error) })
}

fn version(db: &Connection) -> rusqlite::Result<i32> {
    let number = |name| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    let version = number("user_version")?;
    known(number("application_id")?, version)?;
    Ok(version)
}

fn known(application: i32, version: i32) -> rusqlite::Result<()> {
    if application != APPLICATION_ID {
        return Err(damaged("it is an SQLite database, and not one of conductor-host"));
    }
    if version > VERSION {
        return Err(damaged(format!(
            "it was written by a later conductor-host: its format is {version}, and this one knows those up to {VERSION}"
        )));
    }
    if version < 1 {
        return Err(damaged(format!("its format is {version}, which no conductor-host writes")));
    }
    Ok(())
}

/// Each page and each row of a copy. `state` gets each saved state.
pub(super) fn whole(db: &Connection, version: i32, state: impl FnMut(SessionId, SavedState)) -> rusqlite::Result<Found> {
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(damaged(format!("it is damaged: {verdict}")));
    }
    if version < VERSION {
        schema::migrate(db, version)?;
    }
    if let Some(name) = schema::missing(db)? {
        return Err(damaged(format!("{name} is missing in it, or is not as it was made")));
    }
    let (content, tally) = rows::read(db, state)?;
    Ok(Found { content, tally, version })
}

/// What went wrong, without SQL in it.
pub(super) fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, None) => code.to_string(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        // The others may show a value.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => "it is damaged: a value is not of its kind".into(),
        _ => "SQLite did not answer as expected".into(),
    }
}

/// A problem of our own, in SQLite's clothes.
pub(super) fn damaged(what: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what.into()))
}

/// As an error of the operating system, which is what the store's callers know.
pub(super) fn io_error(error: &rusqlite::Error) -> io::Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
        Some(rusqlite::ErrorCode::PermissionDenied | rusqlite::ErrorCode::ReadOnly) => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, words(error))
}
