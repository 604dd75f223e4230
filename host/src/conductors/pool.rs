//! The threads that run plugin code, and nothing else does: conductors' events, their tasks, their making and their drops.
//!
//! A job that is ready stands in one queue, served by one thread per core (two at least). A watchdog looks at the threads
//! while they work: one that stays inside plugin code for two ticks is *stuck*. Its job is marked slow and runs in its
//! type's own [`Lane`] from then on, the thread leaves the pool after it, and others take its place. So a conductor that
//! blocks its thread delays nobody but itself. Nothing here ticks while nothing runs.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

use super::{lane::Lane, priority, watchdog::Watchdog};

/// The most threads the pool may have, stuck ones included; beyond, stuck ones are not replaced any more.
const MAX_THREADS: usize = 256;

/// Something that runs plugin code: a session with events, or a task of a conductor.
pub trait Job: Send + Sync + 'static {
    /// Runs until there is nothing to do, or for a while. Called by one thread at a time, since whoever pushes a job sees
    /// to it that it stands in one queue once.
    fn run(self: Arc<Self>, slot: &Slot);

    /// Where it runs while it is slow.
    fn lane(&self) -> Arc<Lane>;

    /// Whether it, or its type, is slow.
    fn is_slow(&self) -> bool;

    /// Its thread is stuck in it.
    fn mark_slow(&self);
}

/// A panic got out of a plugin.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a panic got out of the plugin")]
pub struct Escaped;

/// One thread of the pool, as the watchdog sees it.
#[derive(Default)]
pub struct Slot {
    /// Odd while the thread is inside plugin code; grows by one at each border.
    seq: AtomicU64,
    /// The thread is stuck: it leaves the pool as soon as it can.
    leaving: AtomicBool,
    /// What runs, for the watchdog to mark.
    job: Mutex<Option<Arc<dyn Job>>>,
    thread: AtomicU64,
    watchdog: Option<Arc<Watchdog>>,
}

impl Slot {
    /// A slot that no watchdog looks at.
    #[must_use]
    pub fn unwatched() -> Self {
        Self::default()
    }

    /// Runs plugin code.
    ///
    /// # Errors
    /// Where a panic got out of the plugin, past the guards of its SDK: the thread goes on all the same.
    pub fn plugin_code<T>(&self, f: impl FnOnce() -> T) -> Result<T, Escaped> {
        // Sequentially consistent, as is the watchdog's look before it sleeps: one of the two sees the other.
        self.seq.fetch_add(1, Ordering::SeqCst);
        if let Some(watchdog) = &self.watchdog {
            watchdog.wake();
        }
        let result = catch_unwind(AssertUnwindSafe(f));
        self.seq.fetch_add(1, Ordering::SeqCst);
        result.map_err(|payload| {
            // The drop of a payload that comes from a plugin may panic in its turn.
            std::mem::forget(payload);
            Escaped
        })
    }

    /// Drops what belongs to a plugin.
    pub fn discard<T>(&self, value: T) {
        if let Err(escaped) = self.plugin_code(|| drop(value)) {
            tracing::error!("dropping: {escaped}");
        }
    }

