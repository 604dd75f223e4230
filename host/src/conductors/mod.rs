//! Conductors: the plugins that offer them, how these are loaded, and how a conductor is run.
//!
//! A plugin's way into the host: [`resolve`] names the file, [`inspect`] reads it without running it, [`library`] opens a
//! private copy and checks the contract; whatever is wrong is one [`refusal`].

pub mod inspect;
mod layout;
pub mod library;
mod platform;
pub mod refusal;
pub mod resolve;
