use std::time::Duration;

use mqtt5::{packet::connect::ConnectPacket, types::ConnectOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::{Admitted, Events, Limits, Message, connection::EndReason, room::Room},
    *,
};
use crate::{sessions::SessionId, tokens::grant::Grant};

struct Deaf;

impl Events for Deaf {
    fn message(&self, _: Message) {}
    fn connected(&self, _: SessionId, _: &str) {}
    fn disconnected(&self, _: SessionId, _: &str) {}
    fn link(&self, _: bool) {}
}

pub(in crate::broker) fn connection(version: u8, id_is_assigned: bool) -> Arc<Connection> {
    let session = SessionId::parse("123456").unwrap();
    let room = Arc::new(Room::new(session, Arc::new(Deaf), &Limits::default()));
    let options = ConnectOptions::new(if id_is_assigned { "" } else { "dev" }).protocol_options;
    let connect = ConnectPacket { protocol_version: version, ..ConnectPacket::new(options) };
    let admitted = Admitted {
        session,
        client_id: "dev".into(),
        grant: Grant::whole_session(session),
        expires_at: crate::sessions::clock::Clock::system().now() + Duration::from_secs(60),
    };
    Arc::new(Connection::new(room, &connect, &admitted, "127.0.0.1:1".parse().unwrap()))
}

/// What goes over the wire when `packets` are written, through a wire that takes `window` bytes at a time.
async fn over_the_wire(connection: &Arc<Connection>, packets: &[&[u8]], window: usize) -> Vec<u8> {
    let (io, mut client) = tokio::io::duplex(window);
    let mut stream = GateStream { io, read: Bytes::new(), connection: Arc::clone(connection), instead: Bytes::new(), passing: 0 };
    let packets: Vec<_> = packets.iter().map(|packet| packet.to_vec()).collect();
    let write = async move {
        for packet in packets {
            stream.write_all(&packet).await.unwrap();
            stream.flush().await.unwrap();
        }
    };
    let mut wire = Vec::new();
    tokio::join!(write, async { client.read_to_end(&mut wire).await.unwrap() });
    wire
}

#[tokio::test]
async fn acknowledgements_to_3_1_1_lose_what_only_5_has() {
    let publish = [&[0x30, 0x82, 0x01, 0, 1, b't'][..], &[b'p'; 127]].concat();
    let packets: [&[u8]; 7] = [
        &[0x40, 5, 0, 5, 0x87, 1, 2],
        &[0x50, 6, 0, 6, 0x87, 1, 2, 3],
        &[0x62, 3, 0, 7, 0x92],
        &[0x70, 4, 0, 8, 0x92, 0],
        &publish,
        &[0xe0, 1, 0x8e],
        &[0x40, 2, 0, 9],
    ];
    let expected = [&[0x40, 2, 0, 5, 0x50, 2, 0, 6, 0x62, 2, 0, 7, 0x70, 2, 0, 8][..], &publish, &[0x40, 2, 0, 9]].concat();
    for window in [1, 3, 64, 4096] {
        assert_eq!(over_the_wire(&connection(4, false), &packets, window).await, expected, "{window}");
    }
    // A reason string longer than 120 bytes: the length takes two bytes.
    let long = [&[0x40, 0x82, 0x01, 0, 5][..], &[0; 128]].concat();
    assert_eq!(over_the_wire(&connection(4, false), &[&long], 7).await, [0x40, 2, 0, 5]);
}

#[tokio::test]
async fn to_5_only_the_reason_of_our_end_changes() {
    let connection = connection(5, false);
    let packets: [&[u8]; 3] = [&[0x40, 3, 0, 5, 0x87], &[0xe0, 2, 0x8e, 0], &[0xe0, 2, 0x8b, 0]];
    let all = packets.concat();
    assert_eq!(over_the_wire(&connection, &packets, 2).await, all, "no end of ours yet");
    connection.end_silently(EndReason::AdministrativeAction);
    let ended = [&all[..all.len() - 2], &[0x98, 0]].concat();
    assert_eq!(over_the_wire(&connection, &packets, 2).await, ended);
}

#[tokio::test]
async fn a_client_without_an_id_is_told_the_one_it_got() {
    let connack: &[u8] = &[0x20, 3, 0, 0, 0];
    let told = [0x20, 9, 0, 0, 6, 0x12, 0, 3, b'd', b'e', b'v'];
    assert_eq!(over_the_wire(&connection(5, true), &[connack], 2).await, told);
    assert_eq!(over_the_wire(&connection(5, false), &[connack], 2).await, connack);
    assert_eq!(over_the_wire(&connection(4, true), &[&[0x20, 2, 0, 0]], 2).await, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn what_the_gate_has_read_comes_first() {
    let (io, mut client) = tokio::io::duplex(64);
    client.write_all(b"wire").await.unwrap();
    drop(client);
    let read = Bytes::from_static(b"gate and ");
    let mut stream = GateStream { io, read, connection: connection(4, false), instead: Bytes::new(), passing: 0 };
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "gate and wire");
}
