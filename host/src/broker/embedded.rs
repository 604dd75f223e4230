//! The embedded broker: the gate in front of one router per session.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, future::join_all};
use mqtt5::{
    QoS,
    broker::{
        BrokerConfig, ResourceLimits, ResourceMonitor, client_handler::ClientHandler, sys_topics::BrokerStats, transport::BrokerTransport,
    },
    packet::{connect::ConnectPacket, publish::PublishPacket},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Admission, Admitted, Broker, BrokerError, Ended, Endpoints, Events, Limits, Refusal, check_message,
    connection::{Connection, EndReason, Stay},
    gate::{self, Opening},
    listen,
    room::{Publishing, Room},
    stream::GateStream,
};
use crate::{
    census::{Census, Most, Place},
    pace::Pace,
    sessions::{SessionId, clock::Clock},
    tls::Tls,
    tokens::grant::Grant,
};

/// How many connections of one source may fail for their token, once it had its burst.
const FAILURES_PER_MINUTE: u32 = 6;
/// How many closed sessions and kicked clients the gate remembers, for connections that were admitted just before.
const REMEMBERED_ENDS: usize = 1024;

/// The broker in this process. Made without listening; [`EmbeddedBroker::serve`] opens it.
pub struct EmbeddedBroker {
    pub(super) limits: Limits,
    pub(super) census: Arc<Census>,
    /// Connections that failed for their token, by source.
    failures: Pace,
    config: BrokerConfig,
    stats: Arc<BrokerStats>,
    /// Locked for moments only, never while waiting and never around calls to the seams.
    rooms: Mutex<Rooms>,
    seams: OnceLock<Seams>,
    endpoints: Mutex<Endpoints>,
    trouble: Mutex<Option<Arc<str>>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Seams {
    admission: Arc<dyn Admission>,
    events: Arc<dyn Events>,
}

#[derive(Default)]
struct Rooms {
    live: HashMap<SessionId, Arc<Room>>,
    /// How many ends (of sessions and of clients) there were.
    ends: u64,
    /// The last of them; nothing for a session whose id has been given out again.
    lately: VecDeque<Option<End>>,
}

/// A session's end, or that of one client of it.
struct End {
    session: SessionId,
    client_id: Option<Arc<str>>,
}

impl End {
    fn is_of(&self, session: SessionId) -> bool {
        self.session == session && self.client_id.is_none()
    }
}

impl Rooms {
    fn note_end(&mut self, session: SessionId, client_id: Option<Arc<str>>) {
        self.ends += 1;
        self.lately.push_back(Some(End { session, client_id }));
        if self.lately.len() > REMEMBERED_ENDS {
            self.lately.pop_front();
        }
    }

    /// Whether the session or the client ended after `seen` ends had been counted. Where that is forgotten: yes.
    fn ended_since(&self, seen: u64, session: SessionId, client: &str) -> bool {
        let new = usize::try_from(self.ends - seen).unwrap_or(usize::MAX);
        let is_it = |end: &End| end.session == session && end.client_id.as_deref().is_none_or(|ended| ended == client);
        new > self.lately.len() || self.lately.iter().rev().take(new).any(|end| end.as_ref().is_none_or(is_it))
    }

