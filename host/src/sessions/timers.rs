//! The timers of all sessions: one queue and one task for all of them, which sleeps until the first is due.
//!
//! What is stored of a timer is its first due time and its period; the queue holds the next due time of each. A timer is put back into
//! the queue only after its event was handled, so one that is due faster than its conductor handles it is told once, late.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use conductor_abi::{
    rules,
    wire::{TimerMeta, event},
};
use tokio::sync::Notify;

use super::{Manager, Session, SessionId, event::What, manager::Refused};
use crate::{
    conductors::Trouble,
    store::{Change, StoredTimer},
};

/// The longest sleep: a clock that was set back or forward is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
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
}

impl Queue {
    /// True where it is the first of all now.
    fn set(&mut self, session: SessionId, name: &str, timer: StoredTimer, due: u64) -> bool {
        self.count += 1;
        let key = (due, self.count);
        if let Some(before) = self.keys.entry(session).or_default().insert(name.into(), key) {
            self.due.remove(&before);
        }
        self.due.insert(key, (session, name.into(), timer));
        self.due.first_key_value().is_some_and(|(first, _)| *first == key)
    }

    fn remove(&mut self, session: SessionId, name: &str) {
        let Some(names) = self.keys.get_mut(&session) else { return };
        if let Some(key) = names.remove(name) {
            self.due.remove(&key);
        }
        if names.is_empty() {
            self.keys.remove(&session);
        }
    }

    fn has(&self, session: SessionId, name: &str) -> bool {
        self.keys.get(&session).is_some_and(|names| names.contains_key(name))
    }

