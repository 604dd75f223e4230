//! The limits of a session as `/v1` has them: texts as in the settings, `"2h 30m"`, or `"none"`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, State},
};
use serde::{Deserialize, Deserializer};

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

/// A change of them: what is absent stays (`None`), null is as the settings say (`Some(None)`). A key that is misspelt would change nothing, and
/// nobody would know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default, deserialize_with = "said")]
    lifetime: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    empty_timeout: Option<Option<String>>,
}

/// What is there, be it null.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Those of a new session; what is nothing is as the settings say.
pub(super) fn of_new(lifetime: Option<String>, empty_timeout: Option<String>) -> Result<Limits, Problem> {
    Ok(Limits { lifetime: millis("lifetime", lifetime)?, empty_timeout: millis("empty_timeout", empty_timeout)? })
}

fn millis(key: &str, text: Option<String>) -> Result<Option<u64>, Problem> {
    let wrong = |text: &str| Problem::bad_request(format!("{key:?} is {text:?}, expected {}", config::EXPECTED_LIMIT));
    text.map(|text| config::limit(&text).map(Limits::millis).ok_or_else(|| wrong(&text))).transpose()
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
    let given: Given = body::json(body, BODY).await?;
    let lifetime = given.lifetime.map(|text| millis("lifetime", text)).transpose()?;
    let empty_timeout = given.empty_timeout.map(|text| millis("empty_timeout", text)).transpose()?;
    let id = id.ok_or(Refused::NoSuchSession)?;
    let session = ports.manager.set_limits(id, lifetime, empty_timeout, Caller::at(Port::Admin, peer)).await?;
    Ok(Json(SessionView::of(&ports.manager, &session)))
}
