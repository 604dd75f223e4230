//! Join secrets and resume tokens: signed by the host's own key, so that nothing has to be kept for them.
//!
//! - A **join secret** opens one session: the first 128 bits of `HMAC-SHA-256(key, "join", id, created_at)`. It stays the same as long as the session lives.
//! - A **resume token** opens one session for one client: a count, and 128 bits of `HMAC-SHA-256(key, "resume", id, created_at, client, count)`. The count is how
//!   often somebody had been sent away from that session when the token was made; by it the session's record knows tokens from before a client was sent away
//!   ([`Kicked`](crate::store::Kicked)). A count and no time, so that a clock that is set back opens nothing again.
//!
//! Each field is preceded by its length, so no two lists of fields are the same bytes. `created_at` is in milliseconds: two sessions share a secret only if the second gets the
//! same id within the millisecond of the first one's creation (or the clock is set back to just that millisecond), and nobody has joined the first, since its id would rest.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use crate::{
    sessions::SessionId,
    tokens::keys::{KeyProblem, create_private, read_private},
};

/// Bytes of the key.
const KEY: usize = 32;
/// Bytes of a signature that are shown.
const MAC: usize = 16;

/// What the secrets of one session are bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The session.
    pub id: SessionId,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_at: u64,
}

impl Bound {
    /// To nothing: what is compared where there is no session, so that the time is the same.
    pub(super) fn to_nothing(id: Option<SessionId>) -> Self {
        Self { id: id.unwrap_or(SessionId::NOBODY), created_at: 0 }
    }
}

/// Makes and knows secrets.
pub struct Secrets(hmac::Key);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
#[error("the key of join links and resume tokens, {}: {problem}", path.display())]
pub struct SecretsError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Key(#[from] KeyProblem),
    #[error("this is a symbolic link, which is not followed to a secret; put the file itself there")]
    Link,
    #[error(
        "{0} bytes are in it, not {KEY}; put a backup in its place, or remove it: a new one is made then, and links and resume tokens of before open nothing"
    )]
    Length(usize),
    #[error("the operating system's random generator failed")]
    Random,
}

impl Secrets {
    /// With the key in this file, which is made where it is absent (mode 0600).
    ///
    /// # Errors
    /// Where it cannot be read or made, others may read it, or it is a symbolic link or something else than a key.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretsError> {
        let found = match load(path) {
            Err(Problem::Key(KeyProblem::Absent)) => create(path).and_then(|()| load(path)),
            found => found,
        };
        found.map_err(|problem| SecretsError { path: path.to_owned(), problem })
    }

    /// With this key.
    #[must_use]
    pub fn of(key: &[u8; KEY]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn sign(&self, fields: &[&[u8]]) -> [u8; MAC] {
        let mut context = hmac::Context::with_key(&self.0);
        for field in fields {
            context.update(&(field.len() as u64).to_le_bytes());
            context.update(field);
        }
        let mut mac = [0; MAC];
        mac.copy_from_slice(&context.sign().as_ref()[..MAC]);
        mac
    }

    fn join_mac(&self, to: Bound) -> [u8; MAC] {
        self.sign(&[b"join", &to.id.packed().to_le_bytes(), &to.created_at.to_le_bytes()])
    }

    fn resume_mac(&self, to: Bound, client_id: &str, count: u64) -> [u8; MAC] {
        self.sign(&[b"resume", &to.id.packed().to_le_bytes(), &to.created_at.to_le_bytes(), client_id.as_bytes(), &count.to_le_bytes()])
    }

    /// The join secret of a session, as a text for links.
    #[must_use]
    pub fn join_secret(&self, to: Bound) -> String {
        URL_SAFE_NO_PAD.encode(self.join_mac(to))
    }

    /// Whether this is the session's. Compared in constant time.
    #[must_use]
    pub fn is_join_secret(&self, to: Bound, shown: &str) -> bool {
        let (shown, whole) = decode::<MAC>(shown);
        let same: bool = self.join_mac(to).ct_eq(&shown).into();
        same & whole
    }

    /// A resume token for a client of a session.
    #[must_use]
    pub fn resume(&self, to: Bound, client_id: &str, count: u64) -> String {
        let mut token = [0; 8 + MAC];
        token[..8].copy_from_slice(&count.to_be_bytes());
        token[8..].copy_from_slice(&self.resume_mac(to, client_id, count));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The count in a resume token of this client in this session; nothing where it is none. Compared in constant time.
    #[must_use]
    pub fn resumes(&self, to: Bound, client_id: &str, shown: &str) -> Option<u64> {
        let (shown, whole) = decode::<{ 8 + MAC }>(shown);
        let (mut count, mut mac) = ([0; 8], [0; MAC]);
        count.copy_from_slice(&shown[..8]);
        mac.copy_from_slice(&shown[8..]);
        let count = u64::from_be_bytes(count);
        let same: bool = self.resume_mac(to, client_id, count).ct_eq(&mac).into();
        (same & whole).then_some(count)
    }
}

/// The bytes that are shown, and whether they are as many as they should be.
fn decode<const BYTES: usize>(shown: &str) -> ([u8; BYTES], bool) {
    let mut bytes = [0; BYTES];
    let decoded = URL_SAFE_NO_PAD.decode_slice(shown, &mut bytes);
    let whole = decoded == Ok(BYTES);
    (bytes, whole)
}

fn load(path: &Path) -> Result<Secrets, Problem> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => return Err(Problem::Link),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(KeyProblem::Read(error).into()),
        _ => {}
    }
    let key = read_private(path)?;
    <&[u8; KEY]>::try_from(&*key).map(Secrets::of).map_err(|_| Problem::Length(key.len()))
}

