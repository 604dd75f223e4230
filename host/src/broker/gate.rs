//! The gate: what a connection must show before it reaches the router of its session.
//!
//! It reads the CONNECT packet, within limits of its own, and nothing else is looked at before [`super::Admission`] has decided. What is
//! not MQTT is closed without a word; what is MQTT of another version, and what is refused, is answered in its own version.
//! An admitted CONNECT is written anew for the router: with the client id that the connection belongs to, and without username and
//! password, so that no token goes further than this file.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mqtt5::packet::{FixedHeader, MqttPacket, PacketType, connect::ConnectPacket};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{ConnectRequest, Refusal};

/// The length field's four bytes and the type.
const HEADER_BYTES: usize = 5;
/// How long a refused connection may take to read its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
const CONNECT: u8 = 0x10;

/// What the first packet of a connection was.
#[derive(Debug)]
pub(super) enum Opening {
    /// A CONNECT of 3.1.1 or 5, and the bytes that came behind it.
    Connect(Box<ConnectPacket>, Bytes),
    /// A CONNECT of another protocol version, with the CONNACK it gets.
    OtherVersion(&'static [u8]),
}

/// Not MQTT, too long or cut off: closed without a word.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbage {
    #[error("the connection ended before its CONNECT was complete")]
    Ended,
    #[error("the first packet is not a CONNECT")]
    NotConnect,
    #[error("CONNECT is longer than allowed")]
    TooLong,
    #[error("CONNECT is malformed")]
    Malformed,
}

/// Reads the first packet, of at most `limit` bytes. Bytes read beyond it are kept.
pub(super) async fn read_opening<S: AsyncRead + Unpin>(io: &mut S, limit: usize) -> Result<Opening, Garbage> {
    let mut read = BytesMut::with_capacity(512);
    let (header, length) = loop {
        if let Some(found) = header(&read, limit)? {
            break found;
        }
        more(io, &mut read).await?;
    };
    while read.len() < header + length {
        more(io, &mut read).await?;
    }
    read.advance(header);
    let body = read.split_to(length).freeze();
    if let Some(answer) = other_version(&body)? {
        return Ok(Opening::OtherVersion(answer));
    }
    let length = u32::try_from(length).map_err(|_| Garbage::TooLong)?;
    let mut body = body;
    let connect =
        ConnectPacket::decode_body(&mut body, &FixedHeader::new(PacketType::Connect, 0, length)).map_err(|_| Garbage::Malformed)?;
    if body.has_remaining() {
        return Err(Garbage::Malformed);
    }
    Ok(Opening::Connect(Box::new(connect), read.freeze()))
}

async fn more<S: AsyncRead + Unpin>(io: &mut S, read: &mut BytesMut) -> Result<(), Garbage> {
    match io.read_buf(read).await {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(Garbage::Ended),
    }
}

/// The lengths of the fixed header and of the body, once the header is complete.
fn header(read: &[u8], limit: usize) -> Result<Option<(usize, usize)>, Garbage> {
    match read.first() {
        None => return Ok(None),
        Some(&CONNECT) => {}
        Some(_) => return Err(Garbage::NotConnect),
    }
    let mut length = 0;
    for (n, byte) in read.iter().enumerate().skip(1) {
        if n == HEADER_BYTES {
            return Err(Garbage::Malformed);
        }
        length |= usize::from(byte & 0x7f) << (7 * (n - 1));
        if length > limit {
            return Err(Garbage::TooLong);
        }
        if byte & 0x80 == 0 {
            return Ok(Some((n + 1, length)));
        }
    }
    Ok(None)
}

/// The CONNACK for a client that speaks another version of MQTT than 3.1.1 and 5.
fn other_version(body: &[u8]) -> Result<Option<&'static [u8]>, Garbage> {
    const OLDER: &[u8] = &[0x20, 2, 0, 0x01];
    const NEWER: &[u8] = &[0x20, 3, 0, 0x84, 0];
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', 4 | 5, ..] => Ok(None),
        [0, 4, b'M', b'Q', b'T', b'T', level, ..] => Ok(Some(if *level > 5 { NEWER } else { OLDER })),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', _, ..] => Ok(Some(OLDER)),
        _ => Err(Garbage::Malformed),
    }
}

