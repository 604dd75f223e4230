//! The program: reads the command line and the settings, starts the log, and runs the host.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use conductor_host::{
    app,
    cli::{self, Next, Serve},
    logging,
};

/// The version of the product, and of the contract with plugins.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (plugin ABI 1.0)");

fn main() -> ExitCode {
    let next = cli::start(std::env::args_os(), std::env::vars_os(), VERSION, &mut io::stdout(), &mut io::stderr());
    let Serve { settings, source, warnings, ready_file, dev } = match next {
        Next::Serve(serve) => *serve,
        Next::Exit(status) => return status.into(),
    };
    logging::start(&settings.log, io::stderr().is_terminal());
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    app::run(&settings, source, ready_file.as_deref(), dev.is_some()).into()
}
