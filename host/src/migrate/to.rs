//! The way out: the sessions of this host's store as the reference's file.

use std::{ffi::OsString, io::Write, path::Path};

use super::{
    Arguments, Failed,
    reference::render,
    report::{Report, by_type, count, shown, summary},
};
use crate::{
    config::{Settings, StoreUrl},
    store::{
        Extra, StoredClient,
        transfer::{self, AtRest},
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
    if settings.store.url == StoreUrl::Memory {
        return Err(Failed::Memory);
    }
    // What happens after the copy would be lost, so a host that runs is not copied from.
    let (url, AtRest { sessions, states, .. }) = stored(&settings, now)?;
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
    let lines = [
        (sessions.iter().filter(|session| session.created_at != 0).count(), "session", "the time of creation"),
        (of(|extra| !extra.labels.is_empty()), "session", "labels"),
        (of(|extra| extra.locked), "session", "that nobody new may join"),
        (of(|extra| extra.max_clients.is_some()), "session", "how many clients may be in it"),
        (states.len(), "session", "what its conductor has saved"),
        (of(|extra| !extra.rest.is_empty()), "session", "further keys"),
        (extras().map(|extra| extra.timers.len()).sum(), "timer", "all of it"),
        (sessions.iter().flat_map(|session| &session.clients).filter(joined).count(), "client", "the end of the grant"),
        (extras().map(|extra| extra.grants.len()).sum(), "client", "what it may do; the old program lets it do everything"),
    ];
    for (number, noun, what) in lines.into_iter().filter(|(number, ..)| *number > 0) {
        report.left.push(format!("{}: {what}", count(number, noun)));
    }
    report.left.push("settings and key: the old program still has its own".into());
    let text = render(&sessions).map_err(|problem| Failed::Write { file: to.to_owned(), problem })?;
    if !arguments.dry_run {
        transfer::write_new(to, &text).map_err(|problem| Failed::Write { file: to.to_owned(), problem })?;
    }
    let end = if arguments.dry_run { "Dry run: nothing was written. This would be" } else { "Written, readable by its owner alone" };
    write!(out, "Read\n  - {}\n{report}\n{end}\n  - {}\n", url, to.display())?;
    Ok(out.flush()?)
}

/// What the next start would begin with, and where that is.
fn stored(settings: &Settings, now: u64) -> Result<(String, AtRest), Failed> {
    let at_rest = |url: String| Ok::<_, Failed>(transfer::read_at_rest(&url, &settings.base_dir, now)?.map(|found| (url, found)));
    let url = settings.store.url.to_string();
    if let Some(found) = at_rest(url.clone())? {
        return Ok(found);
    }
    let taken_over = settings.store_before().map(|file| at_rest(format!("json:{}", file.display()))).transpose()?;
    taken_over.flatten().ok_or(Failed::NoStore(url))
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
        // `printf '0\n' | sha256sum`
        const STATE: &str = "conductor-state 1 0 9a271f2a916b0b6ee6cecb2426f0b3206ef074578be55d9bc94f6f3fe3ab86aa\n";
        fs::create_dir_all(path("state/sessions.json.state")).unwrap();
        fs::write(path("host.toml"), "").unwrap();
        fs::write(path("state/sessions.json"), format!("{{{}, {}, {}}}", session("1", one), session("2", &two), session("3", ""))).unwrap();
        fs::write(path("state/sessions.json.state/2-0-5.state"), STATE).unwrap();
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
