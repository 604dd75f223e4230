use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion,
        pki_types::ServerName,
        version::{TLS12, TLS13},
    },
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(format!("test-{name}.pem"))).unwrap()
}

/// A certificate of its own signing for `localhost`, and the key of a fixture (in the form `PRIVATE KEY`) in it.
fn certificate(key: &str) -> String {
    certificate_between(key, 2000, 2200)
}

fn certificate_between(key: &str, from: i32, until: i32) -> String {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params.self_signed(&KeyPair::from_pem(&fixture(key)).unwrap()).unwrap().pem()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(cert, key);
        files
    }

    fn write(&self, cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) {
        fs::write(self.cert(), cert).unwrap();
        fs::write(self.key(), key).unwrap();
        fs::set_permissions(self.key(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.0.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn load(&self) -> Result<Arc<Tls>, TlsError> {
        Tls::load(&self.cert(), &self.key(), None, Clock::system())
    }

    /// The words of the refusal, which name the file and quote nothing of the key.
    fn refused(&self, file: &Path) -> String {
        let error = self.load().unwrap_err();
        let words = format!("{error}");
        assert!(words.contains(file.to_str().unwrap()), "{words}");
        for line in fs::read_to_string(self.key()).unwrap_or_default().lines().filter(|line| line.len() > 20 && !line.starts_with("--")) {
            assert!(!format!("{words} {error:?}").contains(&line[..20]), "{words}");
        }
        words
    }
}

/// A client that trusts exactly this certificate.
fn client(cert: &str, version: &'static SupportedProtocolVersion, protocols: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pem::parse(cert).unwrap().into_contents().into()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// What a handshake came to: version, protocol, and whether it was resumed. The client has read a byte, and with it its tickets.
type Seen = (Option<ProtocolVersion>, Option<Vec<u8>>, Option<HandshakeKind>);

async fn shake(tls: &Tls, inside: Inside, client: &Arc<ClientConfig>) -> Result<Seen, String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (near, far) = tokio::io::duplex(1 << 14);
    let server = async {
        let mut stream = tls.accept(inside, far, PATIENCE).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        let mut end = [0];
        stream.read(&mut end).await
    };
    let client = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await.map_err(|e| e.to_string())?;
        let mut one = [0];
        stream.read_exact(&mut one).await.map_err(|e| e.to_string())?;
        let session = stream.get_ref().1;
        Ok((session.protocol_version(), session.alpn_protocol().map(<[u8]>::to_vec), session.handshake_kind()))
    };
    let (_, seen) = tokio::join!(server, client);
    seen
}

#[tokio::test]
async fn every_kind_of_key_in_every_form_serves_both_versions() {
    for (cert, key) in [
        ("rsa", "rsa"),
        ("rsa", "rsa-pkcs1"),
        ("p256", "p256"),
        ("p256", "p256-sec1"),
        ("p256", "p256-sec1-with-parameters"),
        ("p384", "p384"),
        ("p384", "p384-sec1"),
        ("ed25519", "ed25519"),
    ] {
        let cert = certificate(cert);
        let tls = Files::new(&cert, fixture(key)).load().unwrap();
        for version in [&TLS12, &TLS13] {
            let (spoken, ..) = shake(&tls, Inside::Mqtt, &Arc::new(client(&cert, version, &[]))).await.unwrap();
            assert_eq!(spoken, Some(version.version), "{key}");
        }
    }
}

#[tokio::test]
async fn http_asks_for_its_protocol_and_mqtt_takes_any() {
    let cert = certificate("p256");
    let tls = Files::new(&cert, fixture("p256")).load().unwrap();
    for (inside, offered, chosen) in [
        (Inside::Http, &[][..], Ok(None)),
        (Inside::Http, &["h2", "http/1.1"], Ok(Some("http/1.1"))),
        (Inside::Http, &["h2"], Err(())),
        (Inside::Mqtt, &[], Ok(None)),
        (Inside::Mqtt, &["mqtt"], Ok(None)),
        (Inside::Mqtt, &["x-amzn-mqtt-ca"], Ok(None)),
    ] {
        let seen = shake(&tls, inside, &Arc::new(client(&cert, &TLS13, offered))).await;
        let seen = seen.map(|(_, protocol, _)| protocol).map_err(drop);
        assert_eq!(seen, chosen.map(|name: Option<&str>| name.map(|name| name.as_bytes().to_vec())), "{inside:?} {offered:?}");
    }
}

#[tokio::test]
async fn a_reload_gives_the_new_certificate_and_ends_old_tickets() {
    let (old, new) = (certificate("p256"), certificate("ed25519"));
    let files = Files::new(&old, fixture("p256"));
    let tls = files.load().unwrap();
    for version in [&TLS12, &TLS13] {
        files.write(&old, fixture("p256"));
        tls.reload().unwrap();
        let resuming = Arc::new(client(&old, version, &[]));
        let kind = async |client| shake(&tls, Inside::Mqtt, client).await.map(|(.., kind)| kind.unwrap());
        assert_eq!(kind(&resuming).await, Ok(HandshakeKind::Full));
        assert_eq!(kind(&resuming).await, Ok(HandshakeKind::Resumed));
        for (cert, key) in [(&new[..], &fixture("rsa")[..]), ("", &fixture("ed25519")), (&new, &fixture("ed25519")[..90])] {
            files.write(cert, key);
            tls.reload().unwrap_err();
            assert_eq!(kind(&resuming).await, Ok(HandshakeKind::Resumed), "all stays as it was");
        }
        files.write(&new, fixture("ed25519"));
        tls.reload().unwrap();
        assert!(kind(&resuming).await.unwrap_err().contains("certificate"), "it sees a certificate that it does not know");
        assert_eq!(kind(&Arc::new(client(&new, version, &[]))).await, Ok(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let tls = Files::new(certificate("p256"), fixture("p256")).load().unwrap();
    let (_near, far) = tokio::io::duplex(64);
    let waited = tokio::time::timeout(PATIENCE, tls.accept(Inside::Mqtt, far, Duration::from_millis(50))).await.unwrap();
    assert_eq!(waited.map(drop).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_chain_may_have_words_around_it() {
    let (own, above) = (certificate("p256"), certificate("p384"));
    let files = Files::new(format!("Bag Attributes: <none>\r\n{own}\nissuer\n{above}"), fixture("p256"));
    assert_eq!(read_chain(&files.cert()).unwrap().len(), 2);
    files.load().unwrap();
}

#[test]
fn a_wrong_certificate_is_refused_in_words() {
    let good = certificate("p256");
    let der = pem::parse(&good).unwrap().into_contents();
    let cut = pem::encode(&pem::Pem::new("CERTIFICATE", &der[..der.len() - 9]));
    for (cert, word) in [
        (&b""[..], "no certificate is in the file"),
        (b"words", "no certificate is in the file"),
        (fixture("p256-public").as_bytes(), "no certificate is in the file"),
        (&[0xff, 0, 7, 0x80].repeat(99), "no certificate is in the file"),
        (&der, "openssl x509"),
        (&good.as_bytes()[..200], "a PEM block in the file is damaged"),
        (&[good.as_bytes(), &good.as_bytes()[..200]].concat(), "a PEM block in the file is damaged"),
        (format!("{good}{cut}").as_bytes(), "certificate 2 in the file is damaged"),
        (format!("{good}{}", fixture("p256")).as_bytes(), "private key is in the file as well"),
        (&vec![b'\n'; 1 << 21], "larger than 1 MiB"),
    ] {
        let files = Files::new(cert, fixture("p256"));
        let words = files.refused(&files.cert());
        assert!(words.contains(word) && words.starts_with("tls.cert "), "{word}: {words}");
    }
    let files = Files::new("", fixture("p256"));
    fs::remove_file(files.cert()).unwrap();
    assert!(files.refused(&files.cert()).contains("there is no such file"));
    fs::create_dir(files.cert()).unwrap();
    assert!(files.refused(&files.cert()).contains("not a regular file"));
}

#[test]
fn a_wrong_key_is_refused_in_words() {
    for (key, word) in [
        (fixture("ed25519"), "not the key of the certificate"),
        (fixture("p384"), "not the key of the certificate"),
        (fixture("p256-encrypted"), "openssl pkey"),
        (fixture("p256-sec1-encrypted"), "encrypted"),
        (fixture("openssh"), "ssh-keygen"),
        (fixture("p256-public"), "public key"),
        (certificate("p256"), "a certificate is in the file"),
        (fixture("p256") + &certificate("p256"), "a certificate is in the file"),
        (fixture("p256") + &fixture("ed25519"), "more than one"),
        (fixture("secp256k1"), "not supported, or it is damaged"),
        (fixture("x25519"), "not supported, or it is damaged"),
        (fixture("rsa-1024"), "2048 to 4096 bits"),
        (fixture("p256").replace('M', "N"), "damaged"),
        (String::new(), "empty"),
    ] {
        let files = Files::new(certificate("p256"), key);
        let words = files.refused(&files.key());
        assert!(words.contains(word) && words.starts_with("tls.key "), "{word}: {words}");
    }
    let files = Files::new(certificate("p256"), fixture("p256"));
    fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files.refused(&files.key()).contains("chmod 600"));
    fs::remove_file(files.key()).unwrap();
    assert!(files.refused(&files.key()).contains("there is no such file"));
}

#[test]
fn the_validity_of_a_certificate_can_be_told() {
    for (from, until) in [(2000, 2010), (2000, 2200), (2150, 2200), (1975, 9999)] {
        let files = Files::new(certificate_between("p256", from, until), fixture("p256"));
        files.load().expect("a certificate that is not valid now is warned about and served");
        let told = validity(&read_chain(&files.cert()).unwrap()[0], &ring::default_provider());
        let expected = [from, until].map(|year| Some(date_time_ymd(year, 1, 1).unix_timestamp() as u64));
        assert_eq!([told.0, told.1].map(|time| time.map(|time| time.as_secs())), expected, "{from} to {until}");
    }
}

/// A second provider of cryptography would make the process's default ambiguous, which the broker's library relies on.
#[test]
fn rustls_has_one_provider_of_cryptography() {
    let lock: toml::Value = toml::from_str(include_str!("../../Cargo.lock")).unwrap();
    let is_rustls = |package: &&toml::Value| matches!(package["name"].as_str(), Some("rustls" | "rustls-webpki"));
    let found: Vec<_> = lock["package"].as_array().unwrap().iter().filter(is_rustls).collect();
    assert_eq!(found.len(), 2, "one version of each: {found:?}");
    for package in found {
        let needs: Vec<_> = package["dependencies"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
        assert!(needs.contains(&"ring"), "{package:?}");
        assert!(!needs.iter().any(|name| name.starts_with("aws-lc")), "no crate may switch on a second provider for rustls: {package:?}");
    }
}
