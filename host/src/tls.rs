//! TLS on the listeners that ask for it: one certificate for all, read again while the host runs.
//!
//! The cryptography of every connection is `ring`, named here at each use: nothing depends on a default of the process. TLS 1.2 and
//! 1.3 are spoken, and a client may resume with a ticket. After a reload no older ticket counts, so a client that comes again sees
//! the new certificate; connections that are there go on.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, CertificateError, InconsistentKeys, RootCertStore, ServerConfig,
        client::verify_server_cert_signed_by_trust_anchor,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
        server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
        sign::{CertifiedKey, SingleCertAndKey},
    },
    server::TlsStream,
};

use crate::{
    sessions::clock::Clock,
    tokens::keys::{self, Form, KeyProblem},
};

/// No chain of certificates comes near it; what is larger is not read.
const MAX_FILE: u64 = 1 << 20;
/// What a PEM block begins with.
const BEGIN: &[u8] = b"-----BEGIN ";

/// What is spoken inside of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/1.1, WebSocket included. A client that offers protocols (ALPN) must have this one among them.
    Http,
    /// The same on the admin port: where an authority of clients is known, each is asked for a certificate, and may have none.
    Admin,
    /// MQTT. Whatever a client offers is passed over.
    Mqtt,
}

/// The certificate of this host and its key, ready to be shown.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    clock: Clock,
    /// Replaced as a whole by [`Tls::reload`]; locked for the moment it takes to copy a pointer.
    current: RwLock<Configs>,
}

struct Configs {
    http: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    mqtt: Arc<ServerConfig>,
}

/// Why there is no TLS, with the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum TlsError {
    #[error("tls.cert {}: {problem}", path.display())]
    Cert { path: PathBuf, problem: CertProblem },
    #[error("admin.client_ca {}: {problem}", path.display())]
    ClientCa { path: PathBuf, problem: CertProblem },
    #[error("tls.key {}: {problem}", path.display())]
    Key { path: PathBuf, problem: KeyProblem },
    #[error("tls.key {}: this kind of key is not supported, or it is damaged; RSA (2048 to 4096 bits), EC P-256, EC P-384 and Ed25519 are", .0.display())]
    KeyUnsupported(PathBuf),
    #[error(
        "tls.key {}: this is not the key of the certificate in {}; name the two that were made together (of several certificates the server's own must be the first)",
        key.display(),
        cert.display()
    )]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// What is wrong with the file of a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum CertProblem {
    #[error("there is no such file")]
    Absent,
    #[error("this is not a regular file; name a file that holds the certificate and its chain in PEM form")]
    NotAFile,
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("the file is larger than 1 MiB and holds no single chain of certificates")]
    TooLarge,
    #[error("this looks like DER or PKCS#12; a PEM file is expected (`openssl x509 -inform DER -in FILE -out cert.pem` converts DER)")]
    Binary,
    #[error("a PEM block in the file is damaged")]
    NotPem,
    #[error("no certificate is in the file; one that begins with -----BEGIN CERTIFICATE----- is expected")]
    NoCertificate,
    #[error("a private key is in the file as well; keep it in a file of its own, which others may not read (`tls.key`)")]
    PrivateKey,
    #[error("certificate {0} in the file is damaged, or of a kind that is not supported")]
    Damaged(usize),
}

impl Tls {
    /// Reads certificate and key, and the authority of the admin port's clients where there is one. Until when the certificate is good is logged; that it is not, is a warning and no error.
    ///
    /// # Errors
    /// When a file cannot be read or does not hold what it must, when others may read or change the key's, and when the key is not
    /// the certificate's.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(read(cert, key, client_ca, clock.now())?);
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), client_ca: client_ca.map(Path::to_owned), clock, current }))
    }

    /// Reads the same files again, for connections that come from now on. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// As [`Tls::load`]; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let configs = read(&self.cert, &self.key, self.client_ca.as_deref(), self.clock.now())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// The server's side of the handshake.
    ///
    /// # Errors
    /// When it fails, and when it is not done `within` this time.
    pub async fn accept<S>(&self, inside: Inside, stream: S, within: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsAcceptor::from(self.config(inside)).accept(stream);
        match tokio::time::timeout(within, handshake).await {
            Ok(done) => done,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")),
        }
    }

    /// Whether this certificate of a client is from the authority as it is known now, and good now. (That the client has its key, the handshake has shown.)
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify_client(&self, own: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let clients = self.current.read().unwrap_or_else(PoisonError::into_inner).clients.clone();
        let clients = clients.ok_or_else(|| rustls::Error::General("no authority of clients is known".to_owned()))?;
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        clients.verify_client_cert(own, chain, UnixTime::since_unix_epoch(now)).map(drop)
    }

    fn config(&self, inside: Inside) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        match inside {
            Inside::Http => Arc::clone(&current.http),
            Inside::Admin => Arc::clone(&current.admin),
            Inside::Mqtt => Arc::clone(&current.mqtt),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

fn read(cert: &Path, key: &Path, client_ca: Option<&Path>, now: SystemTime) -> Result<Configs, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = read_chain(cert).map_err(|problem| TlsError::Cert { path: cert.to_owned(), problem })?;
    let der = read_key(key).map_err(|problem| TlsError::Key { path: key.to_owned(), problem })?;
    let signing = ring::sign::any_supported_type(&der).map_err(|_| TlsError::KeyUnsupported(key.to_owned()))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return Err(TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() });
        }
        Err(error) => return Err(error.into()),
    }
    let (begins, ends) = validity(&certified.cert[0], &provider);
    let certified = Arc::new(SingleCertAndKey::from(certified));
    let clients = match client_ca {
        Some(path) => Some(clients(path, &provider).map_err(|problem| TlsError::ClientCa { path: path.to_owned(), problem })?),
        None => None,
    };
    let http = Arc::new(config(&provider, &certified, None, &[b"http/1.1"])?);
    let admin = match &clients {
        Some(_) => Arc::new(config(&provider, &certified, clients.clone(), &[b"http/1.1"])?),
        None => Arc::clone(&http),
    };
    let configs = Configs { http, admin, mqtt: Arc::new(config(&provider, &certified, None, &[])?), clients };
    tell(cert, begins, ends, now);
    Ok(configs)
}

