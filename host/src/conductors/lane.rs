//! Where the slow jobs of one type run: threads of its own, a few, made when needed and gone when idle.
//!
//! When all of them have been inside plugin code for very long, the type is *quarantined*: nothing new is begun for it until one of them comes
//! back. Who looks for that is a task that lives while all threads are taken, and no longer.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    pool::{Job, Slot, lock},
    priority,
    tally::Tally,
};

/// Threads per type. More blocked jobs than this wait for each other; the other types do not notice.
const THREADS: usize = 8;
/// How long an idle thread stays.
const KEEP: Duration = Duration::from_secs(10);
/// Two slow jobs of a type bring the whole type here, for this long after the last was found.
const TYPE_IS_SLOW_FOR: Duration = Duration::from_secs(30);

/// All threads of a type in one call each for so long: not a slow device or disk, but code that does not come back. Six times the default deadline, so
/// that whoever waited for them was told long ago.
pub const QUARANTINE_AFTER: Duration = Duration::from_secs(30);
/// Where all threads are taken: how often is looked whether they are blocked, or free again.
const LOOK: Duration = Duration::from_secs(1);
/// A thread that is inside plugin code for longer counts as blocked.
const BLOCKED: Duration = Duration::from_millis(10);

/// The lane of one type, and what is counted of the type.
pub struct Lane {
    /// The type's name, for the log.
    name: Arc<str>,
    quarantine_after: Duration,
    quarantined: AtomicBool,
    /// Threads of the pool that are stuck in the type's code.
    stuck: AtomicUsize,
    /// What is counted of the type.
    pub tally: Arc<Tally>,
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
    /// One for each thread.
    slots: Vec<Arc<Slot>>,
    /// Whether the task that looks for blocked threads is there.
    watched: bool,
}

impl State {
    /// Whether all threads are taken, or will be when those that are woken have come.
    fn is_taken(&self) -> bool {
        self.threads >= THREADS && self.idle <= self.jobs.len()
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new("".into(), QUARANTINE_AFTER)
    }
}

impl Lane {
    /// The lane of the type `name`, which is quarantined when all of its threads are blocked for `quarantine_after`.
    #[must_use]
    pub fn new(name: Arc<str>, quarantine_after: Duration) -> Self {
        Self {
            name,
            quarantine_after,
            quarantined: AtomicBool::new(false),
            stuck: AtomicUsize::new(0),
            tally: Arc::default(),
            state: Mutex::default(),
            ready: Condvar::new(),
            made: Instant::now(),
            type_slow_until: AtomicU64::new(0),
            found: AtomicU64::new(0),
        }
    }

    /// This lane, for newer code of the type of `before`: counts go on.
    #[must_use]
    pub fn counting_on(self, before: &Self) -> Self {
        Self { tally: before.tally.clone(), ..self }
    }

    /// Queues a job, and starts a thread for it where all are busy and there may be more.
    ///
    /// # Errors
    /// The job, where the system gives no thread and the lane has none that would come to it.
    pub fn push(self: &Arc<Self>, job: Arc<dyn Job>, runtime: &Handle) -> Result<(), Arc<dyn Job>> {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        let new_thread = state.idle < state.jobs.len() && state.threads < THREADS;
        if new_thread {
            state.threads += 1;
        }
        if state.is_taken() && !state.watched {
            state.watched = true;
            runtime.spawn(self.clone().watch());
        }
        drop(state);
        if !new_thread {
            self.ready.notify_one();
            return Ok(());
        }
        let (lane, runtime) = (self.clone(), runtime.clone());
        let started = thread::Builder::new().name("slow conductors".into()).spawn(move || {
            // It may be an endless loop: the others come first.
            priority::lower_thread(priority::this_thread());
            let _context = runtime.enter();
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
        let slot = Arc::new(Slot::timed());
        let mut state = lock(&self.state);
        state.slots.push(slot.clone());
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
                state.slots.retain(|other| !Arc::ptr_eq(other, &slot));
                return;
            }
        }
    }

    /// Looks at the threads for as long as all are taken.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK.min(self.quarantine_after / 4)).await;
            let (blocked, taken) = {
                let mut state = lock(&self.state);
                let blocked =
                    state.slots.iter().filter(|slot| slot.inside_for().is_some_and(|inside| inside >= self.quarantine_after)).count();
                state.watched = state.is_taken();
                (blocked >= THREADS, state.watched)
            };
            if self.quarantined.swap(blocked, Ordering::Relaxed) != blocked {
                if blocked {
                    tracing::error!(r#type = %self.name, threads = THREADS, "the type is quarantined: its plugin blocks all threads it may have");
                } else {
                    tracing::warn!(r#type = %self.name, "the type is quarantined no more: its plugin gave a thread back");
                }
            }
            if !taken {
                return;
            }
        }
    }

    /// Why nothing new may be begun for the type, while that is so.
    #[must_use]
    pub fn quarantine(&self) -> Option<Arc<str>> {
        self.quarantined.load(Ordering::Relaxed).then(|| {
            let (name, seconds) = (&self.name, self.quarantine_after.as_secs());
            format!(
                "the type {name:?} is quarantined: its plugin has been blocking all {THREADS} threads that it may have for {seconds} s and more; it \
                 is tried again as soon as one comes back. If none does, mend the plugin and start the host again"
            )
            .into()
        })
    }

    /// A thread of the pool is stuck in the type's code.
    pub(super) fn got_stuck(&self) {
        self.stuck.fetch_add(1, Ordering::Relaxed);
    }

    /// It came back.
    pub(super) fn came_back(&self) {
        self.stuck.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many threads are blocked in the type's code now, those of the pool included.
    #[must_use]
    pub fn blocked(&self) -> usize {
        let state = lock(&self.state);
        let own = state.slots.iter().filter(|slot| slot.inside_for().is_some_and(|inside| inside >= BLOCKED)).count();
        own + self.stuck.load(Ordering::Relaxed)
    }

    /// How many threads the lane has now.
    #[must_use]
    pub fn threads(&self) -> usize {
        lock(&self.state).threads
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
            // Two that are still stuck would else be joined by two more each time.
            until => until > self.millis() || self.stuck.load(Ordering::Relaxed) > 1,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_stays_slow_while_two_of_its_calls_are_stuck() {
        let lane = Lane::default();
        lane.got_stuck();
        assert!(!lane.found_slow() && !lane.is_type_slow());
        lane.got_stuck();
        assert!(lane.found_slow() && lane.is_type_slow());
        // Half a minute later.
        lane.type_slow_until.store(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(lane.is_type_slow());
        lane.came_back();
        assert!(!lane.is_type_slow(), "one alone does not slow its type");
        assert_eq!(lane.blocked(), 1);
    }
}
