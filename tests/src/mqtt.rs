//! A real MQTT client, rumqttc, in both protocol versions and on every way in, with waits that have a bound.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use rumqttc::{AsyncClient, mqttbytes::v4, v5, v5::mqttbytes::v5 as v5packets};
use tokio::runtime::Runtime;

use crate::{Host, PATIENCE, Session, tls::Trust};

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1.
    V311,
    /// 5.
    V5,
}

/// The way to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// MQTT's own port.
    Tcp,
    /// WebSocket at `/mqtt` on a port of its own.
    WebSocket,
    /// WebSocket at `/mqtt` on the IoT port.
    IotWebSocket,
    /// MQTT over TLS.
    Tls,
    /// WebSocket over TLS at `/mqtt` on a port of its own.
    WebSocketTls,
    /// WebSocket over TLS at `/mqtt` on the IoT port.
    IotWebSocketTls,
}

impl Way {
    fn is_websocket(self) -> bool {
        !matches!(self, Self::Tcp | Self::Tls)
    }
}

/// The ways over TLS.
pub const EVERY_TLS_WAY: [Way; 3] = [Way::Tls, Way::WebSocketTls, Way::IotWebSocketTls];

/// Each combination of version and way without TLS.
pub const EVERY_WAY: [(Version, Way); 6] = [
    (Version::V311, Way::Tcp),
    (Version::V311, Way::WebSocket),
    (Version::V311, Way::IotWebSocket),
    (Version::V5, Way::Tcp),
    (Version::V5, Way::WebSocket),
    (Version::V5, Way::IotWebSocket),
];

/// What a client shows, and what it leaves to be told.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The MQTT client id.
    pub client_id: String,
    /// The MQTT username.
    pub username: String,
    /// The MQTT password.
    pub password: String,
    /// Topic, payload and whether it is retained.
    pub will: Option<(String, String, bool)>,
    /// Whether the broker forgets it when the connection ends.
    pub clean: bool,
}

impl Credentials {
    /// Those of a client that joined: the username is what the setting's default says, the session's id.
    #[must_use]
    pub fn new(client_id: &str, username: &str, token: &str) -> Self {
        Self { client_id: client_id.into(), username: username.into(), password: token.into(), will: None, clean: true }
    }

    /// With a last will.
    #[must_use]
    pub fn will(mut self, topic: &str, payload: &str, retain: bool) -> Self {
        self.will = Some((topic.into(), payload.into(), retain));
        self
    }

    /// With a stored session.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.clean = false;
        self
    }
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload as text.
    pub payload: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is an old one that was kept.
    pub retain: bool,
}

/// What the broker told, in both versions.
#[derive(Clone, Debug)]
enum Told {
    Connected,
    Message(Message),
    Subscribed(Vec<bool>),
    Unsubscribed,
    /// Whether it was accepted, as far as the version can say.
    Published(bool),
    Gone(String),
}

#[derive(Debug)]
enum Client {
    V311(AsyncClient),
    V5(v5::AsyncClient),
}

/// A connected client. Dropping it cuts the connection without a DISCONNECT.
#[derive(Debug)]
pub struct Mqtt {
    client: Client,
    told: Receiver<Told>,
    /// Arrived while something else was waited for.
    waiting: VecDeque<Message>,
    /// Its end ends the connection. Taken by [`Mqtt::cut`].
    runtime: Option<Runtime>,
}

impl Mqtt {
    /// Connects.
    ///
    /// # Errors
    /// What the broker or the library said instead.
    ///
    /// # Panics
    /// When nothing is said at all, or the host does not listen there.
    pub fn connect(host: &Host, version: Version, way: Way, credentials: &Credentials) -> Result<Self, String> {
        let (address, trust) = match way {
            Way::Tcp => (host.mqtt.expect("the host listens for MQTT"), None),
            Way::WebSocket => (host.mqtt_websocket.expect("the host listens for WebSocket"), None),
            Way::IotWebSocket => (host.iot, None),
            Way::Tls => (host.mqtt_tls.expect("the host listens for MQTT over TLS"), Some(host.trust())),
            Way::WebSocketTls => (host.mqtt_websocket_tls.expect("the host listens for WebSocket over TLS"), Some(host.trust())),
            Way::IotWebSocketTls => (host.iot, Some(host.trust())),
        };
        Self::connect_over(address, trust, version, way, credentials)
    }

