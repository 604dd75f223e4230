//! Listeners: MQTT over TCP, and WebSocket on a port of its own; both over TLS as well.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
};
use futures_util::future::poll_immediate;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::{embedded::EmbeddedBroker, websocket::Reserved};
use crate::{
    census::Place,
    tls::{Inside, Tls},
};

/// The pauses after a failed accept, from the first to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The longest head of a request for an upgrade, as on the IoT port.
const HEAD_BYTES: usize = 16 << 10;

/// Binds all addresses, and tells the ports that were taken.
pub(super) async fn bind(addresses: &[SocketAddr]) -> io::Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for address in addresses {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen for MQTT on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(named)?;
        bound.push(listener.local_addr().map_err(named)?);
        listeners.push(listener);
    }
    Ok((listeners, bound))
}

/// Accepts until the broker stops. Where that fails for want of something (files, memory), it is said, and tried again.
pub(super) async fn accept<F>(broker: Arc<EmbeddedBroker>, listener: TcpListener, serve: F)
where
    F: Fn(Arc<EmbeddedBroker>, TcpStream, SocketAddr),
{
    let mut pause = BACK_OFF.0;
    loop {
        let mut ready = None;
        if pause != BACK_OFF.0 {
            // Where nobody waits, the system says so only if it could accept somebody.
            ready = poll_immediate(listener.accept()).await;
            if !matches!(ready, Some(Err(_))) {
                tracing::info!("MQTT connections are accepted again");
                broker.set_trouble(None);
                pause = BACK_OFF.0;
            }
        }
        let accepted = match ready {
            Some(accepted) => accepted,
            None => tokio::select! {
                accepted = listener.accept() => accepted,
                () = broker.stopped() => return,
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY cannot be set");
                }
                serve(Arc::clone(&broker), stream, peer);
            }
            // The peer's affair, not ours.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if pause == BACK_OFF.0 {
                    tracing::error!(%error, "MQTT connections cannot be accepted");
                    broker.set_trouble(Some(format!("connections cannot be accepted: {error}")));
                }
                pause = (pause * 2).min(BACK_OFF.1);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// MQTT over TCP, and over TLS where it is given.
pub(super) fn tcp(broker: Arc<EmbeddedBroker>, stream: TcpStream, peer: SocketAddr, tls: Option<Arc<Tls>>) {
    let Some(place) = enter(&broker, peer, tls.is_some()) else { return };
    drop(match tls {
        None => tokio::spawn(broker.connection(stream, peer, place)),
        Some(tls) => tokio::spawn(async move {
            if let Some(stream) = secured(&broker, &tls, Inside::Mqtt, stream, peer).await {
                broker.connection(stream, peer, place).await;
            }
        }),
    });
}

/// HTTP/1.1 for one request, which must ask for the upgrade; [`super::websocket`] takes it from there. The connection has a place of its own
/// until then, so that idle ones count.
pub(super) fn websocket(broker: Arc<EmbeddedBroker>, stream: TcpStream, peer: SocketAddr, router: Router, tls: Option<Arc<Tls>>) {
    let Some(place) = enter(&broker, peer, tls.is_some()) else { return };
    drop(match tls {
        None => tokio::spawn(until_upgrade(broker, stream, peer, router, Reserved::new(place))),
        Some(tls) => tokio::spawn(async move {
            if let Some(stream) = secured(&broker, &tls, Inside::Http, stream, peer).await {
                until_upgrade(broker, stream, peer, router, Reserved::new(place)).await;
            }
        }),
    });
}

/// A place. Whoever is too fast gets none over TLS, since the handshake costs most; others are told what it is.
fn enter(broker: &EmbeddedBroker, peer: SocketAddr, tls: bool) -> Option<Place> {
    let place = match broker.census.enter(peer) {
        Ok(place) if tls && place.is_too_fast() => Err("connects too often"),
        entered => entered,
    };
    place.inspect_err(|limit| tracing::debug!(%peer, limit, "closed without an answer")).ok()
}

/// The handshake, which has as much time as CONNECT has after it. On the heap, where a connection that lives long costs least.
async fn secured(
    broker: &EmbeddedBroker,
    tls: &Tls,
    inside: Inside,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Box<TlsStream<TcpStream>>> {
    let handshake = tls.accept(inside, stream, broker.limits.connect_time);
    let done = tokio::select! {
        done = handshake => done,
        () = broker.stopped() => return None,
    };
    done.inspect_err(|error| tracing::debug!(%peer, %error, "closed before it spoke TLS")).ok().map(Box::new)
}

async fn until_upgrade<S>(broker: Arc<EmbeddedBroker>, stream: S, peer: SocketAddr, router: Router, place: Reserved)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // For the upgrade; CONNECT has the same time again.
    let in_time = broker.limits.connect_time;
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(place.clone());
        let router = router.clone();
        async move {
            let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(in_time).max_buf_size(HEAD_BYTES).max_headers(32);
    let serving = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    match tokio::time::timeout(in_time, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "closed before its upgrade"),
        Err(_) => tracing::debug!(%peer, "closed: no upgrade in time"),
    }
}
