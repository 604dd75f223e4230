//! The keys of an OpenID provider: fetched, kept for a while, fetched again when a token names one that is not there.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use serde_json::Value;
use tokio::sync::Mutex;

/// No document of a provider comes near it; what is larger is not read.
const MAX_DOCUMENT: usize = 256 << 10;
/// No provider has as many keys; those behind are passed over.
const MAX_KEYS: usize = 100;

/// How long things take and last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Keys that are older are fetched again, while tokens are still checked with them.
    pub(super) fresh: Duration,
    /// Keys that are older are not used any more: so long a provider may be away.
    pub(super) kept: Duration,
    /// How often keys are fetched because a token names an unknown one, at most; and how soon after a failure.
    pub(super) again: Duration,
    /// How long fetching may take.
    pub(super) fetch: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self { fresh: minutes(10), kept: minutes(60), again: Duration::from_secs(30), fetch: Duration::from_secs(5) }
    }
}

/// A public key of the provider.
pub(super) struct Key {
    id: Option<String>,
    /// What it may have signed with: those of its own kind, and of these the one that the provider names.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

struct Known {
    keys: Vec<Arc<Key>>,
    since: Instant,
}

/// The provider's keys. A clone is the same.
#[derive(Clone)]
pub(super) struct Keys(Arc<Inner>);

struct Inner {
    issuer: String,
    /// Nothing: the provider says where.
    url: Option<Uri>,
    client: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    times: Times,
    /// The last ones that could be fetched.
    known: ArcSwapOption<Known>,
    /// Held while keys are fetched.
    tries: Mutex<Tries>,
}

#[derive(Default)]
struct Tries {
    /// When keys were fetched last because they were old.
    refreshed: Option<Instant>,
    /// The same because one was unknown.
    looked: Option<Instant>,
}

impl Keys {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// What the library of TLS says.
    pub(super) fn new(issuer: String, url: Option<Uri>, times: Times) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(connector);
        // Minutes are between two requests: no connection is worth keeping.
        let client = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let (known, tries) = (ArcSwapOption::empty(), Mutex::default());
        Ok(Self(Arc::new(Inner { issuer, url, client, times, known, tries })))
    }

    /// The key of this id; without an id, the provider's only one. Waits for the provider only where the key is not known. Nothing where the provider has no such key, or is away.
    pub(super) async fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        if let Some((key, old)) = self.look(id) {
            if old {
                self.refresh();
            }
            return Some(key);
        }
        let (keys, asked) = (self.clone(), Instant::now());
        // In a task of its own: a client that goes away must not end what others wait for.
        let looked = tokio::spawn(async move { keys.look_again(asked).await });
        if looked.await.is_err() {
            return None;
        }
        self.look(id).map(|(key, _)| key)
    }

    /// Fetches the keys beside what goes on, unless somebody does just now or did a moment ago.
    pub(super) fn refresh(&self) {
        let keys = self.clone();
        tokio::spawn(async move {
            let Ok(mut tries) = keys.0.tries.try_lock() else { return };
            if tries.refreshed.is_none_or(|last| last.elapsed() >= keys.0.times.again) {
                tries.refreshed = Some(Instant::now());
                keys.0.fetch_and_keep().await;
            }
        });
    }

    /// The key, and whether the keys should be fetched again.
    fn look(&self, id: Option<&str>) -> Option<(Arc<Key>, bool)> {
        let known = self.0.known.load();
        let known = known.as_ref().filter(|known| known.since.elapsed() <= self.0.times.kept)?;
        let key = match id {
            Some(id) => known.keys.iter().find(|key| key.id.as_deref() == Some(id))?,
            None if known.keys.len() == 1 => &known.keys[0],
            None => return None,
        };
        Some((key.clone(), known.since.elapsed() > self.0.times.fresh))
    }

    async fn look_again(&self, asked: Instant) {
        let mut tries = self.0.tries.lock().await;
        // Fetched while this waited for its turn.
        let new = self.0.known.load().as_ref().is_some_and(|known| known.since > asked);
        if !new && tries.looked.is_none_or(|last| last.elapsed() >= self.0.times.again) {
            tries.looked = Some(Instant::now());
            self.0.fetch_and_keep().await;
        }
    }
}

