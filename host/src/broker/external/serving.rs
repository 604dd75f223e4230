//! One connection from its CONNACK to its end: subscribing, hearing, sending, keeping alive.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    time::Duration,
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use mqtt5::{
    Packet, QoS,
    packet::{
        disconnect::DisconnectPacket,
        pingreq::PingReqPacket,
        puback::PubAckPacket,
        pubcomp::PubCompPacket,
        publish::PublishPacket,
        pubrec::PubRecPacket,
        pubrel::PubRelPacket,
        suback::SubAckPacket,
        subscribe::{RetainHandling, SubscribePacket, SubscriptionOptions, TopicFilter},
    },
    protocol::v5::reason_codes::ReasonCode,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    backoff::Backoff,
    desk::State,
    dial::Io,
    link::{CONNECT_TIME, Link},
    opening::{Limits, Opened, Version},
    outbox::{LAST_ID, Outgoing, Stage},
    trouble::{Trouble, of_code},
    wire::{Incoming, Wire, encode},
};
use crate::{
    broker::{BrokerError, Message},
    sessions::SessionId,
};

/// All topics of sessions, and no others: `/{id}/name`.
const EVERYTHING: &str = "/+/#";
/// How long the broker may take to answer a ping.
const PING_TIME: Duration = Duration::from_secs(10);
/// A connection that ends without a word before that may have been taken over by a host that waits its turn as this one does:
/// longer than the longest wait between two attempts.
const SOON: Duration = Duration::from_secs(40);
/// What sending what is queued may take when the host stops, and then saying goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a ping was sent: answers come in order.
pub(super) enum Ping {
    KeepAlive,
    /// When the answer comes, all that is retained of the session has come.
    Retained(SessionId),
    /// When the answer comes, the broker has cleared it.
    Cleared(SessionId),
}

/// What is to be done in a while.
#[derive(Clone, Copy)]
pub(super) enum Later {
    Unsubscribe(SessionId),
    ClearAgain(SessionId),
}

/// What belongs to one connection.
pub(super) struct Serving {
    pub(super) wire: Wire,
    pub(super) version: Version,
    pub(super) limits: Limits,
    pub(super) keep_alive: Duration,
    /// Messages pass since then.
    pub(super) up: Option<Instant>,
    /// Our subscription is not acknowledged yet: its packet id, and until when that may take.
    pub(super) subscribing: Option<(u16, Instant)>,
    last_id: u16,
    pub(super) pings: VecDeque<(Instant, Ping)>,
    pub(super) next_ping: Instant,
    /// When anything came last.
    pub(super) heard: Instant,
    pub(super) renew_at: Option<Instant>,
    pub(super) renewing: Option<BoxFuture<'static, Result<Box<dyn Io>, Trouble>>>,
    pub(super) renewals: Backoff,
    /// The broker may have taken us for another client that takes over.
    pub(super) half_renewed: bool,
    /// Sessions being cleared whose subscription is not acknowledged yet, by its packet id.
    pub(super) clearing: HashMap<u16, SessionId>,
    /// How many sessions are being cleared.
    pub(super) clearings: usize,
    pub(super) later: VecDeque<(Instant, Later)>,
    /// The sessions of [`Later::ClearAgain`].
    pub(super) clear_again: HashSet<SessionId>,
}

impl Link {
    /// Serves a connection until something is wrong with it, or until the host stops.
    pub(super) async fn serve(&mut self, opened: Opened, stop: &mut watch::Receiver<bool>) -> Trouble {
        let now = Instant::now();
        let renew_at = self.renew_at(opened.expires_at, now);
        let mut serving = Serving {
            wire: opened.wire,
            version: opened.version,
            limits: opened.limits,
            keep_alive: opened.keep_alive,
            up: None,
            subscribing: None,
            last_id: LAST_ID,
            pings: VecDeque::new(),
            next_ping: now + opened.keep_alive,
            heard: now,
            renew_at,
            renewing: None,
            renewals: Backoff::default(),
            half_renewed: false,
            clearing: HashMap::new(),
            clearings: 0,
            later: VecDeque::new(),
            clear_again: HashSet::new(),
        };
        let trouble = tokio::select! {
            ended = self.work(&mut serving, opened.resumed) => match ended {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            },
            _ = stop.wait_for(|stop| *stop) => Trouble::Stopping,
        };
        let lived = now.elapsed();
        if let Some(up) = serving.up {
            self.held(up.elapsed());
        }
        match trouble {
            Trouble::Stopping => {
                self.farewell(serving).await;
                Trouble::Stopping
            }
            Trouble::Closed(_) if lived < SOON => Trouble::LostSoon,
            Trouble::TakenOver if serving.half_renewed => Trouble::Lost("the broker let the old one go and not the new one in".to_owned()),
            other => other,
        }
    }