    fn forget(&mut self, session: SessionId) {
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

    /// As [`set_timers`](Self::set_timers), for a session that goes on with other code: only those timers that are not in the queue any more,
    /// since its conductor had no ear for them or was over.
    pub(super) fn set_lost_timers(&self, session: &Arc<Session>) {
        let record = session.record();
        let now = self.world().clock.millis();
        for (name, timer) in record.extra.iter().flat_map(|extra| &extra.timers) {
            let known = self.timers.lock().has(session.id(), name);
            if !known {
                self.queue(session, name, *timer, first_due(*timer, now));
            }
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
            // It stays stored: the host stops, or the conductor is over, and the next start tells it again.
            Err(Trouble::Faulted(_) | Trouble::Unavailable(_) | Trouble::Closed) => return,
            // Not told at all.
            Err(Trouble::Overloaded) => {
                tracing::warn!(session = %id, timer = name, "the conductor's mailbox is full; the timer is told later");
                tokio::time::sleep(WHERE_FULL).await;
                return self.queue(session, name, timer, due);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(session = %id, timer = name, %error, "the conductor failed at a timer"),
        }
        match timer.every {
            Some(every) => self.queue(session, name, timer, next_due(timer, every, self.world().clock.millis())),
            None => {
                if let Err(error) = session.change(Change::Fired { id, name: name.into(), timer }).await {
                    tracing::error!(session = %id, timer = name, %error, "a timer that fired stays stored, and fires again after a restart");
                }
            }
        }
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
mod tests {
    use conductor_abi::{contract::Event, wire::call};

    use super::*;
    use crate::{
        conductors::asks,
        sessions::{
            Phase,
            place::{NOW, Place, stored},
        },
    };

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    fn at(due: u64) -> StoredTimer {
        StoredTimer { due, every: None }
    }

    #[test]
    fn due_times_do_not_drift_and_none_that_is_over_comes_twice() {
        let timer = StoredTimer { due: 1000, every: Some(100) };
        for (now, next) in [(0, 1100), (999, 1100), (1000, 1100), (1001, 1100), (1099, 1100), (1100, 1200), (1550, 1600)] {
            assert_eq!(next_due(timer, 100, now), next, "{now}");
        }
        // Read from the store: not due yet; due once while nobody told it; due often.
        for (now, due) in [(999, 1000), (1000, 1000), (1099, 1000), (1550, 1500)] {
            assert_eq!(first_due(timer, now), due, "{now}");
        }
        assert_eq!(first_due(at(5), 1_000_000), 5);
        assert_eq!(next_due(StoredTimer { due: u64::MAX - 1, every: Some(u64::MAX) }, u64::MAX, 7), u64::MAX);
    }

    #[test]
    fn the_first_that_is_due_comes_first_and_of_one_name_the_last_counts() {
        let timers = Timers::default();
        let mut queue = timers.lock();
        assert!(queue.set(id("1"), "b", at(20), 20));
        assert!(!queue.set(id("1"), "c", at(30), 30));
        assert!(queue.set(id("2"), "a", at(10), 10));
        // Of one moment, in the order they were set.
        assert!(!queue.set(id("2"), "d", at(20), 20));
        assert!(!queue.set(id("1"), "c", at(40), 40));
        assert_eq!(queue.next(9), Err(Some(1)));
        drop(queue);
        assert_eq!(timers.len(), 4);
        let names = |now| std::iter::from_fn(|| timers.lock().next(now).ok()).map(|(_, name, ..)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(20), ["a", "b", "d"]);
        assert_eq!((names(39).len(), timers.len()), (0, 1));
        assert_eq!(names(40), ["c"]);
        assert_eq!(timers.lock().next(u64::MAX), Err(None));
        assert_eq!(timers.len(), 0);
    }

    #[test]
    fn what_is_taken_away_or_of_a_session_that_is_no_more_does_not_come() {
        let timers = Timers::default();
        for (session, name) in [("1", "a"), ("1", "b"), ("2", "a")] {
            timers.set(id(session), name, at(1), 1);
        }
        timers.lock().remove(id("1"), "a");
        timers.lock().remove(id("1"), "never");
        timers.lock().remove(id("3"), "a");
        assert_eq!(timers.len(), 2);
        timers.forget(id("1"));
        timers.forget(id("1"));
        assert_eq!(timers.lock().next(1).map(|(session, name, ..)| (session, name)), Ok((id("2"), "a".into())));
        assert_eq!(timers.len(), 0);
    }
    #[test]
    fn the_queue_holds_the_timer_that_is_set_of_a_session_that_is_live() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let manager = &place.manager;
        let session = manager.get(id("111111")).unwrap();
        let meta = |after| {
            let mut meta = TimerMeta::default();
            meta.after = after;
            meta
        };
        let set = |after| place.run(manager.set_timer(&session, 0, "t", Some(&meta(after)))).unwrap();
        set(10);
        let first = session.timer("t").unwrap();
        assert_eq!((first, manager.timers.len()), (at(NOW * 1000 + 10), 1));
        set(20);
        let second = session.timer("t").unwrap();
        // Two at once may come to the queue in another order than to the store.
        manager.queue(&session, "t", first, first.due);
        assert_eq!(manager.timers.lock().next(u64::MAX).map(|(.., timer, _)| timer), Ok(second));
        manager.queue(&session, "t", second, second.due);
        manager.unqueue(&session, "t");
        assert_eq!(manager.timers.len(), 1);
        // While a session is being closed, its timers stay: the store may refuse.
        assert!(session.move_on(Phase::Open, Phase::Closing));
        set(30);
        assert_eq!(manager.timers.len(), 1);
        assert!(session.move_on(Phase::Closing, Phase::Open));
        let third = session.timer("t").unwrap();
        place.close("111111");
        assert_eq!(manager.timers.len(), 0);
        manager.queue(&session, "t", third, third.due);
        assert_eq!(manager.timers.len(), 0);
    }

    #[test]
    fn a_handler_that_is_given_up_leaves_nothing_half_done() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let session = place.manager.get(id("111111")).unwrap();
        for (kind, subject, meta, body) in [
            (call::TIMER, "t", r#"{"after":5}"#, ""),
            (call::JOIN_RULES, "", "", r#"{"locked":true}"#),
            (call::LABELS, "", "", r#"{"a":"b"}"#),
        ] {
            place.run(async {
                let call = Event {
                    kind: kind.into(),
                    subject: subject.into(),
                    client: "".into(),
                    meta: meta.as_bytes().into(),
                    body: body.as_bytes().into(),
                };
                let mut given_up = Box::pin(asks::answer(&session, 0, &call));
                assert!(futures_util::poll!(given_up.as_mut()).is_pending(), "{kind}");
                drop(given_up);
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            });
        }
        let record = session.record();
        let extra = record.extra.as_ref().unwrap();
        assert!(extra.locked && extra.labels.len() == 1 && extra.timers.len() == 1 && place.manager.timers.len() == 1);
    }

    #[test]
    fn what_follows_after_a_timer_was_told_goes_by_how_that_went() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
        let reason = || std::sync::Arc::from("why");
        let own = || Trouble::Conductor { code: 1, message: String::new(), data: None };
        // Told: whether it is stored, and whether it is in the queue.
        for (told, stored, queued) in [
            (Ok(Vec::new()), false, false),
            (Err(own()), false, false),
            (Err(Trouble::Deadline), false, false),
            (Err(Trouble::Overloaded), true, true),
            // Over: the next start tells it.
            (Err(Trouble::Faulted(reason())), true, false),
            (Err(Trouble::Unavailable(reason())), true, false),
            (Err(Trouble::Closed), true, false),
        ] {
            let text = format!("{told:?}");
            place.run(async {
                tokio::time::pause();
                let mut meta = TimerMeta::default();
                meta.after = 10;
                manager.set_timer(&session, 0, "t", Some(&meta)).await.unwrap();
                let (_, _, timer, due) = manager.timers.lock().next(u64::MAX).unwrap();
                let began = tokio::time::Instant::now();
                manager.fired(&session, "t", timer, due, told).await;
                assert_eq!(session.has_timer("t", timer), stored, "{text}");
                let again = manager.timers.lock().next(u64::MAX).ok();
                assert_eq!(again.map(|(.., due)| due), queued.then_some(due), "{text}");
                assert_eq!(began.elapsed() >= WHERE_FULL, queued, "{text}");
                tokio::time::resume();
            });
        }
    }

    #[test]
    fn of_a_stored_timer_that_was_due_often_the_last_time_counts() {
        let mut old = stored("111111", NOW, &[]);
        let timers = [("repeats", StoredTimer { due: NOW * 1000 - 2550, every: Some(1000) }), ("once", at(NOW * 1000 - 2550))];
        let timers = timers.into_iter().map(|(name, timer)| (name.into(), timer)).collect();
        old.extra = Some(Box::new(crate::store::Extra { timers, ..Default::default() }));
        let place = Place::with([old]);
        place.manager.set_timers(&place.manager.get(id("111111")).unwrap());
        let mut due: Vec<_> =
            std::iter::from_fn(|| place.manager.timers.lock().next(u64::MAX).ok()).map(|(_, name, _, due)| (name, due)).collect();
        due.sort();
        assert_eq!(due, [("once".into(), NOW * 1000 - 2550), ("repeats".into(), NOW * 1000 - 550)]);
    }
}
