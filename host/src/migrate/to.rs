//! The way out: the sessions of this host's store as the reference's file.

use std::{ffi::OsString, io::Write, path::Path};

use super::{
    Arguments, Failed,
    reference::render,
    report::{Report, by_type, count, shown, summary},
};
use crate::{
    config::{Settings, StoreUrl},
    store::{StoredClient, transfer},
};

pub(super) fn run(
    arguments: &Arguments,
    to: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    now: u64,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let (settings, _) = Settings::load(arguments.config.as_deref(), env, &[]).map_err(Failed::Settings)?;
    let StoreUrl::Json(file) = &settings.store.url else { return Err(Failed::Memory) };
    // What happens after the copy would be lost, so a host that runs is not copied from.
    let sessions = transfer::read_at_rest(file, now)?.ok_or_else(|| Failed::NoStore(file.clone()))?;
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
    let lines = [
        (sessions.iter().filter(|session| session.created_at != 0).count(), "session", "the time of creation"),
        (sessions.iter().filter(|session| session.rest.is_some()).count(), "session", "further keys"),
        (
            sessions.iter().flat_map(|session| &session.clients).filter(|client| matches!(client, StoredClient::Joined { .. })).count(),
            "client",
            "the end of the grant",
        ),
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
    write!(out, "Read\n  - {}\n{report}\n{end}\n  - {}\n", file.display(), to.display())?;
    Ok(out.flush()?)
}
