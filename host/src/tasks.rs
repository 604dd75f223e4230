//! The main loop: what the host does again and again, whatever its sessions do.
//!
//! To add a task, add a line where the host puts its [`MainLoop`] together:
//!
//! ```
//! # use std::time::Duration;
//! # use conductor_host::tasks::MainLoop;
//! # let mut main_loop = MainLoop::new();
//! main_loop.every("say so", Duration::from_secs(60), || async {
//!     tracing::info!("another minute");
//!     Ok(())
//! });
//! ```

use std::{any::Any, fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

/// What one run of a task ends with; the text of an error goes to the log.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The periodic tasks of the whole host, collected first and run together.
#[derive(Default)]
pub struct MainLoop {
    tasks: Vec<Task>,
}

struct Task {
    name: &'static str,
    interval: Duration,
    run: Box<dyn FnMut() -> BoxFuture<'static, Outcome> + Send>,
}

impl fmt::Debug for MainLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tasks.iter().map(|task| (task.name, task.interval))).finish()
    }
}

impl MainLoop {
    /// A loop without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task: `run` is called each `interval` (at least a millisecond), the first time one interval after the start.
    ///
    /// Runs of one task never overlap: of the times that pass while it runs, the first is made up for at once and the others
    /// are skipped. An error, or a panic, ends that run only, and is logged; other tasks do not notice.
    pub fn every<F, Fut>(&mut self, name: &'static str, interval: Duration, mut run: F) -> &mut Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let interval = interval.max(Duration::from_millis(1));
        self.tasks.push(Task { name, interval, run: Box::new(move || run().boxed()) });
        self
    }

    /// Runs the tasks until `stop` becomes true or its sender is gone. A run under way is dropped where it waits.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let mut running = JoinSet::new();
        for task in self.tasks {
            running.spawn(repeat(task, stop.clone()));
        }
        // Nothing in there panics; should the runtime cancel one at its end, there is nobody left to tell.
        while running.join_next().await.is_some() {}
    }
}

async fn repeat(mut task: Task, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval_at(Instant::now() + task.interval, task.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let turns = async {
        loop {
            ticks.tick().await;
            turn(&mut task).await;
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stopping| *stopping) => {}
        () = turns => {}
    }
}

async fn turn(task: &mut Task) {
    // A task that panicked is called again: what it shares with others is behind locks that say when they are poisoned.
    let run = AssertUnwindSafe(async { (task.run)().await }).catch_unwind().await;
    match run {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(task = task.name, %error, "a periodic task failed"),
        Err(panic) => tracing::error!(task = task.name, panic = panic_text(&*panic), "a periodic task panicked"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::sleep;

    use super::*;

    /// Counts runs, and says after how many seconds each began.
    #[derive(Clone)]
    struct Runs(Instant, Arc<Mutex<Vec<u64>>>);

    impl Runs {
        fn new() -> Self {
            Self(Instant::now(), Arc::default())
        }
        fn note(&self) {
            self.1.lock().unwrap().push(self.0.elapsed().as_secs());
        }
        fn seen(&self) -> Vec<u64> {
            self.1.lock().unwrap().clone()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs the loop for so long on the virtual clock, then stops it and waits for its end.
    async fn run_for(main_loop: MainLoop, time: Duration) {
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(main_loop.run(stopped));
        sleep(time).await;
        stop.send(true).unwrap();
        tokio::time::timeout(60 * SECOND, running).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_task_runs_at_its_own_interval() {
        let (fast, slow) = (Runs::new(), Runs::new());
        let mut main_loop = MainLoop::new();
        let (f, s) = (fast.clone(), slow.clone());
        main_loop
            .every("fast", SECOND, move || {
                f.note();
                async { Ok(()) }
            })
            .every("slow", 3 * SECOND, move || {
                s.note();
                async { Ok(()) }
            });
        run_for(main_loop, Duration::from_millis(6500)).await;
        assert_eq!(fast.seen(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(slow.seen(), [3, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn times_that_pass_during_a_run_are_skipped_but_the_first() {
        let runs = Runs::new();
        let mut main_loop = MainLoop::new();
        let noted = runs.clone();
        main_loop.every("first run takes long", SECOND, move || {
            noted.note();
            let time = if noted.seen().len() == 1 { Duration::from_millis(3500) } else { Duration::ZERO };
            async move {
                sleep(time).await;
                Ok(())
            }
        });
        run_for(main_loop, Duration::from_millis(7200)).await;
        assert_eq!(runs.seen(), [1, 4, 5, 6, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_end_one_run_and_nothing_else() {
        let (failing, panicking, early) = (Runs::new(), Runs::new(), Runs::new());
        let mut main_loop = MainLoop::new();
        let (f, p, e) = (failing.clone(), panicking.clone(), early.clone());
        main_loop
            .every("fails", SECOND, move || {
                f.note();
                async { Err("no".into()) }
            })
            .every("panics in its future", SECOND, move || {
                p.note();
                async { panic!("in the future") }
            })
            .every("panics before its future", SECOND, move || {
                e.note();
                assert!(e.seen().is_empty(), "before the future");
                async { Ok(()) }
            });
        run_for(main_loop, Duration::from_millis(3500)).await;
        for runs in [failing, panicking, early] {
            assert_eq!(runs.seen(), [1, 2, 3]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_at_once_when_told_and_when_nobody_could_tell() {
        struct Dropped(Arc<AtomicUsize>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        for told in [true, false] {
            let dropped = Arc::new(AtomicUsize::new(0));
            let mut main_loop = MainLoop::new();
            let counter = dropped.clone();
            main_loop.every("waits for ever", SECOND, move || {
                let guard = Dropped(counter.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(guard);
                    Ok(())
                }
            });
            let (stop, stopped) = watch::channel(false);
            let running = tokio::spawn(main_loop.run(stopped));
            sleep(2 * SECOND).await;
            assert_eq!(dropped.load(Ordering::SeqCst), 0);
            let before = Instant::now();
            if told {
                stop.send(true).unwrap();
            } else {
                drop(stop);
            }
            tokio::time::timeout(60 * SECOND, running).await.unwrap().unwrap();
            assert_eq!((before.elapsed(), dropped.load(Ordering::SeqCst)), (Duration::ZERO, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn told_before_the_start_it_runs_nothing() {
        let runs = Runs::new();
        let mut main_loop = MainLoop::new();
        let noted = runs.clone();
        main_loop.every("never", Duration::ZERO, move || {
            noted.note();
            async { Ok(()) }
        });
        main_loop.run(watch::channel(true).1).await;
        assert!(runs.seen().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_interval_of_nothing_is_a_millisecond() {
        let runs = Runs::new();
        let mut main_loop = MainLoop::new();
        let noted = runs.clone();
        main_loop.every("eager", Duration::ZERO, move || {
            noted.note();
            async { Ok(()) }
        });
        run_for(main_loop, Duration::from_millis(10)).await;
        assert!((9..=11).contains(&runs.seen().len()), "{:?}", runs.seen());
    }

    #[test]
    fn panics_are_told_in_their_own_words() {
        let (text, number) = (std::panic::catch_unwind(|| panic!("{}", 7)), std::panic::catch_unwind(|| std::panic::panic_any(7)));
        assert_eq!((panic_text(&*text.unwrap_err()), panic_text(&*number.unwrap_err())), ("7", "(no text)"));
    }
}
