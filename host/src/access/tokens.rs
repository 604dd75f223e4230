//! Bearer tokens of the admin port: `cha_` and 32 random bytes. A file keeps their SHA-256, so that whoever reads it cannot use one.
//!
//! `conductor-host token create` and `revoke` change the file. A running host looks at each request whether it is another file by now, so both hold at once.
//! As soon as there is such a file, the port needs an identity, until the host is started without one: a file that is gone, empty or damaged lets nobody in.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use conductor_abi::rules;
use futures_util::future::{self, BoxFuture};
use rand::{TryRng as _, rngs::SysRng};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::{Authenticator, Identity, Role, Shown, Verdict};
use crate::{
    sessions::clock::Clock,
    store::disk::{create_private_folder, folder_of, private_file, sync_folder},
    tokens::keys::{KeyProblem, refuse_what_others_may_change},
};

/// What each token begins with, so that tools that look for leaked secrets know one.
pub const PREFIX: &str = "cha_";

/// Thousands of tokens; what is larger is not read.
const MAX_FILE: u64 = 1 << 20;

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
// What a newer version adds may be a limit, and must not be passed over.
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What it is called: in lists, in the log, and to revoke it.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    #[serde(with = "hex")]
    sha256: [u8; 32],
    /// When it was made, in seconds since the Unix epoch.
    #[serde(with = "rfc3339")]
    pub created: u64,
    /// From when on it is refused.
    #[serde(with = "rfc3339")]
    pub expires: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tokens: Vec<Kept>,
}

/// What is wrong with the file of the tokens, or with what shall be done to it.
#[derive(Debug, thiserror::Error)]
#[error("the file of the admin port's tokens, {}: {problem}", path.display())]
pub struct TokensError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: TokensProblem,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is described by its message")]
pub enum TokensProblem {
    #[error("there is no such file; `conductor-host token create` makes it")]
    Absent,
    #[error("this is a symbolic link, which is not followed; set admin.tokens to the file itself")]
    Link,
    #[error("this is not a regular file")]
    NotAFile,
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("cannot be written: {0}")]
    Write(io::Error),
    #[error(
        "others may read or write it (mode {0:04o}); run `chmod 600` on it, and if others may have written it, delete it and make new tokens"
    )]
    OpenToOthers(u32),
    #[error("others may replace files in its folder {}; run `chmod o-w` on that folder", .0.display())]
    FolderOpenToOthers(PathBuf),
    #[error("the file is larger than 1 MiB")]
    TooLarge,
    #[error("it is damaged, or from a newer version ({0}); bring a good copy back, or delete it and make new tokens")]
    Damaged(serde_json::Error),
    #[error("a token is called {0:?} already; revoke that one, or choose another --name")]
    NameTaken(String),
    #[error("no token is called {0:?}; `conductor-host token list` shows all")]
    NoSuchName(String),
    #[error("{0:?} is no name of a token, which is 1 to 64 of A-Z a-z 0-9 _ . -")]
    BadName(String),
    #[error("the system's random generator failed: {0}")]
    Random(String),
}

