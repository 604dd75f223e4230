//! Serves a router on listeners, by HTTP or HTTPS, with limits on heads, time and connections, until told to stop.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tower::Service;

use super::timing::{Timed, Times, Timing};
use crate::{
    access::PeerCertificates,
    census::{Census, Most},
    config::{Admin, Iot},
    networks::Networks,
    tls::{Inside, Tls},
};

/// What a port lets its clients do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long they may take to send.
    pub times: Times,
    /// Bytes of a request's line and headers.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// How long a client may take to read what is sent to it.
    pub write_time: Duration,
    /// Connections at a time; beyond, a new one is answered 503 and closed at once.
    pub connections: usize,
    /// Connections at a time from one IPv4 address or one IPv6 /64.
    pub per_source: usize,
    /// Networks that the limit by source does not hold for.
    pub exempt: Networks,
    /// Where there are any, a connection from elsewhere is closed at once: nothing that it sends is read, and it costs neither a handshake nor one of the places.
    pub allow: Networks,
}

impl Limits {
    /// For the public port.
    #[must_use]
    pub fn public(settings: &Iot, exempt: Networks) -> Self {
        Self {
            times: Times { head: Duration::from_secs(5), request: Duration::from_secs(10), idle: Duration::from_secs(15) },
            write_time: Duration::from_secs(10),
            head_bytes: 16 << 10,
            headers: 32,
            connections: settings.connections,
            per_source: settings.connections_per_source,
            exempt,
            allow: Networks::default(),
        }
    }

    /// For the trusted port: parameters of requests come in the query there.
    #[must_use]
    pub fn trusted(settings: &Admin, exempt: Networks) -> Self {
        Self {
            times: Times { head: Duration::from_secs(30), request: Duration::from_secs(60), idle: Duration::from_secs(60) },
            write_time: Duration::from_secs(30),
            head_bytes: 64 << 10,
            headers: 100,
            connections: settings.connections,
            per_source: settings.connections_per_source,
            exempt,
            allow: settings.allow.clone(),
        }
    }
}

/// How long a TLS handshake may take, before the time for a request's head begins.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What a connection is told for which there is no place.
const OVER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 144\r\nRetry-After: 5\r\n\
Connection: close\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"overloaded\",\"detail\":\"too many connections; try again in some seconds\"}";
/// How long such a connection may take to read that, and how many may at a time.
const LINGER: Duration = Duration::from_secs(1);
const LINGERING: usize = 64;

/// As many as the system keeps for a listener that are connected and not accepted.
const BACKLOG: usize = 1024;

/// After the stop a connection is still read for so long: what was sent before is there by then, and answered.
const MOMENT: Duration = Duration::from_millis(200);

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

/// Serves until `stop` becomes true; then takes those that are connected and no more, and gives what is in flight [`DRAIN`]. With `tls` it is HTTPS; what certificates a client
/// showed is among its requests' extensions.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: Limits,
    tls: Option<(Arc<Tls>, Inside)>,
    stop: watch::Receiver<bool>,
) {
    let most = Most { in_all: limits.connections, opening: usize::MAX, per_source: limits.per_source, opening_per_source: usize::MAX };
    let census = Census::new(most, limits.exempt.clone(), None);
    let (limits, over) = (Arc::new(limits), Over::new(tls.is_none()));
    // Each connection has a sender, so that the receiver ends with the last of them.
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (census, router, limits, tls) = (census.clone(), router.clone(), limits.clone(), tls.clone());
        let (alive, over, stop) = (alive.clone(), over.clone(), stop.clone());
        accepting.spawn(async move {
            let serve = |stream, peer: SocketAddr| {
                if !limits.allow.is_empty() && !limits.allow.contains(peer.ip()) {
                    tracing::info!(%peer, "closed at once: not from a network of admin.allow");
                    return;
                }
                match census.enter(peer) {
                    Ok(place) => {
                        let served = connection(stream, peer, router.clone(), limits.clone(), tls.clone(), stop.clone());
                        let alive = alive.clone();
                        drop(tokio::spawn(async move {
                            served.await;
                            drop((place, alive));
                        }));
                    }
                    Err(limit) => over.refuse(stream, peer, limit),
                }
            };
            accept(listener, stop.clone(), serve).await;
        });
    }
    while accepting.join_next().await.is_some() {}
    drop(alive);
    if tokio::time::timeout(DRAIN, all_ended.recv()).await.is_err() {
        tracing::warn!("requests still in flight after {} s are cut off", DRAIN.as_secs());
    }
}

