//! `/api/*`: the routes of the replaced system, with its values, key orders, statuses and oddities, so that its clients work
//! unchanged. Everything better is under `/v1`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use conductor_abi::rules;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{Ports, body, error::Problem, forwarded, iot, query};
use crate::{
    access::audit::{Code, Made},
    conductors::Trouble,
    joins::Shown,
    sessions::{Caller, CloseReason, Pin, Port, Session, SessionId, manager::Refused},
    store::StoredClient,
};

/// A refused join: the text that clients know, in the place of a token.
const REFUSED: &str = "Could not validate session credentials";

fn json_text(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem::from(Refused::Internal(error.to_string())).into_response(),
    }
}

/// A failure that is no error to a client of the replaced system; the audit log is told what it is.
fn failed(code: &'static str, text: &str) -> Response {
    (Extension(Code(code)), json_text(StatusCode::OK, &text)).into_response()
}

fn required(query: Option<&str>, name: &str) -> Result<String, Problem> {
    optional(query, name)?.ok_or_else(|| Problem::bad_request(format!("the query parameter {name:?} is missing")))
}

fn optional(query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
    query::parameter(query.unwrap_or_default(), name)
        .map_err(|_| Problem::bad_request(format!("the query parameter {name:?} cannot be decoded: it must be percent-encoded UTF-8")))
}

#[derive(Serialize)]
struct SessionView {
    id: String,
    pin: String,
    r#type: String,
    clients: Vec<Value>,
}

fn view(session: &Session) -> SessionView {
    let record = session.record();
    let clients = record.clients.iter().map(|client| match client {
        StoredClient::Joined { client_id, .. } => Value::from(&**client_id),
        StoredClient::Foreign(value) => value.clone(),
    });
    SessionView { id: record.id.to_string(), pin: record.pin.reveal(), r#type: record.type_name.to_string(), clients: clients.collect() }
}

pub(super) async fn create_session(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let type_name = required(query.as_deref(), "type")?;
    let session = ports.manager.create(&type_name, Caller::at(Port::Admin, peer)).await?;
    Ok((Extension(Made(session.id())), json_text(StatusCode::OK, &view(&session))).into_response())
}

pub(super) async fn close_session(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = required(query.as_deref(), "id")?;
    let closed = match SessionId::parse(&id) {
        Some(id) => ports.manager.close(id, CloseReason::Requested, Caller::at(Port::Admin, peer)).await,
        None => Err(Refused::NoSuchSession),
    };
    match closed {
        Ok(()) => Ok(json_text(StatusCode::OK, &"Success")),
        Err(Refused::NoSuchSession) => Ok(failed("session_not_found", "Error")),
        Err(refused) => {
            let problem = Problem::from(refused);
            Err(if problem.status() == StatusCode::SERVICE_UNAVAILABLE {
                problem
            } else {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_closed", "the session could not be closed; the log says why")
            })
        }
    }
}

pub(super) async fn conductor_request(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (id, method) = (required(query.as_deref(), "id")?, required(query.as_deref(), "method")?);
    let params = params(optional(query.as_deref(), "params")?);
    let answer = match SessionId::parse(&id) {
        Some(id) => ports.manager.request(id, method.clone(), params, Caller::at(Port::Admin, peer)).await,
        None => Err(Refused::NoSuchSession),
    };
    match answer {
        Ok(result) => Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], result).into_response()),
        Err(Refused::NoSuchSession | Refused::Conductor(Trouble::Closed)) => Ok(failed("session_not_found", "Could not locate session")),
        Err(Refused::Conductor(Trouble::UnknownMethod(_))) => {
            Ok(failed("unknown_method", &format!("Error: No handler function registered for method: {method}")))
        }
        Err(refused) => Err(refused.into()),
    }
}

/// JSON as it is; other text as a JSON string; nothing as null.
pub(crate) fn params(text: Option<String>) -> Bytes {
    match text.filter(|text| !text.is_empty()) {
        None => Bytes::from_static(b"null"),
        Some(text) if serde_json::from_str::<&RawValue>(&text).is_ok() => text.into(),
        Some(text) => Value::String(text).to_string().into(),
    }
}

pub(super) async fn join_session(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let peer = forwarded::client(peer, &headers, &ports.trusted_proxies);
    let bytes = match body::read(body, iot::BODY).await {
        Ok(bytes) => bytes,
        Err(problem) => return problem.into_response(),
    };
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&bytes) else {
        return json_text(StatusCode::OK, &"Error decoding request body:");
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let (id, pin) = (text("id").and_then(SessionId::parse), text("pin").and_then(Pin::parse));
    let client = text("client").filter(|client| rules::client(client).is_ok());
    let joined = match client {
        Some(client) => iot::join(&ports, id, Shown::Pin(pin), client, peer).await,
        None => Err(Refused::Credentials),
    };
    match joined {
        Ok(joined) => json_text(StatusCode::OK, &json!({ "token": joined.token })),
        Err(Refused::Credentials | Refused::Locked | Refused::Full | Refused::Declined(_)) => {
            json_text(StatusCode::OK, &json!({ "token": REFUSED }))
        }
        Err(Refused::Limited { seconds }) => {
            let body = json_text(StatusCode::TOO_MANY_REQUESTS, &json!({ "token": REFUSED }));
            ([(header::RETRY_AFTER, HeaderValue::from(seconds))], body).into_response()
        }
        Err(error) => {
            tracing::error!(%peer, %error, "a join failed");
            json_text(StatusCode::SERVICE_UNAVAILABLE, &json!({ "token": REFUSED }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_json_or_text_or_null() {
        for (given, passed) in [
            (None, "null"),
            (Some(""), "null"),
            (Some("d"), "\"d\""),
            (Some("[1, 2]"), "[1, 2]"),
            (Some("{}"), "{}"),
            (Some("None"), "\"None\""),
        ] {
            assert_eq!(params(given.map(str::to_owned)), passed.as_bytes(), "{given:?}");
        }
    }
}
