//! Saved state: one file for each session that has any, in the folder FILE.state.
//!
//! `123456-1735689600123-7.state` is of the session 123456 that was made at that time, so a later session of this id never gets it. Each save
//! makes a file with a larger last number and then removes the one before: until it is durable, the former state is untouched.
//! Where a crash leaves several, the one with the largest number counts.
//!
//! The first line is `conductor-state 1 VERSION SHA256`, all behind it is what the conductor saved, as it was. VERSION is of its author's choosing,
//! and the hash is of `VERSION`, a line feed and the bytes.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

use super::{
    super::{
        SavedState, StoreError,
        change::Sessions,
        disk::{Disk, beside, put, step},
    },
    read,
};
use crate::sessions::SessionId;

const MAGIC: &str = "conductor-state";
const FORMAT: &str = "1";

/// The name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Name {
    id: SessionId,
    created_at: u64,
    number: u64,
}

impl Name {
    /// Whose state it is.
    pub(in crate::store) const fn id(self) -> SessionId {
        self.id
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(".state")?.split('-');
        let name =
            Self { id: SessionId::parse(parts.next()?)?, created_at: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? };
        // Nothing but what is written here, and with numbers left above it.
        (name.number < u64::MAX / 2 && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}.state", self.id, self.created_at, self.number)
    }
}

/// The folder of a store's file.
pub(in crate::store) fn folder(file: &Path) -> PathBuf {
    beside(file, ".state")
}

/// What is in `folder`: the file that counts of each of `sessions`, and those that do not count. What has another name is not ours.
pub(in crate::store) fn list(folder: &Path, sessions: &Sessions) -> io::Result<(BTreeMap<SessionId, Name>, Vec<Name>)> {
    Ok(sort(names(folder)?, sessions))
}

/// The names of all files of ours in `folder`; none where there is no folder.
pub(in crate::store) fn names(folder: &Path) -> io::Result<Vec<Name>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().to_str().and_then(Name::parse));
    }
    Ok(names)
}

/// As [`list`], of these files.
pub(in crate::store) fn sort(names: Vec<Name>, sessions: &Sessions) -> (BTreeMap<SessionId, Name>, Vec<Name>) {
    let (mut current, mut left) = (BTreeMap::<SessionId, Name>::new(), Vec::new());
    for name in names {
        if sessions.get(&name.id).is_none_or(|session| session.created_at != name.created_at) {
            left.push(name);
            continue;
        }
        let older = match current.get(&name.id) {
            Some(known) if known.number > name.number => Some(name),
            _ => current.insert(name.id, name),
        };
        left.extend(older);
    }
    (current, left)
}

/// Whether there is any saved state beside `file`.
pub(in crate::store) fn any(file: &Path) -> io::Result<bool> {
    Ok(!names(&folder(file))?.is_empty())
}

/// States to be saved: of each session when it was made, and the state.
pub(super) type Saves = BTreeMap<SessionId, (u64, SavedState)>;

/// The writer's view of the folder.
pub(super) struct States {
    folder: PathBuf,
    temporary: PathBuf,
    current: BTreeMap<SessionId, Name>,
    /// Larger than the number of every file.
    next: u64,
    /// Files that count no more and are still to be removed.
    garbage: Vec<PathBuf>,
    /// One of those is of a save that was refused: after a crash it would count.
    unsettled: bool,
    /// Whoever was killed here may have left names that are not durable yet. Nothing is removed for their sake before they are.
    unsure: bool,
}

impl States {
    /// Takes the states of `sessions` from the folder beside `file`, and removes what is left over in it.
    pub(super) fn open(disk: &impl Disk, file: &Path, sessions: &Sessions) -> io::Result<Self> {
        let folder = folder(file);
        let (current, left) = step("read", &folder, || list(&folder, sessions))?;
        let next = current.values().chain(&left).map(|name| name.number + 1).max().unwrap_or(0);
        let temporary = folder.join("tmp");
        // No later save may ever come that would remove what a crash left there.
        let unfinished = temporary.symlink_metadata().is_ok().then(|| temporary.clone());
        let garbage = left.iter().map(|name| folder.join(name.to_string())).chain(unfinished).collect();
        let mut states = Self { temporary, folder, current, next, garbage, unsettled: false, unsure: true };
        if !left.is_empty() {
            tracing::info!(files = left.len(), "removing saved state that no session has any more");
        }
        if let Err(error) = states.sweep(disk) {
            tracing::warn!(%error, "saved state that no session has any more stays for now");
        }
        Ok(states)
    }

