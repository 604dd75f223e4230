//! Tells the plugin what it is built with.

use std::{env, process::Command};

fn main() {
    let rustc = env::var_os("RUSTC").expect("cargo names the compiler");
    let version = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    println!("cargo::rustc-env=BUILT_BY={}", String::from_utf8_lossy(&version.stdout).trim());
    println!("cargo::rustc-env=BUILT_AT={}", env::var("OPT_LEVEL").expect("cargo names the level"));
    println!("cargo::rerun-if-changed=../foreign/build.rs");
}
