//! Sessions that end by themselves: one queue and one task for all that have a limit. The task sleeps until the first may be due.
//!
//! There are two limits. The *lifetime* counts from the session's creation, or from the host's start where nobody knows that. The *empty timeout* counts
//! from the latest of: the creation, the host's start, the last join, the end of the last connection, the last client's leaving, and the
//! moment when the session got that limit. A session is empty where nobody is connected; where the broker cannot know that, where nobody is
//! in the list of its clients. What limits hold for a session says its record, or else the settings as they are now. Only the record's are
//! stored: since when a session is empty is known in this process alone.
//!
//! A session without limits is not in here, and while no session has any, an event costs one relaxed load. Of one that has, an event notes the
//! time; the queue is put right when its entry comes up.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    Caller, CloseReason, Manager, Session, SessionId,
    manager::{Refused, to_its_end},
    world::count,
};
use crate::store::{Change, Extra, StoredSession};

/// The longest sleep: a clock that was set back or forward is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Before the next try where the store refused. Nothing else is tried meanwhile, so that a full disk does not fill the log as well.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Sessions that are closed at a time.
const AT_ONCE: usize = 1024;

/// The limits of a session, in milliseconds. `Some(0)` is no limit, whatever the settings say; nothing is what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From its creation to its end.
    pub lifetime: Option<u64>,
    /// How long it may be empty.
    pub empty_timeout: Option<u64>,
}

impl Limits {
    /// As the settings have them, where nothing is no limit.
    #[must_use]
    pub fn of(lifetime: Option<Duration>, empty_timeout: Option<Duration>) -> Self {
        Self { lifetime: Some(Self::millis(lifetime)), empty_timeout: Some(Self::millis(empty_timeout)) }
    }

    /// A limit in milliseconds, 0 for none.
    #[must_use]
    pub fn millis(limit: Option<Duration>) -> u64 {
        limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// What is stored of them with a new session.
    pub(super) fn stored(self) -> Option<Box<Extra>> {
        let Self { lifetime, empty_timeout } = self;
        (self != Self::default()).then(|| Box::new(Extra { lifetime, empty_timeout, ..Extra::default() }))
    }

    /// With these in place of what is nothing.
    fn or(self, other: Self) -> Self {
        Self { lifetime: self.lifetime.or(other.lifetime), empty_timeout: self.empty_timeout.or(other.empty_timeout) }
    }
}

/// When a session ends by itself, as it stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The limits that hold for it, in milliseconds; nothing is no limit.
    pub limits: Limits,
    /// When it is closed if nothing happens until then, in milliseconds since the Unix epoch. Of a session that is not empty this is the end of
    /// its lifetime.
    pub at: Option<u64>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Lifetimes {
    /// When the host started, in milliseconds since the Unix epoch.
    started: u64,
    queue: Mutex<Queue>,
    /// How many sessions are in it, to be read without the lock.
    watched: AtomicUsize,
    /// Rung when a session may be due earlier than all others.
    earlier: Notify,
    closing: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    /// When which session is to be looked at.
    due: BTreeSet<(u64, SessionId)>,
    watched: HashMap<SessionId, Watched>,
    /// Nothing is closed before this.
    paused: Option<Instant>,
}

/// A session that has limits. All in milliseconds, times since the Unix epoch.
#[derive(Clone, Copy, Debug)]
struct Watched {
    /// When its lifetime is over.
    ends: Option<u64>,
    empty_timeout: Option<u64>,
    /// Since when it is empty, if it is.
    since: u64,
    /// Where it stands in the queue.
    queued: Option<u64>,
}

impl Watched {
    fn empty_until(&self) -> Option<u64> {
        self.empty_timeout.map(|timeout| self.since.saturating_add(timeout))
    }
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl Queue {
    /// Has the session looked at by then, unless it is earlier already. True where it is the first of all now.
    fn look_by(&mut self, id: SessionId, due: Option<u64>) -> bool {
        let (Some(watched), Some(due)) = (self.watched.get_mut(&id), due) else { return false };
        if watched.queued.is_some_and(|queued| queued <= due) {
            return false;
        }
        if let Some(queued) = watched.queued.replace(due) {
            self.due.remove(&(queued, id));
        }
        self.due.insert((due, id));
        self.due.first() == Some(&(due, id))
    }

    fn unqueue(&mut self, id: SessionId) {
        if let Some(queued) = self.watched.get_mut(&id).and_then(|watched| watched.queued.take()) {
            self.due.remove(&(queued, id));
        }
    }

    fn forget(&mut self, id: SessionId) {
        self.unqueue(id);
        self.watched.remove(&id);
    }

    /// The first session of which a limit is reached by `now`, if it is empty; otherwise in how many milliseconds to look again, if ever. It
    /// stands in the queue for the end of its lifetime from then on.
    fn next(&mut self, now: u64) -> Result<(SessionId, Watched), Option<u64>> {
        loop {
            let Some(&(due, id)) = self.due.first() else { return Err(None) };
            if due > now {
                return Err(Some(due - now));
            }
            self.unqueue(id);
            let Some(watched) = self.watched.get(&id).copied() else { continue };
            let reached = |end: Option<u64>| end.is_some_and(|end| end <= now);
            if reached(watched.ends) {
                return Ok((id, watched));
            }
            if reached(watched.empty_until()) {
                // Whatever empties it from now on puts it into the queue again.
                self.look_by(id, watched.ends);
                return Ok((id, watched));
            }
            // Something happened in it meanwhile.
            self.look_by(id, earlier(watched.ends, watched.empty_until()));
        }
    }
}

impl Lifetimes {
    pub(super) fn new(started: u64) -> Self {
        let closing = Arc::new(Semaphore::new(AT_ONCE));
        Self { started, queue: Mutex::default(), watched: AtomicUsize::new(0), earlier: Notify::new(), closing }
    }

