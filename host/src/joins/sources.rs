//! Budgets of sources, in a table whose size never changes.
//!
//! A source is looked for in one set of [`WAYS`] places, which a keyed hash chooses. Where none of them is its own, it takes the one that has the fewest failures on it, **and these
//! failures with it**: a place forgets whose it was, and nothing of what was used up. So whoever has many sources (a /32 of IPv6 has four billion) gets no more failures out of all of
//! them than the table has places; what a newcomer may lose by it is the pin path, for as long as such an attack lasts. Successes are not handed on: a link or
//! a resume token opens its session for a newcomer whatever others did.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::budget::Rate;
use crate::networks::Source;

/// Places that a source may have.
const WAYS: usize = 4;
/// Sets of places behind one lock.
const SETS: usize = 1 << 9;
/// Locks. 131,072 places of 24 bytes are 3 MiB, which the system gives when they are used.
const SHARDS: usize = 1 << 6;

/// Whose it is (a hash that is not 0), when its failures are whole again, when its successes are.
type Place = [u64; 3];

/// The table.
#[derive(Debug)]
pub(super) struct Sources {
    hash: RandomState,
    shards: Vec<Mutex<Vec<Place>>>,
}

/// What a source has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) successes: Rate,
    pub(super) failures: Rate,
}

impl Sources {
    pub(super) fn new() -> Self {
        let shard = |_| Mutex::new(vec![[0; 3]; SETS * WAYS]);
        Self { hash: RandomState::new(), shards: (0..SHARDS).map(shard).collect() }
    }

    /// How many bytes it has, whoever came.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).capacity() * size_of::<Place>()).sum()
    }

    /// Does something with the place of this source, which is its own from then on.
    fn with<T>(&self, source: Source, now: u64, act: impl FnOnce(&mut Place) -> T) -> T {
        let hash = self.hash.hash_one(source);
        // Different bits choose the lock, the set, and tell the source from others there.
        let (shard, set) = (part(hash >> 1, SHARDS), part(hash >> 16, SETS));
        let mut places = lock(&self.shards[shard]);
        let places = &mut places[set * WAYS..][..WAYS];
        let whose = hash | 1;
        let at = places.iter().position(|place| place[0] == whose).unwrap_or_else(|| {
            // What lies in the past is used up by nobody any more.
            let least = (0..WAYS).min_by_key(|at| (places[*at][1].max(now), places[*at][2].max(now))).unwrap_or(0);
            places[least] = [whose, places[least][1], 0];
            least
        });
        act(&mut places[at])
    }

    /// Whether it may succeed once more; how many milliseconds until it may.
    pub(super) fn may_succeed(&self, source: Source, rates: Rates, now: u64) -> Result<(), u64> {
        self.with(source, now, |place| rates.successes.left(place[2], now))
    }

    /// Counts a success.
    pub(super) fn succeeded(&self, source: Source, rates: Rates, now: u64) {
        self.with(source, now, |place| {
            // Of two that come together the second may find nothing left; it has been let in already.
            place[2] = rates.successes.take(place[2], now).unwrap_or(place[2]);
        });
    }

    /// Charges a failure; how many milliseconds until one can be charged again.
    pub(super) fn charge(&self, source: Source, rates: Rates, now: u64) -> Result<(), u64> {
        self.with(source, now, |place| rates.failures.take(place[1], now).map(|whole| place[1] = whole))
    }

    /// Takes that back.
    pub(super) fn give_back(&self, source: Source, rates: Rates, now: u64) {
        self.with(source, now, |place| place[1] = rates.failures.give_back(place[1]));
    }
}

/// One of `parts`, a power of two.
fn part(hash: u64, parts: usize) -> usize {
    // The remainder is below `parts`.
    usize::try_from(hash % parts as u64).unwrap_or_default()
}

fn lock(shard: &Mutex<Vec<Place>>) -> MutexGuard<'_, Vec<Place>> {
    // Nothing that can panic comes between two edits.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::crowd;

    const NOW: u64 = 1_800_000_000_000;

    fn rates() -> Rates {
        Rates { successes: Rate::new(300, 60, 60_000), failures: Rate::new(10, 6, 60_000) }
    }

    fn v4(number: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn v6(number: u64) -> Source {
        Source::of(IpAddr::V6(Ipv6Addr::from_bits(u128::from(number) << 64)))
    }

    #[test]
    fn each_source_has_its_own_budgets() {
        let (sources, rates) = (Sources::new(), rates());
        for source in [v4(1), v4(2), v6(1), v6(2)] {
            assert_eq!((0..50).filter(|_| sources.charge(source, rates, NOW).is_ok()).count(), 10);
            assert_eq!(sources.charge(source, rates, NOW), Err(10_000));
            assert_eq!(sources.may_succeed(source, rates, NOW), Ok(()), "failures keep no link from opening");
            for _ in 0..300 {
                assert_eq!(sources.may_succeed(source, rates, NOW), Ok(()));
                sources.succeeded(source, rates, NOW);
            }
            assert_eq!(sources.may_succeed(source, rates, NOW), Err(1000));
            sources.give_back(source, rates, NOW);
            assert_eq!((0..50).filter(|_| sources.charge(source, rates, NOW).is_ok()).count(), 1);
            assert_eq!((0..50).filter(|_| sources.charge(source, rates, NOW + 60_000).is_ok()).count(), 6);
        }
    }

    /// Each source tries twice in the same moment.
    #[test]
    fn a_million_sources_take_no_more_room_and_get_no_more_out_of_it_than_the_table_has_places() {
        let (sources, rates) = (Sources::new(), rates());
        // The system gives the room when it is used, so all of it is used before anybody comes.
        sources.shards.iter().for_each(|shard| lock(shard).fill([0, 1, 1]));
        let before = sources.bytes();
        crowd::comes("sources that join", 1_000_000, |count| {
            let charge = |number| sources.charge(v6(number), rates, NOW).is_ok();
            let passed = (0..2).map(|_| (0..count).filter(|number| charge(*number)).count()).sum::<usize>();
            assert_eq!((sources.bytes(), before), (before, SHARDS * SETS * WAYS * 24));
            let most = SHARDS * SETS * WAYS * 10;
            assert!(passed <= most && passed > most / 2, "{passed} failures passed, of {most} that the places are good for");
            assert_eq!(sources.may_succeed(v6(count), rates, NOW), Ok(()), "a newcomer's link opens");
        });
    }

    #[test]
    fn who_comes_with_many_sources_does_not_free_the_one_that_was_spent() {
        let (sources, rates) = (Sources::new(), rates());
        while sources.charge(v4(7), rates, NOW).is_ok() {}
        for number in 0..200_000 {
            // One failure each: places with fewer on them are taken first.
            let _ = sources.charge(v6(number), rates, NOW);
        }
        assert!(sources.charge(v4(7), rates, NOW).is_err());
    }
}
