//! One event over HTTP: tries, and what is made of what comes back.

use std::{error::Error as StdError, time::Duration};

use conductor_sdk::{Error, Result, Session, serde_json, tracing};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::de::DeserializeOwned;

use crate::{config::Config, event::Kind};

/// The longest answer: room for a state of the longest that is kept by default, and as much again.
const MOST: usize = 2 << 20;
/// Before the second try; each further wait is twice as long, up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Which try it is, from 1.
const ATTEMPT: &str = "x-conductor-attempt";

/// Why a try failed.
#[derive(Debug)]
enum Failure {
    /// The service has not heard the event, or says that it has done nothing about it.
    NotDone(String),
    /// It may have heard it.
    Unsure(String),
    /// It has answered, and another try would get the same.
    Final(String),
}

/// Tells the event until there is an answer, as often as may be and time allows.
pub(crate) async fn ask<T: DeserializeOwned>(config: &Config, session: &Session, kind: Kind, body: Vec<u8>) -> Result<T> {
    let body = Bytes::from(body);
    let end = session.now() + config.deadline;
    let mut wait = FIRST_WAIT;
    for attempt in 1_u32.. {
        let left = end.duration_since(session.now()).unwrap_or_default();
        let tried = tokio::time::timeout(left, attempt_once(config, attempt, &body)).await;
        let failure = match tried {
            Ok(Ok(answer)) => return parse(&answer).map_err(|failure| error(config, kind, attempt, &failure)),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Unsure(format!("does not answer in {} ms", config.deadline.as_millis())),
        };
        // Not all at the same time, where many sessions wait for one service.
        let pause = wait / 2 + Duration::from_millis(session.random_below(u64::try_from(wait.as_millis()).unwrap_or_default() / 2 + 1));
        let again = match failure {
            Failure::NotDone(_) => true,
            Failure::Unsure(_) => kind.is_repeated(),
            Failure::Final(_) => false,
        };
        if !again || session.now() + pause >= end {
            return Err(error(config, kind, attempt, &failure));
        }
        tracing::debug!(?kind, attempt, ?failure, "the service is told again");
        session.sleep(pause).await?;
        wait = (wait * 2).min(LAST_WAIT);
    }
    Err(Error::new("more tries than can be counted"))
}

async fn attempt_once(config: &Config, attempt: u32, body: &Bytes) -> std::result::Result<Bytes, Failure> {
    let mut request = Request::post(&config.uri).header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
    request = request.header(ATTEMPT, attempt);
    if let Some((name, value)) = &config.secret {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body.clone())).map_err(|error| Failure::Final(chain(&error)))?;
    let response = config.client.request(request).await.map_err(|error| match error.is_connect() {
        // What is around the cause says no more than this.
        true => Failure::NotDone(format!("is not reached: {}", chain(error.source().unwrap_or(&error)))),
        false => Failure::Unsure(format!("does not answer: {}", chain(&error))),
    })?;
    match response.status() {
        StatusCode::OK => read(response).await,
        StatusCode::NO_CONTENT => Ok(Bytes::from_static(b"{}")),
        status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => Err(Failure::NotDone(format!("answers {status}"))),
        status @ (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => Err(Failure::Unsure(format!("answers {status}"))),
        status if status.is_redirection() => Err(Failure::Final(format!("answers {status}, and redirects are not followed"))),
        status => Err(Failure::Final(format!("answers {status}"))),
    }
}

async fn read(response: Response<Incoming>) -> std::result::Result<Bytes, Failure> {
    match Limited::new(response.into_body(), MOST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::Final(format!("answers with more than {MOST} bytes"))),
        Err(error) => Err(Failure::Unsure(format!("does not end its answer: {}", chain(&*error)))),
    }
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> std::result::Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| Failure::Final(format!("answers with what does not fit: {error}")))
}

/// It names the service by scheme, host and port: a path may be nobody else's business, and a secret is.
fn error(config: &Config, kind: Kind, attempts: u32, failure: &Failure) -> Error {
    let (Failure::NotDone(what) | Failure::Unsure(what) | Failure::Final(what)) = failure;
    let code = if matches!(failure, Failure::Final(_)) { 502 } else { 503 };
    let tries = if attempts == 1 { String::new() } else { format!(" ({attempts} tries)") };
    let event = serde_json::to_value(kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
    Error::new(format!("{event}: the service at {} {what}{tries}", config.shown)).with_code(code)
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
