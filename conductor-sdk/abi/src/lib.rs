//! The binary contract between the host and its plugins, frozen at 1.0.
//!
//! Plugin authors use `conductor-host-sdk` and never see this crate. It is apart from the SDK so that the SDK can move on
//! while what crosses the library boundary stays: the package name and the major version are part of the layout identity
//! that `abi_stable` checks.
//!
//! - [`contract`]: the types that cross the boundary. **A plugin built with 1.0 loads in every later 1.x host, and a plugin
//!   built with a later 1.x loads in a 1.0 host.** So nothing here is ever changed or removed; functions may be appended to
//!   the tables [`contract::ConductorTable`], [`contract::HostTable`] and [`contract::PluginRoot`] (older sides see `None`),
//!   and everything else that may grow is JSON.
//! - [`wire`]: that JSON, the names of events and calls, and the error codes. Keys may be added, never renamed; an unknown
//!   key is ignored, an unknown event or call is answered with [`wire::code::UNSUPPORTED`].
//! - `rules`: what a conductor may ask for, shared by the host and the SDK's test kit. Not frozen: a later host may allow more.

pub mod contract;
#[doc(hidden)]
pub mod rules;
pub mod wire;

pub use abi_stable;
pub use async_ffi;

/// The version of the contract, `major.minor.patch`.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The oldest compiler for this crate and for the SDK.
#[doc(hidden)]
pub const OLDEST_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// The symbol that a plugin exports. Its number is the major version of the contract, so that a file made for another one
/// can be told by its name, before any of its code runs.
pub const ENTRY_SYMBOL: &str = "conductor_host_plugin_v1";

/// What the entry symbols of all major versions begin with.
pub const ENTRY_SYMBOL_PREFIX: &str = "conductor_host_plugin_v";
