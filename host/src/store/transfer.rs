//! Sessions out of a text and into a new file, for `migrate`.
//!
//! Nothing here replaces a file.

use std::{io, path::Path, sync::Arc};

use super::{StoredSession, change::Content, disk, json::format};

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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::store::{contract::session, open};

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
}
