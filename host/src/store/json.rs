//! `json:FILE`: every session in one readable file, rewritten whole at each change.
//!
//! One thread owns the sessions and writes them. All that waits when it starts shares a write: a temporary file beside
//! FILE, sync, rename, sync of the folder, and only then the answers. So FILE is whole at every moment, and holds what was
//! acknowledged. A write that fails refuses its changes and takes them back.

pub(super) mod format;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Write},
    iter,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::oneshot;

use super::{
    Applied, Change, OpenError, Opened, Store, StoreError,
    change::{self, Sessions, Undo},
    disk::{Disk, beside, create_folder, folder_of},
    lock::FileLock,
};

/// How long after a failed write the next try, where no change brings one earlier.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// Bytes that go to the file at once.
const CHUNK: usize = 64 * 1024;

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;

type Trouble = Arc<Mutex<Option<Arc<str>>>>;

/// The handle to the writer thread, which ends when [`Store::shutdown`] is called or this is dropped.
#[derive(Debug)]
pub(super) struct JsonStore {
    /// Unbounded, so that `apply` never waits: what is in it is bounded by those who await an answer each, and they are
    /// bounded where requests and joins come in.
    queue: mpsc::Sender<Work>,
    /// Shared with the writer, which sets it; either holds the lock for a clone of the value.
    trouble: Trouble,
    writer: JoinHandle<()>,
}

enum Work {
    Change(Change, oneshot::Sender<Applied>),
    Shutdown(oneshot::Sender<()>),
}

impl JsonStore {
    /// Locks and loads `file`. Clients that have no expiry in it get `granted_until` (seconds since the Unix epoch).
    pub(super) fn open(file: &Path, granted_until: u64, retry: Duration, disk: impl Disk) -> Opened<Self> {
        let failed = |source| OpenError::Io { file: file.to_owned(), source };
        let target = resolve(file).map_err(failed)?;
        let lock = FileLock::acquire("store", &target, beside(&target, ".lock"))?;
        let sessions = match read(&target).map_err(failed)? {
            None => Sessions::new(),
            Some(bytes) => format::parse(&bytes, granted_until).map_err(|problem| OpenError::Unusable { file: target.clone(), problem })?,
        };
        let loaded = sessions.values().cloned().collect();
        let trouble = Trouble::default();
        let temporary = beside(&target, ".tmp");
        let writer = Writer { sessions, disk, target, temporary, trouble: Arc::clone(&trouble), unsettled: false, retry, _lock: lock };
        let (queue, work) = mpsc::channel();
        let writer = thread::Builder::new().name("store".into()).spawn(move || writer.run(work)).map_err(failed)?;
        Ok((Self { queue, trouble, writer }, loaded))
    }
}

impl Store for JsonStore {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        let (answer, answered) = oneshot::channel();
        // Where the writer has ended, this drops `answer`, which is what the future then sees.
        let _ = self.queue.send(Work::Change(change, answer));
        answered.map(|answer| answer.unwrap_or_else(|_| Err(StoreError::Write(ended())))).boxed()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        if self.writer.is_finished() {
            return Some(ended());
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let (answer, answered) = oneshot::channel();
        // Where the writer has ended, there is nothing left to wait for.
        let _ = self.queue.send(Work::Shutdown(answer));
        answered.map(|_| ()).boxed()
    }
}

fn ended() -> Arc<str> {
    "its writer has ended".into()
}

