//! Sessions into and out of a store that no host works with: for commands, which have no use for an open store.
//!
//! Nothing here replaces a file.

use std::{io, path::Path, sync::Arc};

use super::{
    OpenError, SavedState, StoredSession, Url,
    change::Content,
    disk::{self, RealDisk, beside},
    json::{self, format},
    lock::FileLock,
    sqlite,
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

/// What a store holds while no host works with it.
#[derive(Debug, Default)]
pub struct AtRest {
    /// In the order of their ids.
    pub sessions: Vec<Arc<StoredSession>>,
    /// Ids that rest, in their order, and until when, in seconds since the Unix epoch.
    pub resting: Vec<(SessionId, u64)>,
    /// What their conductors have saved, of those that have saved anything.
    pub states: Vec<(SessionId, SavedState)>,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Ids that rest.
    pub resting: usize,
    /// Sessions with saved state.
    pub states: usize,
}

impl AtRest {
    /// How much it is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { sessions: self.sessions.len(), resting: self.resting.len(), states: self.states.len() }
    }
}

/// All that the store at `url` holds (a file is relative to `base`); nothing where its file is not there. Stored clients without an expiry get
/// `granted_until` (seconds since the Unix epoch). Neither the file nor anything beside it is changed.
///
/// # Errors
/// Where a host uses the store, where the file or any saved state cannot be read and understood, where the url is unknown or is `memory:`, which ends
/// with its process.
pub fn read_at_rest(url: &str, base: &Path, granted_until: u64) -> Result<Option<AtRest>, OpenError> {
    match Url::parse(url)? {
        Url::Memory => Err(OpenError::NothingAtRest),
        Url::Json(file) => json::at_rest::read(&base.join(file), granted_until),
        Url::Sqlite(file) => sqlite::read_at_rest(&base.join(file)),
    }
}

/// Makes a new store at `url`, whole or not at all, durable when this returns. Its folder is made where it is missing.
///
/// # Errors
/// [`OpenError::Io`] where it cannot be written, with [`io::ErrorKind::AlreadyExists`] where there is a file already, which stays as it is. Where the url is
/// unknown or is `memory:`.
pub fn create_at(url: &str, base: &Path, content: AtRest) -> Result<(), OpenError> {
    let parsed = Url::parse(url)?;
    let (Url::Json(file) | Url::Sqlite(file)) = parsed else { return Err(OpenError::NothingAtRest) };
    let file = base.join(file);
    let failed = |source| OpenError::Io { file: file.clone(), source };
    let target = json::resolve(&RealDisk, &file).map_err(failed)?;
    let _lock = FileLock::if_used("store", &target, beside(&target, ".lock"))?;
    match parsed {
        Url::Json(_) => json::at_rest::create(&target, &content),
        _ => sqlite::create(&target, content),
    }
    .map_err(failed)
}

