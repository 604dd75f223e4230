//! The trusted port: administrators create, close and list sessions and ask their conductors.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Extension, Path, RawQuery, State, rejection::PathRejection},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use bytes::Bytes;
use conductor_abi::wire::Grants;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    PathId, Ports, body, error::Problem, legacy, limits, livez, metrics, not_found, only_get, only_post, pins, plugins, query, services,
};
use crate::{
    access::{
        self, Access, Identity, Role,
        audit::{self, Made},
    },
    conductors::{catalog::Type, library::Hash},
    sessions::{Caller, CloseReason, Port, Session, SessionId, manager::Refused, status::Status},
    store::StoredClient,
};

/// The most bytes that a body on this port may have.
pub(super) const BODY: usize = 1 << 20;
const PAGE: usize = 50;
const MAX_PAGE: usize = 500;

/// The routes of the port, behind the guard that decides who may use which, and the audit log that records what it lets through and what it refuses.
pub fn router(ports: Arc<Ports>, access: Arc<Access>) -> Router {
    let guarded = routes().layer(middleware::from_fn_with_state(access, access::guard));
    let recorded = match ports.audit.clone() {
        Some(audit) => guarded.layer(middleware::from_fn_with_state(audit, audit::record)),
        None => guarded,
    };
    recorded.with_state(ports)
}

/// The routes alone. Each needs an entry in the table of `access/routes.rs`, or nobody may use it; the guard answers methods that have none there.
pub(crate) fn routes() -> Router<Arc<Ports>> {
    Router::new()
        .route("/api/createSession", only_get(legacy::create_session))
        .route("/api/closeSession", only_get(legacy::close_session))
        .route("/api/conductorRequest", only_get(legacy::conductor_request))
        .route("/v1/sessions", get(list).post(create))
        .route("/v1/sessions/{id}", get(look).patch(limits::change).delete(close))
        .route("/v1/sessions/{id}/requests", only_post(request))
        .route("/v1/sessions/{id}/clients/{client}", delete(kick))
        .route("/v1/sessions/{id}/move", only_post(plugins::move_session))
        .route("/v1/sessions/{id}/pin/open", only_post(pins::open))
        .route("/v1/sessions/{id}/pin/rotate", only_post(pins::rotate))
        .route("/v1/types", only_get(types))
        .route("/v1/services", only_get(services::list))
        .route("/v1/services/{name}/requests", only_post(services::request))
        .route("/v1/plugins", only_get(plugins::list))
        .route("/v1/plugins/reload", only_post(plugins::reload))
        .route("/v1/types/{name}", only_get(look_at_type))
        .route("/v1/metrics", only_get(metrics::metrics))
        .route("/livez", only_get(livez))
        .route("/readyz", only_get(readyz))
        .fallback(not_found)
}

/// A session as `/v1` shows it.
#[derive(Serialize)]
pub(super) struct SessionView {
    id: String,
    /// For those whose role sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
    /// Opens it as the pin does, and cannot be guessed; for the same roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    join_secret: Option<String>,
    /// The same as a link, where the settings say what the IoT port is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    join_url: Option<String>,
    /// Whether no pin is believed, since too many were wrong.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pin_guarded: bool,
    r#type: String,
    /// `idle` (its conductor is made at the first event), `live`, `faulted` or `unavailable`.
    state: &'static str,
    /// Why, for the last two.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// While it is `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<ParkedView>,
    /// The SHA-256 of the plugin that it runs, while it has a conductor.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<Hash>,
    /// RFC 3339; null where the file that brought the session did not say.
    created_at: Option<String>,
    clients: Vec<ClientView>,
    /// What its conductor says about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    /// Whether nobody new may join.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    locked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_clients: Option<u32>,
    /// How long it lives, and how long it may be empty, by its own limits or the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_timeout: Option<String>,
    /// When it is closed if nothing happens until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
}

#[derive(Serialize)]
struct ParkedView {
    /// `plugin` or `conductor`.
    lacks: &'static str,
    /// RFC 3339.
    since: String,
    /// How often it was tried to make a conductor.
    tries: u32,
}

#[derive(Serialize)]
struct ClientView {
    /// What is no string comes from a stored file of the replaced system.
    client_id: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// What it may do, where its conductor has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<Grants>,
}

