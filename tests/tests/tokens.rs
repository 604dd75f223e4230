//! Tokens as another implementation reads them: Python's PyJWT over its `cryptography`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use conductor_tests::{Credentials, Host, HostOptions, Mqtt, Version, Way, tools::Program};
use serde_json::{Value, json};

const VERIFY: &str = r#"
import sys, json, jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key
file, token = sys.argv[1:3]
key = load_pem_private_key(open(file, "rb").read(), None).public_key()
header = jwt.get_unverified_header(token)
claims = jwt.decode(token, key, algorithms=[header["alg"]], issuer="conductor-host",
                    options={"require": ["sub", "iat", "exp", "nbf", "iss", "jti"]})
print(json.dumps([header, claims]))
"#;

fn key(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join("key.pem");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../host/tests/keys/test-{name}.pem")), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

#[test]
fn python_verifies_tokens_of_every_kind_of_key_in_every_form() {
    for (name, algorithm) in [
        ("rsa", "RS256"),
        ("rsa-pkcs1", "RS256"),
        ("p256", "ES256"),
        ("p256-sec1", "ES256"),
        ("p256-sec1-with-parameters", "ES256"),
        ("ed25519", "EdDSA"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = key(folder.path(), name);
        let host = Host::start(HostOptions::default().set("token.key", json!(file)));
        let session = host.create("default");
        let token = host.join(&session, "客户端");
        // Python's library reads the file alone, without the block of parameters before the key.
        let readable = if name.ends_with("with-parameters") { key(folder.path(), "p256-sec1") } else { file };
        let python = Program::python(VERIFY, &[("jwt", "pyjwt"), ("cryptography", "cryptography")], &[readable.to_str().unwrap(), &token]);
        let (code, lines) = python.end();
        assert_eq!(code, Some(0), "{name}: {lines:?}");
        let [header, claims]: [Value; 2] = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm), &json!("JWT")), "{name}");
        assert_eq!((&claims["client_id"], &claims["sid"]), (&json!("客户端"), &json!(session.id)));
        // And the broker accepts it.
        Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("客户端", &session.id, &token)).unwrap();
    }
}

#[test]
fn a_changed_key_refuses_the_old_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let options = HostOptions::default().set("token.key", json!(key(folder.path(), "p256")));
    let mut host = Host::start(options.clone());
    let session = host.create("default");
    let token = host.join(&session, "a");
    let credentials = Credentials::new("a", &session.id, &token);
    Mqtt::connect(&host, Version::V5, Way::Tcp, &credentials).unwrap();
    host.stop();
    key(folder.path(), "ed25519");
    host.start_again();
    Mqtt::connect(&host, Version::V5, Way::Tcp, &credentials).expect_err("signed with the old key");
    let token = host.join(&session, "a");
    Mqtt::connect(&host, Version::V5, Way::Tcp, &Credentials::new("a", &session.id, &token)).unwrap();
}