impl Inner {
    async fn fetch_and_keep(&self) {
        let fetched = tokio::time::timeout(self.times.fetch, self.fetch()).await;
        match fetched.unwrap_or_else(|_| Err(format!("no answer in {} s", self.times.fetch.as_secs_f32()))) {
            Ok(keys) => {
                tracing::debug!(issuer = self.issuer, keys = keys.len(), "the OpenID provider's keys are fetched");
                self.known.store(Some(Arc::new(Known { keys, since: Instant::now() })));
            }
            Err(reason) => tracing::warn!(issuer = self.issuer, "the OpenID provider's keys cannot be fetched: {reason}"),
        }
    }

    async fn fetch(&self) -> Result<Vec<Arc<Key>>, String> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let set = self.get(&url).await?;
        let listed = set["keys"].as_array().ok_or_else(|| format!("{url} answers with no key set"))?;
        let keys: Vec<_> = listed.iter().take(MAX_KEYS).filter_map(key).map(Arc::new).collect();
        if keys.is_empty() { Err(format!("{url} has no key of a kind that is taken (RSA, EC P-256 and P-384, Ed25519)")) } else { Ok(keys) }
    }

    /// Where the provider has its keys, by its own word.
    async fn discover(&self) -> Result<Uri, String> {
        let text = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let url: Uri = text.parse().map_err(|_| format!("{text} is no URL"))?;
        let told = self.get(&url).await?;
        if told["issuer"].as_str() != Some(&*self.issuer) {
            return Err(format!("{url} names another issuer than admin.oidc_issuer, which must be the same to the letter"));
        }
        let keys = told["jwks_uri"].as_str().and_then(|text| text.parse::<Uri>().ok());
        keys.filter(is_safe).ok_or_else(|| format!("{url} names no `jwks_uri` that begins with https://"))
    }

    /// A JSON document. Nothing of it is in the error.
    async fn get(&self, url: &Uri) -> Result<Value, String> {
        let request = Request::get(url.clone()).header(header::ACCEPT, "application/json").body(Empty::new());
        let answer = self.client.request(request.map_err(|error| error.to_string())?).await;
        let answer = answer.map_err(|error| format!("{url} cannot be reached: {}", chain(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return format!("{url} answers with more than {MAX_DOCUMENT} bytes");
            }
            format!("{url} does not end its answer: {error}")
        })?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| format!("{url} does not answer with JSON"))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Whether nobody on the way can change what is fetched from there: HTTPS, or this machine.
pub(crate) fn is_safe(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => host == "localhost" || address.is_ok_and(|address| address.is_loopback()),
        _ => false,
    }
}

/// A key out of a set. Nothing where it is of a kind that is not taken (a shared secret, say), or not for signatures.
fn key(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
        && jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::RS384, Algorithm::RS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => return None,
    };
    if let Some(named) = value.get("alg") {
        let named: Algorithm = named.as_str()?.parse().ok()?;
        algorithms.retain(|algorithm| *algorithm == named);
    }
    if !for_signatures || algorithms.is_empty() {
        return None;
    }
    Some(Key { key: DecodingKey::from_jwk(&jwk).ok()?, id: jwk.common.key_id, algorithms })
}

#[cfg(test)]
mod tests {
    use super::is_safe;

    #[test]
    fn only_a_safe_way_leads_to_a_provider() {
        for (url, safe) in [
            ("https://example.org/x", true),
            ("http://127.0.0.1:80/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://example.org/x", false),
            ("http://localhost.example.org/x", false),
            ("http://10.0.0.1/x", false),
            ("ftp://127.0.0.1/x", false),
            ("/keys", false),
        ] {
            assert_eq!(is_safe(&url.parse().unwrap()), safe, "{url}");
        }
    }
}
