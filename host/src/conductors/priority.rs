//! Priorities of single threads, where the platform has them (Linux); elsewhere a stuck thread keeps its own.

/// The number of the calling thread, 0 where that means nothing.
#[must_use]
pub fn this_thread() -> u64 {
    #[cfg(target_os = "linux")]
    return u64::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0);
    #[cfg(not(target_os = "linux"))]
    return 0;
}

/// Gives a thread the lowest priority. (Raising it again would need a privilege.) Where the system refuses, it stays as it is.
pub fn lower_thread(thread: u64) {
    #[cfg(target_os = "linux")]
    if let Some(thread) = i32::try_from(thread).ok().and_then(rustix::process::Pid::from_raw)
        && let Err(error) = rustix::process::setpriority_process(Some(thread), 19)
    {
        tracing::debug!(%error, "the priority of a blocked thread could not be lowered");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = thread;
}
