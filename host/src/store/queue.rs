//! The handle of a store that a thread of its own writes, and what both kinds of such threads do the same way.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::oneshot;

use super::{Applied, Change, SavedState, Store, StoreError};
use crate::sessions::SessionId;

/// How long after a failed write the next try, where no change brings one earlier.
pub(super) const RETRY: Duration = Duration::from_secs(5);

pub(super) type State = Result<Option<SavedState>, StoreError>;

/// What the writer is asked for, in this order.
pub(super) enum Work {
    Change(Change, oneshot::Sender<Applied>),
    State(SessionId, oneshot::Sender<State>),
    /// The writer ends, and answers once it has given up all that it owns.
    Shutdown(oneshot::Sender<()>),
    /// On the writer's thread, with its database.
    #[cfg(test)]
    Run(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

/// The handle to the writer thread, which ends when [`Store::shutdown`] is called or this is dropped.
#[derive(Debug)]
pub(super) struct Queue {
    /// Unbounded, so that `apply` never waits: what is in it is bounded by those who await an answer each, and they are
    /// bounded where requests and joins come in.
    pub(super) work: mpsc::Sender<Work>,
    trouble: Trouble,
    writer: JoinHandle<()>,
}

impl Queue {
    /// Starts the writer, which shares `trouble`.
    pub(super) fn start(trouble: Trouble, writer: impl FnOnce(&mpsc::Receiver<Work>) + Send + 'static) -> io::Result<Self> {
        let (work, queue) = mpsc::channel();
        let writer = thread::Builder::new().name("store".into()).spawn(move || writer(&queue))?;
        Ok(Self { work, trouble, writer })
    }

    /// Where the writer has ended, this drops the sender of the answer, which is what its receiver then sees.
    fn send(&self, work: Work) {
        let _ = self.work.send(work);
    }
}

impl Store for Queue {
    fn apply(&self, change: Change) -> BoxFuture<'static, Applied> {
        let (answer, answered) = oneshot::channel();
        self.send(Work::Change(change, answer));
        answered.map(|answer| answer.unwrap_or_else(|_| Err(StoreError::Write(ended())))).boxed()
    }

    /// The writer reads it, in its turn: so it is what was durable when this was called, and no later save removes it meanwhile.
    fn state(&self, id: SessionId) -> BoxFuture<'static, State> {
        let (answer, answered) = oneshot::channel();
        self.send(Work::State(id, answer));
        answered.map(move |answer| answer.unwrap_or_else(|_| Err(StoreError::State(id, ended())))).boxed()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        if self.writer.is_finished() {
            return Some(ended());
        }
        self.trouble.first()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let (answer, answered) = oneshot::channel();
        self.send(Work::Shutdown(answer));
        // Where the writer has ended, there is nothing left to wait for.
        answered.map(|_| ()).boxed()
    }
}

fn ended() -> Arc<str> {
    "its writer has ended".into()
}

/// What is written by itself, and may fail by itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Sessions, and all that is written with them.
    Sessions,
    /// What conductors save, where that has a folder of its own.
    States,
}

/// Why each [`Part`] cannot be written, while that is so. The writer sets it, and its handle shows it; either holds the lock for an edit or a clone of a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble(Arc<Mutex<[Option<Arc<str>>; 2]>>);

impl Trouble {
    pub(super) fn is_with(&self, part: Part) -> bool {
        self.slots()[part as usize].is_some()
    }

    fn first(&self) -> Option<Arc<str>> {
        self.slots().iter().flatten().next().cloned()
    }

    /// It cannot be written, for this reason, which is given back.
    pub(super) fn complain(&self, part: Part, why: Arc<str>) -> Arc<str> {
        let before = self.slots()[part as usize].replace(Arc::clone(&why));
        // Said once, not with every refused change.
        if before.as_ref() != Some(&why) {
            match part {
                Part::Sessions => tracing::error!(error = &*why, "the session store cannot be written; changes are refused"),
                Part::States => tracing::error!(error = &*why, "the folder of saved state cannot be written; saves are refused"),
            }
        }
        why
    }

    /// It can be written.
    pub(super) fn settle(&self, part: Part) {
        if self.slots()[part as usize].take().is_some() {
            match part {
                Part::Sessions => tracing::info!("the session store can be written again"),
                Part::States => tracing::info!("the folder of saved state can be written again"),
            }
        }
    }

    /// Waits for work; nothing once nobody can bring any. While there is trouble, `probe` finds out after each `retry` whether it is over.
    pub(super) fn next(&self, queue: &mpsc::Receiver<Work>, retry: Duration, mut probe: impl FnMut()) -> Option<Work> {
        while self.first().is_some() {
            match queue.recv_timeout(retry) {
                Ok(work) => return Some(work),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => probe(),
            }
        }
        queue.recv().ok()
    }

    fn slots(&self) -> MutexGuard<'_, [Option<Arc<str>>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
