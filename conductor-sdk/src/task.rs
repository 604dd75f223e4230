//! Tasks that run beside a conductor.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::Result;

/// A task started by [`Session::spawn`](crate::Session::spawn). Dropping it lets the task go on.
///
/// The task runs on the host's threads for plugin code, beside the events and other tasks and in no order with them; these functions may be
/// called from any thread.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # fn f(session: &Session) -> Result<()> {
/// let task = session.spawn(async { tracing::info!("once") })?;
/// if !task.is_finished() { task.cancel(); }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Task(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    finished: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Task {
    /// Ends the task at the point where it waits; its future is dropped soon after, on one of the host's threads. Ending one
    /// that has ended does nothing.
    ///
    /// ```
    /// # fn f(task: &conductor_sdk::Task) {
    /// task.cancel();
    /// # }
    /// ```
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it has ended, in whatever way.
    ///
    /// ```
    /// # fn f(task: &conductor_sdk::Task) -> bool {
    /// task.is_finished()
    /// # }
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.finished.load(Ordering::SeqCst)
    }
}

/// What a task may return: `()`, [`Result<()>`](Result), or nothing ever.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # fn f(session: &Session) -> Result<()> {
/// session.spawn(async {})?;
/// session.spawn(async { loop { std::future::pending::<()>().await } })?;
/// session.spawn(async { Err(Error::new("this is logged")) })?;
/// # Ok(()) }
/// ```
pub trait TaskOutput: sealed::Sealed + Send {
    #[doc(hidden)]
    fn into_result(self) -> Result<()>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl TaskOutput for Result<()> {
    fn into_result(self) -> Result<()> {
        self
    }
}

impl TaskOutput for Never {
    fn into_result(self) -> Result<()> {
        self
    }
}

/// The type of a loop without an end, which stable Rust cannot name but can compute.
type Never = <fn() -> ! as sealed::Returns>::Output;

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for crate::Result<()> {}
    impl Sealed for super::Never {}

    pub trait Returns {
        type Output;
    }
    impl<T> Returns for fn() -> T {
        type Output = T;
    }
}

pub(crate) fn cancellable<F>(future: F) -> (Task, Cancellable<F>) {
    let task = Task(Arc::new(State::default()));
    (task.clone(), Cancellable { future: Some(Box::pin(future)), task })
}

pub(crate) struct Cancellable<F> {
    /// Nothing only while it is dropped.
    future: Option<Pin<Box<F>>>,
    task: Task,
}

impl<F: Future<Output = Result<()>>> Future for Cancellable<F> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = self.task.0.clone();
        // The waker is stored before the flag is read: a cancel in between finds it.
        *state.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if state.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        match self.future.as_mut() {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Cancellable<F> {
    fn drop(&mut self) {
        self.future = None;
        self.task.0.finished.store(true, Ordering::SeqCst);
        self.task.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
