//! The single file operations that a store's promise rests on, behind a trait: a test makes each of them fail, or stops
//! between two of them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What a store needs of a file system. Called by the store's writer thread alone; every call may block.
pub(super) trait Disk: Send + 'static {
    /// A file open for writing; what is written to it may stay in memory until [`Disk::sync`].
    type File: io::Write;

    /// Makes a new file that only its owner may read. What has this name already, a leftover of a crash, is removed before.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Returns once the content would survive a power cut.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;

    /// Puts `from` in the place of `to`: whoever opens `to` sees the one or the other, each whole.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Returns once the names in `folder` would survive a power cut.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes the file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes this one folder, for its owner alone.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes the folder and those above it where they are missing, and durably so.
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let above = folder_of(folder);
        self.create_folder(above)?;
        match self.make_folder(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
            _ => self.sync_folder(above).inspect_err(|_| {
                // As far as possible: the next try must not take it for durable.
                let _ = fs::remove_dir(folder);
            }),
        }
    }
}

/// Makes durable the names that whoever was killed here may have left beside `target`: nothing is built on them before. Then the name of the folder,
/// as far as this host may: the one above is not its own.
pub(super) fn sync_names(disk: &impl Disk, target: &Path) -> io::Result<()> {
    let folder = folder_of(target);
    let synced = disk.sync_folder(folder);
    let _ = disk.sync_folder(folder_of(folder));
    synced
}

/// Bytes that go to a file at once.
const CHUNK: usize = 64 * 1024;

/// Writes `temporary`, syncs it and puts it in the place of `target`: there all the time is the one or the other, each whole. It is durable
/// once the folder has been synced. `reached` becomes true where, whatever the answer, `target` may be the new one.
pub(super) fn put<D: Disk>(
    disk: &D,
    temporary: &Path,
    target: &Path,
    reached: &mut bool,
    content: impl FnOnce(&mut io::BufWriter<D::File>) -> io::Result<()>,
) -> io::Result<()> {
    let prepared = step("write", temporary, || {
        let mut file = io::BufWriter::with_capacity(CHUNK, disk.create(temporary)?);
        content(&mut file)?;
        file.flush()?;
        disk.sync(file.get_mut())
    });
    let renamed = prepared.and_then(|()| {
        *reached = true;
        step("rename", temporary, || disk.rename(temporary, target))
    });
    if renamed.is_err() {
        // As far as possible: a leftover does no harm, and the next write removes it first.
        let _ = disk.remove(temporary);
    }
    renamed
}

/// Says in the error what was done to which path.
pub(super) fn step<T>(doing: &str, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run().map_err(|error| io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", path.display())))
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // `create_new` follows no symbolic link that was put there meanwhile.
        private_file(OpenOptions::new().write(true).create_new(true)).open(path)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_name(to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        private_folder().create(folder)
    }
}

/// Puts a whole file where none was, for its owner alone, durable when this returns. The folder must be there.
pub(super) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    // Of mode 0600 from its creation.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_name(path).and_then(|()| sync_folder(folder)).inspect_err(|_| {
        // As far as possible: what is not durable is not there.
        let _ = fs::remove_file(path);
    })
}

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// `path` with `suffix` behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes this folder and those above it where they are missing, for their owner alone, and durably so.
pub(crate) fn create_private_folder(folder: &Path) -> io::Result<()> {
    RealDisk.create_folder(folder)
}

#[cfg(unix)]
pub(crate) fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

/// Takes away from others what they may do with a file.
#[cfg(unix)]
pub(super) fn make_private(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::metadata(file)?.permissions().mode() & 0o777 {
        0o600 => Ok(()),
        _ => fs::set_permissions(file, fs::Permissions::from_mode(0o600)),
    }
}

#[cfg(unix)]
fn private_folder() -> fs::DirBuilder {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Here a name is the folder's, and durable with it.
#[cfg(unix)]
pub(super) const fn sync_name(_: &Path) -> io::Result<()> {
    Ok(())
}

/// A folder cannot be synced by itself. A file's last name is in its own record, and a sync of the file brings the journal that far.
#[cfg(not(unix))]
pub(super) fn sync_name(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.sync_all()
}

// Windows: files inherit the rights of their folder.
#[cfg(not(unix))]
pub(crate) fn private_file(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(not(unix))]
pub(super) fn make_private(file: &Path) -> io::Result<()> {
    fs::metadata(file).map(drop)
}

#[cfg(not(unix))]
fn private_folder() -> fs::DirBuilder {
    fs::DirBuilder::new()
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
