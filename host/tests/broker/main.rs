//! The embedded broker on loopback, with clients that are not its library's own: rumqttc, and bare sockets where bytes matter.
//! These tests are also the contract with the library: what of it is used but not promised is held here.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod clients;
mod grants;
mod host;
mod limits;
mod raw;
mod sessions;
mod support;
mod tls;
mod wire;