/// Follows FILE where it is a symbolic link, to something or to nothing yet, so that a write replaces what the link names and
/// not the link. The folder is made where it is missing.
fn resolve(file: &Path) -> io::Result<PathBuf> {
    let mut path = file.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => path = folder_of(&path).join(fs::read_link(&path)?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {
                let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
                create_folder(folder_of(&path))?;
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

/// What the thread owns.
struct Writer<D> {
    sessions: Sessions,
    disk: D,
    target: PathBuf,
    temporary: PathBuf,
    trouble: Trouble,
    /// A write failed at its rename or after it: the file may hold changes that were refused, until one succeeds.
    unsettled: bool,
    retry: Duration,
    _lock: FileLock,
}

impl<D: Disk> Writer<D> {
    fn run(mut self, queue: mpsc::Receiver<Work>) {
        let mut end = None;
        while end.is_none()
            && let Some(first) = self.next(&queue)
        {
            let mut batch = Vec::new();
            for work in iter::once(first).chain(iter::from_fn(|| queue.try_recv().ok())) {
                match work {
                    Work::Change(change, answer) => batch.push((change, answer)),
                    Work::Shutdown(answer) => {
                        end = Some(answer);
                        break;
                    }
                }
            }
            self.commit(batch);
        }
        if self.unsettled {
            self.write_again();
        }
        // The lock goes before the answer, so that whoever waited for it can open the file at once.
        drop(self);
        if let Some(answer) = end {
            // Whoever dropped the future does not want to know.
            let _ = answer.send(());
        }
    }

    /// Waits for work; nothing once nobody can bring any. While there is trouble, tries now and then whether it is over.
    fn next(&mut self, queue: &mpsc::Receiver<Work>) -> Option<Work> {
        while self.in_trouble() {
            match queue.recv_timeout(self.retry) {
                Ok(work) => return Some(work),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if self.write_again() {
                        self.settle();
                    }
                }
            }
        }
        queue.recv().ok()
    }

    fn commit(&mut self, batch: Vec<(Change, oneshot::Sender<Applied>)>) {
        let mut undo: Vec<Undo> = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for (change, _) in &batch {
            let (answer, step) = change::apply(&mut self.sessions, change);
            answers.push(answer);
            undo.extend(step);
        }
        if !undo.is_empty() || (self.unsettled && !batch.is_empty()) {
            match self.write() {
                Ok(()) => self.settle(),
                Err(error) => {
                    for step in undo.into_iter().rev() {
                        step.take_back(&mut self.sessions);
                    }
                    let why = self.complain(&error);
                    if self.unsettled {
                        self.write_again();
                    }
                    answers = batch.iter().map(|(change, _)| self.refuse(change, &why)).collect();
                }
            }
        }
        for ((_, to), answer) in batch.into_iter().zip(answers) {
            // Whoever dropped the future does not want to know either; the change stands.
            let _ = to.send(answer);
        }
    }

    /// The answer after a failed write, as if each change that needs one had never come: what needs none is answered still.
    fn refuse(&self, change: &Change, why: &Arc<str>) -> Applied {
        let current = self.sessions.get(&change.id());
        match (change.apply_to(current)?, current) {
            (Some(after), Some(before)) if Arc::ptr_eq(&after, before) && !self.unsettled => Ok(Some(after)),
            _ => Err(StoreError::Write(Arc::clone(why))),
        }
    }

    /// Writes what stands now, on nobody's behalf; true where that worked. The trouble it came from stays on show until a change
    /// or a later try succeeds.
    fn write_again(&mut self) -> bool {
        match self.write() {
            Ok(()) => true,
            Err(error) => {
                self.complain(&error);
                false
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Self { disk, target, temporary, .. } = self;
        let prepared = step("write", temporary, || {
            let mut file = io::BufWriter::with_capacity(CHUNK, disk.create(temporary)?);
            format::render(&mut file, &self.sessions)?;
            file.flush()?;
            disk.sync(file.get_mut())
        });
        let renamed = prepared.and_then(|()| {
            self.unsettled = true;
            step("rename to", target, || disk.rename(temporary, target))
        });
        if let Err(error) = renamed {
            // As far as possible: a leftover does no harm, and the next write removes it first.
            let _ = disk.remove(temporary);
            return Err(error);
        }
        let folder = folder_of(target);
        step("sync the folder", folder, || disk.sync_folder(folder))?;
        self.unsettled = false;
        Ok(())
    }

    fn in_trouble(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn complain(&self, error: &io::Error) -> Arc<str> {
        let why: Arc<str> = error.to_string().into();
        let before = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&why));
        // Said once, not with every refused change.
        if before.as_ref() != Some(&why) {
            tracing::error!(error = &*why, "the session store cannot be written; changes are refused");
        }
        why
    }

    fn settle(&self) {
        if self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("the session store can be written again");
        }
    }
}

/// Says in the error what was done to which path.
fn step(doing: &str, path: &Path, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    run().map_err(|error| io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", path.display())))
}
