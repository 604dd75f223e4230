use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;

use super::*;
use crate::sessions::clock::Clock;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "clients");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, common: &str, alternative: &[SanType], usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = alternative.to_vec();
        params.extended_key_usages = vec![usage];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn client(&self, common: &str, alternative: &[SanType]) -> CertificateDer<'static> {
        self.issue(common, alternative, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

struct Port {
    folder: TempDir,
    tls: Arc<Tls>,
    certificates: Certificates,
}

/// Of these tests: each runs in a process of its own, or sets it for itself.
static NOW: AtomicU64 = AtomicU64::new(1_700_000_000);

fn port(authority: &Authority, roles: &[(&str, Role)]) -> Port {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let (cert, key, ca) = (file("cert.pem", &cert.pem()), file("key.pem", &key.serialize_pem()), file("ca.pem", &authority.pem));
    let clock = Clock::of(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::Relaxed)));
    let tls = Tls::load(&cert, &key, Some(&ca), clock).unwrap();
    let roles = roles.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect();
    Port { folder, tls: tls.clone(), certificates: Certificates::new(tls, roles) }
}

fn known(name: &str, role: Role) -> Verdict {
    Verdict::Known(Identity { name: name.to_owned(), role, method: "certificate" })
}

fn is_refused(verdict: Verdict, why: &str) -> bool {
    matches!(verdict, Verdict::Refused(reason) if reason.contains(why))
}

#[test]
fn the_names_of_a_certificate_say_what_its_bearer_may_do() {
    let authority = Authority::new();
    let roles = [("ada", Role::Admin), ("ci.example.org", Role::Operator), ("bob@example.org", Role::Viewer)];
    let Port { certificates, .. } = port(&authority, &roles);
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let mail = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let check = |common, alternative: &[SanType]| certificates.check(&[authority.client(common, alternative)]);
    assert_eq!(check("ada", &[]), known("ada", Role::Admin));
    assert_eq!(check("x", &[dns("ci.example.org")]), known("ci.example.org", Role::Operator));
    assert_eq!(check("x", &[mail("bob@example.org")]), known("bob@example.org", Role::Viewer));
    assert_eq!(check("ada", &[dns("ci.example.org"), mail("bob@example.org")]), known("ada", Role::Admin), "the highest counts");
    let uri = SanType::URI("ada".try_into().unwrap());
    for (common, alternative) in [("eve", &[][..]), ("Ada", &[]), ("ada ", &[]), ("x", &[uri])] {
        assert!(is_refused(check(common, alternative), "none of"), "{common}");
    }
    assert_eq!(certificates.check(&[]), Verdict::Absent);
}

#[test]
fn only_the_authoritys_certificates_for_clients_count_and_only_in_their_time() {
    let (authority, other) = (Authority::new(), Authority::new());
    let Port { certificates, folder, tls } = port(&authority, &[("ada", Role::Admin)]);
    let ada = authority.client("ada", &[]);
    assert_eq!(certificates.check(std::slice::from_ref(&ada)), known("ada", Role::Admin));
    assert!(is_refused(certificates.check(&[other.client("ada", &[])]), "refused"));
    assert!(is_refused(certificates.check(&[authority.issue("ada", &[], ExtendedKeyUsagePurpose::ServerAuth)]), "refused"));
    assert!(is_refused(certificates.check(&[b"garbage".to_vec().into()]), "refused"));
    // 2031: it was good when its connection began.
    NOW.store(1_930_000_000, Ordering::Relaxed);
    assert!(is_refused(certificates.check(std::slice::from_ref(&ada)), "expired"));
    NOW.store(1_700_000_000, Ordering::Relaxed);
    // Another authority from now on, on connections that are there, too.
    fs::write(folder.path().join("ca.pem"), &other.pem).unwrap();
    tls.reload().unwrap();
    assert!(is_refused(certificates.check(std::slice::from_ref(&ada)), "refused"));
    assert_eq!(certificates.check(&[other.client("ada", &[])]), known("ada", Role::Admin));
    // What cannot be used leaves all as it was.
    fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("admin.client_ca"));
    assert_eq!(certificates.check(&[other.client("ada", &[])]), known("ada", Role::Admin));
}
