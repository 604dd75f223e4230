//! That the sessions of a `json:` store went into a database, written down beside its FILE. Where the database is taken away later, the next start begins
//! without sessions, as it says, and not with those of long ago.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::disk::{beside, write_new};

const TEXT: &str = "\
The sessions of the file beside this one were taken over into an SQLite database. A start does not read that file any more, whether the
database is still there or not. To have its sessions again: conductor-host store import --from json:FILE
Without this file, a start that finds no database takes them over once more.
";

fn marker(json: &Path) -> PathBuf {
    beside(json, ".imported")
}

/// Whether the store in the file `json` was taken over.
pub(super) fn is(json: &Path) -> bool {
    marker(json).symlink_metadata().is_ok()
}

/// Writes down that it was, durable when this returns. Where that fails it is said, and the next start tries again: the database is there, and counts.
pub(super) fn mark(json: &Path) {
    match write_new(&marker(json), TEXT.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => tracing::warn!(
            "{} cannot be written: {error}. Without it and without the database, a start would take over {} once more",
            marker(json).display(),
            json.display()
        ),
        _ => {}
    }
}
