//! Where the old program has its files, and what is in them.
//!
//! It is run from a folder that holds its `settings.py` and, beside it, `session_data.json`; its deployment folder holds `.env` and,
//! where it signs tokens itself, `certs/local_mqtt_keys/private_key.pem`.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    Failed,
    python::{self, Assignment, Expression, Variable},
};

/// The name of the file with sessions where the settings say no other.
const SESSION_STORAGE: &str = "session_data.json";
/// Where the program's own folder is found below a given one: in it, or in a checkout of its repository, whose layout has changed twice.
const PROGRAM: [&str; 5] = ["", "session_manager", "server/session_manager", "Server/session_manager", "iotserver/session_manager"];
/// The same for the folder of its deployment.
const DEPLOYMENT: [&str; 5] = ["", "deployment", "server/deployment", "Server/deployment", "iotserver/deployment"];
/// Where the deployment keeps the key, and where its container sees it.
const KEYS: [&str; 2] = ["certs/local_mqtt_keys/private_key.pem", "local_mqtt_keys/private_key.pem"];
/// The part of the program that connects to the broker, below its own folder.
const LINKS: [&str; 2] = ["src/async_mqtt_client.py", "src/mqtt_client.py"];
/// The largest text that is read as settings or as a key, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// What was found, or named on the command line.
#[derive(Debug)]
pub(super) struct Old {
    /// The file with sessions.
    pub(super) sessions: PathBuf,
    /// `settings.py`, and what it assigns.
    pub(super) settings: Option<(PathBuf, Vec<Assignment>)>,
    /// `.env`, and what it sets.
    pub(super) environment: Option<(PathBuf, Vec<Variable>)>,
    /// The source of its MQTT client: host, port and transport of the broker, as far as they can be read.
    pub(super) link: Option<Link>,
    /// The private key, and whether it was named on the command line.
    pub(super) key: Option<(PathBuf, bool)>,
}

/// How the old program reaches its broker.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) file: PathBuf,
    pub(super) hostname: Option<Expression>,
    pub(super) port: Option<Expression>,
    pub(super) transport: Option<Expression>,
    pub(super) tls: bool,
}

/// What the command line names.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) from: &'a Path,
    pub(super) settings: Option<&'a Path>,
    pub(super) environment: Option<&'a Path>,
    pub(super) key: Option<&'a Path>,
}

impl Old {
    /// Looks for all files and reads the small ones.
    ///
    /// # Errors
    /// Where a named file is not there, a found one cannot be read, or there is no file with sessions, or more than one.
    pub(super) fn find(named: &Named<'_>) -> Result<Self, Failed> {
        let from = named.from;
        let is_folder = fs::metadata(from).map_err(|error| Failed::read(from, &error))?.is_dir();
        let below = |places: &[&str], files: &[&str]| -> Vec<PathBuf> {
            let folders = if is_folder { places.iter().map(|place| from.join(place)).collect() } else { Vec::new() };
            existing(folders.iter().flat_map(|folder| files.iter().map(|file| folder.join(file))))
        };
        let one = |what: &str, named: Option<&Path>, found: Vec<PathBuf>| match (named, found.len()) {
            (Some(file), _) => Ok(Some(file.to_owned())),
            (None, 0 | 1) => Ok(found.into_iter().next()),
            (None, _) => Err(Failed::ambiguous(what, &found)),
        };

        let settings = parsed(one("settings file", named.settings, below(&PROGRAM, &["settings.py"]))?, python::assignments)?;
        let environment = parsed(one("environment file", named.environment, below(&DEPLOYMENT, &[".env"]))?, python::environment_file)?;

        let said = |name: &str| settings.as_ref().and_then(|(_, assignments)| last_text(assignments, name));
        // The old program's paths begin where it runs, which is where its settings are.
        let home = settings.as_ref().and_then(|(file, _)| file.parent());
        let sessions = if is_folder {
            let name = said("SESSION_STORAGE").unwrap_or_else(|| SESSION_STORAGE.to_owned());
            let mut found = below(&PROGRAM, &[&name]);
            found.extend(existing(home.map(|home| home.join(&name)).into_iter()));
            one("file with sessions", None, existing(found.into_iter()))?.ok_or_else(|| Failed::no_sessions(from, &name, &PROGRAM))?
        } else {
            from.to_owned()
        };
        let mut keys = existing(said("JWT_PRIVATE_KEY_LOC").and_then(|key| Some(home?.join(key))).into_iter());
        if keys.is_empty() {
            keys = below(&DEPLOYMENT, &KEYS);
        }
        let key = one("private key", named.key, keys)?.map(|file| (file, named.key.is_some()));
        let link = match home.and_then(|home| existing(LINKS.iter().map(|file| home.join(file))).into_iter().next()) {
            None => None,
            Some(file) => Link::read(file)?,
        };
        Ok(Self { sessions, settings, environment, link, key })
    }
}

impl Link {
    /// Nothing where the file makes no connection (an early version's does not).
    fn read(file: PathBuf) -> Result<Option<Self>, Failed> {
        let text = read_text(&file)?;
        let value = |name: &str| python::keyword(&text, name).map(|(_, value)| value);
        let tls = ["tls_context", "tls_params"].iter().any(|name| value(name).is_some_and(|value| value != Expression::None));
        let [hostname, port, transport] = ["hostname", "port", "transport"].map(value);
        Ok(hostname.is_some().then_some(Self { file, hostname, port, transport, tls }))
    }
}

fn parsed<T>(file: Option<PathBuf>, parse: fn(&str) -> T) -> Result<Option<(PathBuf, T)>, Failed> {
    let Some(file) = file else { return Ok(None) };
    let text = read_text(&file)?;
    Ok(Some((file, parse(&text))))
}

/// The last text that is no empty one and that needs no environment to tell, whatever its condition: for finding files.
fn last_text(assignments: &[Assignment], name: &str) -> Option<String> {
    assignments.iter().rev().filter(|assignment| assignment.name == name).find_map(|assignment| match &assignment.value {
        Expression::Text(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    })
}

/// Those that are there, each once: on some systems two spellings are one file.
fn existing(files: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    files
        .filter(|file| {
            let Some(real) = fs::canonicalize(file).ok().filter(|real| real.is_file()) else { return false };
            let new = !seen.contains(&real);
            seen.push(real);
            new
        })
        .collect()
}

/// A whole file's content. What is no regular file, or larger than `most` bytes, is refused.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn read_bytes(file: &Path, most: u64) -> Result<Vec<u8>, Failed> {
    let refuse = |problem: &str| Failed::Read { file: file.to_owned(), problem: problem.to_owned() };
    let failed = |error: std::io::Error| Failed::read(file, &error);
    // Looked at before it is opened, since opening a pipe would wait for its writer.
    let found = fs::metadata(file).map_err(failed)?;
    if !found.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    let too_large = || refuse(&format!("it is larger than {most} bytes"));
    if found.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    File::open(file).and_then(|opened| opened.take(most.saturating_add(1)).read_to_end(&mut bytes)).map_err(failed)?;
    // It may have grown since.
    if bytes.len() as u64 > most {
        return Err(too_large());
    }
    Ok(bytes)
}

fn read_text(file: &Path) -> Result<String, Failed> {
    let bytes = read_bytes(file, MAX_TEXT)?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Failed::Read { file: file.to_owned(), problem: format!("it is not UTF-8 (line {line})") }
    })
}
