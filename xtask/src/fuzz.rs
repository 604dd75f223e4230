//! `cargo xtask fuzz`: libFuzzer on what the host reads from outside. It sees which way through the code an input takes, and goes on from those that
//! find a new one. A stable compiler can do it: what cargo-fuzz would switch on besides (an address sanitizer) is for code that is not safe.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{
    Outcome, say,
    workspace::{self, Built, find},
};

/// All targets, as `host/src/fuzz/mod.rs` has them.
const TARGETS: &[&str] = &[
    "join",
    "query",
    "settings",
    "grants",
    "token",
    "networks",
    "forwarded",
    "manifest",
    "inspect",
    "connect",
    "store",
    "bearer",
    "budgets",
];

const SECONDS: u32 = 60;

/// The compiler notes each branch and each comparison for libFuzzer; arithmetic that turns over is a panic, as in tests.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// An input that takes longer is reported as a hang, in seconds; a process that takes more is reported, in MiB.
const LIMITS: &[&str] = &["-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=512"];

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Options {
    targets: Vec<&'static str>,
    seconds: u32,
    /// One input alone, to see again what happened.
    input: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { targets: TARGETS.to_vec(), seconds: SECONDS, input: None };
        let mut rest = arguments;
        if let [name, more @ ..] = rest
            && !name.starts_with('-')
        {
            options.targets.retain(|target| target == name);
            if options.targets.is_empty() {
                return Err(format!("there is no target {name:?}; there are: {}", TARGETS.join(", ")));
            }
            rest = more;
        }
        for pair in rest.chunks(2) {
            match pair {
                [name, value] if name == "--seconds" => {
                    options.seconds =
                        value.parse().ok().filter(|seconds| *seconds > 0).ok_or_else(|| format!("{value:?} is no number of seconds"))?;
                }
                [name, value] if name == "--input" && options.targets.len() == 1 => options.input = Some(value.into()),
                _ => return Err("usage: `cargo xtask fuzz [TARGET] [--seconds N]`, or `cargo xtask fuzz TARGET --input FILE`".into()),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let folder = workspace::target()?.join("fuzz");
    let program = build(&folder)?;
    let inputs = workspace::root().join("host/fuzz");
    let (mut summary, mut failed) = (String::from("\n"), false);
    for target in options.targets {
        let mut fuzz = Command::new(&program);
        fuzz.env("CONDUCTOR_FUZZ_TARGET", target).args(LIMITS).stdin(Stdio::null());
        if let Some(file) = &options.input {
            fuzz.arg(file);
        } else {
            // New inputs are kept in the first folder; they are worth something until the code changes.
            let (found, crashes) = (folder.join("corpus").join(target), folder.join("crashes").join(target));
            fs::create_dir_all(&found)?;
            fs::create_dir_all(&crashes)?;
            say(&format!("\n== {target}: {} s, found inputs in {}\n", options.seconds, found.display()));
            fuzz.arg(format!("-max_total_time={}", options.seconds)).arg("-print_final_stats=1");
            fuzz.arg(format!("-dict={}", inputs.join("words").join(target).with_extension("dict").display()));
            fuzz.arg(format!("-artifact_prefix={}{}", crashes.display(), std::path::MAIN_SEPARATOR));
            fuzz.arg(&found).arg(inputs.join("corpus").join(target));
        }
        let passed = fuzz.status()?.success();
        failed |= !passed;
        summary += &format!("{:>6}  {target}\n", if passed { "ok" } else { "FAILED" });
        if !passed && options.input.is_none() {
            summary += &told(target, &folder.join("crashes").join(target))?;
        }
    }
    say(&summary);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How to see again what happened: the newest file of the folder.
fn told(target: &str, crashes: &Path) -> Result<String, std::io::Error> {
    let files = fs::read_dir(crashes)?.collect::<Result<Vec<_>, _>>()?;
    let newest = files.iter().map(fs::DirEntry::path).max_by_key(|file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok());
    let Some(newest) = newest else { return Ok("        it kept no input; what it said is above\n".to_owned()) };
    Ok(format!("        see it again: cargo xtask fuzz {target} --input {}\n", newest.display()))
}

/// The program, in a target folder of its own: no other build has its flags.
fn build(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    say("building (some minutes, the first time)…\n");
    let compiler = Command::new("rustc").arg("-vV").stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&compiler.stdout);
    // With the target named, the flags are not for build scripts and macros.
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("`rustc -vV` names no host")?;
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", "conductor-fuzz", "--message-format=json-render-diagnostics", "--target", host]);
    build.env("CARGO_TARGET_DIR", folder.join("build")).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    let output = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} failed", crate::test::shown(&build)).into());
    }
    let built = Built::from_messages(&String::from_utf8_lossy(&output.stdout));
    Ok(find(&built.programs, "conductor-fuzz")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn all_targets_have_a_minute_where_nothing_is_said() {
        assert_eq!(parse(&[]), Ok(Options { targets: TARGETS.to_vec(), seconds: 60, input: None }));
        assert_eq!(parse(&["join", "--seconds", "7"]), Ok(Options { targets: vec!["join"], seconds: 7, input: None }));
        assert_eq!(parse(&["join", "--input", "f"]), Ok(Options { targets: vec!["join"], seconds: 60, input: Some("f".into()) }));
        for wrong in [&["--input", "f"][..], &["joins"], &["--seconds", "0"], &["--seconds"], &["join", "store"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_targets_are_those_of_the_host() {
        let source = fs::read_to_string(workspace::root().join("host/src/fuzz/mod.rs")).unwrap();
        let names: Vec<_> = source.lines().filter_map(|line| line.trim().strip_prefix("Target { name: \"")?.split('"').next()).collect();
        assert_eq!(names, TARGETS);
    }
}
