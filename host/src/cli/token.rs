//! `conductor-host token`: the tokens that open the admin port, and what brokers that check the tokens of devices need to be told.

use std::{
    ffi::OsString,
    fmt::{Display, Write as _},
    io::Write,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};

use super::{Next, Overrides, print, refuse};
use crate::{
    access::{
        Role,
        tokens::{self, Kept, time},
    },
    config::{Settings, TokenMode},
    tokens::keys::{PublicForm, SigningKey},
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a token that opens the admin port, and prints it. Only its hash is kept: it cannot be shown again.
    ///
    /// A running host takes it at once. From the first token on, everybody needs one there, or another identity.
    Create {
        /// What whoever has the token may do.
        #[arg(long, value_enum)]
        role: Role,
        /// What it is called, in lists and in the log. Without it: the role and a number.
        #[arg(long)]
        name: Option<String>,
        /// How long it is good: up to 3650days.
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = good_for)]
        expires: Duration,
        #[command(flatten)]
        of: Of,
    },
    /// Lists the tokens that open the admin port: names, roles and times, never a token.
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Takes a token back. A running host refuses it at once.
    Revoke {
        /// What it is called.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Prints the public half of the key that signs the tokens of devices. Makes no key: the first start of the host does.
    PublicKey {
        /// How it is written.
        #[arg(long, value_enum, default_value_t = Format::Pem)]
        format: Format,
        #[command(flatten)]
        of: Of,
    },
}

/// Whose tokens.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The settings file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// PEM, `BEGIN PUBLIC KEY`.
    Pem,
    /// Bare bytes, as Mosquitto's JWT plugin wants them: RSA as PKCS#1 in DER, EC as the uncompressed point.
    Raw,
    /// A JSON Web Key Set, with the key's id.
    Jwks,
}

/// Ten years bound it.
fn good_for(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400);
    parsed.filter(|duration| bounds.contains(duration)).ok_or_else(|| "expected a duration from 1s to 3650days, such as 90d".to_owned())
}

pub(super) fn run(
    command: TokenCommand,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    now: u64,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let (TokenCommand::Create { of, .. }
    | TokenCommand::List { of }
    | TokenCommand::Revoke { of, .. }
    | TokenCommand::PublicKey { of, .. }) = &command;
    let settings = match Settings::load(Some(&of.config), env, &of.overrides.flags()) {
        Ok((settings, _)) => settings,
        Err(mistakes) => return refuse(err, &mistakes),
    };
    let file = &settings.admin.tokens;
    match command {
        TokenCommand::Create { role, name, expires, .. } => match tokens::create(file, role, name, expires, now) {
            Ok(made) => {
                // The token alone is on the standard output, for scripts.
                let Kept { name, expires, .. } = &made.kept;
                let told = format!("{name}: role {}, good until {}; it is not shown again\n", role.as_str(), time(*expires));
                let status = super::write(err, told.as_bytes(), 0);
                print(out, format!("{}\n", made.token).as_bytes(), status)
            }
            Err(error) => failed(err, error),
        },
        TokenCommand::List { .. } => match tokens::list(file) {
            Ok(all) => print(out, table(&all, now).as_bytes(), 0),
            Err(error) => failed(err, error),
        },
        TokenCommand::Revoke { name, .. } => match tokens::revoke(file, &name) {
            Ok(0) => {
                let how = "no token is left, so none opens the admin port now; to have it without tokens again, delete the file, and start the host again";
                print(out, format!("{name} is revoked; {how}: {}\n", file.display()).as_bytes(), 0)
            }
            Ok(_) => print(out, format!("{name} is revoked\n").as_bytes(), 0),
            Err(error) => failed(err, error),
        },
        TokenCommand::PublicKey { format, .. } => public_key(&settings, format, out, err),
    }
}

fn table(all: &[Kept], now: u64) -> String {
    let mut table = format!("{:<24} {:<8} {:<20} {}\n", "NAME", "ROLE", "CREATED", "EXPIRES");
    for Kept { name, role, created, expires, .. } in all {
        let over = if *expires <= now { " (expired)" } else { "" };
        // Writing to a text cannot fail.
        let _ = writeln!(table, "{name:<24} {:<8} {} {}{over}", role.as_str(), time(*created), time(*expires));
    }
    table
}

fn public_key(settings: &Settings, format: Format, out: &mut dyn Write, err: &mut dyn Write) -> Next {
    if settings.token.mode == TokenMode::None {
        return failed(err, "token.mode is \"none\": tokens are not signed, and there is no key");
    }
    let form = match format {
        Format::Pem => PublicForm::Pem,
        Format::Raw => PublicForm::Raw,
        Format::Jwks => PublicForm::Jwks,
    };
    let key = match SigningKey::load_or_create(&settings.token.key, false) {
        Ok(key) => key,
        Err(error) => return failed(err, error),
    };
    match key.public_as(form) {
        Ok(bytes) => print(out, &bytes, 0),
        Err(problem) => failed(err, problem),
    }
}

fn failed(err: &mut dyn Write, reason: impl Display) -> Next {
    print(err, format!("{reason}\n").as_bytes(), 1)
}
