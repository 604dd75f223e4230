//! `mqtt.broker = "none"`: requests and joins work, there are no messages.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use super::{Broker, BrokerError, Ended, Endpoints};
use crate::{sessions::SessionId, tokens::grant::Grant};

/// The broker of a host without one: nothing is connected, and publishing fails with [`BrokerError::None`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBroker;

impl Nobody for NoBroker {
    fn take(&self, _: &Bytes) -> Result<(), BrokerError> {
        Err(BrokerError::None)
    }
}

/// A broker to which nobody is connected.
pub(crate) trait Nobody: Send + Sync + fmt::Debug + 'static {
    /// A message was published.
    fn take(&self, payload: &Bytes) -> Result<(), BrokerError>;
}

impl<N: Nobody> Broker for N {
    fn open_session(&self, _: SessionId) {}

    fn publish<'a>(&'a self, _: SessionId, _: &'a str, payload: Bytes, _: u8, _: bool) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move { self.take(&payload) }.boxed()
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

    /// Not to be known: without connections it is only the list of clients that says who is there.
    fn connected(&self, _: SessionId) -> Option<Vec<Arc<str>>> {
        None
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
