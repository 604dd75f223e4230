//! Request bodies: bounded in size and time.

use std::time::Duration;

use axum::{body::Body, http::StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::Problem;

/// How long a body may take to come.
const TIME: Duration = Duration::from_secs(10);

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 where it is longer, 408 where it takes too long, 400 where it breaks off.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(TIME, axum::body::to_bytes(body, limit)).await;
    let read = read.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", format!("the body did not come within {} s", TIME.as_secs()))
    })?;
    read.map_err(|error| {
        // axum wraps the limit's error; its own answer is made from the same look.
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if cause.is::<http_body_util::LengthLimitError>() {
                let detail = format!("the body is longer than {limit} bytes");
                return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
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
