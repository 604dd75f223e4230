//! `cargo xtask semver [REVISION]`: what changed in the public API of the SDK and its contract since then, and does the version say so?

use std::process::{Command, ExitCode, Stdio};

use crate::{Outcome, packages, workspace};

/// The folders of the crates that others build against.
const PUBLISHED: &[&str] = &["conductor-sdk/abi", "conductor-sdk"];

/// `since`: a revision of git; without one, the last release's tag.
pub(crate) fn run(since: Option<&str>) -> Outcome {
    let since = match since {
        Some(revision) => revision.to_owned(),
        None => last_release()?,
    };
    if !packages::succeeds(workspace::cargo().args(["semver-checks", "--version"])) {
        return Err("cargo-semver-checks is not installed: `cargo install --locked cargo-semver-checks` (some minutes, once)".into());
    }
    // The tool looks for a crate by its name in all of a tree, where fixtures have the same names; so each is named by its folder.
    let earlier = workspace::target()?.join("semver/earlier");
    git(&["worktree", "prune"])?;
    let folder = earlier.to_str().ok_or("the path of the target folder is not Unicode text")?;
    git(&["worktree", "add", "--force", "--detach", folder, &since])?;
    let mut good = true;
    for package in PUBLISHED {
        let mut command = workspace::cargo();
        command.args(["semver-checks", "check-release", "--baseline-root"]).arg(earlier.join(package));
        command.arg("--manifest-path").arg(workspace::root().join(package).join("Cargo.toml"));
        // A folder of its own: it builds documentation with the same names as the usual one.
        command.env("CARGO_TARGET_DIR", workspace::target()?.join("semver/target"));
        good &= command.stdin(Stdio::null()).status()?.success();
    }
    git(&["worktree", "remove", "--force", folder])?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn git(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let status = Command::new("git").args(arguments).current_dir(workspace::root()).status()?;
    if status.success() { Ok(()) } else { Err(format!("git {} failed: {status}", arguments.join(" ")).into()) }
}

fn last_release() -> Result<String, Box<dyn std::error::Error>> {
    let mut git = Command::new("git");
    let output = git.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]).current_dir(workspace::root()).output()?;
    if !output.status.success() {
        return Err("there is no tag of a release: name a revision, `cargo xtask semver REVISION`".into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
