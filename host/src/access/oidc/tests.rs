use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use pem::Pem;
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use super::*;

const AUDIENCE: &str = "conductor-host";
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A private key of the provider's.
#[derive(Clone)]
struct Private {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Private {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let pem = |der: &[u8]| pem::encode(&Pem::new("PRIVATE KEY", der)).into_bytes();
        let key = match algorithm {
            Algorithm::ES256 => {
                EncodingKey::from_ec_pem(&pem(EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap().as_ref()))
            }
            Algorithm::ES384 => {
                EncodingKey::from_ec_pem(&pem(EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap().as_ref()))
            }
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem(Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref())),
            _ => EncodingKey::from_rsa_pem(&pem(RsaKeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap().as_ref())),
        };
        Self { id, algorithm, key: key.unwrap() }
    }

    fn public(&self) -> Value {
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk.as_object_mut().unwrap().remove("alg");
        jwk
    }

    fn header(&self) -> Header {
        Header { typ: Some("at+jwt".to_owned()), kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key).unwrap()
    }
}

/// What a provider answers with; each fetch of keys is counted.
#[derive(Default)]
struct Answers {
    keys: Mutex<Value>,
    /// Instead of the issuer that it is.
    issuer: OnceLock<String>,
    fetched: Mutex<u32>,
    /// Where it is set, keys are given out only once it is notified.
    hold: OnceLock<Notify>,
    /// Where it is set, instead of the keys.
    instead: Mutex<Option<Vec<u8>>>,
}

/// An OpenID provider on this machine.
struct Provider {
    address: SocketAddr,
    answers: Arc<Answers>,
    serving: JoinHandle<()>,
}