/// What [`super::Admission`] is asked.
pub(super) fn request(connect: &ConnectPacket, peer: std::net::SocketAddr) -> ConnectRequest<'_> {
    ConnectRequest { client_id: &connect.client_id, username: connect.username.as_deref(), password: connect.password.as_deref(), peer }
}

/// An MQTT 3.1.1 client without an id must ask for a clean session.
pub(super) fn needs_an_id(connect: &ConnectPacket) -> bool {
    connect.protocol_version == 4 && connect.client_id.is_empty() && !connect.clean_start
}

/// The CONNACK of 3.1.1 for [`needs_an_id`].
pub(super) const ID_REJECTED: &[u8] = &[0x20, 2, 0, 0x02];

/// The CONNACK of a refusal, in the version of the client.
pub(super) fn refusal(version: u8, refusal: Refusal) -> &'static [u8] {
    match (version, refusal) {
        (4, Refusal::BadCredentials) => &[0x20, 2, 0, 0x04],
        (4, Refusal::NotAuthorized) => &[0x20, 2, 0, 0x05],
        (4, Refusal::TooFast) => &[0x20, 2, 0, 0x03],
        (_, Refusal::TooFast) => &[0x20, 3, 0, 0x9f, 0],
        (_, Refusal::BadCredentials) => &[0x20, 3, 0, 0x86, 0],
        (_, Refusal::NotAuthorized) => &[0x20, 3, 0, 0x87, 0],
    }
}

/// The bytes that the router reads first: the CONNECT as `library_id`'s, without credentials, and what came behind it.
pub(super) fn rewritten(connect: ConnectPacket, library_id: &str, behind: &[u8]) -> Result<Bytes, mqtt5::MqttError> {
    let mut bytes = BytesMut::new();
    ConnectPacket { client_id: library_id.to_owned(), username: None, password: None, ..connect }.encode(&mut bytes)?;
    bytes.put_slice(behind);
    Ok(bytes.freeze())
}

/// The id that the library knows a client by. It refuses a few names that a client may have; they get a `$` in front, which no
/// client's name can hold.
pub(super) fn library_id(client_id: &str) -> String {
    let escape = matches!(client_id, "." | "..") || client_id.starts_with("cert:") || client_id.starts_with('$');
    format!("{}{client_id}", if escape { "$" } else { "" })
}

/// A CONNACK of MQTT 5 with the Assigned Client Identifier added, where it is an accepting one.
pub(super) fn with_assigned_id(connack: &[u8], client_id: &str) -> Option<Vec<u8>> {
    let mut body = connack.get(1..)?;
    let _length = variable_int(&mut body)?;
    let (&[flags, 0], mut properties) = body.split_first_chunk()? else { return None };
    let length = variable_int(&mut properties)?;
    let id_length = u16::try_from(client_id.len()).ok()?;
    let mut added = vec![0x12];
    added.extend(id_length.to_be_bytes());
    added.extend(client_id.as_bytes());
    added.extend(properties.get(..length)?);
    let mut rest = vec![flags, 0];
    put_variable_int(&mut rest, added.len());
    rest.extend(added);
    let mut packet = vec![connack[0]];
    put_variable_int(&mut packet, rest.len());
    packet.extend(rest);
    Some(packet)
}

/// A length as MQTT writes it, taken off the front.
pub(super) fn variable_int(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_variable_int(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

#[cfg(any(test, fuzzing))]
#[path = "gate_fuzz.rs"]
pub(crate) mod fuzz;

/// Writes the last packet a refused connection gets, and lets it be read: bytes that the client sent behind its CONNECT would otherwise
/// make the system reset the connection before that.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, packet: &[u8]) {
    let told = async {
        io.write_all(packet).await?;
        io.flush().await?;
        io.shutdown().await?;
        let mut rest = [0; 1024];
        while io.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    match timeout(ANSWER_WAIT, told).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a refused client did not wait for its answer"),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
