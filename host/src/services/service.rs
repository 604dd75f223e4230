//! One service: its mailbox, its loop and its tasks.
//!
//! Its loop is one future, a task of its own on the threads for plugin code: it makes the object, tells it one event after the other, and
//! drops it. Everything else only puts events into the mailbox, or takes the loop away.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use conductor_abi::{
    abi_stable::std_types::{ROk, RVec},
    async_ffi::FfiFuture,
    contract::{HostObj, Reply},
    rules,
    wire::{CreateMeta, event},
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{Wanted, calls::ServiceHost, event::What};
use crate::{
    broker::Message,
    conductors::{
        Trouble,
        catalog::Plugin,
        instance::Instance,
        lane::{Lane, QUARANTINE_AFTER},
        pool::{Pool, Slot},
    },
    sessions::{
        Caller, CloseReason, Status,
        ids::random_hex,
        task::{Gone, Owner, Task, all_gone},
        world::World,
    },
};

/// Messages and requests that may wait.
const MAILBOX: usize = 16_384;
/// Bytes of payload and parameters that may wait.
const MAILBOX_BYTES: usize = 32 << 20;
/// Places beyond those for what is not told twice: sessions that open and close. A close of the service always finds room.
const RESERVED: usize = 262_144;
/// Events handled in one go before others get their turn.
const BURST: u32 = 32;
/// The same as a time: well below what makes a thread count as stuck.
const TURN: Duration = Duration::from_millis(1);
/// How often the log says that messages were lost.
const LOSS_INTERVAL: Duration = Duration::from_secs(60);
/// The number of the loop among the tasks.
const LOOP: u64 = 0;
/// A service that is replaced is another `Service`, so its tasks need not be told apart.
pub(super) const ONE_LIFE: u32 = 0;

/// A service of the settings, running or not.
pub struct Service {
    wanted: Wanted,
    world: Arc<World>,
    lane: Arc<Lane>,
    inner: Mutex<Inner>,
    /// Rung when something is in the mailbox.
    bell: Notify,
    /// Messages that a full mailbox kept from it.
    dropped: AtomicU64,
}

struct Inner {
    status: Status,
    /// Nothing more is told but its close.
    closing: bool,
    queue: VecDeque<Event>,
    bytes: usize,
    tasks: HashMap<u64, Arc<Task<Service>>>,
    last_task: u64,
    /// Tasks that were cancelled at the end.
    leaving: Vec<Gone>,
    /// When the log last said that messages were lost.
    loss_said: Option<Instant>,
}

struct Event {
    what: What,
    /// When it happened, in milliseconds since the Unix epoch.
    time: u64,
    /// Where somebody waits: until when. Otherwise it has its time from its turn on.
    deadline: Option<Instant>,
    answer: Option<oneshot::Sender<Result<Vec<u8>, Trouble>>>,
}

impl Service {
    pub(super) fn new(wanted: Wanted, world: &Arc<World>) -> Arc<Self> {
        let status = match &wanted.plugin {
            Ok(_) => Status::NotMade,
            Err(reason) => Status::Unavailable(reason.clone()),
        };
        let inner = Inner {
            status,
            closing: false,
            queue: VecDeque::new(),
            bytes: 0,
            tasks: HashMap::new(),
            last_task: LOOP,
            leaving: Vec::new(),
            loss_said: None,
        };
        let (bell, dropped) = (Notify::new(), AtomicU64::new(0));
        let lane = Arc::new(Lane::new(format!("service {}", wanted.name).into(), QUARANTINE_AFTER));
        Arc::new(Self { wanted, world: world.clone(), lane, inner: Mutex::new(inner), bell, dropped })
    }

    /// Its name in the settings.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// Where it comes from, or why from nowhere.
    pub fn plugin(&self) -> &Result<Arc<Plugin>, Arc<str>> {
        &self.wanted.plugin
    }

