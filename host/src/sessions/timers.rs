//! The timers of all sessions: one queue and one task for all of them, which sleeps until the first is due.
//!
//! What is stored of a timer is a due time and its period; the queue holds the next due time of each. A timer is put back into
//! the queue only after its event was handled, so one that is due faster than its conductor handles it is told once, late. Then what is
//! stored goes on, too: one that fires once is taken away, and of one whose period is long the next time takes the place. (Of one whose
//! period is short that would be a write for each time; after a restart it may be told once more for the period in which it was told.)

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conductor_abi::{
    rules,
    wire::{TimerMeta, event},
};
use tokio::sync::Notify;

use super::{Manager, Session, SessionId, event::What, manager::Refused, record::until_done};
use crate::{
    conductors::Trouble,
    store::{Change, StoredTimer},
};

/// The longest sleep: a clock that was set back or forward is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// From this period on, in milliseconds, each time that was told is stored.
const LONG_PERIOD: u64 = 60_000;
/// Before the next try where a mailbox has no room.
const WHERE_FULL: Duration = Duration::from_secs(1);

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: Mutex<Queue>,
    /// Rung when a timer is due earlier than all others.
    earlier: Notify,
}

/// Due times with a number that tells two of one moment apart.
type Key = (u64, u64);

#[derive(Debug, Default)]
struct Queue {
    count: u64,
    due: BTreeMap<Key, (SessionId, Box<str>, StoredTimer)>,
    /// The same by session and name.
    keys: HashMap<SessionId, BTreeMap<Box<str>, Key>>,
    /// Names of those that were due while there was nobody to tell: its conductor has no hook for them, or there is none. They are stored, and
    /// wait for one.
    unheard: HashMap<SessionId, BTreeSet<Box<str>>>,
}

impl Queue {
    /// True where it is the first of all now.
    fn set(&mut self, session: SessionId, name: &str, timer: StoredTimer, due: u64) -> bool {
        self.forget_unheard(session, name);
        self.count += 1;
        let key = (due, self.count);
        if let Some(before) = self.keys.entry(session).or_default().insert(name.into(), key) {
            self.due.remove(&before);
        }
        self.due.insert(key, (session, name.into(), timer));
        self.due.first_key_value().is_some_and(|(first, _)| *first == key)
    }

    fn forget_unheard(&mut self, session: SessionId, name: &str) {
        let Some(names) = self.unheard.get_mut(&session) else { return };
        names.remove(name);
        if names.is_empty() {
            self.unheard.remove(&session);
        }
    }

