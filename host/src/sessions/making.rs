//! How a session comes to its conductor, and tells it an event.

use std::sync::Arc;

use conductor_abi::{
    contract::HostObj,
    wire::{CallerMeta, CreateMeta},
};
use tokio::time::Instant;

use super::{
    Session,
    event::What,
    ids::random_hex,
    moving::contained,
    session::Conductor,
    status::{Phase, Status},
};
use crate::{
    conductors::{Trouble, catalog::Type, instance::Instance, services::SessionHost},
    store::{SavedState, StoreError},
};

impl Session {
    /// Handles one event; runs on a thread for plugin code.
    pub(super) async fn handle(self: Arc<Self>, what: What, time: u64, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        if let What::Move(order) = what {
            order.carry_out(&self, time).await;
            return Ok(Vec::new());
        }
        let conductor = self.lock().conductor.clone();
        let instance = match conductor {
            Conductor::Live(instance) => instance,
            _ if what.closes() => return Ok(Vec::new()),
            Conductor::NotMade => self.make(&what, time).await?,
            Conductor::Parked if matches!(what, What::Make(_)) => {
                self.try_again();
                self.make(&what, time).await?
            }
            Conductor::Faulted(_) | Conductor::Parked | Conductor::Gone => return Err(self.why_over()),
        };
        what.tell(&instance, &self, time, deadline).await
    }

    async fn make(self: &Arc<Self>, what: &What, time: u64) -> Result<Instance, Trouble> {
        if self.world().manager.upgrade().is_none_or(|manager| manager.is_stopping()) {
            // It would not be told to close any more.
            return Err(Trouble::Closed);
        }
        let before = self.kind().clone();
        let kind = self.newest_code();
        let saved = self.saved().await?;
        let closing = self.lock().phase == Phase::Closing;
        if closing && saved.is_none() && matches!(self.stored_record().await, Err(StoreError::NoSuchSession(_))) {
            // What waited for a thread until its session was closed: nothing is to begin anew in one that is no more.
            return Err(Trouble::Closed);
        }
        let was_parked = self.lock().parked.is_some();
        match self.attempt(&kind, saved.as_ref(), what.caller(), time).await {
            Ok(installed) => {
                if was_parked {
                    tracing::info!(session = %self.id(), r#type = %kind.name, "the session is not parked any more");
                }
                self.hear_timers(&before, was_parked);
                Ok(installed)
            }
            // A task that it spawned panicked meanwhile.
            Err(_) if self.lock().conductor.is_over() => Err(self.why_over()),
            Err(other) => {
                self.release(Conductor::NotMade).await;
                Err(other)
            }
        }
    }

    /// Makes a conductor out of the code of `kind`, within its deadline, the session's; what it changes meanwhile counts once it is. Where that fails,
    /// what it saved on its way does not count, so the next try begins where this one did; the caller releases what is left of it.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        kind: &Type,
        saved: Option<&SavedState>,
        caller: Option<CallerMeta>,
        time: u64,
    ) -> Result<Instance, Trouble> {
        // Of a session that is not stored yet, changes are kept with the record, and stored with it.
        let attempt = (!self.is_hidden()).then(|| self.begin_attempt());
        let built = contained(self.build(kind, saved, caller, time));
        let built = tokio::time::timeout(kind.deadline, built).await.unwrap_or(Err(Trouble::Deadline))?;
        let installed = self.install(built)?;
        if let Some(attempt) = attempt {
            attempt.succeeded().await?;
        }
        Ok(installed)
    }

    /// A conductor out of the code of `kind`, with what was saved; not the session's yet. What an earlier one still holds of the session is
    /// answered that it is closed from here on.
    async fn build(
        self: &Arc<Self>,
        kind: &Type,
        saved: Option<&SavedState>,
        caller: Option<CallerMeta>,
        time: u64,
    ) -> Result<Instance, Trouble> {
        let plugin = kind.plugin.as_ref().map_err(|reason| Trouble::Unavailable(reason.clone()))?;
        let seed = random_hex::<32>().map_err(|e| Trouble::Internal(e.to_string()))?;
        let mut meta = CreateMeta::new(self.id().to_string(), kind.name.to_string(), plugin.config.clone(), seed, time);
        meta.caller = caller;
        if let Some(saved) = saved {
            (meta.restoring, meta.state_version) = (true, saved.version);
        }
        let body = saved.map_or(&[][..], |saved| &saved.bytes);
        let host = HostObj::new(SessionHost::new(self, self.begin_life()));
        Instance::make(plugin, host, &meta, body).await
    }

    /// Makes it the session's conductor, unless a task that it spawned has panicked meanwhile.
    fn install(self: &Arc<Self>, instance: Instance) -> Result<Instance, Trouble> {
        let mut inner = self.lock();
        if !matches!(inner.conductor, Conductor::NotMade) {
            drop(inner);
            return Err(self.why_over());
        }
        inner.conductor = Conductor::Live(instance.clone());
        inner.parked = None;
        drop(inner);
        if self.world().broker.link() == Some(false) {
            self.tell_link();
        }
        Ok(instance)
    }

    /// What the conductor saved last, before a restart.
    async fn saved(&self) -> Result<Option<SavedState>, Trouble> {
        if self.is_hidden() {
            return Ok(None);
        }
        self.world().store.state(self.id()).await.map_err(|error| Trouble::Unavailable(error.to_string().into()))
    }

    fn why_over(&self) -> Trouble {
        match self.status() {
            Status::Faulted(reason) => Trouble::Faulted(reason),
            Status::Unavailable(reason) => Trouble::Unavailable(reason),
            _ => Trouble::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        sessions::{
            Caller,
            place::{NOW, Place, id, stored},
        },
        store::Change,
    };

    #[test]
    fn what_waited_for_a_thread_begins_nothing_in_a_session_that_is_no_more() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let (session, store) = (place.manager.get(id("111111")).unwrap(), place.manager.world().store.clone());
        let make = || {
            session.lock().conductor = Conductor::NotMade;
            let what = What::Make(Some(Caller::host()));
            place.run(session.clone().handle(what, 0, Instant::now() + Duration::from_secs(9)))
        };
        // As far as it comes without a plugin: it was tried.
        let tried = |result| matches!(result, Err(Trouble::Unavailable(_)));
        assert!(tried(make()));
        // The store may refuse to close it yet.
        assert!(session.move_on(Phase::Open, Phase::Closing));
        assert!(tried(make()));
        place.run(store.apply(Change::Close(id("111111")))).unwrap();
        let result = make();
        assert!(matches!(result, Err(Trouble::Closed)), "{result:?}");
    }
}
