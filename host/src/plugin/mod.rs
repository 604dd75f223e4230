//! `conductor-host plugin …`: what an author needs beside the SDK. Each command says all that it has to say at its end.

mod bench;
mod inspect;
mod name;
mod new;
pub(crate) mod schema;
mod sdk;

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Writes the crate of a new plugin: it builds, passes its tests and loads as it is.
    ///
    /// The crate offers one conductor, called NAME, that needs no config. Nothing that is there is changed.
    New {
        /// The crate's and the conductor's name: lower-case letters, digits and single dashes or underscores.
        #[arg(value_parser = name::parse)]
        name: String,
        /// The SDK: a folder (of the SDK or of a checkout), or a released version as in `1.0`. Without it: that of the checkout
        /// of conductor-host around the new crate or around the working directory, else the released version.
        #[arg(long, value_name = "PATH|VERSION")]
        sdk: Option<String>,
        /// The folder of the new crate, which must not be there yet. [default: ./NAME]
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
    },
    /// Shows what a plugin file offers, or says why the host would refuse it (status 1).
    ///
    /// The file is taken the way that `serve` takes it: copied to a private temporary folder, looked into, opened, its contract
    /// checked. What fails one step does not come to the next. A file that passes is opened, and THEN ITS CODE RUNS: its constructors,
    /// its manifest, its `init`, with all your rights. Do not inspect what you would not run.
    Inspect {
        /// The file, relative to the working directory: a full name, or as in settings without prefix and ending, as in
        /// `target/release/my_plugin`.
        file: PathBuf,
        /// Print one JSON object; its keys are described in docs/plugins.md. Parameters, results and config come as JSON Schema.
        #[arg(long)]
        json: bool,
    },
    /// Measures a plugin: makes sessions, lets clients join, asks and sends messages, closes; in this process, without a network.
    ///
    /// It runs in the host's own threads, mailboxes and deadlines (5 s), with a store in memory and a broker to which nobody is connected.
    /// Requests and messages are sent in turn to one session after the other, 64 under way at a time. Standard error shows how far it
    /// is, where that is a terminal. Ctrl-C ends it early, and what was measured is shown. Measure a release build.
    Bench(bench::Arguments),
}

/// What a command says, and how it ends.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: u8,
}

impl Said {
    fn done(out: String) -> Self {
        Self { out, err: String::new(), status: 0 }
    }

    /// `err` is whole lines.
    fn failed(err: String) -> Self {
        Self { out: String::new(), err, status: 1 }
    }
}

pub(crate) fn run(command: PluginCommand) -> Said {
    match command {
        PluginCommand::New { name, sdk, path } => new::run(&name, sdk.as_deref(), path),
        PluginCommand::Inspect { file, json } => inspect::run(&file, json),
        PluginCommand::Bench(arguments) => bench::run(&arguments),
    }
}
