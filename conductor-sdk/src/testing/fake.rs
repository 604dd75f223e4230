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
    wire::{ClientInfo, PublishMeta, SleepMeta, call, code},
};

use super::{Logged, Published};

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Duration,
    pub(super) clients: Vec<String>,
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

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
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
                let infos: Vec<_> = state.clients.iter().map(|id| client_info(id)).collect();
                serde_json::to_vec(&infos).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
            }
            call::PUBLISH => {
                let meta: PublishMeta = meta(call)?;
                let name = call.subject.to_string();
                if name.is_empty() || name.contains(['+', '#', '\0']) || meta.qos > 2 {
                    return Err(Failure::new(code::REFUSED, format!("{name:?} with QoS {} cannot be published", meta.qos)));
                }
                let client = Some(call.client.to_string()).filter(|client| !client.is_empty());
                if let Some(client) = &client
                    && !state.clients.contains(client)
                {
                    return Err(Failure::new(code::REFUSED, format!("there is no client {client:?} in this session")));
                }
                let payload = call.body.to_vec();
                state.published.push(Published { client, name, payload, qos: meta.qos, retain: meta.retain });
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

fn meta<T: Default + serde::de::DeserializeOwned>(call: &Event<'_>) -> Result<T, Failure> {
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

fn client_info(id: &str) -> ClientInfo {
    let mut info = ClientInfo::default();
    info.client_id = id.to_owned();
    info
}
