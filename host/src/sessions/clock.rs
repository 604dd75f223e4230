//! The host's time, as a parameter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time. Passed to whoever needs it, so that a test can set it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> SystemTime);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
        Self(SystemTime::now)
    }

    /// A clock of the caller's.
    #[must_use]
    pub fn of(now: fn() -> SystemTime) -> Self {
        Self(now)
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> SystemTime {
        (self.0)()
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.since_epoch().as_secs()
    }

    fn since_epoch(self) -> Duration {
        // A clock before 1970 counts as 1970: tokens are then refused as not yet valid, which is the safe side.
        self.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
