//! MQTT over WebSocket: route `/mqtt`, subprotocol `mqtt`, binary messages as a stream of bytes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, State, WebSocketUpgrade, ws},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::embedded::EmbeddedBroker;
use crate::census::Place;

/// How much is read at a time. So much is there for each connection, from its first byte on; the library's own is sixteen times that.
const READ_BYTES: usize = 8 << 10;

impl EmbeddedBroker {
    /// `GET /mqtt`, for a WebSocket port of its own and for merging into another router. Where requests come from is read from the
    /// request extension `axum::extract::ConnectInfo<SocketAddr>`, which whoever serves the router must set; without it: 500.
    /// Before [`EmbeddedBroker::serve`], after shutdown, and over a limit: 503.
    pub fn websocket_router(self: &Arc<Self>) -> Router {
        Router::new().route("/mqtt", get(upgrade)).with_state(Arc::clone(self))
    }
}

/// A place that was given at accept, for the upgrade of that connection.
#[derive(Clone)]
pub(super) struct Reserved(Arc<Mutex<Option<Place>>>);

impl Reserved {
    pub(super) fn new(place: Place) -> Self {
        Self(Arc::new(Mutex::new(Some(place))))
    }

    fn take(&self) -> Option<Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

async fn upgrade(
    State(broker): State<Arc<EmbeddedBroker>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    reserved: Option<Extension<Reserved>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !broker.is_serving() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the MQTT broker is not serving\n").into_response();
    }
    let place = match reserved.and_then(|Extension(reserved)| reserved.take()) {
        Some(place) => Ok(place),
        None => broker.census.enter(peer),
    };
    let place = match place {
        Ok(place) if !place.is_too_fast() => place,
        refused => {
            let limit = refused.err().unwrap_or("too many connections from this source within a short time");
            tracing::debug!(%peer, limit, "WebSocket refused");
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "5")], format!("{limit}\n")).into_response();
        }
    };
    // It holds before CONNECT as well, when nobody knows yet who sends, and the library has no way to change it later: so no more than for a CONNECT with a
    // packet behind it.
    let message_bytes = broker.limits.connect_bytes + broker.limits.packet_bytes;
    upgrade
        .protocols(["mqtt"])
        .max_message_size(message_bytes)
        .max_frame_size(message_bytes)
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .on_upgrade(move |socket| broker.connection(WebSocketIo::new(socket), peer, place))
}

/// A WebSocket's binary messages as bytes.
struct WebSocketIo {
    /// Never contended: the library asks for `Sync`, which an upgraded connection is not.
    socket: Mutex<ws::WebSocket>,
    read: Bytes,
}

impl WebSocketIo {
    fn new(socket: ws::WebSocket) -> Self {
        Self { socket: Mutex::new(socket), read: Bytes::new() }
    }

    fn socket(&mut self) -> Pin<&mut ws::WebSocket> {
        Pin::new(self.socket.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncRead for WebSocketIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.read.has_remaining() {
            match ready!(self.socket().poll_next(cx)) {
                Some(Ok(ws::Message::Binary(bytes))) => self.read = bytes,
                Some(Ok(ws::Message::Ping(_) | ws::Message::Pong(_))) => {}
                Some(Ok(ws::Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "MQTT comes in binary messages")));
                }
                Some(Ok(ws::Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let n = buf.remaining().min(self.read.len());
        buf.put_slice(&self.read.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket().poll_ready(cx)).map_err(io::Error::other)?;
        self.socket().start_send(ws::Message::Binary(Bytes::copy_from_slice(buf))).map_err(io::Error::other)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_close(cx).map_err(io::Error::other)
    }
}
