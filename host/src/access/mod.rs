//! Who may do what on the admin port.
//!
//! A connection from outside of `admin.allow` is closed before a byte of it is read (`http/serve.rs`). A request passes the [`guard`], in this order:
//!
//! 1. its `Host` is one of the port's own names and addresses (`site.rs`), which a page that had its name point here (DNS rebinding) cannot say;
//! 2. if it may change something, no browser sent it for a page of another origin (`site.rs`);
//! 3. the methods ([`Authenticator`]) say who asks; the first that was shown something decides;
//! 4. that one's [`Role`] is at least the one that the table of `routes.rs` asks for.
//!
//! Bearer tokens (`tokens.rs`) are the first method. Another one is an [`Authenticator`] and a line in `methods`.

pub mod audit;
pub mod certificates;
pub mod oidc;
pub mod routes;
mod site;
pub mod tokens;

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use clap::ValueEnum;
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use self::{
    certificates::Certificates,
    oidc::{Oidc, OidcSettings},
    routes::Least,
    site::Site,
    tokens::{BearerTokens, TokensError},
};
use crate::{config::Settings, http::error::Problem, sessions::clock::Clock, tls::Tls};

/// One way in which whoever asks on the admin port can show who it is.
///
/// The host asks its methods in turn, for each request that needs an identity, on a thread of its runtime: wait, and do not block. A method that is listed is in
/// force: from then on the whole port needs an identity. Where a proxy in front of the host already knows who asks, this is all there is to write:
///
/// ```
/// use conductor_host::{
///     access::{Authenticator, Identity, Role, Shown, Verdict},
///     networks::{Networks, network},
/// };
/// use futures_util::future::{self, BoxFuture};
///
/// /// Believes the header `X-Remote-User` of the proxies in these networks, and of nobody else.
/// #[derive(Debug)]
/// struct BehindProxy(Networks);
///
/// impl Authenticator for BehindProxy {
///     fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict> {
///         let mut users = shown.headers.get_all("x-remote-user").iter();
///         let verdict = match (users.next(), users.next()) {
///             (None, _) => Verdict::Absent,
///             _ if !self.0.contains(shown.peer.ip()) => Verdict::Refused("X-Remote-User from elsewhere than a proxy".into()),
///             (Some(user), None) => match user.to_str() {
///                 Ok(name) => Verdict::Known(Identity { name: name.into(), role: Role::Operator, method: "proxy" }),
///                 Err(_) => Verdict::Refused("X-Remote-User is no text".into()),
///             },
///             _ => Verdict::Refused("X-Remote-User is there twice".into()),
///         };
///         Box::pin(future::ready(verdict))
///     }
/// }
///
/// let method = BehindProxy(network("10.0.0.2").into_iter().collect());
/// let mut headers = axum::http::HeaderMap::new();
/// let verdict = |headers: &_, peer: &str| {
///     let shown = Shown { headers, peer: peer.parse().unwrap(), certificates: &[] };
///     futures_util::FutureExt::now_or_never(method.authenticate(&shown)).unwrap()
/// };
/// assert_eq!(verdict(&headers, "10.0.0.2:1"), Verdict::Absent);
/// headers.insert("x-remote-user", "ada".parse().unwrap());
/// assert!(matches!(verdict(&headers, "10.0.0.2:1"), Verdict::Known(who) if who.name == "ada"));
/// assert!(matches!(verdict(&headers, "10.0.0.3:1"), Verdict::Refused(_)));
/// ```
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

/// Who asks. Handlers find it among a request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is called, for the log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How it showed who it is, such as `token`; `none` where the port asks nobody.
    pub method: &'static str,
}

/// What one may do: each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at everything but pins and join secrets.
    Viewer,
    /// Creates, changes and closes sessions, and asks conductors and services.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name, as in settings and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether it sees pins and join secrets.
    #[must_use]
    pub fn sees_secrets(self) -> bool {
        self >= Self::Operator
    }
}

/// The methods beside bearer tokens, in the order in which they are asked.
fn methods(settings: &Settings, tls: Option<&Arc<Tls>>, clock: Clock) -> Result<Vec<Box<dyn Authenticator>>, AccessError> {
    let admin = &settings.admin;
    let mut methods: Vec<Box<dyn Authenticator>> = Vec::new();
    if let (Some(issuer), Some(audience)) = (admin.oidc_issuer.clone(), admin.oidc_audience.clone()) {
        let (jwks_url, role_claim, roles) = (admin.oidc_jwks_url.clone(), admin.oidc_role_claim.clone(), admin.oidc_roles.clone());
        methods.push(Box::new(Oidc::start(OidcSettings { issuer, audience, jwks_url, role_claim, roles }, clock)?));
    }
    if admin.client_ca.is_some() {
        let tls = tls.filter(|_| admin.tls).ok_or(AccessError::CertificatesWithoutTls)?;
        methods.push(Box::new(Certificates::new(tls.clone(), admin.client_roles.clone())));
    }
    Ok(methods)
}

/// What decides about each request on the admin port.
#[derive(Debug)]
pub struct Access {
    site: Site,
    tokens: Arc<BearerTokens>,
    methods: Vec<Box<dyn Authenticator>>,
}