fn seconds(seconds: u64) -> String {
    // The formatter ends with the year 9999.
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

impl SessionView {
    pub(super) fn of(ports: &Ports, session: &Session, role: Role) -> Self {
        let manager = &*ports.manager;
        let (record, ends) = (session.record(), manager.ends(session));
        let parked = session.parked().map(|parked| ParkedView {
            lacks: parked.lack.as_str(),
            since: seconds(parked.since / 1000),
            tries: parked.tries,
        });
        let (state, reason) = match session.status() {
            Status::NotMade => ("idle", None),
            Status::Live => ("live", None),
            Status::Faulted(reason) => ("faulted", Some(reason.to_string())),
            Status::Unavailable(reason) => ("unavailable", Some(reason.to_string())),
            Status::Gone => ("closed", None),
        };
        let clients = record.clients.iter().map(|client| match client {
            StoredClient::Joined { client_id, expires_at } => {
                let grants = record.extra.as_ref().and_then(|extra| extra.grants.get(client_id).cloned());
                ClientView { client_id: Value::from(&**client_id), expires_at: Some(seconds(*expires_at)), grants }
            }
            StoredClient::Foreign(value) => ClientView { client_id: value.clone(), expires_at: None, grants: None },
        });
        let join_secret = role.sees_secrets().then(|| manager.world().joins.secret_of(&record));
        Self {
            id: record.id.to_string(),
            pin: role.sees_secrets().then(|| record.pin.reveal()),
            // Behind the `#`, so that no browser sends it and no log of a proxy has it.
            join_url: join_secret.as_ref().zip(ports.public_url.as_ref()).map(|(secret, url)| format!("{url}/join/{}#{secret}", record.id)),
            join_secret,
            pin_guarded: manager.is_pin_guarded(session),
            r#type: record.type_name.to_string(),
            state,
            reason,
            parked,
            plugin: session.running().and_then(|kind| kind.hash()),
            created_at: Some(record.created_at).filter(|millis| *millis > 0).map(|millis| seconds(millis / 1000)),
            clients: clients.collect(),
            labels: record.extra.as_ref().map(|extra| extra.labels.clone()).unwrap_or_default(),
            locked: record.extra.as_ref().is_some_and(|extra| extra.locked),
            max_clients: record.extra.as_ref().and_then(|extra| extra.max_clients),
            lifetime: ends.limits.lifetime.map(limits::text),
            empty_timeout: ends.limits.empty_timeout.map(limits::text),
            ends_at: ends.at.map(|millis| seconds(millis / 1000)),
        }
    }
}

#[derive(Deserialize)]
struct Create {
    r#type: String,
    lifetime: Option<String>,
    empty_timeout: Option<String>,
}

async fn create(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(who): Extension<Identity>,
    body: Body,
) -> Result<Response, Problem> {
    let Create { r#type, lifetime, empty_timeout } = body::json(body, BODY).await?;
    let limits = limits::of_new(lifetime, empty_timeout)?;
    let session = ports.manager.create_with(&r#type, limits, Caller::at(Port::Admin, peer)).await?;
    let location = format!("/v1/sessions/{}", session.id());
    let view = Json(SessionView::of(&ports, &session, who.role));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Extension(Made(session.id())), view).into_response())
}

async fn list(
    State(ports): State<Arc<Ports>>,
    Extension(who): Extension<Identity>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let parameter = |name: &str| {
        query::parameter(query.as_deref().unwrap_or_default(), name)
            .map_err(|_| Problem::bad_request(format!("the query parameter {name:?} cannot be decoded")))
    };
    let limit = match parameter("limit")? {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_PAGE).contains(limit))
            .ok_or_else(|| Problem::bad_request(format!("\"limit\" must be a number from 1 to {MAX_PAGE}, not {text:?}")))?,
    };
    let after = match parameter("cursor")? {
        None => None,
        Some(text) => {
            Some(SessionId::parse(&text).ok_or_else(|| Problem::bad_request("\"cursor\" must be the next_cursor of an earlier page"))?)
        }
    };
    let mut page = ports.manager.page(after, limit + 1);
    let more = page.len() > limit;
    page.truncate(limit);
    let next_cursor = page.last().filter(|_| more).map(|session| session.id().to_string());
    let items: Vec<SessionView> = page.iter().map(|session| SessionView::of(&ports, session, who.role)).collect();
    Ok(Json(json!({ "items": items, "next_cursor": next_cursor })))
}

async fn look(
    State(ports): State<Arc<Ports>>,
    Extension(who): Extension<Identity>,
    PathId(id): PathId,
) -> Result<Json<SessionView>, Problem> {
    let session = ports.manager.get(id.ok_or(Refused::NoSuchSession)?).ok_or(Refused::NoSuchSession)?;
    Ok(Json(SessionView::of(&ports, &session, who.role)))
}

