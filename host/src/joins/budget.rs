//! Budgets: so many at once, and then so many in a time; and of the failures of a pin, so many in all.
//!
//! A [`Rate`] needs one number for each who has a budget: the moment at which the budget is whole again (0 was always whole). Each charge moves that moment by one
//! interval; a charge that would move it further than `burst` intervals from now is refused and changes nothing, so who is refused is let in again as soon as one
//! interval has passed, however often he was refused meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

/// So many at once, and then one in each interval. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    burst: u64,
}

impl Rate {
    /// `burst` at once, and `more` in each `period` (milliseconds). Zeros count as ones.
    #[must_use]
    pub fn new(burst: u32, more: u32, period: u64) -> Self {
        Self { interval: (period / u64::from(more.max(1))).max(1), burst: u64::from(burst.max(1)) }
    }

    /// From when on it is whole, of one that was to be whole at `whole`. Nothing lies further away than an empty budget does: else a clock that was set back would
    /// hold a budget empty until it has caught up.
    fn seen(self, whole: u64, now: u64) -> u64 {
        whole.clamp(now, now.saturating_add(self.burst * self.interval))
    }

    /// Whether there is something left; else how long until there is, in milliseconds.
    ///
    /// # Errors
    /// That time, at least 1.
    pub fn left(self, whole: u64, now: u64) -> Result<(), u64> {
        let ahead = self.seen(whole, now) - now;
        let most = (self.burst - 1) * self.interval;
        if ahead <= most { Ok(()) } else { Err(ahead - most) }
    }

    /// Takes one: when the budget is whole then.
    ///
    /// # Errors
    /// As [`left`](Self::left).
    pub fn take(self, whole: u64, now: u64) -> Result<u64, u64> {
        self.left(whole, now)?;
        Ok(self.seen(whole, now) + self.interval)
    }

    /// Gives back one that was taken.
    #[must_use]
    pub fn give_back(self, whole: u64) -> u64 {
        whole.saturating_sub(self.interval)
    }
}

/// How often a pin may be guessed wrong.
#[derive(Clone, Copy, Debug)]
pub struct PinLimits {
    /// At once, and in a time.
    pub rate: Rate,
    /// In all, until an administrator opens the pin again.
    pub total: u16,
}

/// What failures have used up of one pin's budget, in one word: 16 bits count them, 48 are the moment of its [`Rate`].
#[derive(Debug, Default)]
pub struct PinBudget(AtomicU64);

const TIME_BITS: u32 = 48;

fn unpack(word: u64) -> (u16, u64) {
    let failures = u16::try_from(word >> TIME_BITS).unwrap_or(u16::MAX);
    (failures, word & ((1 << TIME_BITS) - 1))
}

fn pack(failures: u16, whole: u64) -> u64 {
    u64::from(failures) << TIME_BITS | whole.min((1 << TIME_BITS) - 1)
}

impl PinLimits {
    fn allows(self, word: u64, now: u64) -> bool {
        let (failures, whole) = unpack(word);
        failures < self.total && self.rate.left(whole, now).is_ok()
    }
}

