//! The way out: the sessions of this host's store as the reference's file.

use std::{ffi::OsString, io::Write, path::Path};

use super::{
    Arguments, Failed,
    reference::render,
    report::{Report, by_type, count, end, shown, summary},
};
use crate::{
    config::Settings,
    store::{
        Extra, StoredClient,
        stock::{self, Beside, Place, Stock, StockError},
        transfer,
    },
};

pub(super) fn run(
    arguments: &Arguments,
    to: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    now: u64,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let (settings, _) = Settings::load(arguments.config.as_deref(), env, &[]).map_err(Failed::Settings)?;
    let place = Place::in_use(&settings.store.url.to_string(), &settings.base_dir, settings.store_before())?.ok_or(Failed::Memory)?;
    // What happens after the copy would be lost, so a host that runs is not copied from.
    let stock = stock::read(&place, now, Beside::NoHost).map_err(|error| match error {
        StockError::Missing(_) => Failed::NoStore(place.to_string()),
        other => other.into(),
    })?;
    let report = write_back(&stock, to, arguments.dry_run)?;
    write!(out, "Read\n  - {}\n{report}\n{}\n  - {}\n", place, end(arguments.dry_run), to.display())?;
    Ok(out.flush()?)
}

/// Writes the sessions as the reference's file, where nothing may be; but not with `dry_run`. The report says what cannot be in it.
///
/// # Errors
/// Where something is there, or it cannot be written.
pub(crate) fn write_back(stock: &Stock, to: &Path, dry_run: bool) -> Result<Report, Failed> {
    let sessions = stock.sessions();
    if to.symlink_metadata().is_ok() {
        return Err(Failed::Exists(to.to_owned()));
    }
    let mut report = Report::default();
    report.taken.push(summary(&sessions));
    let types: Vec<_> = by_type(&sessions).into_keys().map(shown).collect();
    if !types.is_empty() {
        let types = types.join(", ");
        report.to_do.push(format!(
            "each of these types must be in the old settings' CONDUCTOR_INTERFACES, or the old program does not start: {types}"
        ));
    }
    let extras = || sessions.iter().filter_map(|session| session.extra.as_deref());
    let of = |what: fn(&Extra) -> bool| extras().filter(|extra| what(extra)).count();
    let joined = |client: &&StoredClient| matches!(client, StoredClient::Joined { .. });
    let there = stock.counts();
    let lines = [
        (sessions.iter().filter(|session| session.created_at != 0).count(), "session", "the time of creation"),
        (of(|extra| !extra.labels.is_empty()), "session", "labels"),
        (of(|extra| extra.locked), "session", "that nobody new may join"),
        (of(|extra| extra.max_clients.is_some()), "session", "how many clients may be in it"),
        (of(|extra| extra.lifetime.is_some() || extra.empty_timeout.is_some()), "session", "how long it may live"),
        (there.saved, "session", "what its conductor has saved"),
        (of(|extra| !extra.rest.is_empty()), "session", "further keys"),
        (there.timers, "timer", "all of it"),
        (sessions.iter().flat_map(|session| &session.clients).filter(joined).count(), "client", "the end of the grant"),
        (extras().map(|extra| extra.grants.len()).sum(), "client", "what it may do; the old program lets it do everything"),
        (there.resting, "id", "that it rests; the old program may give it to a new session at once"),
    ];
    for (number, noun, what) in lines.into_iter().filter(|(number, ..)| *number > 0) {
        report.left.push(format!("{}: {what}", count(number, noun)));
    }
    report.left.push("settings and key: the old program still has its own".into());
    let text = render(&sessions).map_err(|problem| Failed::Write { file: to.to_owned(), problem })?;
    if !dry_run {
        transfer::write_new(to, &text).map_err(|problem| Failed::Write { file: to.to_owned(), problem })?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn all_that_the_old_program_cannot_keep_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let session =
            |id: &str, more: &str| format!(r#""{id}": {{"id": "{id}", "pin": "918", "type": "default", "clients": ["a", "b"]{more}}}"#);
        let one = r#", "labels": {"x": "918"}, "locked": true, "grants": {"a": {"publish": []}, "b": {"publish": []}}"#;
        let timers = r#""timers": {"t": {"due": "2025-01-01T00:00:00Z"}, "u": {"due": "2025-01-01T00:00:00Z"}}"#;
        let two = format!(r#", "labels": {{"x": "y"}}, "max_clients": 4, {timers}"#);
        fs::create_dir_all(path("state/sessions.json.state")).unwrap();
        fs::write(path("host.toml"), "").unwrap();
        fs::write(path("state/sessions.json"), format!("{{{}, {}, {}}}", session("1", one), session("2", &two), session("3", ""))).unwrap();
        // Damaged: it could not be in the file anyway.
        fs::write(path("state/sessions.json.state/2-0-5.state"), "").unwrap();
        let config = path("host.toml").into_os_string();
        let arguments = Line::try_parse_from(["x".into(), "--config".into(), config, "--to".into(), path("back.json").into_os_string()]);
        let mut out = Vec::new();
        super::super::run(&arguments.unwrap().arguments, [], 0, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "
Left
  - 2 sessions: labels
  - 1 session: that nobody new may join
  - 1 session: how many clients may be in it
  - 1 session: what its conductor has saved
  - 2 timers: all of it
  - 6 clients: the end of the grant
  - 2 clients: what it may do; the old program lets it do everything
  - settings and key";
        assert!(text.contains(expected) && !text.contains("918"), "{text}");
        assert!(!fs::read_to_string(path("back.json")).unwrap().contains("labels"));
    }
}
