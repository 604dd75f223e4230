//! For tests of what outsiders could fill: how many outsiders come, and what memory the process takes meanwhile.

use std::{env, fs, time::Instant};

/// Says how many come instead of the usual number: `cargo xtask bench tables` sets it.
const COUNT: &str = "CONDUCTOR_CROWD";
/// How much more memory the process may hold afterwards, in bytes: far less than one for each of those who came.
const GROWTH: u64 = 4 << 20;

/// Does `act` with the number of those who come: `usual`, or as many as the environment says. Then it says how long that took and what memory the process held
/// before and after, and insists that it is the same; only then, since other tests may run in this process otherwise.
pub(crate) fn comes(what: &str, usual: u64, act: impl FnOnce(u64)) {
    let count = env::var(COUNT).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{COUNT}={text}: {e}")));
    let (begun, before) = (Instant::now(), resident());
    act(count.unwrap_or(usual));
    let (took, after) = (begun.elapsed(), resident());
    if let (Some(count), Some(before), Some(after)) = (count, before, after) {
        println!("{count} {what}: {} KiB before, {} KiB after, {:.1} s", before >> 10, after >> 10, took.as_secs_f64());
        assert!(after <= before + GROWTH, "{} bytes more are held", after - before);
    }
}

/// How much memory the process holds, in bytes; only Linux tells in a file.
pub(crate) fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
