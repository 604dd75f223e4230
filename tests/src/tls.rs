//! A client's side of TLS: whom it trusts, and what it says inside.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use crate::{
    PATIENCE,
    certs::Authority,
    http::{self, Response},
};

pub use tokio_rustls::rustls::version::{TLS12, TLS13};

/// A connection over TLS.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Whom a client trusts, and how it speaks TLS.
#[derive(Clone, Debug)]
pub struct Trust(ClientConfig);

impl Trust {
    /// In this authority, with TLS 1.2 and 1.3.
    ///
    /// # Panics
    /// When its certificate cannot be used.
    #[must_use]
    pub fn new(authority: &Authority) -> Self {
        Self::with_versions(authority, &[&TLS12, &TLS13])
    }

    /// In this authority, with some versions only.
    ///
    /// # Panics
    /// As [`Trust::new`].
    #[must_use]
    pub fn with_versions(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(versions).expect("versions that the provider has");
        Self(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Offers these protocols (ALPN).
    #[must_use]
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.0.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Connects to a server at this address that calls itself `localhost`; done when the server's certificate was accepted.
    ///
    /// # Errors
    /// What went wrong, on either side.
    ///
    /// # Panics
    /// When the name is none.
    pub fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::new(self.0.clone()), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect_timeout(&to, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// One request by HTTPS, as [`http::request`].
    ///
    /// # Panics
    /// When no complete answer comes, or the end of TLS is missing behind it.
    #[must_use]
    pub fn request(&self, to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut stream = self.connect(to).unwrap_or_else(|e| panic!("{method} {target}: {e}"));
        stream.write_all(http::text(to, method, target, headers, body).as_bytes()).expect("it takes a request");
        http::parse(&rest(&mut stream))
    }

    /// A port of this process that leads into TLS, for a client that cannot speak it. It takes one connection, and lives as long as
    /// `runtime`.
    ///
    /// # Errors
    /// When the other side cannot be reached, or is not trusted.
    ///
    /// # Panics
    /// When this process has no port left.
    pub fn tunnel(&self, runtime: &Runtime, to: SocketAddr) -> Result<SocketAddr, String> {
        runtime.block_on(async {
            let far = tokio::net::TcpStream::connect(to).await.map_err(|e| e.to_string())?;
            let name = ServerName::try_from("localhost").map_err(|e| e.to_string())?;
            let handshake = TlsConnector::from(Arc::new(self.0.clone())).connect(name, far);
            let mut far = tokio::time::timeout(PATIENCE, handshake).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(async move {
                let (mut near, _) = listener.accept().await.expect("the client comes");
                // However it ends: both sides are closed then, which is what the client sees.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
            Ok(address)
        })
    }
}

/// All that comes until the other side ends TLS in good order.
///
/// # Panics
/// When it breaks off.
#[must_use]
pub fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|e| panic!("after {:?}: {e}", String::from_utf8_lossy(&answer)));
    answer
}
