//! `cargo xtask bench containment`: how long the others wait while a plugin misbehaves, for each way to misbehave.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{Bench, Client, Host, Outcome, heading, median, say, wrk};

/// Slices of each kind, with and without the disturbance in turn.
const ROUNDS: usize = 5;

/// One way to misbehave.
struct Disturbance {
    name: &'static str,
    kind: &'static str,
    /// How many sessions do it at once.
    sessions: usize,
    /// Method and parameters; `FILE` is a file that appears when the slice is over.
    method: &'static str,
    params: &'static str,
    /// Asked again until the slice is over: each time in a new session, or in the same.
    again: Again,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    Same,
    New,
}

const ALL: &[Disturbance] = &[
    of("errors", "faulty", 4, "fail", "", Again::Same),
    of("panics, each in a new session", "faulty", 4, "panic", "", Again::New),
    of("panics in tasks, likewise", "faulty", 4, "panic_in_task", "", Again::New),
    of("64 futures that never end", "faulty", 64, "hang", "", Again::No),
    of("1 session blocks its thread", "faulty", 1, "block_until", r#"{"file":"FILE"}"#, Again::No),
    of("64 sessions block at once", "faulty", 64, "block_until", r#"{"file":"FILE"}"#, Again::No),
    of("1 endless loop", "faulty", 1, "block_until", r#"{"file":"FILE","busy":true}"#, Again::No),
    of("3 endless loops", "faulty", 3, "block_until", r#"{"file":"FILE","busy":true}"#, Again::No),
    of("20 ms of sleep, again and again", "faulty", 4, "block", r#"{"millis":20}"#, Again::Same),
    of("1,000,000 tasks", "faulty", 1, "tasks", r#"{"count":1000000,"wait":true}"#, Again::New),
    of("replies of 100 MB", "raw", 1, "huge", "", Again::Same),
    of("answers that are no JSON", "raw", 4, "not_utf8", "", Again::Same),
    of("woken 100,000 times from abroad", "faulty", 1, "woken_abroad", "", Again::Same),
];

const fn of(
    name: &'static str,
    kind: &'static str,
    sessions: usize,
    method: &'static str,
    params: &'static str,
    again: Again,
) -> Disturbance {
    Disturbance { name, kind, sessions, method, params, again }
}

impl Disturbance {
    /// Misbehaves until `over` is set; what is answered is nobody's concern here.
    fn run(&self, host: &Host, file: &Path, over: &AtomicBool) -> Outcome<()> {
        let params: String = self.params.replace("FILE", &file.display().to_string()).bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut ids = host.create(self.kind, self.sessions)?;
        thread::scope(|scope| {
            let callers: Vec<_> =
                ids.iter_mut().map(|id| scope.spawn(|| self.call(host, id, &params, over).map_err(|error| error.to_string()))).collect();
            callers.into_iter().try_for_each(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned())))
        })?;
        let mut client = Client::connect(&host.admin)?;
        ids.iter().try_for_each(|id| client.get(&format!("/api/closeSession?id={id}")).map(drop))
    }

    fn call(&self, host: &Host, id: &mut String, params: &str, over: &AtomicBool) -> Outcome<()> {
        let mut client = Client::connect(&host.admin)?;
        loop {
            client.get(&format!("/api/conductorRequest?id={id}&method={}&params={params}", self.method))?;
            if self.again == Again::No || over.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.again == Again::New {
                client.get(&format!("/api/closeSession?id={id}"))?;
                *id = host.create(self.kind, 1)?.remove(0);
            }
        }
    }
}

impl Bench {
    pub(super) fn containment(&self) -> Outcome<()> {
        heading("others while a plugin misbehaves");
        let mut table = String::from(
            "| disturbance | p99 alone, ms | p99 beside, ms | ratio of p99 | ratio of requests/s |\n| --- | --- | --- | --- | --- |\n",
        );
        for disturbance in ALL {
            // A host for each: what one leaves behind is not the next one's.
            let host = self.host("deadline = \"4s\"")?;
            let script = self.script(&host.create("default", 900)?)?;
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                alone.push(wrk(&host.admin, &script)?);
                let file = self.scratch.join(format!("over-{round}"));
                let over = AtomicBool::new(false);
                let measured = thread::scope(|scope| -> Outcome<_> {
                    let disturber = scope.spawn(|| disturbance.run(&host, &file, &over).map_err(|error| error.to_string()));
                    let measured = wrk(&host.admin, &script);
                    over.store(true, Ordering::Relaxed);
                    fs::write(&file, "")?;
                    disturber.join().map_err(|_| "the disturber panicked")??;
                    measured
                })?;
                beside.push(measured);
            }
            let p99 = |all: &[super::Measured]| median(all.iter().map(|measured| measured.p99));
            let speed = |all: &[super::Measured]| median(all.iter().map(|measured| measured.per_second));
            let (quiet, loud) = (p99(&alone), p99(&beside));
            let ratio = speed(&beside) / speed(&alone);
            let line = format!("| {} | {quiet:.2} | {loud:.2} | {:.2} | {ratio:.2} |", disturbance.name, loud / quiet);
            say(&line);
            table += &line;
            table.push('\n');
        }
        say(&format!("\n{table}"));
        Ok(())
    }
}
