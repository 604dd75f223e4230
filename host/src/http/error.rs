//! Errors as RFC 9457 problems: one table from what went wrong to status and code.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{conductors::Trouble, services, sessions::manager::Refused};

/// An error as a client sees it: `application/problem+json` with `type`, `title`, `status`, a stable `code`, and `detail`.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    /// Never renamed: what programs look at.
    code: &'static str,
    /// For people.
    detail: String,
    /// In seconds.
    #[serde(skip)]
    retry_after: Option<u64>,
    #[serde(flatten)]
    more: Option<Box<Map<String, Value>>>,
}

impl Problem {
    /// A problem with this status and stable code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status: status.as_u16(), code, detail: detail.into(), retry_after: None, more: None }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self).unwrap_or_else(|_| b"{}".to_vec());
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after.or_else(|| (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1)) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::UnknownType { known, .. } => Self::new(StatusCode::BAD_REQUEST, "unknown_type", text).with("known", known),
            Refused::NoSuchSession => Self::new(StatusCode::NOT_FOUND, "session_not_found", text),
            Refused::Credentials => Self::new(StatusCode::FORBIDDEN, "invalid_credentials", text),
            Refused::Limited { seconds } => {
                Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", text) }
            }
            Refused::Locked => Self::new(StatusCode::FORBIDDEN, "session_locked", text),
            Refused::Full => Self::new(StatusCode::FORBIDDEN, "session_full", text),
            Refused::Declined(_) => Self::new(StatusCode::FORBIDDEN, "join_refused", text),
            Refused::NoSuchClient => Self::new(StatusCode::NOT_FOUND, "client_not_found", text),
            Refused::NoFreeId { .. } | Refused::IdsRest { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "id_space_full", text),
            Refused::Store(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", text),
            Refused::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", text),
            Refused::Internal(_) => {
                tracing::error!("{text}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
            }
            Refused::Conductor(trouble) => trouble.into(),
        }
    }
}

impl From<services::Refused> for Problem {
    fn from(refused: services::Refused) -> Self {
        let text = refused.to_string();
        let trouble = match refused {
            services::Refused::NoSuchService { known, .. } => {
                return Self::new(StatusCode::NOT_FOUND, "service_not_found", text).with("known", known);
            }
            services::Refused::Service { trouble, .. } => trouble,
        };
        match trouble {
            // The same statuses and codes as a session's, in words that fit.
            Trouble::Conductor { code, data, message } => {
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "service_error", message);
                problem.with("service", json!({ "code": code, "data": data }))
            }
            // The host stops, or a newer build takes its place just now.
            Trouble::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text),
            Trouble::UnknownMethod(_) | Trouble::InvalidParams(_) | Trouble::Internal(_) => trouble.into(),
            trouble => Self { detail: text, ..trouble.into() },
        }
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        let text = trouble.to_string();
        match trouble {
            Trouble::UnknownMethod(_) => Self::new(StatusCode::NOT_FOUND, "unknown_method", text),
            Trouble::InvalidParams(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_params", text),
            Trouble::Conductor { code, data, .. } => {
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "conductor_error", text);
                problem.with("conductor", json!({ "code": code, "data": data }))
            }
            Trouble::Faulted(_) => Self::new(StatusCode::BAD_GATEWAY, "faulted", text),
            Trouble::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text),
            Trouble::Overloaded => Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text),
            Trouble::Quarantined(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "type_quarantined", text),
            Trouble::InvalidReply(_) => Self::new(StatusCode::BAD_GATEWAY, "invalid_reply", text),
            Trouble::Deadline => Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", text),
            Trouble::Closed => Self::new(StatusCode::NOT_FOUND, "session_not_found", text),
            Trouble::Internal(_) => {
                tracing::error!("{text}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
            }
        }
    }
}