    /// Taken last: no other lock within it but for a look into the directory.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that can panic comes between two edits.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that is no more.
    pub(super) fn forget(&self, id: SessionId) {
        if self.watched.load(Ordering::Relaxed) > 0 {
            let mut queue = self.lock();
            queue.forget(id);
            self.watched.store(queue.watched.len(), Ordering::Relaxed);
        }
    }

    fn look_by(&self, id: SessionId, due: u64) {
        if self.lock().look_by(id, Some(due)) {
            self.earlier.notify_one();
        }
    }
}

impl Manager {
    /// The limits that hold for a session of this record, in milliseconds; nothing is no limit.
    fn limits_of(&self, record: &StoredSession) -> Limits {
        let own = record.extra.as_ref().map(|extra| Limits { lifetime: extra.lifetime, empty_timeout: extra.empty_timeout });
        let of_type = self.catalog.load().get(&record.type_name).map(|kind| kind.limits);
        let Limits { lifetime, empty_timeout } = own.unwrap_or_default().or(of_type.unwrap_or_default()).or(self.world().limits);
        let limit = |millis: Option<u64>| millis.filter(|millis| *millis > 0);
        Limits { lifetime: limit(lifetime), empty_timeout: limit(empty_timeout) }
    }

    fn end_of(&self, record: &StoredSession, limits: Limits) -> Option<u64> {
        let began = if record.created_at == 0 { self.lifetimes.started } else { record.created_at };
        limits.lifetime.map(|lifetime| began.saturating_add(lifetime))
    }

    /// Whether somebody is there: connected, or else in the list of clients.
    fn is_occupied(&self, session: &Session) -> bool {
        match self.world().broker.connected(session.id()) {
            Some(connected) => !connected.is_empty(),
            None => session.record().clients.iter().any(|client| client.client_id().is_some()),
        }
    }

    /// When this session ends by itself.
    #[must_use]
    pub fn ends(&self, session: &Session) -> Ends {
        let record = session.record();
        let limits = self.limits_of(&record);
        let ends = self.end_of(&record, limits);
        if limits.empty_timeout.is_none() || self.is_occupied(session) {
            return Ends { limits, at: ends };
        }
        let empty_until = self.lifetimes.lock().watched.get(&session.id()).and_then(Watched::empty_until);
        Ends { limits, at: earlier(ends, empty_until) }
    }

    /// Gives a session that can be found its place in the queue, by the limits that hold for it now. With `anew` it has been empty since now at
    /// the earliest.
    pub(super) fn watch(&self, session: &Arc<Session>, anew: bool) {
        let (id, now) = (session.id(), self.world().clock.millis());
        let mut queue = self.lifetimes.lock();
        // Under the lock: of two changes at once the later one counts. One that is no more is taken out of the directory first, and then of this.
        let record = session.record();
        let limits = self.limits_of(&record);
        if limits == Limits::default() || !self.has(session) {
            queue.forget(id);
        } else {
            let ends = self.end_of(&record, limits);
            let known = queue.watched.get(&id).filter(|known| known.empty_timeout.is_some() && !anew).map(|known| known.since);
            queue.unqueue(id);
            let watched = Watched { ends, empty_timeout: limits.empty_timeout, since: known.unwrap_or(now), queued: None };
            queue.watched.insert(id, watched);
            if queue.look_by(id, earlier(ends, watched.empty_until())) {
                self.lifetimes.earlier.notify_one();
            }
        }
        self.lifetimes.watched.store(queue.watched.len(), Ordering::Relaxed);
    }

    /// The limits of the settings may be others now.
    pub(super) fn watch_all(&self) {
        self.directory.all().iter().filter(|session| !session.is_hidden()).for_each(|session| self.watch(session, false));
    }

    /// Something happened in the session after which it may be empty.
    pub(super) fn note_life(&self, id: SessionId) {
        if self.lifetimes.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = self.world().clock.millis();
        let mut queue = self.lifetimes.lock();
        let Some(watched) = queue.watched.get_mut(&id) else { return };
        watched.since = now;
        let empty_until = watched.empty_until();
        if queue.look_by(id, empty_until) {
            self.lifetimes.earlier.notify_one();
        }
    }