async fn answer(State((address, answers)): State<(SocketAddr, Arc<Answers>)>, request: Request) -> Response {
    let issuer = answers.issuer.get().cloned().unwrap_or_else(|| format!("http://{address}"));
    match request.uri().path() {
        "/.well-known/openid-configuration" => {
            axum::Json(json!({ "issuer": issuer, "jwks_uri": format!("http://{address}/keys") })).into_response()
        }
        "/keys" => {
            *answers.fetched.lock().unwrap() += 1;
            if let Some(hold) = answers.hold.get() {
                hold.notified().await;
            }
            match answers.instead.lock().unwrap().clone() {
                Some(text) => text.into_response(),
                None => axum::Json(answers.keys.lock().unwrap().clone()).into_response(),
            }
        }
        "/elsewhere" => (StatusCode::FOUND, [("location", HeaderValue::from_static("/keys"))], Body::empty()).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Provider {
    async fn start(keys: &[&Private]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, keys)
    }

    fn on(listener: TcpListener, keys: &[&Private]) -> Self {
        let (address, answers) = (listener.local_addr().unwrap(), Arc::<Answers>::default());
        let router = Router::new().fallback(answer).with_state((address, answers.clone()));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let provider = Self { address, answers, serving };
        provider.publish(keys);
        provider
    }

    fn publish(&self, keys: &[&Private]) {
        *self.answers.keys.lock().unwrap() = json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() });
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn fetched(&self) -> u32 {
        *self.answers.fetched.lock().unwrap()
    }

    async fn fetched_more_than(&self, times: u32) {
        let fetched = async {
            while self.fetched() <= times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, fetched).await.unwrap();
    }

    fn settings(&self) -> OidcSettings {
        let roles = [("look", Role::Viewer), ("run", Role::Operator), ("all", Role::Admin)];
        OidcSettings {
            issuer: self.issuer(),
            audience: AUDIENCE.to_owned(),
            jwks_url: None,
            role_claim: "roles".to_owned(),
            roles: roles.into_iter().map(|(value, role)| (value.to_owned(), role)).collect(),
        }
    }

    fn oidc(&self, times: Times) -> Oidc {
        Oidc::new(self.settings(), Clock::system(), times).unwrap()
    }

    /// Claims that are accepted.
    fn claims(&self) -> Value {
        let now = Clock::system().seconds();
        json!({ "iss": self.issuer(), "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300, "roles": ["run"] })
    }

    fn claims_with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    /// Nobody answers there any more.
    async fn go_away(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

fn never() -> Times {
    Times { again: Duration::from_secs(3600), ..Times::default() }
}

fn at_once() -> Times {
    Times { again: Duration::ZERO, ..Times::default() }
}

async fn wrong(oidc: &Oidc, token: &str) -> Wrong {
    oidc.check(token).await.unwrap_err()
}

#[tokio::test]
async fn a_token_of_each_kind_of_key_is_an_identity() {
    let kinds = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    let keys: Vec<Private> = ["rsa", "p256", "p384", "ed"].into_iter().zip(kinds).map(|(id, kind)| Private::new(id, kind)).collect();
    let mut all: Vec<Private> = keys.clone();
    all.extend([Algorithm::RS384, Algorithm::RS512].map(|algorithm| Private { algorithm, ..keys[0].clone() }));
    let provider = Provider::start(&keys.iter().collect::<Vec<_>>()).await;
    let oidc = provider.oidc(never());
    for key in &all {
        let identity = oidc.check(&key.sign(&provider.claims())).await;
        let expected = Identity { name: format!("{}#ada", provider.issuer()), role: Role::Operator, method: "oidc" };
        assert_eq!(identity, Ok(expected), "{:?}", key.algorithm);
    }
    assert_eq!(provider.fetched(), 1);
}

#[tokio::test]
async fn each_claim_is_looked_at() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let (oidc, now) = (provider.oidc(never()), Clock::system().seconds());
    for (name, value, expected) in [
        ("iss", json!("https://other.example"), Some(Wrong::Issuer)),
        ("iss", json!(format!("{}/", provider.issuer())), Some(Wrong::Issuer)),
        ("iss", json!([provider.issuer()]), Some(Wrong::Malformed)),
        ("iss", Value::Null, Some(Wrong::Malformed)),
        ("aud", json!("other"), Some(Wrong::Audience)),
        ("aud", json!(["other"]), Some(Wrong::Audience)),
        ("aud", json!({ AUDIENCE: AUDIENCE }), Some(Wrong::Audience)),
        ("aud", json!(["other", AUDIENCE]), None),
        ("exp", json!(now - 61), Some(Wrong::Expired)),
        ("exp", json!(now - 30), None),
        ("exp", json!("never"), Some(Wrong::Malformed)),
        ("exp", Value::Null, Some(Wrong::Malformed)),
        ("nbf", json!(now + 120), Some(Wrong::NotYetValid)),
        ("nbf", json!(now + 30), None),
        ("nbf", json!("now"), Some(Wrong::Malformed)),
        ("sub", Value::Null, Some(Wrong::Malformed)),
        ("sub", json!(""), Some(Wrong::Malformed)),
        ("sub", json!("a\nb"), Some(Wrong::Malformed)),
        ("sub", json!("a".repeat(256)), Some(Wrong::Malformed)),
        ("roles", json!(["nothing"]), Some(Wrong::NoRole)),
        ("roles", json!("look run"), None),
        ("roles", json!({ "run": true }), Some(Wrong::NoRole)),
        ("roles", Value::Null, Some(Wrong::NoRole)),
    ] {
        let said = format!("{name} {value}");
        assert_eq!(oidc.check(&key.sign(&provider.claims_with(name, value))).await.err(), expected, "{said}");
    }
    for missing in ["iss", "aud", "exp", "sub"] {
        let mut claims = provider.claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(wrong(&oidc, &key.sign(&claims)).await, Wrong::Malformed, "{missing}");
    }
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_no_shared_secret() {
    let (rsa, ec) = (Private::new("rsa", Algorithm::RS256), Private::new("ec", Algorithm::ES256));
    let provider = Provider::start(&[&rsa, &ec]).await;
    let oidc = provider.oidc(at_once());
    let claims = provider.claims();
    // The provider's public key as the secret of an HMAC, as an attacker would have it; and a secret that a provider publishes.
    let public = serde_json::to_vec(&rsa.public()).unwrap();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let forged = Private { id: "rsa", algorithm, key: EncodingKey::from_secret(&public) };
        assert_eq!(wrong(&oidc, &forged.sign(&claims)).await, Wrong::Algorithm);
    }
    // Another key's algorithm, and one of the same kind that is not taken.
    assert_eq!(wrong(&oidc, &Private { id: "rsa", ..ec.clone() }.sign(&claims)).await, Wrong::Algorithm);
    assert_eq!(wrong(&oidc, &Private { algorithm: Algorithm::PS256, ..rsa.clone() }.sign(&claims)).await, Wrong::Algorithm);
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let body = encode(&claims.to_string());
    for none in ["none", "None", "NONE"] {
        let header = encode(&json!({ "alg": none, "typ": "JWT", "kid": "rsa" }).to_string());
        assert_eq!(wrong(&oidc, &format!("{header}.{body}.")).await, Wrong::Malformed);
    }
    // Somebody else's key under the same name, and a changed body.
    assert_eq!(wrong(&oidc, &Private::new("ec", Algorithm::ES256).sign(&claims)).await, Wrong::Signature);
    let token = ec.sign(&claims);
    let (head, signature) = (token.split('.').next().unwrap(), token.rsplit('.').next().unwrap());
    let changed = encode(&provider.claims_with("roles", json!(["all"])).to_string());
    assert_eq!(wrong(&oidc, &format!("{head}.{changed}.{signature}")).await, Wrong::Signature);
    assert_eq!(wrong(&oidc, &format!("{head}.{body}.{}", "A".repeat(MAX_TOKEN))).await, Wrong::TooLarge);
    for garbage in ["..", "a.b.c", &format!("{head}..")] {
        assert!(oidc.check(garbage).await.is_err(), "{garbage}");
    }

    *provider.answers.keys.lock().unwrap() = json!({ "keys": [
        { "kty": "oct", "kid": "secret", "k": encode("0123456789abcdef0123456789abcdef") },
        { "kty": "EC", "kid": "p521", "crv": "P-521", "x": "AA", "y": "AA" },
        { "kid": "nothing" }, 7, ec.public(),
    ] });
    let shared = Private { id: "secret", algorithm: Algorithm::HS256, key: EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef") };
    assert_eq!(wrong(&oidc, &shared.sign(&claims)).await, Wrong::Key);
    assert!(oidc.check(&ec.sign(&claims)).await.is_ok());
}

#[tokio::test]
async fn a_key_is_used_for_what_the_provider_says() {
    let key = Private::new("a", Algorithm::RS256);
    let provider = Provider::start(&[]).await;
    for (name, value, taken) in [
        ("use", json!("enc"), false),
        ("use", json!("sig"), true),
        ("key_ops", json!(["encrypt"]), false),
        ("key_ops", json!(["verify"]), true),
        ("alg", json!("RS512"), false),
        ("alg", json!("RSA-OAEP"), false),
        ("alg", json!("RS256"), true),
    ] {
        let mut public = key.public();
        public[name] = value.clone();
        *provider.answers.keys.lock().unwrap() = json!({ "keys": [public, Private::new("b", Algorithm::EdDSA).public()] });
        assert_eq!(provider.oidc(never()).check(&key.sign(&provider.claims())).await.is_ok(), taken, "{name} {value}");
    }
}

#[tokio::test]
async fn what_a_token_is_must_fit() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let oidc = provider.oidc(never());
    let sign = |header: Header| jsonwebtoken::encode(&header, &provider.claims(), &key.key).unwrap();
    for (kind, expected) in [
        (Some("JWT"), None),
        (Some("application/at+jwt"), None),
        (Some("logout+jwt"), Some(Wrong::Kind)),
        (Some("dpop+jwt"), Some(Wrong::Kind)),
        (None, Some(Wrong::Kind)),
    ] {
        let token = sign(Header { typ: kind.map(str::to_owned), ..key.header() });
        assert_eq!(oidc.check(&token).await.err(), expected, "{kind:?}");
    }
    assert_eq!(wrong(&oidc, &sign(Header { crit: Some(vec!["exp".to_owned()]), ..key.header() })).await, Wrong::Malformed);
    assert!(oidc.check(&sign(Header { kid: None, ..key.header() })).await.is_ok(), "the only key needs no name");
}

#[tokio::test]
async fn a_new_key_is_found_and_unknown_ones_do_not_make_the_host_ask_again_and_again() {
    let (old, new, newer) =
        (Private::new("old", Algorithm::ES256), Private::new("new", Algorithm::ES256), Private::new("x", Algorithm::ES256));
    let provider = Provider::start(&[&old]).await;
    let oidc = provider.oidc(never());
    oidc.keys.refresh();
    provider.fetched_more_than(0).await;
    assert!(oidc.check(&old.sign(&provider.claims())).await.is_ok());
    provider.publish(&[&new]);
    let before = provider.fetched();
    assert!(oidc.check(&new.sign(&provider.claims())).await.is_ok());
    assert_eq!(provider.fetched(), before + 1);
    assert_eq!(wrong(&oidc, &old.sign(&provider.claims())).await, Wrong::Key, "it is withdrawn");
    provider.publish(&[&newer]);
    for _ in 0..20 {
        assert_eq!(wrong(&oidc, &newer.sign(&provider.claims())).await, Wrong::Key);
    }
    assert_eq!(provider.fetched(), before + 1, "at most once in the time between");
    assert!(provider.oidc(at_once()).check(&newer.sign(&provider.claims())).await.is_ok());
}

#[tokio::test]
async fn known_keys_outlive_the_provider_for_a_while() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let (lasting, ending) = (at_once(), Times { kept: Duration::from_millis(300), fresh: Duration::ZERO, ..at_once() });
    let (lasting, ending) = (provider.oidc(lasting), provider.oidc(ending));
    let token = key.sign(&provider.claims());
    assert!(lasting.check(&token).await.is_ok() && ending.check(&token).await.is_ok());
    let (claims, settings, address) = (provider.claims(), provider.settings(), provider.address);
    provider.go_away().await;
    assert!(lasting.check(&token).await.is_ok());
    assert_eq!(wrong(&lasting, &Private::new("b", Algorithm::ES256).sign(&claims)).await, Wrong::Key);
    assert!(lasting.check(&token).await.is_ok(), "a failure takes nothing away");
    let end = std::time::Instant::now() + PATIENCE;
    while ending.check(&token).await.is_ok() {
        assert!(std::time::Instant::now() < end, "keys are kept too long");
        tokio::task::yield_now().await;
    }
    // Never there so far, and then it comes.
    let late = Oidc::new(settings, Clock::system(), at_once()).unwrap();
    assert_eq!(wrong(&late, &token).await, Wrong::Key);
    let _back = Provider::on(TcpListener::bind(address).await.unwrap(), &[&key]);
    assert!(late.check(&token).await.is_ok() && ending.check(&token).await.is_ok());
}

#[tokio::test]
async fn a_provider_that_hangs_holds_up_nobody_whose_key_is_known() {
    let (known, unknown) = (Private::new("a", Algorithm::ES256), Private::new("b", Algorithm::ES256));
    let provider = Provider::start(&[&known]).await;
    // Old from the beginning: each token wants the keys to be fetched again.
    let oidc = Arc::new(provider.oidc(Times { fresh: Duration::ZERO, fetch: Duration::from_secs(3600), ..at_once() }));
    let token = known.sign(&provider.claims());
    assert!(oidc.check(&token).await.is_ok());
    let _ = provider.answers.hold.set(Notify::new());
    let before = provider.fetched();
    let (other, waiting) = (unknown.sign(&provider.claims()), oidc.clone());
    let waits = tokio::spawn(async move { waiting.check(&other).await });
    provider.fetched_more_than(before).await;
    for _ in 0..100 {
        assert!(oidc.check(&token).await.is_ok());
    }
    assert!(!waits.is_finished() && provider.fetched() == before + 1);
    // Whoever asked goes away; what was begun goes on, and others get what comes of it.
    waits.abort();
    provider.publish(&[&known, &unknown]);
    let (other, waiting) = (unknown.sign(&provider.claims()), oidc.clone());
    let waits = tokio::spawn(async move { waiting.check(&other).await });
    tokio::task::yield_now().await;
    provider.answers.hold.get().unwrap().notify_one();
    assert!(tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().is_ok());
    assert_eq!(provider.fetched(), before + 1);
}

#[tokio::test]
async fn what_a_provider_says_is_bounded_and_looked_at() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let token = key.sign(&provider.claims());
    let set = serde_json::to_vec(&provider.answers.keys.lock().unwrap().clone()).unwrap();
    for (instead, taken) in [
        ([&*set, &vec![b' '; 200 << 10]].concat(), true),
        ([&*set, &vec![b' '; 256 << 10]].concat(), false),
        (b"no JSON".to_vec(), false),
        (b"{}".to_vec(), false),
        (b"{\"keys\":[]}".to_vec(), false),
    ] {
        *provider.answers.instead.lock().unwrap() = Some(instead);
        assert_eq!(provider.oidc(never()).check(&token).await.is_ok(), taken);
    }
    *provider.answers.instead.lock().unwrap() = None;
    let at = |path: &str| {
        let settings = OidcSettings { jwks_url: Some(format!("{}{path}", provider.issuer())), ..provider.settings() };
        Oidc::new(settings, Clock::system(), never()).unwrap()
    };
    assert!(at("/keys").check(&token).await.is_ok());
    assert_eq!(wrong(&at("/elsewhere"), &token).await, Wrong::Key, "a redirection is not followed");
    assert_eq!(wrong(&at("/none"), &token).await, Wrong::Key);
    // A provider that says it is another one.
    provider.answers.issuer.set("https://other.example".to_owned()).unwrap();
    assert_eq!(wrong(&provider.oidc(never()), &token).await, Wrong::Key);
}

#[tokio::test]
async fn a_provider_that_never_answers_is_given_up() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let _ = provider.answers.hold.set(Notify::new());
    let oidc = provider.oidc(Times { fetch: Duration::from_millis(50), ..never() });
    assert_eq!(wrong(&oidc, &key.sign(&provider.claims())).await, Wrong::Key);
}

