//! The audit log: one JSON line for each request on the admin port that may change something, and for each that was refused.
//!
//! A line is written by one `write` to the end of the file before the answer goes out, so it outlives the process. It is not synced: a power cut may take the last
//! seconds. The file is opened for each line, which costs microseconds and leaves nothing to go stale: a file that was moved, removed or rotated by another
//! program is simply made again, a symbolic link in its place is never followed, and what failed once works as soon as it can.
//!
//! A line that cannot be written does not refuse its request: whoever fills a disk would otherwise stop all sessions from being closed. It is said in the log, and `/readyz`
//! is degraded until lines are written again; the next one says how many are missing.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts as _, MatchedPath, RawPathParams, Request, State},
    http::{Extensions, HeaderMap, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use conductor_abi::rules;
use serde::Serialize;

use super::{Identity, routes};
use crate::{
    config::Audit as Settings,
    http::query,
    sessions::{SessionId, clock::Clock},
};

/// How many refusals are recorded at once, of those without an identity and of those with one; one more with each second. Otherwise an outsider, or somebody who
/// may only look, could write until the files with what others did are rotated away.
const REFUSALS: u64 = 1000;

/// What the guard answers where it lets nobody through.
const REFUSED: [StatusCode; 3] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::MISDIRECTED_REQUEST];

const ASK_A_SERVICE: &str = "/v1/services/{name}/requests";

/// The audit log of a host.
pub struct Audit {
    file: PathBuf,
    max_bytes: u64,
    keep: u32,
    clock: Clock,
    /// Held while a line is written, so that lines and rotations come one after the other.
    state: Mutex<Inner>,
}

struct Inner {
    /// Why the last line could not be written, or the file not be rotated.
    trouble: Option<Arc<str>>,
    /// Entries since the last line that was written.
    unrecorded: u64,
    /// Of those who showed no good identity.
    strangers: Refusals,
    /// Of those whose role was too low, or whose request came from a page of another origin: they may ask as often as they like, too.
    others: Refusals,
}

/// How many refusals may be recorded now, and since when that counts, in seconds.
struct Refusals(u64, u64);

/// Why there is no audit log: the host does not start.
#[derive(Debug, thiserror::Error)]
#[error("audit.file {}: {problem}", file.display())]
pub struct AuditError {
    file: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be opened for writing: {0}")]
    Open(io::Error),
    #[error("this is a symbolic link, which is not followed; name the file itself")]
    Link,
    #[error("this is not a regular file; name one, or \"\" for no audit log")]
    NotAFile,
    #[cfg(unix)]
    #[error("others may read or write the file (mode {0:04o}); run `chmod 600` on it")]
    OpenToOthers(u32),
    #[cfg(unix)]
    #[error("others may replace files in its folder {}; run `chmod o-w` on that folder", .0.display())]
    FolderOpenToOthers(PathBuf),
}

/// Who asks, as soon as it is known: the log looks at it from outside of the layer that finds out.
#[derive(Clone, Debug, Default)]
struct Who(Arc<OnceLock<Identity>>);

/// Tells the log, if there is one, who makes the request with these extensions.
pub(super) fn tell(request: &Extensions, identity: &Identity) {
    if let Some(Who(who)) = request.get() {
        // Told twice, it would be the same.
        let _ = who.set(identity.clone());
    }
}

/// Among an answer's extensions: the stable code of what went wrong.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub &'static str);

/// Among an answer's extensions: the session that was made.
#[derive(Clone, Copy, Debug)]
pub struct Made(pub SessionId);

/// A line.
#[derive(Default, Serialize)]
struct Entry {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<WhoView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    /// Method and route, as in the table of routes.
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Nothing where the client was gone before its answer was there.
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    unrecorded: u64,
}

