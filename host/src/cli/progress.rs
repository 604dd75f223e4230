//! How far a long command is: a line on standard error, where that is a terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// What takes less time needs no line.
const PATIENCE: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_millis(100);

/// The line.
pub(super) struct Progress<'a> {
    /// Nothing where nobody looks.
    to: Option<&'a mut dyn Write>,
    what: &'static str,
    done: usize,
    of: usize,
    next: Instant,
    shown: bool,
}

impl<'a> Progress<'a> {
    /// On `to`, where standard error is a terminal.
    pub(super) fn new(to: &'a mut dyn Write) -> Self {
        Self::on(io::stderr().is_terminal().then_some(to))
    }

    fn on(to: Option<&'a mut dyn Write>) -> Self {
        Self { to, what: "", done: 0, of: 0, next: Instant::now() + PATIENCE, shown: false }
    }

    /// Something else is done now; how many of them, where that is known (0 otherwise).
    pub(super) fn begin(&mut self, what: &'static str, of: usize) {
        (self.what, self.done, self.of) = (what, 0, of);
        self.show();
    }

    /// One more is done.
    pub(super) fn one(&mut self) {
        self.done += 1;
        self.show();
    }

    fn show(&mut self) {
        let Some(to) = &mut self.to else { return };
        let now = Instant::now();
        if now < self.next {
            return;
        }
        (self.next, self.shown) = (now + EVERY, true);
        let line = match (self.done, self.of) {
            (0, 0) => format!("{}…", self.what),
            (done, 0) => format!("{} {done}", self.what),
            (done, of) => format!("{} {done}/{of}", self.what),
        };
        // A terminal that is gone is no reason to end.
        let _ = write!(to, "\r\x1b[2K{line}").and_then(|()| to.flush());
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if let (Some(to), true) = (&mut self.to, self.shown) {
            let _ = write!(to, "\r\x1b[2K").and_then(|()| to.flush());
            self.shown = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_after_a_while_and_is_taken_away() {
        let mut to = Vec::new();
        let mut progress = Progress::on(Some(&mut to));
        progress.begin("reading", 0);
        progress.end();
        assert!(!progress.shown);
        progress.next = Instant::now();
        progress.begin("saved states", 2);
        progress.one();
        progress.next = Instant::now();
        progress.one();
        progress.end();
        assert_eq!(String::from_utf8(to).unwrap(), "\r\x1b[2Ksaved states 0/2\r\x1b[2Ksaved states 2/2\r\x1b[2K");

        let mut nobody = Progress::on(None);
        nobody.next = Instant::now();
        nobody.begin("reading", 0);
        assert!(!nobody.shown);
    }
}
