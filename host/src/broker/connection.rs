//! One admitted connection: what the library asks about it, what it tells about it, and its task.

use std::{
    collections::HashSet,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use mqtt5::{
    broker::{
        AuthProvider, AuthResult, StorageBackend,
        events::{BrokerEventHandler, ClientConnectEvent, ClientPublishEvent, ClientSubscribeEvent, PublishAction, SubAckReasonCode},
        storage::InflightDirection,
    },
    packet::connect::ConnectPacket,
};
use tokio::sync::{Notify, broadcast};

use super::{Admitted, Message, gate, room::Room};
use crate::{sessions::clock::Clock, tokens::grant::Grant};

/// How long a connection that was told to end may take; then it is cut.
const GRACE: Duration = Duration::from_secs(1);
/// The wall clock is looked at again at least this often, since it may be set.
const CLOCK_CHECK: Duration = Duration::from_secs(600);

/// Why we end a connection: what a client of MQTT 5 is told.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum EndReason {
    ServerShuttingDown = 0x8b,
    AdministrativeAction = 0x98,
    MaximumConnectTime = 0xa0,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(super) struct Connection {
    pub(super) room: Arc<Room>,
    pub(super) client_id: Arc<str>,
    /// What the library calls the client; see [`gate::library_id`].
    pub(super) library_id: String,
    /// 4 (that is 3.1.1) or 5.
    pub(super) version: u8,
    /// A client of MQTT 5 that sent no id must be told which it got.
    pub(super) id_is_assigned: bool,
    pub(super) peer: SocketAddr,
    grant: RwLock<Grant>,
    will: Mutex<Option<Message>>,
    /// The library has begun to clean up: what it wants authorised now is the last will.
    departed: AtomicBool,
    /// Packet ids of QoS 2 publishes that were told, until they are complete: a repeat is not told again.
    exactly_once: Mutex<HashSet<u16>>,
    end_reason: AtomicU8,
    ending: Notify,
    /// The library's shutdown signal, for this connection alone. Closed once the connection's task is over.
    end_signal: broadcast::Sender<()>,
}

impl Connection {
    pub(super) fn new(room: Arc<Room>, connect: &ConnectPacket, admitted: &Admitted, peer: SocketAddr) -> Self {
        let will = connect.will.as_ref().map(|will| Message {
            session: room.session,
            topic: will.topic.clone(),
            payload: Bytes::from(will.payload.clone()),
            qos: will.qos as u8,
            retain: will.retain,
            client_id: Some(Arc::clone(&admitted.client_id)),
            will: true,
        });
        Self {
            room,
            client_id: Arc::clone(&admitted.client_id),
            library_id: gate::library_id(&admitted.client_id),
            version: connect.protocol_version,
            id_is_assigned: connect.protocol_version == 5 && connect.client_id.is_empty(),
            peer,
            grant: RwLock::new(admitted.grant.clone()),
            will: Mutex::new(will),
            departed: AtomicBool::new(false),
            exactly_once: Mutex::default(),
            end_reason: AtomicU8::new(0),
            ending: Notify::new(),
            end_signal: broadcast::Sender::new(1),
        }
    }

    pub(super) fn grant(&self) -> Grant {
        self.grant.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_grant(&self, grant: Grant) {
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = grant;
    }

    /// Tells the connection to end. Its last will is sent, if it still may be.
    fn end(&self, reason: EndReason) {
        self.end_reason.store(reason as u8, Ordering::Release);
        // Nobody listens where the connection is over already.
        let _receivers = self.end_signal.send(());
        self.ending.notify_one();
    }

    /// Takes all rights away, which silences the last will too, and tells the connection to end.
    pub(super) fn end_silently(&self, reason: EndReason) {
        self.set_grant(Grant::nothing());
        self.end(reason);
    }

    /// Until the connection's task is over.
    pub(super) async fn ended(&self) {
        self.end_signal.closed().await;
    }

    pub(super) fn end_reason(&self) -> Option<u8> {
        Some(self.end_reason.load(Ordering::Acquire)).filter(|reason| *reason != 0)
    }

    /// The exchange of a QoS 2 publish is complete: its packet id may be used for another.
    pub(super) fn exactly_once_done(&self, packet_id: u16) {
        self.exactly_once.lock().unwrap_or_else(PoisonError::into_inner).remove(&packet_id);
    }

    /// Before the library takes a stored session up: what the client lost the right to is not delivered from its queue (the library
    /// drops the subscriptions themselves), and QoS 2 publishes that are half done are not told twice.
    async fn resume(&self) {
        let (store, id) = (&self.room.store, self.library_id.as_str());
        let Ok(Some(stored)) = store.get_session(id).await else { return };
        let grant = self.grant();
        if !stored.subscriptions.keys().all(|filter| grant.may_subscribe(filter)) {
            self.room.empty_queue(id);
        }
        if let Ok(half_done) = store.get_inflight_messages(id).await {
            let inbound = half_done.iter().filter(|m| m.direction == InflightDirection::Inbound).map(|m| m.packet_id);
            self.exactly_once.lock().unwrap_or_else(PoisonError::into_inner).extend(inbound);
        }
    }

    fn is_repeat(&self, event: &ClientPublishEvent) -> bool {
        event.qos == mqtt5::QoS::ExactlyOnce
            && event.packet_id.is_some_and(|id| !self.exactly_once.lock().unwrap_or_else(PoisonError::into_inner).insert(id))
    }
}

impl AuthProvider for Connection {
    fn authenticate<'a>(&'a self, connect: &'a ConnectPacket, _: SocketAddr) -> Answer<'a, mqtt5::Result<AuthResult>> {
        Box::pin(async move {
            if !connect.clean_start {
                self.resume().await;
            }
            // Stored sessions are bound to this name, and MQTT 5 subscribers see it: never the username.
            Ok(AuthResult::success_with_user(self.library_id.as_str()))
        })
    }

    fn authorize_publish<'a>(&'a self, _: &str, _: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let allowed = self.grant.read().unwrap_or_else(PoisonError::into_inner).may_publish(topic);
            if allowed && self.departed.load(Ordering::Acquire) {
                let will = self.will.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(will) = will {
                    self.room.events.message(will);
                }
            }
            if !allowed {
                tracing::debug!(session = %self.room.session, client = &*self.client_id, topic, "publish refused");
            }
            allowed
        })
    }

    fn authorize_subscribe<'a>(&'a self, _: &str, _: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let allowed = self.grant().may_subscribe(filter);
            if !allowed {
                tracing::debug!(session = %self.room.session, client = &*self.client_id, filter, "subscription refused");
            }
            allowed
        })
    }

    fn cleanup_session<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        self.departed.store(true, Ordering::Release);
        Box::pin(async {})
    }
}

