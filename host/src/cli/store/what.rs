//! `--from WHAT` and `--to WHAT`.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{Failed, typed};
use crate::store::stock::Place;

/// What a SQLite database begins with.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// The store that this names, or the path that it is.
fn named(flag: &'static str, text: &str) -> Result<Result<Place, PathBuf>, Failed> {
    if text == "memory:" {
        return Err(Failed::What(flag, text.to_owned(), "a store in memory is in its host's process alone; name a file"));
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    if !scheme.is_some_and(|scheme| ["json", "sqlite"].contains(&scheme)) {
        return typed(Path::new(text)).map(Err);
    }
    Place::of(text, &typed(Path::new("."))?)?.map(Ok).ok_or(Failed::Memory)
}

/// The store that `--from` names. A file alone is a database of SQLite where it begins as one; else it is read as JSON, ours or the reference's.
pub(super) fn source(text: &str) -> Result<Place, Failed> {
    let file = match named("--from", text)? {
        Ok(place) => return Ok(place),
        Err(file) => file,
    };
    let failed = |problem| Failed::Read { file: file.clone(), problem };
    // Opening a pipe would wait for its writer.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut begin = Vec::new();
    File::open(&file).and_then(|opened| opened.take(SQLITE.len() as u64).read_to_end(&mut begin)).map_err(failed)?;
    Ok(if begin == SQLITE { Place::Sqlite(file) } else { Place::Json(file) })
}

/// Where `--to` says.
pub(super) enum Destination {
    /// A new store.
    Store(Place),
    /// The reference's file.
    Reference(PathBuf),
}

pub(super) fn destination(text: &str) -> Result<Destination, Failed> {
    Ok(match named("--to", text)? {
        Ok(place) => Destination::Store(place),
        Err(file) => Destination::Reference(file),
    })
}
