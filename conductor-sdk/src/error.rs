//! Errors of conductors.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk},
    async_ffi::BorrowingFfiFuture,
    contract::{Failure, Reply},
    wire::code,
};
use pin_project_lite::pin_project;
use serde::Serialize;
use serde_json::Value;

/// What a conductor's functions return.
///
/// ```
/// fn seat(number: u8) -> conductor_sdk::Result<u8> {
///     if number < 4 { Ok(number) } else { Err(conductor_sdk::Error::new("there are four seats")) }
/// }
/// assert!(seat(4).is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a conductor or of its session: a code, a sentence, and details as JSON.
///
/// Every `std::error::Error` becomes one with `?`. (So this type is not one itself; use its accessors.)
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// fn parse(text: &str) -> Result<u32> {
///     Ok(text.trim().parse()?)
/// }
///
/// assert!(parse("x").unwrap_err().message().contains("invalid digit"));
/// let full = Error::new("the game is full").with_code(17).with_data(serde_json::json!({ "seats": 4 }));
/// assert_eq!((full.code(), full.message()), (17, "the game is full"));
/// ```
#[derive(Clone, PartialEq)]
pub struct Error(Box<Parts>);

/// In a box: an error is rare, and what may be one is moved with each event.
#[derive(Clone, PartialEq)]
struct Parts {
    code: i32,
    message: String,
    data: Option<Value>,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { code, message, data } = &*self.0;
        f.debug_struct("Error").field("code", code).field("message", message).field("data", data).finish()
    }
}

impl Error {
    /// An error of your own: code 0.
    ///
    /// ```
    /// let error = conductor_sdk::Error::new("it is not your turn");
    /// assert_eq!(error.code(), 0);
    /// ```
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(0, message)
    }

    pub(crate) fn of(code: i32, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { code, message: message.into(), data: None }))
    }

    /// Gives it a number that callers can tell it by. Numbers below zero are the host's own, hence the type.
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Error::new("full").with_code(409).code(), 409);
    /// ```
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.0.code = i32::from(code);
        self
    }

    /// Adds details, shown to the caller as JSON. A value that cannot be JSON is described instead.
    ///
    /// ```
    /// let error = conductor_sdk::Error::new("full").with_data(["ann", "bob"]);
    /// assert_eq!(error.data().unwrap()[0], "ann");
    /// ```
    #[must_use]
    pub fn with_data(mut self, data: impl Serialize) -> Self {
        self.0.data = Some(serde_json::to_value(data).unwrap_or_else(|e| Value::String(format!("(not JSON: {e})"))));
        self
    }

    /// Zero or above: an author's number. Below zero: the host's or the SDK's (unknown method, closed, …).
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Error::new("no").code(), 0);
    /// ```
    #[must_use]
    pub fn code(&self) -> i32 {
        self.0.code
    }

    /// The sentence.
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Error::new("no").message(), "no");
    /// ```
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The details.
    ///
    /// ```
    /// assert!(conductor_sdk::Error::new("no").data().is_none());
    /// ```
    #[must_use]
    pub fn data(&self) -> Option<&Value> {
        self.0.data.as_ref()
    }

    /// Whether the session is closed, so that nothing can be asked of it any more.
    ///
    /// ```
    /// assert!(!conductor_sdk::Error::new("no").is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.code == code::CLOSED
    }

    /// Whether a service named a session that is not there, or not any more. (Of [`Host`](crate::Host) alone.)
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host, id: &str) -> Result<()> {
    /// match host.publish(id, "news", "hello").await {
    ///     Err(error) if error.is_no_such_session() => tracing::info!("session {id} has ended meanwhile"),
    ///     other => other?,
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_no_such_session(&self) -> bool {
        self.0.code == code::NO_SUCH_SESSION
    }

    /// Whether the host is older than the SDK and does not know what was asked, so that the conductor must do without it. Nothing was changed.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// match session.save(&"idle").await {
    ///     Err(error) if error.is_unsupported() => tracing::warn!("this host keeps no state"),
    ///     other => other?,
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.0.code == code::UNSUPPORTED
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// Code 0; the message names the whole chain of causes.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

pub(crate) fn from_failure(failure: &Failure) -> Error {
    // Only this library's own guard says that the conductor panicked; a host that does so about itself went wrong inside.
    let code = if failure.code == code::PANIC { code::INTERNAL } else { failure.code };
    Error(Box::new(Parts { code, message: failure.message.to_string(), data: serde_json::from_slice(&failure.data).ok() }))
}

pub(crate) fn reply(result: Result<Vec<u8>>) -> Reply {
    match result {
        Ok(bytes) => ROk(bytes.into()),
        Err(error) => RErr(into_failure(error)),
    }
}

/// What comes of `result`, for the other side.
pub(crate) fn answer<'a>(result: impl Future<Output = Result<Vec<u8>>> + Send + 'a) -> BorrowingFfiFuture<'a, Reply> {
    BorrowingFfiFuture::new(Answer { result })
}

pin_project! {
    // By hand: a future of the compiler's would be copied once more on its way into its box.
    struct Answer<F> {
        #[pin]
        result: F,
    }
}

impl<F: Future<Output = Result<Vec<u8>>>> Future for Answer<F> {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        self.project().result.poll(cx).map(reply)
    }
}

#[cold]
pub(crate) fn into_failure(error: Error) -> Failure {
    let Parts { code, message, data } = *error.0;
    let data = data.map(|data| data.to_string().into_bytes()).unwrap_or_default();
    Failure { data: data.into(), ..Failure::new(code, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no such seat")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_chain_of_causes_is_told() {
        let error: Error = Outer("x".parse::<u8>().unwrap_err()).into();
        assert_eq!(error.message(), "no such seat: invalid digit found in string");
    }

    #[test]
    fn it_survives_the_boundary() {
        let error = Error::new("full").with_code(3).with_data(serde_json::json!({"a": [1]}));
        assert_eq!(from_failure(&into_failure(error.clone())), error);
    }
}
