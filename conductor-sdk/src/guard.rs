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

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        panic::resume_unwind,
        pin::pin,
        sync::mpsc::{Sender, channel},
        task::Waker,
        thread,
    };

    use conductor_abi::{
        async_ffi::{BorrowingFfiFuture, FfiFuture},
        contract::{Event, Failure, HostObj, HostObject, Reply},
    };

    use super::*;

    /// Tells what is logged.
    struct Log(Sender<String>);

    impl HostObject for Log {
        fn call<'a>(&'a self, _: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
            BorrowingFfiFuture::new(std::future::pending())
        }
        fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
            Ok(1)
        }
        fn log(&self, _: u8, _: &str, message: &str, _: &[u8]) {
            let _ = self.0.send(message.to_owned());
        }
    }

    fn session(id: &str, log: &Sender<String>) -> Session {
        Session::new(HostObj::new(Log(log.clone())), id.into(), "test".into(), &"5eed".repeat(16), Surroundings::default()).unwrap()
    }

    fn id() -> Option<String> {
        current().map(|session| session.id().to_owned())
    }

    #[test]
    fn a_session_is_there_while_its_code_runs_and_is_given_back() {
        install_hook();
        let (log, _) = channel();
        let (mut one, mut other) = (Some(session("1", &log)), Some(session("2", &log)));
        let seen = scope(&mut one, || (id(), scope(&mut other, id), scope(&mut None, id), id())).unwrap();
        assert_eq!((seen.0.as_deref(), seen.3.as_deref()), (Some("1"), Some("1")));
        assert_eq!((seen.1.unwrap().as_deref(), seen.2.unwrap()), (Some("2"), None));
        scope(&mut one, || panic!("it is given back after this, too")).unwrap_err();
        {
            let mut polled = pin!(run(&mut other, async { if id().as_deref() == Some("2") { panic!("in it") } else { Ok(()) } }));
            let Poll::Ready(answer) = polled.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { panic!("it waits") };
            assert!(answer.unwrap_err().message().starts_with("panic: in it at "));
        }
        assert_eq!([one.unwrap().id(), other.unwrap().id()], ["1", "2"]);
        assert_eq!(id(), None);
    }

    #[test]
    fn an_answer_stands_where_dropping_what_is_done_panics() {
        struct Done;
        impl Future for Done {
            type Output = Result<u8>;
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<u8>> {
                Poll::Ready(Ok(7))
            }
        }
        impl Drop for Done {
            fn drop(&mut self) {
                panic!("at its end");
            }
        }
        install_hook();
        let (log, told) = channel();
        let mut done = pin!(run(Some(session("1", &log)), Done));
        let answer = done.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(answer, Poll::Ready(Ok(7))));
        assert!(told.try_recv().unwrap().starts_with("dropping failed: panic: at its end at "));
    }

    #[test]
    fn the_place_of_a_panic_is_its_own() {
        struct Inner;
        impl Drop for Inner {
            fn drop(&mut self) {
                scope(&mut None, || ()).unwrap();
            }
        }
        install_hook();
        let outer = scope(&mut None, || {
            let _inner = Inner;
            panic!("outer");
        });
        assert!(outer.unwrap_err().message().starts_with("panic: outer at "), "what runs while it unwinds does not take its place");
        let own = scope(&mut None, || {
            let _ = catch_unwind(|| panic!("caught by the author"));
            scope(&mut None, || resume_unwind(Box::new("raised without a place")))
        });
        let error = own.unwrap().map(|never: ()| never).unwrap_err();
        assert_eq!(error.message(), "panic: raised without a place");
        assert!(SCOPE.with(|scope| scope.take()).is_none());
    }

    #[test]
    fn it_holds_to_the_end_of_a_thread() {
        struct Last(Sender<String>);
        impl Drop for Last {
            fn drop(&mut self) {
                let late = scope(&mut None, || panic!("late")).map_err(|error| error.message().to_owned());
                let _ = self.0.send(late.unwrap_err());
            }
        }
        thread_local! {
            static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
        }
        install_hook();
        let (sender, told) = channel();
        let thread = thread::spawn(|| {
            // The thread drops in reverse what it came to know: this after what the guard has, if that is dropped at all.
            LAST.set(Some(Last(sender)));
            scope(&mut None, || ()).unwrap();
        });
        thread.join().unwrap();
        assert!(told.recv().unwrap().starts_with("panic: late at "));
    }
}
