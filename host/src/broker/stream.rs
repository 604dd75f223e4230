//! A connection's bytes, as the library sees them: first what the gate has read, then the wire.
//!
//! What the library writes is put right on the way out, since it is not always what the client's version of MQTT has:
//! - to 3.1.1, acknowledgements with the reason codes of MQTT 5 are cut to their four bytes (a client drops its link over the rest),
//!   and DISCONNECT, which no 3.1.1 server sends, is left out;
//! - to 5, "server shutting down", the library's word for every end from our side, becomes the reason that we end it for, and the
//!   CONNACK for a client without an id names the id it got.
//!
//! The library writes whole packets, one at a time; a contract test would notice another habit.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use mqtt5::broker::transport::WebSocketTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{connection::Connection, gate};

const CONNACK: u8 = 2;
const PUBCOMP: u8 = 7;
const DISCONNECT: u8 = 14;
const SERVER_SHUTTING_DOWN: u8 = 0x8b;

/// A connection behind the gate.
pub(super) struct GateStream<S> {
    pub(super) io: S,
    /// What the gate has read, the rewritten CONNECT first.
    pub(super) read: Bytes,
    pub(super) connection: Arc<Connection>,
    /// What was put in a packet's place and is not yet written.
    pub(super) instead: Bytes,
    /// How much of a packet that goes out as it is has yet to come.
    pub(super) passing: usize,
}

/// What becomes of a packet on its way out.
#[derive(Debug, PartialEq, Eq)]
enum Outgoing {
    /// It goes out as it is.
    Pass,
    /// These bytes go out instead, maybe none.
    Instead(Vec<u8>),
}

fn outgoing(packet: &[u8], connection: &Connection) -> Outgoing {
    let kind = packet[0] >> 4;
    if connection.version == 4 {
        return match kind {
            4..=7 if packet.len() > 4 => {
                let id = if packet[1] & 0x80 == 0 { 2 } else { 3 };
                Outgoing::Instead(vec![packet[0], 2, packet[id], packet[id + 1]])
            }
            DISCONNECT => Outgoing::Instead(Vec::new()),
            _ => Outgoing::Pass,
        };
    }
    match (kind, connection.end_reason()) {
        (DISCONNECT, Some(reason)) if packet.get(2) == Some(&SERVER_SHUTTING_DOWN) => {
            let mut packet = packet.to_vec();
            packet[2] = reason;
            Outgoing::Instead(packet)
        }
        (CONNACK, _) if connection.id_is_assigned => {
            gate::with_assigned_id(packet, &connection.client_id).map_or(Outgoing::Pass, Outgoing::Instead)
        }
        _ => Outgoing::Pass,
    }
}

/// The whole length of the packet that `bytes` begin with.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.get(1..)?;
    let body = gate::variable_int(&mut rest)?;
    Some(bytes.len() - rest.len() + body)
}

impl<S: AsyncWrite + Unpin> GateStream<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.instead.has_remaining() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.instead))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.instead.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GateStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.has_remaining() {
            let n = buf.remaining().min(self.read.len());
            buf.put_slice(&self.read.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GateStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.passing == 0
            && let Some(packet) = packet_length(buf).and_then(|length| buf.get(..length))
        {
            if packet[0] >> 4 == PUBCOMP && packet.len() >= 4 {
                self.connection.exactly_once_done(u16::from_be_bytes([packet[2], packet[3]]));
            }
            if let Outgoing::Instead(bytes) = outgoing(packet, &self.connection) {
                self.instead = bytes.into();
                // What cannot be written now goes out before the next write, flush or shutdown.
                if let Poll::Ready(Err(error)) = self.poll_instead(cx) {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(Ok(packet.len()));
            }
            self.passing = packet.len();
        }
        let most = if self.passing == 0 { buf.len() } else { self.passing.min(buf.len()) };
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..most]))?;
        self.passing = self.passing.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> WebSocketTransport for GateStream<S> {
    fn peer_addr(&self) -> mqtt5::Result<SocketAddr> {
        Ok(self.connection.peer)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
pub(super) mod tests;