impl PinBudget {
    /// Charges a failure before the pin is looked at, so that guesses that come together cannot all pass while the first is being judged. False where nothing is left,
    /// and then nothing has changed.
    pub fn charge(&self, limits: PinLimits, now: u64) -> bool {
        let charged = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (failures, whole) = unpack(word);
            let whole = limits.rate.take(whole, now).ok()?;
            (failures < limits.total).then(|| pack(failures + 1, whole))
        });
        charged.is_ok()
    }

    /// Takes a charge back: the pin was right.
    pub fn give_back(&self, limits: PinLimits) {
        // It always succeeds, since the closure always has a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (failures, whole) = unpack(word);
            Some(pack(failures.saturating_sub(1), limits.rate.give_back(whole)))
        });
    }

    /// Whether the pin is guarded: no pin is believed, until there is something left.
    #[must_use]
    pub fn is_spent(&self, limits: PinLimits, now: u64) -> bool {
        !limits.allows(self.word(), now)
    }

    /// Whether time alone makes it no better.
    #[must_use]
    pub fn is_spent_for_good(&self, limits: PinLimits) -> bool {
        unpack(self.word()).0 >= limits.total
    }

    /// Makes it whole.
    pub fn refill(&self) {
        self.set(0);
    }

    /// Nothing is left, until it is refilled.
    pub fn spend(&self) {
        self.set(pack(u16::MAX, 0));
    }

    /// To be kept over a restart; 0 where it is as new.
    #[must_use]
    pub fn word(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As it was kept.
    pub fn set(&self, word: u64) {
        self.0.store(word, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PinLimits = PinLimits { rate: Rate { interval: 600_000, burst: 10 }, total: 100 };
    const NOW: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    /// How many of these guesses are let through.
    fn guesses(budget: &PinBudget, count: usize, now: u64) -> usize {
        (0..count).filter(|_| budget.charge(LIMITS, now)).count()
    }

    #[test]
    fn ten_at_once_six_more_in_an_hour_and_a_hundred_in_all() {
        let budget = PinBudget::default();
        assert_eq!(LIMITS.rate, Rate::new(10, 6, HOUR));
        assert_eq!(guesses(&budget, 1000, NOW), 10);
        assert!(budget.is_spent(LIMITS, NOW) && !budget.is_spent_for_good(LIMITS));
        let (mut now, mut all) = (NOW, 10);
        for minute in 1..=60 {
            now = NOW + minute * 60_000;
            all += guesses(&budget, 50, now);
        }
        assert_eq!(all, 16, "six in the first hour, however often it was tried");
        while now < NOW + 1000 * HOUR {
            now += HOUR;
            all += guesses(&budget, 1000, now);
        }
        assert_eq!(all, 100);
        assert!(budget.is_spent(LIMITS, now) && budget.is_spent_for_good(LIMITS));
        budget.refill();
        assert_eq!(guesses(&budget, 1000, now), 10);
    }

    #[test]
    fn who_is_right_uses_nothing_up() {
        let budget = PinBudget::default();
        for _ in 0..1000 {
            assert!(budget.charge(LIMITS, NOW));
            budget.give_back(LIMITS);
        }
        assert_eq!(guesses(&budget, 100, NOW), 10);
        budget.give_back(LIMITS);
        assert_eq!(guesses(&budget, 100, NOW), 1);
    }

    #[test]
    fn guesses_that_come_together_share_the_budget() {
        let budget = PinBudget::default();
        let passed: usize = std::thread::scope(|scope| {
            let guessing: Vec<_> = (0..4).map(|_| scope.spawn(|| guesses(&budget, 1000, NOW))).collect();
            guessing.into_iter().map(|guessing| guessing.join().unwrap()).sum()
        });
        assert_eq!(passed, 10);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_nothing_and_holds_nobody_for_long() {
        let rate = Rate::new(10, 6, 60_000);
        let mut whole = 0;
        for _ in 0..10 {
            whole = rate.take(whole, NOW).unwrap();
        }
        assert_eq!(rate.take(whole, NOW), Err(10_000));
        assert_eq!(rate.take(whole, NOW - 1000 * HOUR), Err(10_000));
        assert_eq!(rate.take(whole, NOW + 9_999), Err(1));
        assert_eq!(rate.take(whole, NOW + 10_000), Ok(NOW + 110_000));
    }

    #[test]
    fn what_is_kept_is_what_was_there() {
        let (budget, again) = (PinBudget::default(), PinBudget::default());
        assert_eq!(budget.word(), 0);
        assert_eq!(guesses(&budget, 7, NOW), 7);
        again.set(budget.word());
        assert_eq!(guesses(&again, 100, NOW), 3);
        again.spend();
        assert!(again.is_spent(LIMITS, NOW + 1_000_000 * HOUR) && again.is_spent_for_good(LIMITS));
    }
}