    async fn work(&mut self, serving: &mut Serving, resumed: bool) -> Result<Infallible, Trouble> {
        self.resume(serving, resumed)?;
        let desk = self.desk.clone();
        loop {
            if serving.up.is_some() {
                self.send_waiting(serving)?;
                self.clear_closed(serving)?;
            }
            let timer = serving.next_timer();
            tokio::select! {
                incoming = serving.wire.next() => self.incoming(serving, incoming?)?,
                () = desk.wake.notified() => {}
                () = sleep_until(timer) => self.timers(serving)?,
                dialled = dialled(&mut serving.renewing) => {
                    serving.renewing = None;
                    self.renew(serving, dialled).await?;
                }
            }
        }
    }

    /// Takes up with a broker that kept our MQTT session, or begins a new one.
    pub(super) fn resume(&mut self, serving: &mut Serving, resumed: bool) -> Result<(), Trouble> {
        if resumed {
            let state = self.desk.state();
            for (id, stage, message) in state.outbox.unacknowledged() {
                if stage == Stage::Released {
                    serving.wire.send(&PubRelPacket::new(id))?;
                } else {
                    if serving.version == Version::V311 {
                        self.echoes.sent(&message.topic, message.qos.min(self.granted_qos()), &message.payload, Instant::now());
                    }
                    let mut packet = packet(serving.version, message, id);
                    packet.dup = true;
                    serving.wire.send(&packet)?;
                }
            }
            drop(state);
            self.desk.state().outbox.tried_again();
        } else {
            if self.granted.is_some() {
                tracing::info!("the MQTT broker kept nothing for the host: what came meanwhile is lost");
            }
            self.received.clear();
            let mut state = self.desk.state();
            let State { outbox, closed, .. } = &mut *state;
            outbox.forget_flights();
            // Sent now, they could be retained behind the clearing.
            outbox.withdraw(|message| closed.contains(message.session), |message| BrokerError::Closed(message.session));
        }
        // Asked again where that costs nothing: what the broker allows may have changed. MQTT 3.1.1 sends all that is retained for it;
        // but there, a subscription of MQTT 5 would go on with its options, and show as old what is to be retained.
        let is_kept = resumed && self.granted.is_some_and(|(_, version)| version == serving.version);
        if serving.version == Version::V5 || !is_kept {
            let options = SubscriptionOptions {
                qos: QoS::ExactlyOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            };
            let id = serving.subscribe(EVERYTHING.to_owned(), options)?;
            serving.subscribing = Some((id, Instant::now() + CONNECT_TIME));
        } else {
            self.is_up(serving);
        }
        Ok(())
    }

    /// The highest QoS at which messages come.
    fn granted_qos(&self) -> u8 {
        self.granted.map_or(2, |(qos, _)| qos)
    }

    fn is_up(&mut self, serving: &mut Serving) {
        if serving.up.is_none() {
            serving.up = Some(Instant::now());
            self.up(serving.version);
        }
    }

    /// Writes what is queued, as far as the broker takes it.
    fn send_waiting(&mut self, serving: &mut Serving) -> Result<(), Trouble> {
        let mut some = false;
        while !serving.wire.is_full() {
            let mut state = self.desk.state();
            let Some((id, message)) = state.outbox.front(serving.limits.window) else { break };
            some = true;
            match serving.encode(message, id)? {
                Ok(bytes) => {
                    if serving.version == Version::V311 {
                        self.echoes.sent(&message.topic, message.qos.min(self.granted_qos()), &message.payload, Instant::now());
                    }
                    serving.wire.send_encoded(&bytes);
                    state.outbox.launched(id);
                }
                Err(problem) => state.outbox.refused(BrokerError::Failed(problem)),
            }
        }
        if some {
            self.desk.room.notify_waiters();
        }
        Ok(())
    }