    /// Makes these durable, all with one sync of the folder. Each that is in the answer was refused for the reason there, and its session has the state
    /// that it had. One that cannot be written concerns no other; a folder that cannot be synced concerns all.
    pub(super) fn save(&mut self, disk: &impl Disk, saves: Saves) -> BTreeMap<SessionId, Arc<str>> {
        let mut refused = BTreeMap::new();
        let mut written = Vec::new();
        for (id, (created_at, state)) in saves {
            let name = Name { id, created_at, number: self.next };
            self.next += 1;
            match self.write(disk, name, &state) {
                Ok(()) => written.push(name),
                Err(error) => drop(refused.insert(id, error.to_string().into())),
            }
        }
        if written.is_empty() {
            return refused;
        }
        match step("sync the folder", &self.folder, || disk.sync_folder(&self.folder)) {
            Ok(()) => {
                self.unsure = false;
                for name in written {
                    self.forget(name.id);
                    self.current.insert(name.id, name);
                }
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                for name in written {
                    self.discard(name);
                    refused.insert(name.id, Arc::clone(&why));
                }
            }
        }
        refused
    }

    fn write(&mut self, disk: &impl Disk, name: Name, state: &SavedState) -> io::Result<()> {
        step("make", &self.folder, || disk.create_folder(&self.folder))?;
        let mut reached = false;
        let header = format!("{MAGIC} {FORMAT} {} {}\n", state.version, hash(state.version, &state.bytes));
        let put = put(disk, &self.temporary, &self.folder.join(name.to_string()), &mut reached, |file| {
            file.write_all(header.as_bytes())?;
            file.write_all(&state.bytes)
        });
        if put.is_err() && reached {
            self.discard(name);
        }
        put
    }

    /// The file may be there and must not count.
    fn discard(&mut self, refused: Name) {
        self.garbage.push(self.folder.join(refused.to_string()));
        self.unsettled = true;
    }

    /// The state of this session counts no more.
    pub(super) fn forget(&mut self, id: SessionId) {
        if let Some(name) = self.current.remove(&id) {
            self.garbage.push(self.folder.join(name.to_string()));
        }
    }

    /// Removes what counts no more; what cannot be removed is tried again with the next call.
    pub(super) fn sweep(&mut self, disk: &impl Disk) -> io::Result<()> {
        if self.unsure && !self.garbage.is_empty() {
            step("sync the folder", &self.folder, || disk.sync_folder(&self.folder))?;
            self.unsure = false;
        }
        let mut problem = None;
        self.garbage.retain(|path| match step("remove", path, || disk.remove(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                problem = Some(error);
                true
            }
            _ => false,
        });
        if let Some(error) = problem {
            return Err(error);
        }
        if self.unsettled {
            step("sync the folder", &self.folder, || disk.sync_folder(&self.folder))?;
            self.unsettled = false;
        }
        Ok(())
    }

    /// Whether a save would work now, as far as one can tell without saving; sweeps, too.
    pub(super) fn probe(&mut self, disk: &impl Disk) -> io::Result<()> {
        step("make", &self.folder, || disk.create_folder(&self.folder))?;
        step("write", &self.temporary, || {
            let mut file = disk.create(&self.temporary)?;
            file.write_all(MAGIC.as_bytes())?;
            disk.sync(&mut file)?;
            disk.remove(&self.temporary)
        })?;
        step("sync the folder", &self.folder, || disk.sync_folder(&self.folder))?;
        self.sweep(disk)
    }

    /// The state of this session, as durable.
    pub(super) fn read(&self, id: SessionId) -> Result<Option<SavedState>, StoreError> {
        let Some(name) = self.current.get(&id) else { return Ok(None) };
        read_one(&self.folder.join(name.to_string()), id).map(Some)
    }
}

fn read_one(path: &Path, id: SessionId) -> Result<SavedState, StoreError> {
    let problem = match read(path) {
        Ok(Some(content)) => match parse(content) {
            Ok(state) => return Ok(state),
            Err(problem) => problem.to_owned(),
        },
        Ok(None) => "the file is gone".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(StoreError::State(id, format!("{}: {problem}", path.display()).into()))
}

/// The state in a file, or what is wrong. No message shows anything of the file.
pub(in crate::store) fn parse(content: Vec<u8>) -> Result<SavedState, &'static str> {
    let damaged = "its first line is not `conductor-state 1 VERSION SHA256`";
    let end = content.iter().position(|byte| *byte == b'\n').ok_or(damaged)?;
    let header = str::from_utf8(&content[..end]).map_err(|_| damaged)?;
    let [magic, format, version, sum] = header.split(' ').collect::<Vec<_>>()[..] else { return Err(damaged) };
    if magic != MAGIC {
        return Err(damaged);
    }
    if format != FORMAT {
        return Err("its first line names a format that this version of the host does not know");
    }
    let version = version.parse().map_err(|_| damaged)?;
    if hash(version, &content[end + 1..]) != sum {
        return Err("it is damaged: its content is not what was saved");
    }
    Ok(SavedState { version, bytes: Bytes::from(content).slice(end + 1..) })
}

fn hash(version: u32, bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(format!("{version}\n").as_bytes());
    context.update(bytes);
    hex(context)
}

/// What was summed up, in lower case hexadecimal digits.
pub(super) fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
