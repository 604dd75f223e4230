//! Sessions: their ids, their directory and their lives.

pub mod ids;

pub use ids::{Pin, SessionId};
