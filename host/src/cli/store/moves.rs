//! `store import` and `store export`.

use std::{fs, io::Write};

use super::{
    Failed, Table,
    what::{self, Destination},
};
use crate::{
    cli::progress::Progress,
    config::Settings,
    migrate::{by_type, count, end, inexact_numbers, shown, write_back},
    store::stock::{self, Beside, Counts, Place, Stock, StockError},
};

/// Into the store that `settings` name; `there` is the one that their host would work with now.
pub(super) fn import(
    from: &str,
    dry_run: bool,
    settings: &Settings,
    there: &Place,
    now: u64,
    out: &mut dyn Write,
    progress: &mut Progress<'_>,
) -> Result<(), Failed> {
    let to = Place::of(&settings.store.url.to_string(), &settings.base_dir)?.ok_or(Failed::Memory)?;
    let from = what::source(from)?;
    let same = |other: &Place| from.file().canonicalize().is_ok_and(|from| other.file().canonicalize().is_ok_and(|other| from == other));
    // Once there is a store of the settings, a host does not look at the former one any more.
    if *there != to && !same(there) {
        return Err(Failed::Found(format!(
            "{there} is there, which the host takes over at its first start with these settings, and with other sessions it would not. Import that one, or move it away"
        )));
    }
    if same(&to) {
        return Err(Failed::Found(format!("--from is the store of the settings itself: {to}")));
    }
    let stock = read(&from, settings, now, progress)?;
    check_numbers(&from)?;
    let read = stock.counts();
    progress.begin("saved states", read.saved);
    let written = stock::import(&stock, &to, now, dry_run, &mut || progress.one())?;
    progress.end();
    check_written(read, written)?;
    let unknown = unknown_types(&stock, settings);
    say(out, &from.to_string(), read, written, &unknown, &to.to_string())
}

pub(super) fn export(
    to: &str,
    dry_run: bool,
    settings: &Settings,
    from: &Place,
    now: u64,
    out: &mut dyn Write,
    progress: &mut Progress<'_>,
) -> Result<(), Failed> {
    let to = what::destination(to)?;
    let stock = read(from, settings, now, progress)?;
    let read = stock.counts();
    match to {
        Destination::Store(to) => {
            progress.begin("saved states", read.saved);
            let written = stock::export(&stock, &to, dry_run, &mut || progress.one())?;
            progress.end();
            check_written(read, written)?;
            say(out, &from.to_string(), read, written, "", &to.to_string())
        }
        Destination::Reference(to) => {
            let report = write_back(&stock, &to, dry_run)?;
            progress.end();
            // Sessions and clients are all that such a file has.
            let written = Counts { sessions: read.sessions, clients: read.clients, ..Counts::default() };
            say(out, &from.to_string(), read, (!dry_run).then_some(written), &report.to_string(), &to.display().to_string())
        }
    }
}

/// All of the store. What happens after the copy would be lost, so a host that runs is not copied from.
fn read(from: &Place, settings: &Settings, now: u64, progress: &mut Progress<'_>) -> Result<Stock, Failed> {
    progress.begin("reading", 0);
    Ok(stock::read(from, now.saturating_add(settings.token.ttl.as_secs()), Beside::NoHost)?)
}

/// Whether what was found in the store afterwards is what was put there. Of ids that rest there may be more: those that did before.
fn check_written(read: Counts, written: Option<Counts>) -> Result<(), Failed> {
    match written {
        Some(written) if written.resting < read.resting || (Counts { resting: read.resting, ..written }) != read => {
            Err(Failed::Differs { read, written })
        }
        _ => Ok(()),
    }
}

/// The end of both.
fn say(out: &mut dyn Write, from: &str, read: Counts, written: Option<Counts>, more: &str, to: &str) -> Result<(), Failed> {
    let mut columns = vec![("read", read)];
    columns.extend(written.map(|written| ("written", written)));
    write!(out, "Read\n  - {from}\n\n{}{more}\n{}\n  - {to}\n", Table(&columns), end(written.is_none()))?;
    Ok(out.flush()?)
}

/// In a file that people or other programs wrote, numbers may have more digits than can be kept.
fn check_numbers(from: &Place) -> Result<(), Failed> {
    let Place::Json(file) = from else { return Ok(()) };
    let text = fs::read(file).map_err(|problem| Failed::Read { file: file.clone(), problem })?;
    let problems = inexact_numbers(&text);
    if problems.is_empty() { Ok(()) } else { Err(StockError::Damaged { file: file.clone(), problems }.into()) }
}

fn unknown_types(stock: &Stock, settings: &Settings) -> String {
    let sessions = stock.sessions();
    let unknown = by_type(&sessions).into_iter().filter(|(name, _)| !settings.types.contains_key(*name));
    let lines: Vec<_> = unknown
        .map(|(name, number)| {
            let sessions = count(number, "session");
            format!("  - {sessions} of type {}: no such type in the settings; kept, and unavailable until it is there\n", shown(name))
        })
        .collect();
    if lines.is_empty() { String::new() } else { format!("\nTo do\n{}", lines.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_afterwards_is_a_failure() {
        let read = Counts { sessions: 3, clients: 5, saved: 2, timers: 1, resting: 4 };
        for (written, good) in [
            (read, true),
            (Counts { resting: 5, ..read }, true),
            (Counts { resting: 3, ..read }, false),
            (Counts { saved: 1, ..read }, false),
            (Counts { clients: 6, ..read }, false),
        ] {
            assert_eq!(check_written(read, Some(written)).is_ok(), good, "{written:?}");
        }
        assert!(check_written(read, None).is_ok());
    }
}
