//! Serves a router on listeners, by HTTP or HTTPS, with limits on heads, time and connections, until told to stop.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, header},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tower::Service;

use crate::{
    access::PeerCertificates,
    networks::Networks,
    tls::{Inside, Tls},
};

/// What a port lets its clients do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request's head, and for the wait until it comes on a kept connection.
    pub head_time: Duration,
    /// Bytes of a request's line and headers.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// How long a client may take to read what is sent to it.
    pub write_time: Duration,
    /// Connections at a time; beyond, new ones are closed at once.
    pub connections: usize,
}

impl Limits {
    /// For the public port.
    #[must_use]
    pub fn public() -> Self {
        Self {
            head_time: Duration::from_secs(5),
            write_time: Duration::from_secs(10),
            head_bytes: 16 << 10,
            headers: 32,
            connections: 8192,
        }
    }

    /// For the trusted port: parameters of requests come in the query there.
    #[must_use]
    pub fn trusted() -> Self {
        Self {
            head_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            head_bytes: 64 << 10,
            headers: 100,
            connections: 1024,
        }
    }
}

/// How long a TLS handshake may take, before the time for a request's head begins.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long what is in flight may take after the stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Binds all addresses of a port.
///
/// # Errors
/// The first that cannot be bound, named.
pub async fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|e| io::Error::new(e.kind(), format!("{address} cannot be listened on: {e}")))?);
    }
    Ok(listeners)
}

/// Serves until `stop` becomes true; then takes no more connections, and gives what is in flight [`DRAIN`]. With `tls` it is HTTPS; what certificates a client
/// showed is among its requests' extensions. Where `allow` names networks, a connection from elsewhere is closed at once: nothing that it sends is read, and it costs
/// neither a handshake nor one of the places.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: Limits,
    allow: Networks,
    tls: Option<(Arc<Tls>, Inside)>,
    stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, router.clone(), limits, allow.clone(), tls.clone(), places.clone(), stop.clone()));
    }
    while accepting.join_next().await.is_some() {}
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN, places.acquire_many(all)).await.is_err() {
        tracing::warn!("requests still in flight after {} s are cut off", DRAIN.as_secs());
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    allow: Networks,
    tls: Option<(Arc<Tls>, Inside)>,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !allow.is_empty() && !allow.contains(peer.ip()) => {
                tracing::info!(%peer, "closed at once: not from a network of admin.allow");
            }
            Ok((stream, peer)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                    drop(tokio::spawn(async move {
                        connection(stream, peer, router, limits, tls, stop).await;
                        drop(place);
                    }));
                }
                Err(_) => tracing::debug!(%peer, "closed at once: too many connections"),
            },
            Err(error) => {
                // Out of descriptors, most likely: the connections that end soon free some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    tls: Option<(Arc<Tls>, Inside)>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let Some((tls, inside)) = tls else { return requests(stream, peer, None, router, limits, stop).await };
    let secured = tokio::select! {
        secured = tls.accept(inside, stream, HANDSHAKE) => secured,
        () = stopped(&mut stop) => return,
    };
    match secured {
        Ok(stream) => {
            let certificates = stream.get_ref().1.peer_certificates().map(|shown| PeerCertificates(shown.into()));
            requests(stream, peer, certificates, router, limits, stop).await;
        }
        Err(error) => tracing::debug!(%peer, %error, "closed before it spoke TLS"),
    }
}

/// Answers a connection's requests, until it ends or the stop comes between two of them.
async fn requests<S>(
    stream: S,
    peer: SocketAddr,
    certificates: Option<PeerCertificates>,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    // A client that does not read must not hold its place for ever; the wait for requests has a limit of its own.
    stream.set_write_timeout(Some(limits.write_time));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(certificates) = &certificates {
            request.extensions_mut().insert(certificates.clone());
        }
        async move { Ok::<_, Infallible>(answer(&mut router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers)
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let done = tokio::select! {
        served = connection.as_mut() => Some(served),
        () = stopped(&mut stop) => None,
    };
    let served = match done {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}

/// One request: one line in the log, and what every answer carries. (Here and not in a layer of the router, which would cost a
/// request several allocations.)
async fn answer(router: &mut Router, request: Request<Body>) -> Response {
    // The query may hold what an author considers secret; it is not logged.
    let line = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().path().to_owned()));
    let mut response = router.call(request).await.unwrap_or_else(|never| match never {});
    if let Some((method, path)) = line {
        tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Resolves when `stop` becomes true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The result is a guard on the value; it must not live on.
    let _ = stop.wait_for(|stop| *stop).await;
}
