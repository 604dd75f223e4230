//! Access tokens of an OpenID provider: JWTs, checked with the keys that the provider publishes.
//!
//! The settings pin issuer and audience, and the key pins the algorithm: whatever a token's header says, a key of RSA, EC or Ed25519 is used for what it is, and a shared
//! secret (`HS…`) or `none` is never taken. A token is an `Authorization: Bearer` with two dots in it; others are for other methods.

mod keys;

use std::{collections::BTreeMap, fmt};

use axum::http::{HeaderMap, Uri, header};
use futures_util::future::BoxFuture;
use jsonwebtoken::{Header, Validation, crypto::aws_lc, decode, decode_header};
use serde_json::{Map, Value};

pub(crate) use self::keys::is_safe;
use self::keys::{Keys, Times};
use super::{Authenticator, Identity, Role, Shown, Verdict};
use crate::sessions::clock::Clock;

/// What is larger is refused unread.
const MAX_TOKEN: usize = 16 << 10;
/// By how many seconds the provider's clock and ours may differ.
const LEEWAY: f64 = 60.0;
/// As OpenID Connect bounds it.
const MAX_SUBJECT: usize = 255;

/// What is pinned, and what a claim means.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// The provider, as its tokens name it in `iss`.
    pub issuer: String,
    /// What a token must name in `aud`.
    pub audience: String,
    /// Where the provider's keys are; nothing: where it says.
    pub jwks_url: Option<String>,
    /// The claim with the roles: its name, or a path to it with dots.
    pub role_claim: String,
    /// Which role a value of it gives.
    pub roles: BTreeMap<String, Role>,
}

/// The method.
pub struct Oidc {
    settings: OidcSettings,
    keys: Keys,
    clock: Clock,
}

/// Why a token is refused. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("larger than {MAX_TOKEN} bytes")]
    TooLarge,
    #[error("not a JWT with the claims iss, aud, sub and exp")]
    Malformed,
    #[error("its `typ` is neither at+jwt nor JWT")]
    Kind,
    #[error("signed with a key that the provider does not have, or the provider cannot be reached")]
    Key,
    #[error("its algorithm is not its key's")]
    Algorithm,
    #[error("the signature is false")]
    Signature,
    #[error("of another issuer")]
    Issuer,
    #[error("for another audience")]
    Audience,
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    NotYetValid,
    #[error("no value of the claim admin.oidc_role_claim is in admin.oidc_roles")]
    NoRole,
}

impl Oidc {
    /// Begins to fetch the provider's keys; one that is away at the start is asked again when a token comes.
    ///
    /// # Errors
    /// What the library of TLS says.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: OidcSettings, clock: Clock) -> Result<Self, rustls::Error> {
        let oidc = Self::new(settings, clock, Times::default())?;
        oidc.keys.refresh();
        Ok(oidc)
    }

    fn new(settings: OidcSettings, clock: Clock, times: Times) -> Result<Self, rustls::Error> {
        // Another version of this crate in the same process may have chosen already; both choices are the same provider.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        let url = settings.jwks_url.as_ref().and_then(|url| url.parse::<Uri>().ok());
        let keys = Keys::new(settings.issuer.clone(), url, times)?;
        Ok(Self { settings, keys, clock })
    }

    async fn check(&self, token: &str) -> Result<Identity, Wrong> {
        let header = head(token)?;
        let key = self.keys.find(header.kid.as_deref()).await.ok_or(Wrong::Key)?;
        if !key.algorithms.contains(&header.alg) {
            return Err(Wrong::Algorithm);
        }
        let mut validation = Validation::new(header.alg);
        // The library reads the system's clock, and passes over claims that are missing: ours are `Clock` and `identity`.
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let token = decode::<Map<String, Value>>(token, &key.key, &validation).map_err(|_| Wrong::Signature)?;
        self.identity(&token.claims)
    }

    /// Who it is, by claims whose signature is good.
    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, Wrong> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).ok_or(Wrong::Malformed);
        let OidcSettings { issuer, audience, role_claim, roles, .. } = &self.settings;
        if text("iss")? != issuer {
            return Err(Wrong::Issuer);
        }
        let named = match claims.get("aud").ok_or(Wrong::Malformed)? {
            Value::Array(list) => list.iter().any(|one| one == audience.as_str()),
            one => one == audience.as_str(),
        };
        if !named {
            return Err(Wrong::Audience);
        }
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,616 years")]
        let now = self.clock.millis() as f64 / 1000.0;
        let exp = claims.get("exp").and_then(Value::as_f64).ok_or(Wrong::Malformed)?;
        if now >= exp + LEEWAY {
            return Err(Wrong::Expired);
        }
        if let Some(nbf) = claims.get("nbf")
            && nbf.as_f64().ok_or(Wrong::Malformed)? > now + LEEWAY
        {
            return Err(Wrong::NotYetValid);
        }
        let sub = text("sub")?;
        if !(1..=MAX_SUBJECT).contains(&sub.len()) || sub.chars().any(char::is_control) {
            return Err(Wrong::Malformed);
        }
        let role = values(claims, role_claim).into_iter().filter_map(|value| roles.get(value)).max().ok_or(Wrong::NoRole)?;
        Ok(Identity { name: format!("{issuer}#{sub}"), role: *role, method: "oidc" })
    }
}

/// A token's header, of what may be an access token.
fn head(token: &str) -> Result<Header, Wrong> {
    if token.len() > MAX_TOKEN {
        return Err(Wrong::TooLarge);
    }
    let header = decode_header(token).map_err(|_| Wrong::Malformed)?;
    let kind = header.typ.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("at+jwt") || kind.eq_ignore_ascii_case("jwt")) {
        return Err(Wrong::Kind);
    }
    if header.crit.is_some() {
        return Err(Wrong::Malformed);
    }
    Ok(header)
}

/// The texts in a claim: itself, the words in it (as `scope` has them), or those of a list.
fn values<'a>(claims: &'a Map<String, Value>, claim: &str) -> Vec<&'a str> {
    // Names with dots in them are usual (`https://example.org/roles`), so the name comes before the path.
    let found = claims.get(claim).or_else(|| {
        let (first, rest) = claim.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, part| value.get(part))
    });
    match found {
        Some(Value::String(text)) => std::iter::once(&**text).chain(text.split_ascii_whitespace()).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A JWT, where one was shown.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.matches('.').count() == 2).then_some(token)
}

impl Authenticator for Oidc {
    fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let Some(token) = bearer(shown.headers) else { return Verdict::Absent };
            if shown.headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
                return Verdict::Refused("Authorization is there twice".to_owned());
            }
            match self.check(token).await {
                Ok(identity) => Verdict::Known(identity),
                Err(wrong) => Verdict::Refused(format!("the access token is refused: {wrong}")),
            }
        })
    }
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oidc").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
