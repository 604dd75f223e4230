//! The key that signs tokens: read from a PEM file, or made at the first start. Its kind decides the algorithm: RSA is
//! `RS256`, EC P-256 `ES256`, Ed25519 `EdDSA`.
//!
//! Every refusal says in words what was found and what to do, and never shows any of the file's content.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::aws_lc,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use pem::{EncodeConfig, LineEnding, Pem};
use serde_json::{Value, json};

/// No private key comes near it; what is larger is not read.
const MAX_FILE: u64 = 64 * 1024;

/// One key pair, ready to sign. Its `Debug` form shows the algorithm and the key's id alone.
pub struct SigningKey {
    pair: Pair,
    algorithm: Algorithm,
    public: DecodingKey,
    jwk: Jwk,
    kid: String,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// How a public key can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicForm {
    /// `BEGIN PUBLIC KEY`, PEM of the form of X.509.
    Pem,
    /// Bare bytes: RSA as PKCS#1 in DER, EC as the uncompressed point, Ed25519 as its 32 bytes.
    Raw,
    /// A JSON Web Key Set that holds this key alone.
    Jwks,
}

/// Why there is no usable key, and where it was looked for.
#[derive(Debug, thiserror::Error)]
#[error("the token key {}: {problem}", path.display())]
pub struct KeyError {
    /// The key's file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: KeyProblem,
}

/// What is wrong with a key or its file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum KeyProblem {
    #[error("there is no such file")]
    Absent,
    #[error("this is not a regular file; name a file that holds one private key in PEM form")]
    NotAFile,
    #[error("this is a symbolic link, and no secret is read through one; name the file that it leads to")]
    Link,
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("cannot be created: {0}")]
    Write(io::Error),
    #[error("others may read or write the file (mode {0:04o}); run `chmod 600` on it, and make a new key if it was exposed")]
    OpenToOthers(u32),
    #[error("others may replace files in its folder {}; run `chmod o-w` on that folder", .0.display())]
    FolderOpenToOthers(PathBuf),
    #[error("the file is empty")]
    Empty,
    #[error("the file is larger than 64 KiB and holds no single private key")]
    TooLarge,
    #[error("this looks like DER or PKCS#12; a PEM file is expected (`openssl pkey -inform DER -in FILE -out key.pem` converts DER)")]
    Binary,
    #[error("no PEM block is in the file, or it is damaged; a file that begins with -----BEGIN PRIVATE KEY----- is expected")]
    NotPem,
    #[error("this is a public key; the private one is needed to sign")]
    Public,
    #[error("a certificate is in the file; the private key alone is needed")]
    Certificate,
    #[error("the key is encrypted; decrypt it with `openssl pkey -in FILE -out key.pem`")]
    Encrypted,
    #[error("this is OpenSSH's own form; convert a copy with `ssh-keygen -p -m PKCS8 -f COPY`")]
    OpenSsh,
    #[error("more than one private key is in the file; exactly one is needed")]
    Several,
    #[error("this kind of PEM file or key is not supported; RSA, EC P-256 and Ed25519 private keys are")]
    Unsupported,
    #[error("the key's curve is not supported; P-256 (prime256v1) is")]
    Curve,
    #[error("an RSA key must have 2048 to 8192 bits")]
    RsaSize,
    #[error("the key is damaged")]
    Damaged,
    #[error("the random generator or the cryptographic library failed")]
    Library,
}

impl SigningKey {
    /// The key in the file at `path`. Where that file is absent and `generate_if_absent` says so, an ES256 key is made and
    /// written there first (mode 0600, complete and synced before it has that name, never over another file).
    ///
    /// # Errors
    /// When the file cannot be read or written, others may read or change it, or it holds no single usable private key.
    pub fn load_or_create(path: &Path, generate_if_absent: bool) -> Result<Self, KeyError> {
        let found = match load(path) {
            Err(KeyProblem::Absent) if generate_if_absent => create(path).and_then(|()| load(path)),
            found => found,
        };
        found.map_err(|problem| KeyError { path: path.to_owned(), problem })
    }

