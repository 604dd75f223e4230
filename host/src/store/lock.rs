//! One host at a time: a lock of the operating system on a file, so that it is gone with its process however that ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::disk::{Disk as _, RealDisk, private_file};

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another conductor-host uses this {what}: {}. Stop that one, or give this one its own {what}", path.display())]
    Held {
        /// `store` or `state folder`.
        what: &'static str,
        /// The store's file, or the folder.
        path: PathBuf,
    },
    /// The state folder is open to others, and cannot be closed to them.
    #[error("others may look into the state folder {}, which holds pins and keys, and it cannot be closed to them: {source}. Run `chmod 700` on it as its owner", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The lock file cannot be made or locked.
    #[error("the {what} {} cannot be locked through {}: {source}", path.display(), lock_file.display())]
    Io {
        /// `store` or `state folder`.
        what: &'static str,
        /// The store's file, or the folder.
        path: PathBuf,
        /// The file that carries the lock.
        lock_file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Says that the state folder belongs to this process, for as long as the value lives.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held for its lock, which ends when it is dropped")] FileLock);

impl StateLock {
    /// Takes the state folder, which is made (for its owner alone) where it is missing; one that is there and that others may look into becomes so. The lock is on the file `lock` in it,
    /// which stays there and means nothing by itself.
    ///
    /// # Errors
    /// [`LockError::Held`] where another process has it; [`LockError::Io`] where folder or file cannot be made.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let lock_file = dir.join("lock");
        let what = "state folder";
        RealDisk.create_folder(dir).map_err(|source| LockError::Io { what, path: dir.into(), lock_file: lock_file.clone(), source })?;
        close_to_others(dir).map_err(|source| LockError::Open { path: dir.into(), source })?;
        FileLock::acquire(what, dir, lock_file).map(Self)
    }

    /// As [`StateLock::acquire`], but makes nothing: no lock where there is no lock file, since then no host has been there.
    ///
    /// # Errors
    /// As [`StateLock::acquire`].
    pub fn if_used(dir: &Path) -> Result<Option<Self>, LockError> {
        Ok(FileLock::if_used("state folder", dir, dir.join("lock"))?.map(Self))
    }
}

/// Pins and keys are in it: mode 0700.
#[cfg(unix)]
fn close_to_others(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(dir)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    tracing::warn!(folder = %dir.display(), "others could look into the state folder (mode {mode:04o}); it is its owner's alone now (0700)");
    Ok(())
}

/// Windows: a folder has the rights of the one it is in.
#[cfg(not(unix))]
const fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// A locked file.
#[derive(Debug)]
pub(super) struct FileLock(File);

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that was forked meanwhile; where this fails, closing still does its part.
        let _ = self.0.unlock();
    }
}

impl FileLock {
    /// Locks `lock_file` where it is there; where it is not, nobody has it and nothing is made.
    pub(super) fn if_used(what: &'static str, path: &Path, lock_file: PathBuf) -> Result<Option<Self>, LockError> {
        if lock_file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Self::acquire(what, path, lock_file).map(Some)
    }

    /// Locks `lock_file` in the name of `path`.
    pub(super) fn acquire(what: &'static str, path: &Path, lock_file: PathBuf) -> Result<Self, LockError> {
        // The file is never removed: a process that waits on a removed one and a process that makes a new one would both succeed.
        let opened = private_file(OpenOptions::new().write(true).create(true).truncate(false)).open(&lock_file);
        let path = path.to_owned();
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(LockError::Io { what, path, lock_file, source }),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { what, path }),
            Err(TryLockError::Error(source)) => Err(LockError::Io { what, path, lock_file, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader, Read},
        process::{Command, Stdio},
    };

    use super::*;

    const FOLDER: &str = "CONDUCTOR_HOST_TEST_LOCK";

    #[test]
    fn a_state_folder_is_made_and_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        let lock = StateLock::acquire(&state).unwrap();
        let error = StateLock::acquire(&state).unwrap_err().to_string();
        assert!(error.starts_with("another conductor-host uses this state folder: "), "{error}");
        assert!(error.contains(&state.display().to_string()), "{error}");
        drop(lock);
        StateLock::acquire(&state).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = || state.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode(), 0o700);
            for wider in [0o755, 0o750, 0o701, 0o1777] {
                std::fs::set_permissions(&state, std::fs::Permissions::from_mode(wider)).unwrap();
                StateLock::acquire(&state).unwrap();
                assert_eq!(mode(), 0o700, "after {wider:o}");
            }
        }
    }

    #[test]
    fn a_lock_that_is_only_looked_for_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(StateLock::if_used(&state).unwrap().is_none() && !state.exists());
        let lock = StateLock::acquire(&state).unwrap();
        assert!(matches!(StateLock::if_used(&state), Err(LockError::Held { .. })));
        drop(lock);
        assert!(StateLock::if_used(&state).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = StateLock::acquire(&file).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }) && error.to_string().contains("file"), "{error}");
    }

    /// Not a test by itself: the process that the next test starts and kills.
    #[test]
    fn holder() {
        let Some(folder) = env::var_os(FOLDER) else { return };
        let _lock = StateLock::acquire(Path::new(&folder)).unwrap();
        println!("locked");
        // Until the parent ends, at the latest.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_lock_is_gone_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut holder = Command::new(env::current_exe().unwrap())
            .args(["--exact", "store::lock::tests::holder", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("locked")));
        assert!(matches!(StateLock::acquire(folder.path()), Err(LockError::Held { .. })));
        holder.kill().unwrap();
        holder.wait().unwrap();
        StateLock::acquire(folder.path()).unwrap();
    }
}
