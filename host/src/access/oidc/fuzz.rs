//! What is shown as an access token, and what is in one, as a target (`crate::fuzz`).

use std::{
    sync::OnceLock,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::*;

const NOW: u64 = 1_700_000_000;

fn oidc() -> &'static Oidc {
    static OIDC: OnceLock<Oidc> = OnceLock::new();
    OIDC.get_or_init(|| {
        let settings = OidcSettings {
            issuer: "https://id.example".to_owned(),
            audience: "conductor-host".to_owned(),
            jwks_url: None,
            role_claim: "realm.roles".to_owned(),
            roles: [("viewers".to_owned(), Role::Viewer), ("admins".to_owned(), Role::Admin)].into(),
        };
        let clock = Clock::of(|| UNIX_EPOCH + Duration::from_secs(NOW));
        Oidc::new(settings, clock, Times::default()).unwrap_or_else(|error| panic!("no client for TLS: {error}"))
    })
}

/// A header `Authorization`; after `c`, the claims of a token whose signature is good.
pub(crate) fn bearer(bytes: &[u8]) -> bool {
    if let [b'c', claims @ ..] = bytes {
        return serde_json::from_slice(claims).is_ok_and(|claims| is_somebody(&claims));
    }
    let Ok(value) = header::HeaderValue::from_bytes(bytes) else { return false };
    let headers: HeaderMap = [(header::AUTHORIZATION, value)].into_iter().collect();
    let Some(token) = super::bearer(&headers) else { return false };
    assert!(token.trim() == token && token.len() < bytes.len());
    let Ok(read) = head(token) else { return false };
    // What was taken says so in its own words.
    let said = token.split('.').next().and_then(|part| BASE64.decode(part).ok()).unwrap_or_default();
    let said: Value = serde_json::from_slice(&said).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    let kind = said["typ"].as_str().map(str::to_ascii_lowercase).unwrap_or_default();
    assert!(["jwt", "at+jwt", "application/jwt", "application/at+jwt"].contains(&&*kind), "{said}");
    assert!(said["crit"].is_null() && said["alg"] != "none", "{said}");
    true
}

/// Whoever is let in is named by the provider's own words, has a role that the claims name, and is nobody where one of the claims is not there.
fn is_somebody(claims: &Map<String, Value>) -> bool {
    let oidc = oidc();
    let Ok(identity) = oidc.identity(claims) else { return false };
    assert_eq!(Some(&*identity.name), claims["sub"].as_str().map(|sub| format!("https://id.example#{sub}")).as_deref());
    assert!(claims["iss"] == "https://id.example" && !identity.name.contains(char::is_control), "{claims:?}");
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp > NOW as f64 - LEEWAY), "{claims:?}");
    let word = if identity.role == Role::Admin { "admins" } else { "viewers" };
    assert!(values(claims, "realm.roles").contains(&word), "{claims:?}");
    for name in ["iss", "aud", "sub", "exp"] {
        let mut fewer = claims.clone();
        fewer.remove(name);
        assert_eq!(oidc.identity(&fewer), Err(Wrong::Malformed), "without {name}: {claims:?}");
    }
    true
}
