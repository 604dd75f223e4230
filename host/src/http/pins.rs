//! A session's pin: opened again, and replaced.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{PathId, Ports, error::Problem};
use crate::sessions::{Caller, Port, manager::Refused};

pub(super) async fn open(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
) -> Result<StatusCode, Problem> {
    let session = id.and_then(|id| ports.manager.get(id)).ok_or(Refused::NoSuchSession)?;
    ports.manager.open_pin(&session, Caller::at(Port::Admin, peer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
) -> Result<Json<Value>, Problem> {
    let session = id.and_then(|id| ports.manager.get(id)).ok_or(Refused::NoSuchSession)?;
    let pin = ports.manager.rotate_pin(&session, Caller::at(Port::Admin, peer)).await?;
    Ok(Json(json!({ "pin": pin.reveal() })))
}
