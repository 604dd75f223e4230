//! A task that a conductor or a service spawned: runs beside its events, on the same threads, until it or its owner ends.

use std::{
    fmt::{self, Display},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use conductor_abi::{
    abi_stable::std_types::RErr,
    async_ffi::FfiFuture,
    contract::{Failure, Reply},
    rules,
    wire::code,
};
use tokio::sync::oneshot;

use super::Session;
use crate::conductors::{
    Trouble, clip,
    lane::Lane,
    pool::{Job, Pool, Slot},
};

/// Whose tasks they are.
pub trait Owner: Send + Sync + 'static {
    /// Its threads for plugin code.
    fn pool(&self) -> &Pool;
    /// Where it runs while it is slow.
    fn lane(&self) -> Arc<Lane>;
    /// A task blocks its thread, in code whose slow jobs run in this lane.
    fn found_slow(&self, lane: &Lane);
    /// A task is over: it is forgotten. `life` is that of the object that spawned it, which another may have replaced.
    fn remove_task(&self, life: u32, number: u64);
    /// A task of the object of this `life` panicked. On a thread for plugin code.
    fn fault(&self, life: u32, reason: &Arc<str>, slot: &Slot);
    /// A task ended with an error: for the log.
    fn task_failed(&self, error: &dyn Display);
    /// What it is called in [`fmt::Debug`].
    fn label(&self) -> String;
}

impl Owner for Session {
    fn pool(&self) -> &Pool {
        &self.world().pool
    }
    fn lane(&self) -> Arc<Lane> {
        self.kind().lane.clone()
    }
    fn found_slow(&self, lane: &Lane) {
        self.kind().found_slow(lane, self.id());
    }
    fn remove_task(&self, life: u32, number: u64) {
        Self::remove_task(self, life, number);
    }
    fn fault(&self, life: u32, reason: &Arc<str>, slot: &Slot) {
        Self::fault(self, Some(life), reason, slot);
    }
    fn task_failed(&self, error: &dyn Display) {
        tracing::warn!(session = %self.id(), %error, "a task of the conductor failed");
    }
    fn label(&self) -> String {
        self.id().to_string()
    }
}

/// Ends when a task and all that it held are gone.
pub(crate) type Gone = oneshot::Receiver<()>;

/// Waits for tasks that were cancelled, as long as a close may take: one may be in a call that does not return.
pub(crate) async fn all_gone(tasks: Vec<Gone>) {
    let _ = tokio::time::timeout(rules::CLOSE_DEADLINE, futures_util::future::join_all(tasks)).await;
}

/// One task. The same states as a session's, without a mailbox.
pub struct Task<O = Session> {
    owner: Arc<O>,
    /// That of the object that spawned it.
    life: u32,
    /// That of the code that spawned it: what it is told may be of newer code by now.
    lane: Arc<Lane>,
    number: u64,
    slow: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Nothing while it is polled, and after its end.
    future: Option<FfiFuture<Reply>>,
    state: State,
    cancelled: bool,
    /// Dropped with the future, for whoever waits for that.
    waiting: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Running,
    Notified,
    Waiting,
    Done,
}

impl<O: Owner> Task<O> {
    /// A task of what `owner` has in this `life`, to be pushed to the pool at once.
    pub(crate) fn new(owner: Arc<O>, life: u32, number: u64, future: FfiFuture<Reply>) -> Arc<Self> {
        let lane = owner.lane();
        lane.tally.tasks.add();
        let inner = Mutex::new(Inner { future: Some(future), state: State::Queued, cancelled: false, waiting: None });
        Arc::new(Self { owner, life, lane, number, slow: AtomicBool::new(false), inner })
    }

    /// Ends it: its future is dropped on a thread for plugin code, soon. What is returned ends when that is done.
    pub(crate) fn cancel(self: Arc<Self>, pool: &Pool) -> Gone {
        let (told, gone) = oneshot::channel();
        let mut inner = self.lock();
        inner.cancelled = true;
        if inner.state != State::Done {
            inner.waiting = Some(told);
        }
        if inner.state == State::Waiting {
            inner.state = State::Queued;
            drop(inner);
            pool.push(self);
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, reply: Option<Reply>, slot: &Slot) {
        self.owner.remove_task(self.life, self.number);
        let Some(RErr(failure)) = reply else { return };
        match failure.code {
            code::PANIC => match Trouble::from(&failure) {
                Trouble::Faulted(reason) => self.owner.fault(self.life, &reason, slot),
                other => self.owner.task_failed(&other),
            },
            code::CLOSED | code::CANCELLED => {}
            _ => {
                self.lane.tally.errors.add();
                self.owner.task_failed(&clip(&failure.message));
            }
        }
    }
}

impl<O: Owner> Job for Task<O> {
    fn run(self: Arc<Self>, slot: &Slot) {
        let (mut future, goes_on) = {
            let mut inner = self.lock();
            let Some(future) = inner.future.take() else { return };
            inner.state = if inner.cancelled { State::Done } else { State::Running };
            (future, !inner.cancelled)
        };
        let mut reply = None;
        if goes_on {
            let waker = Waker::from(self.clone());
            match slot.plugin_code(|| Pin::new(&mut future).poll(&mut Context::from_waker(&waker))) {
                Ok(Poll::Ready(ready)) => reply = Some(ready),
                Err(escaped) => reply = Some(RErr(Failure::new(code::PANIC, escaped.to_string()))),
                Ok(Poll::Pending) => {
                    let mut inner = self.lock();
                    inner.future = Some(future);
                    if inner.state == State::Running && !inner.cancelled {
                        inner.state = State::Waiting;
                        return;
                    }
                    inner.state = State::Queued;
                    drop(inner);
                    let pool = self.owner.pool().clone();
                    pool.push(self);
                    return;
                }
            }
            self.lock().state = State::Done;
        }
        slot.discard(future);
        drop(self.lock().waiting.take());
        self.lane.tally.tasks.sub();
        self.finish(reply, slot);
    }

    fn lane(&self) -> Arc<Lane> {
        self.lane.clone()
    }

    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed) || self.lane.is_type_slow()
    }

    fn mark_slow(&self) {
        if !self.slow.swap(true, Ordering::Relaxed) {
            self.owner.found_slow(&self.lane);
        }
    }
}

impl<O: Owner> Wake for Task<O> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut inner = self.lock();
        match inner.state {
            State::Waiting => {
                inner.state = State::Queued;
                drop(inner);
                self.owner.pool().push(self.clone());
            }
            State::Running => inner.state = State::Notified,
            State::Queued | State::Notified | State::Done => {}
        }
    }
}

impl<O: Owner> fmt::Debug for Task<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("owner", &self.owner.label()).field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
