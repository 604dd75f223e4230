//! What is kept of the budgets of pins over a restart: else a restart would give every guesser new tries.
//!
//! The file is replaced as a whole, every [`PERIOD`] while something changes, when an administrator opens or rotates a pin, and at the end of the host. A crash loses what failed since the last time, so at most what
//! a pin's budget allows at once. Only budgets of sessions that are there are in it, and none of one that is as new.

use std::{fs, io, io::Write as _, path::Path, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};

use crate::tokens::keys::sync_folder;

/// How often it is written, where something has changed.
pub const PERIOD: Duration = Duration::from_secs(10);

const BEGIN: &[u8] = b"conductor-host join budgets 1\n";
const SUM: usize = 32;
const ENTRY: usize = 24;

/// The budget of one session's pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The session's id, packed.
    pub id: u64,
    /// When that session was created: a later one of that id begins with a whole budget.
    pub created_at: u64,
    /// See [`PinBudget::word`](super::budget::PinBudget::word).
    pub word: u64,
}

/// What was found at the start.
#[derive(Debug)]
pub enum Found {
    /// What was kept; nothing where there is no file.
    Budgets(Vec<Saved>),
    /// A file that does not say what was kept; why.
    Damaged(String),
}

/// Reads the file.
#[must_use]
pub fn read(path: &Path) -> Found {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes).map_or_else(|| Found::Damaged("it is not what was written".into()), Found::Budgets),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Budgets(Vec::new()),
        Err(error) => Found::Damaged(error.to_string()),
    }
}

/// Replaces the file.
///
/// # Errors
/// Where that fails; the file is then as it was.
pub fn write(path: &Path, budgets: &[Saved]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".join-budgets-").tempfile_in(folder)?;
    file.write_all(&encode(budgets))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

fn encode(budgets: &[Saved]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BEGIN.len() + budgets.len() * ENTRY + SUM);
    bytes.extend_from_slice(BEGIN);
    for budget in budgets {
        [budget.id, budget.created_at, budget.word].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }
    let sum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(sum.as_ref());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Saved>> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    let entries = content.strip_prefix(BEGIN)?;
    if digest(&SHA256, content).as_ref() != sum || entries.len() % ENTRY != 0 {
        return None;
    }
    let number = |entry: &[u8], at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&entry[at * 8..][..8]);
        u64::from_le_bytes(bytes)
    };
    Some(entries.chunks_exact(ENTRY).map(|e| Saved { id: number(e, 0), created_at: number(e, 1), word: number(e, 2) }).collect())
}

#[cfg(any(test, fuzzing))]
#[path = "saved_fuzz.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_no_byte_less_and_none_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-budgets");
        assert!(matches!(read(&path), Found::Budgets(none) if none.is_empty()));
        let budgets = [Saved { id: 1, created_at: 2, word: 3 }, Saved { id: u64::MAX, created_at: 0, word: 5 }];
        for written in [&budgets[..], &[], &budgets[1..]] {
            write(&path, written).unwrap();
            assert!(matches!(read(&path), Found::Budgets(found) if found == written));
        }
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(matches!(read(&path), Found::Damaged(_)), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(&path), Found::Damaged(_)), "cut at {at}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    }
}
