//! The host behind a rig: records, and keeps a virtual time. What may be asked is decided by `conductor_abi::rules`, as in the host.

use std::{
    collections::{BTreeMap, BTreeSet},
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
use crate::{CloseReason, Grants, Saved};

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Duration,
    /// In the order of their first join.
    pub(super) clients: Vec<Member>,
    pub(super) rules: JoinRules,
    pub(super) labels: BTreeMap<String, String>,
    /// The version and the bytes.
    pub(super) saved: Option<Saved>,
    pub(super) timers: BTreeMap<String, Armed>,
    /// Clients that were sent away, not told yet.
    pub(super) leaving: Vec<String>,
    /// Clients that were sent away, for the test to look at.
    pub(super) kicked: Vec<String>,
    pub(super) published: Vec<Published>,
    pub(super) logged: Vec<Logged>,
    pub(super) sleepers: BTreeMap<(Duration, u64), Sleeper>,
    /// An event is being polled, and not a task.
    pub(super) in_event: bool,
    pub(super) spawned: Vec<FfiFuture<Reply>>,
    /// Tasks beside `spawned`.
    pub(super) running: usize,
    pub(super) count: u64,
    /// A new session is being made: it is not in the store yet.
    pub(super) making: bool,
    /// The conductor asked for its end.
    pub(super) closing: bool,
    /// Its last event is told, for this reason.
    pub(super) ending: Option<CloseReason>,
    /// The conductor panicked.
    pub(super) faulted: bool,
    /// Nothing may be asked any more.
    pub(super) closed: bool,
    /// The names of all events that were told and of all calls that were made.
    pub(super) told: BTreeSet<String>,
    pub(super) asked: BTreeSet<String>,
}

/// A client that joined.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) grants: Grants,
    /// In seconds since the Unix epoch.
    pub(super) expires_at: u64,
}

/// A timer that is set.
#[derive(Clone, Copy)]
pub(super) struct Armed {
    pub(super) due: Duration,
    /// Of one moment, the one that was set first comes first.
    pub(super) number: u64,
    pub(super) every: Option<Duration>,
}

pub(super) struct Sleeper {
    pub(super) waker: Waker,
    /// Of the event that is handled, and not of a task.
    pub(super) of_event: bool,
}

impl State {
    pub(super) fn has(&self, client: &str) -> bool {
        self.clients.iter().any(|member| member.id == client)
    }

    pub(super) fn member(&mut self, client: &str) -> Option<&mut Member> {
        self.clients.iter_mut().find(|member| member.id == client)
    }

    /// The timer that is due first, of those due by `end`.
    pub(super) fn next_timer(&self, end: Duration) -> Option<(Duration, String)> {
        let (name, first) = self.timers.iter().min_by_key(|(_, armed)| (armed.due, armed.number))?;
        (first.due <= end).then(|| (first.due, name.clone()))
    }

    /// The client whose grant ends first, of those that end by `end`.
    pub(super) fn next_expiry(&self, end: Duration) -> Option<(Duration, String)> {
        let first = self.clients.iter().min_by_key(|member| member.expires_at)?;
        let ends = Duration::from_secs(first.expires_at);
        (ends <= end).then(|| (ends, first.id.clone()))
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

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the session itself is over, and not its conductor alone.
    fn ends(&self) -> bool {
        let conductor_alone = |reason| matches!(reason, CloseReason::HostStopping | CloseReason::Replaced);
        self.closing || self.ending.is_some_and(|reason| !conductor_alone(reason))
    }

    /// Whether the session is in the store, where the rest of what it is lies.
    fn stored(&self) -> Result<(), Failure> {
        if self.ends() { Err(closed(rules::NOT_STORED)) } else { Ok(()) }
    }

    fn host_runs(&self) -> Result<(), Failure> {
        if self.ending == Some(CloseReason::HostStopping) { Err(closed(rules::STOPPING)) } else { Ok(()) }
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
            call::NOW => return Ok(state.millis().to_string().into_bytes()),
            _ if state.closed || state.faulted => return Err(closed(rules::CLOSED)),
            call::CLIENTS => {
                let now = state.now.as_secs();
                let infos: Vec<_> = state.clients.iter().filter(|member| member.expires_at > now).map(client_info).collect();
                return serde_json::to_vec(&infos).map_err(|e| Failure::new(code::INTERNAL, e.to_string()));
            }
            call::PUBLISH => publish(&mut state, call)?,
            call::SAVE => {
                let meta: SaveMeta = meta(call)?;
                rules::state(call.body.len(), rules::MAX_STATE).map_err(refused)?;
                state.stored()?;
                state.saved = Some(Saved::new(meta.version, call.body.to_vec()));
            }
            call::TIMER => {
                let (name, meta) = (call.subject.to_string(), meta::<TimerMeta>(call)?);
                let others = state.timers.len() - usize::from(state.timers.contains_key(&name));
                rules::timer(&name, &meta, others).map_err(refused)?;
                state.stored()?;
                state.count += 1;
                let due = state.now + Duration::from_millis(meta.after.max(1));
                let armed = Armed { due, number: state.count, every: meta.every.map(Duration::from_millis) };
                state.timers.insert(name, armed);
            }
            call::CANCEL_TIMER => {
                if state.timers.contains_key(call.subject.as_str()) {
                    state.stored()?;
                    state.timers.remove(call.subject.as_str());
                }
            }
            call::GRANT => {
                let grants: wire::Grants = body(call)?;
                rules::grants(&grants).map_err(refused)?;
                state.host_runs()?;
                state.stored()?;
                let client = call.client.as_str();
                state.member(client).ok_or_else(|| nobody(client))?.grants = Grants::from_wire(grants);
            }
            call::KICK => {
                let client = call.client.to_string();
                state.host_runs()?;
                if !state.has(&client) {
                    return Err(nobody(&client));
                }
                state.stored()?;
                state.clients.retain(|member| member.id != client);
                state.leaving.push(client.clone());
                state.kicked.push(client);
            }
            call::JOIN_RULES => {
                let changed: JoinRules = body(call)?;
                state.stored()?;
                let JoinRules { locked, max_clients, .. } = state.rules;
                (state.rules.locked, state.rules.max_clients) = (changed.locked.or(locked), changed.max_clients.or(max_clients));
            }
            call::LABELS => {
                let labels = body(call)?;
                rules::labels(&labels).map_err(refused)?;
                state.stored()?;
                state.labels = labels;
            }
            call::CLOSE => {
                if state.making || state.ends() || state.ending == Some(CloseReason::HostStopping) {
                    return Err(closed(rules::NOT_CLOSABLE));
                }
                state.closing = true;
            }
            other => return Err(Failure::new(code::UNSUPPORTED, format!("the rig does not know {other:?}"))),
        }
        Ok(Vec::new())
    }
}

