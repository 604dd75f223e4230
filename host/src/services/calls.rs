//! What a service may ask of the host.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use conductor_abi::{
    async_ffi::{BorrowingFfiFuture, FfiFuture},
    contract::{Event, Failure, HostObject, Reply},
    wire::{SessionCreated, SessionInfo, SessionMeta, SessionsMeta, SleepMeta, call, code, state},
};
use serde::Serialize;
use tokio::runtime::Handle;

use super::{Service, service::ONE_LIFE};
use crate::{
    conductors::{
        Trouble,
        services::{OnHost, Sending, clients, log_line, meta, no_task, present, publish, reply},
    },
    sessions::{Caller, CloseReason, Manager, Session, SessionId, Status, manager::Refused, task::Task},
    store::StoreError,
};

/// Sessions in one page, at most and where the service does not say.
const PAGE: usize = 10_000;

/// The host, as a service sees it. Holds it weakly: the service owns the object that owns this.
pub(super) struct ServiceHost {
    service: Weak<Service>,
    name: Arc<str>,
    runtime: Handle,
}

impl ServiceHost {
    pub(super) fn new(service: &Arc<Service>) -> Self {
        let (name, runtime) = (service.wanted().name.clone(), service.world().pool.runtime().clone());
        Self { service: Arc::downgrade(service), name, runtime }
    }

    fn service(&self) -> Result<Arc<Service>, Failure> {
        self.service.upgrade().filter(|service| !service.status().is_over()).ok_or_else(closed)
    }

    fn manager(&self) -> Result<Arc<Manager>, Failure> {
        self.service()?.world().manager.upgrade().ok_or_else(closed)
    }

    /// The calls that need no waiting.
    fn answer_now(&self, call: &Event<'_>) -> Option<Result<Vec<u8>, Failure>> {
        Some(match call.kind.as_str() {
            call::NOW => self.service.upgrade().map(|service| service.world().clock.millis().to_string().into_bytes()).ok_or_else(closed),
            call::CLIENTS => self.manager().and_then(|manager| clients(&*session(&manager, &which(call)?)?)),
            call::SESSIONS | call::CREATE_SESSION | call::CLOSE_SESSION | call::ASK | call::PUBLISH | call::SLEEP => return None,
            other => Err(Failure::new(code::UNSUPPORTED, format!("{other:?} is nothing that a service can ask of this host"))),
        })
    }

    async fn answer(&self, call: Event<'_>) -> Result<Vec<u8>, Failure> {
        let (manager, caller) = (self.manager()?, Caller::service(&self.name));
        match call.kind.as_str() {
            call::SESSIONS => {
                let wanted: SessionsMeta = meta(&call)?;
                // It looks at very many sessions perhaps: too long for a thread for plugin code.
                let found = tokio::task::spawn_blocking(move || sessions(&manager, &wanted)).await;
                found.map_err(|error| Failure::new(code::INTERNAL, error.to_string()))?
            }
            call::CREATE_SESSION => {
                let made = manager.create(call.subject.as_str(), caller).await.map_err(|refused| failure(refused, ""))?;
                let mut created = SessionCreated::default();
                (created.id, created.pin) = (made.id().to_string(), made.record().pin.reveal());
                json(&created)
            }
            call::CLOSE_SESSION => {
                let named = which(&call)?;
                let id = SessionId::parse(&named).ok_or_else(|| no_such_session(&named))?;
                let closed = manager.close(id, CloseReason::Requested, caller).await;
                closed.map(|()| Vec::new()).map_err(|refused| failure(refused, &named))
            }
            call::ASK => {
                let named = which(&call)?;
                let id = SessionId::parse(&named).ok_or_else(|| no_such_session(&named))?;
                let params = Bytes::copy_from_slice(call.body.as_slice());
                let asked = manager.request(id, call.subject.to_string(), params, caller).await;
                asked.map_err(|refused| failure(refused, &named))
            }
            call::PUBLISH => {
                let sending: Sending = meta(&call)?;
                if sending.session.is_empty() {
                    return Err(Failure::new(code::REFUSED, "a service says in which session it publishes"));
                }
                publish(&*session(&manager, &sending.session)?, &call, &sending).await
            }
            _ => {
                let SleepMeta { micros, .. } = meta(&call)?;
                drop(manager);
                tokio::time::sleep(Duration::from_micros(micros)).await;
                self.service().map(|_| Vec::new())
            }
        }
    }
}

fn closed() -> Failure {
    Failure::new(code::CLOSED, "the service is closed")
}

fn no_such_session(named: &str) -> Failure {
    Failure::new(code::NO_SUCH_SESSION, format!("there is no session {named:?}"))
}

/// The session that a call names.
fn which(call: &Event<'_>) -> Result<String, Failure> {
    meta::<SessionMeta>(call).map(|meta| meta.session)
}

fn session(manager: &Manager, named: &str) -> Result<Arc<Session>, Failure> {
    SessionId::parse(named).and_then(|id| manager.get(id)).ok_or_else(|| no_such_session(named))
}

