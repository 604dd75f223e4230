//! Conductors: the plugins they come from, the threads they run on, and what they may ask of the host.

pub(crate) mod asks;
pub mod catalog;
pub mod config;
pub mod inspect;
pub mod instance;
pub mod lane;
mod layout;
pub mod library;
mod platform;
pub mod pool;
pub mod priority;
pub mod refusal;
pub mod resolve;
pub mod services;
mod watchdog;

use std::sync::Arc;

use conductor_abi::{contract::Failure, wire::code};
use serde_json::Value;

/// Why an event was not handled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    /// The conductor has no such method.
    #[error("{0}")]
    UnknownMethod(String),
    /// The parameters do not fit the method.
    #[error("{0}")]
    InvalidParams(String),
    /// The conductor answered with an error of its own.
    #[error("{message}")]
    Conductor {
        /// The author's number.
        code: i32,
        /// The author's words.
        message: String,
        /// The author's details.
        data: Option<Value>,
    },
    /// The conductor panicked, now or earlier.
    #[error("the session's conductor is faulted: {0}")]
    Faulted(Arc<str>),
    /// There is no conductor: its plugin did not load, or its making failed.
    #[error("the session's conductor is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The mailbox is full.
    #[error("the session has too many events waiting; try again later")]
    Overloaded,
    /// The deadline passed before the conductor answered.
    #[error("the session's conductor did not answer within its deadline")]
    Deadline,
    /// The session is closed, or the host stops.
    #[error("the session is closed")]
    Closed,
    /// The host itself went wrong.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<&Failure> for Trouble {
    fn from(failure: &Failure) -> Self {
        let message = failure.message.to_string();
        match failure.code {
            code::UNKNOWN_METHOD => Self::UnknownMethod(message),
            code::INVALID_PARAMS => Self::InvalidParams(message),
            code::PANIC => Self::Faulted(message.into()),
            code::DEADLINE => Self::Deadline,
            code => Self::Conductor { code, message, data: serde_json::from_slice(&failure.data).ok() },
        }
    }
}
