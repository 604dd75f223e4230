//! Makes and checks tokens: signed JWTs in the compact form.
//!
//! One [`Signer`] lives as long as the host, and its key is parsed once. Time is a parameter everywhere.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Header, Validation, errors::ErrorKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    claims::{Claims, Grantee},
    keys::SigningKey,
};
use crate::sessions::ids::{RandomnessError, random_hex};

/// No token of ours comes near it; what is larger is refused unread.
pub const MAX_TOKEN: usize = 8 * 1024;

/// The name of the host itself at external brokers: its MQTT client id, and its username where settings give no other.
pub const LINK_NAME: &str = conductor_abi::rules::LINK_NAME;

/// A token is good this long before its `nbf`: a clock that was set back a little would otherwise refuse every token that it
/// has just signed. `exp` has no such leeway.
pub const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(60);

/// Signs tokens and checks them with one key.
#[derive(Debug)]
pub struct Signer {
    key: SigningKey,
    issuer: String,
    /// The first part of every token, its dot included.
    header: String,
    validation: Validation,
}

/// A new token.
pub struct Signed {
    /// What the device shows as its MQTT password. A secret: never for a log.
    pub token: String,
    /// When the token ends, a whole second.
    pub expires_at: SystemTime,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why no token could be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The time or the lifetime is outside what a token can say.
    #[error("the time or the token's lifetime is out of range")]
    Time,
    /// No `jti` could be drawn.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The token's parts could not be written as JSON.
    #[error("a token could not be written: {0}")]
    Json(#[from] serde_json::Error),
    /// The cryptographic library failed.
    #[error("signing a token failed")]
    Library,
}

/// Why a token is refused. Never says anything out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than [`MAX_TOKEN`] bytes.
    #[error("larger than any token of this host")]
    TooLarge,
    /// Not a JWT, or a claim is missing or of the wrong type.
    #[error("not a token of this host's form")]
    Malformed,
    /// The header names another algorithm than the key's, or demands something unknown.
    #[error("another algorithm than this host's key has")]
    Algorithm,
    /// The header names another key, or none.
    #[error("signed with another key")]
    Key,
    /// The signature is not the key's.
    #[error("the signature is false")]
    Signature,
    /// Signed by this key for another host name.
    #[error("of another issuer")]
    Issuer,
    /// Its `nbf` is more than [`NOT_BEFORE_LEEWAY`] ahead.
    #[error("not valid yet")]
    NotYetValid,
    /// Its `exp` is reached.
    #[error("expired")]
    Expired,
}

impl Signer {
    /// `issuer` becomes `iss`, and tokens with another one are refused.
    ///
    /// # Errors
    /// When the header cannot be written as JSON.
    pub fn new(key: SigningKey, issuer: impl Into<String>) -> Result<Self, serde_json::Error> {
        let mut header = Header::new(key.algorithm());
        header.kid = Some(key.kid().to_owned());
        let header = format!("{}.", BASE64.encode(serde_json::to_vec(&header)?));
        let mut validation = Validation::new(key.algorithm());
        // The library reads the system's clock; ours are the caller's time and `Claims`, which demands every claim.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        Ok(Self { key, issuer: issuer.into(), header, validation })
    }

    /// The public key as a JSON Web Key.
    ///
    /// # Errors
    /// As [`SigningKey::public_jwk`].
    pub fn public_jwk(&self) -> Result<Value, serde_json::Error> {
        self.key.public_jwk()
    }

    /// A token that is good from `now` for `ttl`; both are cut to whole seconds.
    ///
    /// # Errors
    /// When the operating system's generator or the cryptographic library fails, or a time is out of range.
    pub fn sign(&self, grantee: &Grantee<'_>, now: SystemTime, ttl: Duration) -> Result<Signed, SignError> {
        let (iat, exp, expires_at) = times(now, ttl)?;
        let claims = Claims {
            sub: grantee.username.username(grantee.session, grantee.client_id),
            iat,
            exp,
            subs: grantee.subs.to_vec(),
            publ: grantee.publ.to_vec(),
            client_id: grantee.client_id.to_owned(),
            sid: grantee.session.to_string(),
            jti: random_hex::<16>()?,
            iss: self.issuer.clone(),
            nbf: iat,
        };
        Ok(Signed { token: self.token(&claims)?, expires_at })
    }

    /// A token for the host's own connection to an external broker, good from `now` for `ttl`: [`LINK_NAME`] may subscribe and
    /// publish everything. [`Signer::verify`] refuses it, since it names no session.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_link(&self, now: SystemTime, ttl: Duration) -> Result<Signed, SignError> {
        let (iat, exp, expires_at) = times(now, ttl)?;
        let claims = json!({
            "sub": LINK_NAME,
            "iat": iat,
            "exp": exp,
            "subs": ["#"],
            "publ": ["#"],
            "client_id": LINK_NAME,
            "jti": random_hex::<16>()?,
            "iss": self.issuer,
            "nbf": iat,
        });
        Ok(Signed { token: self.token(&claims)?, expires_at })
    }

    fn token(&self, claims: &impl Serialize) -> Result<String, SignError> {
        let mut token = self.header.clone();
        BASE64.encode_string(serde_json::to_vec(claims)?, &mut token);
        let signature = self.key.sign(token.as_bytes()).map_err(|_| SignError::Library)?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }

    /// What the token says, where it is one that this host signed and `now` is within its time.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge);
        }
        let (header, claims) = jsonwebtoken::decode::<Claims>(token, self.key.public(), &self.validation)
            .map(|data| (data.header, data.claims))
            .map_err(|e| match e.kind() {
                ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                ErrorKind::InvalidSignature => TokenError::Signature,
                _ => TokenError::Malformed,
            })?;
        if header.crit.is_some() {
            return Err(TokenError::Algorithm);
        }
        if header.kid.as_deref() != Some(self.key.kid()) {
            return Err(TokenError::Key);
        }
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| TokenError::NotYetValid)?.as_secs();
        if claims.nbf > now.saturating_add(NOT_BEFORE_LEEWAY.as_secs()) {
            return Err(TokenError::NotYetValid);
        }
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }
}

/// `iat` and `exp` in seconds, and the latter as a time.
pub(super) fn times(now: SystemTime, ttl: Duration) -> Result<(u64, u64, SystemTime), SignError> {
    let iat = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| SignError::Time)?.as_secs();
    let exp = iat.checked_add(ttl.as_secs()).ok_or(SignError::Time)?;
    let expires_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp)).ok_or(SignError::Time)?;
    Ok((iat, exp, expires_at))
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
