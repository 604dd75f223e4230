//! One session: its record, its mailbox and its conductor.
//!
//! A session is its own task. While nothing happens it is this struct and nothing else: no tokio task, no channel, no
//! timer. An event goes into its mailbox; if it was idle, it goes to the pool, which calls [`Session::run`] on a thread for
//! plugin code. What always holds:
//! - `State::Idle`: no event waits, no future is kept, and the session stands in no queue.
//! - `State::Queued`: it stands in one queue, once. `Running`: one thread has it. `Notified`: the same, and its future was
//!   woken meanwhile. `Waiting`: its future is kept and nobody has it.
//! - The conductor is called and dropped by the thread that runs the session, or one of its tasks; never under the lock.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use arc_swap::{ArcSwap, Guard};
use conductor_abi::rules;
use tokio::{sync::oneshot, time::Instant};

use super::{
    SessionId,
    event::{Event, What},
    status::{Parked, Phase, Status},
    task::{Gone, Task},
    world::World,
};
use crate::{
    conductors::{
        Trouble,
        catalog::Type,
        instance::Instance,
        lane::Lane,
        pool::{Job, Slot},
    },
    joins::budget::PinBudget,
    store::{Change, SavedState, StoredSession},
};

/// Events that may wait in one mailbox.
const MAILBOX: usize = 1024;
/// Places beyond those for what is not told twice: joins, timers, news of clients. A close always finds room.
const RESERVED: usize = 1024;
/// Bytes of payload and parameters that may wait in one mailbox.
const MAILBOX_BYTES: usize = 8 << 20;
/// Events handled in one go before others get their turn.
const BURST: usize = 32;

pub(super) type Answer = oneshot::Sender<Result<Vec<u8>, Trouble>>;
type Handling = Pin<Box<dyn Future<Output = Result<Vec<u8>, Trouble>> + Send>>;

/// A live session.
pub struct Session {
    id: SessionId,
    /// The code that it runs, or will; changed only while it has no conductor.
    kind: ArcSwap<Type>,
    world: Arc<World>,
    slow: AtomicBool,
    /// How often its pin may still be guessed wrong.
    pub(super) pin_budget: PinBudget,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) record: Arc<StoredSession>,
    pub(super) conductor: Conductor,
    /// Why it is parked. Stays while it is tried again, and goes when that succeeds.
    pub(super) parked: Option<Arc<Parked>>,
    pub(super) state: State,
    pub(super) phase: Phase,
    /// Counts the conductors that it had: what an earlier one left behind is not of the present one.
    pub(super) life: u32,
    /// Whether the session holds anything beyond its record; freed when all of it is empty.
    pub(super) hot: Option<Box<Hot>>,
}

/// What a session has as a conductor.
#[derive(Clone)]
pub(super) enum Conductor {
    NotMade,
    Live(Instance),
    Faulted(Arc<str>),
    /// See [`Inner::parked`].
    Parked,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Queued,
    Running,
    Notified,
    Waiting,
}

#[derive(Default)]
pub(super) struct Hot {
    queue: VecDeque<Event>,
    bytes: usize,
    current: Option<Current>,
    tasks: HashMap<u64, Arc<Task>>,
    last_task: u64,
    /// What the conductor saved while the session is not stored yet.
    pub(super) unstored: Option<SavedState>,
    /// What conductors have changed while it is tried whether one can be made; nothing at other times.
    pub(super) held: Option<Vec<Change>>,
}

/// The event that is being handled.
struct Current {
    handling: Handling,
    deadline: Instant,
    /// Made when the handler first waits.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    answer: Option<Answer>,
    name: &'static str,
    makes: bool,
    closes: bool,
}

