//! Sessions into and out of a store that no host works with: for commands, which have no use for an open store.
//!
//! Nothing here replaces a file. What conductors have saved (the folder beside a store's file) stays where it is: of it, only the number is told.

use std::{io, path::Path, sync::Arc};

use super::{
    Loaded, OpenError, StoredSession,
    change::Content,
    disk::{self, beside},
    json::{self, format, states},
    lock::FileLock,
};
use crate::sessions::SessionId;

/// The sessions in the text of a `json:` store or of the reference's `session_data.json`, in the order of their ids. Clients without an
/// expiry get `granted_until` (seconds since the Unix epoch).
///
/// # Errors
/// All that is wrong, each with its session or its line. No text holds a pin.
pub fn parse(text: &[u8], granted_until: u64) -> Result<Vec<Arc<StoredSession>>, Vec<String>> {
    Ok(format::parse_all(text, granted_until)?.sessions.into_values().collect())
}

/// Puts sessions into a new file of a `json:` store: whole, for its owner alone, durable when this returns. Its folder must be there.
///
/// # Errors
/// Where there is a file already, or it cannot be written.
pub fn create(file: &Path, sessions: &[Arc<StoredSession>]) -> io::Result<()> {
    let sessions = sessions.iter().map(|session| (session.id, Arc::clone(session))).collect();
    let mut text = Vec::new();
    format::render(&mut text, &Content { sessions, ..Content::default() })?;
    write_new(file, &text)
}

/// Puts a whole new file where none was, for its owner alone, durable when this returns. Its folder must be there.
///
/// # Errors
/// Where there is a file already, or it cannot be written.
pub fn write_new(file: &Path, content: &[u8]) -> io::Result<()> {
    disk::write_new(file, content)
}

/// What a store holds.
#[derive(Debug)]
pub struct AtRest {
    /// In the order of their ids.
    pub sessions: Vec<Arc<StoredSession>>,
    /// Ids that rest, in their order, and until when, in seconds since the Unix epoch.
    pub resting: Vec<(SessionId, u64)>,
    /// How many of them have saved state.
    pub saved: usize,
}

/// What the `json:` store in `file` holds while no host uses it; nothing where there is no such file. Neither the file nor anything beside it is
/// changed.
///
/// # Errors
/// Where a host uses the store, or the file cannot be read and understood.
pub fn read_at_rest(file: &Path, granted_until: u64) -> Result<Option<AtRest>, OpenError> {
    let failed = |source| OpenError::Io { file: file.to_owned(), source };
    let target = match file.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let _lock = FileLock::if_used("store", &target, beside(&target, ".lock"))?;
    let Some(text) = json::read(&target).map_err(failed)? else { return Ok(None) };
    let content = format::parse(&text, granted_until).map_err(|problem| OpenError::Unusable { file: target.clone(), problem })?;
    let saved = states::list(&states::folder(&target), &content.sessions).map_err(failed)?.0.len();
    let Loaded { sessions, resting } = content.loaded();
    Ok(Some(AtRest { sessions, resting, saved }))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::store::{
        contract::{save, saved, session, wait},
        lock::LockError,
        open,
    };

    #[test]
    fn a_file_that_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        fs::write(&file, "mine").unwrap();
        for refused in [create(&file, &[session("1")]), write_new(&file, b"new")] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
            assert!(write_new(&folder.path().join("link"), b"new").is_err());
            assert!(!folder.path().join("nowhere").exists());
        }
    }

    #[test]
    fn what_is_created_opens_as_a_store_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        create(&file, &[session("1"), session("02")]).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let (_store, loaded) = open("json:sessions.json", folder.path(), Duration::ZERO, 0).unwrap();
        assert_eq!(loaded.sessions.len(), 2);
    }

    #[test]
    fn a_store_at_rest_is_read_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.json");
        assert!(read_at_rest(&file, 0).unwrap().is_none());
        create(&file, &[session("1")]).unwrap();
        let rests = read_at_rest(&file, 0).unwrap().unwrap();
        assert_eq!((rests.sessions.len(), rests.saved), (1, 0));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let (store, _) = open("json:sessions.json", folder.path(), Duration::ZERO, 0).unwrap();
        assert!(matches!(read_at_rest(&file, 0), Err(OpenError::Lock(LockError::Held { .. }))));
        for _ in 0..2 {
            wait(store.apply(save("1", saved(1, "x")))).unwrap();
        }
        wait(store.shutdown());
        // Of a session that is not there: a leftover.
        fs::write(folder.path().join("sessions.json.state/2-0-0.state"), "").unwrap();
        assert_eq!(read_at_rest(&file, 0).unwrap().unwrap().saved, 1);
        assert_eq!(fs::read_dir(folder.path().join("sessions.json.state")).unwrap().count(), 2, "nothing is removed");
        fs::write(&file, "{").unwrap();
        assert!(matches!(read_at_rest(&file, 0), Err(OpenError::Unusable { .. })));
    }
}
