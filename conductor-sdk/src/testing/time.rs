//! Virtual time: sleeps, timers, and tasks beside them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use super::{Rig, fake::lock};

impl Rig {
    /// Lets time pass: tasks run; sleeps that end within it end, and timers that are due within it fire, in their order.
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
            // Of a sleep and a timer at one moment, the sleep comes first.
            let timer = lock(&self.state).next_timer(end).map(|(due, _)| due);
            if self.wake_next(timer.unwrap_or(end)) {
                self.run_tasks();
            } else if let Some(due) = timer.filter(|_| !self.is_closed()) {
                {
                    let now = &mut lock(&self.state).now;
                    *now = due.max(*now);
                }
                self.follow_up();
                self.run_tasks();
            } else {
                break;
            }
        }
        lock(&self.state).now = end;
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

    /// Runs `future` to its end, tasks beside it; where all wait, time goes on to the next sleep that ends.
    pub(super) fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            self.run_tasks();
            if !self.wake_next(Duration::MAX) {
                // Woken from a thread of the author's own.
                thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    pub(super) fn run_tasks(&mut self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            self.tasks.append(&mut lock(&self.state).spawned);
            self.tasks.retain_mut(|task| Pin::new(task).poll(&mut Context::from_waker(&waker)).is_pending());
            if lock(&self.state).spawned.is_empty() {
                return;
            }
        }
    }

    /// Moves time to the next sleep that ends by `end`.
    fn wake_next(&mut self, end: Duration) -> bool {
        let mut state = lock(&self.state);
        let Some(entry) = state.sleepers.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((due, _), waker) = entry.remove_entry();
        state.now = state.now.max(due);
        drop(state);
        waker.wake();
        true
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
