//! `conductor-host migrate`: from the Python session manager (the *reference*) to this host, and back.
//!
//! * `from` is the way in: `old` finds the files of the old program, `python` reads its settings without running them, `settings` makes
//!   new settings of them, `sessions` reads the sessions and says what becomes of them.
//! * `to` is the way out: `reference` writes sessions as the old program writes them, to the byte.
//! * `report` is what both print.
//!
//! Three rules: the source is only read; a file that is there is never replaced; and all is understood before anything is written.

mod from;
mod old;
mod python;
mod reference;
mod report;
mod resolve;
mod sessions;
mod settings;
mod to;

pub(crate) use report::{by_type, count, end, shown};
pub(crate) use sessions::inexact_numbers;
pub(crate) use to::write_back;

use std::{
    ffi::OsString,
    io,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    config::Mistakes,
    store::{
        OpenError,
        lock::LockError,
        stock::{Listed, StockError},
    },
};

/// Moves from the Python session manager (iot-session-manager) to this host, or back.
///
/// `--from` reads its sessions, settings and key, and writes a folder for this host: host.toml, state/sessions.json and, where
/// it had one, state/token-key.pem. `--to` writes the sessions of this host as a session_data.json that the old program reads.
/// Both print what was taken, what was changed, and what was left and why. The source is never changed and no file is ever replaced.
/// Stop the old program first: what happens after the copy is not in it.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("direction").required(true).args(["from", "to"])),
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong command line or wrong settings.\n\
                  Step by step: docs/migration.md"
)]
pub struct Arguments {
    /// The old program: its session_data.json, or a folder that has it, such as its working folder or a checkout of its repository.
    /// In a folder settings.py, .env and the private key are looked for as well.
    #[arg(long, value_name = "DIR|FILE", requires = "into")]
    from: Option<PathBuf>,
    /// The folder to write to; made where it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    into: Option<PathBuf>,
    /// The old program's settings.py. It is read, not run.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    settings: Option<PathBuf>,
    /// The old deployment's .env. Without it, what settings.py takes from the environment is unknown.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    env_file: Option<PathBuf>,
    /// The private key (PEM) that signed its tokens.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    key: Option<PathBuf>,
    /// The broker: `embedded`, or the url of an external one. Without it: the one that the old program connects to, as far as its
    /// source is found and says so, else `embedded`.
    #[arg(long, value_name = "embedded|URL", conflicts_with = "to")]
    broker: Option<String>,
    /// The folder of the plugins. Without it: `plugins` beside host.toml.
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    plugins: Option<PathBuf>,
    /// The file to write for the old program; nothing may be there.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// This host's settings file. Without it the defaults apply.
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    config: Option<PathBuf>,
    /// Print the same report and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Does what the command line asks for and prints the report; `now` is in seconds since the Unix epoch.
///
/// # Errors
/// Where it was refused or failed. Nothing was written then, but for [`Failed::Print`].
pub fn run(
    arguments: &Arguments,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    now: u64,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    match (&arguments.from, &arguments.into, &arguments.to) {
        (Some(source), Some(into), _) => from::run(arguments, source, into, now, out),
        (_, _, Some(to)) => to::run(arguments, to, env, now, out),
        // The command line's own rules come before.
        _ => Err(Failed::Usage),
    }
}

/// Why nothing was migrated. No text holds a pin or a key.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum Failed {
    #[error("name --from and --into, or --to")]
    Usage,
    #[error("{} cannot be read: {problem}", file.display())]
    Read { file: PathBuf, problem: String },
    #[error("{0}")]
    Source(String),
    #[error(
        "{} is not taken:\n{}It was left as it is, and nothing was written. Repair it, or a copy of it (`--from COPY`), and run this again",
        file.display(),
        Listed(problems)
    )]
    Refused { file: PathBuf, problems: Vec<String> },
    #[error(
        "the settings made of the old ones would not be accepted; nothing was written (if it is the broker: --broker names another one):\n{0}"
    )]
    NewSettings(Mistakes),
    #[error("{0}")]
    Settings(Mistakes),
    #[error("{} is there already and is not replaced; nothing was written. Choose another place, or move it away", .0.display())]
    Exists(PathBuf),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error("the settings keep sessions in memory (store.url = \"memory:\"): there is nothing to write")]
    Memory,
    #[error("there is no session store {}: no session was ever kept there, or --config names other settings than the host's", .0)]
    NoStore(String),
    #[error("{} cannot be written: {problem}; nothing was migrated", file.display())]
    Write { file: PathBuf, problem: io::Error },
    #[error("all is done, but the report cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl Failed {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage | Self::Settings(_) => crate::cli::WRONG_SETTINGS,
            _ => 1,
        }
    }

    fn read(file: &Path, error: &io::Error) -> Self {
        Self::Read { file: file.to_owned(), problem: error.to_string() }
    }

    fn ambiguous(what: &str, found: &[PathBuf]) -> Self {
        let found: Vec<_> = found.iter().map(|file| file.display().to_string()).collect();
        Self::Source(format!("there is more than one {what}: {}. Name the one that is meant (see --help)", found.join(", ")))
    }

    fn no_sessions(folder: &Path, name: &str, places: &[&str]) -> Self {
        let places: Vec<_> = places.iter().map(|place| if place.is_empty() { "the folder itself" } else { place }).collect();
        Self::Source(format!(
            "there is no {name} in {} (looked in {}). Name the file: --from FILE. In Docker it is inside of the container, and a new container \
             begins without it: `docker cp CONTAINER:/app/{name} .`. Where there are no sessions to keep, write `{{}}` to a file and name that",
            folder.display(),
            places.join(", ")
        ))
    }
}
