//! The host behind a rig: records, and keeps a virtual time.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk},
    async_ffi::{BorrowingFfiFuture, FfiFuture},
    contract::{Event, Failure, HostObject, Reply},
    rules,
    wire::{self, ClientInfo, JoinRules, PublishMeta, SaveMeta, SleepMeta, TimerMeta, call, code},
};

use super::{Logged, Published};
use crate::{Grants, Saved};

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Duration,
    /// In the order of their first join.
    pub(super) clients: Vec<(String, Grants)>,
    pub(super) rules: JoinRules,
    pub(super) labels: BTreeMap<String, String>,
    /// The version and the bytes.
    pub(super) saved: Option<Saved>,
    pub(super) timers: BTreeMap<String, Armed>,
    /// Clients that were sent away, not told yet.
    pub(super) kicked: Vec<String>,
    pub(super) published: Vec<Published>,
    pub(super) logged: Vec<Logged>,
    pub(super) sleepers: BTreeMap<(Duration, u64), Waker>,
    pub(super) spawned: Vec<FfiFuture<Reply>>,
    pub(super) count: u64,
    /// The conductor asked for it.
    pub(super) closing: bool,
    /// Nothing may be asked any more.
    pub(super) closed: bool,
}

/// A timer that is set.
#[derive(Clone, Copy)]
pub(super) struct Armed {
    pub(super) due: Duration,
    /// Of one moment, the one that was set first comes first.
    pub(super) number: u64,
    pub(super) every: Option<Duration>,
}

impl State {
    pub(super) fn has(&self, client: &str) -> bool {
        self.clients.iter().any(|(known, _)| known == client)
    }

    /// The timer that is due first, of those due by `end`.
    pub(super) fn next_timer(&self, end: Duration) -> Option<(Duration, String)> {
        let (name, first) = self.timers.iter().min_by_key(|(_, armed)| (armed.due, armed.number))?;
        (first.due <= end).then(|| (first.due, name.clone()))
    }

    /// Takes a due timer off, or on to its next due time that is not over yet; how late it is.
    pub(super) fn fire(&mut self, name: &str) -> Duration {
        let Some(armed) = self.timers.get_mut(name) else { return Duration::ZERO };
        let late = self.now.saturating_sub(armed.due);
        match armed.every {
            None => drop(self.timers.remove(name)),
            Some(every) => {
                let periods = late.as_millis() / every.as_millis().max(1) + 1;
                armed.due += every * u32::try_from(periods).unwrap_or(u32::MAX);
            }
        }
        late
    }
}

pub(in crate::testing) fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct FakeHost(pub(super) Arc<Mutex<State>>);

