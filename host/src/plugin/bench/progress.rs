//! A line on standard error that says how far the bench is, where that is a terminal.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::Bench;

const WIDTH: usize = 30;
const EVERY: Duration = Duration::from_millis(100);

/// Of one phase.
pub(super) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Of one that ends when this many are done.
    pub(super) fn of_count(what: &'static str, count: usize, bench: Arc<Bench>) -> Self {
        Self::start(move || {
            let done = bench.done.load(Ordering::Relaxed);
            line(what, done as f64 / count.max(1) as f64, &format!("{done}/{count}"))
        })
    }

    /// Of one that ends when this much time has passed.
    pub(super) fn of_time(what: &'static str, length: Duration, bench: Arc<Bench>) -> Self {
        let begun = Instant::now();
        Self::start(move || {
            let (done, passed) = (bench.done.load(Ordering::Relaxed), begun.elapsed());
            let part = passed.as_secs_f64() / length.as_secs_f64().max(f64::MIN_POSITIVE);
            line(what, part, &format!("{done} in {:.0} of {:.0} s", passed.as_secs_f64(), length.as_secs_f64()))
        })
    }

    fn start(line: impl Fn() -> String + Send + 'static) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Some(tokio::spawn(async move {
            loop {
                show(&line());
                tokio::time::sleep(EVERY).await;
            }
        })))
    }

    /// Takes the line away.
    pub(super) async fn end(self) {
        if let Some(task) = self.0 {
            task.abort();
            // That it was aborted is no news.
            let _ = task.await;
            show("");
        }
    }
}

/// In place of what stood there. A terminal that is gone is no reason to end.
fn show(line: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush());
}

fn line(what: &str, part: f64, rest: &str) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number from 0 to WIDTH")]
    let full = (part.clamp(0.0, 1.0) * WIDTH as f64) as usize;
    format!("{what:<8} [{}{}] {rest}", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_it_is() {
        assert_eq!(line("join", 0.0, "0/2"), format!("join     [{}] 0/2", "-".repeat(30)));
        assert_eq!(line("join", 0.5, "1/2"), format!("join     [{}{}] 1/2", "#".repeat(15), "-".repeat(15)));
        assert_eq!(line("join", 7.0, ""), format!("join     [{}] ", "#".repeat(30)));
    }
}
