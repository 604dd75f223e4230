//! The project's own commands: `cargo xtask start`, `cargo xtask test`, `cargo xtask bench`.

mod bench;
mod packages;
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
  cargo xtask bench [NAME …]    measures size, memory, requests, blocking (all, without a name); takes a few
                                minutes, needs Linux and wrk.
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