impl Session {
    pub(super) fn new(record: Arc<StoredSession>, kind: Arc<Type>, world: Arc<World>, phase: Phase) -> Arc<Self> {
        let (conductor, parked) = match &kind.plugin {
            Ok(_) => (Conductor::NotMade, None),
            Err(reason) => (Conductor::Parked, Some(Parked::without_plugin(reason.clone(), world.clock.millis()))),
        };
        let (id, slow, pin_budget) = (record.id, AtomicBool::new(false), PinBudget::default());
        let inner = Mutex::new(Inner { record, conductor, parked, state: State::Idle, phase, life: 0, hot: None });
        Arc::new(Self { id, kind: ArcSwap::new(kind), world, slow, pin_budget, inner })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Its type, as it was when its conductor was made. Not to be held for long.
    #[must_use]
    pub fn kind(&self) -> Guard<Arc<Type>> {
        self.kind.load()
    }

    /// Gives it other code to make its conductor from; new code has not been slow yet.
    pub(super) fn set_kind(&self, kind: Arc<Type>) {
        self.kind.store(kind);
        self.slow.store(false, Ordering::Relaxed);
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// What is stored of it.
    #[must_use]
    pub fn record(&self) -> Arc<StoredSession> {
        self.lock().record.clone()
    }

    /// What it has as a conductor. (Not the conductor itself: whoever held that would drop it on a thread of its own.)
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = self.lock();
        match (&inner.conductor, &inner.parked) {
            (Conductor::Live(_), _) => Status::Live,
            (Conductor::Faulted(reason), _) => Status::Faulted(reason.clone()),
            (Conductor::Gone, _) => Status::Gone,
            (Conductor::NotMade | Conductor::Parked, Some(parked)) => Status::Unavailable(parked.reason.clone()),
            (Conductor::NotMade | Conductor::Parked, None) => Status::NotMade,
        }
    }

    /// Takes over a record that the store has made durable; an older one than the present is ignored, since two changes of
    /// one session may be answered in any order.
    pub(super) fn update_record(&self, record: Arc<StoredSession>) {
        let mut inner = self.lock();
        if record.revision > inner.record.revision {
            inner.record = record;
        }
    }

    /// Whether there is a conductor, or will be by an event that is under way.
    pub(super) fn has_conductor(&self) -> bool {
        let inner = self.lock();
        match inner.conductor {
            Conductor::Live(_) => true,
            Conductor::NotMade => inner.state != State::Idle,
            Conductor::Faulted(_) | Conductor::Parked | Conductor::Gone => false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().phase == Phase::Open
    }

    /// Whether it is being made, and nobody outside knows of it.
    pub(super) fn is_hidden(&self) -> bool {
        matches!(self.lock().phase, Phase::Making | Phase::Storing)
    }

    /// Goes from one phase to another; false where it was in another than `from`.
    pub(super) fn move_on(&self, from: Phase, to: Phase) -> bool {
        let phase = &mut self.lock().phase;
        let was = *phase == from;
        if was {
            *phase = to;
        }
        was
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event into the mailbox. Any thread; never waits.
    ///
    /// # Errors
    /// Where the conductor cannot take it, or the mailbox is full.
    pub(super) fn post(self: &Arc<Self>, event: Event) -> Result<(), Trouble> {
        let (closes, reserved) = (event.what.closes(), event.what.has_room_reserved());
        let joins = matches!(event.what, What::Joining { .. });
        if (joins || !reserved)
            && let Some(reason) = self.kind().lane.quarantine()
        {
            return Err(Trouble::Quarantined(reason));
        }
        if !reserved && self.is_slow() && self.kind().lane.is_full() {
            return Err(Trouble::Overloaded);
        }
        let mut inner = self.lock();
        match &inner.conductor {
            _ if closes || event.what.moves() => {}
            Conductor::Faulted(reason) => return Err(Trouble::Faulted(reason.clone())),
            Conductor::Parked if matches!(event.what, What::Make(_)) => {}
            Conductor::Parked => return Err(inner.why_parked()),
            Conductor::Gone => return Err(Trouble::Closed),
            Conductor::NotMade | Conductor::Live(_) => {}
        }
        let hot = inner.hot.get_or_insert_default();
        let bytes = event.what.bytes();
        // Whoever asks to join is told that it is full, and must not take the room of what cannot be told again.
        let most = MAILBOX + if joins { RESERVED / 2 } else { RESERVED * usize::from(reserved) };
        if !closes && (hot.queue.len() >= most || !reserved && hot.bytes + bytes > MAILBOX_BYTES) {
            return Err(Trouble::Overloaded);
        }
        hot.bytes += bytes;
        hot.queue.push_back(event);
        if inner.state == State::Idle {
            inner.state = State::Queued;
            drop(inner);
            self.world.pool.push(self.clone());
        }
        Ok(())
    }

    /// The event that goes on, or the next one; nothing makes the session idle.
    fn next(self: &Arc<Self>) -> Option<Current> {
        let mut inner = self.lock();
        inner.state = State::Running;
        let not_made = matches!(inner.conductor, Conductor::NotMade);
        let hot = inner.hot.get_or_insert_default();
        if let Some(current) = hot.current.take() {
            return Some(current);
        }
        // Its making comes before it, as an event of its own.
        let making = hot.queue.front().filter(|event| not_made && event.what.needs_conductor());
        let Some(event) = making.map(Event::making).or_else(|| hot.queue.pop_front()) else {
            inner.state = State::Idle;
            inner.cool();
            return None;
        };
        hot.bytes -= event.what.bytes();
        drop(inner);
        let (name, closes, makes) = (event.what.name(), event.what.closes(), matches!(event.what, What::Make(_)));
        let Event { what, mut deadline, time, answer } = event;
        if what.is_news() {
            deadline = Instant::now() + self.kind().deadline;
        } else if makes || what.moves() {
            // Each try in it has the deadline of its own.
            deadline = Instant::now() + self.longest_move();
        } else if closes {
            // It may have waited for a move; who asked waits no longer than before.
            deadline = deadline.max(Instant::now() + rules::CLOSE_DEADLINE);
        }
        let handling: Handling = Box::pin(self.clone().handle(what, time, deadline));
        Some(Current { handling, deadline, timer: None, answer, name, makes, closes })
    }

    /// One poll of the current event; its result when it is done.
    fn poll(self: &Arc<Self>, current: &mut Current, waker: &Waker, slot: &Slot) -> Option<Result<Vec<u8>, Trouble>> {
        let mut cx = Context::from_waker(waker);
        let mut result = if current.timer.is_none() && current.deadline <= Instant::now() {
            Poll::Ready(Err(Trouble::Deadline))
        } else {
            let polled = slot.plugin_code(|| current.handling.as_mut().poll(&mut cx));
            polled.unwrap_or_else(|escaped| Poll::Ready(Err(Trouble::Faulted(escaped.to_string().into()))))
        };
        if result.is_pending() {
            let deadline = current.deadline;
            let timer = current.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.as_mut().poll(&mut cx).is_ready() {
                result = Poll::Ready(Err(Trouble::Deadline));
            }
        }
        let Poll::Ready(result) = result else { return None };
        if let (true, Err(trouble)) = (current.makes, &result) {
            self.park(trouble);
        }
        match &result {
            Err(Trouble::Faulted(reason)) => self.fault(None, reason, slot),
            Err(error) => {
                if matches!(error, Trouble::Conductor { .. }) {
                    self.kind().lane.tally.errors.add();
                }
                // Nobody would end what a making that failed has left running, or answer what it still asks.
                if !self.status().is_live() {
                    self.begin_life();
                    self.end_tasks();
                }
            }
            Ok(_) => {}
        }
        Some(result)
    }

    /// The conductor panicked: no further event reaches it, and its tasks end. On a thread for plugin code. What panicked in an
    /// earlier `life` concerns the present conductor no more.
    pub(super) fn fault(&self, life: Option<u32>, reason: &Arc<str>, slot: &Slot) {
        let mut inner = self.lock();
        if inner.conductor.is_over() || life.is_some_and(|life| life != inner.life) {
            return;
        }
        let before = std::mem::replace(&mut inner.conductor, Conductor::Faulted(reason.clone()));
        inner.parked = None;
        drop(inner);
        self.kind().lane.tally.faults.add();
        tracing::error!(session = %self.id, r#type = %self.kind().name, %reason, "the conductor is faulted");
        self.end_tasks();
        slot.discard(before);
    }

    /// Takes the conductor and its tasks away. On a thread for plugin code.
    fn end(&self, instead: Conductor, slot: &Slot) {
        let before = {
            let mut inner = self.lock();
            inner.parked = None;
            std::mem::replace(&mut inner.conductor, instead)
        };
        self.end_tasks();
        slot.discard(before);
    }

    pub(super) fn end_tasks(&self) -> Vec<Gone> {
        let tasks = self.lock().hot.as_mut().map(|hot| std::mem::take(&mut hot.tasks)).unwrap_or_default();
        tasks.into_values().map(|task| task.cancel(&self.world.pool)).collect()
    }

    /// Adds a task of the conductor of this `life`.
    ///
    /// # Errors
    /// [`Trouble::Closed`] after the end, [`Trouble::Overloaded`] beyond [`rules::MAX_TASKS`].
    pub(crate) fn add_task(self: &Arc<Self>, life: u32, make: impl FnOnce(u64) -> Arc<Task>) -> Result<(u64, Arc<Task>), Trouble> {
        let mut inner = self.lock();
        if matches!(inner.conductor, Conductor::Gone | Conductor::Faulted(_)) || inner.life != life {
            return Err(Trouble::Closed);
        }
        let hot = inner.hot.get_or_insert_default();
        if hot.tasks.len() >= rules::MAX_TASKS {
            return Err(Trouble::Overloaded);
        }
        hot.last_task += 1;
        let number = hot.last_task;
        let task = make(number);
        hot.tasks.insert(number, task.clone());
        Ok((number, task))
    }

    pub(super) fn remove_task(&self, life: u32, number: u64) {
        let mut inner = self.lock();
        let present = inner.life == life;
        let removed = inner.hot.as_mut().filter(|_| present).and_then(|hot| hot.tasks.remove(&number));
        if inner.state == State::Idle {
            inner.cool();
        }
        drop(inner);
        drop(removed);
    }
}

impl Hot {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.current.is_none() && self.tasks.is_empty() && self.unstored.is_none() && self.held.is_none()
    }
}

impl Conductor {
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Faulted(_) | Self::Parked | Self::Gone)
    }
}

impl Inner {
    /// Frees what an idle session does not need.
    fn cool(&mut self) {
        if self.hot.as_ref().is_some_and(|hot| hot.is_empty()) {
            self.hot = None;
        }
    }
}

impl Job for Session {
    fn run(self: Arc<Self>, slot: &Slot) {
        let waker = Waker::from(self.clone());
        for _ in 0..BURST {
            let Some(mut current) = self.next() else { return };
            if let Some(result) = self.poll(&mut current, &waker, slot) {
                let (answer, name, closes) = (current.answer.take(), current.name, current.closes);
                if closes {
                    // Answered when all of it is gone.
                    slot.discard(current);
                    self.end(Conductor::Gone, slot);
                    self.tell(answer, name, result);
                } else {
                    self.tell(answer, name, result);
                    slot.discard(current);
                }
                if slot.is_leaving() {
                    break;
                }
                continue;
            }
            let mut inner = self.lock();
            inner.hot.get_or_insert_default().current = Some(current);
            if inner.state == State::Running {
                inner.state = State::Waiting;
                return;
            }
            break;
        }
        self.lock().state = State::Queued;
        let pool = self.world.pool.clone();
        pool.push(self);
    }

    fn lane(&self) -> Arc<Lane> {
        self.kind().lane.clone()
    }

    fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed) || self.kind().lane.is_type_slow()
    }

    fn mark_slow(&self) {
        if !self.slow.swap(true, Ordering::Relaxed) {
            let kind = self.kind();
            kind.found_slow(&kind.lane, self.id);
        }
    }
}

impl Wake for Session {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut inner = self.lock();
        match inner.state {
            State::Waiting => {
                inner.state = State::Queued;
                drop(inner);
                self.world.pool.push(self.clone());
            }
            State::Running => inner.state = State::Notified,
            State::Idle | State::Queued | State::Notified => {}
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("type", &self.kind().name).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
