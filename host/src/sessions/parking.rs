//! Sessions that have no conductor for now: *parked*. Nothing of them is lost. They are listed with the reason, can be closed, and are joined by
//! what their record says alone, as far as their type is not known to have a say in joins.
//!
//! One whose type has no plugin waits for the plugin: it is looked for when plugins are loaded ([`Manager::exchange`]). One whose conductor could
//! not be made is tried again by the host, after a pause that doubles; at the next loading of changed code; and where somebody
//! moves it. Events do not try again: who asks is answered at once, with the reason, and a storm of messages makes no storm of tries.
//!
//! Timers stay stored, and are told late once there is a conductor; messages are dropped, and counted.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Session,
    event::{Event, What},
    session::{Conductor, Inner},
    status::Parked,
};
use crate::conductors::Trouble;

impl Inner {
    /// What is answered to who asks a parked session.
    pub(super) fn why_parked(&self) -> Trouble {
        Trouble::Unavailable(self.parked.as_ref().map_or_else(|| "it is parked".into(), |parked| parked.reason.clone()))
    }
}

impl Session {
    /// Why it is parked; nothing where it is not.
    #[must_use]
    pub fn parked(&self) -> Option<Arc<Parked>> {
        self.lock().parked.clone()
    }

    /// After its making failed: there is no conductor, and why is kept. Nothing where it is over in another way by now.
    pub(super) fn park(self: &Arc<Self>, trouble: &Trouble) {
        let mut inner = self.lock();
        if !matches!(inner.conductor, Conductor::NotMade) {
            return;
        }
        let parked = Parked::after(trouble, inner.parked.as_deref(), self.world().clock.millis());
        let before = inner.parked.replace(parked.clone());
        inner.conductor = Conductor::Parked;
        drop(inner);
        let (kind, reason) = (self.kind(), &parked.reason);
        let tally = &kind.lane.tally;
        match trouble {
            // The host stops: nothing went wrong.
            Trouble::Closed => return,
            Trouble::Faulted(_) => tally.faults.add(),
            // Counted where it is answered.
            Trouble::Deadline => {}
            _ => tally.errors.add(),
        }
        if self.is_hidden() {
            tracing::error!(session = %self.id(), r#type = %kind.name, %reason, "the conductor could not be made");
            return;
        }
        let pause = parked.pause().unwrap_or_default();
        if before.is_some_and(|before| before.reason == *reason) {
            tracing::debug!(session = %self.id(), r#type = %kind.name, tries = parked.tries, ?pause, %reason, "the session stays parked");
        } else {
            tracing::error!(session = %self.id(), r#type = %kind.name, tries = parked.tries, ?pause, %reason, "the session is parked: its conductor could not be made");
        }
        self.try_after(pause, &parked);
    }

    /// Tries again after a pause, unless something else has happened to it by then.
    fn try_after(self: &Arc<Self>, pause: Duration, parked: &Arc<Parked>) {
        let (session, parked) = (Arc::downgrade(self), parked.clone());
        self.world().pool.runtime().spawn(async move {
            tokio::time::sleep(pause).await;
            let Some(session) = session.upgrade().filter(|session| session.is_parked_as(&parked)) else { return };
            let time = session.world().clock.millis();
            let again = Event { what: What::Make(None), deadline: Instant::now(), time, answer: None };
            if let Err(error) = session.post(again) {
                tracing::warn!(session = %session.id(), %error, "the session stays parked for now; it is tried again later");
                session.try_after(pause, &parked);
            }
        });
    }

    /// For the very reason, and not tried again since.
    fn is_parked_as(&self, parked: &Arc<Parked>) -> bool {
        let inner = self.lock();
        matches!(inner.conductor, Conductor::Parked) && inner.parked.as_ref().is_some_and(|now| Arc::ptr_eq(now, parked))
    }

    /// The event that makes it is there: from here on it is like one that is not made yet, and what comes meanwhile waits.
    pub(super) fn try_again(&self) {
        let mut inner = self.lock();
        if matches!(inner.conductor, Conductor::Parked) {
            inner.conductor = Conductor::NotMade;
        }
    }

    /// Another reason why its type has no plugin.
    pub(super) fn still_without_plugin(&self, reason: &Arc<str>) {
        let mut inner = self.lock();
        if let Some(parked) = inner.parked.as_mut().filter(|parked| parked.lack == super::status::Lack::Plugin && parked.reason != *reason)
        {
            Arc::make_mut(parked).reason = reason.clone();
        }
    }
}
