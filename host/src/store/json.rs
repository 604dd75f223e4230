//! `json:FILE`: every session in one readable file, rewritten whole at each change.
//!
//! One thread owns the sessions and writes them. All that waits when it starts shares a write: a temporary file beside
//! FILE, sync, rename, sync of the folder, and only then the answers. So FILE is whole at every moment, and holds what was
//! acknowledged. A write that fails refuses its changes and takes them back. What conductors save is beside FILE: see [`states`].

pub(super) mod aside;
pub(crate) mod format;
pub(super) mod states;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs, io, iter, mem,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    Applied, Change, OpenError, Opened, SavedState, StoreError,
    change::{Content, Undo},
    disk::{Disk, beside, folder_of, put, step, sync_names},
    lock::FileLock,
    queue::{Part, Queue, Trouble, Work},
};
use crate::sessions::SessionId;
use states::{Saves, States};

/// So many sessions that writing all of them at each change takes longer than it should.
const MANY: usize = 1000;

/// How many states are written before sessions have their turn again.
const GROUP: usize = 16;

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;

/// Locks and loads `file`. Clients that have no expiry in it get `granted_until` (seconds since the Unix epoch).
pub(super) fn open(file: &Path, granted_until: u64, retry: Duration, disk: impl Disk) -> Opened<Queue> {
    let failed = |source| OpenError::Io { file: file.to_owned(), source };
    let target = resolve(&disk, file).map_err(failed)?;
    let lock = FileLock::acquire("store", &target, beside(&target, ".lock"))?;
    let unusable = |problem| OpenError::Unusable { file: target.clone(), problem };
    let content = match read(&target).map_err(failed)? {
        // FILE is there before any state is saved: somebody has taken it away, and may bring it back.
        None if states::any(&target).map_err(failed)? => {
            return Err(unusable("it is missing, and the saved state of its sessions is there".into()));
        }
        None => Content::default(),
        Some(bytes) => format::parse(&bytes, granted_until).map_err(unusable)?,
    };
    let unsettled = sync_names(&disk, &target).is_err();
    let states = States::open(&disk, &target, &content.sessions).map_err(failed)?;
    let loaded = content.loaded();
    let trouble = Trouble::default();
    let temporary = beside(&target, ".tmp");
    let writer = Writer {
        content,
        states,
        saves: VecDeque::new(),
        disk,
        target,
        temporary,
        trouble: trouble.clone(),
        unsettled,
        many: false,
        retry,
        _lock: lock,
    };
    let queue = Queue::start(trouble, move |queue| writer.run(queue)).map_err(failed)?;
    Ok((queue, loaded))
}