    /// Whether the session is known to have ended.
    fn has_ended(&self, session: SessionId) -> bool {
        self.lately.iter().flatten().any(|end| end.is_of(session))
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker").field("limits", &self.limits).field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

impl EmbeddedBroker {
    /// A broker that does not listen yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        let mut config = BrokerConfig::new()
            .with_session_expiry(limits.session_expiry)
            .with_max_packet_size(limits.packet_bytes)
            .with_max_subscriptions_per_client(limits.subscriptions)
            .with_client_channel_capacity(limits.waiting_messages.max(1));
        config.topic_alias_maximum = 16;
        config.server_receive_maximum = Some(256);
        let most = Most {
            in_all: limits.connections,
            opening: limits.opening,
            per_source: limits.per_source,
            opening_per_source: limits.opening_per_source,
        };
        let census = Census::new(most, limits.exempt.clone(), Some(Pace::new(limits.connects_burst, limits.connects_per_minute)));
        Arc::new(Self {
            failures: Pace::new(limits.failures_burst, FAILURES_PER_MINUTE),
            limits,
            census,
            config,
            stats: Arc::new(BrokerStats::new()),
            rooms: Mutex::default(),
            seams: OnceLock::new(),
            endpoints: Mutex::default(),
            trouble: Mutex::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
        })
    }

    /// Binds every address that is `wanted` (port 0 takes any free one; [`Broker::endpoints`] tells which) and serves until
    /// [`Broker::shutdown`]. `/mqtt` of [`Self::websocket_router`] is served from here on too. To be called once.
    ///
    /// # Errors
    /// When an address cannot be bound, and when one over TLS is wanted without a certificate: then nothing listens. When it was
    /// called before.
    pub async fn serve(
        self: &Arc<Self>,
        admission: Arc<dyn Admission>,
        events: Arc<dyn Events>,
        wanted: &Endpoints,
        tls: Option<Arc<Tls>>,
    ) -> io::Result<()> {
        if tls.is_none() && !(wanted.tls.is_empty() && wanted.websocket_tls.is_empty()) {
            return Err(io::Error::other("MQTT over TLS needs a certificate"));
        }
        let (tcp, tcp_addresses) = listen::bind(&wanted.tcp).await?;
        let (websocket, websocket_addresses) = listen::bind(&wanted.websocket).await?;
        let (over_tls, tls_addresses) = listen::bind(&wanted.tls).await?;
        let (websocket_over_tls, websocket_tls_addresses) = listen::bind(&wanted.websocket_tls).await?;
        if self.seams.set(Seams { admission, events }).is_err() {
            return Err(io::Error::other("the MQTT broker is already serving"));
        }
        *lock(&self.endpoints) =
            Endpoints { tcp: tcp_addresses, websocket: websocket_addresses, tls: tls_addresses, websocket_tls: websocket_tls_addresses };
        let mut tasks = lock(&self.tasks);
        for (listeners, tls) in [(tcp, None), (over_tls, tls.clone())] {
            tasks.extend(listeners.into_iter().map(|listener| {
                let tls = tls.clone();
                let serve = move |broker, stream, peer| listen::tcp(broker, stream, peer, tls.clone());
                tokio::spawn(listen::accept(Arc::clone(self), listener, serve))
            }));
        }
        for (listeners, tls) in [(websocket, None), (websocket_over_tls, tls)] {
            tasks.extend(listeners.into_iter().map(|listener| {
                let (router, tls) = (self.websocket_router(), tls.clone());
                let serve = move |broker, stream, peer| listen::websocket(broker, stream, peer, router.clone(), tls.clone());
                tokio::spawn(listen::accept(Arc::clone(self), listener, serve))
            }));
        }
        tasks.push(tokio::spawn(Arc::clone(self).housekeeping()));
        Ok(())
    }

    /// How many sessions have a router now: those that something is connected to, stored or retained in.
    #[must_use]
    pub fn live_sessions(&self) -> usize {
        self.rooms().live.len()
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        lock(&self.rooms)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.seams.get().is_some() && !*self.stop.borrow()
    }

    /// Until [`Broker::shutdown`].
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender is ours: it is never gone.
        drop(stop.wait_for(|stopped| *stopped).await);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble.map(Arc::from);
    }