    /// The key in a PEM text: PKCS#8, or the older `RSA PRIVATE KEY` and `EC PRIVATE KEY` forms.
    ///
    /// # Errors
    /// When the text holds no single usable private key.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyProblem> {
        Self::from_pair(parse(text)?)
    }

    fn from_pair(pair: Pair) -> Result<Self, KeyProblem> {
        // Another version of this crate in the same process may have chosen already; both choices are the same provider.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        let (algorithm, public) = match &pair {
            Pair::Rsa(pair) => (Algorithm::RS256, DecodingKey::from_rsa_der(pair.public_key().as_ref())),
            Pair::P256(pair) => (Algorithm::ES256, DecodingKey::from_ec_der(pair.public_key().as_ref())),
            Pair::Ed25519(pair) => (Algorithm::EdDSA, DecodingKey::from_ed_der(pair.public_key().as_ref())),
        };
        let mut jwk = Jwk::from_decoding_key(&public, Some(algorithm)).map_err(|_| KeyProblem::Library)?;
        let kid = thumbprint(&jwk)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_id = Some(kid.clone());
        Ok(Self { pair, algorithm, public, jwk, kid })
    }

    /// What tokens are signed with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The RFC 7638 thumbprint of the public key: the same for the same key, whatever file it comes from.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as a JSON Web Key, with `alg`, `use` and `kid`.
    ///
    /// # Errors
    /// Never for a key that was loaded; the library's signature has one.
    pub fn public_jwk(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(&self.jwk)
    }

    /// The public half for another program.
    ///
    /// # Errors
    /// [`KeyProblem::Library`]; never for a key that was loaded.
    pub fn public_as(&self, form: PublicForm) -> Result<Vec<u8>, KeyProblem> {
        let (raw, x509) = match &self.pair {
            Pair::Rsa(pair) => (pair.public_key().as_ref(), AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())),
            Pair::P256(pair) => (pair.public_key().as_ref(), AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())),
            Pair::Ed25519(pair) => (pair.public_key().as_ref(), AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())),
        };
        match form {
            PublicForm::Raw => Ok(raw.to_vec()),
            PublicForm::Pem => {
                let x509 = x509.map_err(|_| KeyProblem::Library)?;
                let block = Pem::new("PUBLIC KEY", x509.as_ref());
                Ok(pem::encode_config(&block, EncodeConfig::new().set_line_ending(LineEnding::LF)).into_bytes())
            }
            PublicForm::Jwks => {
                let key = self.public_jwk().map_err(|_| KeyProblem::Library)?;
                Ok(format!("{}\n", json!({ "keys": [key] })).into_bytes())
            }
        }
    }

    /// What the tokens of this key are checked with.
    pub(super) fn public(&self) -> &DecodingKey {
        &self.public
    }

    /// The signature as a JWS has it.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
            Pair::P256(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn thumbprint(jwk: &Jwk) -> Result<String, KeyProblem> {
    jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyProblem::Library)
}

fn load(path: &Path) -> Result<SigningKey, KeyProblem> {
    SigningKey::from_pem(&read_private(path)?)
}

/// The content of a secret: a file that its owner alone may read, and no symbolic link, which somebody else may have put there.
///
/// # Errors
/// When it cannot be read, it is a symbolic link, others may read or change it, or it is too large.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, KeyProblem> {
    read(path, false)
}

/// The same of the private key of a certificate, which may be a symbolic link: programs that renew certificates put the new one in place so.
///
/// # Errors
/// As [`read_private`], the link excepted.
pub(crate) fn read_certificate_key(path: &Path) -> Result<Vec<u8>, KeyProblem> {
    read(path, true)
}

fn read(path: &Path, follow: bool) -> Result<Vec<u8>, KeyProblem> {
    let file = open(path, follow)?;
    if !file.metadata().map_err(KeyProblem::Read)?.is_file() {
        return Err(KeyProblem::NotAFile);
    }
    refuse_what_others_may_change(path, &file)?;
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(KeyProblem::Read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(KeyProblem::TooLarge);
    }
    Ok(text)
}

/// Opens without waiting for the writer of a pipe, and whether it is a link is decided by the same call.
#[cfg(unix)]
fn open(path: &Path, follow: bool) -> Result<File, KeyProblem> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::{fs::OFlags, io::Errno};
    let flags = if follow { OFlags::NONBLOCK } else { OFlags::NONBLOCK | OFlags::NOFOLLOW };
    fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if !follow && code == Errno::LOOP.raw_os_error() => KeyProblem::Link,
        _ => unreadable(error),
    })
}

/// A symbolic link needs rights of an administrator here. What is no file cannot be opened.
#[cfg(not(unix))]
fn open(path: &Path, _follow: bool) -> Result<File, KeyProblem> {
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(KeyProblem::NotAFile);
    }
    File::open(path).map_err(unreadable)
}

fn unreadable(error: io::Error) -> KeyProblem {
    if error.kind() == io::ErrorKind::NotFound { KeyProblem::Absent } else { KeyProblem::Read(error) }
}

/// A folder in which others may rename files is as bad as a file they may write; a sticky one (`/tmp`) is not. Where the path
/// is a symbolic link, the folder of the link and that of the file count.
#[cfg(unix)]
pub(crate) fn refuse_what_others_may_change(path: &Path, file: &File) -> Result<(), KeyProblem> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = file.metadata().map_err(KeyProblem::Read)?.mode();
    if mode & 0o007 != 0 {
        return Err(KeyProblem::OpenToOthers(mode & 0o7777));
    }
    let real = fs::canonicalize(path).map_err(KeyProblem::Read)?;
    for folder in [folder_of(path), folder_of(&real)] {
        let mode = fs::metadata(folder).map_err(KeyProblem::Read)?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(KeyProblem::FolderOpenToOthers(folder.to_owned()));
        }
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn refuse_what_others_may_change(_path: &Path, _file: &File) -> Result<(), KeyProblem> {
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Writes a new ES256 key to `path`.
fn create(path: &Path) -> Result<(), KeyProblem> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| KeyProblem::Library)?;
    let text = pem::encode_config(&Pem::new("PRIVATE KEY", pkcs8.as_ref()), EncodeConfig::new().set_line_ending(LineEnding::LF));
    create_private(path, text.as_bytes())
}