fn publish(state: &mut State, call: &Event<'_>) -> Result<(), Failure> {
    let meta: PublishMeta = meta(call)?;
    let name = call.subject.to_string();
    rules::publish(&name, meta.qos).map_err(refused)?;
    let client = Some(call.client.to_string()).filter(|client| !client.is_empty());
    if let Some(client) = client.as_ref().filter(|client| !state.has(client)) {
        return Err(nobody(client));
    }
    let payload = payload(call)?;
    state.published.push(Published { client, name, payload, qos: meta.qos, retain: meta.retain });
    Ok(())
}

/// What a broker takes of a message.
pub(in crate::testing) fn payload(call: &Event<'_>) -> Result<Vec<u8>, Failure> {
    rules::payload(call.body.len(), rules::MAX_PAYLOAD)
        .map_err(|reason| Failure::new(code::UNAVAILABLE, format!("the MQTT broker failed: {reason}")))?;
    Ok(call.body.to_vec())
}

fn closed(reason: &str) -> Failure {
    Failure::new(code::CLOSED, reason)
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
    serde_json::from_slice(call.meta.as_slice()).map_err(|e| refused(format!("the meta of {:?} does not fit: {e}", call.kind.as_str())))
}

impl HostObject for FakeHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        lock(&self.0).asked.insert(call.kind.to_string());
        BorrowingFfiFuture::new(async move {
            if call.kind.as_str() != call::SLEEP {
                return self.answer(&call).map(Into::into).into();
            }
            match self.sleep(&call).await {
                Ok(()) => ROk(Vec::new().into()),
                Err(failure) => RErr(failure),
            }
        })
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        let mut state = lock(&self.0);
        if state.closed || state.faulted {
            return Err(closed(rules::CLOSED));
        }
        if state.spawned.len() + state.running >= rules::MAX_TASKS {
            return Err(Failure::new(code::OVERLOADED, rules::TOO_MANY_TASKS));
        }
        state.spawned.push(task);
        state.count += 1;
        Ok(state.count)
    }

    fn log(&self, level: u8, _: &str, message: &str, _: &[u8]) {
        lock(&self.0).logged.push(Logged { level, message: message.to_owned() });
    }
}

impl FakeHost {
    fn is_over(&self) -> Result<(), Failure> {
        let state = lock(&self.0);
        if state.closed || state.faulted { Err(closed(rules::CLOSED)) } else { Ok(()) }
    }

    async fn sleep(&self, call: &Event<'_>) -> Result<(), Failure> {
        self.is_over()?;
        let sleep: SleepMeta = meta(call)?;
        let due = lock(&self.0).now.saturating_add(Duration::from_micros(sleep.micros));
        Sleep { state: &self.0, due, key: None }.await;
        self.is_over()
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
        let sleeper = Sleeper { waker: cx.waker().clone(), of_event: state.in_event };
        let before = state.sleepers.insert(key, sleeper);
        drop(state);
        drop(before);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        // A sleep that was given up must not move the time.
        if let Some(key) = self.key {
            let sleeper = lock(self.state).sleepers.remove(&key);
            drop(sleeper);
        }
    }
}

fn client_info(member: &Member) -> ClientInfo {
    let mut info = ClientInfo::default();
    (info.client_id, info.expires_at) = (member.id.clone(), Some(member.expires_at));
    info
}
