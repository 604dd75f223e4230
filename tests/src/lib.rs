//! What the black-box tests share: the real host in a folder of its own, raw HTTP, and real MQTT clients.
//!
//! A test starts a [`Host`], which runs the binary that cargo built beside the test; it listens on ports that the system chose
//! and is killed with the value. Nothing here sleeps for a fixed time: each wait is for an event and has a bound ([`PATIENCE`]).
//!
//! The binary and the plugins are built beforehand: [`artefacts::BUILD_COMMAND`].

#![cfg(unix)]

pub mod artefacts;
pub mod browser;
pub mod certs;
pub mod clients;
pub mod curl;
pub mod dev;
pub mod host;
pub mod http;
pub mod jwt_plugin;
pub mod link;
pub mod mosquitto;
pub mod mqtt;
pub mod nginx;
pub mod tls;
pub mod tools;
pub mod versions;

use std::time::{Duration, Instant};

pub use host::{Host, HostOptions, Session};
pub use http::{Response, request};
pub use mqtt::{Credentials, Mqtt, Version, Way};

/// How long a test waits for anything that must happen: far longer than it ever takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Stores that keep sessions over a restart, as `store.url`.
pub const STORES: &[&str] = &["json:state/sessions.json", "sqlite:state/sessions.db"];

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` says what was waited for.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
