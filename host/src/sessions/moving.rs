//! How a session goes from one build of its plugin to another: the old conductor is told to close, and the new code makes one from what was
//! saved last. Clients, grants, timers and connections are the session's, and stay.
//!
//! It is an event like any other, so it comes in order and what happens meanwhile waits. Where the new code makes no conductor, the old code
//! makes one again, from the same state: what an attempt changes counts once it has succeeded (`holding.rs`).

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use conductor_abi::rules;
use futures_util::FutureExt;
use tokio::{sync::oneshot, time::Instant};
use tracing::field::display;

use super::{
    Caller, CloseReason, Session,
    event::What,
    session::{Conductor, State},
    task::all_gone,
};
use crate::{
    conductors::{Trouble, catalog::Type, instance::Instance, library::Hash, pool::Escaped},
    store::SavedState,
};

/// Beyond what the parts of a move may take.
const SLACK: Duration = Duration::from_secs(5);

/// What became of a session that was to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its conductor is made of the type's present code now.
    Moved {
        /// What it ran before; nothing where it had no conductor.
        from: Option<Hash>,
        /// What it runs now.
        to: Option<Hash>,
    },
    /// There was nothing to do, or it is not to be; why.
    Stayed(Arc<str>),
    /// It was to move and did not; why, and what it has now.
    Failed(Arc<str>),
}

/// The order to move, in a mailbox.
pub(super) struct Order {
    /// Whether a session that saved nothing stays as it is.
    pub(super) only_saved: bool,
    /// Who asked; may have gone meanwhile.
    pub(super) told: oneshot::Sender<Outcome>,
}

impl Order {
    /// On a thread for plugin code, as are all the others below.
    pub(super) async fn carry_out(self, session: &Arc<Session>, time: u64) {
        let outcome = session.move_over(self.only_saved, time).await;
        let (id, kind) = (session.id(), session.kind().name.clone());
        match &outcome {
            Outcome::Moved { from, to } => {
                let (old, new) = (from.map(display), to.map(display));
                tracing::info!(session = %id, r#type = %kind, old, new, "the session has moved");
            }
            Outcome::Stayed(reason) => tracing::debug!(session = %id, r#type = %kind, %reason, "the session does not move"),
            Outcome::Failed(reason) => tracing::error!(session = %id, r#type = %kind, %reason, "the session could not move"),
        }
        // Who asked may have gone.
        drop(self.told.send(outcome));
    }
}

impl Type {
    /// The content of its plugin.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        self.plugin.as_ref().ok().map(|plugin| plugin.library.hash())
    }
}

impl Session {
    /// The type of its conductor, while it has one.
    #[must_use]
    pub fn running(&self) -> Option<Arc<Type>> {
        let inner = self.lock();
        matches!(inner.conductor, Conductor::Live(_)).then(|| self.kind().clone())
    }

    /// Whether a conductor of this life may ask for something: it is the present one, and not over.
    pub(crate) fn lives(&self, life: u32) -> bool {
        let inner = self.lock();
        inner.life == life && !inner.conductor.is_over()
    }

    /// The number of its present conductor, which newer code may replace; 0 before the first.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.lock().life
    }

    pub(super) fn begin_life(&self) -> u32 {
        let mut inner = self.lock();
        inner.life = inner.life.wrapping_add(1);
        inner.life
    }

    /// The most that a move takes, unless a thread is blocked.
    pub(super) fn longest_move(&self) -> Duration {
        let current = self.current_type().map_or(Duration::ZERO, |kind| kind.deadline);
        // The old conductor's close, and the end of its tasks; of those of a new one that was not made, too.
        3 * rules::CLOSE_DEADLINE + self.kind().deadline + current + SLACK
    }

    /// Its type as the settings have it now.
    pub(super) fn current_type(&self) -> Option<Arc<Type>> {
        let catalog = self.world().manager.upgrade()?.catalog();
        catalog.get(&self.kind().name).cloned()
    }

    /// What its conductor is to be made from, where it has none.
    pub(super) fn newest_code(&self) -> Arc<Type> {
        match self.current_type() {
            Some(current) if current.plugin.is_ok() => {
                self.set_kind(current.clone());
                current
            }
            _ => self.kind().clone(),
        }
    }

    /// Takes over code that is `current` now, where it has no conductor: one that is made later, or that could not be made, which is then
    /// tried again. True for the latter; nothing where there is nothing to do.
    pub(super) fn renew(&self, current: &Arc<Type>) -> Option<bool> {
        let mut inner = self.lock();
        let again = match inner.conductor {
            // One that is being made looks for the newest code by itself.
            Conductor::NotMade if inner.state == State::Idle => false,
            Conductor::Parked => true,
            // It is being tried just now, with code from before perhaps: once more behind that.
            Conductor::NotMade if inner.parked.is_some() => return Some(true),
            _ => return None,
        };
        (inner.conductor, inner.parked) = (Conductor::NotMade, None);
        self.set_kind(current.clone());
        Some(again)
    }

    async fn move_over(self: &Arc<Self>, only_saved: bool, time: u64) -> Outcome {
        let stays = |reason: &str| Outcome::Stayed(reason.into());
        let Some(to) = self.current_type() else { return stays("its type is not in the settings any more") };
        if let Err(reason) = &to.plugin {
            return Outcome::Stayed(reason.clone());
        }
        if !self.is_open() {
            return stays("it is being made or closed");
        }
        let from = self.kind().clone();
        let conductor = self.lock().conductor.clone();
        let live = match conductor {
            Conductor::Gone => return stays("it is closed"),
            Conductor::NotMade => {
                self.newest_code();
                self.hear_timers(&from, false);
                return stays("its conductor is made at its next event, of the present code");
            }
            Conductor::Live(_) if Arc::ptr_eq(&from, &to) => return stays("it runs the present code already"),
            Conductor::Live(instance) => Some(instance),
            // It may be made again, also of the code of which it was made before.
            Conductor::Faulted(_) | Conductor::Parked => None,
        };
        if let Some(trouble) = self.world().store.trouble() {
            return Outcome::Failed(format!("what its conductor saves could not be kept: {trouble}").into());
        }
        if only_saved {
            match self.world().store.state(self.id()).await {
                Ok(Some(_)) => {}
                Ok(None) => return stays("its conductor has saved nothing"),
                Err(error) => return Outcome::Failed(error.to_string().into()),
            }
        }
        if self.world().manager.upgrade().is_none_or(|manager| manager.is_stopping()) {
            return stays("the host is stopping");
        }
        let was_live = live.is_some();
        if let Some(instance) = live {
            self.close_moved(&from, instance, time).await;
        }
        self.release(Conductor::NotMade).await;
        if !self.is_open() {
            return stays("it is being closed");
        }
        self.go_over(&from, &to, was_live, time).await
    }

    /// The last event of the old conductor.
    async fn close_moved(self: &Arc<Self>, kind: &Type, instance: Instance, time: u64) {
        let close = What::Close(CloseReason::Replaced);
        let told = contained(close.tell(&instance, self, time, Instant::now() + rules::CLOSE_DEADLINE));
        let told = tokio::time::timeout(rules::CLOSE_DEADLINE, told).await.unwrap_or(Err(Trouble::Deadline));
        if let Err(error) = told {
            tracing::warn!(session = %self.id(), r#type = %kind.name, %error, "the conductor did not close well; what it saved last counts");
        }
    }

    /// Takes the conductor, its tasks and what it may ask of the host away.
    pub(super) async fn release(&self, instead: Conductor) {
        let before = {
            let mut inner = self.lock();
            inner.life = inner.life.wrapping_add(1);
            std::mem::replace(&mut inner.conductor, instead)
        };
        let tasks = self.end_tasks();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(before))) {
            // Its drop may panic in its turn.
            std::mem::forget(payload);
            tracing::error!(session = %self.id(), "dropping the conductor: {Escaped}");
        }
        // What they hold (a port, a file) may be wanted by the next.
        all_gone(tasks).await;
    }