    /// Takes a connection from its first byte to its end.
    pub(super) async fn connection<S>(self: Arc<Self>, mut io: S, peer: SocketAddr, mut place: Place)
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let opening = tokio::select! {
            opening = timeout(self.limits.connect_time, gate::read_opening(&mut io, self.limits.connect_bytes)) => opening,
            () = self.stopped() => return,
        };
        let (connect, behind) = match opening {
            Ok(Ok(Opening::Connect(connect, behind))) => (connect, behind),
            Ok(Ok(Opening::OtherVersion(connack))) => {
                tracing::debug!(%peer, "refused: another version of MQTT");
                return gate::answer(io, connack).await;
            }
            Ok(Err(garbage)) => return tracing::debug!(%peer, %garbage, "closed without an answer"),
            Err(_) => return tracing::debug!(%peer, "closed without an answer: no CONNECT in time"),
        };
        let version = connect.protocol_version;
        if gate::needs_an_id(&connect) {
            tracing::debug!(%peer, "refused: no client id and no clean session");
            return gate::answer(io, gate::ID_REJECTED).await;
        }
        let admitted = if place.is_too_fast() { Err(Refusal::TooFast) } else { self.admit_in_turn(&connect, peer, &place) };
        let (mut stay, expires_at) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                tracing::debug!(%peer, client = connect.client_id, ?refusal, "refused");
                return gate::answer(io, gate::refusal(version, refusal)).await;
            }
        };
        place.opened();
        let connection = Arc::clone(stay.connection());
        let read = match gate::rewritten(*connect, &connection.library_id, &behind) {
            Ok(read) => read,
            Err(error) => return tracing::debug!(%peer, %error, "closed: CONNECT cannot be written again"),
        };
        let stream = GateStream { io, read, connection: Arc::clone(&connection), instead: Bytes::new(), passing: 0 };
        let handler = self.handler(stream, &connection, stay.signal());
        stay.run(handler.run().boxed(), expires_at).await;
    }

    /// As [`Self::admit`], where the source has failures left. A token that is no good is charged in any case.
    fn admit_in_turn(&self, connect: &ConnectPacket, peer: SocketAddr, place: &Place) -> Result<(Stay, SystemTime), Refusal> {
        let Some(source) = place.source() else { return self.admit(connect, peer) };
        let guessed = self.seams.get().is_some_and(|seams| seams.admission.can_be_guessed());
        if guessed && !self.failures.has(source) {
            return Err(Refusal::TooFast);
        }
        // Nobody finds a signed token by trying: one that is good passes, whoever else fails behind this address.
        self.admit(connect, peer).map_err(|refusal| match refusal {
            Refusal::BadCredentials if !self.failures.take(source) => Refusal::TooFast,
            told => told,
        })
    }

    /// Asks [`Admission`], checks what must hold whatever it says, and enters the room of the session.
    fn admit(&self, connect: &ConnectPacket, peer: SocketAddr) -> Result<(Stay, SystemTime), Refusal> {
        let seams = self.seams.get().ok_or(Refusal::NotAuthorized)?;
        let seen = self.rooms().ends;
        let admitted = seams.admission.admit(&gate::request(connect, peer))?;
        // Where the username names the client, the client id may be any: Unity's existing clients make up a new one each time.
        let names: [&str; 2] = [&connect.client_id, connect.username.as_deref().unwrap_or_default()];
        let named_otherwise = !connect.client_id.is_empty() && !names.contains(&&*admitted.client_id);
        if admitted.client_id.is_empty() || named_otherwise || admitted.expires_at <= Clock::system().now() {
            return Err(Refusal::BadCredentials);
        }
        if connect.will.as_ref().is_some_and(|will| !admitted.grant.may_publish(&will.topic)) {
            return Err(Refusal::NotAuthorized);
        }
        self.enter(seen, connect, &admitted, peer).map(|stay| (stay, admitted.expires_at))
    }

    fn enter(&self, seen: u64, connect: &ConnectPacket, admitted: &Admitted, peer: SocketAddr) -> Result<Stay, Refusal> {
        let mut rooms = self.rooms();
        if *self.stop.borrow() || rooms.ended_since(seen, admitted.session, &admitted.client_id) {
            return Err(Refusal::NotAuthorized);
        }
        let room = self.room(&mut rooms, admitted.session).ok_or(Refusal::NotAuthorized)?;
        let connection = Arc::new(Connection::new(Arc::clone(&room), connect, admitted, peer));
        // Before it can be found by who ends connections.
        let stay = Stay::new(Arc::clone(&connection));
        room.enter(&connection);
        Ok(stay)
    }

    /// The session's room, made if need be; nothing before [`Self::serve`].
    fn room(&self, rooms: &mut Rooms, session: SessionId) -> Option<Arc<Room>> {
        let events = &self.seams.get()?.events;
        let room = rooms.live.entry(session).or_insert_with(|| Arc::new(Room::new(session, Arc::clone(events), &self.limits)));
        Some(Arc::clone(room))
    }

    fn live_room(&self, session: SessionId) -> Option<Arc<Room>> {
        self.rooms().live.get(&session).cloned()
    }

    fn handler<S>(&self, stream: GateStream<S>, connection: &Arc<Connection>, signal: broadcast::Receiver<()>) -> ClientHandler
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let mut config = self.config.clone();
        config.event_handler = Some(Arc::<Connection>::clone(connection));
        // Zero is no limit: the default stops a client after 1,000 messages in a minute. The monitor is keyed by client id and
        // confused by a take-over, hence one for each connection; connections themselves are counted by `census`.
        let unlimited = ResourceLimits { max_message_rate_per_client: 0, max_bandwidth_per_client: 0, ..ResourceLimits::default() };
        ClientHandler::new(
            BrokerTransport::WebSocket(Box::new(stream)),
            connection.peer,
            Arc::new(config),
            Arc::clone(&connection.room.router),
            Arc::<Connection>::clone(connection),
            Some(Arc::clone(&connection.room.store)),
            Arc::clone(&self.stats),
            Arc::new(ResourceMonitor::new(unlimited)),
            signal,
        )
    }

    async fn housekeeping(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.limits.housekeeping) => {}
                () = self.stopped() => return,
            }
            let all: Vec<_> = self.rooms().live.values().cloned().collect();
            for room in all {
                let Some(mark) = room.tidy().await else { continue };
                let mut rooms = self.rooms();
                if room.still_idle(mark) && rooms.live.get(&room.session).is_some_and(|live| Arc::ptr_eq(live, &room)) {
                    rooms.live.remove(&room.session);
                }
            }
        }
    }

    /// Where a message of the host's goes; nothing where nobody could ever get it.
    fn publishing(&self, session: SessionId, keep: bool) -> Result<Option<Publishing>, BrokerError> {
        let mut rooms = self.rooms();
        if let Some(room) = rooms.live.get(&session) {
            return Ok(Some(room.publishing()));
        }
        if rooms.has_ended(session) {
            return Err(BrokerError::Closed(session));
        }
        if !keep {
            return Ok(None);
        }
        let room = self.room(&mut rooms, session).ok_or_else(|| BrokerError::Failed("it is not serving yet".to_owned()))?;
        Ok(Some(room.publishing()))
    }

    async fn route(&self, session: SessionId, topic: &str, payload: Bytes, qos: u8, retain: bool) -> Result<(), BrokerError> {
        check_message(topic, &payload, qos, self.limits.packet_bytes)?;
        let qos = match qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let keep = retain && !payload.is_empty();
        let Some(room) = self.publishing(session, keep)? else { return Ok(()) };
        if keep && (payload.len() > self.limits.retained_bytes || room.router.retained_store_full(topic).await) {
            return Err(BrokerError::Failed(format!(
                "a session retains {} messages of up to {} bytes",
                self.limits.retained_messages, self.limits.retained_bytes
            )));
        }
        let mut message = PublishPacket::new(topic, payload, qos);
        message.retain = retain;
        room.router.route_message(&message, None).await;
        Ok(())
    }
}