    /// Whether the thread should go back to its pool soon.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    /// The watchdog's verdict on the call that was seen as `seq`; false where that is over by now. The thread cannot take
    /// another job meanwhile, so it is the right one that is marked.
    pub(super) fn give_up(&self, seq: u64) -> bool {
        let job = lock(&self.job);
        if self.seq() != seq {
            return false;
        }
        self.leaving.store(true, Ordering::SeqCst);
        if let Some(job) = &*job {
            job.mark_slow();
        }
        priority::lower_thread(self.thread.load(Ordering::Relaxed));
        true
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("seq", &self.seq).field("leaving", &self.leaving).finish_non_exhaustive()
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pool. Cheap to clone; its threads live until [`Pool::stop`].
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

pub(super) struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Threads that are not leaving, at the least.
    pub(super) base: usize,
    pub(super) slots: Mutex<Vec<Arc<Slot>>>,
    threads: AtomicUsize,
    watchdog: Arc<Watchdog>,
    runtime: Handle,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<dyn Job>>,
    idle: usize,
    stopped: bool,
}

impl Pool {
    /// Starts the threads; plugin code finds `runtime` entered on them.
    ///
    /// # Errors
    /// Where the operating system gives no threads.
    pub fn start(runtime: Handle) -> std::io::Result<Self> {
        let base = thread::available_parallelism().map_or(2, usize::from).max(2);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            base,
            slots: Mutex::default(),
            threads: AtomicUsize::new(0),
            watchdog: Arc::default(),
            runtime,
        });
        for _ in 0..base {
            Shared::start_thread(&shared)?;
        }
        Watchdog::start(&shared.watchdog, Arc::downgrade(&shared))?;
        Ok(Self(shared))
    }

    /// Queues a job that is not queued yet: in its lane where it is slow, else in the common queue.
    pub fn push(&self, job: Arc<dyn Job>) {
        if job.is_slow() {
            let lane = job.lane();
            match lane.push(job, &self.0.runtime) {
                Ok(()) => return,
                // No thread is to be had for the lane: better here than nowhere.
                Err(job) => return self.push_common(job),
            }
        }
        self.push_common(job);
    }

    fn push_common(&self, job: Arc<dyn Job>) {
        let mut queue = lock(&self.0.queue);
        queue.jobs.push_back(job);
        let wake = queue.idle > 0;
        drop(queue);
        if wake {
            self.0.ready.notify_one();
        }
    }

    /// The runtime that plugin code finds entered.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Ends the threads as they become idle. What is queued is dropped by the last of them.
    pub fn stop(&self) {
        lock(&self.0.queue).stopped = true;
        self.0.ready.notify_all();
        self.0.watchdog.stop();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.0.threads).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn queued(&self) -> usize {
        lock(&self.queue).jobs.len()
    }

    pub(super) fn start_thread(this: &Arc<Self>) -> std::io::Result<()> {
        if this.threads.load(Ordering::Relaxed) >= MAX_THREADS {
            return Err(std::io::Error::other(format!("{MAX_THREADS} threads are busy or stuck in plugin code already")));
        }
        let slot = Arc::new(Slot { watchdog: Some(this.watchdog.clone()), ..Slot::default() });
        lock(&this.slots).push(slot.clone());
        this.threads.fetch_add(1, Ordering::Relaxed);
        let shared = this.clone();
        let gone = slot.clone();
        let started = thread::Builder::new().name("conductors".into()).spawn(move || {
            slot.thread.store(priority::this_thread(), Ordering::Relaxed);
            let _entered = shared.runtime.enter();
            shared.work(&slot);
            shared.forget(&slot);
        });
        if let Err(error) = started {
            this.forget(&gone);
            return Err(error);
        }
        Ok(())
    }

    fn forget(&self, slot: &Arc<Slot>) {
        lock(&self.slots).retain(|other| !Arc::ptr_eq(other, slot));
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    fn work(&self, slot: &Slot) {
        while let Some(job) = self.next(slot) {
            *lock(&slot.job) = Some(job.clone());
            job.run(slot);
            let done = lock(&slot.job).take();
            drop(done);
            if slot.is_leaving() {
                let _one_by_one = lock(&self.queue);
                if self.working() >= self.base {
                    return;
                }
                // No other took its place: there are too many threads, or the system gave none.
                slot.leaving.store(false, Ordering::SeqCst);
            }
        }
    }

    /// The next job; nothing where this thread should end.
    fn next(&self, slot: &Slot) -> Option<Arc<dyn Job>> {
        let mut queue = lock(&self.queue);
        let mut yielded = false;
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.stopped {
                return None;
            }
            // Under load the next job comes at once, and to find it costs much less than to sleep and be woken for it.
            if !yielded {
                yielded = true;
                drop(queue);
                thread::yield_now();
                queue = lock(&self.queue);
                continue;
            }
            queue.idle += 1;
            // Replacements that are no longer needed end after a while; the first ones wait for ever and cost nothing.
            let surplus = self.threads.load(Ordering::Relaxed) > self.base;
            let (guard, timed_out) = if surplus {
                let (guard, result) = self.ready.wait_timeout(queue, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
                (guard, result.timed_out())
            } else {
                (self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner), false)
            };
            queue = guard;
            queue.idle -= 1;
            if timed_out && queue.jobs.is_empty() && self.working() > self.base {
                // Under the queue's lock, so that the next one that looks does not count this thread.
                slot.leaving.store(true, Ordering::SeqCst);
                return None;
            }
        }
    }

    /// Threads that are not leaving.
    pub(super) fn working(&self) -> usize {
        lock(&self.slots).iter().filter(|slot| !slot.is_leaving()).count()
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
