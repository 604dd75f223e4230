//! rumqttc, both versions of MQTT and both ways, behind one face.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use tokio::{sync::mpsc, task::AbortHandle};

use super::support::soon;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Tcp(SocketAddr),
    WebSocket(SocketAddr),
}

enum Api {
    Four(rumqttc::AsyncClient),
    Five(rumqttc::v5::AsyncClient),
}

#[derive(Debug)]
enum Seen {
    Connected,
    Granted(bool),
    Acknowledged,
    Message(String, String),
    Ended(String),
}

pub(crate) struct Client {
    api: Api,
    seen: mpsc::UnboundedReceiver<Seen>,
    messages: VecDeque<(String, String)>,
    polling: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn login(password: &str) -> (String, String) {
    (password.split_once(':').map_or(password, |(_, client)| client).to_owned(), password.to_owned())
}

impl Client {
    pub(crate) async fn connect(version: u8, way: Way, password: &str, will: Option<&str>) -> Result<Self, String> {
        if version == 4 { Self::four(way, password, will).await } else { Self::five(way, password, will).await }
    }

    /// Connects with MQTT 3.1.1.
    pub(crate) async fn four(way: Way, password: &str, will: Option<&str>) -> Result<Self, String> {
        use rumqttc::{Event, LastWill, MqttOptions, Packet, QoS, SubscribeReasonCode, Transport};
        let (client, password) = login(password);
        let mut options = match way {
            Way::Tcp(address) => MqttOptions::new(&client, address.ip().to_string(), address.port()),
            Way::WebSocket(address) => {
                let mut options = MqttOptions::new(&client, format!("ws://{address}/mqtt"), address.port());
                options.set_transport(Transport::Ws);
                options
            }
        };
        options.set_credentials("anyone", password).set_keep_alive(Duration::from_secs(60));
        if let Some(topic) = will {
            options.set_last_will(LastWill::new(topic, "will", QoS::AtLeastOnce, false));
        }
        let (api, mut events) = rumqttc::AsyncClient::new(options, 100);
        let (sender, seen) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            loop {
                let seen = match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => Seen::Connected,
                    Ok(Event::Incoming(Packet::SubAck(ack))) => {
                        Seen::Granted(matches!(ack.return_codes[0], SubscribeReasonCode::Success(_)))
                    }
                    Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => Seen::Acknowledged,
                    Ok(Event::Incoming(Packet::Publish(m))) => Seen::Message(m.topic, utf8(&m.payload)),
                    Ok(_) => continue,
                    Err(error) => return drop(sender.send(Seen::Ended(format!("{error:?}")))),
                };
                drop(sender.send(seen));
            }
        });
        Self { api: Api::Four(api), seen, messages: VecDeque::new(), polling: polling.abort_handle() }.accepted().await
    }

    /// Connects with MQTT 5.
    async fn five(way: Way, password: &str, will: Option<&str>) -> Result<Self, String> {
        use rumqttc::{
            Transport,
            v5::{Event, MqttOptions},
        };
        let (client, password) = login(password);
        let mut options = match way {
            Way::Tcp(address) => MqttOptions::new(&client, address.ip().to_string(), address.port()),
            Way::WebSocket(address) => {
                let mut options = MqttOptions::new(&client, format!("ws://{address}/mqtt"), address.port());
                options.set_transport(Transport::Ws);
                options
            }
        };
        options.set_credentials("anyone", password).set_keep_alive(Duration::from_secs(60));
        if let Some(topic) = will {
            options.set_last_will(v5::LastWill::new(topic, "will", QoS5::AtLeastOnce, false, None));
        }
        let (api, mut events) = rumqttc::v5::AsyncClient::new(options, 100);
        let (sender, seen) = mpsc::unbounded_channel();
        let polling = tokio::spawn(async move {
            loop {
                let seen = match events.poll().await {
                    Ok(Event::Incoming(v5::Packet::ConnAck(_))) => Seen::Connected,
                    Ok(Event::Incoming(v5::Packet::SubAck(ack))) => {
                        Seen::Granted(matches!(ack.return_codes[0], v5::SubscribeReasonCode::Success(_)))
                    }
                    Ok(Event::Incoming(v5::Packet::PubAck(_) | v5::Packet::PubComp(_))) => Seen::Acknowledged,
                    Ok(Event::Incoming(v5::Packet::PubRec(ack))) if ack.reason == v5::PubRecReason::NotAuthorized => Seen::Acknowledged,
                    Ok(Event::Incoming(v5::Packet::Publish(m))) => Seen::Message(utf8(&m.topic), utf8(&m.payload)),
                    Ok(_) => continue,
                    Err(error) => return drop(sender.send(Seen::Ended(format!("{error:?}")))),
                };
                drop(sender.send(seen));
            }
        });
        Self { api: Api::Five(api), seen, messages: VecDeque::new(), polling: polling.abort_handle() }.accepted().await
    }

    async fn accepted(mut self) -> Result<Self, String> {
        match self.next().await {
            Seen::Connected => Ok(self),
            Seen::Ended(error) => Err(error),
            other => panic!("{other:?} before CONNACK"),
        }
    }

    async fn next(&mut self) -> Seen {
        soon("rumqttc", self.seen.recv()).await.unwrap()
    }

    /// Whether the subscription was granted.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> bool {
        match &self.api {
            Api::Four(api) => api.subscribe(filter, rumqttc::QoS::AtLeastOnce).await.unwrap(),
            Api::Five(api) => api.subscribe(filter, QoS5::AtLeastOnce).await.unwrap(),
        }
        loop {
            match self.next().await {
                Seen::Granted(granted) => return granted,
                Seen::Message(topic, payload) => self.messages.push_back((topic, payload)),
                other => panic!("{other:?} instead of SUBACK for {filter}"),
            }
        }
    }

    /// Publishes, and at QoS 1 and 2 waits until it is acknowledged.
    pub(crate) async fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: &str) {
        match &self.api {
            Api::Four(api) => api.publish(topic, rumqttc::qos(qos).unwrap(), retain, payload).await.unwrap(),
            Api::Five(api) => {
                let qos = rumqttc::v5::mqttbytes::qos(qos).unwrap();
                api.publish(topic, qos, retain, payload.to_owned()).await.unwrap();
            }
        }
        if qos > 0 {
            self.acknowledged(topic).await;
        }
    }

    async fn acknowledged(&mut self, topic: &str) {
        loop {
            match self.next().await {
                Seen::Acknowledged => return,
                Seen::Message(topic, payload) => self.messages.push_back((topic, payload)),
                other => panic!("{other:?} instead of an acknowledgement for {topic}"),
            }
        }
    }

    /// The next message: topic and payload.
    pub(crate) async fn message(&mut self) -> (String, String) {
        if let Some(message) = self.messages.pop_front() {
            return message;
        }
        match self.next().await {
            Seen::Message(topic, payload) => (topic, payload),
            other => panic!("{other:?} instead of a message"),
        }
    }
}
