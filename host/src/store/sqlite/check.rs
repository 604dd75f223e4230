//! What a file holds, found without touching it: it and its log are read, and put together in memory. So a file that is refused is left as it is, to the
//! byte, and one that no host works with can be read by a command.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, MAIN_DB, ffi};

use super::{
    super::{OpenError, SavedState, change::Content, disk::beside, json},
    rows::{self, Tally},
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

/// What is in `target`, the end of all links; nothing where it is not there. `state` gets each saved state.
pub(super) fn read(target: &Path, state: impl FnMut(SessionId, SavedState)) -> Result<Option<Found>, OpenError> {
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
            examine(file, &log.unwrap_or_default(), shared.as_deref(), state).map(Some).map_err(unusable)
        }
    }
}

/// What SQLite puts beside a file.
pub(super) const FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// All paths of a database.
pub(super) fn all(target: &Path) -> [PathBuf; 3] {
    [target.to_owned(), beside(target, FILES[0]), beside(target, FILES[1])]
}

/// What is in a file with this content, of which `log` and `shared` are what is beside it.
pub(super) fn examine(file: Vec<u8>, log: &[u8], shared: Option<&[u8]>, state: impl FnMut(SessionId, SavedState)) -> Result<Found, String> {
    look(&image(file, log, shared)?, state)
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

/// Looks at every page and every row.
fn look(image: &[u8], state: impl FnMut(SessionId, SavedState)) -> Result<Found, String> {
    let (Some(application), Some(version), true) = (header_word(image, 68), header_word(image, 60), image.starts_with(MAGIC)) else {
        return Err(NO_DATABASE.into());
    };
    if application != APPLICATION_ID {
        return Err("it is an SQLite database, and not one of conductor-host".into());
    }
    if version > VERSION {
        return Err(format!("it was written by a later conductor-host: its format is {version}, and this one knows those up to {VERSION}"));
    }
    if version < 1 {
        return Err(format!("its format is {version}, which no conductor-host writes"));
    }
    let read = || {
        let mut db = Connection::open_in_memory()?;
        let bytes = image.len();
        db.deserialize_read_exact(MAIN_DB, image, bytes, false)?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Ok(Err(format!("it is damaged: {verdict}")));
        }
        if version < VERSION {
            schema::migrate(&db, version)?;
        }
        if let Some(name) = schema::missing(&db)? {
            return Ok(Err(format!("{name} is missing in it, or is not as it was made")));
        }
        let (content, tally) = rows::read(&db, state)?;
        Ok(Ok(Found { content, tally, version }))
    };
    read().map_err(|error| words(&error))?
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