impl Broker for EmbeddedBroker {
    fn open_session(&self, session: SessionId) {
        let mut rooms = self.rooms();
        for end in rooms.lately.iter_mut().filter(|end| end.as_ref().is_some_and(|end| end.is_of(session))) {
            *end = None;
        }
    }

    fn publish<'a>(
        &'a self,
        session: SessionId,
        topic: &'a str,
        payload: Bytes,
        qos: u8,
        retain: bool,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.route(session, topic, payload, qos, retain).boxed()
    }

    fn set_grant<'a>(&'a self, session: SessionId, client_id: &'a str, grant: Grant) -> BoxFuture<'a, ()> {
        async move {
            let room = {
                let mut rooms = self.rooms();
                // One that was admitted by the former grant, and is not in the room yet, comes again.
                rooms.note_end(session, Some(Arc::from(client_id)));
                rooms.live.get(&session).cloned()
            };
            if let Some(room) = room {
                room.set_grant(client_id, &gate::library_id(client_id), grant).await;
            }
        }
        .boxed()
    }

    fn kick<'a>(&'a self, session: SessionId, client_id: &'a str) -> BoxFuture<'a, Ended> {
        async move {
            let room = {
                let mut rooms = self.rooms();
                rooms.note_end(session, Some(Arc::from(client_id)));
                rooms.live.get(&session).cloned()
            };
            match room {
                Some(room) => room.kick(client_id, &gate::library_id(client_id)).await,
                None => Ended::Kicked(0),
            }
        }
        .boxed()
    }

    fn close_session(&self, session: SessionId) -> BoxFuture<'_, Ended> {
        async move {
            let room = {
                let mut rooms = self.rooms();
                rooms.note_end(session, None);
                rooms.live.remove(&session)
            };
            match room {
                Some(room) => room.end_all(EndReason::AdministrativeAction).await,
                None => Ended::Kicked(0),
            }
        }
        .boxed()
    }

    fn connected(&self, session: SessionId) -> Option<Vec<Arc<str>>> {
        Some(self.live_room(session).map(|room| room.announced()).unwrap_or_default())
    }

    fn endpoints(&self) -> Endpoints {
        lock(&self.endpoints).clone()
    }

    fn trouble(&self) -> Option<Arc<str>> {
        lock(&self.trouble).clone()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            self.stop.send_replace(true);
            let tasks = std::mem::take(&mut *lock(&self.tasks));
            join_all(tasks).await;
            let rooms: Vec<_> = self.rooms().live.drain().map(|(_, room)| room).collect();
            join_all(rooms.iter().map(|room| room.end_all(EndReason::ServerShuttingDown))).await;
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
