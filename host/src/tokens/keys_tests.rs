use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(format!("test-{name}.pem"))).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn written(folder: &Path, text: &[u8]) -> PathBuf {
    let path = folder.join("key.pem");
    fs::write(&path, text).unwrap();
    mode(&path, 0o600);
    path
}

/// The refusal, after a look at its words: they name the file and quote nothing of it.
fn refused(path: &Path) -> KeyProblem {
    let error = SigningKey::load_or_create(path, false).unwrap_err();
    let words = format!("{error} {error:?}");
    assert!(words.contains(path.to_str().unwrap()), "{words}");
    for line in fs::read(path).unwrap_or_default().split(|b| *b == b'\n').filter(|line| line.len() > 20 && !line.starts_with(b"--")) {
        assert!(!words.as_bytes().windows(20).any(|part| line.windows(20).any(|l| l == part)), "{words}");
    }
    error.problem
}

macro_rules! assert_refused {
    ($text:expr, $problem:pat) => {{
        let folder = folder();
        let problem = refused(&written(folder.path(), &$text));
        assert!(matches!(problem, $problem), "{problem}");
    }};
}

#[test]
fn the_kid_is_the_rfc_7638_thumbprint() {
    // Section 3.1 of the RFC.
    let jwk: Jwk = serde_json::from_value(serde_json::json!({
        "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn\
              64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOp\
              bISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    }))
    .unwrap();
    assert_eq!(thumbprint(&jwk).unwrap(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn the_kind_of_key_decides_the_algorithm_in_every_pem_form() {
    for (name, algorithm, parameters) in [
        ("rsa", Algorithm::RS256, ["kty", "n", "e"].as_slice()),
        ("rsa-pkcs1", Algorithm::RS256, &["kty", "n", "e"]),
        ("p256", Algorithm::ES256, &["kty", "crv", "x", "y"]),
        ("p256-sec1", Algorithm::ES256, &["kty", "crv", "x", "y"]),
        ("p256-sec1-with-parameters", Algorithm::ES256, &["kty", "crv", "x", "y"]),
        ("ed25519", Algorithm::EdDSA, &["kty", "crv", "x"]),
    ] {
        let key = SigningKey::from_pem(&fixture(name)).unwrap();
        assert_eq!(key.algorithm(), algorithm, "{name}");
        let jwk = key.public_jwk().unwrap();
        let mut names: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut expected = [parameters, &["alg", "kid", "use"]].concat();
        expected.sort_unstable();
        assert_eq!(names, expected, "{name}");
        assert_eq!((&jwk["use"], &jwk["kid"]), (&"sig".into(), &key.kid().into()));
    }
}

#[test]
fn the_public_half_is_written_as_others_write_it() {
    for name in ["rsa", "p256", "ed25519"] {
        let key = SigningKey::from_pem(&fixture(name)).unwrap();
        let [pem, raw, jwks] = [PublicForm::Pem, PublicForm::Raw, PublicForm::Jwks].map(|form| key.public_as(form).unwrap());
        if name != "ed25519" {
            assert_eq!(pem, fixture(&format!("{name}-public")), "{name}");
        }
        assert!(pem::parse(&pem).unwrap().contents().ends_with(&raw), "{name}: the form of X.509 ends with the bare key");
        let jwks: Value = serde_json::from_slice(&jwks).unwrap();
        assert_eq!(jwks, json!({"keys": [key.public_jwk().unwrap()]}), "{name}");
    }
    let raw = SigningKey::from_pem(&fixture("p256")).unwrap().public_as(PublicForm::Raw).unwrap();
    assert_eq!((raw.len(), raw[0]), (65, 4), "an uncompressed point");
}

#[test]
fn the_same_key_has_the_same_kid_in_every_form() {
    let kid = |name| SigningKey::from_pem(&fixture(name)).unwrap().kid().to_owned();
    assert_eq!(kid("rsa"), kid("rsa-pkcs1"));
    assert_eq!(kid("p256"), kid("p256-sec1"));
    assert_eq!(kid("p256"), kid("p256-sec1-with-parameters"));
    assert_ne!(kid("p256"), kid("ed25519"));
}

#[test]
fn text_around_the_block_and_windows_line_ends_are_fine() {
    let text = String::from_utf8(fixture("p256")).unwrap();
    for text in [format!("Bag Attributes: <none>\n\n{text}\ntrailing words"), text.replace('\n', "\r\n")] {
        assert_eq!(SigningKey::from_pem(text.as_bytes()).unwrap().algorithm(), Algorithm::ES256);
    }
}

#[test]
fn what_is_no_single_usable_private_key_is_refused_in_words() {
    assert_refused!(fixture("rsa-public"), KeyProblem::Public);
    assert_refused!(fixture("p256-public"), KeyProblem::Public);
    assert_refused!(fixture("certificate"), KeyProblem::Certificate);
    assert_refused!([fixture("p256"), fixture("certificate")].concat(), KeyProblem::Certificate);
    assert_refused!([fixture("p256"), fixture("ed25519")].concat(), KeyProblem::Several);
    assert_refused!(fixture("p256-encrypted"), KeyProblem::Encrypted);
    assert_refused!(fixture("p256-sec1-encrypted"), KeyProblem::Encrypted);
    assert_refused!(fixture("openssh"), KeyProblem::OpenSsh);
    assert_refused!(fixture("p384"), KeyProblem::Curve);
    assert_refused!(fixture("p384-sec1"), KeyProblem::Curve);
    assert_refused!(fixture("secp256k1"), KeyProblem::Curve);
    assert_refused!(fixture("x25519"), KeyProblem::Unsupported);
    assert_refused!(fixture("rsa-1024"), KeyProblem::RsaSize);
    assert_refused!(pem::parse(fixture("rsa")).unwrap().contents(), KeyProblem::Binary);
    assert_refused!(*b"not a key at all, just words that nobody can use", KeyProblem::NotPem);
    assert_refused!([0xff, 0, 7, 0x80].repeat(99), KeyProblem::NotPem);
    assert_refused!(fixture("p256")[..100], KeyProblem::NotPem);
    assert_refused!(*b"", KeyProblem::Empty);
    assert_refused!(*b" \n\n", KeyProblem::Empty);
    assert_refused!(vec![b'a'; 64 * 1024 + 1], KeyProblem::TooLarge);
}

#[test]
fn a_damaged_key_is_refused() {
    for name in ["rsa", "rsa-pkcs1", "p256", "p256-sec1", "ed25519"] {
        let block = pem::parse(fixture(name)).unwrap();
        let cut = pem::encode(&Pem::new(block.tag(), &block.contents()[..block.contents().len() - 9]));
        assert!(matches!(SigningKey::from_pem(cut.as_bytes()), Err(KeyProblem::Damaged)), "{name}");
    }
}

#[test]
fn what_the_pem_library_would_quote_is_not_shown() {
    for text in [
        "-----BEGIN PRIVATE KEY-----\nProc-Type: 4\nsecretsecretsecretsecret\n\nAAAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END\nsecretsecretsecretsecret-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END secretsecretsecretsecret-----\n",
    ] {
        let folder = folder();
        let problem = refused(&written(folder.path(), text.as_bytes()));
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}

#[test]
fn a_folder_and_an_absent_file_are_refused() {
    let folder = folder();
    assert!(matches!(refused(folder.path()), KeyProblem::NotAFile));
    assert!(matches!(refused(&folder.path().join("none.pem")), KeyProblem::Absent));
}

#[test]
fn a_file_that_others_may_read_or_write_is_refused() {
    let folder = folder();
    let path = written(folder.path(), &fixture("p256"));
    for (bits, good) in [(0o600, true), (0o400, true), (0o660, true), (0o604, false), (0o602, false), (0o644, false)] {
        mode(&path, bits);
        if good {
            assert_eq!(SigningKey::load_or_create(&path, false).unwrap().algorithm(), Algorithm::ES256, "{bits:o}");
        } else {
            let problem = refused(&path);
            assert!(matches!(problem, KeyProblem::OpenToOthers(found) if found == bits), "{problem}");
            assert!(problem.to_string().contains("chmod 600"), "{problem}");
        }
    }
}

#[test]
fn a_folder_that_others_may_write_is_refused_unless_sticky() {
    let folder = folder();
    let path = written(folder.path(), &fixture("p256"));
    let link_folder = self::folder();
    let link = link_folder.path().join("link.pem");
    symlink(&path, &link).unwrap();
    for (bits, good) in [(0o1777, true), (0o775, true), (0o777, false), (0o702, false)] {
        mode(folder.path(), bits);
        for path in [&path, &link] {
            let read = read_certificate_key(path);
            assert!(if good { read.is_ok() } else { matches!(read, Err(KeyProblem::FolderOpenToOthers(_))) }, "{bits:o} {path:?}");
        }
        assert_eq!(SigningKey::load_or_create(&path, false).is_ok(), good, "{bits:o}");
    }
}

#[test]
fn a_secret_is_not_read_through_a_symbolic_link() {
    let folder = folder();
    let path = written(folder.path(), &fixture("p256"));
    let link = folder.path().join("link.pem");
    symlink(&path, &link).unwrap();
    let problem = refused(&link);
    assert!(matches!(problem, KeyProblem::Link) && problem.to_string().contains("symbolic link"), "{problem}");
    // Nor is a key made at the place where a link leads to, which is nothing yet.
    fs::remove_file(&path).unwrap();
    assert!(SigningKey::load_or_create(&link, true).is_err() && !path.exists());
}

#[test]
fn a_key_is_made_once_complete_and_for_its_owner_alone() {
    let folder = folder();
    let path = folder.path().join("token-key.pem");
    let made = SigningKey::load_or_create(&path, true).unwrap();
    assert_eq!(made.algorithm(), Algorithm::ES256);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    assert!(fs::read(&path).unwrap().starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(SigningKey::load_or_create(&path, true).unwrap().kid(), made.kid());
}

#[test]
fn a_file_that_is_there_is_never_overwritten() {
    let folder = folder();
    let path = written(folder.path(), b"something of value");
    assert!(SigningKey::load_or_create(&path, true).is_err());
    create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"something of value");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
}

#[test]
fn hosts_that_start_at_once_agree_on_one_key() {
    let folder = folder();
    let path = folder.path().join("token-key.pem");
    let kids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| SigningKey::load_or_create(&path, true).unwrap().kid().to_owned())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
}

#[test]
fn a_folder_that_is_not_there_is_a_refusal_in_words() {
    let folder = folder();
    let error = SigningKey::load_or_create(&folder.path().join("no/key.pem"), true).unwrap_err();
    assert!(matches!(error.problem, KeyProblem::Write(_)), "{error}");
}

#[test]
fn the_key_does_not_show_in_debug_output() {
    let key = SigningKey::from_pem(&fixture("p256")).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey {{ algorithm: ES256, kid: {:?}, .. }}", key.kid()));
}
