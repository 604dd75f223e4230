//! The session server: sessions, their conductors out of plugins, tokens and MQTT.

pub mod broker;
pub mod conductors;
pub mod sessions;
pub mod store;
pub mod tokens;
