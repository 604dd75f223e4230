//! A broker to which nobody is connected: it takes what is published, and counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use conductor_abi::rules;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    broker::{Broker, BrokerError, Ended, Endpoints},
    sessions::SessionId,
    tokens::grant::Grant,
};

#[derive(Debug, Default)]
pub(super) struct CountingBroker(AtomicU64);

impl CountingBroker {
    pub(super) fn published(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Broker for CountingBroker {
    fn open_session(&self, _: SessionId) {}

    fn publish<'a>(&'a self, _: SessionId, _: &'a str, payload: Bytes, _: u8, _: bool) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            rules::payload(payload.len(), rules::MAX_PAYLOAD).map_err(BrokerError::Failed)?;
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }

    fn set_grant<'a>(&'a self, _: SessionId, _: &'a str, _: Grant) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn kick<'a>(&'a self, _: SessionId, _: &'a str) -> BoxFuture<'a, Ended> {
        async { Ended::Kicked(0) }.boxed()
    }

    fn close_session(&self, _: SessionId) -> BoxFuture<'_, Ended> {
        async { Ended::Kicked(0) }.boxed()
    }

    fn connected(&self, _: SessionId) -> Option<Vec<Arc<str>>> {
        Some(Vec::new())
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints::default()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        None
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}
