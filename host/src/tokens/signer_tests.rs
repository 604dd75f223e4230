use std::{fs, path::Path};

use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{sessions::SessionId, tokens::claims::UsernameRule};

const T: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn pem(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(format!("test-{name}.pem"))).unwrap()
}

fn signer(name: &str) -> Signer {
    Signer::new(SigningKey::from_pem(&pem(name)).unwrap(), "conductor-host").unwrap()
}

fn sign(signer: &Signer, username: UsernameRule) -> Signed {
    let filters = ["/012345/#".to_owned()];
    let grantee =
        Grantee { session: SessionId::parse("012345").unwrap(), client_id: "späce unit", username, subs: &filters, publ: &filters };
    signer.sign(&grantee, at(T), Duration::from_secs(86_400)).unwrap()
}

fn token(signer: &Signer) -> String {
    sign(signer, UsernameRule::SessionId).token
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&BASE64.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

/// A token with these parts and a signature over them by the key in this file, made by the library and not by us.
fn forged(header: &Value, claims: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = [header, claims].map(|part| BASE64.encode(part.to_string())).join(".");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token of the P-256 key whose header and claims were changed before it was signed.
fn altered(change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let original = token(&signer("p256"));
    let (mut header, mut claims) = (part(&original, 0), part(&original, 1));
    change(&mut header, &mut claims);
    forged(&header, &claims, &EncodingKey::from_ec_pem(&pem("p256")).unwrap(), Algorithm::ES256)
}

#[test]
fn a_token_says_what_the_contract_names() {
    for (key, algorithm) in [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")] {
        let signer = signer(key);
        let signed = sign(&signer, UsernameRule::SessionId);
        assert_eq!(part(&signed.token, 0), json!({"typ": "JWT", "alg": algorithm, "kid": signer.public_jwk().unwrap()["kid"]}));
        let mut claims = part(&signed.token, 1);
        let jti = claims["jti"].take();
        assert_eq!(jti.as_str().unwrap().len(), 32, "{jti}");
        assert_eq!(
            claims,
            json!({
                "sub": "012345", "iat": T, "exp": T + 86_400, "subs": ["/012345/#"], "publ": ["/012345/#"],
                "client_id": "späce unit", "sid": "012345", "jti": null, "iss": "conductor-host", "nbf": T,
            })
        );
        assert_eq!(signed.expires_at, at(T + 86_400));
        assert_eq!(signer.verify(signed.token.as_bytes(), at(T)).unwrap().client_id, "späce unit");
    }
}

#[test]
fn the_subject_is_what_the_username_must_be() {
    let signer = signer("p256");
    assert_eq!(part(&sign(&signer, UsernameRule::ClientId).token, 1)["sub"], "späce unit");
    assert_eq!(part(&sign(&signer, UsernameRule::SessionId).token, 1)["sub"], "012345");
}

#[test]
fn no_two_tokens_are_the_same() {
    let signer = signer("ed25519");
    assert_ne!(part(&token(&signer), 1)["jti"], part(&token(&signer), 1)["jti"]);
}

#[test]
fn a_token_ends_at_its_second_and_begins_a_minute_early() {
    let signer = signer("p256");
    let token = token(&signer);
    let verdict = |now| signer.verify(token.as_bytes(), now).map(|_| ());
    assert_eq!(verdict(at(T - 61)), Err(TokenError::NotYetValid));
    assert_eq!(verdict(at(T - 60)), Ok(()));
    assert_eq!(verdict(at(T + 86_400) - Duration::from_nanos(1)), Ok(()));
    assert_eq!(verdict(at(T + 86_400)), Err(TokenError::Expired));
    assert_eq!(verdict(at(0) - Duration::from_secs(1)), Err(TokenError::NotYetValid));
}

#[test]
fn times_out_of_range_are_errors() {
    let signer = signer("p256");
    let grantee =
        Grantee { session: SessionId::parse("1").unwrap(), client_id: "a", username: UsernameRule::SessionId, subs: &[], publ: &[] };
    for (now, ttl) in [(at(0) - Duration::from_secs(1), Duration::ZERO), (at(T), Duration::MAX)] {
        assert!(matches!(signer.sign(&grantee, now, ttl), Err(SignError::Time)));
    }
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_headers() {
    let signer = signer("p256");
    let original = token(&signer);
    let (header, claims) = (part(&original, 0), part(&original, 1));
    let with = |algorithm: &str| {
        let mut header = header.clone();
        header["alg"] = algorithm.into();
        header
    };
    for none in ["none", "None", "NONE", ""] {
        let message = [with(none), claims.clone()].map(|part| BASE64.encode(part.to_string())).join(".");
        let unsigned = format!("{message}.");
        assert_eq!(signer.verify(unsigned.as_bytes(), at(T)), Err(TokenError::Malformed), "{none}");
        let signed = format!("{message}.{}", original.rsplit('.').next().unwrap());
        assert_eq!(signer.verify(signed.as_bytes(), at(T)), Err(TokenError::Malformed), "{none}");
    }
    // The public key as a shared secret, in the forms in which an attacker has it.
    let raw = signer.key.public().try_get_as_bytes().unwrap().to_vec();
    for secret in [raw, pem("p256-public")] {
        let token = forged(&with("HS256"), &claims, &EncodingKey::from_secret(&secret), Algorithm::HS256);
        assert_eq!(signer.verify(token.as_bytes(), at(T)), Err(TokenError::Algorithm));
    }
    // Another key of the attacker's, with the algorithm that fits it.
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa")).unwrap();
    let token = forged(&with("RS256"), &claims, &rsa, Algorithm::RS256);
    assert_eq!(signer.verify(token.as_bytes(), at(T)), Err(TokenError::Algorithm));
    // Another algorithm of the same kind of key.
    let token = forged(&with("PS256"), &claims, &rsa, Algorithm::PS256);
    assert_eq!(self::signer("rsa").verify(token.as_bytes(), at(T)), Err(TokenError::Algorithm));
}

#[test]
fn another_key_or_a_changed_part_is_refused() {
    let signer = signer("p256");
    let original = token(&signer);
    let stranger = Signer::new(SigningKey::load_or_create(&tempfile::tempdir().unwrap().path().join("key"), true).unwrap(), "x").unwrap();
    assert_eq!(stranger.verify(original.as_bytes(), at(T)), Err(TokenError::Signature));
    let mut claims = part(&original, 1);
    claims["sid"] = "999999".into();
    let mut parts: Vec<_> = original.split('.').map(str::to_owned).collect();
    parts[1] = BASE64.encode(claims.to_string());
    assert_eq!(signer.verify(parts.join(".").as_bytes(), at(T)), Err(TokenError::Signature));
}

#[test]
fn what_a_good_signature_does_not_excuse() {
    let signer = signer("p256");
    let verdict = |token: String| signer.verify(token.as_bytes(), at(T)).map(|_| ());
    assert_eq!(verdict(altered(|_, _| ())), Ok(()));
    assert_eq!(verdict(altered(|_, claims| claims["more"] = 1.into())), Ok(()));
    assert_eq!(verdict(altered(|header, _| header["kid"] = "another".into())), Err(TokenError::Key));
    assert_eq!(verdict(altered(|header, _| drop(header.as_object_mut().unwrap().remove("kid")))), Err(TokenError::Key));
    assert_eq!(verdict(altered(|header, _| header["crit"] = json!(["b64"]))), Err(TokenError::Algorithm));
    assert_eq!(verdict(altered(|_, claims| claims["iss"] = "another".into())), Err(TokenError::Issuer));
    for claim in ["sub", "iat", "exp", "subs", "publ", "client_id", "sid", "jti", "iss", "nbf"] {
        let without = altered(|_, claims| drop(claims.as_object_mut().unwrap().remove(claim)));
        assert_eq!(verdict(without), Err(TokenError::Malformed), "{claim}");
    }
    for (claim, value) in [("exp", json!("9999999999")), ("exp", json!(-1)), ("subs", json!("/#")), ("sub", json!(1)), ("publ", json!([1]))]
    {
        assert_eq!(verdict(altered(|_, claims| claims[claim] = value.clone())), Err(TokenError::Malformed), "{claim} {value}");
    }
}

#[test]
fn a_large_token_is_refused_before_it_is_read() {
    let signer = signer("p256");
    let large = altered(|_, claims| claims["subs"] = json!(["x".repeat(8 * 1024)]));
    assert_eq!(signer.verify(large.as_bytes(), at(T)), Err(TokenError::TooLarge));
    assert_eq!(signer.verify(&[b'.'; MAX_TOKEN], at(T)), Err(TokenError::Malformed));
    assert_eq!(signer.verify(&[b'.'; MAX_TOKEN + 1], at(T)), Err(TokenError::TooLarge));
}

#[test]
fn a_token_does_not_show_in_debug_output() {
    let signed = sign(&signer("p256"), UsernameRule::SessionId);
    assert!(!format!("{signed:?}").contains(&signed.token));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_from_outside_panic_or_pass(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(signer("ed25519").verify(&bytes, at(T)).is_err());
    }

    #[test]
    fn a_token_with_one_changed_byte_is_refused(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let signer = signer("ed25519");
        let mut token = token(&signer).into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        prop_assert!(signer.verify(&token, at(T)).is_err());
    }
}
