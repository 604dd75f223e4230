//! CONNECT and CONNACK.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mqtt5::{
    Packet, Properties, PropertyId, PropertyValue, QoS,
    packet::{connack::ConnAckPacket, connect::ConnectPacket, publish::PublishPacket},
    protocol::v5::reason_codes::ReasonCode,
};

use super::{
    dial::Io,
    settings::LinkSettings,
    trouble::Trouble,
    wire::{Incoming, MOST_READ, Wire},
};
use crate::tokens::signer::LINK_NAME;

/// Silence after which a ping is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long the broker keeps our subscriptions and what is missed, where it asks (MQTT 5), in seconds.
const SESSION_EXPIRY: u32 = 3600;

/// The versions that the link speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

impl Version {
    /// As CONNECT has it.
    fn level(self) -> u8 {
        match self {
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// A message of this version.
    pub(super) fn message(self, topic: String, payload: Bytes, qos: QoS) -> PublishPacket {
        match self {
            Self::V311 => PublishPacket::new_v311(topic, payload, qos),
            Self::V5 => PublishPacket::new(topic, payload, qos),
        }
    }
}

/// What the broker takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) packet_bytes: usize,
    pub(super) qos: u8,
    pub(super) retains: bool,
    /// Unacknowledged messages at a time.
    pub(super) window: usize,
}

/// A connection that the broker accepted.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) wire: Wire,
    pub(super) version: Version,
    /// The broker kept our subscriptions and what was unacknowledged.
    pub(super) resumed: bool,
    pub(super) limits: Limits,
    pub(super) keep_alive: Duration,
    /// When the token that was shown ends.
    pub(super) expires_at: Option<SystemTime>,
}

/// Why the broker did not accept.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) trouble: Trouble,
    /// An older version of the protocol may do.
    pub(super) try_older: bool,
}

impl From<Trouble> for NotOpened {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, try_older: false }
    }
}

/// Sends CONNECT and waits for the answer. Bounded by the caller.
pub(super) async fn open(settings: &LinkSettings, io: Box<dyn Io>, version: Version) -> Result<Opened, NotOpened> {
    let mut wire = Wire::new(io, version.level(), &settings.address.host);
    let shown = settings.credentials()?;
    let expires_at = shown.expires_at;
    wire.send(&connect(version, shown.username, shown.password))?;
    let closed = |trouble: Trouble| match trouble {
        // Some old brokers just close where they do not know the version.
        Trouble::Closed(_) => NotOpened { try_older: version == Version::V5, trouble: Trouble::Unanswered },
        other => other.into(),
    };
    let connack = match wire.next().await.map_err(closed)? {
        Incoming::Packet(Packet::ConnAck(connack)) => connack,
        Incoming::Packet(other) => return Err(Trouble::Protocol(format!("{} before CONNACK", other.packet_type_name())).into()),
        Incoming::TooLong { .. } | Incoming::Written => return Err(Trouble::Protocol("no CONNACK".to_owned()).into()),
    };
    if connack.reason_code != ReasonCode::Success {
        let trouble = Trouble::of_connack(connack.reason_code);
        return Err(NotOpened { try_older: version == Version::V5 && trouble == Trouble::Version, trouble });
    }
    let keep_alive = match (version, connack.properties.get(PropertyId::ServerKeepAlive)) {
        (Version::V5, Some(PropertyValue::TwoByteInteger(seconds))) if *seconds > 0 => {
            // Within what the broker demands, not at its end.
            KEEP_ALIVE.min(Duration::from_secs(u64::from(*seconds)).mul_f64(0.75))
        }
        _ => KEEP_ALIVE,
    };
    Ok(Opened { wire, version, resumed: connack.session_present, limits: limits(&connack), keep_alive, expires_at })
}

fn connect(version: Version, username: String, password: Option<Vec<u8>>) -> ConnectPacket {
    let mut properties = Properties::default();
    if version == Version::V5 {
        properties.set_session_expiry_interval(SESSION_EXPIRY);
        properties.set_maximum_packet_size(u32::try_from(MOST_READ).unwrap_or(u32::MAX));
    }
    ConnectPacket {
        protocol_version: version.level(),
        clean_start: false,
        keep_alive: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
        client_id: LINK_NAME.to_owned(),
        username: Some(username),
        password,
        will: None,
        properties,
        will_properties: Properties::default(),
    }
}

/// Unacknowledged messages at a time, where the broker takes as many.
const WINDOW: usize = 100;

fn limits(connack: &ConnAckPacket) -> Limits {
    let properties = &connack.properties;
    let byte = |id| match properties.get(id) {
        Some(PropertyValue::Byte(value)) => Some(*value),
        _ => None,
    };
    Limits {
        packet_bytes: connack.maximum_packet_size().map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)),
        qos: byte(PropertyId::MaximumQoS).unwrap_or(2),
        retains: byte(PropertyId::RetainAvailable) != Some(0),
        window: connack.receive_maximum().map_or(WINDOW, |most| WINDOW.min(usize::from(most.max(1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_says_what_it_takes() {
        let connack = ConnAckPacket::new(true, ReasonCode::Success);
        assert_eq!(limits(&connack), Limits { packet_bytes: usize::MAX, qos: 2, retains: true, window: WINDOW });
        let connack = connack.with_maximum_packet_size(1000).with_maximum_qos(1).with_retain_available(false).with_receive_maximum(5);
        assert_eq!(limits(&connack), Limits { packet_bytes: 1000, qos: 1, retains: false, window: 5 });
    }
}
