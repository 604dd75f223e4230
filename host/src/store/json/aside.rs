//! The files of a `json:` store for those who do not work with them as a host does: read as they were at one moment, also beside a host that changes
//! them, and filled where no host is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::Path,
};

use super::{
    super::{
        SavedState,
        change::{Content, Sessions},
        disk::{Disk, RealDisk, beside, folder_of, put, step, write_new},
    },
    format, read,
    states::{self, Name, Saves, States},
};
use crate::sessions::SessionId;

/// How often the files are read again because they changed meanwhile.
const TRIES: usize = 200;

/// States that are written together.
const GROUP: usize = 64;

/// Why there is no such moment.
#[derive(Debug)]
pub(in crate::store) enum Unread {
    /// FILE is not there.
    Missing,
    /// All that is wrong with FILE.
    Damaged(Vec<String>),
    /// The system refused an operation; or FILE changes too fast.
    Io(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What was in the files at one moment.
#[derive(Debug)]
pub(in crate::store) struct Moment {
    /// FILE.
    pub(in crate::store) text: Vec<u8>,
    /// What it says.
    pub(in crate::store) content: Content,
    /// The file of each saved state.
    pub(in crate::store) states: BTreeMap<SessionId, Name>,
    /// How many such files no session has: what a crash left, or is about to be removed.
    pub(in crate::store) left: usize,
}

/// Reads the files as a host that ended at this moment would have left them. `look` gets the files of the states that `wanted` names, whole; of a
/// session more than one where it saved meanwhile.
///
/// A file of saved state is never changed, and no name comes again. So what counts is that FILE was the same before and after a look at the names: that moment is
/// it, if all the states of it could be read, whenever that was.
pub(in crate::store) fn moment(
    target: &Path,
    granted_until: u64,
    wanted: impl Fn(SessionId) -> bool,
    mut look: impl FnMut(Name, Vec<u8>) -> io::Result<()>,
) -> Result<Moment, Unread> {
    let folder = states::folder(target);
    let parse = |text: &[u8]| format::parse_all(text, granted_until);
    let state = |name: Name| {
        let file = folder.join(name.to_string());
        step("read", &file, || read(&file))
    };
    one_moment(|| read(target), || step("read", &folder, || states::names(&folder)), state, parse, wanted, &mut look)
}

fn one_moment(
    mut file: impl FnMut() -> io::Result<Option<Vec<u8>>>,
    mut names: impl FnMut() -> io::Result<Vec<Name>>,
    mut state: impl FnMut(Name) -> io::Result<Option<Vec<u8>>>,
    parse: impl Fn(&[u8]) -> Result<Content, Vec<String>>,
    wanted: impl Fn(SessionId) -> bool,
    look: &mut dyn FnMut(Name, Vec<u8>) -> io::Result<()>,
) -> Result<Moment, Unread> {
    let mut seen = BTreeSet::new();
    for _ in 0..TRIES {
        let text = file()?.ok_or(Unread::Missing)?;
        let names = names()?;
        if file()?.as_ref() != Some(&text) {
            continue;
        }
        let content = parse(&text).map_err(Unread::Damaged)?;
        let (states, left) = states::sort(names, &content.sessions);
        let mut whole = true;
        for name in states.values().filter(|name| wanted(name.id())) {
            if seen.contains(name) {
                continue;
            }
            match state(*name)? {
                Some(bytes) => {
                    look(*name, bytes)?;
                    seen.insert(*name);
                }
                // There is a newer one, or its session is closed.
                None => whole = false,
            }
        }
        if whole {
            return Ok(Moment { text, content, states, left: left.len() });
        }
    }
    Err(io::Error::other(format!("it changed each of the {TRIES} times that it was read")).into())
}

/// Copies the files of a moment to `to` and the folder beside it, where nothing may be: the states first, then FILE, so that where it is, all is.
/// `look` sees what is copied.
pub(in crate::store) fn copy(target: &Path, to: &Path, mut look: impl FnMut(Name, &[u8])) -> Result<Moment, Unread> {
    let folder = states::folder(to);
    let mut made = BTreeSet::new();
    let copied = moment(
        target,
        0,
        |_| true,
        |name, bytes| {
            look(name, &bytes);
            if made.is_empty() {
                step("make", &folder, || RealDisk.create_folder(&folder))?;
            }
            made.insert(name);
            let file = folder.join(name.to_string());
            step("write", &file, || write_new(&file, &bytes))
        },
    );
    let finished = copied.and_then(|moment| {
        let current: BTreeSet<Name> = moment.states.values().copied().collect();
        for name in made.difference(&current) {
            let file = folder.join(name.to_string());
            step("remove", &file, || fs::remove_file(&file))?;
        }
        step("write", to, || write_new(to, &moment.text))?;
        Ok(moment)
    });
    if finished.is_err() {
        // As far as possible: what stays is named by the next try.
        for name in made {
            let _ = fs::remove_file(folder.join(name.to_string()));
        }
        let _ = fs::remove_dir(&folder);
    }
    finished
}

/// Where all of it is put.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum To<'a> {
    /// A file that is not there. It appears last, and where it is, all is.
    New,
    /// A host's store, whose lock the caller has, without sessions; with the content of its FILE, where there is one. Where the process ends before all is
    /// done, a host finds no sessions.
    Store(Option<&'a [u8]>),
}

/// Puts all of this there. Where it fails, what was there is there, as far as the disk allows.
pub(in crate::store) fn fill(
    target: &Path,
    to: To<'_>,
    content: &Content,
    states: &mut dyn Iterator<Item = io::Result<(SessionId, SavedState)>>,
) -> io::Result<()> {
    // What is left over is removed below, and this would be.
    if matches!(to, To::New) && (target.symlink_metadata().is_ok() || states::any(target)?) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if matches!(to, To::Store(None)) {
        // Saved state without FILE would not be understood.
        step("write", target, || write_new(target, b"{}"))?;
    }
    let mut kept = States::open(&RealDisk, target, &Sessions::new())?;
    let mut reached = false;
    let filled = save(&mut kept, content, states).and_then(|()| match to {
        To::New => {
            let mut text = Vec::new();
            format::render(&mut text, content)?;
            step("write", target, || write_new(target, &text))
        }
        To::Store(_) => replace(target, &mut reached, |file| format::render(file, content)),
    });
    if filled.is_err() {
        // As far as possible; the first error is the one to tell.
        let _ = match to {
            To::Store(None) => fs::remove_file(target),
            To::Store(Some(before)) if reached => replace(target, &mut reached, |file| file.write_all(before)),
            To::New | To::Store(Some(_)) => Ok(()),
        };
        for id in content.sessions.keys() {
            kept.forget(*id);
        }
        let _ = kept.sweep(&RealDisk);
        // Only where it is empty.
        let _ = fs::remove_dir(states::folder(target));
    }
    filled
}

fn replace(
    target: &Path,
    reached: &mut bool,
    content: impl FnOnce(&mut io::BufWriter<<RealDisk as Disk>::File>) -> io::Result<()>,
) -> io::Result<()> {
    put(&RealDisk, &beside(target, ".tmp"), target, reached, content)?;
    let folder = folder_of(target);
    step("sync the folder", folder, || RealDisk.sync_folder(folder))
}

fn save(kept: &mut States, content: &Content, states: &mut dyn Iterator<Item = io::Result<(SessionId, SavedState)>>) -> io::Result<()> {
    loop {
        let mut group = Saves::new();
        for state in (&mut *states).take(GROUP) {
            let (id, state) = state?;
            let created_at = content.sessions.get(&id).map_or(0, |session| session.created_at);
            group.insert(id, (created_at, state));
        }
        if group.is_empty() {
            return Ok(());
        }
        if let Some((_, why)) = kept.save(&RealDisk, group).into_iter().next() {
            return Err(io::Error::other(why.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FILE and the names as they are at each look; what cannot be read is gone.
    fn looked(files: &[&str], names: &[&str], gone: &[&str]) -> (Result<Moment, Unread>, Vec<String>) {
        let text = |label: &str| format!(r#"{{"1": {{"id": "1", "pin": "0", "type": "a", "labels": {{"l": "{label}"}}}}}}"#).into_bytes();
        let (mut files, mut names) = (files.iter(), names.iter());
        let mut read = Vec::new();
        let moment = one_moment(
            || Ok(files.next().map(|label| text(label))),
            || Ok(names.next().and_then(|name| Name::parse(name)).into_iter().collect()),
            |name| Ok((!gone.contains(&&*name.to_string())).then(Vec::new)),
            |text| format::parse_all(text, 0),
            |_| true,
            &mut |name, _| {
                read.push(name.to_string());
                Ok(())
            },
        );
        (moment, read)
    }

    #[test]
    fn what_changes_while_it_is_read_is_read_again() {
        let (moment, read) = looked(&["a", "a"], &["1-0-0.state"], &[]);
        assert!(moment.is_ok() && read == ["1-0-0.state"]);
        // Between the two looks at FILE the names may have been of either.
        let (moment, read) = looked(&["a", "b", "b", "b"], &["1-0-0.state", "1-0-1.state"], &[]);
        assert!(moment.unwrap().text.windows(3).any(|part| part == b"\"b\""));
        assert_eq!(read, ["1-0-1.state"]);
        let (moment, read) = looked(&["a"; 4], &["1-0-0.state", "1-0-1.state"], &["1-0-0.state"]);
        assert!(moment.is_ok() && read == ["1-0-1.state"]);
        let (moment, _) = looked(&["a"; TRIES * 2], &["1-0-0.state"; TRIES], &["1-0-0.state"]);
        assert!(matches!(moment, Err(Unread::Io(error)) if error.to_string().contains("200 times")));
        assert!(matches!(looked(&[], &[], &[]).0, Err(Unread::Missing)));
    }
}
