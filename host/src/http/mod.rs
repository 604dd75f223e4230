//! The two HTTP ports. A handler parses, makes one call on the session manager, and renders.
//!
//! Admin port (for those whose role suffices, see [`crate::access`]; each route knows only the methods named, HEAD and OPTIONS are 405 like any other):
//!
//! | route | what |
//! | --- | --- |
//! | `GET /api/createSession` `closeSession` `conductorRequest` | as the replaced system, see [`legacy`] |
//! | `POST /v1/sessions` | create |
//! | `GET /v1/sessions` | list, by pages |
//! | `GET` `PATCH` `DELETE /v1/sessions/{id}` | look, change the limits, close |
//! | `POST /v1/sessions/{id}/pin/open` `pin/rotate` | let the pin be tried again, replace it |
//! | `POST /v1/sessions/{id}/requests` | ask the conductor |
//! | `DELETE /v1/sessions/{id}/clients/{client}` | send a client away |
//! | `POST /v1/sessions/{id}/move` | move the session to the present code of its type |
//! | `GET /v1/types` `/v1/types/{name}` | what can be created, with the schemas of methods and config |
//! | `GET /v1/services` | the services and how they are |
//! | `POST /v1/services/{name}/requests` | ask one |
//! | `GET /v1/plugins` | which plugins are loaded, and how many sessions run them |
//! | `POST /v1/plugins/reload` | load changed plugins, and move sessions to them |
//! | `GET /v1/metrics` | counts, in Prometheus's text format |
//! | `GET /livez` `/readyz` | is it alive, is it well |
//!
//! IoT port (public):
//!
//! | route | what |
//! | --- | --- |
//! | `POST /api/joinSession` | as the replaced system |
//! | `POST /v1/sessions/{id}/join` | join with pin, secret or resume token, get a token |
//! | `GET /join/{id}` | what a browser shows of a join link |
//! | `GET /mqtt` | MQTT over WebSocket |
//! | `GET /livez` | is it alive |

pub mod admin;
pub mod body;
pub mod error;
pub mod forwarded;
pub mod iot;
pub mod legacy;
mod limits;
mod metrics;
mod pins;
mod plugins;
pub mod query;
pub mod serve;
mod services;
mod timing;

use std::{convert::Infallible, fmt, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, Path},
    handler::Handler,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde_json::json;
use tokio::sync::watch;

use self::error::Problem;
use crate::{
    access::audit::Audit,
    networks::Networks,
    reload::Reloader,
    services::Services,
    sessions::{Manager, SessionId},
    tokens::{claims::UsernameRule, issue::Tokens},
};

/// What the handlers of both ports share.
pub struct Ports {
    /// Where everything goes.
    pub manager: Arc<Manager>,
    /// The app-wide objects of plugins.
    pub services: Arc<Services>,
    /// Makes what joins get.
    pub tokens: Tokens,
    /// What clients are told to use as their MQTT username.
    pub username: UsernameRule,
    /// What devices are told about MQTT; nothing without a broker.
    pub mqtt_public_url: Option<String>,
    /// Whether there is a broker at all.
    pub has_broker: bool,
    /// Whose `X-Forwarded-For` is believed on the IoT port.
    pub trusted_proxies: Networks,
    /// What the IoT port is called from outside.
    pub public_url: Option<String>,
    /// Whether the IoT port speaks HTTPS.
    pub iot_tls: bool,
    /// Where changes on the admin port are recorded, if anywhere.
    pub audit: Option<Arc<Audit>>,
    /// Loads plugins again.
    pub reloader: Arc<Reloader>,
    /// True from the signal to end on; operations are refused somewhat later.
    pub stopping: watch::Receiver<bool>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("manager", &self.manager).finish_non_exhaustive()
    }
}

/// A route that knows GET alone.
fn only_get<H, T>(handler: H) -> MethodRouter<Arc<Ports>>
where
    H: Handler<T, Arc<Ports>>,
    T: 'static,
{
    // axum answers HEAD with the GET handler where nothing else is said.
    get(handler).head(|| std::future::ready(not_allowed("GET"))).fallback(|| std::future::ready(not_allowed("GET")))
}

/// A route that knows POST alone.
fn only_post<H, T>(handler: H) -> MethodRouter<Arc<Ports>>
where
    H: Handler<T, Arc<Ports>>,
    T: 'static,
{
    post(handler).fallback(|| std::future::ready(not_allowed("POST")))
}

/// The id in a route's path; nothing where what stands there can be no id, percent-escapes that cannot be decoded included.
struct PathId(Option<SessionId>);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(text.ok().and_then(|Path(text)| SessionId::parse(&text))))
    }
}

fn not_allowed(allow: &'static str) -> Response {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this route knows {allow} only"));
    ([(header::ALLOW, allow)], problem).into_response()
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such route")
}

async fn livez() -> impl IntoResponse {
    Json(json!({ "status": "ok" }))
}