/// Copies the `sqlite:` store at `url` (a file is relative to `base`) into the new file `to`, whether a host works with it or not, and looks at the copy as a
/// start does. The copy is a store: a `sqlite:` url can name it.
///
/// # Errors
/// Where either cannot be read or written, where there is a file `to` already, and for a url that is not `sqlite:`, whose files any program can copy.
pub fn backup(url: &str, base: &Path, to: &Path) -> Result<Counts, OpenError> {
    match Url::parse(url)? {
        Url::Sqlite(file) => sqlite::backup(&base.join(file), to),
        Url::Memory | Url::Json(_) => Err(OpenError::NoBackup),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::store::{
        Change,
        contract::{create as create_session, id, join, save, saved, session, wait},
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

    fn at_rest(folder: &Path, url: &str) -> Result<Option<AtRest>, OpenError> {
        read_at_rest(url, folder, 0)
    }

    fn in_folder(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let entry = |entry: io::Result<fs::DirEntry>| entry.unwrap();
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(entry).filter(|entry| entry.path().is_file()).collect();
        files.sort_by_key(fs::DirEntry::file_name);
        files.iter().map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    }

    #[test]
    fn a_store_at_rest_is_read_and_nothing_is_made() {
        for url in ["json:sessions.json", "sqlite:sessions.db"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(url.split_once(':').unwrap().1);
            assert!(at_rest(folder.path(), url).unwrap().is_none());
            let first = AtRest { sessions: vec![session("1")], ..AtRest::default() };
            create_at(url, folder.path(), first).unwrap();
            assert_eq!(at_rest(folder.path(), url).unwrap().unwrap().counts(), Counts { sessions: 1, resting: 0, states: 0 });
            assert_eq!(in_folder(folder.path()).len(), 1, "{url}");
            let (store, _) = open(url, folder.path(), Duration::ZERO, 0).unwrap();
            assert!(matches!(at_rest(folder.path(), url), Err(OpenError::Lock(LockError::Held { .. }))));
            for _ in 0..2 {
                wait(store.apply(save("1", saved(1, "x")))).unwrap();
            }
            wait(store.apply(create_session("02"))).unwrap();
            wait(store.apply(join("02", "a", 9))).unwrap();
            wait(store.apply(Change::Close(id("02")))).unwrap();
            wait(store.shutdown());
            let before = in_folder(folder.path());
            let rests = at_rest(folder.path(), url).unwrap().unwrap();
            assert_eq!(
                (rests.sessions.len(), &rests.resting[..], &rests.states[..]),
                (1, &[(id("02"), 9)][..], &[(id("1"), saved(1, "x"))][..])
            );
            assert_eq!(in_folder(folder.path()), before, "{url}");
            fs::write(&file, "{").unwrap();
            assert!(matches!(at_rest(folder.path(), url), Err(OpenError::Unusable { .. })));
        }
        assert!(matches!(at_rest(Path::new("/"), "memory:"), Err(OpenError::NothingAtRest)));
    }

    #[test]
    fn all_of_a_store_goes_from_one_kind_to_the_other_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let all = || AtRest {
            sessions: vec![session("1"), session("02")],
            resting: vec![(id("3"), 7), (id("0004"), u64::MAX)],
            states: vec![(id("1"), saved(u32::MAX, "\n\0")), (id("02"), saved(0, ""))],
        };
        create_at("json:a.json", folder.path(), all()).unwrap();
        for (from, to) in [("json:a.json", "sqlite:sub/b.db"), ("sqlite:sub/b.db", "json:c.json")] {
            create_at(to, folder.path(), at_rest(folder.path(), from).unwrap().unwrap()).unwrap();
            let again = create_at(to, folder.path(), AtRest::default()).unwrap_err();
            assert!(matches!(again, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        }
        assert_eq!(fs::read(folder.path().join("a.json")).unwrap(), fs::read(folder.path().join("c.json")).unwrap());
        let last = at_rest(folder.path(), "json:c.json").unwrap().unwrap();
        assert_eq!((last.resting, last.states), (all().resting, all().states));
        assert!(matches!(create_at("memory:", folder.path(), all()), Err(OpenError::NothingAtRest)));
    }

    #[test]
    fn a_backup_is_whole_whether_a_host_runs_or_not_and_opens_as_a_store() {
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str| folder.path().join(name);
        let (store, _) = open("sqlite:a.db", folder.path(), Duration::ZERO, 0).unwrap();
        wait(store.apply(create_session("1"))).unwrap();
        wait(store.apply(save("1", saved(1, "x")))).unwrap();
        let one = Counts { sessions: 1, resting: 0, states: 1 };
        assert_eq!(backup("sqlite:a.db", folder.path(), &to("live.db")).unwrap(), one);
        wait(store.apply(create_session("2"))).unwrap();
        assert!(matches!(backup("sqlite:a.db", folder.path(), &to("live.db")), Err(OpenError::Io { .. })), "there already");
        wait(store.shutdown());
        assert_eq!(backup("sqlite:a.db", folder.path(), &to("rest.db")).unwrap(), Counts { sessions: 2, ..one });
        for (copy, sessions) in [("live.db", 1), ("rest.db", 2)] {
            let (store, loaded) = open(&format!("sqlite:{copy}"), folder.path(), Duration::ZERO, 0).unwrap();
            assert_eq!((loaded.sessions.len(), wait(store.state(id("1"))).unwrap()), (sessions, Some(saved(1, "x"))));
            wait(store.apply(create_session("3"))).unwrap();
            wait(store.shutdown());
        }
        assert!(backup("sqlite:none.db", folder.path(), &to("c")).is_err() && !to("c").exists());
        assert!(matches!(backup("json:a.json", folder.path(), &to("c")), Err(OpenError::NoBackup)));
    }
}