#[derive(Serialize)]
struct WhoView {
    name: String,
    role: &'static str,
    method: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Audit {
    /// The log that the settings name; nothing where they turn it off.
    ///
    /// # Errors
    /// Where its file cannot be written to, is no regular file, or is others' as well.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Option<Arc<Self>>, AuditError> {
        let Some(file) = settings.file.clone() else { return Ok(None) };
        let failed = |problem| AuditError { file: file.clone(), problem };
        refuse_what_is_others(&open(&file).map_err(failed)?, &file).map_err(failed)?;
        let state = Mutex::new(Inner {
            trouble: None,
            unrecorded: 0,
            strangers: Refusals(REFUSALS, clock.seconds()),
            others: Refusals(REFUSALS, clock.seconds()),
        });
        Ok(Some(Arc::new(Self { file, max_bytes: settings.max_bytes, keep: settings.keep, clock, state })))
    }

    /// Why lines cannot be written just now. Where that was so, it is tried again first.
    pub fn trouble(&self) -> Option<Arc<str>> {
        let mut state = self.lock();
        if state.trouble.is_some() {
            self.write(&mut state, &mut Entry { request: "(recorded again)".to_owned(), ..Entry::default() });
        }
        state.trouble.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, entry: &mut Entry) {
        let mut state = self.lock();
        let now = self.clock.seconds();
        let refused = entry.status.is_some_and(|status| REFUSED.iter().any(|refused| refused.as_u16() == status));
        let admitted = match entry.who {
            None => state.strangers.admit(now),
            Some(_) if refused => state.others.admit(now),
            Some(_) => true,
        };
        if !(admitted && self.write(&mut state, entry)) {
            state.unrecorded += 1;
        }
    }

    /// Whether it was written.
    fn write(&self, state: &mut Inner, entry: &mut Entry) -> bool {
        // The formatter ends with the year 9999.
        let time = UNIX_EPOCH + Duration::from_millis(self.clock.millis().min(253_402_300_799_000));
        entry.time = humantime::format_rfc3339_millis(time).to_string();
        entry.unrecorded = state.unrecorded;
        let (rotated, written) = match serde_json::to_vec(entry) {
            Ok(mut line) => {
                line.push(b'\n');
                self.append(&line)
            }
            Err(error) => (Ok(()), Err(error.to_string())),
        };
        let done = written.is_ok();
        let trouble = written.and(rotated).err().map(Arc::<str>::from);
        match (&state.trouble, &trouble) {
            (None, Some(reason)) => {
                tracing::error!(file = %self.file.display(), "{reason}; changes on the admin port go on, /readyz is degraded until this is mended");
            }
            (Some(_), None) => tracing::info!(file = %self.file.display(), "the audit log is written again"),
            _ => {}
        }
        state.trouble = trouble;
        if done {
            state.unrecorded = 0;
        }
        done
    }

    /// Whether the file was rotated where it had to be, and whether the line was written.
    fn append(&self, line: &[u8]) -> (Result<(), String>, Result<(), String>) {
        let not_written = |problem: &dyn fmt::Display| format!("the audit log {}: {problem}", self.file.display());
        let mut file = match open(&self.file) {
            Ok(file) => file,
            Err(problem) => return (Ok(()), Err(not_written(&problem))),
        };
        let mut rotated = Ok(());
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if length > 0 && length.saturating_add(line.len() as u64) > self.max_bytes {
            match self.rotate().map_err(Problem::Open).and_then(|()| open(&self.file)) {
                Ok(new) => file = new,
                // Better a file that is too long than a line that is lost.
                Err(problem) => rotated = Err(format!("the audit log {} cannot be rotated: {problem}", self.file.display())),
            }
        }
        (rotated, write_line(&mut file, line).map_err(|error| not_written(&error)))
    }

    /// Renames `FILE` to `FILE.1`, that to `FILE.2`, and so on; the last is overwritten.
    fn rotate(&self) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = self.file.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return fs::remove_file(&self.file);
        }
        for number in (1..self.keep).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.file, old(1))
    }
}

impl Refusals {
    fn admit(&mut self, now: u64) -> bool {
        let Self(left, since) = *self;
        let left = left.saturating_add(now.saturating_sub(since)).min(REFUSALS);
        *self = Self(left.saturating_sub(1), now);
        left > 0
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("file", &self.file).finish_non_exhaustive()
    }
}

