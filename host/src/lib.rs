//! The session server: sessions, their conductors out of plugins, tokens and MQTT.

pub mod access;
pub mod admission;
pub mod app;
pub mod broker;
mod census;
pub mod cli;
pub mod conductors;
pub mod config;
#[cfg(test)]
mod crowd;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod joins;
pub mod logging;
pub mod migrate;
pub mod networks;
mod pace;
mod plugin;
pub mod reload;
pub mod services;
pub mod sessions;
pub mod store;
pub mod tasks;
pub mod tls;
pub mod tokens;
