//! The limits of a session as `/v1` has them: texts as in the settings, `"2h 30m"`, or `"none"`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, State},
};
use serde::Deserialize;

use super::{
    PathId, Ports,
    admin::{BODY, SessionView},
    body,
    error::Problem,
};
use crate::{
    config,
    sessions::{Caller, Limits, Port, manager::Refused},
};

/// As they are given: what is absent or null is nothing. A key that is misspelt would change nothing, and nobody would know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    pub(super) lifetime: Option<String>,
    pub(super) empty_timeout: Option<String>,
}

impl Given {
    pub(super) fn read(self) -> Result<Limits, Problem> {
        let read = |key: &str, text: Option<String>| {
            let wrong = |text: &str| Problem::bad_request(format!("{key:?} is {text:?}, expected {}", config::EXPECTED_LIMIT));
            text.map(|text| config::limit(&text).map(Limits::millis).ok_or_else(|| wrong(&text))).transpose()
        };
        Ok(Limits { lifetime: read("lifetime", self.lifetime)?, empty_timeout: read("empty_timeout", self.empty_timeout)? })
    }
}

/// Milliseconds, as they are shown.
pub(super) fn text(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// `PATCH /v1/sessions/{id}`.
pub(super) async fn change(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
    body: Body,
) -> Result<Json<SessionView>, Problem> {
    let limits = body::json::<Given>(body, BODY).await?.read()?;
    let id = id.ok_or(Refused::NoSuchSession)?;
    let session = ports.manager.set_limits(id, limits, Caller::at(Port::Admin, peer)).await?;
    Ok(Json(SessionView::of(&ports, &session)))
}