fn sessions(manager: &Manager, wanted: &SessionsMeta) -> Result<Vec<u8>, Failure> {
    let after = match &wanted.after {
        None => None,
        Some(text) => Some(SessionId::parse(text).ok_or_else(|| Failure::new(code::REFUSED, format!("{text:?} is no session's id")))?),
    };
    let limit = if wanted.limit == 0 { PAGE } else { PAGE.min(wanted.limit as usize) };
    let now = manager.world().clock.seconds();
    let info = |session: &Arc<Session>| {
        let record = session.record();
        let mut info = SessionInfo::default();
        (info.id, info.type_name, info.created_at) = (record.id.to_string(), record.type_name.to_string(), record.created_at);
        (info.state, info.clients) = (state_name(&session.status()).to_owned(), present(&record, now).count() as u64);
        info
    };
    json(&manager.page(after, limit).iter().map(info).collect::<Vec<_>>())
}

fn state_name(status: &Status) -> &'static str {
    match status {
        Status::NotMade => state::IDLE,
        Status::Live => state::LIVE,
        Status::Faulted(_) => state::FAULTED,
        Status::Unavailable(_) => state::UNAVAILABLE,
        Status::Gone => state::CLOSED,
    }
}

fn failure(refused: Refused, named: &str) -> Failure {
    let text = refused.to_string();
    let code = match refused {
        Refused::NoSuchSession => return no_such_session(named),
        Refused::Conductor(trouble) => return conductor_failure(trouble, named),
        Refused::UnknownType { .. } => code::REFUSED,
        Refused::NoFreeId { .. } | Refused::IdsRest { .. } => code::OVERLOADED,
        Refused::Store(StoreError::Write(_)) => code::UNAVAILABLE,
        Refused::Stopping => code::CLOSED,
        _ => code::INTERNAL,
    };
    Failure::new(code, text)
}

fn conductor_failure(trouble: Trouble, named: &str) -> Failure {
    let text = trouble.to_string();
    let code = match trouble {
        Trouble::Closed => return no_such_session(named),
        Trouble::Conductor { code, data, .. } => {
            let data = data.map(|data| data.to_string().into_bytes()).unwrap_or_default();
            return Failure { data: data.into(), ..Failure::new(code, text) };
        }
        Trouble::UnknownMethod(_) => code::UNKNOWN_METHOD,
        Trouble::InvalidParams(_) => code::INVALID_PARAMS,
        // The conductor panicked, and not the service.
        Trouble::Faulted(_) | Trouble::Unavailable(_) | Trouble::Quarantined(_) => code::UNAVAILABLE,
        Trouble::Overloaded => code::OVERLOADED,
        Trouble::Deadline => code::DEADLINE,
        Trouble::Internal(_) | Trouble::InvalidReply(_) => code::INTERNAL,
    };
    Failure::new(code, text)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|e| Failure::new(code::INTERNAL, e.to_string()))
}

impl HostObject for ServiceHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        if let Some(answer) = self.answer_now(&call) {
            return BorrowingFfiFuture::new(std::future::ready(reply(answer)));
        }
        BorrowingFfiFuture::new(OnHost::new(async move { reply(self.answer(call).await) }, &self.runtime))
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        let service = self.service()?;
        let added = service.add_task(|number| Task::new(service.clone(), ONE_LIFE, number, task));
        let (number, task) = added.map_err(no_task)?;
        service.world().pool.push(task);
        Ok(number)
    }

    fn log(&self, level: u8, target: &str, message: &str, fields: &[u8]) {
        let service = &self.name;
        log_line!(level, service, target, message, fields);
    }
}

impl fmt::Debug for ServiceHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHost").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use conductor_abi::{abi_stable::std_types::RErr, contract::HostObj};

    use super::*;
    use crate::{services::Wanted, sessions::place::Place};

    #[test]
    fn a_service_is_answered_what_is_its_business_and_only_while_it_lives() {
        let place = Place::with([]);
        let plugin = Err("no such file".into());
        let wanted = Wanted { name: "a".into(), plugin, deadline: Duration::from_secs(5), required: false };
        let service = Service::new(wanted, place.manager.world());
        let host = HostObj::new(ServiceHost::new(&service));
        let code = |kind: &str| match place.run(host.call(Event::new(kind))) {
            RErr(failure) => failure.code,
            _ => 0,
        };
        for kind in
            [call::SAVE, call::TIMER, call::CANCEL_TIMER, call::GRANT, call::KICK, call::JOIN_RULES, call::LABELS, call::CLOSE, "fly"]
        {
            assert_eq!(code(kind), code::UNSUPPORTED, "{kind}");
        }
        assert_eq!(code(call::NOW), 0);
        for kind in [call::SESSIONS, call::CLIENTS, call::CREATE_SESSION, call::CLOSE_SESSION, call::ASK, call::PUBLISH, call::SLEEP] {
            assert_eq!(code(kind), code::CLOSED, "{kind}");
        }
    }
}