impl BrokerEventHandler for Connection {
    fn on_client_connect<'a>(&'a self, _: ClientConnectEvent) -> Answer<'a, ()> {
        self.room.connected(&self.client_id);
        Box::pin(async {})
    }

    fn on_client_publish<'a>(&'a self, event: ClientPublishEvent) -> Answer<'a, PublishAction> {
        if !self.is_repeat(&event) {
            self.room.events.message(Message {
                session: self.room.session,
                topic: event.topic.as_ref().to_owned(),
                payload: event.payload,
                qos: event.qos as u8,
                retain: event.retain,
                client_id: Some(Arc::clone(&self.client_id)),
                will: false,
            });
        }
        Box::pin(async { PublishAction::Continue })
    }

    /// The grant may have been narrowed between the check of a subscription and its start.
    fn on_client_subscribe<'a>(&'a self, event: ClientSubscribeEvent) -> Answer<'a, ()> {
        let grant = self.grant();
        let granted = [SubAckReasonCode::GrantedQoS0, SubAckReasonCode::GrantedQoS1, SubAckReasonCode::GrantedQoS2];
        let lost = event.subscriptions.iter().any(|s| granted.contains(&s.result) && !grant.may_subscribe(&s.topic_filter));
        Box::pin(async move {
            if lost {
                self.room.narrow(&self.library_id, &grant).await;
            }
        })
    }
}

