//! Where the slow jobs of one type run: threads of its own, a few, made when needed and gone when idle.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    pool::{Job, Slot, lock},
    priority,
};

/// Threads per type. More blocked jobs than this wait for each other; the other types do not notice.
const THREADS: usize = 8;
/// How long an idle thread stays.
const KEEP: Duration = Duration::from_secs(10);
/// Two slow jobs of a type bring the whole type here, for this long after the last was found.
const TYPE_IS_SLOW_FOR: Duration = Duration::from_secs(30);

/// The lane of one type.
pub struct Lane {
    state: Mutex<State>,
    ready: Condvar,
    made: Instant,
    /// Milliseconds after `made` until which the whole type is slow; 0 where it never was.
    type_slow_until: AtomicU64,
    found: AtomicU64,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Arc<dyn Job>>,
    threads: usize,
    idle: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            made: Instant::now(),
            type_slow_until: AtomicU64::new(0),
            found: AtomicU64::new(0),
        }
    }
}

impl Lane {
    /// Queues a job, and starts a thread for it where all are busy and there may be more.
    ///
    /// # Errors
    /// The job, where the system gives no thread and the lane has none that would come to it.
    pub fn push(self: &Arc<Self>, job: Arc<dyn Job>, runtime: &Handle) -> Result<(), Arc<dyn Job>> {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            drop(state);
            self.ready.notify_one();
            return Ok(());
        }
        if state.threads >= THREADS {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let (lane, runtime) = (self.clone(), runtime.clone());
        let started = thread::Builder::new().name("slow conductors".into()).spawn(move || {
            // It may be an endless loop: the others come first.
            priority::lower_thread(priority::this_thread());
            let _entered = runtime.enter();
            lane.work();
        });
        let Err(error) = started else { return Ok(()) };
        tracing::error!(%error, "no thread for slow plugin code");
        let mut state = lock(&self.state);
        state.threads -= 1;
        let left = if state.threads == 0 { state.jobs.pop_back() } else { None };
        left.map_or(Ok(()), Err)
    }

    fn work(&self) {
        let slot = Slot::unwatched();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job.run(&slot);
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (guard, result) = self.ready.wait_timeout(state, KEEP).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if result.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Whether all its threads are taken and more waits: then new requests are better refused than queued.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let state = lock(&self.state);
        state.threads >= THREADS && state.idle == 0 && state.jobs.len() >= THREADS
    }

    /// A job of the type was found stuck in a thread of the pool. True when this brings the whole type into the lane.
    pub fn found_slow(&self) -> bool {
        let now = self.millis();
        let until = now + u64::try_from(TYPE_IS_SLOW_FOR.as_millis()).unwrap_or(u64::MAX);
        if self.found.fetch_add(1, Ordering::Relaxed) == 0 {
            return false;
        }
        self.type_slow_until.swap(until, Ordering::Relaxed) <= now
    }

    /// Whether the whole type runs here for now.
    #[must_use]
    pub fn is_type_slow(&self) -> bool {
        // One load for types that never were.
        match self.type_slow_until.load(Ordering::Relaxed) {
            0 => false,
            until => until > self.millis(),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("found", &self.found).finish_non_exhaustive()
    }
}
