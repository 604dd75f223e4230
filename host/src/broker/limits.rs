//! How much of everything one broker takes.

use std::time::Duration;

use conductor_abi::rules;

use crate::{config::Mqtt, networks::Networks};

/// Limits of the embedded broker, each with a default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time, in all.
    pub connections: usize,
    /// Connections at a time that have not sent their CONNECT yet.
    pub opening: usize,
    /// Connections at a time from one IPv4 address or one IPv6 /64.
    pub per_source: usize,
    /// Of these, such that have not sent their CONNECT yet.
    pub opening_per_source: usize,
    /// How many connections one source may begin at once.
    pub connects_burst: u32,
    /// How many in a minute from then on.
    pub connects_per_minute: u32,
    /// How many connections of one source may fail for their token at once; then one in 10 s. A name that may be guessed (`token.mode = "none"`) is not
    /// looked at beyond that; a signed token that is good always passes.
    pub failures_burst: u32,
    /// Networks that no limit by source holds for.
    pub exempt: Networks,
    /// How long a connection may take to send its CONNECT, and a WebSocket, before that, to ask for its upgrade.
    pub connect_time: Duration,
    /// The longest CONNECT, in bytes: token and last will are in it.
    pub connect_bytes: usize,
    /// The longest packet after that, and the longest message of the host's, in bytes.
    pub packet_bytes: usize,
    /// Messages waiting for one slow connection, at QoS 0, and again at QoS 1 and 2. More at QoS 0 are dropped; more at QoS 1 and 2 slow
    /// their sender down for up to 2 s and are then queued.
    pub waiting_messages: usize,
    /// Messages queued for one client that is away or slow; the oldest give way.
    pub queued_messages: usize,
    /// The same in bytes.
    pub queued_bytes: usize,
    /// Retained messages of one session.
    pub retained_messages: usize,
    /// The longest retained message, in bytes.
    pub retained_bytes: usize,
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// How long the MQTT session of a client that is away is kept.
    pub session_expiry: Duration,
    /// How often what has expired is forgotten.
    pub housekeeping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            opening: 2_048,
            per_source: 1_024,
            opening_per_source: 256,
            connects_burst: 1_024,
            connects_per_minute: 600,
            failures_burst: 10,
            exempt: Networks::default(),
            connect_time: Duration::from_secs(5),
            connect_bytes: 16 * 1024,
            packet_bytes: rules::MAX_PAYLOAD,
            waiting_messages: 2_048,
            queued_messages: 1_000,
            queued_bytes: 1 << 20,
            retained_messages: 100,
            retained_bytes: 64 * 1024,
            subscriptions: 100,
            session_expiry: Duration::from_secs(24 * 60 * 60),
            housekeeping: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Mqtt, exempt: Networks) -> Self {
        Self {
            connections: settings.connections,
            per_source: settings.connections_per_source,
            connects_burst: settings.connects_burst,
            connects_per_minute: settings.connects_per_minute,
            connect_time: settings.connect_time,
            packet_bytes: settings.packet_bytes,
            exempt,
            ..Self::default()
        }
    }
}
