//! Services: app-wide objects out of plugins, without a session. They are made when the host starts and closed before its sessions are.
//!
//! They run on the threads for plugin code like conductors, with the same deadlines and the same containment. Where none hears messages, a
//! message costs one load more; one that does not keep up loses messages, and holds nobody up.

mod calls;
mod event;
mod service;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use conductor_abi::wire;
use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;

use self::event::What;
pub use self::service::Service;
use crate::{
    broker::Message,
    conductors::{Trouble, catalog::Plugin},
    sessions::{Caller, CloseReason, Manager, Session, Status, ears::Ear, world::World},
};

/// A service as the settings want it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As the settings name it.
    pub name: Arc<str>,
    /// Where it comes from, or why from nowhere.
    pub plugin: Result<Arc<Plugin>, Arc<str>>,
    /// How long its making and an event may take.
    pub deadline: Duration,
    /// Whether the host does not start without it.
    pub required: bool,
}

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The settings have no such service.
    #[error("there is no service {name:?}; configured are: {}", known.join(", "))]
    NoSuchService {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// It did not.
    #[error("the service {name}: {}", why(.trouble))]
    Service {
        /// Which.
        name: String,
        /// Why.
        trouble: Trouble,
    },
}

/// All services of the host.
#[derive(Debug)]
pub struct Services {
    world: Arc<World>,
    /// Held to look and to put in place alone.
    list: RwLock<BTreeMap<Arc<str>, Arc<Service>>>,
    /// Held while some are made or closed. True once the host stops: then none is made any more.
    changing: Mutex<bool>,
}

impl Services {
    /// The services of these settings, none of them made yet. From now on they hear of the manager's sessions.
    #[must_use]
    pub fn new(manager: &Manager, wanted: Vec<Wanted>) -> Arc<Self> {
        let world = manager.world().clone();
        let list = wanted.into_iter().map(|wanted| (wanted.name.clone(), Service::new(wanted, &world))).collect();
        let services = Arc::new(Self { world, list: RwLock::new(list), changing: Mutex::default() });
        // Also where there are none: one may be added.
        manager.ears.set(services.clone());
        services.listen();
        services
    }

    /// Makes all of them, at the same time.
    ///
    /// # Errors
    /// Those that are required and could not be made, each with its reason.
    pub async fn start(&self) -> Result<(), Vec<String>> {
        let _changing = self.changing.lock().await;
        let failed = stream::iter(self.all()).map(|service| async move {
            let trouble = service.start().await.err()?;
            let text = format!("service {}: {}", service.name(), why(&trouble));
            tracing::error!("{text}");
            service.wanted().required.then_some(text)
        });
        let mut failed: Vec<String> = failed.buffer_unordered(usize::MAX).filter_map(std::future::ready).collect().await;
        self.listen();
        failed.sort();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Closes all of them, at the same time.
    pub async fn stop(&self) {
        let mut changing = self.changing.lock().await;
        *changing = true;
        let closing = |service: Arc<Service>| async move { service.close(CloseReason::HostStopping).await };
        stream::iter(self.all()).for_each_concurrent(None, closing).await;
        self.listen();
    }

    /// Puts a service as it is wanted now in the place of the one of that name: the old one is closed, then the new one is made, so that there
    /// are never two. Where the new one cannot be made, the old one is made again. One of a new name is added.
    ///
    /// # Errors
    /// Why the new one could not be made.
    pub async fn replace(&self, wanted: Wanted) -> Result<(), Trouble> {
        let stopped = self.changing.lock().await;
        if *stopped {
            return Err(Trouble::Closed);
        }
        if let Err(reason) = &wanted.plugin {
            return Err(Trouble::Unavailable(reason.clone()));
        }
        let old = self.get(&wanted.name);
        if let Some(old) = &old {
            old.close(CloseReason::Replaced).await;
        }
        let result = self.put(wanted).await;
        if result.is_err()
            && let Some(old) = old
            && let Err(trouble) = self.put(old.wanted().clone()).await
        {
            tracing::error!(service = old.name(), reason = %why(&trouble), "the service is gone: its old build could not be made again");
        }
        result
    }

    /// Closes the service of that name, if there is one, and forgets it.
    pub async fn remove(&self, name: &str) {
        let _changing = self.changing.lock().await;
        let removed = self.list.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(service) = removed {
            service.close(CloseReason::Requested).await;
        }
        self.listen();
    }

    async fn put(&self, wanted: Wanted) -> Result<(), Trouble> {
        let service = Service::new(wanted, &self.world);
        self.list.write().unwrap_or_else(PoisonError::into_inner).insert(service.wanted().name.clone(), service.clone());
        self.listen();
        let started = service.start().await;
        self.listen();
        started
    }

    /// Whether messages are wanted may have changed.
    fn listen(&self) {
        let wanted = |service: &Arc<Service>| service.wants(wire::event::MESSAGE) && !service.status().is_over();
        if let Some(manager) = self.world.manager.upgrade() {
            manager.ears.want_messages(self.all().iter().any(wanted));
        }
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Service>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Service>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Asks a service for one of its methods.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn request(&self, name: &str, method: String, params: Bytes, caller: Caller) -> Result<Vec<u8>, Refused> {
        let Some(service) = self.get(name) else {
            let known = self.all().iter().map(|service| service.name().to_owned()).collect();
            return Err(Refused::NoSuchService { name: name.to_owned(), known });
        };
        service.ask(method, params, caller).await.map_err(|trouble| Refused::Service { name: name.to_owned(), trouble })
    }

    /// What is wrong with services that should be there, each with its reason.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let services = self.all();
        let troubled = services.iter().filter_map(|service| match service.status() {
            Status::Faulted(reason) => Some(format!("service {} is faulted: {reason}", service.name())),
            Status::Unavailable(reason) => Some(format!("service {} is unavailable: {reason}", service.name())),
            Status::NotMade | Status::Live | Status::Gone => None,
        });
        troubled.collect()
    }

    fn each(&self, f: impl Fn(&Service)) {
        self.list.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|service| f(service));
    }
}

/// In words that speak of a service.
pub(crate) fn why(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Faulted(reason) => format!("it is faulted: {reason}"),
        Trouble::Unavailable(reason) => reason.to_string(),
        Trouble::Overloaded => "too many events wait for it; try again later".to_owned(),
        Trouble::Deadline => "it did not answer within its deadline".to_owned(),
        Trouble::Closed => "it is closed".to_owned(),
        other => other.to_string(),
    }
}

impl Ear for Services {
    fn message(&self, message: &Message) {
        self.each(|service| service.hear_message(message));
    }

    fn opened(&self, session: &Session) {
        self.each(|service| service.hear(What::Opened { id: session.id(), type_name: session.kind().name.clone() }));
    }

    fn closed(&self, session: &Session, reason: CloseReason) {
        self.each(|service| service.hear(What::Closed { id: session.id(), type_name: session.kind().name.clone(), reason }));
    }

    fn link(&self) {
        self.each(|service| service.hear(What::Link));
    }
}
