//! How fast a source may do something: a token bucket for each, in a table whose size never changes.
//!
//! Whoever has many addresses must not make the host remember them all, nor forget what one of them did. So a source shares the bucket that is
//! fullest of the few where it belongs, once these are all others': it begins with what that one has left, never with more. What that costs is
//! somebody else's: a source that meets only spent buckets there is told to wait although it did nothing.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::networks::Source;

/// Groups of buckets, each with a lock of its own.
const GROUPS: usize = 4096;
/// Buckets of a group.
const WAYS: usize = 4;

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// The hash of whoever used it last, and zero for nobody.
    key: u64,
    /// When it is full again, in microseconds from the beginning.
    full_at: u64,
}

/// Token buckets by source: `burst` at once, and `per_minute` from then on. Below 300 KiB, whatever happens.
pub(crate) struct Pace {
    begin: Instant,
    /// Keyed anew in each process, so that nobody outside knows who shares a group.
    hasher: RandomState,
    /// Microseconds until one more is there.
    interval: u64,
    /// Microseconds from empty to full.
    depth: u64,
    groups: Box<[Mutex<[Bucket; WAYS]>]>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("interval", &self.interval).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Pace {
    /// All buckets are full. Of nothing, one is taken.
    pub(crate) fn new(burst: u32, per_minute: u32) -> Self {
        let interval = 60_000_000 / u64::from(per_minute.max(1));
        let groups = (0..GROUPS).map(|_| Mutex::default()).collect();
        Self { begin: Instant::now(), hasher: RandomState::new(), interval, depth: interval * u64::from(burst.max(1)), groups }
    }

    /// Takes one from the source's bucket; false where it is empty.
    pub(crate) fn take(&self, source: Source) -> bool {
        self.take_at(source, self.begin.elapsed())
    }

    /// Whether there is one to take.
    pub(crate) fn has(&self, source: Source) -> bool {
        let now = micros(self.begin.elapsed());
        self.with(source, |bucket| bucket.full_at.max(now) + self.interval <= now + self.depth)
    }

    fn take_at(&self, source: Source, now: Duration) -> bool {
        let now = micros(now);
        self.with(source, |bucket| {
            let full_at = bucket.full_at.max(now) + self.interval;
            let taken = full_at <= now + self.depth;
            if taken {
                bucket.full_at = full_at;
            }
            taken
        })
    }

    fn with<T>(&self, source: Source, look: impl FnOnce(&mut Bucket) -> T) -> T {
        let key = self.hasher.hash_one(source).max(1);
        let group = usize::try_from(key % GROUPS as u64).unwrap_or_default();
        let mut group = self.groups[group].lock().unwrap_or_else(PoisonError::into_inner);
        let place = group.iter().position(|bucket| bucket.key == key).or_else(|| {
            let fullest = group.iter().enumerate().min_by_key(|(_, bucket)| bucket.full_at);
            fullest.map(|(place, _)| place)
        });
        let bucket = &mut group[place.unwrap_or_default()];
        bucket.key = key;
        look(bucket)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::crowd;

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn a_burst_passes_and_then_one_in_each_interval() {
        let pace = Pace::new(10, 6);
        let taken = |at: u64, of: u32| (0..30).filter(|_| pace.take_at(source(of), Duration::from_secs(at))).count();
        assert_eq!((taken(1, 1), taken(1, 2)), (10, 10), "each source has its own");
        assert_eq!((taken(10, 1), taken(11, 1), taken(31, 1)), (0, 1, 2));
        assert_eq!(taken(10_000, 1), 10, "it holds no more than a burst");
    }

    #[test]
    fn asking_whether_there_is_one_takes_none() {
        let pace = Pace::new(1, 1);
        assert!(pace.has(source(1)) && pace.has(source(1)) && pace.take(source(1)));
        assert!(!pace.has(source(1)) && !pace.take(source(1)));
    }

    /// Ten thousand sources that spend theirs, and then more sources than there is room for: none of the first gets more than its time gives back.
    #[test]
    fn a_crowd_of_sources_frees_nobody_and_needs_no_more_room() {
        let pace = Pace::new(10, 6);
        let now = Duration::from_secs(1);
        for spender in 0..10_000 {
            while pace.take_at(source(spender), now) {}
        }
        crowd::comes("sources that connect", 200_000, |count| {
            for other in 0..count {
                pace.take_at(Source::of(Ipv6Addr::from_bits(u128::from(other) << 64).into()), now);
            }
        });
        let spent: usize = pace.groups.iter().map(|group| group.lock().unwrap().iter().filter(|b| b.full_at > 100_000_000).count()).sum();
        assert!(spent > 9_000, "{spent} are still spent");
        let again = (0..10_000).filter(|spender| pace.take_at(source(*spender), now)).count();
        assert!(again < 200, "{again} of 10,000 were forgotten");
        assert!(pace.groups.len() == GROUPS && GROUPS * size_of::<Mutex<[Bucket; WAYS]>>() < 300_000);
    }
}