/// Knows certificates of clients by the authorities in this file.
fn clients(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, CertProblem> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in read_chain(path)?.into_iter().enumerate() {
        roots.add(authority).map_err(|_| CertProblem::Damaged(index + 1))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).allow_unauthenticated();
    // It fails without an authority, and there is one.
    builder.build().map_err(|_| CertProblem::NoCertificate)
}

fn config(
    provider: &Arc<CryptoProvider>,
    certified: &Arc<SingleCertAndKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(Arc::<SingleCertAndKey>::clone(certified));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // What a client resumes with is with the client: nothing is kept here for those that never come again.
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, KeyProblem> {
    let (form, block) = keys::private_key(&keys::read_certificate_key(path)?)?;
    let der = block.into_contents();
    Ok(match form {
        Form::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
        Form::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
        Form::Sec1 => PrivateKeyDer::Sec1(der.into()),
    })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertProblem> {
    let absent = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { CertProblem::Absent } else { CertProblem::Read(e) };
    // Looked at before it is opened, since opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(absent)?.is_file() {
        return Err(CertProblem::NotAFile);
    }
    let mut text = Vec::new();
    File::open(path).map_err(absent)?.take(MAX_FILE + 1).read_to_end(&mut text).map_err(CertProblem::Read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(CertProblem::TooLarge);
    }
    if text.first() == Some(&0x30) && text.get(1).is_some_and(|length| *length >= 0x80) {
        return Err(CertProblem::Binary);
    }
    let blocks = pem::parse_many(&text).map_err(|_| CertProblem::NotPem)?;
    // The library passes over a block that has no end: a file that was cut would lose the rest of its chain.
    if text.windows(BEGIN.len()).filter(|part| *part == BEGIN).count() != blocks.len() {
        return Err(CertProblem::NotPem);
    }
    if blocks.iter().any(|block| block.tag().ends_with("PRIVATE KEY")) {
        return Err(CertProblem::PrivateKey);
    }
    let chain: Vec<CertificateDer<'static>> =
        blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(|block| block.into_contents().into()).collect();
    match chain.iter().position(|cert| ParsedCertificate::try_from(cert).is_err()) {
        Some(damaged) => Err(CertProblem::Damaged(damaged + 1)),
        None if chain.is_empty() => Err(CertProblem::NoCertificate),
        None => Ok(chain),
    }
}

/// From when and until when a certificate is good, as far as that can be read. The library tells neither, but it looks at both
/// before anything else when it verifies, and names the one that was missed.
fn validity(cert: &CertificateDer<'_>, provider: &CryptoProvider) -> (Option<UnixTime>, Option<UnixTime>) {
    let missed = |at: u64| {
        let parsed = ParsedCertificate::try_from(cert).ok()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let algorithms = provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], at, algorithms) {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => Some(not_before),
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(not_after),
            _ => None,
        }
    };
    (missed(0), missed(u64::MAX))
}

/// One line on when the certificate is good.
fn tell(cert: &Path, begins: Option<UnixTime>, ends: Option<UnixTime>, now: SystemTime) {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let file = cert.display();
    let words = |time: Option<UnixTime>| {
        let time = time.and_then(|time| UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())));
        time.map_or_else(|| "?".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
    };
    let (from, until) = (words(begins), words(ends));
    if begins.is_some_and(|begins| begins.as_secs() > seconds.as_secs()) {
        tracing::warn!(%file, from, "the certificate is not valid yet, clients will refuse it; check the clock, or get another one");
    } else if ends.is_some_and(|ends| ends.as_secs() < seconds.as_secs()) {
        tracing::warn!(%file, until, "the certificate has expired, clients will refuse it; renew it and send SIGHUP");
    } else {
        tracing::info!(%file, until, "certificate loaded");
    }
}

#[cfg(test)]
#[cfg(unix)]
#[path = "tls_tests.rs"]
mod tests;
