//! `cargo xtask semver [REVISION]`: what changed in the public API of the SDK and its contract since then, and does the version say so?

use std::process::{ExitCode, Stdio};

use crate::{Outcome, packages, workspace};

/// The crates that others build against.
const PUBLISHED: &[&str] = &["conductor-host-abi", "conductor-host-sdk"];

/// `since`: a revision of git; without one, the last release's tag.
pub(crate) fn run(since: Option<&str>) -> Outcome {
    let since = match since {
        Some(revision) => revision.to_owned(),
        None => last_release()?,
    };
    let mut command = workspace::cargo();
    command.args(["semver-checks", "check-release", "--baseline-rev", &since]);
    for package in PUBLISHED {
        command.args(["--package", package]);
    }
    // A folder of its own: it builds documentation with the same names as the usual one.
    command.env("CARGO_TARGET_DIR", workspace::target()?.join("semver"));
    if !packages::succeeds(workspace::cargo().args(["semver-checks", "--version"])) {
        return Err("cargo-semver-checks is not installed: `cargo install --locked cargo-semver-checks` (some minutes, once)".into());
    }
    let status = command.stdin(Stdio::null()).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn last_release() -> Result<String, Box<dyn std::error::Error>> {
    let mut git = std::process::Command::new("git");
    let output = git.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]).current_dir(workspace::root()).output()?;
    if !output.status.success() {
        return Err("there is no tag of a release: name a revision, `cargo xtask semver REVISION`".into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