    pub(super) fn incoming(&mut self, serving: &mut Serving, incoming: Incoming) -> Result<(), Trouble> {
        serving.heard = Instant::now();
        let packet = match incoming {
            Incoming::Packet(packet) => packet,
            Incoming::Written => return Ok(()),
            Incoming::TooLong { qos, id } => {
                tracing::warn!(qos, "a message that is too long came from the MQTT broker and was passed over");
                return self.acknowledge(serving, qos, id);
            }
        };
        match packet {
            Packet::Publish(publish) => self.publish(serving, publish),
            Packet::PubAck(ack) => {
                self.settle(ack.packet_id, Stage::Received, ack.reason_code);
                Ok(())
            }
            Packet::PubRec(ack) if ack.reason_code.is_error() => {
                self.settle(ack.packet_id, Stage::Received, ack.reason_code);
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.desk.state().outbox.released(ack.packet_id);
                serving.wire.send(&PubRelPacket::new(ack.packet_id))
            }
            Packet::PubComp(ack) => {
                self.settle(ack.packet_id, Stage::Released, ReasonCode::Success);
                Ok(())
            }
            Packet::PubRel(release) => {
                self.received.remove(&release.packet_id);
                serving.wire.send(&PubCompPacket::new(release.packet_id))
            }
            Packet::SubAck(ack) => self.subscribed(serving, &ack),
            Packet::UnsubAck(_) => Ok(()),
            Packet::PingResp => match serving.pings.pop_front() {
                Some((_, Ping::Retained(session))) => serving.ping(Ping::Cleared(session)),
                Some((_, Ping::Cleared(session))) => {
                    self.cleared(serving, session);
                    Ok(())
                }
                Some((_, Ping::KeepAlive)) | None => Ok(()),
            },
            Packet::Disconnect(disconnect) => Err(Trouble::of_disconnect(disconnect.reason_code)),
            other => Err(Trouble::Protocol(format!("an unexpected {}", other.packet_type_name()))),
        }
    }

    fn settle(&self, id: u16, stage: Stage, code: ReasonCode) {
        let result = if code.is_error() { Err(BrokerError::Failed(format!("it refused the message: {}", of_code(code)))) } else { Ok(()) };
        if !self.desk.state().outbox.settled(id, stage, result) {
            tracing::debug!(id, "the MQTT broker acknowledged a message that was settled");
        }
        self.desk.room.notify_waiters();
    }

    fn subscribed(&mut self, serving: &mut Serving, ack: &SubAckPacket) -> Result<(), Trouble> {
        let Some(code) = ack.reason_codes.first().copied() else { return Ok(()) };
        if serving.subscribing.is_some_and(|(id, _)| id == ack.packet_id) {
            serving.subscribing = None;
            let Some(granted) = code.granted_qos() else { return Err(Trouble::Subscription { filter: EVERYTHING, code }) };
            self.granted = Some((granted as u8, serving.version));
            self.is_up(serving);
        } else if let Some(session) = serving.clearing.remove(&ack.packet_id) {
            if code.is_success() {
                serving.ping(Ping::Retained(session))?;
            } else {
                tracing::warn!(%session, ?code, "what is retained of the session cannot be cleared: the MQTT broker does not show it");
                self.cleared(serving, session);
            }
        }
        Ok(())
    }

    fn publish(&mut self, serving: &mut Serving, publish: PublishPacket) -> Result<(), Trouble> {
        let (qos, id) = (publish.qos as u8, publish.packet_id.unwrap_or_default());
        if !self.desk.is_hearing() {
            // Not acknowledged either: the broker keeps what is of QoS 1 and 2 for the host that follows.
            return Ok(());
        }
        // What comes again says so. Without that a known id is another message's: a broker that was killed gives ids anew since its last save.
        if qos < 2 || self.received.insert(id) || !publish.dup {
            self.hear(serving, publish)?;
        }
        self.acknowledge(serving, qos, id)
    }

    fn acknowledge(&self, serving: &mut Serving, qos: u8, id: u16) -> Result<(), Trouble> {
        match qos {
            1 => serving.wire.send(&PubAckPacket::new(id)),
            2 => serving.wire.send(&PubRecPacket::new(id)),
            _ => Ok(()),
        }
    }

    /// A message of a client, or an echo, or something retained.
    pub(super) fn hear(&mut self, serving: &mut Serving, publish: PublishPacket) -> Result<(), Trouble> {
        let PublishPacket { topic_name: topic, payload, qos, retain, .. } = publish;
        let Some(session) = session_of(&topic) else { return Ok(()) };
        let old = serving.version == Version::V311;
        if old && !retain && self.echoes.is_echo(&topic, qos as u8, &payload, Instant::now()) {
            return Ok(());
        }
        if self.desk.state().closed.contains(session) {
            return self.hear_of_closed(serving, session, topic, &payload, retain);
        }
        if old && retain {
            // There the flag says that it is old.
            return Ok(());
        }
        self.events.message(Message { session, topic, payload, qos: qos as u8, retain, client_id: None, will: false });
        Ok(())
    }