    /// Connects to any broker.
    ///
    /// # Errors
    /// As [`Mqtt::connect`].
    ///
    /// # Panics
    /// When nothing is said at all.
    pub fn connect_to(address: SocketAddr, version: Version, way: Way, credentials: &Credentials) -> Result<Self, String> {
        Self::connect_over(address, None, version, way, credentials)
    }

    /// Connects to any broker, over TLS where it is said whom to trust.
    ///
    /// # Errors
    /// As [`Mqtt::connect`].
    ///
    /// # Panics
    /// When nothing is said at all.
    pub fn connect_over(
        address: SocketAddr,
        trust: Option<&Trust>,
        version: Version,
        way: Way,
        credentials: &Credentials,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (sender, told) = mpsc::channel();
        // The library's own TLS is one that must not be used.
        let address = trust.map_or(Ok(address), |trust| trust.tunnel(&runtime, address))?;
        let (address, port) = if way.is_websocket() {
            // The library takes the port out of the URL.
            (format!("ws://{address}/mqtt"), 0)
        } else {
            (address.ip().to_string(), address.port())
        };
        let client = match version {
            Version::V311 => Client::V311(connect_v311(&runtime, sender, address, port, way, credentials)),
            Version::V5 => Client::V5(connect_v5(&runtime, sender, address, port, way, credentials)),
        };
        let mut mqtt = Self { client, told, waiting: VecDeque::new(), runtime: Some(runtime) };
        match mqtt.next("CONNACK") {
            Told::Connected => Ok(mqtt),
            Told::Gone(why) => Err(why),
            other => panic!("before CONNACK: {other:?}"),
        }
    }

