//! The way in: a folder for this host, made of the reference's files.

use std::{fs, io, io::Write, path::Path};

use super::{
    Arguments, Failed,
    old::{Named, Old},
    report::{Report, end},
    sessions, settings,
};
use crate::{
    config::Settings,
    store::{lock::StateLock, transfer},
};

/// The names of what is written, below the folder.
const SETTINGS: &str = "host.toml";
const STATE: &str = "state";
const SESSIONS: &str = "state/sessions.json";
const KEY: &str = "state/token-key.pem";

/// A file, and what writes it.
type NewFile<'a> = (&'a Path, &'a dyn Fn(&Path) -> io::Result<()>);

pub(super) fn run(arguments: &Arguments, source: &Path, into: &Path, now: u64, out: &mut dyn Write) -> Result<(), Failed> {
    let named = Named {
        from: source,
        settings: arguments.settings.as_deref(),
        environment: arguments.env_file.as_deref(),
        key: arguments.key.as_deref(),
    };
    let old = Old::find(&named)?;
    let mut report = Report::default();
    let options = settings::Options { broker: arguments.broker.as_deref(), plugins: arguments.plugins.as_deref() };
    let plan = settings::plan(&old, &options, &mut report)?;
    let base = std::path::absolute(into).map_err(|problem| Failed::Write { file: into.to_owned(), problem })?;
    let [settings_file, state, sessions_file, key_file] = [SETTINGS, STATE, SESSIONS, KEY].map(|name| base.join(name));
    let (checked, warnings) = Settings::parse(Some((&settings_file, &plan.toml)), &base, [], &[]).map_err(Failed::NewSettings)?;
    report.to_do.extend(warnings.iter().map(|warning| format!("consider {}: {}", warning.key, warning.text)));
    let sessions = sessions::take(&old.sessions, now.saturating_add(checked.token.ttl.as_secs()), &plan.expected, &mut report)?;

    let mut files: Vec<NewFile<'_>> = Vec::new();
    let write_key = plan.key.as_ref().map(|key| move |file: &Path| transfer::write_new(file, key));
    if let Some(write) = &write_key {
        files.push((&key_file, write));
    }
    let write_sessions = |file: &Path| transfer::create(file, &sessions);
    let write_settings = |file: &Path| transfer::write_new(file, plan.toml.as_bytes());
    files.push((&sessions_file, &write_sessions));
    // Last: a folder without settings is one that is not finished.
    files.push((&settings_file, &write_settings));

    // Also what a link that leads nowhere would become.
    if base.symlink_metadata().is_ok() && !base.is_dir() {
        return Err(Failed::Exists(base));
    }
    // A host that runs there is a better reason than its files.
    drop(StateLock::if_used(&state)?);
    if let Some((there, _)) = files.iter().find(|(file, _)| file.symlink_metadata().is_ok()) {
        return Err(Failed::Exists(there.to_path_buf()));
    }
    if !arguments.dry_run {
        let _lock = StateLock::acquire(&state)?;
        write(&files)?;
    }
    let files: Vec<_> = files.iter().map(|(file, _)| *file).collect();
    print(&old, &report, &files, arguments.dry_run, out)
}

/// All files, or none of them.
fn write(files: &[NewFile<'_>]) -> Result<(), Failed> {
    for (index, (file, write)) in files.iter().enumerate() {
        if let Err(problem) = write(file) {
            for (written, _) in &files[..index] {
                // As far as possible; what stays is named by the next try.
                let _ = fs::remove_file(written);
            }
            return Err(match problem.kind() {
                io::ErrorKind::AlreadyExists => Failed::Exists(file.to_path_buf()),
                _ => Failed::Write { file: file.to_path_buf(), problem },
            });
        }
    }
    Ok(())
}

fn print(old: &Old, report: &Report, written: &[&Path], dry_run: bool, out: &mut dyn Write) -> Result<(), Failed> {
    writeln!(out, "Read")?;
    let further = [
        old.settings.as_ref().map(|(file, _)| file),
        old.environment.as_ref().map(|(file, _)| file),
        old.link.as_ref().map(|link| &link.file),
    ];
    for file in [Some(&old.sessions)].into_iter().chain(further).flatten() {
        writeln!(out, "  - {}", file.display())?;
    }
    write!(out, "{report}")?;
    writeln!(out, "\n{}", end(dry_run))?;
    for file in written {
        writeln!(out, "  - {}", file.display())?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_file_fails_those_before_it_are_taken_away_again() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, third] = ["first", "second", "third"].map(|name| folder.path().join(name));
        let good = |file: &Path| transfer::write_new(file, b"x");
        for (kind, there) in [(io::ErrorKind::StorageFull, false), (io::ErrorKind::AlreadyExists, true)] {
            let failing = |_: &Path| Err(kind.into());
            let failed = write(&[(&first, &good), (&second, &failing), (&third, &good)]).unwrap_err();
            assert_eq!(matches!(failed, Failed::Exists(_)), there);
            assert!(failed.to_string().contains("second"), "{failed}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        write(&[(&first, &good), (&second, &good)]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
