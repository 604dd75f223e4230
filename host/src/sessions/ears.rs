//! Who hears of all sessions, beside their own conductors: the services.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{CloseReason, Session};
use crate::broker::Message;

/// Called wherever something happens, by any thread: an implementation queues and returns, it never waits.
pub(crate) trait Ear: Send + Sync + 'static {
    /// A client of a session that is there sent a message.
    fn message(&self, message: &Message);
    /// A session can be found from now on.
    fn opened(&self, session: &Session);
    /// A session is gone.
    fn closed(&self, session: &Session, reason: CloseReason);
    /// The link to an external broker came up or was lost.
    fn link(&self);
}

/// The place for one.
#[derive(Default)]
pub(crate) struct Ears {
    ear: OnceLock<Arc<dyn Ear>>,
    messages: AtomicBool,
}

impl Ears {
    /// From now on `ear` is told, but of messages. The first one stays.
    pub(crate) fn set(&self, ear: Arc<dyn Ear>) {
        // There is one registry of services in a host.
        let _ = self.ear.set(ear);
    }

    /// Whether somebody wants messages.
    pub(crate) fn want_messages(&self, wanted: bool) {
        self.messages.store(wanted, Ordering::Relaxed);
    }

    /// Where nobody wants messages this is one load.
    pub(super) fn message(&self, message: &Message) {
        if self.messages.load(Ordering::Relaxed) {
            self.tell(|ear| ear.message(message));
        }
    }

    pub(super) fn tell(&self, what: impl FnOnce(&dyn Ear)) {
        if let Some(ear) = self.ear.get() {
            what(&**ear);
        }
    }
}

impl fmt::Debug for Ears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ears").field("messages", &self.messages).finish_non_exhaustive()
    }
}
