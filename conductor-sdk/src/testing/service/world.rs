//! The sessions behind a service's rig, and the host as the service sees it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use conductor_abi::{
    async_ffi::{BorrowingFfiFuture, FfiFuture},
    contract::{Event, Failure, HostObject, Reply},
    rules,
    wire::{self, PublishMeta, SessionMeta, SessionsMeta, call, code, event, state},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    super::fake::{FakeHost, lock, meta, payload, refused},
    Announced, Asked,
};
use crate::{Error, error::into_failure};

type Answers = Box<dyn FnMut(&Asked) -> crate::Result<Value> + Send>;

/// The sessions behind a rig.
pub(super) struct World {
    pub(super) sessions: BTreeMap<String, Known>,
    made: u32,
    pub(super) announced: Vec<Announced>,
    pub(super) created: Vec<String>,
    pub(super) closed: Vec<String>,
    pub(super) asked: Vec<Asked>,
    pub(super) answers: Answers,
    /// Sessions that were opened and closed, not told yet: kind, subject, id, type.
    pub(super) news: Vec<(&'static str, &'static str, String, String)>,
}

pub(super) struct Known {
    type_name: String,
    created_at: u64,
    pub(super) clients: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sessions: BTreeMap::new(),
            made: 0,
            announced: Vec::new(),
            created: Vec::new(),
            closed: Vec::new(),
            asked: Vec::new(),
            answers: Box::new(|asked| Err(Error::of(code::UNKNOWN_METHOD, format!("there is no method {:?}", asked.method)))),
            news: Vec::new(),
        }
    }
}

impl World {
    pub(super) fn open(&mut self, type_name: &str, now: Duration) -> String {
        self.made += 1;
        let id = (100_000 + self.made).to_string();
        let created_at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.sessions.insert(id.clone(), Known { type_name: type_name.to_owned(), created_at, clients: Vec::new() });
        self.news.push((event::SESSION_OPENED, "", id.clone(), type_name.to_owned()));
        id
    }

    pub(super) fn close(&mut self, id: &str, reason: &'static str) -> Result<(), Failure> {
        let known = self.sessions.remove(id).ok_or_else(|| no_such_session(id))?;
        self.news.push((event::SESSION_CLOSED, reason, id.to_owned(), known.type_name));
        Ok(())
    }

    pub(super) fn known(&self, id: &str) -> Result<&Known, Failure> {
        self.sessions.get(id).ok_or_else(|| no_such_session(id))
    }
}

pub(super) fn no_such_session(id: &str) -> Failure {
    Failure::new(code::NO_SUCH_SESSION, format!("there is no session {id:?}"))
}

/// The host as a service sees it: time, tasks and log are those of any rig.
pub(super) struct FakeApp {
    pub(super) base: FakeHost,
    pub(super) world: Arc<Mutex<World>>,
}

impl FakeApp {
    fn answer(&self, call: &Event<'_>) -> Result<Vec<u8>, Failure> {
        let now = {
            let state = lock(&self.base.0);
            if state.closed {
                return Err(Failure::new(code::CLOSED, "the service is closed"));
            }
            state.now
        };
        let subject = call.subject.as_str();
        let mut world = lock(&self.world);
        match call.kind.as_str() {
            call::SESSIONS => json(&page(&world, &meta(call)?)),
            call::CREATE_SESSION => {
                if !rules::is_settings_name(subject) {
                    return Err(refused(format!("there is no type {subject:?}")));
                }
                let id = world.open(subject, now);
                world.created.push(id.clone());
                let mut created = wire::SessionCreated::default();
                (created.id, created.pin) = (id, "000000".to_owned());
                json(&created)
            }
            call::CLOSE_SESSION => {
                let SessionMeta { session, .. } = meta(call)?;
                world.close(&session, wire::close::REQUESTED)?;
                world.closed.push(session);
                Ok(Vec::new())
            }
            call::CLIENTS => {
                let SessionMeta { session, .. } = meta(call)?;
                json(&world.known(&session)?.clients.iter().map(|id| client_info(id)).collect::<Vec<_>>())
            }
            call::ASK => {
                let SessionMeta { session, .. } = meta(call)?;
                world.known(&session)?;
                let params = serde_json::from_slice(call.body.as_slice()).map_err(|e| refused(e.to_string()))?;
                let asked = Asked { session, method: subject.to_owned(), params };
                let answer = (world.answers)(&asked);
                world.asked.push(asked);
                json(&answer.map_err(into_failure)?)
            }
            call::PUBLISH => {
                let PublishMeta { qos, retain, .. } = meta(call)?;
                let SessionMeta { session, .. } = meta(call)?;
                if session.is_empty() {
                    return Err(refused("a service says in which session it publishes".into()));
                }
                rules::publish(subject, qos).map_err(refused)?;
                let client = Some(call.client.to_string()).filter(|client| !client.is_empty());
                let known = world.known(&session)?;
                if let Some(client) = client.as_ref().filter(|client| !known.clients.contains(client)) {
                    return Err(refused(format!("there is no client {client:?} in this session")));
                }
                let (name, payload) = (subject.to_owned(), payload(call)?);
                world.announced.push(Announced { session, client, name, payload, qos, retain });
                Ok(Vec::new())
            }
            other => Err(Failure::new(code::UNSUPPORTED, format!("a service cannot call {other:?}"))),
        }
    }
}

fn client_info(id: &str) -> wire::ClientInfo {
    let mut info = wire::ClientInfo::default();
    info.client_id = id.to_owned();
    info
}

fn page(world: &World, wanted: &SessionsMeta) -> Vec<wire::SessionInfo> {
    let behind = |id: &str| wanted.after.as_deref().is_none_or(|after| id > after);
    let most = if wanted.limit == 0 { usize::MAX } else { wanted.limit as usize };
    let info = |(id, known): (&String, &Known)| {
        let mut info = wire::SessionInfo::default();
        (info.id, info.type_name, info.created_at) = (id.clone(), known.type_name.clone(), known.created_at);
        (info.state, info.clients) = (state::LIVE.to_owned(), known.clients.len() as u64);
        info
    };
    world.sessions.iter().filter(|(id, _)| behind(id)).take(most).map(info).collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
}

impl HostObject for FakeApp {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        match call.kind.as_str() {
            call::NOW | call::SLEEP => self.base.call(call),
            _ => BorrowingFfiFuture::new(async move { self.answer(&call).map(Into::into).into() }),
        }
    }

    fn spawn(&self, meta: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        self.base.spawn(meta, task)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        self.base.log(level, target, message, fields);
    }
}
