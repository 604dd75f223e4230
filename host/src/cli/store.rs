//! `conductor-host store`: sessions out of one store and into another, copies, and whether a store is good.

mod look;
mod moves;
mod what;

use std::{
    ffi::OsString,
    fmt, io,
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{Next, Overrides, WRONG_SETTINGS, print, progress::Progress};
use crate::{
    config::{Mistakes, Settings},
    migrate,
    store::{
        OpenError,
        stock::{Counts, Place, StockError},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Puts all sessions of another store, or of the Python session manager's file, into the store of the settings.
    ///
    /// With them goes what conductors have saved, timers, and the ids that rest. The store may be new or without sessions; a host must not use it. All is
    /// taken or nothing; the source is only read.
    Import {
        /// `json:FILE`, `sqlite:FILE`, or a file alone: then it is found out what it is (session_data.json of the Python session manager as well).
        #[arg(long, value_name = "WHAT")]
        from: String,
        /// Print the same report and write nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Writes all sessions of the store of the settings into a new store, or as a file for the Python session manager. No host may use the store.
    ///
    /// Nothing that is there is replaced. The Python session manager's file cannot hold all of it: what is left is told.
    Export {
        /// `json:FILE`, `sqlite:FILE`, or a file alone, which is then written as the Python session manager's session_data.json.
        #[arg(long, value_name = "WHAT")]
        to: String,
        /// Print the same report and write nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Copies the store of the settings as it is at one moment, also while a host works with it.
    ///
    /// The copy is a store of the same kind: `sqlite:FILE` or `json:FILE` (then with the folder FILE.state beside it, where conductors have saved something). It is
    /// as private as the store: it holds pins. Nothing that is there is replaced.
    Backup {
        /// Where the copy is written.
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Reads all of the store of the settings, and says what is in it, or all that is wrong (status 1). Changes nothing; a host may run.
    Check {
        #[command(flatten)]
        of: Of,
    },
}

impl StoreCommand {
    fn of(&self) -> &Of {
        match self {
            Self::Import { of, .. } | Self::Export { of, .. } | Self::Backup { of, .. } | Self::Check { of } => of,
        }
    }
}

/// Whose store.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The settings file (TOML). Without it the defaults apply.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

impl Of {
    /// The settings, and the store that they name: where a host has not taken over yet what it takes over at its first start, that.
    pub(super) fn store(&self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(Settings, Place), Failed> {
        let (settings, _) = Settings::load(self.config.as_deref(), env, &self.overrides.flags()).map_err(Failed::Settings)?;
        let place = Place::in_use(&settings.store.url.to_string(), &settings.base_dir, settings.store_before())?;
        Ok((settings, place.ok_or(Failed::Memory)?))
    }
}

/// `now` is in seconds since the Unix epoch.
pub(super) fn run(
    command: StoreCommand,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    now: u64,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let mut progress = Progress::new(err);
    let done = command.of().store(env).and_then(|(settings, place)| match &command {
        StoreCommand::Import { from, dry_run, .. } => moves::import(from, *dry_run, &settings, &place, now, out, &mut progress),
        StoreCommand::Export { to, dry_run, .. } => moves::export(to, *dry_run, &settings, &place, now, out, &mut progress),
        StoreCommand::Backup { file, .. } => look::backup(file, &place, out, &mut progress),
        StoreCommand::Check { .. } => look::check(&place, out, &mut progress),
    });
    progress.end();
    match done {
        Ok(()) => Next::Exit(0),
        Err(failed) => print(err, format!("{failed}\n").as_bytes(), failed.status()),
    }
}

/// Why it was not done, or not well. No text holds a pin.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0}")]
    Settings(Mistakes),
    #[error("the settings keep sessions in memory (store.url = \"memory:\"): they are in the host's own process alone, and gone with it")]
    Memory,
    #[error("{0} {1}: {2}")]
    What(&'static str, String, &'static str),
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error(transparent)]
    Migrate(#[from] migrate::Failed),
    #[error("{} cannot be read: {problem}", file.display())]
    Read { file: PathBuf, problem: io::Error },
    #[error("{0}")]
    Found(String),
    #[error("what was written is not what was read: read {read:?}, written {written:?}. Do not use it, and keep the source")]
    Differs { read: Counts, written: Counts },
    #[error("all is done, but the report cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        Self::Stock(error.into())
    }
}

impl Failed {
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::What(..) => WRONG_SETTINGS,
            _ => 1,
        }
    }
}

/// How much there is, in columns.
struct Table<'a>(&'a [(&'static str, Counts)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:14}", "")?;
        for (name, _) in self.0 {
            write!(f, "{name:>10}")?;
        }
        writeln!(f)?;
        let numbers = |counts: &Counts| [counts.sessions, counts.clients, counts.saved, counts.timers, counts.resting];
        for (line, name) in ["sessions", "clients", "saved states", "timers", "resting ids"].into_iter().enumerate() {
            write!(f, "{name:14}")?;
            for (_, counts) in self.0 {
                write!(f, "{:>10}", numbers(counts)[line])?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Relative to the working directory, as it was typed.
fn typed(file: &Path) -> Result<PathBuf, Failed> {
    std::path::absolute(file).map_err(|problem| Failed::Read { file: file.to_owned(), problem })
}
