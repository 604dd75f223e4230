//! What was measured, and how it is told.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::{conductors::refusal::one_line, sessions::manager::Refused};

/// Values of one power of two share this many boxes: what is told is less than 1/32 too high.
const BOXES: u64 = 32;
/// Kinds of errors that are told apart.
const KINDS: usize = 20;
/// The longest text of a kind, in bytes.
const LONGEST: usize = 200;

/// Latencies in boxes, so that any number of them takes the same room.
#[derive(Clone, Default)]
struct Histogram {
    /// How many in each box; as long as its last one.
    boxes: Vec<u64>,
    count: u64,
    longest: u64,
}

/// The box of a value: exact below [`BOXES`], then [`BOXES`] of them for each power of two.
fn box_of(value: u64) -> usize {
    let power = u64::from(value.max(BOXES).ilog2() - BOXES.ilog2());
    usize::try_from(power * BOXES + (value >> power)).unwrap_or(usize::MAX)
}

/// The largest value of a box.
fn end_of(number: usize) -> u64 {
    let number = number as u64;
    if number < 2 * BOXES {
        return number;
    }
    let power = number / BOXES - 1;
    (number - power * BOXES) << power | ((1 << power) - 1)
}

impl Histogram {
    fn add(&mut self, value: u64) {
        let number = box_of(value);
        if self.boxes.len() <= number {
            self.boxes.resize(number + 1, 0);
        }
        self.boxes[number] += 1;
        self.count += 1;
        self.longest = self.longest.max(value);
    }

    fn merge(&mut self, other: &Self) {
        if self.boxes.len() < other.boxes.len() {
            self.boxes.resize(other.boxes.len(), 0);
        }
        self.boxes.iter_mut().zip(&other.boxes).for_each(|(ours, theirs)| *ours += theirs);
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// The value that this part of all does not exceed, `part` being 0 to 100.
    fn percentile(&self, part: u64) -> u64 {
        let wanted = (self.count * part).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.boxes.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0, |number| end_of(number).min(self.longest))
    }
}

/// Of one kind of call.
#[derive(Clone, Default)]
pub(super) struct Figures {
    latencies: Histogram,
    errors: BTreeMap<String, u64>,
    pub(super) took: Duration,
}

