//! A task that a conductor spawned: runs beside its events, on the same threads, until it or its session ends.

use std::{
    fmt,
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
    wire::code,
};

use super::{
    Session,
    session::{self, Conductor},
};
use crate::conductors::{
    Trouble,
    lane::Lane,
    pool::{Job, Pool, Slot},
};

/// Tasks that one session may have at a time.
pub const MAX_TASKS: usize = 10_000;

/// One task. The same states as a session's, without a mailbox.
pub struct Task {
    session: Arc<Session>,
    /// That of the conductor that spawned it.
    life: u32,
    number: u64,
    slow: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Nothing while it is polled, and after its end.
    future: Option<FfiFuture<Reply>>,
    state: State,
    cancelled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Running,
    Notified,
    Waiting,
    Done,
}

impl Task {
    /// A task of `session`, to be pushed to the pool at once.
    pub(crate) fn new(session: Arc<Session>, life: u32, number: u64, future: FfiFuture<Reply>) -> Arc<Self> {
        let inner = Mutex::new(Inner { future: Some(future), state: State::Queued, cancelled: false });
        Arc::new(Self { session, life, number, slow: AtomicBool::new(false), inner })
    }

    /// Ends it: its future is dropped on a thread for plugin code, soon.
    pub(super) fn cancel(self: Arc<Self>, pool: &Pool) {
        let mut inner = self.lock();
        inner.cancelled = true;
        if inner.state == State::Waiting {
            inner.state = State::Queued;
            drop(inner);
            pool.push(self);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, reply: Option<Reply>, slot: &Slot) {
        self.session.remove_task(self.life, self.number);
        let Some(RErr(failure)) = reply else { return };
        match failure.code {
            code::PANIC => match Trouble::from(&failure) {
                Trouble::Faulted(reason) => self.session.fault(Some(self.life), &reason, slot),
                other => tracing::error!(session = %self.session.id(), error = %other, "a task panicked"),
            },
            code::CLOSED | code::CANCELLED => {}
            _ => tracing::warn!(session = %self.session.id(), error = %failure.message, "a task of the conductor failed"),
        }
    }
}

impl Session {
    /// Adds a task of the conductor of this `life`.
    ///
    /// # Errors
    /// [`Trouble::Closed`] after the end, [`Trouble::Overloaded`] beyond [`MAX_TASKS`].
    pub(crate) fn add_task(self: &Arc<Self>, life: u32, make: impl FnOnce(u64) -> Arc<Task>) -> Result<(u64, Arc<Task>), Trouble> {
        let mut inner = self.lock();
        if matches!(inner.conductor, Conductor::Gone | Conductor::Faulted(_)) || inner.life != life {
            return Err(Trouble::Closed);
        }
        let hot = inner.hot.get_or_insert_default();
        if hot.tasks.len() >= MAX_TASKS {
            return Err(Trouble::Overloaded);
        }
        hot.last_task += 1;
        let number = hot.last_task;
        let task = make(number);
        hot.tasks.insert(number, task.clone());
        Ok((number, task))
    }

    pub(super) fn remove_task(&self, life: u32, number: u64) {
        let mut inner = self.lock();
        let present = inner.life == life;
        let removed = inner.hot.as_mut().filter(|_| present).and_then(|hot| hot.tasks.remove(&number));
        if inner.state == session::State::Idle {
            inner.cool();
        }
        drop(inner);
        drop(removed);
    }
}

impl Job for Task {
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
                    let pool = self.session.world().pool.clone();
                    pool.push(self);
                    return;
                }
            }
            self.lock().state = State::Done;
        }
        slot.discard(future);
        self.finish(reply, slot);
    }

    fn lane(&self) -> Arc<Lane> {
        self.session.kind().lane.clone()
    }

    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed) || self.session.kind().lane.is_type_slow()
    }

    fn mark_slow(&self) {
        if !self.slow.swap(true, Ordering::Relaxed) {
            self.session.kind().found_slow(self.session.id());
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut inner = self.lock();
        match inner.state {
            State::Waiting => {
                inner.state = State::Queued;
                drop(inner);
                self.session.world().pool.push(self.clone());
            }
            State::Running => inner.state = State::Notified,
            State::Queued | State::Notified | State::Done => {}
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("session", &self.session.id()).field("number", &self.number).finish_non_exhaustive()
    }
}
