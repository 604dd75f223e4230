//! One connection as packets. Reading and writing happen in one place, and nothing is lost where a wait is given up.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use mqtt5::{
    FixedHeader, Packet, PacketType,
    packet::{MqttPacket, publish::PublishPacket},
};
use tokio::io::ReadBuf;

use super::{dial::Io, trouble::Trouble};

/// The longest packet that is read whole. Of MQTT 5 the broker is told so; of a longer one from a 3.1.1 broker only the packet id is
/// read, so that it can be acknowledged: it would otherwise come again at each connection.
pub(super) const MOST_READ: usize = 1 << 20;
/// More than this should not wait to be written.
const MOST_UNWRITTEN: usize = 1 << 20;
const SCRATCH: usize = 16 * 1024;
/// The fixed header, the longest topic, a packet id.
const LONGEST_START: usize = 5 + 2 + 65_535 + 2;

/// What came.
pub(super) enum Incoming {
    Packet(Packet),
    /// A PUBLISH longer than [`MOST_READ`]: its QoS and packet id.
    TooLong {
        qos: u8,
        id: u16,
    },
    /// All is written, after [`Wire::is_full`] said that too much was not.
    Written,
}

pub(super) struct Wire {
    io: Box<dyn Io>,
    /// 4 is MQTT 3.1.1.
    version: u8,
    /// Whom the broker's certificate names.
    host: String,
    read: BytesMut,
    scratch: Box<[u8]>,
    /// Bytes of a packet that is too long, still to come.
    skip: usize,
    unwritten: BytesMut,
    unflushed: bool,
    was_full: bool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("version", &self.version).field("unwritten", &self.unwritten.len()).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>, version: u8, host: &str) -> Self {
        Self {
            io,
            version,
            host: host.to_owned(),
            read: BytesMut::new(),
            scratch: vec![0; SCRATCH].into(),
            skip: 0,
            unwritten: BytesMut::new(),
            unflushed: false,
            was_full: false,
        }
    }

    /// Puts a packet behind those that wait to be written. [`Wire::next`] and [`Wire::flush`] write them.
    pub(super) fn send(&mut self, packet: &impl MqttPacket) -> Result<(), Trouble> {
        packet.encode(&mut self.unwritten).map_err(|error| Trouble::Protocol(error.to_string()))
    }

    /// Puts bytes behind those that wait to be written.
    pub(super) fn send_encoded(&mut self, bytes: &[u8]) {
        self.unwritten.extend_from_slice(bytes);
    }

    /// Whether so much waits to be written that no more should be added. Then [`Incoming::Written`] comes once it is.
    pub(super) fn is_full(&mut self) -> bool {
        self.was_full |= self.unwritten.len() >= MOST_UNWRITTEN;
        self.was_full
    }

    /// Whether all was handed to the system.
    pub(super) fn is_flushed(&self) -> bool {
        self.unwritten.is_empty() && !self.unflushed
    }

    /// The next packet; meanwhile, writes what waits. May be given up at any time.
    pub(super) async fn next(&mut self) -> Result<Incoming, Trouble> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Writes all that waits, and reads nothing. May be given up at any time.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        let written = poll_fn(|cx| self.poll_write(cx)).await;
        written.map_err(|error| self.trouble(&error))
    }

    /// Says that nothing more will be written.
    pub(super) async fn close(mut self) -> Result<(), Trouble> {
        self.flush().await?;
        let closed = poll_fn(|cx| Pin::new(&mut *self.io).poll_shutdown(cx)).await;
        closed.map_err(|error| self.trouble(&error))
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        Trouble::of_io(error, &self.host)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Trouble>> {
        // All that is read comes first, so that its answers are written together.
        if let Some(incoming) = self.take()? {
            return Poll::Ready(Ok(incoming));
        }
        // What the broker said last counts more than that it cannot be written to.
        let written = self.poll_write(cx);
        loop {
            if matches!(written, Poll::Ready(Ok(()))) && std::mem::take(&mut self.was_full) {
                return Poll::Ready(Ok(Incoming::Written));
            }
            let mut buf = ReadBuf::new(&mut self.scratch);
            match Pin::new(&mut *self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Poll::Ready(Err(self.trouble(&io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(())) => {
                    let mut bytes = buf.filled();
                    let skipped = self.skip.min(bytes.len());
                    bytes.advance(skipped);
                    self.skip -= skipped;
                    self.read.extend_from_slice(bytes);
                    if let Some(incoming) = self.take()? {
                        return Poll::Ready(Ok(incoming));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.trouble(&error))),
                Poll::Pending => {
                    return match written {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(self.trouble(&error))),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let n = ready!(Pin::new(&mut *self.io).poll_write(cx, &self.unwritten))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.advance(n);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// A whole packet out of what was read.
    fn take(&mut self) -> Result<Option<Incoming>, Trouble> {
        let Some((first, length, head)) = header(&self.read)? else { return Ok(None) };
        let broken = |error: mqtt5::MqttError| Trouble::Protocol(error.to_string());
        let kind = PacketType::from_u8(first >> 4).ok_or_else(|| Trouble::Protocol(format!("a packet of kind {}", first >> 4)))?;
        if length > MOST_READ {
            return self.pass_over(kind, first, head, length);
        }
        if self.read.len() < head + length {
            return Ok(None);
        }
        self.read.advance(head);
        let mut body: Bytes = self.read.split_to(length).freeze();
        let header = FixedHeader::new(kind, first & 0x0f, u32::try_from(length).unwrap_or(u32::MAX));
        Packet::decode_from_body_with_version(kind, &header, &mut body, self.version)
            .map(|packet| Some(Incoming::Packet(packet)))
            .map_err(broken)
    }

    /// A packet that is too long: its beginning is looked at, the rest not kept.
    fn pass_over(&mut self, kind: PacketType, first: u8, head: usize, length: usize) -> Result<Option<Incoming>, Trouble> {
        if kind != PacketType::Publish {
            return Err(Trouble::Protocol(format!("a packet of {length} bytes")));
        }
        let topic = match self.read.get(head..head + 2) {
            Some(bytes) => usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            None => return Ok(None),
        };
        let Some(id) = self.read.get(head + 2 + topic..head + 4 + topic) else {
            debug_assert!(self.read.len() < LONGEST_START);
            return Ok(None);
        };
        let id = u16::from_be_bytes([id[0], id[1]]);
        let here = self.read.len().min(head + length);
        self.read.advance(here);
        self.skip = head + length - here;
        Ok(Some(Incoming::TooLong { qos: (first >> 1) & 3, id }))
    }
}

/// First byte, remaining length and the header's own length, once they are there.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Trouble> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut length = 0;
    for (at, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((first, length, at + 2)));
        }
    }
    if rest.len() >= 4 { Err(Trouble::Protocol("a packet without a length".to_owned())) } else { Ok(None) }
}

/// A message as bytes, for a broker that takes packets of up to `most` bytes; nothing where it is longer.
pub(super) fn encode(packet: &PublishPacket, most: usize) -> Result<Option<BytesMut>, Trouble> {
    let mut bytes = BytesMut::new();
    packet.encode(&mut bytes).map_err(|error| Trouble::Protocol(error.to_string()))?;
    Ok((bytes.len() <= most).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use mqtt5::QoS;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn wire(version: u8) -> (Wire, DuplexStream) {
        let (near, far) = duplex(64 * 1024);
        (Wire::new(Box::new(near), version, "broker"), far)
    }

    fn publish(topic: &str, payload: Vec<u8>, qos: QoS) -> BytesMut {
        let mut packet = PublishPacket::new_v311(topic, payload, qos);
        packet.packet_id = (qos != QoS::AtMostOnce).then_some(7);
        let mut bytes = BytesMut::new();
        packet.encode(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn packets_come_however_the_bytes_do() {
        let (mut wire, mut far) = wire(4);
        let bytes = [publish("/1/x", vec![1; 300], QoS::AtLeastOnce), publish("/1/y", vec![], QoS::AtMostOnce)].concat();
        let feed = tokio::spawn(async move {
            for byte in bytes {
                far.write_all(&[byte]).await.unwrap();
            }
            far
        });
        for (topic, id) in [("/1/x", Some(7)), ("/1/y", None)] {
            match wire.next().await.unwrap() {
                Incoming::Packet(Packet::Publish(publish)) => assert_eq!((publish.topic_name.as_str(), publish.packet_id), (topic, id)),
                _ => panic!("no message"),
            }
        }
        drop(feed.await.unwrap());
        assert!(matches!(wire.next().await, Err(Trouble::Closed(_))));
    }

    #[tokio::test]
    async fn of_a_message_that_is_too_long_only_the_packet_id_is_kept() {
        let (mut wire, mut far) = wire(4);
        let feed = tokio::spawn(async move {
            far.write_all(&publish("/1/long", vec![1; MOST_READ + 1], QoS::ExactlyOnce)).await.unwrap();
            far.write_all(&publish("/1/next", vec![], QoS::AtMostOnce)).await.unwrap();
            far
        });
        assert!(matches!(wire.next().await.unwrap(), Incoming::TooLong { qos: 2, id: 7 }));
        assert!(matches!(wire.next().await.unwrap(), Incoming::Packet(Packet::Publish(next)) if next.topic_name == "/1/next"));
        assert!(wire.read.capacity() < MOST_READ / 2, "{}", wire.read.capacity());
        drop(feed.await.unwrap());
    }

    #[tokio::test]
    async fn it_says_when_there_is_room_again() {
        let (mut wire, mut far) = wire(4);
        assert!(!wire.is_full());
        wire.send_encoded(&vec![0; MOST_UNWRITTEN]);
        assert!(wire.is_full() && !wire.is_flushed());
        let read = tokio::spawn(async move {
            let mut all = vec![0; MOST_UNWRITTEN];
            far.read_exact(&mut all).await.unwrap();
            far
        });
        assert!(matches!(wire.next().await.unwrap(), Incoming::Written));
        assert!(wire.is_flushed() && !wire.is_full());
        drop(read.await.unwrap());
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for bytes in [vec![0xff, 0xff, 0xff, 0xff, 0xff], vec![0x00, 0x00], vec![0x40, 0x81, 0x80, 0x80, 0x01]] {
            let (mut wire, mut far) = wire(5);
            far.write_all(&bytes).await.unwrap();
            assert!(matches!(wire.next().await, Err(Trouble::Protocol(_))), "{bytes:x?}");
        }
    }
}
