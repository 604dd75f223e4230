//! Mosquitto's JWT plugin, `mosquitto-jwt-auth` 0.2.0, built once for each target folder.

use std::{
    env::consts::{DLL_EXTENSION, DLL_PREFIX},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::artefacts;

/// The plugin's file. The first call of all builds it (the crate and its dependencies come from cargo's registry); calls at the same time, in
/// other processes too, wait for that.
///
/// # Panics
/// When it cannot be built; cargo has said why.
#[must_use]
pub fn library() -> PathBuf {
    let target = artefacts::folder().parent().expect("target/PROFILE").join("jwt-plugin");
    fs::create_dir_all(&target).expect("a folder for the build");
    let lock = File::create(target.join("tests.lock")).expect("a lock");
    lock.lock().expect("locked");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("jwt_plugin/Cargo.toml");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The plugin itself: what a crate depends on is built as a library of a name that nobody knows.
    cargo.args(["build", "--quiet", "--locked", "--profile", "dev", "--package", "mosquitto-jwt-auth", "--manifest-path"]).arg(manifest);
    // Flags for our own code (warnings as errors, say) are not for this.
    let status = cargo.arg("--target-dir").arg(&target).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").status();
    assert!(status.expect("cargo runs").success(), "the JWT plugin for mosquitto cannot be built");
    target.join("debug").join(format!("{DLL_PREFIX}mosquitto_jwt_auth.{DLL_EXTENSION}"))
}
