//! `cargo xtask bench tables [COUNT]`: what is remembered of outsiders stays as large as it is, with ten million of them.
//!
//! The tests of the host do it with fewer; here they get more, one after the other in one process, and say how much memory it held before and after.

use super::{Outcome, heading, succeed};
use crate::workspace;

/// The tests, as the test program calls them.
pub(crate) const TESTS: [&str; 3] = [
    "joins::sources::tests::a_million_sources_take_no_more_room_and_get_no_more_out_of_it_than_the_table_has_places",
    "joins::tests::a_million_ids_that_no_session_has_keep_nothing",
    "pace::tests::a_crowd_of_sources_frees_nobody_and_needs_no_more_room",
];

pub(super) fn run(count: Option<&String>) -> Outcome<()> {
    let count: u64 = count.map_or(Ok(10_000_000), |text| text.parse().map_err(|_| format!("{text:?} is no number of outsiders")))?;
    heading("tables of fixed size, with outsiders that are all different");
    let mut command = workspace::cargo();
    command.args(["test", "--quiet", "--package", "conductor-host", "--lib", "--", "--exact", "--nocapture", "--test-threads", "1"]);
    succeed(command.args(TESTS).env("CONDUCTOR_CROWD", count.to_string()))
}