    /// Makes the new conductor, or else the old one again; the session has none now.
    async fn go_over(self: &Arc<Self>, from: &Arc<Type>, to: &Arc<Type>, was_live: bool, time: u64) -> Outcome {
        let saved = match self.world().store.state(self.id()).await {
            Ok(saved) => saved,
            Err(error) => return self.without(error.to_string()).await,
        };
        let Err(error) = self.try_over(to, saved.as_ref(), time).await else {
            self.hear_timers(from, !was_live);
            return Outcome::Moved { from: from.hash().filter(|_| was_live), to: to.hash() };
        };
        if !was_live {
            return self.without(error.to_string()).await;
        }
        tracing::error!(session = %self.id(), r#type = %to.name, %error, "the new code makes no conductor; the old code makes one again");
        match self.try_over(from, saved.as_ref(), time).await {
            Ok(()) => {
                // What was due while the new code was tried may have had no hook to go to.
                self.hear_timers(to, false);
                Outcome::Failed(format!("{error}; it runs the old code again").into())
            }
            Err(also) => {
                self.set_kind(to.clone());
                self.without(format!("{error}; and the old code made none again: {also}")).await
            }
        }
    }

    async fn without(self: &Arc<Self>, reason: String) -> Outcome {
        let reason: Arc<str> = reason.into();
        self.release(Conductor::NotMade).await;
        self.park(&Trouble::Unavailable(reason.clone()));
        Outcome::Failed(reason)
    }

    async fn try_over(self: &Arc<Self>, kind: &Arc<Type>, saved: Option<&SavedState>, time: u64) -> Result<(), Trouble> {
        // Before it is made: it may set a timer at once, which is told to a conductor that listens only.
        self.set_kind(kind.clone());
        let made = self.attempt(kind, saved, Some(Caller::host().meta()), time).await;
        if made.is_err() {
            self.release(Conductor::NotMade).await;
        }
        made.map(drop)
    }

    /// Timers of which the conductor before did not hear, since it had no hook for them or was over, come to the new one.
    pub(super) fn hear_timers(self: &Arc<Self>, before: &Type, was_over: bool) {
        let timer = conductor_abi::wire::event::TIMER;
        let gained = !before.wants(timer) && self.kind().wants(timer);
        if let Some(manager) = self.world().manager.upgrade().filter(|_| was_over || gained) {
            manager.set_unheard_timers(self);
        }
    }
}

/// A panic that gets past a plugin's own guards ends the future, and no more.
pub(super) async fn contained<T>(future: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(|payload| {
        std::mem::forget(payload);
        Err(Trouble::Faulted(Escaped.to_string().into()))
    })
}
