//! Keeps a panic of an author's code inside the plugin, and tells the log which session speaks.

use std::{
    any::Any,
    borrow::BorrowMut,
    cell::Cell,
    future::Future,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
};

use conductor_abi::wire::{PanicData, code};
use pin_project_lite::pin_project;

use crate::{
    Error, Result, Session,
    runtime::{self, Surroundings},
};

/// What author's code runs in.
struct Scope {
    session: Option<Session>,
    /// Where it panicked.
    location: Option<String>,
}

thread_local! {
    /// Nothing outside of author's code: each scope takes out what it put in. So nothing is left to drop when a thread ends, and this is
    /// there to the very end.
    static SCOPE: ManuallyDrop<Cell<Option<Scope>>> = const { ManuallyDrop::new(Cell::new(None)) };
}

/// The session whose code runs on this thread.
pub(crate) fn current() -> Option<Session> {
    SCOPE.with(|scope| {
        let here = scope.take();
        let session = here.as_ref().and_then(|here| here.session.clone());
        scope.set(here);
        session
    })
}

/// Remembers where a guarded panic happened, in place of printing it; other panics keep the hook that was there.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            if let Some(here) = SCOPE.with(|scope| scope.take()) {
                return SCOPE.with(|scope| scope.set(Some(Scope { location, ..here })));
            }
            if runtime::is_own_thread() {
                // tokio keeps it for whoever awaits the task; usually nobody does.
                let place = location.map(|location| format!(" at {location}")).unwrap_or_default();
                return crate::logging::library_log(1, "tokio", &format!("panic: {}{place}", text_of(info.payload())), &[]);
            }
            previous(info);
        }));
    });
}

/// Runs author's code; a panic becomes an error with [`code::PANIC`], message and location. `session` is lent to the thread meanwhile:
/// to clone it each time would cost more than all else here.
pub(crate) fn scope<T>(session: &mut Option<Session>, f: impl FnOnce() -> T) -> Result<T> {
    let surroundings = session.as_ref().map(|session| *session.surroundings());
    SCOPE.with(|scope| {
        let before = scope.replace(Some(Scope { session: session.take(), location: None }));
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _entered = surroundings.as_ref().and_then(Surroundings::enter);
            f()
        }));
        let (lent, location) = scope.replace(before).map_or((None, None), |here| (here.session, here.location));
        *session = lent;
        result.map_err(|payload| panic_error(payload, location.unwrap_or_default()))
    })
}

#[cold]
fn panic_error(payload: Box<dyn Any + Send>, location: String) -> Error {
    let text = text_of(&*payload).to_owned();
    // The drop of an unknown payload may panic in its turn, outside of any guard.
    std::mem::forget(payload);
    let place = if location.is_empty() { String::new() } else { format!(" at {location}") };
    Error::of(code::PANIC, format!("panic: {text}{place}")).with_data(panic_data(location))
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let fixed = payload.downcast_ref::<&'static str>().copied();
    fixed.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(a value that is no text)")
}

fn panic_data(location: String) -> PanicData {
    let mut data = PanicData::default();
    data.location = location;
    data
}

/// Guards every poll and the drop of `future`, under the session that is lent or given for it.
pub(crate) fn run<'a, T, F, S>(session: S, future: F) -> Guarded<F, S>
where
    F: Future<Output = Result<T>> + Send + 'a,
    S: BorrowMut<Option<Session>>,
{
    Guarded { future: Some(future), session }
}

pin_project! {
    pub(crate) struct Guarded<F, S: BorrowMut<Option<Session>>> {
        // Nothing once it is done.
        #[pin]
        future: Option<F>,
        session: S,
    }

    impl<F, S: BorrowMut<Option<Session>>> PinnedDrop for Guarded<F, S> {
        fn drop(this: Pin<&mut Self>) {
            end(this);
        }
    }
}

impl<T, F: Future<Output = Result<T>>, S: BorrowMut<Option<Session>>> Future for Guarded<F, S> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let session = this.session.borrow_mut();
        let mut answer = None;
        let guarded = scope(session, || match this.future.as_mut().as_pin_mut() {
            None => answer = Some(Err(Error::of(code::INTERNAL, "polled after it was done"))),
            Some(future) => {
                if let Poll::Ready(result) = future.poll(cx) {
                    answer = Some(result);
                    // One that is done is dropped in the same go: to enter once more takes time.
                    this.future.set(None);
                }
            }
        });
        match (answer, guarded) {
            (None, Ok(())) => Poll::Pending,
            (Some(answer), Ok(())) => Poll::Ready(answer),
            (Some(answer), Err(panic)) => {
                tell_of_drop(session.as_ref(), &panic);
                Poll::Ready(answer)
            }
            (None, Err(panic)) => {
                end(self);
                Poll::Ready(Err(panic))
            }
        }
    }
}

fn end<F, S: BorrowMut<Option<Session>>>(guarded: Pin<&mut Guarded<F, S>>) {
    let mut this = guarded.project();
    if this.future.is_some() {
        let session = this.session.borrow_mut();
        let dropped = scope(session, || this.future.set(None));
        dropped.unwrap_or_else(|panic| tell_of_drop(session.as_ref(), &panic));
    }
}

/// Drops author's values; a panic in that is logged, since there is nobody left to answer.
pub(crate) fn discard<T>(session: &mut Option<Session>, value: T) {
    if let Err(panic) = scope(session, || drop(value)) {
        tell_of_drop(session.as_ref(), &panic);
    }
}

#[cold]
fn tell_of_drop(session: Option<&Session>, panic: &Error) {
    let text = format!("dropping failed: {}", panic.message());
    match session {
        Some(session) => session.host().log(1, module_path!(), &text, &[]),
        None => crate::logging::library_log(1, module_path!(), &text, &[]),
    }
}
