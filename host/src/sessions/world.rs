//! What all sessions share.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Manager, clock::Clock, lifetimes::Limits};
use crate::{broker::Broker, conductors::pool::Pool, joins::Joins, store::Store};

/// Passed to every session; owned by the manager.
pub struct World {
    /// The threads for plugin code.
    pub pool: Pool,
    /// Where messages go.
    pub broker: Arc<dyn Broker>,
    /// Where sessions are kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// How long a join is good for.
    pub grant_ttl: Duration,
    /// The most bytes that a conductor may save.
    pub max_state: usize,
    /// How long sessions live whose types say nothing of it.
    pub limits: Limits,
    /// How many clients may be in a session whose conductor says nothing of it.
    pub max_clients: u32,
    /// Who may join.
    pub joins: Joins,
    /// Digits of new ids.
    pub id_digits: u8,
    /// Digits of new pins.
    pub pin_digits: u8,
    /// For a conductor that closes its session.
    pub manager: Weak<Manager>,
    /// What was counted since the start.
    pub counts: Counts,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// Counted since the start of the host.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests to conductors.
    pub requests: AtomicU64,
    /// Joins that succeeded.
    pub joins: AtomicU64,
    /// Messages that conductors heard.
    pub messages: AtomicU64,
    /// Messages that a full mailbox kept from a conductor.
    pub dropped: AtomicU64,
    /// Sessions that were closed because their time was over.
    pub expired: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
