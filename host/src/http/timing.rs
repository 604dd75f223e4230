//! How long a connection may take for what: a stream that gives up where its client takes too long to send.
//!
//! Three times, each from a beginning of its own: idle, from the end of the answer before; the head, from its first byte; the whole request, from
//! that byte to the end of the body. Nothing runs while an answer is made and sent (a conductor may take its deadline; who does not read is the write
//! timeout's), nor after an upgrade.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a request's line and headers, once the first byte is there.
    pub head: Duration,
    /// For the whole request, from the same byte.
    pub request: Duration,
    /// Between an answer and the first byte of the next request, and before the first.
    pub idle: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle { until: Instant },
    Head { since: Instant },
    Body { since: Instant },
    Answering,
    Upgraded,
}

/// How long a request may be on its way when the host stops.
const HURRY: Duration = Duration::from_secs(1);

/// Where a connection is between its requests and answers. Shared by its stream, its request's body and its answer's.
#[derive(Debug)]
pub(super) struct Timing {
    times: Times,
    phase: Mutex<Phase>,
}

impl Timing {
    pub(super) fn new(times: Times) -> Arc<Self> {
        Arc::new(Self { times, phase: Mutex::new(Phase::Idle { until: Instant::now() + times.idle }) })
    }

    fn change(&self, change: impl FnOnce(Phase) -> Phase) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = change(*phase);
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.phase.lock().unwrap_or_else(PoisonError::into_inner) {
            Phase::Idle { until } => Some(until),
            Phase::Head { since } => Some(since + self.times.head),
            Phase::Body { since } => Some(since + self.times.request),
            Phase::Answering | Phase::Upgraded => None,
        }
    }

    fn bytes_came(&self) {
        self.change(|phase| if matches!(phase, Phase::Idle { .. }) { Phase::Head { since: Instant::now() } } else { phase });
    }

    /// The head is read. The body that the handler gets tells of its end.
    pub(super) fn begin<B>(self: &Arc<Self>, body: B) -> Body
    where
        B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        if body.is_end_stream() {
            self.change(|_| Phase::Answering);
            return Body::new(body);
        }
        self.change(|phase| Phase::Body {
            since: match phase {
                Phase::Head { since } => since,
                // It came together with the request before.
                _ => Instant::now(),
            },
        });
        Body::new(Asked { body, timing: Arc::clone(self) })
    }

    /// The answer; the next request may come once it is dropped.
    pub(super) fn answered(self: &Arc<Self>, body: Body) -> Body {
        Body::new(Answer { body, timing: Arc::clone(self) })
    }

    /// The host stops: what is idle is over soon. To be called before the stream is read again.
    pub(super) fn hurry(&self) {
        let soon = Instant::now() + HURRY;
        self.change(|phase| match phase {
            Phase::Idle { until } => Phase::Idle { until: until.min(soon) },
            other => other,
        });
    }

    /// No more requests come, and no time runs.
    pub(super) fn upgraded(&self) {
        self.change(|_| Phase::Upgraded);
    }
}

/// A request's body.
struct Asked<B> {
    body: B,
    timing: Arc<Timing>,
}

impl<B: HttpBody + Unpin> HttpBody for Asked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.timing.change(|_| Phase::Answering);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body.
struct Answer {
    body: Body,
    timing: Arc<Timing>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let until = Instant::now() + self.timing.times.idle;
        self.timing.change(|_| Phase::Idle { until });
    }
}

/// A stream whose reads end with [`io::ErrorKind::TimedOut`] where the client takes too long.
pub(super) struct Timed<S> {
    stream: S,
    timing: Arc<Timing>,
    sleep: Pin<Box<Sleep>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, timing: Arc<Timing>) -> Self {
        let sleep = Box::pin(tokio::time::sleep(timing.times.idle));
        Self { stream, timing, sleep }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if buf.filled().len() > before {
                self.timing.bytes_came();
            }
            // One that sends byte after byte never waits here; it is looked at as well.
            if self.timing.deadline().is_none_or(|deadline| deadline > Instant::now()) {
                return Poll::Ready(read);
            }
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Some(deadline) = self.timing.deadline() else { return Poll::Pending };
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        ready!(self.sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
