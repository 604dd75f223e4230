//! What a conductor may change about its session: state, timers, clients, labels.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use conductor_abi::{
    contract::{Event, Failure},
    rules,
    wire::{Grants, JoinRules, SaveMeta, TimerMeta, call, code},
};
use serde::de::DeserializeOwned;

use super::services::meta;
use crate::{
    sessions::{
        Caller, Manager, Session,
        manager::{Refused, to_its_end},
        timers::TimerError,
    },
    store::{Change, SavedState, StoreError},
};

/// Answers a call of the conductor of this `life` that changes the session.
pub(crate) async fn answer(session: &Arc<Session>, life: u32, call: &Event<'_>) -> Result<Vec<u8>, Failure> {
    let id = session.id();
    let (subject, client) = (call.subject.as_str(), call.client.as_str());
    match call.kind.as_str() {
        call::SAVE => {
            let SaveMeta { version, .. } = meta(call)?;
            rules::state(call.body.len(), session.world().max_state).map_err(refused)?;
            let state = SavedState { version, bytes: Bytes::copy_from_slice(call.body.as_slice()) };
            change(session, life, Change::Save { id, state }).await
        }
        call::TIMER => set_timer(session, life, subject, Some(meta::<TimerMeta>(call)?)).await,
        call::CANCEL_TIMER => set_timer(session, life, subject, None).await,
        call::GRANT => {
            let grants: Grants = body(call)?;
            rules::grants(&grants).map_err(refused)?;
            let (manager, session, client_id) = (manager(session)?, session.clone(), client.to_owned());
            let done = to_its_end(async move { manager.set_grants(&session, &client_id, grants).await }).await;
            done.map(|()| Vec::new()).map_err(|error| failure(error, client))
        }
        call::KICK => {
            let done = manager(session)?.kick(session, client, Caller::host()).await;
            done.map(|()| Vec::new()).map_err(|error| failure(error, client))
        }
        call::JOIN_RULES => {
            let JoinRules { locked, max_clients, .. } = body(call)?;
            change(session, life, Change::JoinRules { id, locked, max_clients }).await
        }
        call::LABELS => {
            let labels: BTreeMap<String, String> = body(call)?;
            rules::labels(&labels).map_err(refused)?;
            change(session, life, Change::Labels { id, labels }).await
        }
        other => Err(Failure::new(code::UNSUPPORTED, format!("this host does not know the call {other:?}"))),
    }
}

async fn set_timer(session: &Arc<Session>, life: u32, name: &str, timer: Option<TimerMeta>) -> Result<Vec<u8>, Failure> {
    let (manager, session, name) = (manager(session)?, session.clone(), name.to_owned());
    // A rule that it does not keep is told apart from a refusal.
    let done = to_its_end(async move { Ok(manager.set_timer(&session, life, &name, timer.as_ref()).await) }).await;
    match done.unwrap_or_else(|error| Err(TimerError::Refused(error))) {
        Ok(()) => Ok(Vec::new()),
        Err(TimerError::Rule(reason)) => Err(refused(reason)),
        Err(TimerError::Refused(error)) => Err(failure(error, "")),
    }
}

/// To its end: a handler that is given up meanwhile must not leave a session that knows another record than the store.
async fn change(session: &Arc<Session>, life: u32, change: Change) -> Result<Vec<u8>, Failure> {
    let session = session.clone();
    let done = to_its_end(async move { session.change_by(life, change).await.map_err(Refused::from) }).await;
    done.map(|()| Vec::new()).map_err(|error| failure(error, ""))
}

fn manager(session: &Session) -> Result<Arc<Manager>, Failure> {
    session.world().manager.upgrade().ok_or_else(|| Failure::new(code::CLOSED, rules::STOPPING))
}

fn refused(reason: String) -> Failure {
    Failure::new(code::REFUSED, reason)
}

fn failure(error: Refused, client: &str) -> Failure {
    let code = match &error {
        Refused::NoSuchClient => return refused(format!("there is no client {client:?} in this session")),
        Refused::NoSuchSession | Refused::Stopping => code::CLOSED,
        Refused::Store(StoreError::Write(_)) => code::UNAVAILABLE,
        _ => code::INTERNAL,
    };
    Failure::new(code, error.to_string())
}

fn body<T: DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
    serde_json::from_slice(call.body.as_slice()).map_err(|e| refused(format!("the body of {:?} does not fit: {e}", call.kind.as_str())))
}

#[cfg(test)]
#[path = "asks_tests.rs"]
mod tests;
