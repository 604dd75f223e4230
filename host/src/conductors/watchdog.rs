//! Looks at the pool's threads while they run plugin code, and replaces those that are stuck in it.
//!
//! The rules and their numbers were measured: one replacement per stuck thread, doubled for each further tick in which
//! threads get stuck (many sessions that begin to block at once would stop the others otherwise), and a lowered priority
//! for the stuck thread, which may be an endless loop.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use super::pool::{Shared, Slot, lock};

const TICK: Duration = Duration::from_millis(5);
/// A thread that is inside plugin code for this many ticks, in one and the same call, is stuck.
const STUCK_TICKS: u32 = 2;
/// After this many ticks without any plugin code the watchdog sleeps until it is woken.
const QUIET_TICKS: u32 = 10;
/// The most replacements for one tick.
const MAX_REPLACEMENTS: usize = 64;

#[derive(Default)]
pub(super) struct Watchdog {
    asleep: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Watchdog {
    pub(super) fn start(this: &Arc<Self>, pool: Weak<Shared>) -> std::io::Result<()> {
        let watchdog = this.clone();
        let handle = thread::Builder::new().name("watchdog".into()).spawn(move || watchdog.watch(&pool))?;
        this.thread.get_or_init(|| handle.thread().clone());
        Ok(())
    }

    /// Called at each entry into plugin code: one load while the watchdog is awake.
    pub(super) fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn watch(&self, pool: &Weak<Shared>) {
        let mut seen = HashMap::new();
        let mut quiet = 0;
        let mut stuck_ticks = 0_u32;
        while !self.stopped.load(Ordering::SeqCst) {
            thread::park_timeout(TICK);
            let Some(pool) = pool.upgrade() else { return };
            let slots = lock(&pool.slots).clone();
            let (busy, stuck) = look(&slots, &mut seen);
            if stuck > 0 {
                stuck_ticks += 1;
                replace(&pool, stuck, stuck_ticks);
            } else {
                stuck_ticks = 0;
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet >= QUIET_TICKS {
                quiet = 0;
                self.sleep(&slots);
            }
        }
    }

    /// Sleeps until plugin code runs. Whoever enters it after `asleep` is set wakes us; whoever entered before is seen.
    fn sleep(&self, slots: &[Arc<Slot>]) {
        self.asleep.store(true, Ordering::SeqCst);
        if slots.iter().any(|slot| !slot.is_leaving() && slot.seq() % 2 == 1) {
            self.asleep.store(false, Ordering::SeqCst);
            return;
        }
        while self.asleep.load(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

/// One look at all threads: whether any runs plugin code or did since the last look, and how many were found stuck.
/// `seen` holds each slot's last number and for how many looks it has been that, inside plugin code.
fn look(slots: &[Arc<Slot>], seen: &mut HashMap<usize, (u64, u32)>) -> (bool, usize) {
    let mut busy = false;
    let mut stuck = 0;
    let mut now = HashMap::with_capacity(slots.len());
    for slot in slots.iter().filter(|slot| !slot.is_leaving()) {
        let key = Arc::as_ptr(slot) as usize;
        let seq = slot.seq();
        let inside = seq % 2 == 1;
        let same = seen.get(&key).filter(|(before, _)| *before == seq);
        busy |= inside || (same.is_none() && seen.contains_key(&key));
        let age = same.filter(|_| inside).map_or(0, |(_, age)| age + 1);
        if age >= STUCK_TICKS && slot.give_up(seq) {
            stuck += 1;
        } else {
            now.insert(key, (seq, age));
        }
    }
    *seen = now;
    (busy, stuck)
}

fn replace(pool: &Arc<Shared>, stuck: usize, ticks: u32) {
    let missing = pool.base.saturating_sub(pool.working());
    let bulk = stuck.saturating_mul(1_usize.checked_shl(ticks).unwrap_or(usize::MAX));
    let wanted = bulk.min(MAX_REPLACEMENTS).min(pool.queued()).max(missing);
    tracing::warn!(stuck, replacements = wanted, "plugin code blocks its thread; others take its place");
    for _ in 0..wanted {
        if let Err(error) = Shared::start_thread(pool) {
            tracing::error!(%error, "no thread to replace one that plugin code blocks");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stays_in_one_call_for_two_ticks_is_stuck() {
        let slot = Arc::new(Slot::unwatched());
        let slots = [slot.clone()];
        let mut seen = HashMap::new();
        slot.plugin_code(|| {
            assert_eq!(look(&slots, &mut seen), (true, 0));
            assert_eq!(look(&slots, &mut seen), (true, 0));
            assert_eq!(look(&slots, &mut seen), (true, 1));
            assert!(slot.is_leaving());
        })
        .unwrap();
    }

    #[test]
    fn many_short_calls_are_never_stuck() {
        let slot = Arc::new(Slot::unwatched());
        let slots = [slot.clone()];
        let mut seen = HashMap::new();
        for _ in 0..10 {
            slot.plugin_code(|| assert_eq!(look(&slots, &mut seen), (true, 0))).unwrap();
        }
        assert_eq!(look(&slots, &mut seen), (true, 0), "it worked since the last look");
        assert_eq!(look(&slots, &mut seen), (false, 0));
    }
}