fn create(path: &Path) -> Result<(), Problem> {
    let mut key = [0; KEY];
    SystemRandom::new().fill(&mut key).map_err(|_| Problem::Random)?;
    Ok(create_private(path, &key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(id: &str, created_at: u64) -> Bound {
        Bound { id: SessionId::parse(id).unwrap(), created_at }
    }

    #[test]
    fn a_join_secret_opens_its_session_and_no_other() {
        let (ours, theirs) = (Secrets::of(&[1; KEY]), Secrets::of(&[2; KEY]));
        let secret = ours.join_secret(bound("123456", 5));
        assert_eq!((secret.len(), &secret), (22, &ours.join_secret(bound("123456", 5))));
        assert!(ours.is_join_secret(bound("123456", 5), &secret));
        assert!(!theirs.is_join_secret(bound("123456", 5), &secret));
        for other in [bound("123457", 5), bound("0123456", 5), bound("123456", 6)] {
            assert!(!ours.is_join_secret(other, &secret));
        }
        let longer = format!("{secret}AA");
        for wrong in ["", "A", &secret[1..], &longer, "ß", &*"A".repeat(22), &ours.resume(bound("123456", 5), "a", 0)] {
            assert!(!ours.is_join_secret(bound("123456", 5), wrong), "{wrong}");
        }
    }

    #[test]
    fn a_resume_token_is_one_client_s_in_one_session() {
        let (ours, theirs) = (Secrets::of(&[1; KEY]), Secrets::of(&[2; KEY]));
        let to = bound("123456", 5);
        let token = ours.resume(to, "ann", 7);
        assert_eq!((token.len(), ours.resumes(to, "ann", &token)), (32, Some(7)));
        assert_eq!(theirs.resumes(to, "ann", &token), None);
        for (other, client) in [(to, "bob"), (to, "an"), (to, ""), (bound("123456", 6), "ann"), (bound("12345", 5), "ann")] {
            assert_eq!(ours.resumes(other, client, &token), None);
        }
        // Another count, the same signature.
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        bytes[7] = 8;
        for wrong in ["", &token[1..], &ours.join_secret(to), &URL_SAFE_NO_PAD.encode(&bytes), &URL_SAFE_NO_PAD.encode(&bytes[1..])] {
            assert_eq!(ours.resumes(to, "ann", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let secrets = Secrets::of(&[1; KEY]);
        assert_ne!(secrets.sign(&[b"ab", b"c"]), secrets.sign(&[b"a", b"bc"]));
        assert_ne!(secrets.sign(&[b"ab"]), secrets.sign(&[b"ab", b""]));
    }

    #[test]
    fn the_key_is_made_once_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-key");
        let secret = Secrets::load_or_create(&path).unwrap().join_secret(bound("1", 1));
        assert_eq!(Secrets::load_or_create(&path).unwrap().join_secret(bound("1", 1)), secret);
        fs::remove_file(&path).unwrap();
        assert_ne!(Secrets::load_or_create(&path).unwrap().join_secret(bound("1", 1)), secret);
        fs::write(&path, [0; KEY - 1]).unwrap();
        let refused = Secrets::load_or_create(&path).unwrap_err().to_string();
        assert!(refused.contains("join-key") && refused.contains("31 bytes") && refused.contains("backup"), "{refused}");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_or_a_link_to_one_is_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-key");
        let _ = Secrets::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(Secrets::load_or_create(&link).unwrap_err().to_string().contains("symbolic link"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert!(Secrets::load_or_create(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::remove_file(&path).unwrap();
        assert!(Secrets::load_or_create(&link).unwrap_err().to_string().contains("symbolic link"), "nor made through one");
    }
}
