//! What was acknowledged is never lost, on every store that keeps: by kill -9 at any moment, by a disk that is full or fails, by a damaged file.
//!
//! [`kill`] runs many more rounds by `cargo xtask crash`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

mod kill;
mod known;

use std::path::PathBuf;

use conductor_tests::{Host, HostOptions};
use serde_json::json;

/// A store that survives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Json,
}

impl Medium {
    /// Its file, from the host's folder on.
    fn file(self) -> &'static str {
        match self {
            Self::Json => "state/sessions.json",
        }
    }

    fn path(self, host: &Host) -> PathBuf {
        host.folder().join(self.file())
    }

    /// A host on this store, with the conductor that keeps what it is told to.
    fn options(self) -> HostOptions {
        let scheme = match self {
            Self::Json => "json",
        };
        let options = HostOptions::default().plugin("echo", "conductor_test_echo");
        // Ids that no later session gets by chance.
        let options = options.set("store.url", json!(format!("{scheme}:{}", self.file()))).set("sessions.id_digits", json!(9));
        options.set("log.level", json!("warn"))
    }
}