async fn close(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
) -> Result<StatusCode, Problem> {
    ports.manager.close(id.ok_or(Refused::NoSuchSession)?, CloseReason::Requested, Caller::at(Port::Admin, peer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kick(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path((id, client)) = path.map_err(|_| Problem::bad_request("the path cannot be decoded"))?;
    let session = SessionId::parse(&id).and_then(|id| ports.manager.get(id)).ok_or(Refused::NoSuchSession)?;
    ports.manager.kick(&session, &client, Caller::at(Port::Admin, peer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct Request {
    pub(super) method: String,
    #[serde(default)]
    pub(super) params: Option<Box<RawValue>>,
}

#[derive(Serialize)]
pub(super) struct Answer<'a> {
    pub(super) result: &'a RawValue,
}

/// As they reach the plugin.
pub(super) fn params(params: Option<Box<RawValue>>) -> Bytes {
    params.map_or(Bytes::from_static(b"null"), |params| String::from(Box::<str>::from(params)).into())
}

async fn request(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
    body: Body,
) -> Result<Response, Problem> {
    let Request { method, params } = body::json(body, BODY).await?;
    let (id, params) = (id.ok_or(Refused::NoSuchSession)?, self::params(params));
    let result = ports.manager.request(id, method, params, Caller::at(Port::Admin, peer)).await?;
    let result = serde_json::from_slice(&result).map_err(|error| Refused::Internal(error.to_string()))?;
    Ok(Json(Answer { result }).into_response())
}

fn describe(kind: &Type) -> Value {
    let plugin = match &kind.plugin {
        Ok(plugin) => plugin,
        Err(reason) => return json!({ "type": &*kind.name, "available": false, "state": "unavailable", "reason": &**reason }),
    };
    let quarantine = kind.lane.quarantine();
    let mut described = json!({
        "type": &*kind.name,
        "available": quarantine.is_none(),
        "state": if quarantine.is_some() { "quarantined" } else { "available" },
        "conductor": plugin.conductor,
        "hooks": plugin.manifest.hooks,
        "methods": plugin.manifest.methods,
        "other_methods": plugin.manifest.other_methods,
        "config": plugin.manifest.config,
    });
    if let Some(reason) = quarantine {
        described["reason"] = (&*reason).into();
    }
    described
}

async fn types(State(ports): State<Arc<Ports>>) -> Json<Value> {
    let items: Vec<Value> = ports.manager.catalog().iter().map(|kind| describe(kind)).collect();
    Json(json!({ "items": items }))
}

async fn look_at_type(State(ports): State<Arc<Ports>>, path: Result<Path<String>, PathRejection>) -> Result<Json<Value>, Problem> {
    let Path(name) = path.map_err(|_| Problem::bad_request("the path cannot be decoded"))?;
    let kind = ports.manager.catalog().get(&name).map(|kind| describe(kind));
    kind.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "type_not_found", "there is no such type"))
}

/// Anybody learns that something is down; why, which names files and what is behind them, is for those with an identity.
async fn readyz(State(ports): State<Arc<Ports>>, who: Option<Extension<Identity>>) -> Response {
    let part = |trouble: Option<String>| match trouble {
        None => json!({ "status": "ok" }),
        Some(reason) if who.is_some() => json!({ "status": "down", "reason": reason }),
        Some(_) => json!({ "status": "down" }),
    };
    let store = ports.manager.world().store.trouble().map(|reason| reason.to_string());
    let broker = ports.manager.world().broker.trouble().map(|reason| reason.to_string());
    let missing = |kind: &Arc<Type>| kind.plugin.as_ref().err().map(|reason| format!("type {}: {reason}", kind.name));
    let quarantined = |kind: &Arc<Type>| kind.lane.quarantine().map(|reason| reason.to_string());
    let catalog = ports.manager.catalog();
    let mut troubles: Vec<String> = catalog.iter().filter_map(|kind| missing(kind).or_else(|| quarantined(kind))).collect();
    troubles.extend(ports.services.trouble());
    let plugins = Some(troubles.join("; ")).filter(|troubles| !troubles.is_empty());
    let audit = ports.audit.as_ref().and_then(|audit| audit.trouble()).map(|reason| reason.to_string());
    let degraded = store.is_some() || broker.is_some() || plugins.is_some() || audit.is_some();
    let (code, status) = match (*ports.stopping.borrow(), degraded) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, true) => (StatusCode::OK, "degraded"),
        (false, false) => (StatusCode::OK, "ready"),
    };
    let parts = json!({ "store": part(store), "broker": part(broker), "plugins": part(plugins), "audit": part(audit) });
    (code, Json(json!({ "status": status, "parts": parts }))).into_response()
}