/// Writes a file that its owner alone may read, complete and synced before it has its name, unless a file is there by then: a host that started at the same time may
/// have won.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> Result<(), KeyProblem> {
    let folder = folder_of(path);
    // Of mode 0600 from its creation.
    let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(folder).map_err(KeyProblem::Write)?;
    file.write_all(content).and_then(|()| file.as_file().sync_all()).map_err(KeyProblem::Write)?;
    match file.persist_noclobber(path) {
        Ok(_) => sync_folder(folder).map_err(KeyProblem::Write),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(KeyProblem::Write(e.error)),
    }
}

#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows has no such call; its file systems journal the rename.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

fn parse(text: &[u8]) -> Result<Pair, KeyProblem> {
    let (form, key) = private_key(text)?;
    let der = key.contents();
    match form {
        Form::Pkcs8 => pkcs8(der),
        Form::Pkcs1 => RsaKeyPair::from_der(der).map(Pair::Rsa).map_err(rsa_problem),
        Form::Sec1 => {
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Pair::P256).map_err(|_| ec_problem(der))
        }
    }
}

/// What is inside of a private key's PEM block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `PRIVATE KEY`: of any kind, and it says of which.
    Pkcs8,
    /// `RSA PRIVATE KEY`.
    Pkcs1,
    /// `EC PRIVATE KEY`.
    Sec1,
}

/// The one private key that is in a PEM text and not encrypted. What kind of key it is has not been looked at.
pub(crate) fn private_key(text: &[u8]) -> Result<(Form, Pem), KeyProblem> {
    let mut keys = blocks(text)?.into_iter().filter(|block| block.tag() != "EC PARAMETERS");
    let (key, further) = (keys.next().ok_or(KeyProblem::NotPem)?, keys.next());
    // Its older forms announce encryption in a header of their own, the newer one in its tag.
    if key.headers().iter().any(|(name, _)| name == "DEK-Info") {
        return Err(KeyProblem::Encrypted);
    }
    let form = match key.tag() {
        "PRIVATE KEY" => Form::Pkcs8,
        "RSA PRIVATE KEY" => Form::Pkcs1,
        "EC PRIVATE KEY" => Form::Sec1,
        "ENCRYPTED PRIVATE KEY" => return Err(KeyProblem::Encrypted),
        "OPENSSH PRIVATE KEY" => return Err(KeyProblem::OpenSsh),
        tag if tag.ends_with("CERTIFICATE") => return Err(KeyProblem::Certificate),
        tag if tag.ends_with("PUBLIC KEY") => return Err(KeyProblem::Public),
        _ => return Err(KeyProblem::Unsupported),
    };
    match further.as_ref().map(Pem::tag) {
        None => Ok((form, key)),
        Some(tag) if tag.ends_with("CERTIFICATE") => Err(KeyProblem::Certificate),
        Some(_) => Err(KeyProblem::Several),
    }
}

fn blocks(text: &[u8]) -> Result<Vec<Pem>, KeyProblem> {
    if text.trim_ascii().is_empty() {
        return Err(KeyProblem::Empty);
    }
    if text.first() == Some(&0x30) && text.get(1).is_some_and(|length| *length >= 0x80) {
        return Err(KeyProblem::Binary);
    }
    // The library's own error may quote the text.
    pem::parse_many(text).map_err(|_| KeyProblem::NotPem)
}

/// Object identifiers as DER has them.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const EC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";

/// A PKCS#8 text names its algorithm in its first bytes.
fn pkcs8(der: &[u8]) -> Result<Pair, KeyProblem> {
    let head = &der[..der.len().min(32)];
    if holds(head, RSA) {
        RsaKeyPair::from_pkcs8(der).map(Pair::Rsa).map_err(rsa_problem)
    } else if holds(head, EC) {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Pair::P256).map_err(|_| ec_problem(der))
    } else if holds(head, ED25519) {
        Ed25519KeyPair::from_pkcs8(der).map(Pair::Ed25519).map_err(|_| KeyProblem::Damaged)
    } else {
        Err(KeyProblem::Unsupported)
    }
}

fn rsa_problem(rejected: KeyRejected) -> KeyProblem {
    match rejected.description_() {
        "TooSmall" | "TooLarge" => KeyProblem::RsaSize,
        _ => KeyProblem::Damaged,
    }
}

fn ec_problem(der: &[u8]) -> KeyProblem {
    if holds(der, P256) { KeyProblem::Damaged } else { KeyProblem::Curve }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

// They set modes and make links, which is how these guards are reached at all.
#[cfg(test)]
#[cfg(unix)]
#[path = "keys_tests.rs"]
mod tests;
