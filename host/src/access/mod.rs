//! Who may do what on the admin port.

pub mod audit;
pub mod certificates;
pub mod oidc;

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::http::HeaderMap;
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;

/// One way in which whoever asks on the admin port can show who it is.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Looks at what was shown.
    fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict>;
}

/// What came with a request that may tell who asks.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// The client's certificate and its chain as DER, the client's own first; empty where TLS showed none.
    pub certificates: &'a [CertificateDer<'static>],
}

/// The certificates that a client showed during the TLS handshake. The server puts it among a request's extensions.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// What a method finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of this kind was shown: the next method is asked.
    Absent,
    /// Who it is.
    Known(Identity),
    /// Something of this kind was shown, and it is wrong. The reason is for the log; it never holds what was shown.
    Refused(String),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is called, for the log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How it showed who it is, such as `token`.
    pub method: &'static str,
}

/// What one may do: each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at everything but pins and join secrets.
    Viewer,
    /// Creates, changes and closes sessions, and asks conductors and services.
    Operator,
    /// Everything.
    Admin,
}

/// The methods in the order in which they are asked; the first that does not find [`Verdict::Absent`] decides.
#[derive(Debug, Default)]
pub struct Methods(Vec<Box<dyn Authenticator>>);
