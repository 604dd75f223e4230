//! `cargo xtask test --windows`: host and plugins built for Windows by Debian's second Rust toolchain, and run under Wine.
//!
//! That toolchain brings the standard library's sources, so it builds for a target that it has no library of. It is a compiler of
//! another version, too, and needs neither rustup nor a download from there.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use crate::{Outcome, packages, say, test::shown, workspace};

const TARGET: &str = "x86_64-pc-windows-gnu";
const COMPILER: &str = "x86_64-w64-mingw32-gcc";
const WINE: &str = "/usr/lib/wine/wine64";
const WINE_SERVER: &str = "/usr/lib/wine/wineserver64";
/// The program, and the plugins that the tests load.
const PACKAGES: [&str; 10] = [
    "conductor-host",
    "conductor-default",
    "conductor-active",
    "conductor-quiz",
    "conductor-remote",
    "conductor-heartbeat",
    "conductor-test-echo",
    "conductor-test-faulty",
    "conductor-test-range",
    "conductor-test-versions",
];
/// The test for this alone, and those for every system that need nothing of Unix on the host's side.
const TESTS: [&str; 3] = ["windows", "flow", "v1"];

/// Builds, then tests; says how long each took.
pub(crate) fn test() -> Outcome {
    packages::ensure_for_windows()?;
    let folder = workspace::target()?.join("windows");
    let built = folder.join(TARGET).join("debug");
    let mut summary = String::from("\n");
    let mut timed = |what: &str, run: &mut dyn FnMut() -> Result<(), Box<dyn Error>>| {
        let begun = Instant::now();
        run()?;
        summary += &format!("    ok  {:>4} s  {what}\n", begun.elapsed().as_secs());
        Ok::<_, Box<dyn Error>>(())
    };
    timed("build for Windows", &mut || build(&folder, &built))?;
    let mut prefix = Prefix { folder: folder.join("wine"), keeper: None };
    timed("a Windows of Wine's", &mut || prefix.make())?;
    launcher(&built.join("wine"), &prefix.folder, "\"$@\"")?;
    launcher(&built.join("conductor-host"), &prefix.folder, &format!("{} \"$@\"", quoted(&built.join("conductor-host.exe"))))?;
    timed("tests under Wine", &mut || {
        // Of the whole workspace, so that nothing is built that `cargo xtask test` has not built with the same features.
        let arguments = ["test", "--workspace", "--no-fail-fast", "--features", "conductor-tests/windows"];
        let tests = TESTS.iter().flat_map(|test| ["--test", test]);
        run(workspace::cargo().args(arguments).args(tests).env("CONDUCTOR_TESTS_WINDOWS_BUILD", &built))
    })?;
    for file in ["conductor-host.exe", "conductor_default.dll"] {
        summary += &format!("{:>8} KiB  {file}\n", fs::metadata(built.join(file))?.len() / 1024);
    }
    say(&summary);
    Ok(ExitCode::SUCCESS)
}

fn build(folder: &Path, built: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.current_dir(workspace::root());
    // What the other toolchain's cargo has set for this program is not for this one.
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_toolchain(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC", "/usr/bin/rustc").env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", COMPILER);
    // Without it, only a nightly builds its own standard library.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.args(["build", "--locked", "-Zbuild-std=std,panic_unwind", "--target", TARGET, "--target-dir"]).arg(folder);
    run(cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package])))?;
    let source = workspace::root().join("tests/windows/bcryptprimitives.c");
    let mut compiler = Command::new(COMPILER);
    compiler.args(["-shared", "-O2", "-s", "-Wall", "-Werror", "-o"]).arg(built.join("bcryptprimitives.dll"));
    run(compiler.arg(source).arg("-ladvapi32"))
}

/// Whether cargo or rustup sets a variable for what they run.
fn is_of_a_toolchain(name: &str) -> bool {
    let set = ["CARGO", "CARGO_TARGET_DIR", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT", "LD_LIBRARY_PATH"];
    set.contains(&name) || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// A program for this system that runs Wine with these words.
fn launcher(file: &Path, prefix: &Path, words: &str) -> Result<(), Box<dyn Error>> {
    let text = format!("#!/bin/sh\nWINEDEBUG=-all WINEPREFIX={} exec {WINE} {words}\n", quoted(prefix));
    fs::write(file, text)?;
    #[cfg(unix)]
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A Windows of Wine's own, made anew for each run and gone after it.
struct Prefix {
    folder: PathBuf,
    /// A program that waits for its input. While one runs, Wine's own services do not end and begin again between two tests.
    keeper: Option<Child>,
}

impl Prefix {
    fn make(&mut self) -> Result<(), Box<dyn Error>> {
        self.remove()?;
        // The server that it starts would tell at its end, in the same place, what programs that were killed left behind.
        run(self.command(WINE).args(["wineboot", "--init"]).stderr(Stdio::null()))?;
        // Older ones are not what Rust's standard library is made for.
        run(self.command(WINE).args(["reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f"]))?;
        let mut keeper = self.command(WINE);
        self.keeper = Some(keeper.arg("cmd").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Without a display: nobody has to look at windows.
        command.env("WINEPREFIX", &self.folder).env("WINEDEBUG", "-all").env_remove("DISPLAY").env_remove("LD_LIBRARY_PATH");
        command
    }

    fn remove(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some(mut keeper) = self.keeper.take() {
            // The end of its input is its end.
            drop(keeper.stdin.take());
            keeper.wait()?;
        }
        if self.folder.exists() {
            // Of a run that was ended from outside, too. Where none runs, it fails, and that is as well.
            let _ = self.command(WINE_SERVER).args(["--kill", "--wait"]).stderr(Stdio::null()).status()?;
            fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("what Wine made stays in {}: {error}", self.folder.display());
        }
    }
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    eprintln!("\n== {}", shown(command));
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("`{}`: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", shown(command)).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_toolchain_that_runs_this_reaches_the_other() {
        for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
            assert!(is_of_a_toolchain(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_BUILD_JOBS", "CARGO_NET_OFFLINE", "PATH", "RUSTUP_HOME"] {
            assert!(!is_of_a_toolchain(name), "{name}");
        }
    }

    #[test]
    fn a_path_is_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
