//! The project's own commands: `cargo xtask start`, `cargo xtask test`, `cargo xtask bench`.

mod bench;
mod compilers;
mod crash;
mod deny;
#[cfg(test)]
mod documented;
mod fuzz;
mod keep;
mod packages;
mod semver;
mod start;
mod test;
mod windows;
mod workspace;

use std::{error::Error, io::Write, process::ExitCode};

const HELP: &str = "\
The commands of this repository:

  cargo xtask start [-- ARGS]   builds host and plugins (release) and runs them on host.example.toml,
                                with state in ./state, until SIGTERM or Ctrl-C; prints what to try.
                                ARGS go to the host: --set iot.listen=127.0.0.1:9000, --log-level debug, …
  cargo xtask test              all that must hold: format, lints, tests, documentation. Installs what
                                the tests need (Debian, as root), or says what is missing.
  cargo xtask test --windows    builds host and plugins for Windows and runs them under Wine. Needs packages
                                of Debian on x86-64, which it installs as root.
  cargo xtask bench [NAME …]    measures size, memory, requests, blocking, containment (all, without a name);
                                takes a few minutes, needs Linux and wrk.
  cargo xtask crash [--rounds N] [--store NAME]
                                kills a host in the midst of changes and compares what a restart finds with what was
                                acknowledged: 2000 rounds for each store, about a quarter of an hour each.
  cargo xtask other-compilers   builds a plugin with the oldest compiler that the SDK supports and with a newer one than
                                ours, for the tests; part of `test`.
  cargo xtask fuzz [TARGET] [--seconds N]
                                gives what libFuzzer makes up to all that reads bytes from outside: 60 s each. Needs a C++
                                compiler; builds for some minutes, the first time.
  cargo xtask fuzz TARGET --input FILE
                                one input again.
  cargo xtask deny              licences, sources and double versions of all dependencies, by deny.toml; part of `test`.
                                Builds cargo-deny where it is missing.
  cargo xtask advisories        what became known of the dependencies since: fetches the database of RustSec.
  cargo xtask semver [REV]      compares the public API of the SDK and its contract with that of a revision (of the last
                                release, without one). Needs cargo-semver-checks.
  cargo xtask keep-plugins LABEL
                                builds plugins for tests/abi, where every later host must load them.
  cargo xtask bench abi         measures what the binary contract costs: nanoseconds for a request and a call of the
                                host, milliseconds to load a plugin, its size and its lines.
  cargo xtask bench flood       measures how long others wait while the IoT port is flooded, beside how long in peace.
  cargo xtask bench tables [COUNT]
                                brings COUNT different ids and sources (10,000,000) to all that remembers such: its size
                                stays, and so does the memory of the process.
  cargo xtask bench timing [SAMPLES]
                                measures whether the time of an answer tells an unknown id from a wrong pin.
  cargo xtask bench restart [COUNT]
                                measures how long a host takes to come back with COUNT sessions (100,000), on each
                                store that lasts, and what memory it takes.
  cargo xtask bench store [--quick] [FOLDER]
                                creates per second by store, callers at once and sessions there, beside what the disk
                                of FOLDER (the target folder's, without it) can sync; takes some minutes.
  cargo xtask bench author      runs the steps of docs/plugins.md in an empty folder, each with its time.
";

/// What a command ends with: the status of the process, or why it could not do its work.
type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let arguments: Vec<String> = arguments.collect();
    let outcome = match (command.as_deref(), arguments.as_slice()) {
        (None | Some("help" | "--help" | "-h"), _) => {
            say(HELP);
            Ok(ExitCode::SUCCESS)
        }
        (Some("start"), arguments) => start::run(arguments),
        (Some("test"), []) => test::run(),
        (Some("test"), [option]) if option == "--windows" => windows::test(),
        (Some("bench"), names) => bench::run(names),
        (Some("crash"), arguments) => crash::run(arguments),
        (Some("other-compilers"), []) => compilers::run(),
        (Some("fuzz"), arguments) => fuzz::run(arguments),
        (Some("deny"), []) => deny::check(),
        (Some("advisories"), []) => deny::advisories(),
        (Some("semver"), []) => semver::run(None),
        (Some("semver"), [revision]) => semver::run(Some(revision)),
        (Some("keep-plugins"), [label]) => keep::run(label),
        (Some(command), _) => {
            eprint!("there is no command {command:?} with these arguments\n\n{HELP}");
            Ok(ExitCode::from(2))
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Prints to standard output. Whoever reads it may have gone; that ends no host and no test.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
