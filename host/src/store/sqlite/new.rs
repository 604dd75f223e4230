//! A new file: made whole under another name, and then given its own. So there is never a half of one, whenever the host is killed.

use std::{io, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{
    super::{
        SavedState,
        change::Content,
        disk::{folder_of, sync_folder, sync_name},
        resting::Resting,
    },
    check::io_error,
    rows::Tally,
    schema,
};
use crate::sessions::SessionId;

/// Saved states, one after the other, each read only when it is its turn.
pub(in crate::store) type States<'a> = &'a mut dyn Iterator<Item = io::Result<(SessionId, SavedState)>>;

/// Puts a database with this content where nothing was, for its owner alone, durable when this returns. Its folder must be there.
pub(in crate::store) fn create(target: &Path, content: &Content, states: States<'_>) -> io::Result<()> {
    if target.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let folder = folder_of(target);
    // Of mode 0600 from its creation.
    let file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    let db = open(file.path()).map_err(|error| io_error(&error))?;
    fill(db, content, &Resting::default(), states)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(target).map_err(|error| error.error)?;
    sync_name(target)?;
    sync_folder(folder)
}

/// It is synced as a whole at the end, and where anything fails it is gone.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")?;
    schema::migrate(&db, 0)?;
    Ok(db)
}

/// Puts all of it into a database without sessions, in one transaction, and closes it. Ids that rested there and do not rest in `content` are no longer at rest.
pub(super) fn fill(db: Connection, content: &Content, rested: &Resting, states: States<'_>) -> io::Result<()> {
    let filled = put(&db, content, rested, states);
    let closed = db.close().map_err(|(_, error)| io_error(&error));
    filled.and(closed)
}

fn put(db: &Connection, content: &Content, rested: &Resting, states: States<'_>) -> io::Result<()> {
    let begin = || {
        let transaction = db.unchecked_transaction()?;
        let mut tally = Tally::read(db)?;
        for (id, session) in &content.sessions {
            tally.put_session(db, *id, Some(session))?;
        }
        for (id, until) in content.resting.iter() {
            tally.put_resting(db, id, Some(until))?;
        }
        for (id, _) in rested.iter().filter(|(id, _)| content.resting.get(*id).is_none()) {
            tally.put_resting(db, id, None)?;
        }
        rusqlite::Result::Ok((transaction, tally))
    };
    let sqlite = |error: rusqlite::Error| io_error(&error);
    let (transaction, mut tally) = begin().map_err(sqlite)?;
    for state in states {
        let (id, state) = state?;
        tally.put_state(db, id, Some(&state)).map_err(sqlite)?;
    }
    tally.write(db).and_then(|()| transaction.commit()).map_err(sqlite)?;
    // From now on the file says that it has a log.
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).map_err(sqlite)
}
