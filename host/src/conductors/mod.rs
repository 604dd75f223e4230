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
pub mod tally;
mod watchdog;

use std::{borrow::Cow, sync::Arc};

use conductor_abi::{contract::Failure, rules, wire::code};
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
    /// All threads that the session's type may have are blocked in its plugin's code; why, and what to do.
    #[error("{0}")]
    Quarantined(Arc<str>),
    /// The deadline passed before the conductor answered.
    #[error("{}", rules::GIVEN_UP)]
    Deadline,
    /// The conductor's answer to a request is no JSON; what is wrong with it.
    #[error("the conductor's answer is not JSON: {0}")]
    InvalidReply(String),
    /// The session is closed, or the host stops.
    #[error("{}", rules::CLOSED)]
    Closed,
    /// The host itself went wrong.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The longest text of a plugin that is kept and shown, in bytes: of an error, a panic, a refused join, a line of the log.
const MAX_TEXT: usize = 16 << 10;
/// The most bytes of details that an error of a plugin may have; more are not passed on.
const MAX_DATA: usize = 1 << 20;

/// A plugin's text, cut where it is longer than [`MAX_TEXT`].
pub(crate) fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT {
        return Cow::Borrowed(text);
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}… ({} bytes in all)", &text[..end], text.len()))
}

impl From<&Failure> for Trouble {
    fn from(failure: &Failure) -> Self {
        let message = clip(&failure.message).into_owned();
        match failure.code {
            code::UNKNOWN_METHOD => Self::UnknownMethod(message),
            code::INVALID_PARAMS => Self::InvalidParams(message),
            code::PANIC => Self::Faulted(message.into()),
            code::DEADLINE => Self::Deadline,
            code => {
                let data = Some(&failure.data).filter(|data| data.len() <= MAX_DATA);
                Self::Conductor { code, message, data: data.and_then(|data| serde_json::from_slice(data).ok()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_texts_are_cut_where_they_are_long_and_garbage_is_no_data() {
        assert_eq!(clip("short"), "short");
        let long = format!("{}ä{}", "x".repeat(MAX_TEXT - 1), "y".repeat(100_000));
        let cut = clip(&long);
        assert!(cut.starts_with("xxx") && cut.len() < MAX_TEXT + 100 && cut.ends_with("x… (116385 bytes in all)"), "{cut}");
        let failure = |data: &[u8]| Failure { data: data.to_vec().into(), ..Failure::new(7, long.clone()) };
        for (data, passed) in [(&b"[1]"[..], Some(serde_json::json!([1]))), (b"{", None), (b"\xff", None), (&[b' '; MAX_DATA + 1], None)] {
            let Trouble::Conductor { code: 7, message, data } = Trouble::from(&failure(data)) else { panic!("another kind") };
            assert!(message.len() < MAX_TEXT + 100 && data == passed, "{data:?}");
        }
        let Trouble::Faulted(reason) = Trouble::from(&Failure::new(code::PANIC, long.clone())) else { panic!("another kind") };
        assert!(reason.len() < MAX_TEXT + 100);
    }
}
