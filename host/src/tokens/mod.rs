//! Tokens: what a device shows to the broker, and what it may do with it.

pub mod grant;