/// A connection's stay in its room; dropping it is leaving.
pub(super) struct Stay {
    connection: Arc<Connection>,
    /// The library's shutdown signal, from the first moment on, for its handler.
    signal: Option<broadcast::Receiver<()>>,
    /// Keeps [`Connection::ended`] waiting until the leave is told: fields are dropped after [`Drop::drop`].
    _open: broadcast::Receiver<()>,
}

impl Stay {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let (signal, open) = (connection.end_signal.subscribe(), connection.end_signal.subscribe());
        Self { connection, signal: Some(signal), _open: open }
    }

    /// The library's shutdown signal, for the one handler.
    pub(super) fn signal(&mut self) -> broadcast::Receiver<()> {
        self.signal.take().unwrap_or_else(|| self.connection.end_signal.subscribe())
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Runs the library's handler until the connection ends, is told to end, or its token expires. A handler that does not end in
    /// time (it does not look up while a client reads nothing) is dropped where it stands.
    pub(super) async fn run(self, handler: Pin<Box<dyn Future<Output = mqtt5::Result<()>> + Send>>, expires_at: SystemTime) {
        let connection = &self.connection;
        let mut handler = handler;
        let ended = tokio::select! {
            ended = &mut handler => Some(ended),
            () = connection.ending.notified() => None,
            () = until(expires_at) => {
                connection.end(EndReason::MaximumConnectTime);
                None
            }
        };
        let ended = match ended {
            None => tokio::time::timeout(GRACE, &mut handler).await.ok(),
            ended => ended,
        };
        drop(handler);
        let (session, client) = (connection.room.session, &*connection.client_id);
        match ended {
            Some(Ok(())) => tracing::debug!(%session, client, "disconnected"),
            Some(Err(error)) => tracing::debug!(%session, client, %error, "disconnected"),
            None => {
                tracing::debug!(%session, client, "connection cut: it did not end by itself");
                connection.room.clean_up_after(connection).await;
            }
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.connection.room.leave(&self.connection);
    }
}

async fn until(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(Clock::system().now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(CLOCK_CHECK)).await;
    }
}

#[cfg(test)]
mod tests {
    use mqtt5::broker::{
        events::SubscriptionInfo,
        router::MessageRouter,
        storage::{ClientSession, StoredSubscription},
    };

    use super::{super::stream::tests::connection, *};

    /// The library checks a subscription first and starts it later; between the two the grant may have been narrowed.
    #[tokio::test]
    async fn a_subscription_that_started_after_its_right_was_lost_ends() {
        let connection = connection(5, false);
        let Room { router, store, .. } = &*connection.room;
        let mut session = ClientSession::new("dev", true, Some(60));
        for filter in ["/123456/#", "/123456/mine"] {
            let subscription = StoredSubscription::new(mqtt5::QoS::AtMostOnce);
            router.subscribe(MessageRouter::stored_subscription_request("dev", filter, &subscription)).await.unwrap();
            session.add_subscription(filter.to_owned(), subscription);
        }
        store.store_session(session).await.unwrap();
        let event = |filter: &str| ClientSubscribeEvent {
            client_id: "dev".into(),
            subscriptions: vec![SubscriptionInfo {
                topic_filter: filter.into(),
                qos: mqtt5::QoS::AtMostOnce,
                result: SubAckReasonCode::GrantedQoS0,
            }],
        };
        connection.on_client_subscribe(event("/123456/#")).await;
        assert!(router.has_subscription("dev", "/123456/#").await, "still allowed");
        connection.set_grant(Grant::from_lists(vec!["/123456/mine".to_owned()], vec![]));
        connection.on_client_subscribe(event("/123456/#")).await;
        assert!(!router.has_subscription("dev", "/123456/#").await);
        assert!(router.has_subscription("dev", "/123456/mine").await);
    }
}
