//! The loaded plugins: what is in use, reload, move.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, body::Body, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{PathId, Ports, body, error::Problem};
use crate::{
    conductors::library::Hash,
    reload::{Change, NotReloaded, Report},
    sessions::{
        manager::Refused,
        moving::Outcome,
        upgrade::{InUse, Tally, Which},
    },
};

const BODY: usize = 4096;

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(super) async fn list(State(ports): State<Arc<Ports>>) -> Json<Value> {
    // It looks at every session: not what a thread of the runtime should be kept with.
    let manager = ports.manager.clone();
    let mut plugins = tokio::task::spawn_blocking(move || manager.plugins()).await.unwrap_or_default();
    let mut services = BTreeMap::<Hash, Vec<String>>::new();
    for service in ports.services.all() {
        let Ok(plugin) = service.plugin() else { continue };
        let hash = plugin.library.hash();
        services.entry(hash).or_default().push(service.name().to_owned());
        if !plugins.iter().any(|known| known.library.hash() == hash) {
            plugins.push(InUse { library: plugin.library.clone(), types: Vec::new(), sessions: 0, session_ids: Vec::new() });
        }
    }
    let items: Vec<Value> = plugins.iter().map(|plugin| describe(plugin, services.get(&plugin.library.hash()))).collect();
    Json(json!({ "items": items }))
}

fn describe(plugin: &InUse, services: Option<&Vec<String>>) -> Value {
    let InUse { library, types, sessions, session_ids } = plugin;
    let conductors: Vec<&str> = library.manifest().conductors.iter().map(|conductor| &*conductor.name).collect();
    let types: Vec<&str> = types.iter().map(|name| &**name).collect();
    json!({
        "file": library.file(),
        "sha256": library.hash(),
        "size": library.size(),
        "abi": library.abi(),
        "sdk": library.manifest().sdk,
        "conductors": conductors,
        "types": types,
        "services": services.map_or(&[][..], Vec::as_slice),
        "sessions": sessions,
        "session_ids": session_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "old": types.is_empty() && services.is_none(),
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reload {
    #[serde(default, rename = "move")]
    which: Moves,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Moves {
    #[default]
    None,
    Saved,
    All,
}

#[derive(Serialize)]
struct TypeView<'a> {
    r#type: &'a str,
    #[serde(flatten)]
    change: &'a Change,
    sessions: TallyView<'a>,
}

#[derive(Serialize)]
struct ServiceView<'a> {
    service: &'a str,
    #[serde(flatten)]
    change: &'a Change,
}

#[derive(Serialize)]
struct TallyView<'a> {
    moved: usize,
    stayed: usize,
    failed: usize,
    tried_again: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailureView<'a>>,
}

#[derive(Serialize)]
struct FailureView<'a> {
    session: String,
    reason: &'a str,
}

pub(super) async fn reload(State(ports): State<Arc<Ports>>, body: Body) -> Result<Json<Value>, Problem> {
    let text = body::read(body, BODY).await?;
    let Reload { which } = if text.trim_ascii().is_empty() { Reload::default() } else { body::parse(&text)? };
    let which = match which {
        Moves::None => Which::None,
        Moves::Saved => Which::Saved,
        Moves::All => Which::All,
    };
    let report = ports.reloader.reload(which, false).await?;
    Ok(Json(render(&report)))
}

fn render(report: &Report) -> Value {
    let none = Tally::default();
    let types: Vec<TypeView<'_>> = report
        .types
        .iter()
        .map(|(name, change)| {
            let tally = report.sessions.get(name).unwrap_or(&none);
            let failures = tally.failures.iter().map(|(session, reason)| FailureView { session: session.to_string(), reason });
            let Tally { moved, stayed, failed, tried_again, .. } = *tally;
            TypeView { r#type: name, change, sessions: TallyView { moved, stayed, failed, tried_again, failures: failures.collect() } }
        })
        .collect();
    // Types that the settings have not named for longer, and still have sessions.
    let gone: BTreeMap<&str, usize> =
        report.sessions.iter().filter(|(name, _)| !report.types.contains_key(*name)).map(|(name, tally)| (&**name, tally.stayed)).collect();
    let services: Vec<ServiceView<'_>> = report.services.iter().map(|(name, change)| ServiceView { service: name, change }).collect();
    json!({
        "types": types,
        "stayed_of_removed_types": gone,
        "services": services,
        "needs_restart": report.needs_restart,
        "millis": report.millis,
    })
}

pub(super) async fn move_session(State(ports): State<Arc<Ports>>, PathId(id): PathId) -> Result<Json<Value>, Problem> {
    let id = id.ok_or(Refused::NoSuchSession)?;
    match ports.manager.move_session(id).await? {
        Outcome::Moved { from, to } => Ok(Json(json!({ "moved": true, "old": from, "new": to }))),
        Outcome::Stayed(reason) => Ok(Json(json!({ "moved": false, "reason": &*reason }))),
        Outcome::Failed(reason) => Err(Problem::new(StatusCode::BAD_GATEWAY, "not_moved", format!("the session did not move: {reason}"))),
    }
}

impl From<NotReloaded> for Problem {
    fn from(error: NotReloaded) -> Self {
        let text = error.to_string();
        match error {
            NotReloaded::WrongSettings(mistakes) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_settings", text).with("mistakes", mistakes)
            }
            NotReloaded::Stuck => Self::new(StatusCode::GATEWAY_TIMEOUT, "reload_stuck", text),
            NotReloaded::Running => Self::new(StatusCode::CONFLICT, "reload_running", text),
            NotReloaded::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", text),
            NotReloaded::Internal(_) => {
                tracing::error!("{text}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
            }
        }
    }
}