    /// Subscribes at this QoS: whether it was granted.
    ///
    /// # Panics
    /// When there is no answer, or the connection ends.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> bool {
        match &self.client {
            Client::V311(client) => client.try_subscribe(filter, qos_v311(qos)).expect("a valid filter"),
            Client::V5(client) => client.try_subscribe(filter, qos_v5(qos)).expect("a valid filter"),
        }
        self.wait("SUBACK", |told| match told {
            Told::Subscribed(granted) => Some(*granted == [true]),
            _ => None,
        })
    }

    /// Unsubscribes.
    ///
    /// # Panics
    /// As [`Mqtt::subscribe`].
    pub fn unsubscribe(&mut self, filter: &str) {
        match &self.client {
            Client::V311(client) => client.try_unsubscribe(filter).expect("a valid filter"),
            Client::V5(client) => client.try_unsubscribe(filter).expect("a valid filter"),
        }
        self.wait("UNSUBACK", |told| matches!(told, Told::Unsubscribed).then_some(()));
    }

    /// Publishes, and waits for the broker's last word on it where the QoS has one: whether it was accepted. Version 3.1.1 cannot
    /// say no.
    ///
    /// # Panics
    /// When that word does not come, or the connection ends.
    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> bool {
        self.try_publish(topic, payload, qos, retain)
            .unwrap_or_else(|why| panic!("the connection ended while PUBACK or PUBCOMP was waited for: {why}"))
    }

    /// As [`Mqtt::publish`], where the connection may end meanwhile.
    ///
    /// # Errors
    /// Why it ended.
    ///
    /// # Panics
    /// When the broker's word does not come.
    pub fn try_publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> Result<bool, String> {
        let queued = match &self.client {
            Client::V311(client) => client.try_publish(topic, qos_v311(qos), retain, payload.to_owned()).map_err(|e| e.to_string()),
            Client::V5(client) => client.try_publish(topic, qos_v5(qos), retain, payload.to_owned()).map_err(|e| e.to_string()),
        };
        queued?;
        if qos == 0 {
            return Ok(true);
        }
        loop {
            match self.next("PUBACK or PUBCOMP") {
                Told::Published(accepted) => return Ok(accepted),
                Told::Message(message) => self.waiting.push_back(message),
                Told::Gone(why) => return Err(why),
                _ => {}
            }
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes, or the connection ends.
    pub fn message(&mut self) -> Message {
        if let Some(message) = self.waiting.pop_front() {
            return message;
        }
        loop {
            match self.next("a message") {
                Told::Message(message) => return message,
                Told::Gone(why) => panic!("the connection ended while a message was waited for: {why}"),
                _ => {}
            }
        }
    }

    /// The next message as topic and payload.
    ///
    /// # Panics
    /// As [`Mqtt::message`].
    pub fn heard(&mut self) -> (String, String) {
        let message = self.message();
        (message.topic, message.payload)
    }

    /// Waits until the broker ends the connection: what it or the library said.
    ///
    /// # Panics
    /// When it does not.
    pub fn gone(&mut self) -> String {
        loop {
            match self.next("the end of the connection") {
                Told::Gone(why) => return why,
                Told::Message(message) => self.waiting.push_back(message),
                _ => {}
            }
        }
    }

    /// The messages that arrived and were not looked at, after [`Mqtt::gone`] all that ever came.
    pub fn rest(&mut self) -> Vec<Message> {
        while let Ok(told) = self.told.try_recv() {
            if let Told::Message(message) = told {
                self.waiting.push_back(message);
            }
        }
        self.waiting.drain(..).collect()
    }

    /// Says goodbye, so that no will is sent, and waits for the end.
    ///
    /// # Panics
    /// When the connection does not end.
    pub fn disconnect(mut self) {
        match &self.client {
            Client::V311(client) => client.try_disconnect().expect("room in the queue"),
            Client::V5(client) => client.try_disconnect().expect("room in the queue"),
        }
        self.gone();
    }

    /// Cuts the connection as a power cut of the device would.
    pub fn cut(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }

    fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Told) -> Option<T>) -> T {
        loop {
            let told = self.next(what);
            if let Some(answer) = wanted(&told) {
                return answer;
            }
            match told {
                Told::Message(message) => self.waiting.push_back(message),
                Told::Gone(why) => panic!("the connection ended while {what} was waited for: {why}"),
                _ => {}
            }
        }
    }

    fn next(&mut self, what: &str) -> Told {
        match self.told.recv_timeout(PATIENCE) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout) => panic!("waited {PATIENCE:?} in vain for {what}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the connection ended before {what}"),
        }
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Joins and connects.
///
/// # Panics
/// When either is refused.
#[must_use]
pub fn device(host: &Host, session: &Session, client: &str, version: Version, way: Way) -> Mqtt {
    let token = host.join(session, client);
    let connected = Mqtt::connect(host, version, way, &Credentials::new(client, &session.id, &token));
    connected.unwrap_or_else(|why| panic!("{client} was refused: {why}"))
}

/// The topic of this name in a session.
#[must_use]
pub fn topic(session: &Session, name: &str) -> String {
    format!("/{}/{name}", session.id)
}

const KEEP_ALIVE: Duration = Duration::from_secs(30);

