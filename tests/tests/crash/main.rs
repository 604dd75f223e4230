//! What was acknowledged is never lost, on every store that keeps: by kill -9 at any moment, by a disk that is full or fails, by a damaged file.
//!
//! [`kill`] runs many more rounds by `cargo xtask crash`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

mod damage;
mod disk;
mod kill;
mod known;
mod order;

use std::path::Path;

use conductor_tests::{Host, HostOptions, Response, Session, until};
use serde_json::{Value, json};

/// A store that survives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Json,
    Sqlite,
}

impl Medium {
    /// Its file, from the host's folder on.
    fn file(self) -> &'static str {
        match self {
            Self::Json => "state/sessions.json",
            Self::Sqlite => "state/sessions.db",
        }
    }

    /// Whether a file in the state folder is what one session has saved, and nothing else.
    fn is_of_one_session(self, name: &Path) -> bool {
        match self {
            Self::Json => name.extension().is_some_and(|end| end == "state"),
            Self::Sqlite => false,
        }
    }

    /// A host on this store, with the conductor that keeps what it is told to.
    fn options(self) -> HostOptions {
        let scheme = match self {
            Self::Json => "json",
            Self::Sqlite => "sqlite",
        };
        // Nothing that a start would spend time on.
        let options = HostOptions::default().without("default").without("active").plugin("echo", "conductor_test_echo");
        // Ids that no later session gets by chance.
        let options = options.set("store.url", json!(format!("{scheme}:{}", self.file()))).set("sessions.id_digits", json!(9));
        options.set("log.level", json!("warn"))
    }
}

/// Whether the host had no thread for it, and has done nothing. On a busy machine the system stops threads for so long that they count as stuck.
fn is_overloaded(answer: &Response) -> bool {
    answer.status == 503 && answer.json()["code"] == "overloaded"
}

/// What the session's conductor answers, or why there is none.
fn kept(host: &Host, session: &Session) -> Response {
    until("a thread for a request", || Some(host.request(session, "kept", Value::Null)).filter(|answer| !is_overloaded(answer)))
}
