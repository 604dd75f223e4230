//! From an address to a stream of bytes: TCP, TLS, WebSocket.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, error::ProtocolError, protocol::WebSocketConfig},
};

use super::{
    link::CONNECT_TIME,
    settings::{LinkSettings, Scheme},
    tls,
    trouble::{Trouble, plain},
};

/// Bytes both ways, however they travel.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects. Bounded by the caller.
pub(super) async fn dial(settings: &LinkSettings) -> Result<Box<dyn Io>, Trouble> {
    let address = &settings.address;
    let resolved = lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| Trouble::Name { name: address.host.clone(), problem: plain(&error) })?;
    let tcp = connect_any(&resolved.collect::<Vec<_>>()).await.map_err(|error| Trouble::Unreachable(plain(&error)))?;
    tcp.set_nodelay(true).map_err(|error| Trouble::Unreachable(plain(&error)))?;
    let stream: Box<dyn Io> = if address.scheme.has_tls() {
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| Trouble::Tls(format!("{} is no name that a certificate could have", address.host)))?;
        let connector = TlsConnector::from(Arc::new(tls::config(settings)?));
        let stream = connector.connect(name, tcp).await.map_err(|error| match Trouble::of_io(&error, &address.host) {
            // By a reset or not, as chance has it: one trouble, told once.
            Trouble::Closed(_) => Trouble::Tls("the broker closed the connection instead of a handshake".to_owned()),
            Trouble::Lost(problem) => Trouble::Tls(format!("the handshake failed: {problem}")),
            other => other,
        })?;
        Box::new(stream)
    } else {
        Box::new(tcp)
    };
    match address.scheme {
        Scheme::Mqtt | Scheme::Mqtts => Ok(stream),
        Scheme::Ws | Scheme::Wss => Ok(Box::new(upgrade(settings, stream).await?)),
    }
}

/// The first of the addresses that answers. Each but the last has its share of the time: a name's IPv6 address may lead nowhere, and
/// its IPv4 address to the broker.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    };
    let share = CONNECT_TIME.div_f64(addresses.len() as f64 + 1.0);
    for address in others {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => tracing::debug!(%address, %error, "an address of the MQTT broker does not do"),
            Err(_) => tracing::debug!(%address, "an address of the MQTT broker does not answer"),
        }
    }
    TcpStream::connect(last).await
}

async fn upgrade(settings: &LinkSettings, stream: Box<dyn Io>) -> Result<WebSocketIo, Trouble> {
    let address = &settings.address;
    let scheme = if address.scheme.has_tls() { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{}", address.authority(), address.path);
    let mut request = url.into_client_request().map_err(|error| Trouble::WebSocket(error.to_string()))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt"));
    // A frame may pack many packets; what one packet may be is checked where packets are read.
    let config = WebSocketConfig::default().write_buffer_size(0);
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(WebSocketIo { socket, read: Bytes::new() }),
        Err(WsError::Http(response)) => {
            Err(Trouble::WebSocket(format!("{} answers {} at the path {}", address.authority(), response.status(), address.path)))
        }
        Err(WsError::Protocol(ProtocolError::HandshakeIncomplete)) => Err(Trouble::Unanswered),
        Err(WsError::Io(error)) => Err(match Trouble::of_io(&error, &address.host) {
            Trouble::Closed(_) => Trouble::Unanswered,
            other => other,
        }),
        Err(error) => Err(Trouble::WebSocket(error.to_string())),
    }
}

/// A WebSocket's binary messages as bytes.
struct WebSocketIo {
    socket: WebSocketStream<Box<dyn Io>>,
    read: Bytes,
}

impl WebSocketIo {
    fn socket(&mut self) -> Pin<&mut WebSocketStream<Box<dyn Io>>> {
        Pin::new(&mut self.socket)
    }
}

/// The system's error, where it is one: TLS hides in it.
fn as_io(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        // An end like that of any other connection.
        WsError::ConnectionClosed | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::other(other),
    }
}

impl AsyncRead for WebSocketIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.read.has_remaining() {
            match ready!(self.socket().poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "MQTT comes in binary messages")));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
            }
        }
        let n = buf.remaining().min(self.read.len());
        buf.put_slice(&self.read.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket().poll_ready(cx)).map_err(as_io)?;
        self.socket().start_send(Message::Binary(Bytes::copy_from_slice(buf))).map_err(as_io)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx).map_err(as_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_close(cx).map_err(as_io)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, duplex},
        net::{TcpListener, TcpSocket},
        time::Instant,
    };
    use tokio_tungstenite::{accept_async, client_async};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        // Its queue is full, so that what else comes is dropped without a word.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mute = socket.listen(1).unwrap();
        let address = mute.local_addr().unwrap();
        let _full: Vec<_> = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        tokio::task::yield_now().await;
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [address, good.local_addr().unwrap()];
        let started = Instant::now();
        let stream = timeout(CONNECT_TIME, connect_any(&addresses)).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        let waited = started.elapsed();
        assert!(waited > Duration::from_secs(1) && waited < CONNECT_TIME / 2, "{waited:?}");
    }

    #[tokio::test]
    async fn a_web_socket_that_is_cut_ends_like_any_connection() {
        let (near, far) = duplex(4096);
        let near: Box<dyn Io> = Box::new(near);
        let (server, client) = tokio::join!(accept_async(far), client_async("ws://broker/mqtt", near));
        drop(server.unwrap());
        let mut io = WebSocketIo { socket: client.unwrap().0, read: Bytes::new() };
        let error = io.read_u8().await.unwrap_err();
        assert!(matches!(Trouble::of_io(&error, "broker"), Trouble::Closed(_)), "{error:?}");
        assert_eq!(error.to_string(), io::Error::from(io::ErrorKind::UnexpectedEof).to_string());
    }
}