    /// Whether it answers; [`Status::NotMade`] while it is being made.
    #[must_use]
    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// Messages that a full mailbox kept from it since it was made.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What the settings wanted.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    pub(super) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Whether it has the hook.
    pub(super) fn wants(&self, hook: &str) -> bool {
        self.wanted.plugin.as_ref().is_ok_and(|plugin| plugin.manifest.hooks.iter().any(|known| known == hook))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it, once.
    ///
    /// # Errors
    /// Why it is faulted or unavailable from then on.
    pub(super) async fn start(self: &Arc<Self>) -> Result<(), Trouble> {
        if let Err(reason) = &self.wanted.plugin {
            return Err(Trouble::Unavailable(reason.clone()));
        }
        let (made, told) = oneshot::channel();
        let service = self.clone();
        let life = async move {
            service.live(made).await;
            Reply::from(ROk(RVec::new()))
        };
        let task = Task::new(self.clone(), ONE_LIFE, LOOP, FfiFuture::new(life));
        self.lock().tasks.insert(LOOP, task.clone());
        self.world.pool.push(task);
        // A `create` that blocks its thread does not answer at all.
        let result = match timeout(self.wanted.deadline, told).await {
            Ok(Ok(result)) => result,
            // Its loop ended without a word, unless a task of it panicked: that is known then.
            Ok(Err(_)) => Err(Trouble::Faulted("a panic got out of the plugin".into())),
            Err(_) => Err(Trouble::Deadline),
        };
        result.map_err(|trouble| {
            let why = match trouble {
                Trouble::Faulted(reason) => Status::Faulted(reason),
                Trouble::Unavailable(reason) => Status::Unavailable(reason),
                Trouble::Deadline => Status::Unavailable("it was not made within its deadline".into()),
                other => Status::Unavailable(other.to_string().into()),
            };
            self.end(why);
            // Who came first knows best: a task that panicked meanwhile.
            self.refusal().unwrap_or(Trouble::Closed)
        })
    }

    /// Why nothing can be told to it, if so.
    fn refusal(&self) -> Option<Trouble> {
        refusal(&self.lock().status)
    }

    /// Asks for one of its methods.
    ///
    /// # Errors
    /// Why there is no answer, or the service's own error.
    pub(super) async fn ask(&self, method: String, params: Bytes, caller: Caller) -> Result<Vec<u8>, Trouble> {
        let deadline = Instant::now() + self.wanted.deadline;
        let (answer, answered) = oneshot::channel();
        self.post(What::Request { method, params, caller }, Some(deadline), Some(answer))?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // It ended meanwhile.
            Ok(Err(_)) => Err(self.refusal().unwrap_or(Trouble::Closed)),
            Err(_) => Err(Trouble::Deadline),
        }
    }

    /// Puts what happened into the mailbox, where it has the hook. A message that does not fit is counted.
    pub(super) fn hear(&self, what: What) {
        if self.wants(what.name()) {
            self.take(what);
        }
    }

    pub(super) fn hear_message(&self, message: &Message) {
        // Only then is it cloned.
        if self.wants(event::MESSAGE) {
            self.take(What::Message(message.clone()));
        }
    }

    fn take(&self, what: What) {
        let (name, is_message) = (what.name(), matches!(what, What::Message(_)));
        match self.post(what, None, None) {
            Ok(()) | Err(Trouble::Faulted(_) | Trouble::Unavailable(_) | Trouble::Closed) => {}
            Err(_) if is_message => self.lost(),
            Err(error) => tracing::error!(service = self.name(), event = name, %error, "the service was not told"),
        }
    }

