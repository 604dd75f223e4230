//! `conductor-host token`: what brokers that check tokens themselves need to be told.

use std::{fmt::Display, io::Write, path::PathBuf};

use clap::{Subcommand, ValueEnum};

use super::{Next, Overrides, print, refuse};
use crate::{
    config::{Settings, TokenMode},
    tokens::keys::{PublicForm, SigningKey},
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Prints the public half of the key that signs tokens. Makes no key: the first start of the host does.
    PublicKey {
        /// The settings file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = Format::Pem)]
        format: Format,
        #[command(flatten)]
        overrides: Overrides,
    },
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

pub(super) fn run(
    command: TokenCommand,
    env: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let TokenCommand::PublicKey { config, format, overrides } = command;
    let settings = match Settings::load(Some(&config), env, &overrides.flags()) {
        Ok((settings, _)) => settings,
        Err(mistakes) => return refuse(err, &mistakes),
    };
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
