//! Virtual time: sleeps, timers, grants that end, and tasks beside them.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use conductor_abi::wire::leave;

use super::{Rig, fake::lock};

/// Between two looks at what another thread may have done.
const LOOK: Duration = Duration::from_millis(10);

impl Rig {
    /// Lets time pass: tasks run; sleeps that end within it end, timers that are due within it fire, and clients whose grant ends
    /// within it (24 h after their last join) leave, in their order.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.advance(std::time::Duration::from_secs(60));
    /// ```
    pub fn advance(&mut self, duration: Duration) {
        let end = lock(&self.state).now + duration;
        self.run_tasks();
        loop {
            // Of a sleep and a timer at one moment, the sleep comes first, and the end of a grant last.
            let (timer, expiry) = {
                let state = lock(&self.state);
                (state.next_timer(end).map(|(due, _)| due), state.next_expiry(end))
            };
            let next = timer.into_iter().chain(expiry.iter().map(|(ends, _)| *ends)).min().unwrap_or(end);
            if self.wake_next(next) {
                self.run_tasks();
                continue;
            }
            if self.is_closed() {
                break;
            }
            match (timer, expiry) {
                (Some(due), _) if due <= next => self.go_on_to(due),
                (_, Some((ends, client))) => {
                    self.go_on_to(ends);
                    self.let_go(&client, leave::EXPIRED);
                }
                _ => break,
            }
            self.follow_up();
            self.run_tasks();
        }
        self.go_on_to(end);
    }

    fn go_on_to(&self, time: Duration) {
        let now = &mut lock(&self.state).now;
        *now = time.max(*now);
    }

    /// As [`advance`](Self::advance), while the host is down: nothing runs, nothing fires. For timers that are late at the next
    /// [`restart`](Self::restart).
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.pass_down_time(std::time::Duration::from_secs(3600));
    /// rig.restart::<Lamp>(()).unwrap();
    /// ```
    pub fn pass_down_time(&mut self, duration: Duration) {
        lock(&self.state).now += duration;
    }

    /// Runs `future` to its end, tasks beside it; where all wait, time goes on to the next sleep that ends. Nothing where its deadline
    /// passes first, as in the host. What waits for another thread has that long in real time; what nobody can wake is given up at once.
    pub(super) fn run<T>(&mut self, future: impl Future<Output = T>, deadline: Duration) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
        let waker = Waker::from(unpark.clone());
        let (end, begun) = (lock(&self.state).now + deadline, Instant::now());
        loop {
            lock(&self.state).in_event = true;
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            lock(&self.state).in_event = false;
            if let Poll::Ready(value) = polled {
                return Some(value);
            }
            self.run_tasks();
            let in_time = begun.elapsed() < deadline;
            if in_time && (unpark.woken.swap(false, Ordering::SeqCst) || self.wake_next(end)) {
                continue;
            }
            // Beyond the two here and those of sleeps that end too late, somebody has one who may be another thread.
            let late = lock(&self.state).sleepers.values().filter(|sleeper| sleeper.of_event).count();
            if !in_time || Arc::strong_count(&unpark) <= 2 + late {
                self.go_on_to(end);
                return None;
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Polls all tasks. What a task ends with is as in the host: a panic is the conductor's, an error is logged.
    pub(super) fn run_tasks(&mut self) {
        let waker = Waker::from(Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) }));
        loop {
            {
                let mut state = lock(&self.state);
                self.tasks.append(&mut state.spawned);
                state.running = self.tasks.len();
            }
            let mut ended = Vec::new();
            self.tasks.retain_mut(|task| match Pin::new(task).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(reply) => {
                    ended.push(reply);
                    false
                }
                Poll::Pending => true,
            });
            lock(&self.state).running = self.tasks.len();
            ended.into_iter().for_each(|reply| self.task_ended(reply));
            if lock(&self.state).spawned.is_empty() {
                return;
            }
        }
    }

    /// Moves time to the next sleep that ends by `end`.
    fn wake_next(&mut self, end: Duration) -> bool {
        let mut state = lock(&self.state);
        let Some(entry) = state.sleepers.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((due, _), sleeper) = entry.remove_entry();
        state.now = state.now.max(due);
        drop(state);
        sleeper.waker.wake();
        true
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}
