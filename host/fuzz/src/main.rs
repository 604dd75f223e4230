//! Gives what libFuzzer makes up to one target of `conductor_host::fuzz`. `cargo xtask fuzz` builds and starts it.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use conductor_host::fuzz::{TARGETS, Target};

/// Names the target.
#[cfg(fuzzing)]
const VARIABLE: &str = "CONDUCTOR_FUZZ_TARGET";

#[cfg(fuzzing)]
static CHOSEN: std::sync::OnceLock<Target> = std::sync::OnceLock::new();

#[cfg(fuzzing)]
fn chosen() -> Target {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| panic!("{VARIABLE} is {name:?}, which is no target"))
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (CHOSEN.get_or_init(chosen).read)(bytes);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this is built by `cargo xtask fuzz`, with a compiler flag that makes it a fuzzer");
    std::process::exit(2);
}
