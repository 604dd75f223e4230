//! The running host: placeholder of the composition root.

use std::path::Path;

use crate::config::Settings;

/// Runs the host until it is told to stop; the exit status.
#[must_use]
pub fn run(settings: &Settings, ready_file: Option<&Path>) -> u8 {
    tracing::error!(state = %settings.state.dir.display(), ?ready_file, "this build has no host in it");
    1
}
