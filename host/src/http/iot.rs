//! The public port: devices join here.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use conductor_abi::rules;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PathId, Ports, body, error::Problem, forwarded, legacy, livez, not_found, only_get, only_post};
use crate::{
    joins::Shown,
    sessions::{Caller, Pin, Port, SessionId, manager::Refused},
    tokens::claims::Grantee,
};

/// The most bytes that a body on this port may have.
pub(super) const BODY: usize = 4096;

/// The routes of the port. `mqtt` is merged in: the WebSocket side of the broker.
pub fn router(ports: Arc<Ports>, mqtt: Option<Router>) -> Router {
    let joins = Router::new()
        .route("/api/joinSession", only_post(legacy::join_session))
        .route("/v1/sessions/{id}/join", only_post(join_v1))
        .route_layer(middleware::from_fn(cors));
    let mqtt = mqtt.unwrap_or_default().layer(middleware::from_fn_with_state(ports.clone(), behind_proxies));
    Router::new()
        .merge(joins)
        .route("/join/{id}", only_get(join_page))
        .route("/livez", only_get(livez))
        .fallback(not_found)
        .with_state(ports)
        .merge(mqtt)
}

/// Whoever is behind a trusted proxy counts for itself in the broker's limits by source.
async fn behind_proxies(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = forwarded::client(peer, request.headers(), &ports.trusted_proxies);
    request.extensions_mut().insert(ConnectInfo(client));
    next.run(request).await
}

/// Pages of any origin may join: what counts is the pin. Every answer says so, with or without an `Origin`.
async fn cors(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS"));
    response
}

/// What a browser shows of a join link. The same bytes for every id: it tells nobody which sessions there are. The secret is behind the link's `#`, which no browser sends.
const JOIN_PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
    <title>Join a session</title>\n<h1>This link is for the app</h1>\n\
    <p>Open it, or scan its code, with the app of your session. A browser cannot join.</p>\n</html>\n";

async fn join_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, JOIN_PAGE).into_response()
}

#[derive(Deserialize)]
pub(crate) struct Join {
    pub(crate) client: String,
    pin: Option<String>,
    secret: Option<String>,
    resume: Option<String>,
}

impl Join {
    pub(crate) fn shown(&self) -> Result<Shown, Problem> {
        match (&self.pin, &self.secret, &self.resume) {
            (Some(pin), None, None) => Ok(Shown::Pin(Pin::parse(pin))),
            (None, Some(secret), None) => Ok(Shown::Secret(secret.clone())),
            (None, None, Some(token)) => Ok(Shown::Resume(token.clone())),
            (None, None, None) => Err(Problem::bad_request("one of \"pin\", \"secret\" and \"resume\" must be there")),
            _ => Err(Problem::bad_request("only one of \"pin\", \"secret\" and \"resume\" may be there")),
        }
    }
}

async fn join_v1(
    State(ports): State<Arc<Ports>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    PathId(id): PathId,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let join: Join = body::json(body, BODY).await?;
    let (shown, client) = (join.shown()?, join.client);
    let peer = forwarded::client(peer, &headers, &ports.trusted_proxies);
    if !is_client(&client) {
        let detail = "\"client\" must be 1 to 64 of A-Z a-z 0-9 _ . - and not one of the server's own names";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_client", detail));
    }
    let joined = self::join(&ports, id, shown, &client, peer).await?;
    Ok(Json(json!({
        "token": joined.token,
        "expires_at": humantime::format_rfc3339_seconds(joined.expires_at).to_string(),
        "resume": joined.resume,
        "client_id": client,
        "username": joined.username,
        "topic_prefix": joined.session.topic_prefix(),
        "mqtt": mqtt(&ports),
    })))
}

/// Where MQTT is: ports and paths, and the public address where the settings name one.
fn mqtt(ports: &Ports) -> Value {
    if !ports.has_broker {
        return Value::Null;
    }
    let broker = &ports.manager.world().broker;
    let endpoints = broker.endpoints();
    let mut told = json!({});
    // Of a broker outside only the settings know where devices reach it.
    if broker.link().is_none() {
        told["iot_websocket"] = json!({ "path": "/mqtt" });
        if ports.iot_tls {
            told["iot_websocket"]["tls"] = json!(true);
        }
    }
    if let Some(address) = endpoints.tcp.first() {
        told["tcp"] = json!({ "port": address.port() });
    }
    if let Some(address) = endpoints.websocket.first() {
        told["websocket"] = json!({ "port": address.port(), "path": "/mqtt" });
    }
    if let Some(address) = endpoints.tls.first() {
        told["tls"] = json!({ "port": address.port() });
    }
    if let Some(address) = endpoints.websocket_tls.first() {
        told["websocket_tls"] = json!({ "port": address.port(), "path": "/mqtt" });
    }
    if let Some(url) = &ports.mqtt_public_url {
        told["url"] = json!(url);
    }
    told
}

/// 1 to 64 of `[A-Za-z0-9_.-]`, none of the server's own: less than the replaced routes allow.
pub(crate) fn is_client(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.bytes().all(allowed) && rules::client(name).is_ok()
}

/// A client that joined, and its token.
pub(super) struct Admitted {
    pub(super) session: SessionId,
    pub(super) token: String,
    pub(super) resume: String,
    pub(super) username: String,
    pub(super) expires_at: SystemTime,
}

/// Joins, then makes the token: the decision comes first.
pub(super) async fn join(ports: &Ports, id: Option<SessionId>, shown: Shown, client: &str, peer: SocketAddr) -> Result<Admitted, Refused> {
    let joined = ports.manager.join(id, shown, client.to_owned(), Caller::at(Port::Iot, peer)).await?;
    let grant = joined.grant;
    let grantee = Grantee {
        session: joined.session,
        client_id: client,
        username: ports.username,
        subs: grant.subscribe_list(),
        publ: grant.publish_list(),
    };
    let now = UNIX_EPOCH + Duration::from_secs(joined.now);
    let signed =
        ports.tokens.issue(&grantee, now, ports.manager.world().grant_ttl).map_err(|error| Refused::Internal(error.to_string()))?;
    let username = ports.username.username(joined.session, client);
    Ok(Admitted { session: joined.session, token: signed.token, resume: joined.resume, username, expires_at: signed.expires_at })
}
