//! MQTT by hand, for where bytes matter: a client that is a socket.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::support::soon;

pub(crate) const ACCEPTED_4: [u8; 4] = [0x20, 2, 0, 0];

/// What a CONNECT packet says.
#[derive(Clone)]
pub(crate) struct Connect<'a> {
    pub(crate) version: u8,
    pub(crate) client: &'a str,
    pub(crate) password: &'a str,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    /// Topic, payload, QoS, retain, and (MQTT 5) delay in seconds.
    pub(crate) will: Option<(&'a str, &'a str, u8, bool, u32)>,
    /// Of MQTT 5.
    pub(crate) properties: Vec<u8>,
}

/// A clean session of `client` in `session`.
pub(crate) fn connect<'a>(version: u8, password: &'a str) -> Connect<'a> {
    let client = password.split_once(':').map_or("", |(_, client)| client);
    Connect { version, client, password, clean: true, keep_alive: 60, will: None, properties: Vec::new() }
}

/// A session that is kept for an hour.
pub(crate) fn lasting<'a>(version: u8, password: &'a str) -> Connect<'a> {
    let properties = if version == 5 { [&[0x11][..], &3600_u32.to_be_bytes()].concat() } else { Vec::new() };
    Connect { clean: false, properties, ..connect(version, password) }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        bytes.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    [&bytes, body].concat()
}

impl Connect<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut flags = if self.clean { 0x02 } else { 0 } | 0x80 | 0x40;
        if let Some((_, _, qos, retain, _)) = self.will {
            flags |= 0x04 | qos << 3 | u8::from(retain) << 5;
        }
        let mut body = [&text("MQTT")[..], &[self.version, flags], &self.keep_alive.to_be_bytes()].concat();
        if self.version == 5 {
            body.push(self.properties.len() as u8);
            body.extend(&self.properties);
        }
        body.extend(text(self.client));
        if let Some((topic, payload, _, _, delay)) = self.will {
            if self.version == 5 {
                body.extend([&[5, 0x18][..], &delay.to_be_bytes()].concat());
            }
            body.extend([text(topic), text(payload)].concat());
        }
        body.extend([text("anyone"), text(self.password)].concat());
        packet(0x10, &body)
    }
}

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    version: u8,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), version: 4 }
    }

    /// Connects, and gives the CONNACK.
    pub(crate) async fn try_connect(address: SocketAddr, connect: &Connect<'_>) -> (Self, Option<Vec<u8>>) {
        let mut client = Self::open(address).await;
        client.version = connect.version;
        client.send(&connect.bytes()).await;
        let connack = client.packet().await;
        (client, connack)
    }

    /// The same where the connection may be reset before anything is sent.
    pub(crate) async fn try_connect_or_reset(address: SocketAddr, connect: &Connect<'_>) -> (Self, Option<Vec<u8>>) {
        let mut client = Self::open(address).await;
        if client.stream.write_all(&connect.bytes()).await.is_err() {
            return (client, None);
        }
        let connack = client.packet().await;
        (client, connack)
    }

    /// Connects, and must be accepted.
    pub(crate) async fn connect(address: SocketAddr, connect: &Connect<'_>) -> Self {
        let (client, connack) = Self::try_connect(address, connect).await;
        let connack = connack.unwrap();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet, or nothing where the connection has ended.
    pub(crate) async fn packet(&mut self) -> Option<Vec<u8>> {
        soon("a packet", async {
            let mut bytes = vec![self.stream.read_u8().await.ok()?];
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = self.stream.read_u8().await.ok()?;
                bytes.push(byte);
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = bytes.len();
            bytes.resize(start + length, 0);
            self.stream.read_exact(&mut bytes[start..]).await.ok()?;
            Some(bytes)
        })
        .await
    }

    /// The reason code, or granted QoS, for one filter.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        let none: &[u8] = if self.version == 5 { &[0] } else { &[] };
        self.send(&packet(0x82, &[&[0, 1], none, &text(filter), &[qos]].concat())).await;
        loop {
            let answer = self.packet().await.unwrap();
            if answer[0] == 0x90 {
                return answer[answer.len() - 1];
            }
        }
    }

    /// Sends a PUBLISH with these flags (DUP 8, QoS 2 and 4, retain 1).
    pub(crate) async fn publish(&mut self, flags: u8, packet_id: u16, topic: &str, payload: &[u8]) {
        let id = packet_id.to_be_bytes();
        let id: &[u8] = if flags & 6 == 0 { &[] } else { &id };
        let none: &[u8] = if self.version == 5 { &[0] } else { &[] };
        self.send(&packet(0x30 | flags, &[&text(topic), id, none, payload].concat())).await;
    }

    /// Publishes at QoS 1 and waits for the acknowledgement: whatever was sent before has been worked on then.
    pub(crate) async fn publish_and_wait(&mut self, topic: &str, payload: &str) {
        self.publish(2, 9999, topic, payload.as_bytes()).await;
        while self.packet().await.unwrap()[0] != 0x40 {}
    }

    /// The next message at QoS 0 or 1: topic and payload.
    pub(crate) async fn message(&mut self) -> (String, String) {
        loop {
            let bytes = self.packet().await.expect("the connection lives");
            if bytes[0] >> 4 != 3 {
                continue;
            }
            let header = 1 + bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let length = usize::from(u16::from_be_bytes([bytes[header], bytes[header + 1]]));
            let topic = String::from_utf8(bytes[header + 2..header + 2 + length].to_vec()).unwrap();
            let mut at = header + 2 + length;
            if bytes[0] & 6 != 0 {
                self.send(&[0x40, 2, bytes[at], bytes[at + 1]]).await;
                at += 2;
            }
            if self.version == 5 {
                at += 1 + usize::from(bytes[at]);
            }
            return (topic, String::from_utf8(bytes[at..].to_vec()).unwrap());
        }
    }

    /// The connection ends, and these are its last packets.
    pub(crate) async fn last_packets(&mut self) -> Vec<Vec<u8>> {
        let mut last = Vec::new();
        while let Some(packet) = self.packet().await {
            last.push(packet);
        }
        last
    }
}
