//! How long to wait before the next attempt to connect.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
/// The longest wait while the trouble is younger than [`YOUNG`].
const SOON: Duration = Duration::from_secs(5);
const YOUNG: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(30);
/// Each wait is this part longer or shorter, so that the clients of a broker that returns do not all come at once.
const JITTER: f64 = 0.2;

/// 1 s, doubling to 5 s in the first minute, 30 s later.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// When the trouble began, and the wait before the next attempt.
    trouble: Option<(Instant, Duration)>,
}

impl Backoff {
    /// The next wait. `chance` is from 0 to 1.
    pub(super) fn next(&mut self, now: Instant, chance: f64) -> Duration {
        let (since, wait) = self.trouble.get_or_insert((now, FIRST));
        let wait = if now.duration_since(*since) < YOUNG { std::mem::replace(wait, SOON.min(*wait * 2)) } else { LATER };
        wait.mul_f64(1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.trouble = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_jitter() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let seconds = |backoff: &mut Backoff, after: u64| backoff.next(start + Duration::from_secs(after), 0.5).as_secs_f64();
        let waits: Vec<_> = [0, 1, 3, 7, 12, 59, 60, 3600].map(|after| seconds(&mut backoff, after)).into();
        assert_eq!(waits, [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 30.0, 30.0]);
        backoff.reset();
        assert_eq!(seconds(&mut backoff, 3600), 1.0);
        for (chance, expected) in [(0.0, 0.8), (1.0, 1.2), (7.0, 1.2)] {
            backoff.reset();
            assert_eq!(backoff.next(start, chance), Duration::from_secs_f64(expected));
        }
    }
}