    fn lost(&self) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let due = {
            let said = &mut self.lock().loss_said;
            let due = said.is_none_or(|last| now - last >= LOSS_INTERVAL);
            if due {
                *said = Some(now);
            }
            due
        };
        if due {
            tracing::warn!(service = self.name(), dropped, "the service does not keep up; messages are lost to it");
        }
    }

    fn post(
        &self,
        what: What,
        deadline: Option<Instant>,
        answer: Option<oneshot::Sender<Result<Vec<u8>, Trouble>>>,
    ) -> Result<(), Trouble> {
        let (closes, bytes, time) = (what.closes(), what.bytes(), self.world.clock.millis());
        let mut inner = self.lock();
        if let Some(refusal) = refusal(&inner.status) {
            return Err(refusal);
        }
        if inner.closing {
            return Err(Trouble::Closed);
        }
        let most = if what.has_room_reserved() { MAILBOX + RESERVED } else { MAILBOX };
        if !closes && (inner.queue.len() >= most || bytes > 0 && inner.bytes + bytes > MAILBOX_BYTES) {
            return Err(Trouble::Overloaded);
        }
        inner.closing = closes;
        inner.bytes += bytes;
        inner.queue.push_back(Event { what, time, deadline, answer });
        drop(inner);
        self.bell.notify_one();
        Ok(())
    }

    async fn next(&self) -> Event {
        loop {
            {
                let mut inner = self.lock();
                if let Some(event) = inner.queue.pop_front() {
                    inner.bytes -= event.what.bytes();
                    return event;
                }
            }
            self.bell.notified().await;
        }
    }

    /// Its whole life, on the threads for plugin code.
    async fn live(self: Arc<Self>, made: oneshot::Sender<Result<(), Trouble>>) {
        let making = timeout(self.wanted.deadline, self.make()).await;
        let instance = match making.unwrap_or(Err(Trouble::Deadline)) {
            Ok(instance) => instance,
            Err(trouble) => {
                // Who started it waits for this, or has given up.
                let _ = made.send(Err(trouble));
                return;
            }
        };
        {
            let mut inner = self.lock();
            if inner.status != Status::NotMade {
                return;
            }
            inner.status = Status::Live;
        }
        let _ = made.send(Ok(()));
        if self.world.broker.link() == Some(false) {
            self.hear(What::Link);
        }
        let (mut turn, mut told) = (Instant::now(), 0);
        loop {
            let Event { what, time, deadline, answer } = self.next().await;
            let deadline = deadline.unwrap_or_else(|| Instant::now() + self.wanted.deadline);
            let result = if deadline <= Instant::now() && !what.closes() {
                // Whoever asked has been told; it must not be done behind his back.
                Err(Trouble::Deadline)
            } else {
                timeout_at(deadline, what.tell(&instance, &self, time, deadline)).await.unwrap_or(Err(Trouble::Deadline))
            };
            if what.closes() {
                drop(instance);
                self.end(Status::Gone);
                return self.answer(answer, &what, result);
            }
            let faulted = match &result {
                Err(Trouble::Faulted(reason)) => Some(reason.clone()),
                _ => None,
            };
            if let Some(reason) = &faulted {
                self.panicked(reason);
            }
            self.answer(answer, &what, result);
            if faulted.is_some() {
                return;
            }
            told += 1;
            if told >= BURST || turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                (turn, told) = (Instant::now(), 0);
            }
        }
    }

    async fn make(self: &Arc<Self>) -> Result<Instance, Trouble> {
        let plugin = self.wanted.plugin.as_ref().map_err(|reason| Trouble::Unavailable(reason.clone()))?;
        let seed = random_hex::<32>().map_err(|e| Trouble::Internal(e.to_string()))?;
        let time = self.world.clock.millis();
        let meta = CreateMeta::new(String::new(), self.name().to_owned(), plugin.config.clone(), seed, time);
        Instance::make(plugin, HostObj::new(ServiceHost::new(self)), &meta, &[]).await
    }

    /// Answers who asked; an error that nobody waits for is logged.
    fn answer(&self, answer: Option<oneshot::Sender<Result<Vec<u8>, Trouble>>>, what: &What, result: Result<Vec<u8>, Trouble>) {
        match (answer, result) {
            // Who asked may have gone meanwhile; then nobody wants the answer.
            (Some(answer), result) => drop(answer.send(result)),
            (None, Ok(_)) => {}
            (None, Err(error)) => tracing::warn!(service = self.name(), event = what.name(), %error, "the service failed"),
        }
    }

    fn panicked(&self, reason: &Arc<str>) {
        if self.end(Status::Faulted(reason.clone())) {
            tracing::error!(service = self.name(), %reason, "the service is faulted");
        }
    }

    /// Closes it, and waits until all of it is gone, 10 s at most.
    pub(super) async fn close(&self, reason: CloseReason) {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + rules::CLOSE_DEADLINE;
        if self.post(What::Close(reason), Some(deadline), Some(answer)).is_err() {
            // There is nothing to close.
            return;
        }
        let error = match timeout_at(deadline, answered).await {
            Ok(Ok(Ok(_)) | Err(_)) => None,
            Ok(Ok(Err(error))) => Some(error),
            Err(_) => Some(Trouble::Deadline),
        };
        if let Some(error) = error {
            tracing::warn!(service = self.name(), %error, "the service did not close well");
        }
        self.end(Status::Gone);
        let leaving = std::mem::take(&mut self.lock().leaving);
        all_gone(leaving).await;
    }

    /// Takes its tasks away, its loop among them, and answers all who wait; false where it was over before.
    fn end(&self, instead: Status) -> bool {
        let (tasks, queue) = {
            let mut inner = self.lock();
            if inner.status.is_over() {
                return false;
            }
            inner.status = instead;
            inner.bytes = 0;
            (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.queue))
        };
        let leaving: Vec<Gone> = tasks.into_values().map(|task| task.cancel(&self.world.pool)).collect();
        self.lock().leaving = leaving;
        // With these go the places for answers, which tells those who wait.
        drop(queue);
        true
    }

    /// Adds a task.
    ///
    /// # Errors
    /// [`Trouble::Closed`] after the end, [`Trouble::Overloaded`] beyond [`MAX_TASKS`].
    pub(super) fn add_task(self: &Arc<Self>, make: impl FnOnce(u64) -> Arc<Task<Self>>) -> Result<(u64, Arc<Task<Self>>), Trouble> {
        let mut inner = self.lock();
        if inner.status.is_over() {
            return Err(Trouble::Closed);
        }
        if inner.tasks.len() > rules::MAX_TASKS {
            return Err(Trouble::Overloaded);
        }
        inner.last_task += 1;
        let number = inner.last_task;
        let task = make(number);
        inner.tasks.insert(number, task.clone());
        Ok((number, task))
    }
}

