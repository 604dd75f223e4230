//! The type's `config` in the settings, and the client that follows from it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conductor_sdk::Secret;
use http_body_util::Full;
use hyper::{
    Uri,
    body::Bytes,
    header::{HeaderName, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use crate::event::Kind;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// As written. A mistake in it, unknown keys included, stops the host's start.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where the service is: `https://…`. Each event is a POST to it.
    url: String,
    /// The events that it is told, beside requests.
    events: BTreeSet<Kind>,
    /// Shown to the service with each event, so that it knows who asks.
    #[serde(default)]
    secret: Option<Secret>,
    /// The header that the secret is sent in, as its whole value.
    #[serde(default = "secret_header")]
    secret_header: String,
    /// A PEM file, by its whole path: the authorities that the service's certificate must be from. Without it: those that the system trusts.
    #[serde(default)]
    ca: Option<PathBuf>,
    /// Allows `http://` to other machines: whoever is on the way reads and changes everything, the secret included.
    #[serde(default)]
    plain_http: bool,
    /// How long the service may take for one event, all tries included. Shorter than the type's deadline, so that an error can be told.
    #[serde(default = "deadline")]
    #[schemars(range(min = 1))]
    deadline_ms: u32,
}

fn secret_header() -> String {
    "x-conductor-secret".into()
}

fn deadline() -> u32 {
    4000
}

/// As used.
#[derive(Deserialize)]
#[serde(try_from = "Settings")]
pub(crate) struct Config {
    pub(crate) uri: Uri,
    /// What errors call the service: scheme, host and port.
    pub(crate) shown: String,
    pub(crate) secret: Option<(HeaderName, HeaderValue)>,
    pub(crate) deadline: Duration,
    pub(crate) client: Client,
    events: BTreeSet<Kind>,
}

impl JsonSchema for Config {
    fn schema_name() -> Cow<'static, str> {
        Settings::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Settings::json_schema(generator)
    }
}

impl Config {
    pub(crate) fn hears(&self, kind: Kind) -> bool {
        kind == Kind::Request || self.events.contains(&kind)
    }
}

impl TryFrom<Settings> for Config {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let uri: Uri = settings.url.parse().map_err(|error| format!("url: {error}"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("url: it must begin with https:// or http:// and name a host".into());
        };
        if authority.as_str().contains('@') {
            return Err("url: a name or password in it would be shown in logs; use secret".into());
        }
        if scheme == "http" && !settings.plain_http && !is_this_machine(authority.host()) {
            return Err("url: over http:// everybody on the way reads the secret; use https://, or say plain_http = true".into());
        }
        let shown = format!("{scheme}://{authority}");
        let secret = settings.secret.map(|secret| header(&settings.secret_header, &secret)).transpose()?;
        let ca = settings.ca.as_deref().map(certificates).transpose()?;
        let client = client((scheme == "https", ca))?;
        let deadline = Duration::from_millis(settings.deadline_ms.max(1).into());
        Ok(Self { shown, secret, deadline, client, events: settings.events, uri })
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn header(name: &str, secret: &Secret) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::try_from(name).map_err(|_| format!("secret_header: {name:?} is no name of a header"))?;
    let text = secret.expose().trim();
    let mut value = HeaderValue::try_from(text).map_err(|_| "secret: a header cannot hold it")?;
    if value.is_empty() {
        return Err("secret: it is empty".into());
    }
    value.set_sensitive(true);
    Ok((name, value))
}

/// Whether it speaks TLS at all, and whom it trusts then: a PEM text, or the system's authorities.
type Trust = (bool, Option<Vec<u8>>);

/// Read for each session that is made, so that a new certificate counts for new sessions.
fn certificates(file: &Path) -> Result<Vec<u8>, String> {
    if !file.is_absolute() {
        return Err(format!("ca: a plugin does not know where {} begins; give the whole path", file.display()));
    }
    fs::read(file).map_err(|error| format!("ca: {}: {error}", file.display()))
}

/// One for all sessions that trust the same, and so with connections in common.
fn client(trust: Trust) -> Result<Client, String> {
    static MADE: Mutex<BTreeMap<Trust, Client>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = made.get(&trust) {
        return Ok(client.clone());
    }
    let roots = if trust.0 { roots(trust.1.as_deref())? } else { RootCertStore::empty() };
    // Named here: a process may have any default, or none.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(connector);
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
    let client: Client = builder.build(connector);
    made.insert(trust, client.clone());
    Ok(client)
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(text) {
                let certificate = certificate.map_err(|error| format!("ca: no certificates in PEM form: {error}"))?;
                roots.add(certificate).map_err(|error| format!("ca: a certificate cannot be used: {error}"))?;
            }
            if roots.is_empty() {
                return Err("ca: there is no certificate in PEM form in it".into());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("ca: the system trusts no certificates, so name the service's authority".into());
            }
        }
    }
    Ok(roots)
}
