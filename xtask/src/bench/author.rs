//! `cargo xtask bench author`: what docs/plugins.md tells a new author to do, done in an empty folder, each command with its time.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use super::{Outcome, heading, say, succeed};
use crate::workspace;

/// The commands as the page has them; those behind the first in the folder that this one makes.
const STEPS: [&str; 5] = [
    "conductor-host plugin new my-quiz",
    "cargo test",
    "cargo build --release",
    "conductor-host plugin inspect target/release/my_quiz",
    "conductor-host plugin bench target/release/my_quiz",
];
const CRATE: &str = "my-quiz";

/// A folder that goes with this value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to remove: it lies among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run() -> Outcome<ExitCode> {
    say("building conductor-host (release)…");
    succeed(workspace::cargo().args(["build", "--release", "-p", "conductor-host"]))?;
    let release = workspace::target()?.join("release");
    let folder = Folder(env::temp_dir().join(format!("conductor-host-author-{}", std::process::id())));
    fs::create_dir(&folder.0)?;

    heading("the steps of docs/plugins.md");
    let mut times = Vec::new();
    for step in STEPS {
        say(&format!("\n$ {step}"));
        let mut command = typed(step, &release, &folder.0)?;
        let begun = Instant::now();
        succeed(&mut command)?;
        times.push((step, begun.elapsed()));
    }
    heading("times");
    for (step, time) in &times {
        say(&line(step, *time));
    }
    say(&line("together", times.iter().map(|(_, time)| *time).sum()));
    Ok(ExitCode::SUCCESS)
}

/// The command as an author has it, who installed the host.
fn typed(step: &str, release: &Path, folder: &Path) -> Outcome<Command> {
    let mut words = step.split(' ');
    let mut command = match words.next() {
        Some("cargo") => workspace::cargo(),
        Some(program) => Command::new(release.join(program)),
        None => return Err("an empty step".into()),
    };
    command.args(words).current_dir(if folder.join(CRATE).exists() { folder.join(CRATE) } else { folder.to_owned() });
    if step.starts_with("conductor-host plugin new") {
        // Until the SDK is published, as the page says.
        command.arg("--sdk").arg(workspace::root());
    }
    // An author's own folder, whatever this one builds into.
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    Ok(command)
}

fn line(what: &str, time: Duration) -> String {
    format!("{:>8.1} s  {what}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_those_of_the_page() {
        let page = fs::read_to_string(workspace::root().join("docs/plugins.md")).unwrap();
        let shown = |step: &str| page.lines().any(|line| line == step || line.strip_prefix(step).is_some_and(|rest| rest.starts_with(' ')));
        for step in STEPS {
            assert!(shown(step), "docs/plugins.md has no line {step:?}");
        }
    }
}