#[tokio::test]
async fn only_a_bearer_token_that_looks_like_a_jwt_is_its_own() {
    let key = Private::new("a", Algorithm::ES256);
    let provider = Provider::start(&[&key]).await;
    let oidc = provider.oidc(never());
    let token = key.sign(&provider.claims());
    let ask = async |value: Option<String>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        oidc.authenticate(&Shown { headers: &headers, peer: provider.address, certificates: &[] }).await
    };
    assert!(matches!(ask(Some(format!("Bearer {token}"))).await, Verdict::Known(_)));
    assert!(matches!(ask(Some(format!("bearer {token}"))).await, Verdict::Known(_)));
    for other in [None, Some("Bearer cha_abc".to_owned()), Some(format!("Basic {token}")), Some(token.clone()), Some("Bearer".to_owned())] {
        assert_eq!(ask(other).await, Verdict::Absent);
    }
    let twice = [&*token, "x"].into_iter().map(|token| (header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())).collect();
    let shown = Shown { headers: &twice, peer: provider.address, certificates: &[] };
    assert!(matches!(oidc.authenticate(&shown).await, Verdict::Refused(_)), "nobody can say which one counts");
    let Verdict::Refused(reason) = ask(Some("Bearer a.b.c".to_owned())).await else { panic!("it is shown, and wrong") };
    assert!(!reason.contains("a.b.c"), "{reason}");
}

#[test]
fn roles_are_found_wherever_providers_put_them() {
    let claims = json!({
        "roles": ["a", 7, "b"],
        "scope": "openid look  run",
        "one": "sessions admin",
        "realm_access": { "roles": ["c"], "deep": { "er": "d" } },
        "https://example.org/roles": ["e"],
    });
    for (claim, expected) in [
        ("roles", &["a", "b"][..]),
        ("scope", &["openid look  run", "openid", "look", "run"]),
        ("one", &["sessions admin", "sessions", "admin"]),
        ("realm_access.roles", &["c"]),
        ("realm_access.deep.er", &["d", "d"]),
        ("https://example.org/roles", &["e"]),
        ("realm_access", &[]),
        ("realm_access.none", &[]),
        ("none.roles", &[]),
    ] {
        assert_eq!(values(claims.as_object().unwrap(), claim), expected, "{claim}");
    }
}