    /// Gives a session limits of its own in milliseconds, in place of those before. What is nothing stays; `Some(None)` is as the settings say, and
    /// `Some(Some(0))` no limit. One that is over already ends the session at once.
    ///
    /// # Errors
    /// [`Refused::NoSuchSession`]; [`Refused::Store`]; [`Refused::Stopping`].
    pub async fn set_limits(
        self: &Arc<Self>,
        id: SessionId,
        lifetime: Option<Option<u64>>,
        empty_timeout: Option<Option<u64>>,
        caller: Caller,
    ) -> Result<Arc<Session>, Refused> {
        self.check_running()?;
        let session = self.get(id).ok_or(Refused::NoSuchSession)?;
        let manager = self.clone();
        to_its_end(async move {
            if empty_timeout.is_some() {
                // All of its time counts from here, and nothing ends it meanwhile.
                manager.note_life(id);
            }
            session.change(Change::Limits { id, lifetime, empty_timeout }).await?;
            manager.watch(&session, empty_timeout.is_some());
            tracing::info!(session = %id, ?lifetime, ?empty_timeout, %caller, "the session has other limits");
            Ok(session)
        })
        .await
    }

    /// From now on sessions are closed when a limit of theirs is reached, until the host stops; those at once that were due while it was down.
    /// Called once, when there is somebody to hear of it.
    pub fn run_lifetimes(self: &Arc<Self>) {
        self.watch_all();
        let manager = Arc::downgrade(self);
        self.world().pool.runtime().spawn(async move {
            while let Some(manager) = manager.upgrade() {
                let Some(wait) = manager.end_due().await else { return };
                tokio::select! {
                    () = manager.lifetimes.earlier.notified() => {}
                    () = tokio::time::sleep(wait.unwrap_or(LONGEST_SLEEP)), if wait.is_some() => {}
                }
            }
        });
    }

    /// Begins to close what is due; how long until the next may be, if there is one. Nothing once the host stops.
    async fn end_due(self: &Arc<Self>) -> Option<Option<Duration>> {
        loop {
            if self.is_stopping() {
                return None;
            }
            // Nobody closes the semaphore.
            let permit = self.lifetimes.closing.clone().acquire_owned().await.ok()?;
            let now = self.world().clock.millis();
            let next = {
                let mut queue = self.lifetimes.lock();
                let pause = queue.paused.map(|paused| paused.saturating_duration_since(Instant::now()));
                if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                    return Some(Some(pause));
                }
                queue.paused = None;
                queue.next(now)
            };
            match next {
                Ok((id, watched)) => {
                    let Some(session) = self.directory.get(id) else { continue };
                    if watched.ends.is_none_or(|ends| ends > now) && self.is_occupied(&session) {
                        continue;
                    }
                    let manager = self.clone();
                    self.world().pool.runtime().spawn(async move {
                        manager.end(id).await;
                        drop(permit);
                    });
                }
                Err(left) => return Some(left.map(|millis| Duration::from_millis(millis).min(LONGEST_SLEEP))),
            }
        }
    }

    /// Whether a session that is being closed because of a limit is to end indeed. It was open until then, and what was under way counts: nobody is
    /// told that he has joined, or that it lives longer, and then it ends all the same.
    pub(super) async fn is_over(&self, session: &Arc<Session>) -> bool {
        // Where the store does not say, it refuses the closing as well.
        let Ok(record) = session.stored_record().await else { return true };
        let (limits, now) = (self.limits_of(&record), self.world().clock.millis());
        let reached = |end: Option<u64>| end.is_some_and(|end| end <= now);
        let since = self.lifetimes.lock().watched.get(&session.id()).map(|watched| watched.since);
        let empty_until = since.zip(limits.empty_timeout).map(|(since, timeout)| since.saturating_add(timeout));
        reached(self.end_of(&record, limits)) || reached(empty_until) && !self.is_occupied(session)
    }

    /// Closes a session whose time is over. What the store refuses is tried again, and so is what is being closed already, since that may be refused.
    /// One in which something happened meanwhile goes on.
    async fn end(self: &Arc<Self>, id: SessionId) {
        match self.close(id, CloseReason::Expired, Caller::host()).await {
            Ok(()) => count(&self.world().counts.expired),
            Err(Refused::Stopping) => {}
            Err(refused) => {
                // Why is in the log already.
                if !matches!(refused, Refused::NoSuchSession) {
                    self.lifetimes.lock().paused = Some(Instant::now() + AFTER_FAILURE);
                }
                let again = u64::try_from(AFTER_FAILURE.as_millis()).unwrap_or(u64::MAX);
                self.lifetimes.look_by(id, self.world().clock.millis().saturating_add(again));
            }
        }
    }
}

#[cfg(test)]
#[path = "lifetimes_tests.rs"]
mod tests;
