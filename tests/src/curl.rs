//! HTTPS by `curl`: a client that others wrote, and that checks certificates.

use std::{path::Path, process::Command};

use crate::{PATIENCE, Response, http};

/// One request by `curl` with these further arguments, the last of them a URL; it trusts the authorities in the PEM file `ca`.
///
/// # Panics
/// When no answer comes; curl says why.
#[must_use]
pub fn curl(ca: &Path, arguments: &[&str]) -> Response {
    try_curl(ca, arguments).unwrap_or_else(|error| panic!("curl {arguments:?}: {error}"))
}

/// As [`curl`].
///
/// # Errors
/// What curl said instead of an answer.
///
/// # Panics
/// When curl is not there, or what came is not HTTP.
pub fn try_curl(ca: &Path, arguments: &[&str]) -> Result<Response, String> {
    let mut command = Command::new("curl");
    // None of the user's own settings, and the answer as it came, chunks included.
    command.args(["-q", "-sS", "-i", "--raw", "--noproxy", "*", "--max-time", &PATIENCE.as_secs().to_string(), "--cacert"]);
    let ended = command.arg(ca).args(arguments).output();
    let ended = ended.unwrap_or_else(|e| panic!("curl: {e}; install it, or run `cargo xtask test`, which does"));
    if ended.status.success() { Ok(http::parse(&ended.stdout)) } else { Err(String::from_utf8_lossy(&ended.stderr).into_owned()) }
}