fn connect_v311(runtime: &Runtime, told: Sender<Told>, address: String, port: u16, way: Way, credentials: &Credentials) -> AsyncClient {
    let mut options = rumqttc::MqttOptions::new(&credentials.client_id, address, port);
    options.set_credentials(&credentials.username, &credentials.password).set_keep_alive(KEEP_ALIVE).set_clean_session(credentials.clean);
    if way.is_websocket() {
        options.set_transport(rumqttc::Transport::Ws);
    }
    if let Some((topic, payload, retain)) = &credentials.will {
        options.set_last_will(rumqttc::LastWill::new(topic, payload.clone(), rumqttc::QoS::AtLeastOnce, *retain));
    }
    let (client, mut connection) = AsyncClient::new(options, 1000);
    connection.set_network_options(without_delay());
    runtime.spawn(async move {
        loop {
            let news = match connection.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => match packet {
                    v4::Packet::ConnAck(_) => Told::Connected,
                    v4::Packet::Publish(p) => Told::Message(Message {
                        payload: String::from_utf8_lossy(&p.payload).into_owned(),
                        qos: p.qos as u8,
                        retain: p.retain,
                        topic: p.topic,
                    }),
                    v4::Packet::SubAck(ack) => {
                        Told::Subscribed(ack.return_codes.iter().map(|code| matches!(code, v4::SubscribeReasonCode::Success(_))).collect())
                    }
                    v4::Packet::UnsubAck(_) => Told::Unsubscribed,
                    v4::Packet::PubAck(_) | v4::Packet::PubComp(_) => Told::Published(true),
                    _ => continue,
                },
                Ok(rumqttc::Event::Outgoing(_)) => continue,
                Err(e) => Told::Gone(e.to_string()),
            };
            if matches!(news, Told::Gone(_)) | told.send(news).is_err() {
                break;
            }
        }
    });
    client
}

fn connect_v5(runtime: &Runtime, told: Sender<Told>, address: String, port: u16, way: Way, credentials: &Credentials) -> v5::AsyncClient {
    let mut options = v5::MqttOptions::new(&credentials.client_id, address, port);
    options.set_credentials(&credentials.username, &credentials.password).set_keep_alive(KEEP_ALIVE).set_clean_start(credentials.clean);
    if !credentials.clean {
        options.set_session_expiry_interval(Some(3600));
    }
    if way.is_websocket() {
        options.set_transport(rumqttc::Transport::Ws);
    }
    if let Some((topic, payload, retain)) = &credentials.will {
        let will = v5packets::LastWill::new(topic, payload.clone(), v5::mqttbytes::QoS::AtLeastOnce, *retain, None);
        options.set_last_will(will);
    }
    options.set_network_options(without_delay());
    let (client, mut connection) = v5::AsyncClient::new(options, 1000);
    runtime.spawn(async move {
        loop {
            let news = match connection.poll().await {
                Ok(v5::Event::Incoming(packet)) => match packet {
                    v5packets::Packet::ConnAck(_) => Told::Connected,
                    v5packets::Packet::Publish(p) => Told::Message(Message {
                        topic: String::from_utf8_lossy(&p.topic).into_owned(),
                        payload: String::from_utf8_lossy(&p.payload).into_owned(),
                        qos: p.qos as u8,
                        retain: p.retain,
                    }),
                    v5packets::Packet::SubAck(ack) => Told::Subscribed(
                        ack.return_codes.iter().map(|code| matches!(code, v5packets::SubscribeReasonCode::Success(_))).collect(),
                    ),
                    v5packets::Packet::UnsubAck(_) => Told::Unsubscribed,
                    v5packets::Packet::PubAck(ack) => Told::Published(matches!(
                        ack.reason,
                        v5packets::PubAckReason::Success | v5packets::PubAckReason::NoMatchingSubscribers
                    )),
                    v5packets::Packet::PubRec(v5packets::PubRec {
                        reason: v5packets::PubRecReason::Success | v5packets::PubRecReason::NoMatchingSubscribers,
                        ..
                    }) => continue,
                    v5packets::Packet::PubRec(_) => Told::Published(false),
                    v5packets::Packet::PubComp(_) => Told::Published(true),
                    _ => continue,
                },
                Ok(v5::Event::Outgoing(_)) => continue,
                Err(e) => Told::Gone(e.to_string()),
            };
            if matches!(news, Told::Gone(_)) | told.send(news).is_err() {
                break;
            }
        }
    });
    client
}

/// Small packets that follow each other would otherwise wait for the other side's system, 40 ms each.
fn without_delay() -> rumqttc::NetworkOptions {
    let mut options = rumqttc::NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options
}

fn qos_v311(qos: u8) -> rumqttc::QoS {
    rumqttc::qos(qos).expect("0, 1 or 2")
}

fn qos_v5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).expect("0, 1 or 2")
}
