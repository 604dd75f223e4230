//! What the link shares with those who use it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, watch};

use super::{closed::Closed, outbox::Outbox};

/// How the link is, and what it has to do.
#[derive(Debug)]
pub(super) struct State {
    /// Messages pass.
    pub(super) up: bool,
    /// The link's task has ended.
    pub(super) ended: bool,
    /// Why not.
    pub(super) trouble: Arc<str>,
    pub(super) outbox: Outbox,
    pub(super) closed: Closed,
}

/// Held by the broker's handle and the link's task.
#[derive(Debug)]
pub(super) struct Desk {
    /// Locked for moments only, never while waiting.
    state: Mutex<State>,
    /// There is something to do for the link.
    pub(super) wake: Notify,
    /// There may be room in the outbox.
    pub(super) room: Notify,
    /// Whether messages of clients are still taken.
    hearing: AtomicBool,
    pub(super) stop: watch::Sender<bool>,
}

impl Desk {
    pub(super) fn new(trouble: &str) -> Self {
        Self {
            state: Mutex::new(State {
                up: false,
                ended: false,
                trouble: trouble.into(),
                outbox: Outbox::default(),
                closed: Closed::default(),
            }),
            wake: Notify::new(),
            room: Notify::new(),
            hearing: AtomicBool::new(true),
            stop: watch::Sender::new(false),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_hearing(&self) -> bool {
        self.hearing.load(Ordering::Relaxed)
    }

    pub(super) fn stop_hearing(&self) {
        self.hearing.store(false, Ordering::Relaxed);
    }
}