impl FakeHost {
    fn answer(&self, call: &Event<'_>) -> Result<Vec<u8>, Failure> {
        let mut state = lock(&self.0);
        match call.kind.as_str() {
            call::NOW => Ok(state.now.as_millis().to_string().into_bytes()),
            _ if state.closed => Err(Failure::new(code::CLOSED, "the session is closed")),
            call::CLIENTS => {
                let infos: Vec<_> = state.clients.iter().map(|(id, _)| client_info(id)).collect();
                serde_json::to_vec(&infos).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
            }
            call::PUBLISH => {
                let meta: PublishMeta = meta(call)?;
                let name = call.subject.to_string();
                rules::publish(&name, meta.qos).map_err(refused)?;
                let client = Some(call.client.to_string()).filter(|client| !client.is_empty());
                if let Some(client) = client.as_ref().filter(|client| !state.has(client)) {
                    return Err(nobody(client));
                }
                let payload = call.body.to_vec();
                state.published.push(Published { client, name, payload, qos: meta.qos, retain: meta.retain });
                Ok(Vec::new())
            }
            call::SAVE => {
                let meta: SaveMeta = meta(call)?;
                rules::state(call.body.len(), rules::MAX_STATE).map_err(refused)?;
                state.saved = Some(Saved::new(meta.version, call.body.to_vec()));
                Ok(Vec::new())
            }
            call::TIMER => {
                let (name, meta) = (call.subject.to_string(), meta::<TimerMeta>(call)?);
                let others = state.timers.len() - usize::from(state.timers.contains_key(&name));
                rules::timer(&name, &meta, others).map_err(refused)?;
                state.count += 1;
                let due = state.now + Duration::from_millis(meta.after.max(1));
                let armed = Armed { due, number: state.count, every: meta.every.map(Duration::from_millis) };
                state.timers.insert(name, armed);
                Ok(Vec::new())
            }
            call::CANCEL_TIMER => {
                state.timers.remove(call.subject.as_str());
                Ok(Vec::new())
            }
            call::GRANT => {
                let grants: wire::Grants = body(call)?;
                rules::grants(&grants).map_err(refused)?;
                let client = call.client.as_str();
                let known = state.clients.iter_mut().find(|(known, _)| known == client).ok_or_else(|| nobody(client))?;
                known.1 = Grants::from_wire(grants);
                Ok(Vec::new())
            }
            call::KICK => {
                let client = call.client.to_string();
                if !state.has(&client) {
                    return Err(nobody(&client));
                }
                state.clients.retain(|(known, _)| *known != client);
                state.kicked.push(client);
                Ok(Vec::new())
            }
            call::JOIN_RULES => {
                let changed: JoinRules = body(call)?;
                let JoinRules { locked, max_clients, .. } = state.rules;
                (state.rules.locked, state.rules.max_clients) = (changed.locked.or(locked), changed.max_clients.or(max_clients));
                Ok(Vec::new())
            }
            call::LABELS => {
                let labels = body(call)?;
                rules::labels(&labels).map_err(refused)?;
                state.labels = labels;
                Ok(Vec::new())
            }
            call::CLOSE => {
                if std::mem::replace(&mut state.closing, true) {
                    return Err(Failure::new(code::CLOSED, "the session is being closed already"));
                }
                Ok(Vec::new())
            }
            other => Err(Failure::new(code::UNSUPPORTED, format!("the rig does not know {other:?}"))),
        }
    }
}

pub(in crate::testing) fn refused(reason: String) -> Failure {
    Failure::new(code::REFUSED, reason)
}

fn nobody(client: &str) -> Failure {
    refused(format!("there is no client {client:?} in this session"))
}

fn body<T: serde::de::DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
    serde_json::from_slice(call.body.as_slice()).map_err(|e| refused(format!("the body of {:?} does not fit: {e}", call.kind.as_str())))
}

pub(in crate::testing) fn meta<T: Default + serde::de::DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
    if call.meta.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(call.meta.as_slice()).map_err(|e| Failure::new(code::REFUSED, e.to_string()))
}

impl HostObject for FakeHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        BorrowingFfiFuture::new(async move {
            if call.kind.as_str() != call::SLEEP {
                return self.answer(&call).map(Into::into).into();
            }
            match meta::<SleepMeta>(&call) {
                Ok(sleep) => {
                    let due = lock(&self.0).now + Duration::from_micros(sleep.micros);
                    Sleep { state: &self.0, due, key: None }.await;
                    ROk(Vec::new().into())
                }
                Err(failure) => RErr(failure),
            }
        })
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        let mut state = lock(&self.0);
        if state.closed {
            return Err(Failure::new(code::CLOSED, "the session is closed"));
        }
        state.spawned.push(task);
        state.count += 1;
        Ok(state.count)
    }

    fn log(&self, level: u8, _: &str, message: &str, _: &[u8]) {
        lock(&self.0).logged.push(Logged { level, message: message.to_owned() });
    }
}

struct Sleep<'a> {
    state: &'a Mutex<State>,
    due: Duration,
    /// Its place among the sleepers, once it waits.
    key: Option<(Duration, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(self.state);
        if state.now >= self.due {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            state.count += 1;
            (self.due, state.count)
        });
        state.sleepers.insert(key, cx.waker().clone());
        drop(state);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        // A sleep that was given up must not move the time.
        if let Some(key) = self.key {
            let waker = lock(self.state).sleepers.remove(&key);
            drop(waker);
        }
    }
}

pub(in crate::testing) fn client_info(id: &str) -> ClientInfo {
    let mut info = ClientInfo::default();
    info.client_id = id.to_owned();
    info
}
