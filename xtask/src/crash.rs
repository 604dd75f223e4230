//! `cargo xtask crash`: many rounds of changes, kill -9, restart and comparison, by the test that the tests run fewer rounds of (`tests/tests/crash/kill.rs`).

use std::process::{Command, ExitCode, Stdio};

use crate::{
    Outcome, say,
    workspace::{self, Built, find},
};

/// The stores that keep, by the names of their tests.
const STORES: &[&str] = &["json", "sqlite"];

const ROUNDS: usize = 2000;

/// The host and the plugins that it is started with.
const PACKAGES: &[&str] = &["conductor-host", "conductor-default", "conductor-active", "conductor-test-echo"];

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Options {
    rounds: usize,
    stores: Vec<&'static str>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { rounds: ROUNDS, stores: STORES.to_vec() };
        for pair in arguments.chunks(2) {
            match pair {
                [name, value] if name == "--rounds" => {
                    options.rounds =
                        value.parse().ok().filter(|rounds| *rounds > 0).ok_or_else(|| format!("{value:?} is no number of rounds"))?;
                }
                [name, value] if name == "--store" => {
                    options.stores.retain(|store| store == value);
                    if options.stores.is_empty() {
                        return Err(format!("there is no store {value:?} that keeps; there are: {}", STORES.join(", ")));
                    }
                }
                _ => return Err("the options are `--rounds N` and `--store NAME`".into()),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    say("building…\n");
    let mut build = workspace::cargo();
    build.arg("build").args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    crate::packages::run(&mut build)?;
    let mut test = workspace::cargo();
    test.args(["test", "--no-run", "--package", "conductor-tests", "--test", "crash", "--message-format=json-render-diagnostics"]);
    let output = test.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the test cannot be built ({})", output.status).into());
    }
    let built = Built::from_messages(&String::from_utf8_lossy(&output.stdout));
    let test = find(&built.programs, "crash")?;
    let mut failed = false;
    for store in options.stores {
        say(&format!("{} rounds on the store {store}\n", options.rounds));
        let mut rounds = Command::new(test);
        rounds.args(["--exact", &format!("kill::{store}"), "--nocapture"]).env("CONDUCTOR_TESTS_CRASH_ROUNDS", options.rounds.to_string());
        // Progress, the summary and what went wrong are on standard error; the rest is what every test says.
        failed |= !rounds.current_dir(workspace::root().join("tests")).stdin(Stdio::null()).stdout(Stdio::null()).status()?.success();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn all_stores_have_their_rounds_where_nothing_is_said() {
        assert_eq!(parse(&[]), Ok(Options { rounds: 2000, stores: STORES.to_vec() }));
        assert_eq!(parse(&["--store", "json", "--rounds", "7"]), Ok(Options { rounds: 7, stores: vec!["json"] }));
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--rounds", "x"], &["--store", "memory"], &["--stores", "json"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_store_has_its_test() {
        let source = std::fs::read_to_string(workspace::root().join("tests/tests/crash/kill.rs")).unwrap();
        for store in STORES {
            assert!(source.contains(&format!("#[test]\nfn {store}() {{")), "{store}");
        }
    }
}