/// A token as it is shown once, when it is made. Its `Debug` form hides it.
pub struct Made {
    /// The token itself.
    pub token: String,
    /// What is kept of it.
    pub kept: Kept,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// Makes a token and adds it to the file, which is made where it is missing. Without a `name`: the role and a number.
///
/// # Errors
/// When the name is taken or none, or the file cannot be read or written; then it stays as it was.
pub fn create(path: &Path, role: Role, name: Option<String>, good_for: Duration, now: u64) -> Result<Made, TokensError> {
    change(path, |content| {
        let taken = |name: &str| content.tokens.iter().any(|kept| kept.name == name);
        let name = match name {
            Some(name) if !rules::is_settings_name(&name) => return Err(TokensProblem::BadName(name)),
            Some(name) if taken(&name) => return Err(TokensProblem::NameTaken(name)),
            Some(name) => name,
            None => (1_u32..).map(|number| format!("{}-{number}", role.as_str())).find(|name| !taken(name)).unwrap_or_default(),
        };
        let mut random = [0_u8; 32];
        SysRng.try_fill_bytes(&mut random).map_err(|error| TokensProblem::Random(error.to_string()))?;
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
        let kept = Kept { name, role, sha256: hash(&token), created: now, expires: now.saturating_add(good_for.as_secs()) };
        content.tokens.push(kept.clone());
        Ok(Made { token, kept })
    })
}

/// All tokens in the file, expired ones too.
///
/// # Errors
/// When the file cannot be read.
pub fn list(path: &Path) -> Result<Vec<Kept>, TokensError> {
    read(path).map(|content| content.tokens).map_err(|problem| TokensError { path: path.to_owned(), problem })
}

/// Takes the token of this name out of the file. How many are left.
///
/// # Errors
/// When there is none of that name, or the file cannot be read or written; then it stays as it was.
pub fn revoke(path: &Path, name: &str) -> Result<usize, TokensError> {
    change(path, |content| {
        let at = content.tokens.iter().position(|kept| kept.name == name);
        content.tokens.remove(at.ok_or_else(|| TokensProblem::NoSuchName(name.to_owned()))?);
        Ok(content.tokens.len())
    })
}

/// The tokens as a method of authentication.
#[derive(Debug)]
pub struct BearerTokens {
    path: PathBuf,
    clock: Clock,
    /// Locked while the file is looked at, and read where it has changed.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    stamp: Option<Stamp>,
    tokens: Arc<[Kept]>,
    in_force: bool,
}

impl BearerTokens {
    /// Reads the file, which may be absent.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn open(path: PathBuf, clock: Clock) -> Result<Arc<Self>, TokensError> {
        let mut held = Held::default();
        if let Err(problem) = held.look(&path) {
            return Err(TokensError { path, problem });
        }
        Ok(Arc::new(Self { path, clock, held: Mutex::new(held) }))
    }

    /// Whether an identity is needed: there is a file of tokens, or there was one since the start.
    pub(super) fn in_force(&self) -> bool {
        self.current().1
    }

    /// The tokens that are good or expired now, and whether they are in force.
    fn current(&self) -> (Arc<[Kept]>, bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(problem) = held.look(&self.path) {
            tracing::error!(file = %self.path.display(), "no token of the admin port is good until its file is: {problem}");
        }
        (Arc::clone(&held.tokens), held.in_force)
    }

    fn look_for(&self, headers: &HeaderMap) -> Verdict {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(token) = values.next().and_then(|value| bearer(value.to_str().ok()?)).filter(|token| token.starts_with(PREFIX)) else {
            return Verdict::Absent;
        };
        if values.next().is_some() {
            return Verdict::Refused("Authorization is there twice".to_owned());
        }
        let (shown, (tokens, _)) = (hash(token), self.current());
        // All are compared, each in constant time: how long it takes tells nothing about any.
        let found = tokens.iter().fold(None, |found, kept| if bool::from(kept.sha256.ct_eq(&shown)) { Some(kept) } else { found });
        match found {
            None => Verdict::Refused("no token of that kind is known; it was revoked, or never made".to_owned()),
            Some(kept) if kept.expires <= self.clock.seconds() => Verdict::Refused(format!("the token {} has expired", kept.name)),
            Some(kept) => Verdict::Known(Identity { name: kept.name.clone(), role: kept.role, method: "token" }),
        }
    }
}

impl Authenticator for BearerTokens {
    fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(future::ready(self.look_for(shown.headers)))
    }
}

/// What stands behind `Bearer` in a header's value.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Held {
    /// Reads the file where it is another than before. After an error no token is good.
    fn look(&mut self, path: &Path) -> Result<(), TokensProblem> {
        let stamp = match fs::symlink_metadata(path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // It may be there: better nobody than everybody.
            Err(error) => {
                *self = Self { stamp: None, tokens: Arc::default(), in_force: true };
                return Err(TokensProblem::Read(error));
            }
        };
        if stamp == self.stamp {
            return Ok(());
        }
        let in_force = self.in_force || stamp.is_some();
        let read = if stamp.is_some() { read(path) } else { Err(TokensProblem::Absent) };
        let (tokens, result) = match read {
            Ok(content) => (content.tokens.into(), Ok(())),
            Err(problem) => (Arc::default(), Err(problem)),
        };
        *self = Self { stamp, tokens, in_force };
        result
    }
}