/// Why there is none: the host does not start.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file of the tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Nobody could show a certificate.
    #[error("admin.client_ca: a client certificate is shown over TLS only; set admin.tls = true, with tls.cert and tls.key")]
    CertificatesWithoutTls,
    /// An OpenID provider could not be asked over TLS.
    #[error("TLS to the OpenID provider cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// Anybody could do anything from elsewhere.
    #[error(
        "admin.listen: {listen} can be reached from other machines, and nothing says who may do what there. Make a token (`conductor-host token create --role admin \
         --config FILE`), or name the networks of administrators (admin.allow = [\"10.1.2.0/24\"]), or listen on loopback (127.0.0.1:{}); whoever wants it open to \
         everybody says so with admin.allow_unauthenticated = true",
        listen.port()
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum Denied {
    #[error(
        "the admin port is not called what this request's Host says; its own addresses and localhost are known, and `admin.names` in the settings adds names"
    )]
    WrongHost,
    #[error("a browser sent this for a page of another origin, which may change nothing here")]
    CrossSite,
    #[error("this needs an identity: a token, as `Authorization: Bearer TOKEN`")]
    Unauthorized,
    #[error("this needs the role {}", .0.as_str())]
    Role(Role),
    #[error("nobody may use this route: it has no entry in the table of roles")]
    NoEntry,
    #[error("this route knows {0} only")]
    Method(String),
}

impl Access {
    /// What the settings say. Looks at the file of the tokens.
    ///
    /// # Errors
    /// Where the file of the tokens cannot be used, and where the port could be reached from elsewhere with nothing that guards it.
    ///
    /// # Panics
    /// Outside of a tokio runtime, where an OpenID provider is asked for its keys.
    pub fn new(settings: &Settings, tls: Option<&Arc<Tls>>, clock: Clock) -> Result<Self, AccessError> {
        let admin = &settings.admin;
        let tokens = BearerTokens::open(admin.tokens.clone(), clock)?;
        let access = Self { site: Site::new(&admin.listen, &admin.names), tokens, methods: methods(settings, tls, clock)? };
        let elsewhere = admin.listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
        match elsewhere {
            Some(listen) if access.is_open() && admin.allow.is_empty() => {
                if !admin.allow_unauthenticated {
                    return Err(AccessError::Open { listen: *listen });
                }
                tracing::warn!(
                    "admin.allow_unauthenticated: whoever reaches {listen} may create and close sessions, see their pins and reload plugins"
                );
            }
            _ if access.is_open() && admin.allow_unauthenticated => {
                tracing::warn!("admin.allow_unauthenticated is true; nobody has to show an identity on the admin port");
            }
            _ => {}
        }
        Ok(access)
    }

    /// Whether nothing is there by which anybody could show an identity, so that nobody has to.
    fn is_open(&self) -> bool {
        self.methods.is_empty() && !self.tokens.in_force()
    }

    /// Decides. Without an error: who asks; where the route needs no identity, maybe nobody.
    async fn admit(&self, request: &Parts) -> Result<Option<Identity>, Denied> {
        let Parts { method, uri, headers, extensions, .. } = request;
        if !self.site.is_own(uri, headers) {
            return Err(Denied::WrongHost);
        }
        let path = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let least = path.map(|path| routes::least(path, method.as_str()));
        if let Some(Least::Nobody) = least {
            // Whoever shows an identity is told more by this one; another that is asked whether the host lives waits for no provider.
            return Ok(if path == Some("/readyz") { self.identify(request).await.ok() } else { None });
        }
        if routes::may_change(path, method) && site::is_foreign(headers) {
            return Err(Denied::CrossSite);
        }
        let identity = self.identify(request).await?;
        audit::tell(extensions, &identity);
        match least {
            Some(Least::Role(role)) if identity.role < role => Err(Denied::Role(role)),
            Some(Least::NoEntry) => Err(Denied::NoEntry),
            Some(Least::OtherMethods(known)) => Err(Denied::Method(known)),
            // A path that is no route at all is answered by the router.
            Some(Least::Nobody | Least::Role(_)) | None => Ok(Some(identity)),
        }
    }

    async fn identify(&self, request: &Parts) -> Result<Identity, Denied> {
        if self.is_open() {
            return Ok(Identity { name: "anyone".to_owned(), role: Role::Admin, method: "none" });
        }
        let Parts { headers, extensions, .. } = request;
        let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>().copied() else { return Err(Denied::Unauthorized) };
        let certificates = extensions.get::<PeerCertificates>().map_or(&[][..], |certificates| &certificates.0);
        let shown = Shown { headers, peer, certificates };
        let tokens: &dyn Authenticator = &*self.tokens;
        for method in std::iter::once(tokens).chain(self.methods.iter().map(|method| &**method)) {
            match method.authenticate(&shown).await {
                Verdict::Absent => {}
                Verdict::Known(identity) => return Ok(identity),
                Verdict::Refused(reason) => {
                    tracing::warn!(%peer, reason, "an identity is refused on the admin port");
                    return Err(Denied::Unauthorized);
                }
            }
        }
        Err(Denied::Unauthorized)
    }
}

/// The layer around all routes of the admin port. What it lets through has an [`Identity`] among its extensions, where the route needs one.
pub async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match access.admit(&parts).await {
        Ok(identity) => {
            if let Some(identity) = identity {
                parts.extensions.insert(identity);
            }
            next.run(Request::from_parts(parts, body)).await
        }
        Err(denied) => {
            tracing::debug!(%denied, "refused on the admin port");
            let allow = if let Denied::Method(known) = &denied { HeaderValue::from_str(known).ok() } else { None };
            let mut response = Problem::from(denied).into_response();
            response.headers_mut().extend(allow.map(|known| (header::ALLOW, known)));
            response
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
