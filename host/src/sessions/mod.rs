//! Sessions: their ids, their directory and their lives. Knows no HTTP and no token.

mod asking;
pub mod clock;
mod closing;
pub mod directory;
pub(crate) mod ears;
mod entering;
pub mod event;
mod hearing;
mod holding;
pub mod ids;
mod joins;
pub mod lifetimes;
mod making;
pub mod manager;
mod members;
pub mod moving;
mod parking;
#[cfg(test)]
pub(crate) mod place;
mod record;
mod resting;
mod restoring;
pub mod session;
pub mod status;
pub mod task;
pub(crate) mod timers;
pub mod upgrade;
pub mod world;

pub use event::{Caller, CloseReason, Port};
pub use ids::{Pin, SessionId};
pub use lifetimes::Limits;
pub use manager::Manager;
pub use session::Session;
pub use status::{Phase, Status};
