//! The tokio runtime of a library: none, unless one of its conductors asks for it.
//!
//! Cargo unites the features of all that one command builds, so the feature `tokio` says nothing about this library: only
//! `Conductor::TOKIO` does. Where it is `false`, all that is left of this is one look at an empty option.

use crate::Result;

/// What a conductor's code runs in beside its session: the runtime of its library, or nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    #[cfg(feature = "tokio")]
    handle: Option<&'static tokio::runtime::Handle>,
}

impl Surroundings {
    /// With tokio's runtime where that is `wanted`; it starts where this is the first time.
    ///
    /// # Errors
    /// Where the system gives no thread.
    #[cfg(feature = "tokio")]
    pub(crate) fn new(wanted: bool) -> Result<Self> {
        let handle = if wanted { Some(started::handle()?) } else { None };
        Ok(Self { handle })
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) fn new(_wanted: bool) -> Result<Self> {
        Ok(Self {})
    }

    /// Until the guard is dropped, tokio's sockets, timers and tasks find the runtime. In a thread that is ending they may not.
    #[cfg(feature = "tokio")]
    #[inline]
    pub(crate) fn enter(&self) -> Option<tokio::runtime::EnterGuard<'static>> {
        let handle = self.handle?;
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.enter())).ok()
    }

    #[cfg(not(feature = "tokio"))]
    #[inline]
    pub(crate) fn enter(&self) -> Option<std::convert::Infallible> {
        None
    }
}

/// Whether this thread is the runtime's own: what panics there, no guard of ours sees.
#[cfg(feature = "tokio")]
pub(crate) use started::is_own_thread;

#[cfg(not(feature = "tokio"))]
pub(crate) fn is_own_thread() -> bool {
    false
}

#[cfg(feature = "tokio")]
mod started {
    use std::{
        cell::Cell,
        sync::{Mutex, PoisonError},
    };

    use conductor_abi::wire::code;
    use tokio::runtime::{Builder, Handle, Runtime};

    use crate::{Error, Result};

    /// Never dropped, as the library is never unloaded.
    static RUNTIME: Mutex<Option<&'static Runtime>> = Mutex::new(None);

    thread_local! {
        static OWN: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn handle() -> Result<&'static Handle> {
        let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = *runtime {
            return Ok(runtime.handle());
        }
        // One worker drives sockets and timers and runs what is spawned by tokio; handlers run on the host's threads.
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("plugin-tokio").on_thread_start(|| OWN.set(true)).enable_all();
        let made = builder.build().map_err(|e| Error::of(code::INTERNAL, format!("the plugin's tokio runtime does not start: {e}")))?;
        Ok(runtime.insert(Box::leak(Box::new(made))).handle())
    }

    pub(crate) fn is_own_thread() -> bool {
        OWN.try_with(Cell::get).unwrap_or(false)
    }
}

#[cfg(all(test, feature = "tokio", feature = "testing"))]
mod tests;
