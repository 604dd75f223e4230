//! Request bodies: bounded in size; their time is the connection's (`timing.rs`).

use std::io;

use axum::{body::Body, http::StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::Problem;

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 where it is longer, 408 where it takes too long, 400 where it breaks off.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        // axum wraps the limit's error; its own answer is made from the same look.
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if cause.is::<http_body_util::LengthLimitError>() {
                let detail = format!("the body is longer than {limit} bytes");
                return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
            }
            if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
                return Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request did not come in time");
            }
            source = cause.source();
        }
        Problem::bad_request(format!("the body could not be read: {error}"))
    })
}

/// Reads a JSON body.
///
/// # Errors
/// As [`read`]; 400 where it is not JSON or does not fit, saying where and why.
pub async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Problem> {
    parse(&read(body, limit).await?)
}

/// Reads JSON.
///
/// # Errors
/// 400 where it is not JSON or does not fit, saying where and why.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::bad_request(format!("the body is not the JSON that is expected here: {error}")))
}
