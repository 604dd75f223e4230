//! Keeps a panic of an author's code inside the plugin, and tells the log which session speaks.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
};

use conductor_abi::wire::{PanicData, code};
use pin_project_lite::pin_project;

use crate::{Error, Result, Session, runtime};

thread_local! {
    static CURRENT: RefCell<Option<Session>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The session whose code runs on this thread.
pub(crate) fn current() -> Option<Session> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Remembers where a guarded panic happened, in place of printing it; other panics keep the hook that was there.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                if runtime::is_own_thread() {
                    // tokio keeps it for whoever awaits the task; usually nobody does.
                    let place = location.map(|location| format!(" at {location}")).unwrap_or_default();
                    return crate::logging::library_log(1, "tokio", &format!("panic: {}{place}", text_of(info.payload())), &[]);
                }
                return previous(info);
            }
            // A thread that is ending has no place for it any more; the panic is told without its location then.
            let _ = LOCATION.try_with(|slot| *slot.borrow_mut() = location);
        }));
    });
}

/// Runs author's code; a panic becomes an error with [`code::PANIC`], message and location.
pub(crate) fn scope<T>(session: Option<&Session>, f: impl FnOnce() -> T) -> Result<T> {
    // In a thread that is ending these places may be gone; then lines are logged without a session, and nothing else is lost.
    let before = CURRENT.try_with(|current| current.replace(session.cloned()));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    // A panic that the author caught himself must not lend its place to a later one.
    let _ = LOCATION.try_with(|slot| slot.take());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _entered = session.and_then(|session| session.surroundings().enter());
        f()
    }));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    if let Ok(before) = before {
        let ours = CURRENT.try_with(|current| current.replace(before));
        drop(ours);
    }
    result.map_err(panic_error)
}

fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let location = LOCATION.try_with(|slot| slot.take()).ok().flatten().unwrap_or_default();
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

/// Guards every poll and the drop of `future`.
pub(crate) fn run<'a, T, F>(session: Option<&Session>, future: F) -> Guarded<F>
where
    F: Future<Output = Result<T>> + Send + 'a,
{
    Guarded { future: Some(future), session: session.cloned() }
}

pin_project! {
    pub(crate) struct Guarded<F> {
        // Nothing once it is done.
        #[pin]
        future: Option<F>,
        session: Option<Session>,
    }

    impl<F> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            end(this);
        }
    }
}

impl<T, F: Future<Output = Result<T>>> Future for Guarded<F> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let session = this.session.as_ref();
        let polled = scope(session, || {
            let Some(future) = this.future.as_mut().as_pin_mut() else {
                return Poll::Ready(Err(Error::of(code::INTERNAL, "polled after it was done")));
            };
            let polled = future.poll(cx);
            // One that is done is dropped in the same go: to enter once more takes time.
            if polled.is_ready() {
                let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
                dropped.unwrap_or_else(|payload| tell_of_drop(session, &panic_error(payload)));
            }
            polled
        });
        polled.unwrap_or_else(|panic| {
            end(self);
            Poll::Ready(Err(panic))
        })
    }
}

fn end<F>(guarded: Pin<&mut Guarded<F>>) {
    let mut this = guarded.project();
    if this.future.is_some() {
        let dropped = scope(this.session.as_ref(), || this.future.set(None));
        dropped.unwrap_or_else(|panic| tell_of_drop(this.session.as_ref(), &panic));
    }
}

/// Drops author's values; a panic in that is logged, since there is nobody left to answer.
pub(crate) fn discard<T>(session: Option<&Session>, value: T) {
    if let Err(panic) = scope(session, || drop(value)) {
        tell_of_drop(session, &panic);
    }
}

fn tell_of_drop(session: Option<&Session>, panic: &Error) {
    let text = format!("dropping failed: {}", panic.message());
    match session {
        Some(session) => session.host().log(1, module_path!(), &text, &[]),
        None => crate::logging::library_log(1, module_path!(), &text, &[]),
    }
}
