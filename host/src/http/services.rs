//! The admin port's routes for services.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Ports,
    admin::{self, Answer, Request},
    body,
    error::Problem,
};
use crate::{
    services::Service,
    sessions::{Caller, Port, Status},
};

pub(super) async fn list(State(ports): State<Arc<Ports>>) -> Json<Value> {
    let items: Vec<Value> = ports.services.all().iter().map(|service| describe(service)).collect();
    Json(json!({ "items": items }))
}

fn describe(service: &Service) -> Value {
    let (state, reason) = match service.status() {
        Status::NotMade => ("starting", None),
        Status::Live => ("live", None),
        Status::Faulted(reason) => ("faulted", Some(reason)),
        Status::Unavailable(reason) => ("unavailable", Some(reason)),
        Status::Gone => ("closed", None),
    };
    let mut shown = json!({ "name": service.name(), "state": state });
    if let Some(reason) = reason {
        shown["reason"] = Value::from(&*reason);
    }
    if let Ok(plugin) = service.plugin() {
        shown["service"] = Value::from(plugin.conductor.as_str());
        shown["sha256"] = Value::from(plugin.library.hash().to_string());
        shown["hooks"] = json!(plugin.manifest.hooks);
        shown["methods"] = json!(plugin.manifest.methods);
        shown["dropped"] = Value::from(service.dropped());
    }
    shown
}

pub(super) async fn request(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    path: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let Path(name) = path.map_err(|_| Problem::bad_request("the path cannot be decoded"))?;
    let Request { method, params } = body::json(body, admin::BODY).await?;
    let caller = Caller::at(Port::Admin, peer);
    let result = ports.services.request(&name, method, admin::params(params), caller).await?;
    let result = serde_json::from_slice(&result)
        .map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, "invalid_reply", format!("the service's answer is not JSON: {error}")))?;
    Ok(Json(Answer { result }).into_response())
}