/// To read its end and to append. Made where it is absent, and its owner's alone then.
fn open(path: &Path) -> Result<File, Problem> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Neither followed where it is a link, nor waited for where it is a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let linked = || fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    // On Windows no flag of the call refuses a link.
    if cfg!(not(unix)) && linked() {
        return Err(Problem::Link);
    }
    let file = options.open(path).map_err(|error| if linked() { Problem::Link } else { Problem::Open(error) })?;
    if file.metadata().map_err(Problem::Open)?.is_file() { Ok(file) } else { Err(Problem::NotAFile) }
}

#[cfg(unix)]
fn refuse_what_is_others(file: &File, path: &Path) -> Result<(), Problem> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = file.metadata().map_err(Problem::Open)?.mode();
    if mode & 0o007 != 0 {
        return Err(Problem::OpenToOthers(mode & 0o7777));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::metadata(folder).map_err(Problem::Open)?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(Problem::FolderOpenToOthers(folder.to_owned()));
    }
    Ok(())
}

/// Windows has no such modes: the folder's own rights count.
#[cfg(not(unix))]
fn refuse_what_is_others(_file: &File, _path: &Path) -> Result<(), Problem> {
    Ok(())
}

/// At the end of the file, by one write. A line that was cut there, by a crash or a full disk, is ended first.
fn write_line(file: &mut File, line: &[u8]) -> io::Result<()> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let text = if last == [b'\n'] { line.to_vec() } else { [b"\n", line].concat() };
    if file.write(&text)? == text.len() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, "a line could be written in part only; is the disk full?"))
}

/// The layer around all routes of the admin port, the guard included: an entry for each request that may change something, and each that is refused.
pub async fn record(State(audit): State<Arc<Audit>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let route = parts.extensions.get::<MatchedPath>().cloned();
    let path = route.as_ref().map(MatchedPath::as_str);
    let param = |name: &str| params.as_ref()?.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
    let id = param("id").or_else(|| {
        let legacy = path.is_some_and(|path| path.starts_with("/api/"));
        query::parameter(parts.uri.query().filter(|_| legacy)?, "id").ok().flatten()
    });
    let who = Who::default();
    parts.extensions.insert(who.clone());
    let mut pending = Pending {
        changes: path.is_some() && routes::may_change(path, &parts.method),
        entry: Entry {
            peer: parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer),
            request: name(&parts.method, path),
            // What stands in the place of an id, and can be none, may be anything: a pin, or a token.
            session: id.and_then(|id| SessionId::parse(&id)).map(|id| id.to_string()),
            service: param("name").filter(|name| path == Some(ASK_A_SERVICE) && rules::is_settings_name(name)),
            request_id: request_id(&parts.headers),
            ..Entry::default()
        },
        who,
        audit,
    };
    let response = next.run(Request::from_parts(parts, body)).await;
    pending.answered(&response);
    response
}

/// A request whose entry is not written yet; it is when this goes. So one whose client goes away before its answer is there is recorded, too.
struct Pending {
    audit: Arc<Audit>,
    who: Who,
    entry: Entry,
    changes: bool,
}

impl Pending {
    fn answered(&mut self, response: &Response) {
        let (status, extensions) = (response.status(), response.extensions());
        let refused = REFUSED.contains(&status);
        self.changes |= refused;
        self.entry.status = Some(status.as_u16());
        self.entry.code = extensions.get::<Code>().map(|Code(code)| *code);
        if let Some(Made(id)) = extensions.get() {
            self.entry.session = Some(id.to_string());
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.changes {
            let who = self.who.0.get();
            self.entry.who = who.map(|who| WhoView { name: who.name.clone(), role: who.role.as_str(), method: who.method });
            self.audit.record(&mut self.entry);
        }
    }
}

/// Method and route. A method that nobody knows is not repeated.
fn name(method: &Method, path: Option<&str>) -> String {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    let method = if known.contains(method) { method.as_str() } else { "(another method)" };
    format!("{method} {}", path.unwrap_or("(no route)"))
}

/// What the client or a proxy calls the request, if it is a plain word.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-request-id")?.to_str().ok()?;
    let plain = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    plain.then(|| text.to_owned())
}

#[cfg(test)]
#[cfg(unix)]
#[path = "audit_tests.rs"]
mod tests;