async fn accept(listener: TcpListener, mut stop: watch::Receiver<bool>, serve: impl Fn(TcpStream, SocketAddr)) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer),
            Err(error) => {
                // Out of descriptors, most likely: the connections that end soon free some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // To clients these are connected, and may have sent their requests: a listener that is dropped would reset them. The system is asked, and not the runtime, which may not have heard of them yet.
    let rest = listener.into_std().map(|listener| for_each_waiting(|| listener.accept(), serve));
    if let Err(error) = rest {
        tracing::warn!(%error, "who had connected before the stop is not served");
    }
}

/// Those that are connected, until one would have to be waited for; not for ever, however fast others come.
fn for_each_waiting(accept: impl FnMut() -> io::Result<(std::net::TcpStream, SocketAddr)>, serve: impl Fn(TcpStream, SocketAddr)) {
    for accepted in std::iter::repeat_with(accept).take(BACKLOG) {
        let stream = accepted.and_then(|(stream, peer)| {
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, peer))
        });
        match stream {
            Ok((stream, peer)) => serve(stream, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Arc<Limits>,
    tls: Option<(Arc<Tls>, Inside)>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let Some((tls, inside)) = tls else { return requests(stream, peer, None, router, limits, stop).await };
    let secured = tokio::select! {
        secured = tls.accept(inside, stream, HANDSHAKE) => secured,
        () = stopped_for_a_moment(&mut stop) => return,
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
    limits: Arc<Limits>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    // A client that does not read must not hold its place for ever.
    stream.set_write_timeout(Some(limits.write_time));
    let timing = Timing::new(limits.times);
    let stopping = timing.clone();
    let stream = Timed::new(Box::pin(stream), timing.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut router, timing) = (router.clone(), timing.clone());
        let mut request = request.map(|body| timing.begin(body));
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(certificates) = &certificates {
            request.extensions_mut().insert(certificates.clone());
        }
        async move {
            let response = answer(&mut router, request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                timing.upgraded();
                return Ok(response);
            }
            Ok::<_, Infallible>(response.map(|body| timing.answered(body)))
        }
    });
    // The times are the stream's: hyper's own for a head runs while a connection is idle, too.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let done = tokio::select! {
        served = connection.as_mut() => Some(served),
        () = stopped_for_a_moment(&mut stop) => None,
    };
    let served = match done {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            // One that has sent nothing yet is not waited for.
            stopping.hurry();
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

/// What becomes of connections for which there is no place.
#[derive(Clone)]
struct Over {
    /// Whether they can be told: over TLS there is no telling without a handshake, which is what is to be spared.
    plain: bool,
    /// How many may be there still while they are told.
    lingering: Arc<Semaphore>,
}

impl Over {
    fn new(plain: bool) -> Self {
        Self { plain, lingering: Arc::new(Semaphore::new(LINGERING)) }
    }

    /// Writes the answer without waiting, and closes. What the client sends meanwhile is read for a moment, since the system would otherwise reset the
    /// connection and the answer with it; of many at once, only some have that.
    fn refuse(&self, stream: TcpStream, peer: SocketAddr, limit: &str) {
        tracing::debug!(%peer, limit, "closed at once");
        if !self.plain || stream.try_write(OVER).is_err() {
            return;
        }
        let Ok(place) = self.lingering.clone().try_acquire_owned() else { return };
        drop(tokio::spawn(async move {
            let mut stream = stream;
            let read = async {
                stream.shutdown().await?;
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            // It is refused, however it takes that.
            let _ = tokio::time::timeout(LINGER, read).await;
            drop(place);
        }));
    }
}

/// Resolves when `stop` becomes true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The result is a guard on the value; it must not live on.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn stopped_for_a_moment(stop: &mut watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(MOMENT).await;
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
