//! What reads bytes from outside, one function each, for fuzzing. In no program: only tests and `cargo xtask fuzz` build it.
//!
//! A target gets any bytes, gives them to the host's own code, and panics where something does not hold that always must. Beside it lie, in
//! `host/fuzz`, inputs to begin with (`corpus/NAME/`) and words that mean something in them (`words/NAME.dict`). Two ways lead here: the tests,
//! with a million inputs of [`generator`] in each run, and libFuzzer (`host/fuzz/src/main.rs`), which sees which way through the code an input
//! takes, for as long as one likes. Both need no more than a line in [`TARGETS`] and the two files.

#[cfg(test)]
mod generator;
mod targets;
#[cfg(test)]
mod tests;

use crate::{access::oidc, broker::gate, joins::saved, store::json::format};

/// One reader of bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, for the command and in `host/fuzz`.
    pub name: &'static str,
    /// Reads the bytes: whether they are understood. Panics where what must hold does not.
    pub read: fn(&[u8]) -> bool,
    /// How many inputs the tests try.
    pub inputs: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "join", read: targets::join, inputs: 120_000 },
    Target { name: "query", read: targets::query, inputs: 150_000 },
    Target { name: "settings", read: targets::settings, inputs: 5_000 },
    Target { name: "grants", read: targets::grants, inputs: 15_000 },
    Target { name: "token", read: targets::token, inputs: 30_000 },
    Target { name: "networks", read: targets::networks, inputs: 300_000 },
    Target { name: "forwarded", read: targets::forwarded, inputs: 80_000 },
    Target { name: "manifest", read: targets::manifest, inputs: 2_000 },
    Target { name: "inspect", read: targets::inspect, inputs: 150_000 },
    Target { name: "connect", read: gate::fuzz::connect, inputs: 120_000 },
    Target { name: "store", read: format::fuzz::file, inputs: 50_000 },
    Target { name: "bearer", read: oidc::fuzz::bearer, inputs: 100_000 },
    Target { name: "budgets", read: saved::fuzz::file, inputs: 50_000 },
];
