//! One live conductor: an object that a plugin made, and how it is told an event.

use std::{fmt, sync::Arc};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice},
    contract::{ConductorObj, Event, HostObj},
    rules,
    wire::{CreateMeta, EventMeta, code},
};
use tokio::sync::Mutex;

use super::{Trouble, catalog::Plugin};

/// A live conductor. Clones are handles on the same one; it is dropped with the last, which must be on a thread for plugin code.
#[derive(Clone)]
pub struct Instance(Arc<Mutex<ConductorObj>>);

/// An event as the host holds it.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Which: [`conductor_abi::wire::event`].
    pub kind: &'a str,
    /// Method, name, reason…
    pub subject: &'a str,
    /// The client it concerns, or nothing.
    pub client: &'a str,
    /// The rest.
    pub meta: &'a EventMeta,
    /// Parameters, payload…
    pub body: &'a [u8],
}

impl Instance {
    /// Makes the conductor, with what it had saved or nothing. To be polled and dropped on threads for plugin code.
    ///
    /// # Errors
    /// What the plugin answered: [`Trouble::Faulted`] for a panic, else [`Trouble::Unavailable`].
    pub async fn make(plugin: &Plugin, host: HostObj, meta: &CreateMeta, saved: &[u8]) -> Result<Self, Trouble> {
        let meta = serde_json::to_vec(meta).map_err(|e| Trouble::Internal(e.to_string()))?;
        match plugin.library.create(&plugin.conductor, host, &meta, saved).await {
            ROk(object) => Ok(Self(Arc::new(Mutex::new(object)))),
            RErr(failure) => Err(match Trouble::from(&failure) {
                faulted @ Trouble::Faulted(_) => faulted,
                other => Trouble::Unavailable(other.to_string().into()),
            }),
        }
    }

    /// Tells it one event and waits for its answer. To be polled and dropped on threads for plugin code.
    ///
    /// # Errors
    /// What the conductor answered.
    pub async fn handle(&self, event: Incoming<'_>) -> Result<Vec<u8>, Trouble> {
        // The session tells one event at a time, so the lock is free; it is what lets the future own the conductor safely.
        let mut object = self.0.clone().try_lock_owned().map_err(|_| Trouble::Internal("two events at one conductor".to_owned()))?;
        let meta = serde_json::to_vec(event.meta).map_err(|e| Trouble::Internal(e.to_string()))?;
        let event = Event {
            kind: event.kind.into(),
            subject: event.subject.into(),
            client: event.client.into(),
            meta: RSlice::from_slice(&meta),
            body: RSlice::from_slice(event.body),
        };
        match object.handle(event).await {
            ROk(reply) => match rules::reply(reply.len()) {
                Ok(()) => Ok(reply.to_vec()),
                Err(message) => Err(Trouble::Conductor { code: code::INTERNAL, message, data: None }),
            },
            RErr(failure) => Err(Trouble::from(&failure)),
        }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instance")
    }
}
