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
    time::{Duration, Instant},
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
    /// Where the thread counts as stuck.
    stuck_in: Mutex<Option<Arc<Lane>>>,
    thread: AtomicU64,
    watchdog: Option<Arc<Watchdog>>,
    /// Of a thread whose times in plugin code are taken.
    entered: Option<Entered>,
}

/// When a thread went into plugin code.
struct Entered {
    base: Instant,
    /// Milliseconds after `base`, plus one; 0 outside of plugin code.
    at: AtomicU64,
}

impl Entered {
    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }
}

impl Slot {
    /// A slot that no watchdog looks at.
    #[must_use]
    pub fn unwatched() -> Self {
        Self::default()
    }

    /// The same, for a thread that can be asked how long it has been inside plugin code.
    #[must_use]
    pub fn timed() -> Self {
        Self { entered: Some(Entered { base: Instant::now(), at: AtomicU64::new(0) }), ..Self::default() }
    }

    /// For how long a timed slot's thread has been inside one call of plugin code; nothing while it is not.
    pub(super) fn inside_for(&self) -> Option<Duration> {
        let entered = self.entered.as_ref()?;
        let at = entered.at.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_millis(entered.now().saturating_sub(at)))
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
        if let Some(entered) = &self.entered {
            entered.at.store(entered.now(), Ordering::Relaxed);
        }
        let result = catch_unwind(AssertUnwindSafe(f));
        if let Some(entered) = &self.entered {
            entered.at.store(0, Ordering::Relaxed);
        }
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
            // A session may be of newer code, and so have another lane, when its thread comes back.
            let lane = job.lane();
            lane.got_stuck();
            *lock(&self.stuck_in) = Some(lane);
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
        // Where no thread is to be had for the lane: better here than nowhere.
        let Err(job) = self.0.divert(job) else { return };
        let mut queue = lock(&self.0.queue);
        queue.jobs.push_back(job);
        let wake = queue.idle > 0;
        drop(queue);
        if wake {
            self.0.ready.notify_one();
        }
    }

    /// How many threads it has now: those that work or wait, and those that are stuck in plugin code.
    #[must_use]
    pub fn threads(&self) -> (usize, usize) {
        let (all, working) = (self.0.threads.load(Ordering::Relaxed), self.0.working());
        (working, all.saturating_sub(working))
    }

    /// How many jobs wait for a thread of it.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.queued()
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

    /// Sends a slow job to its lane.
    ///
    /// # Errors
    /// The job, where it is not slow or the lane cannot have it.
    fn divert(&self, job: Arc<dyn Job>) -> Result<(), Arc<dyn Job>> {
        if !job.is_slow() {
            return Err(job);
        }
        let lane = job.lane();
        lane.push(job, &self.runtime)
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
            let _context = shared.runtime.enter();
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
            // Found slow while it stood in the queue: a thread for each of many that block would be the end of the pool.
            let Err(job) = self.divert(job) else { continue };
            *lock(&slot.job) = Some(job.clone());
            job.run(slot);
            let done = lock(&slot.job).take();
            if done.is_some() && slot.is_leaving() {
                drop(done);
                if let Some(lane) = lock(&slot.stuck_in).take() {
                    lane.came_back();
                }
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
