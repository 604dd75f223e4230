//! Runs of the program that are not meant to last.

use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
};

use super::{HostOptions, command};
use crate::until;

/// How a run ended that was not meant to last.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; nothing where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

/// Runs the binary with these arguments in this folder to its end.
///
/// # Panics
/// When it does not end.
#[must_use]
pub fn run(folder: &Path, arguments: &[&str]) -> Ended {
    let (out, err) = (folder.join("run.out"), folder.join("run.err"));
    let open = |path: &Path| File::create(path).expect("an output file");
    let mut command = command(&[]);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
    let mut child = command.spawn().expect("the host can be started");
    let status = until("the end of a run that was to be refused", || child.try_wait().expect("a child can be waited for"));
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("its output")).into_owned();
    Ended { code: status.code(), stdout: read(&out), stderr: read(&err) }
}

/// Starts a host that must refuse to start: settings are written to the folder, and its end is awaited.
///
/// # Panics
/// When it does not end.
#[must_use]
pub fn run_refused(folder: &Path, options: &HostOptions) -> Ended {
    fs::write(folder.join("refused.toml"), options.text()).expect("the settings can be written");
    run(folder, &["serve", "--config", "refused.toml", "--ready-file", "refused-ready.json"])
}