    fn remove(&mut self, session: SessionId, name: &str) {
        self.forget_unheard(session, name);
        let Some(names) = self.keys.get_mut(&session) else { return };
        if let Some(key) = names.remove(name) {
            self.due.remove(&key);
        }
        if names.is_empty() {
            self.keys.remove(&session);
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.unheard.remove(&session);
        for key in self.keys.remove(&session).unwrap_or_default().into_values() {
            self.due.remove(&key);
        }
    }

    /// Takes out the first timer, where it is due by `now`; otherwise says how many milliseconds are left, if there is any.
    fn next(&mut self, now: u64) -> Result<(SessionId, Box<str>, StoredTimer, u64), Option<u64>> {
        let Some((key, _)) = self.due.first_key_value() else { return Err(None) };
        let key = *key;
        if key.0 > now {
            return Err(Some(key.0 - now));
        }
        let (session, name, timer) = self.due.remove(&key).ok_or(None)?;
        if let Some(names) = self.keys.get_mut(&session) {
            names.remove(&name);
            if names.is_empty() {
                self.keys.remove(&session);
            }
        }
        Ok((session, name, timer, key.0))
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that can panic comes between two edits.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn set(&self, session: SessionId, name: &str, timer: StoredTimer, due: u64) {
        if self.lock().set(session, name, timer, due) {
            self.earlier.notify_one();
        }
    }

    /// Takes out all timers of a session that is no more.
    pub(super) fn forget(&self, session: SessionId) {
        self.lock().forget(session);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let queue = self.lock();
        assert_eq!(queue.due.len(), queue.keys.values().map(BTreeMap::len).sum::<usize>());
        queue.due.len()
    }
}

/// When a timer is due next, after `now`; both and the result in milliseconds since the Unix epoch.
fn next_due(timer: StoredTimer, every: u64, now: u64) -> u64 {
    let periods = now.saturating_sub(timer.due) / every.max(1) + 1;
    timer.due.saturating_add(periods.saturating_mul(every.max(1)))
}

impl Manager {
    /// Sets a timer of the conductor of this `life`, or takes it away; durable when this returns.
    ///
    /// # Errors
    /// A sentence for the author where the timer cannot be; or that of the store.
    pub(crate) async fn set_timer(
        &self,
        session: &Arc<Session>,
        life: u32,
        name: &str,
        meta: Option<&TimerMeta>,
    ) -> Result<(), TimerError> {
        let record = session.record_with_held();
        let timers = record.extra.as_ref().map(|extra| &extra.timers);
        let timer = match meta {
            None if timers.is_none_or(|timers| !timers.contains_key(name)) => return Ok(()),
            None => None,
            Some(meta) => {
                let others = timers.map_or(0, |timers| timers.len() - usize::from(timers.contains_key(name)));
                rules::timer(name, meta, others).map_err(TimerError::Rule)?;
                let due = self.world().clock.millis().saturating_add(meta.after.max(1));
                Some(StoredTimer { due, every: meta.every })
            }
        };
        let id = session.id();
        session.change_by(life, Change::Timer { id, name: name.into(), timer }).await.map_err(|error| TimerError::Refused(error.into()))?;
        self.requeue(session, name, timer);
        Ok(())
    }

    /// What follows after a timer was stored, or taken away.
    pub(super) fn requeue(&self, session: &Arc<Session>, name: &str, timer: Option<StoredTimer>) {
        match timer {
            // One of a session that is being made is queued when that is stored; so is one that is held back, which the record does not have.
            Some(timer) if !session.is_hidden() => self.queue(session, name, timer, timer.due),
            Some(_) => {}
            None => self.unqueue(session, name),
        }
    }

    /// Puts a timer into the queue while it is the one that is set: of two that are set at once, the queue holds what the store does.
    fn queue(&self, session: &Arc<Session>, name: &str, timer: StoredTimer, due: u64) {
        let mut queue = self.timers.lock();
        // One that is no more is taken out of the directory first, and then its timers out of the queue.
        if session.has_timer(name, timer) && self.has(session) && queue.set(session.id(), name, timer, due) {
            self.timers.earlier.notify_one();
        }
    }

    fn unqueue(&self, session: &Arc<Session>, name: &str) {
        let mut queue = self.timers.lock();
        if session.timer(name).is_none() && self.has(session) {
            queue.remove(session.id(), name);
        }
    }

    /// Puts the stored timers of a session into the queue: of a repeating one that was due while the host was down, the last due time.
    pub(super) fn set_timers(&self, session: &Arc<Session>) {
        let record = session.record();
        let now = self.world().clock.millis();
        for (name, timer) in record.extra.iter().flat_map(|extra| &extra.timers) {
            self.queue(session, name, *timer, first_due(*timer, now));
        }
    }

    /// As [`set_timers`](Self::set_timers), for a session that goes on with a conductor: only those timers of which none has heard.
    pub(super) fn set_unheard_timers(&self, session: &Arc<Session>) {
        let unheard = self.timers.lock().unheard.remove(&session.id()).unwrap_or_default();
        let now = self.world().clock.millis();
        for name in unheard {
            if let Some(timer) = session.timer(&name) {
                self.queue(session, &name, timer, first_due(timer, now));
            }
        }
    }

    /// Nobody was there to hear of a timer: it is told once there is somebody.
    fn keep_unheard(&self, session: &Arc<Session>, name: &str, timer: StoredTimer) {
        let mut queue = self.timers.lock();
        if session.has_timer(name, timer) && self.has(session) {
            queue.unheard.entry(session.id()).or_default().insert(name.into());
        }
        drop(queue);
        // There is by now, and that has looked already.
        if session.status().is_live() && session.kind().wants(event::TIMER) {
            self.set_unheard_timers(session);
        }
    }

    /// Fires timers until the host stops. Called once.
    pub(super) fn run_timers(self: &Arc<Self>) {
        let manager = Arc::downgrade(self);
        self.world().pool.runtime().spawn(async move {
            loop {
                let Some(manager) = manager.upgrade() else { return };
                let Some(wait) = manager.fire_due() else { return };
                let timers = &manager.timers;
                tokio::select! {
                    () = timers.earlier.notified() => {}
                    () = tokio::time::sleep(wait.unwrap_or(LONGEST_SLEEP)), if wait.is_some() => {}
                }
            }
        });
    }

    /// Fires what is due; how long until the next, if there is one. Nothing once the host stops.
    fn fire_due(self: &Arc<Self>) -> Option<Option<Duration>> {
        loop {
            if self.is_stopping() {
                return None;
            }
            let now = self.world().clock.millis();
            let next = self.timers.lock().next(now);
            match next {
                Ok((id, name, timer, due)) => {
                    // Also of one that is being closed: where the store refuses that, it goes on.
                    let Some(session) = self.directory.get(id).filter(|session| session.has_timer(&name, timer)) else { continue };
                    // A conductor without the hook is not woken. The timer stays stored, for a build that has it.
                    if !session.kind().wants(event::TIMER) {
                        self.keep_unheard(&session, &name, timer);
                        continue;
                    }
                    // Told here, so that those of one session come in the order in which they are due.
                    let told = session.ask_in_turn(What::Timer { name: name.to_string(), due });
                    let manager = self.clone();
                    self.world().pool.runtime().spawn(async move {
                        let told = told.await;
                        manager.fired(&session, &name, timer, due, told).await;
                    });
                }
                Err(left) => return Some(left.map(|millis| Duration::from_millis(millis).min(LONGEST_SLEEP))),
            }
        }
    }

    /// What follows after a timer was told.
    async fn fired(&self, session: &Arc<Session>, name: &str, timer: StoredTimer, due: u64, told: Result<Vec<u8>, Trouble>) {
        let id = session.id();
        match told {
            // It stays stored: the host stops, or there is no conductor, and the next one is told.
            Err(Trouble::Faulted(_) | Trouble::Unavailable(_) | Trouble::Closed) => return self.keep_unheard(session, name, timer),
            // Not told at all.
            Err(Trouble::Overloaded) => {
                tracing::warn!(session = %id, timer = name, "the conductor's mailbox is full; the timer is told later");
                tokio::time::sleep(WHERE_FULL).await;
                return self.queue(session, name, timer, due);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(session = %id, timer = name, %error, "the conductor failed at a timer"),
        }
        let next = timer.every.map(|every| StoredTimer { due: next_due(timer, every, self.world().clock.millis()), ..timer });
        tracing::debug!(session = %id, timer = name, "a timer was told");
        let Some(next) = next else { return self.take_away(session, name, timer).await };
        if next.every >= Some(LONG_PERIOD)
            && let Err(error) = session.change(Change::Fired { id, name: name.into(), timer, next: Some(next) }).await
        {
            tracing::error!(session = %id, timer = name, %error, "a timer that fired is stored as before until its next time, and fires again after a restart");
        }
        // Stored is the one or the other; the queue takes what is.
        self.queue(session, name, next, next.due);
        self.queue(session, name, timer, next.due);
    }

    /// Takes a timer that fires once, and has, out of the store. Where that fails it is tried until it succeeds, or it is the session's timer no more: else it
    /// would fire again after a restart. (It does, where the host ends before.)
    async fn take_away(&self, session: &Arc<Session>, name: &str, timer: StoredTimer) {
        let (id, told) = (session.id(), AtomicBool::new(false));
        until_done(async || {
            if self.is_stopping() || !self.has(session) || !session.has_timer(name, timer) {
                return true;
            }
            let Err(error) = session.change(Change::Fired { id, name: name.into(), timer, next: None }).await else { return true };
            if !told.swap(true, Ordering::Relaxed) {
                tracing::error!(session = %id, timer = name, %error, "a timer that fired stays in the store until that can be written; a restart before tells it again");
            }
            false
        })
        .await;
    }
}

impl Session {
    fn timer(&self, name: &str) -> Option<StoredTimer> {
        self.record().extra.as_ref().and_then(|extra| extra.timers.get(name).copied())
    }

    fn has_timer(&self, name: &str, timer: StoredTimer) -> bool {
        self.timer(name) == Some(timer)
    }
}

/// The due time that counts when a timer is read from the store.
fn first_due(timer: StoredTimer, now: u64) -> u64 {
    match timer.every {
        Some(every) if timer.due <= now => next_due(timer, every, now).saturating_sub(every.max(1)),
        _ => timer.due,
    }
}

/// Why a timer was not set.
#[derive(Debug)]
pub(crate) enum TimerError {
    /// It cannot be.
    Rule(String),
    /// The host did not.
    Refused(Refused),
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
