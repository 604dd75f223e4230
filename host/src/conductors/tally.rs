//! What is counted of one type, for `GET /v1/metrics`: one relaxed addition each.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that threads change without a lock.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the conductors of one type did since the host started.
#[derive(Debug, Default)]
pub struct Tally {
    /// Conductors that panicked.
    pub faults: Number,
    /// Events and tasks that ended with an error of the conductor's, creations that failed, and answers that could not be passed on.
    pub errors: Number,
    /// Events that were not answered within their deadline.
    pub deadlines: Number,
    /// Lines of level error that conductors logged; a panic in a drop is one.
    pub error_lines: Number,
    /// Of this moment: tasks whose future still exists.
    pub tasks: Number,
}