/// Why nothing can be told to a service of this status, if so.
fn refusal(status: &Status) -> Option<Trouble> {
    match status {
        Status::NotMade | Status::Live => None,
        Status::Faulted(reason) => Some(Trouble::Faulted(reason.clone())),
        Status::Unavailable(reason) => Some(Trouble::Unavailable(reason.clone())),
        Status::Gone => Some(Trouble::Closed),
    }
}

impl Owner for Service {
    fn pool(&self) -> &Pool {
        &self.world.pool
    }

    fn lane(&self) -> Arc<Lane> {
        self.lane.clone()
    }

    fn found_slow(&self, lane: &Lane) {
        tracing::warn!(service = self.name(), "the service blocks its thread; it runs apart from now on");
        lane.found_slow();
    }

    fn remove_task(&self, _: u32, number: u64) {
        let removed = self.lock().tasks.remove(&number);
        drop(removed);
    }

    fn fault(&self, _: u32, reason: &Arc<str>, _: &Slot) {
        self.panicked(reason);
    }

    fn task_failed(&self, error: &dyn fmt::Display) {
        tracing::warn!(service = self.name(), %error, "a task of the service failed");
    }

    fn label(&self) -> String {
        format!("service {}", self.name())
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name()).field("status", &self.status()).finish_non_exhaustive()
    }
}