/// Follows FILE where it is a symbolic link, to something or to nothing yet, so that a write replaces what the link names and
/// not the link. The folder is made where it is missing.
pub(super) fn resolve(disk: &impl Disk, file: &Path) -> io::Result<PathBuf> {
    let mut path = file.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => path = folder_of(&path).join(fs::read_link(&path)?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {
                let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
                disk.create_folder(folder_of(&path))?;
                return Ok(folder_of(&path).canonicalize()?.join(name));
            }
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// The content; nothing where there is no file.
pub(super) fn read(target: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        // A pipe, say, would never end.
        Ok(found) if !found.is_file() => Err(io::Error::other("it is not a regular file")),
        Ok(_) => fs::read(target).map(Some),
    }
}

/// A state that is still to be written, and the answer to give once that is done.
struct Save {
    id: SessionId,
    created_at: u64,
    state: SavedState,
    to: oneshot::Sender<Applied>,
    answer: Applied,
}

/// What the thread owns.
struct Writer<D> {
    content: Content,
    states: States,
    /// Of stored sessions; in the order in which they came.
    saves: VecDeque<Save>,
    disk: D,
    target: PathBuf,
    temporary: PathBuf,
    trouble: Trouble,
    /// A write failed at its rename or after it: the file may hold changes that were refused, until one succeeds.
    unsettled: bool,
    /// Whether it was said that there are [`MANY`].
    many: bool,
    retry: Duration,
    _lock: FileLock,
}

impl<D: Disk> Writer<D> {
    fn count(&mut self) {
        let sessions = self.content.sessions.len();
        if sessions > MANY && !self.many {
            self.many = true;
            tracing::warn!(
                sessions,
                "a json: store writes all sessions at each change, and is slow above {MANY} of them. To move into a database: stop the host, set store.url to \
                 sqlite:FILE, run `conductor-host store import --config SETTINGS --from json:{}`, start it again",
                self.target.display()
            );
        }
    }

    fn run(mut self, queue: &mpsc::Receiver<Work>) {
        let mut end = None;
        while end.is_none() {
            self.count();
            let first = if self.saves.is_empty() {
                let Some(first) = self.next(queue) else { break };
                Some(first)
            } else {
                queue.try_recv().ok()
            };
            let (mut batch, mut then) = (Vec::new(), None);
            for work in first.into_iter().chain(iter::from_fn(|| queue.try_recv().ok())) {
                match work {
                    Work::Change(change, answer) => batch.push((change, answer)),
                    other => {
                        then = Some(other);
                        break;
                    }
                }
            }
            self.commit(batch);
            self.save_some();
            match then {
                Some(Work::State(id, answer)) => {
                    while self.saves.iter().any(|save| save.id == id) {
                        self.save_some();
                    }
                    // Whoever dropped the future does not want to know.
                    let _ = answer.send(self.states.read(id));
                }
                Some(Work::Shutdown(answer)) => end = Some(answer),
                _ => {}
            }
        }
        while !self.saves.is_empty() {
            self.save_some();
        }
        if self.unsettled {
            self.write_again();
        }
        self.sweep();
        // The lock goes before the answer, so that whoever waited for it can open the file at once.
        drop(self);
        if let Some(answer) = end {
            // Whoever dropped the future does not want to know.
            let _ = answer.send(());
        }
    }

    fn next(&mut self, queue: &mpsc::Receiver<Work>) -> Option<Work> {
        let (trouble, retry) = (self.trouble.clone(), self.retry);
        trouble.next(queue, retry, || self.probe())
    }

    fn probe(&mut self) {
        if self.trouble.is_with(Part::Sessions) && self.write_again() {
            self.trouble.settle(Part::Sessions);
        }
        if self.trouble.is_with(Part::States) {
            match self.states.probe(&self.disk) {
                Ok(()) => self.trouble.settle(Part::States),
                Err(error) => drop(self.trouble.complain(Part::States, error.to_string().into())),
            }
        }
    }

    fn commit(&mut self, batch: Vec<(Change, oneshot::Sender<Applied>)>) {
        let mut undo: Vec<Undo> = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for (change, _) in &batch {
            let (answer, step) = self.content.apply(change);
            answers.push(answer);
            undo.extend(step);
        }
        if !undo.is_empty() || (self.unsettled && !batch.is_empty()) {
            match self.write() {
                Ok(()) => self.trouble.settle(Part::Sessions),
                Err(error) => {
                    self.content.take_back(undo);
                    let why = self.trouble.complain(Part::Sessions, error.to_string().into());
                    if self.unsettled {
                        self.write_again();
                    }
                    answers = batch.iter().map(|(change, _)| self.content.refuse(change, &why, self.unsettled)).collect();
                }
            }
        }
        for ((change, to), answer) in batch.into_iter().zip(answers) {
            match (change, &answer) {
                (Change::Save { id, state }, Ok(Some(session))) => {
                    self.saves.push_back(Save { id, created_at: session.created_at, state, to, answer });
                    continue;
                }
                (Change::Close(id), Ok(_)) => {
                    self.states.forget(id);
                    // What is to be saved for this session is gone with it, as if it had been.
                    let (gone, stay) = mem::take(&mut self.saves).into_iter().partition(|save| save.id == id);
                    self.saves = stay;
                    for save in gone {
                        let _ = save.to.send(save.answer);
                    }
                }
                _ => {}
            }
            // Whoever dropped the future does not want to know either; the change stands.
            let _ = to.send(answer);
        }
    }

    /// A few of the states that wait, so that those who change sessions need not wait for all of them.
    fn save_some(&mut self) {
        let group: Vec<_> = self.saves.drain(..self.saves.len().min(GROUP)).collect();
        let saves: Saves = group.iter().map(|save| (save.id, (save.created_at, save.state.clone()))).collect();
        let refused = self.states.save(&self.disk, saves);
        match refused.values().next() {
            Some(why) => drop(self.trouble.complain(Part::States, Arc::clone(why))),
            None if group.is_empty() => {}
            None => self.trouble.settle(Part::States),
        }
        self.sweep();
        for Save { id, to, answer, .. } in group {
            let _ = to.send(refused.get(&id).map_or(answer, |why| Err(StoreError::Write(Arc::clone(why)))));
        }
    }

    fn sweep(&mut self) {
        if let Err(error) = self.states.sweep(&self.disk) {
            self.trouble.complain(Part::States, error.to_string().into());
        }
    }

    /// Writes what stands now, on nobody's behalf; true where that worked. The trouble it came from stays on show until a change
    /// or a later try succeeds.
    fn write_again(&mut self) -> bool {
        match self.write() {
            Ok(()) => true,
            Err(error) => {
                self.trouble.complain(Part::Sessions, error.to_string().into());
                false
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Self { disk, target, temporary, content, unsettled, .. } = self;
        put(disk, temporary, target, unsettled, |file| format::render(file, content))?;
        let folder = folder_of(target);
        step("sync the folder", folder, || disk.sync_folder(folder))?;
        self.unsettled = false;
        Ok(())
    }
}
