//! `cargo xtask deny` and `cargo xtask advisories`: what the dependencies must keep to (`deny.toml`), by cargo-deny.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use crate::{Outcome, packages, say, workspace};

/// The version that is used: another one may find something else.
const VERSION: &str = "0.20.2";

/// Licences, sources, versions that are there twice: what the repository alone decides. A warning is an error, so that no exception outlives its reason.
pub(crate) fn check() -> Outcome {
    run(&["check", "-D", "warnings", "bans", "licenses", "sources"])
}

/// What became known of the dependencies since; fetches the database of RustSec.
pub(crate) fn advisories() -> Outcome {
    run(&["check", "advisories"])
}

fn run(arguments: &[&str]) -> Outcome {
    let mut deny = Command::new(program()?);
    deny.args(arguments).current_dir(workspace::root()).stdin(Stdio::null());
    workspace::forget_package(&mut deny);
    Ok(if deny.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The installed one where it has the right version, else one of our own in the target folder, which is built where it is missing.
fn program() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let tools = workspace::target()?.join("tools");
    let own = tools.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    if let Some(found) = [PathBuf::from("cargo-deny"), own.clone()].into_iter().find(is_right) {
        return Ok(found);
    }
    say(&format!("building cargo-deny {VERSION} into {}, once…\n", tools.display()));
    let mut install = workspace::cargo();
    // A debug build takes a third of the time, and is quick enough.
    install.args(["install", "cargo-deny", "--locked", "--debug", "--version", VERSION, "--root"]).arg(&tools);
    packages::run(&mut install)?;
    Ok(own)
}

fn is_right(program: &PathBuf) -> bool {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| is_version(&output.stdout))
}

/// Whether this is what the right version says of itself.
fn is_version(said: &[u8]) -> bool {
    String::from_utf8_lossy(said).split_whitespace().eq(["cargo-deny", VERSION])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_taken() {
        assert!(is_version(format!("cargo-deny {VERSION}\n").as_bytes()));
        for other in ["", "cargo-deny", "cargo-deny 0.1.0\n", "cargo-denied 0.20.2\n"] {
            assert!(!is_version(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn the_workflow_runs_the_command_that_is_documented() {
        let workflow = std::fs::read_to_string(workspace::root().join(".github/workflows/advisories.yml")).unwrap();
        assert!(workflow.contains("run: cargo xtask advisories") && workflow.contains("cron:"), "{workflow}");
    }
}