/// By what it is seen that a file is another one now, or has another content or other rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and when its rights or its name changed.
    identity: [u64; 4],
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity: identity(metadata) }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> [u64; 4] {
    use std::os::unix::fs::MetadataExt as _;
    [metadata.dev(), metadata.ino(), metadata.ctime().cast_unsigned(), metadata.ctime_nsec().cast_unsigned()]
}

/// Windows: a file that takes another's place has its own time of creation.
#[cfg(windows)]
fn identity(metadata: &fs::Metadata) -> [u64; 4] {
    use std::os::windows::fs::MetadataExt as _;
    [metadata.creation_time(), u64::from(metadata.file_attributes()), 0, 0]
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn read(path: &Path) -> Result<Content, TokensProblem> {
    let absent = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { TokensProblem::Absent } else { TokensProblem::Read(e) };
    let found = fs::symlink_metadata(path).map_err(absent)?.file_type();
    if found.is_symlink() {
        return Err(TokensProblem::Link);
    }
    if !found.is_file() {
        return Err(TokensProblem::NotAFile);
    }
    let file = without_links(File::options().read(true)).open(path).map_err(absent)?;
    refuse_what_others_may_change(path, &file).map_err(|problem| match problem {
        KeyProblem::OpenToOthers(mode) => TokensProblem::OpenToOthers(mode),
        KeyProblem::FolderOpenToOthers(folder) => TokensProblem::FolderOpenToOthers(folder),
        KeyProblem::Read(error) => TokensProblem::Read(error),
        other => TokensProblem::Read(io::Error::other(other)),
    })?;
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(TokensProblem::Read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(TokensProblem::TooLarge);
    }
    serde_json::from_slice(&text).map_err(TokensProblem::Damaged)
}

/// For a link that takes the file's place after it was looked at, and for a pipe that does.
#[cfg(unix)]
fn without_links(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed())
}

/// Windows: links need rights there that outsiders have not.
#[cfg(not(unix))]
fn without_links(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    options
}

/// Changes the file in one step, and one at a time: of two commands at once none loses what the other did.
fn change<T>(path: &Path, edit: impl FnOnce(&mut Content) -> Result<T, TokensProblem>) -> Result<T, TokensError> {
    let changed = || {
        let folder = folder_of(path);
        create_private_folder(folder).map_err(TokensProblem::Write)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let lock = private_file(without_links(File::options().write(true).create(true).truncate(false))).open(beside);
        let lock = lock.map_err(TokensProblem::Write)?;
        // Until it is dropped.
        lock.lock().map_err(TokensProblem::Write)?;
        let mut content = match read(path) {
            Err(TokensProblem::Absent) => Content::default(),
            content => content?,
        };
        let result = edit(&mut content)?;
        let mut text = serde_json::to_vec_pretty(&content).map_err(|error| TokensProblem::Write(error.into()))?;
        text.push(b'\n');
        // Of mode 0600 from its creation.
        let mut file = tempfile::Builder::new().prefix(".admin-tokens-").tempfile_in(folder).map_err(TokensProblem::Write)?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(TokensProblem::Write)?;
        file.persist(path).map_err(|failed| TokensProblem::Write(failed.error))?;
        sync_folder(folder).map_err(TokensProblem::Write)?;
        Ok(result)
    };
    changed().map_err(|problem| TokensError { path: path.to_owned(), problem })
}

/// A hash as text.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect();
        pairs.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| D::Error::custom("sha256 is no hash of 64 hexadecimal digits"))
    }
}

/// A time as text.
mod rfc3339 {
    use std::time::{Duration, UNIX_EPOCH};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&super::time(*seconds))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let time = humantime::parse_rfc3339(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).map_err(D::Error::custom)
    }
}

/// Seconds since the Unix epoch as they are shown.
pub(crate) fn time(seconds: u64) -> humantime::Rfc3339Timestamp {
    // The formatter ends with the year 9999.
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
}

#[cfg(test)]
#[cfg(unix)]
#[path = "tokens_tests.rs"]
mod tests;