impl Figures {
    pub(super) fn add(&mut self, latency: Duration) {
        self.latencies.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn add_error(&mut self, error: &Refused) {
        self.add_errors(one_line(&error.to_string(), LONGEST), 1);
    }

    pub(super) fn count(&mut self, latency: Duration, result: Result<(), Refused>) {
        match result {
            Ok(()) => self.add(latency),
            Err(error) => self.add_error(&error),
        }
    }

    fn add_errors(&mut self, kind: String, count: u64) {
        let known = self.errors.len() < KINDS || self.errors.contains_key(&kind);
        *self.errors.entry(if known { kind } else { "others".to_owned() }).or_default() += count;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        other.errors.iter().for_each(|(kind, count)| self.add_errors(kind.clone(), *count));
    }

    fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    fn per_second(&self) -> f64 {
        let seconds = self.took.as_secs_f64();
        if seconds > 0.0 { self.latencies.count as f64 / seconds } else { 0.0 }
    }

    fn latencies(&self) -> [(&'static str, u64); 4] {
        let of = |part| self.latencies.percentile(part);
        [("p50", of(50)), ("p90", of(90)), ("p99", of(99)), ("max", self.latencies.longest)]
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("count".into(), self.latencies.count.into());
        object.insert("per_second".into(), self.per_second().round().into());
        object.extend(self.latencies().map(|(name, nanos)| (format!("{name}_us"), json!(nanos as f64 / 1000.0))));
        object.insert("errors".into(), json!(self.errors));
        object.into()
    }
}

/// What a phase gave.
pub(super) struct Phase<T> {
    pub(super) figures: Figures,
    results: Vec<T>,
}

impl<T> Default for Phase<T> {
    fn default() -> Self {
        Self { figures: Figures::default(), results: Vec::new() }
    }
}

impl<T> Phase<T> {
    pub(super) fn add(&mut self, figures: &Figures, results: Vec<T>) {
        self.figures.merge(figures);
        self.results.extend(results);
    }

    pub(super) fn split(self, results: &mut Vec<T>) -> Figures {
        results.extend(self.results);
        self.figures
    }
}

/// All of it.
pub(super) struct Report {
    file: String,
    conductor: String,
    sizes: [u32; 2],
    pub(super) method: Option<String>,
    /// The name of the messages, where the conductor hears them.
    pub(super) message: Option<String>,
    pub(super) create: Figures,
    pub(super) join: Figures,
    pub(super) request: Figures,
    pub(super) messages: Figures,
    pub(super) close: Figures,
    pub(super) published: u64,
    /// Of memory for each session: when all were made, and after all calls.
    pub(super) created_bytes: Option<u64>,
    pub(super) used_bytes: Option<u64>,
    pub(super) ended_early: bool,
}

impl Report {
    pub(super) fn new(file: &Path, conductor: &str, sizes: [u32; 2]) -> Self {
        let none = Figures::default;
        Self {
            file: file.to_string_lossy().into_owned(),
            conductor: conductor.to_owned(),
            sizes,
            method: None,
            message: None,
            create: none(),
            join: none(),
            request: none(),
            messages: none(),
            close: none(),
            published: 0,
            created_bytes: None,
            used_bytes: None,
            ended_early: false,
        }
    }

    pub(super) fn sessions_made(&self) -> u64 {
        self.create.latencies.count
    }

    fn calls_per_second(&self) -> f64 {
        self.request.per_second() + self.messages.per_second()
    }

    /// In the order of their happening; those that a conductor has not are nothing.
    fn parts(&self) -> [(&'static str, Option<&Figures>); 5] {
        [
            ("create", Some(&self.create)),
            ("join", (self.sizes[1] > 0).then_some(&self.join)),
            ("request", self.method.as_ref().map(|_| &self.request)),
            ("message", self.message.as_ref().map(|_| &self.messages)),
            ("close", Some(&self.close)),
        ]
    }

    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("file".into(), self.file.clone().into());
        object.insert("conductor".into(), self.conductor.clone().into());
        object.insert("sessions".into(), self.sizes[0].into());
        object.insert("clients".into(), self.sizes[1].into());
        object.insert("seconds".into(), json!(self.request.took.as_secs_f64()));
        object.insert("ended_early".into(), self.ended_early.into());
        object.insert("method".into(), json!(self.method));
        object.insert("message_name".into(), json!(self.message));
        object.insert("calls_per_second".into(), self.calls_per_second().round().into());
        object.extend(self.parts().map(|(name, figures)| (name.to_owned(), figures.map_or(Value::Null, Figures::json))));
        object.insert("published".into(), self.published.into());
        object.insert("bytes_per_session_made".into(), json!(self.created_bytes));
        object.insert("bytes_per_session_used".into(), json!(self.used_bytes));
        format!("{}\n", Value::Object(object))
    }

    pub(super) fn text(&self) -> String {
        let [sessions, clients] = self.sizes;
        let mut text = format!("conductor {:?} of {}\n", self.conductor, one_line(&self.file, 1000));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{sessions} sessions with {clients} clients each, {:.1} s of calls", self.request.took.as_secs_f64());
        if self.ended_early {
            text += "ended early, as you wished: this is what was measured\n";
        }
        match (&self.method, &self.message) {
            (None, None) => {
                text += "nothing to call: it hears no messages, and no method is without parameters; --method and --params say which\n"
            }
            (None, Some(_)) => text += "no request: no method is without parameters; --method and --params say which\n",
            _ => {}
        }
        let _ = writeln!(
            text,
            "\n{:<8}{:>12}{:>12}{:>11}{:>11}{:>11}{:>11}{:>10}",
            "", "done", "per second", "p50", "p90", "p99", "max", "errors"
        );
        for (name, figures) in self.parts() {
            let Some(figures) = figures else { continue };
            let _ = write!(text, "{name:<8}{:>12}{:>12.0}", figures.latencies.count, figures.per_second());
            for (_, nanos) in figures.latencies() {
                let _ = write!(text, "{:>11}", time(nanos));
            }
            let _ = writeln!(text, "{:>10}", figures.failed());
        }
        text.push('\n');
        let mut line = |name: &str, said: String| {
            let _ = writeln!(text, "{name:<10}{said}");
        };
        line("calls", format!("{:.0} per second", self.calls_per_second()));
        if let Some(method) = &self.method {
            line("asked", one_line(method, LONGEST));
        }
        line("published", format!("{} messages by the conductors", self.published));
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} kB", bytes as f64 / 1000.0));
        line(
            "memory",
            format!("{} a session as made, {} with its clients and after the calls", size(self.created_bytes), size(self.used_bytes)),
        );
        for (name, figures) in self.parts() {
            for (kind, count) in figures.iter().flat_map(|figures| &figures.errors) {
                line("error", format!("{count} × {name}: {kind}"));
            }
        }
        text
    }
}

/// As people say it.
fn time(nanos: u64) -> String {
    match nanos as f64 {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{:.1} µs", nanos / 1e3),
        nanos if nanos < 1e9 => format!("{:.1} ms", nanos / 1e6),
        nanos => format!("{:.2} s", nanos / 1e9),
    }
}

/// Bytes of this process in memory; nothing where the system does not say.
pub(super) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_follow_each_other_and_hold_what_is_put_in() {
        let mut last = 0;
        for value in (0..5000).chain((13..64).flat_map(|power| [(1_u64 << power) - 1, 1 << power, (1 << power) + 1])).chain([u64::MAX]) {
            let number = box_of(value);
            assert!(number == last || number == last + 1 || value > 5000, "{value}");
            assert!(end_of(number) >= value, "{value} in {number} up to {}", end_of(number));
            assert!(number == 0 || end_of(number - 1) < value, "{value}");
            assert!((end_of(number) - value) as f64 <= value as f64 / 32.0, "{value}");
            last = number;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut halves = [Histogram::default(), Histogram::default()];
        (1..=1000_u64).for_each(|value| halves[usize::from(value % 2 == 0)].add(value * 1000));
        let [mut all, other] = halves;
        all.merge(&other);
        for (part, value) in [(50, 500_000), (90, 900_000), (99, 990_000), (100, 1_000_000)] {
            let found = all.percentile(part);
            assert!((value..=value + value / 32).contains(&found), "{part}: {found}");
        }
        assert_eq!((all.count, all.longest, Histogram::default().percentile(50)), (1000, 1_000_000, 0));
    }

    #[test]
    fn errors_are_counted_by_kind_and_kinds_are_bounded() {
        let mut figures = Figures::default();
        for number in 0..100 {
            figures.add_error(&Refused::Internal(number.to_string()));
            figures.add_error(&Refused::Full);
        }
        assert_eq!((figures.errors.len(), figures.failed()), (KINDS + 1, 200));
        assert_eq!((figures.errors["the session is full"], figures.errors["internal error: 0"]), (100, 1));
    }

    #[test]
    fn times_are_told_in_their_units() {
        assert_eq!([999, 1500, 2_000_000, 3_250_000_000].map(time), ["999 ns", "1.5 µs", "2.0 ms", "3.25 s"]);
    }
}