    fn timers(&mut self, serving: &mut Serving) -> Result<(), Trouble> {
        let now = Instant::now();
        if serving.pings.front().is_some_and(|(sent, _)| now >= *sent + PING_TIME) {
            self.unanswered(serving)?;
        }
        if serving.subscribing.is_some_and(|(_, end)| now >= end) {
            return Err(Trouble::Lost("the broker does not answer the subscription".to_owned()));
        }
        if now >= serving.next_ping {
            serving.next_ping = now + serving.keep_alive;
            serving.ping(Ping::KeepAlive)?;
        }
        if serving.renew_at.is_some_and(|at| now >= at) {
            self.begin_renewal(serving);
        }
        while let Some((_, later)) = serving.later.front().copied().filter(|(at, _)| now >= *at) {
            serving.later.pop_front();
            self.later(serving, later)?;
        }
        Ok(())
    }

    /// Sends what is queued, and says goodbye. The broker keeps our subscription and what comes meanwhile.
    async fn farewell(&mut self, mut serving: Serving) {
        if serving.up.is_none() {
            return;
        }
        self.desk.stop_hearing();
        let desk = self.desk.clone();
        let send = async {
            loop {
                self.send_waiting(&mut serving)?;
                if desk.state().outbox.len() == 0 && serving.wire.is_flushed() {
                    return Ok::<_, Trouble>(());
                }
                if desk.state().outbox.len() == 0 {
                    serving.wire.flush().await?;
                } else {
                    let incoming = serving.wire.next().await?;
                    self.incoming(&mut serving, incoming)?;
                }
            }
        };
        let told = match timeout(FAREWELL, send).await {
            Ok(Err(trouble)) => Err(trouble),
            _ => serving.wire.send(&DisconnectPacket::normal()),
        };
        let closed = match told {
            Ok(()) => timeout(FAREWELL, serving.wire.close()).await.unwrap_or(Err(Trouble::Silent)),
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = closed {
            tracing::debug!("the MQTT broker was not told that the host stops: {trouble}");
        }
    }
}

impl Serving {
    pub(super) fn subscribe(&mut self, filter: String, options: SubscriptionOptions) -> Result<u16, Trouble> {
        let id = self.next_id();
        let packet = match self.version {
            Version::V5 => SubscribePacket::new(id),
            Version::V311 => SubscribePacket::new_v311(id),
        };
        self.wire.send(&packet.add_filter_with_options(TopicFilter::with_options(filter, options)))?;
        Ok(id)
    }

    /// A packet id for a subscription or its end: never one of a message.
    pub(super) fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(LAST_ID + 1);
        self.last_id
    }

    pub(super) fn ping(&mut self, why: Ping) -> Result<(), Trouble> {
        self.pings.push_back((Instant::now(), why));
        self.wire.send(&PingReqPacket::default())
    }

    fn next_timer(&self) -> Instant {
        let ping = self.pings.front().map(|(sent, _)| *sent + PING_TIME);
        let subscribing = self.subscribing.map(|(_, end)| end);
        let later = self.later.front().map(|(at, _)| *at);
        [ping, subscribing, later, self.renew_at].into_iter().flatten().fold(self.next_ping, Instant::min)
    }

    /// The message as bytes, or why this broker does not take it.
    fn encode(&self, message: &Outgoing, id: u16) -> Result<Result<BytesMut, String>, Trouble> {
        let Limits { packet_bytes, qos, retains, .. } = self.limits;
        if message.qos > qos {
            return Ok(Err(format!("it takes no messages of QoS {}, only up to {qos}", message.qos)));
        }
        if message.retain && !retains {
            return Ok(Err("it does not retain messages".to_owned()));
        }
        let encoded = encode(&packet(self.version, message, id), packet_bytes)?;
        Ok(encoded.ok_or_else(|| format!("it takes packets of up to {packet_bytes} bytes, and this message is longer")))
    }
}

fn packet(version: Version, message: &Outgoing, id: u16) -> PublishPacket {
    let mut packet = version.message(message.topic.clone(), message.payload.clone(), QoS::from(message.qos));
    packet.packet_id = (message.qos > 0).then_some(id);
    packet.retain = message.retain;
    packet
}

/// `/{id}/name` is of session `id`; other topics are not ours.
fn session_of(topic: &str) -> Option<SessionId> {
    let (id, _) = topic.strip_prefix('/')?.split_once('/')?;
    SessionId::parse(id)
}

/// The outcome of a renewal's first half; never, where none is under way.
async fn dialled(renewing: &mut Option<BoxFuture<'static, Result<Box<dyn Io>, Trouble>>>) -> Result<Box<dyn Io>, Trouble> {
    match renewing {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;
