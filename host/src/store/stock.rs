//! All that a store holds, into and out of it, for commands, which have no use for an open store. They read beside a host or while none runs, and write
//! while none runs. Nothing here replaces a file or a session.

mod error;
mod place;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    OpenError, SavedState, StoredSession,
    change::Content,
    disk::{beside, folder_of},
    json::{
        self,
        aside::{self, To, Unread},
        format, states,
    },
    lock::FileLock,
    sqlite,
};
use crate::sessions::SessionId;

use error::LISTED;
pub(crate) use error::Listed;
pub use error::StockError;
pub use place::Place;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Entries of all their lists of clients.
    pub clients: usize,
    /// Sessions whose conductor has saved something.
    pub saved: usize,
    /// Timers of all sessions.
    pub timers: usize,
    /// Ids that rest.
    pub resting: usize,
}

impl Counts {
    /// Of sessions, with nothing beside them.
    #[must_use]
    pub fn of(sessions: &[Arc<StoredSession>]) -> Self {
        let timers = sessions.iter().filter_map(|session| session.extra.as_deref()).map(|extra| extra.timers.len()).sum();
        let clients = sessions.iter().map(|session| session.clients.len()).sum();
        Self { sessions: sessions.len(), clients, timers, ..Self::default() }
    }
}

/// Whether a host may work with the store while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// None may: what it changed meanwhile would be lost. None can start while the [`Stock`] lives, either.
    NoHost,
    /// It may: what is read is what the store held at one moment.
    AHost,
}

/// All that a store held when it was read.
#[derive(Debug)]
pub struct Stock {
    pub(super) content: Content,
    saved: Saved,
    /// Bytes that conductors have saved.
    bytes: u64,
    /// What of that is damaged.
    damaged: Vec<String>,
    /// Files that count no more.
    left: usize,
    /// The store's.
    file: PathBuf,
    _lock: Option<FileLock>,
}

/// Where what conductors have saved is.
#[derive(Debug)]
enum Saved {
    Json {
        folder: PathBuf,
        files: BTreeMap<SessionId, states::Name>,
    },
    /// In memory, as all of the database is when it is read.
    Sqlite(BTreeMap<SessionId, SavedState>),
}

impl Stock {
    /// In the order of their ids.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<StoredSession>> {
        self.content.sessions.values().cloned().collect()
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let saved = match &self.saved {
            Saved::Json { files, .. } => files.len(),
            Saved::Sqlite(states) => states.len(),
        };
        Counts { saved, resting: self.content.resting.iter().count(), ..Counts::of(&self.sessions()) }
    }

    /// How many bytes conductors have saved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files of saved state that no session has: the host removes them when it starts.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// That nothing of what conductors have saved is damaged.
    ///
    /// # Errors
    /// All of it that is.
    pub fn whole(&self) -> Result<(), StockError> {
        if self.damaged.is_empty() {
            return Ok(());
        }
        Err(StockError::Damaged { file: self.file.clone(), problems: self.damaged.clone() })
    }

    /// What conductors have saved, by session.
    pub(super) fn states(&self) -> Box<dyn Iterator<Item = io::Result<(SessionId, SavedState)>> + '_> {
        match &self.saved {
            Saved::Json { folder, files } => Box::new(files.iter().map(|(id, name)| {
                let file = folder.join(name.to_string());
                let content = json::read(&file)?.ok_or_else(|| io::Error::other(format!("{} is gone", file.display())))?;
                let state = states::parse(content).map_err(|problem| io::Error::other(format!("{}: {problem}", file.display())))?;
                Ok((*id, state))
            })),
            Saved::Sqlite(states) => Box::new(states.iter().map(|(id, state)| Ok((*id, state.clone())))),
        }
    }
}

/// Reads all of the store, what conductors have saved included, and changes nothing. Clients without an expiry get `granted_until` (seconds since
/// the Unix epoch).
///
/// # Errors
/// Where there is no store, a host has it and must not, or not all sessions are understood: then all that is not is listed. What of saved state is
/// damaged is said by [`Stock::whole`].
pub fn read(place: &Place, granted_until: u64, beside_whom: Beside) -> Result<Stock, StockError> {
    let target = real(place)?;
    let lock = match beside_whom {
        Beside::NoHost => FileLock::if_used("store", &target, beside(&target, ".lock")).map_err(OpenError::from)?,
        Beside::AHost => None,
    };
    match place {
        Place::Json(_) => read_json(target, granted_until, lock),
        Place::Sqlite(_) => {
            let held = if beside_whom == Beside::NoHost { sqlite::aside::read(&target) } else { sqlite::aside::read_beside(&target) };
            of_sqlite(target, held, lock)
        }
    }
}

fn of_sqlite(target: PathBuf, held: Result<Option<sqlite::aside::Held>, OpenError>, lock: Option<FileLock>) -> Result<Stock, StockError> {
    let sqlite::aside::Held { content, states, .. } =
        held.map_err(StockError::damage)?.ok_or_else(|| StockError::Missing(target.clone()))?;
    let bytes = states.values().map(|state| state.bytes.len() as u64).sum();
    Ok(Stock { content, saved: Saved::Sqlite(states), bytes, damaged: Vec::new(), left: 0, file: target, _lock: lock })
}

fn read_json(target: PathBuf, granted_until: u64, lock: Option<FileLock>) -> Result<Stock, StockError> {
    let (mut bytes, mut problems) = (BTreeMap::new(), BTreeMap::new());
    let moment = aside::moment(
        &target,
        granted_until,
        |_| true,
        |name, content| {
            match states::parse(content) {
                Ok(state) => drop(bytes.insert(name, state.bytes.len() as u64)),
                Err(problem) => drop(problems.insert(name, state_problem(name, problem))),
            }
            Ok(())
        },
    );
    let moment = moment.map_err(|unread| StockError::unread(&target, unread))?;
    // Those that were replaced meanwhile count neither way.
    let damaged = moment.states.values().filter_map(|name| problems.remove(name)).collect();
    let bytes = moment.states.values().filter_map(|name| bytes.get(name)).sum();
    let saved = Saved::Json { folder: states::folder(&target), files: moment.states };
    Ok(Stock { content: moment.content, saved, bytes, damaged, left: moment.left, file: target, _lock: lock })
}

/// A session, and what its conductor has saved.
pub type Kept = (Arc<StoredSession>, Option<SavedState>);

/// A session of the store and what its conductor has saved; nothing where there is no such session. Works beside a host, and changes nothing.
///
/// # Errors
/// Where there is no store, or what is asked for cannot be read and understood.
pub fn session(place: &Place, id: SessionId) -> Result<Option<Kept>, StockError> {
    let target = real(place)?;
    if matches!(place, Place::Sqlite(_)) {
        if let Some((session, state)) = sqlite::aside::kept(&target, id).map_err(StockError::damage)? {
            return Ok(Some((session, Some(state))));
        }
        // Whether a row that is not there was lost is seen where all are looked at.
        let held = sqlite::aside::read_beside(&target).map_err(StockError::damage)?;
        let mut held = held.ok_or_else(|| StockError::Missing(target.clone()))?;
        return Ok(held.content.sessions.remove(&id).map(|session| (session, held.states.remove(&id))));
    }
    let mut last = None;
    let moment = aside::moment(
        &target,
        0,
        |wanted| wanted == id,
        |name, content| {
            last = Some((name, states::parse(content)));
            Ok(())
        },
    );
    let mut moment = moment.map_err(|unread| StockError::unread(&target, unread))?;
    let Some(session) = moment.content.sessions.remove(&id) else { return Ok(None) };
    match (moment.states.get(&id), last) {
        (Some(_), Some((_, Ok(state)))) => Ok(Some((session, Some(state)))),
        (Some(_), Some((name, Err(problem)))) => Err(StockError::Damaged { file: target, problems: vec![state_problem(name, problem)] }),
        _ => Ok(Some((session, None))),
    }
}

/// Copies the store as it is at one moment, also beside a host that works with it, to `to`, of the same kind. What a conductor has saved and is damaged is copied
/// as it is, and told. `progress` hears of each state.
///
/// # Errors
/// Where there is no store or it is damaged as a whole, something is where the copy would be, or that cannot be written.
pub fn backup(place: &Place, to: &Path, progress: &mut dyn FnMut()) -> Result<(Place, Counts, Vec<String>), StockError> {
    let target = real(place)?;
    let new = match place {
        Place::Json(_) => Place::Json(to.to_owned()),
        Place::Sqlite(_) => Place::Sqlite(to.to_owned()),
    };
    check_new(&new)?;
    if matches!(place, Place::Sqlite(_)) {
        let stock = of_sqlite(target.clone(), sqlite::aside::read_beside(&target), None)?;
        let made = sqlite::new::create(to, &stock.content, &mut stock.states().inspect(|_| progress()));
        let counts = written(&new, made)?;
        return Ok((new, counts, Vec::new()));
    }
    let mut problems = BTreeMap::new();
    let copied = aside::copy(&target, to, |name, content| {
        progress();
        if let Err(problem) = states::parse(content.to_vec()) {
            problems.insert(name, state_problem(name, problem));
        }
    });
    let moment = copied.map_err(|unread| match unread {
        Unread::Io(problem) => StockError::Write { file: to.to_owned(), problem },
        other => StockError::unread(&target, other),
    })?;
    let sessions: Vec<_> = moment.content.sessions.values().cloned().collect();
    let counts = Counts { saved: moment.states.len(), resting: moment.content.resting.iter().count(), ..Counts::of(&sessions) };
    // Those that were replaced meanwhile are not in the copy.
    let problems = moment.states.values().filter_map(|name| problems.remove(name)).collect();
    Ok((new, counts, problems))
}

/// Puts all of `stock` into a new store, whose folder must be there; with `dry_run` only looks whether it could. `progress` hears of each state. Gives
/// what is there then, read again.
///
/// # Errors
/// Where something is there already, or it cannot be written; nothing of it stays then. Where saved state is damaged.
pub fn export(stock: &Stock, to: &Place, dry_run: bool, progress: &mut dyn FnMut()) -> Result<Option<Counts>, StockError> {
    stock.whole()?;
    check_new(to)?;
    if dry_run {
        return Ok(None);
    }
    let mut states = stock.states().inspect(|_| progress());
    let made = match to {
        Place::Json(file) => aside::fill(file, To::New, &stock.content, &mut states),
        Place::Sqlite(file) => sqlite::new::create(file, &stock.content, &mut states),
    };
    written(to, made).map(Some)
}

/// Puts all of `stock` into the store of a host, which is made where it is missing; with `dry_run` only looks whether it could. Ids that rest there go on
/// resting. `now` is in seconds since the Unix epoch; `progress` hears of each state. Gives what is there then, read again.
///
/// # Errors
/// Where a host has the store, it has sessions, or it cannot be understood or written; it is as it was then. Where saved state is damaged.
pub fn import(stock: &Stock, to: &Place, now: u64, dry_run: bool, progress: &mut dyn FnMut()) -> Result<Option<Counts>, StockError> {
    stock.whole()?;
    let failed = |source| OpenError::Io { file: to.file().to_owned(), source };
    let (target, _lock) = if dry_run {
        let target = to.file().canonicalize().unwrap_or_else(|_| to.file().to_owned());
        let lock = FileLock::if_used("store", &target, beside(&target, ".lock")).map_err(OpenError::from)?;
        (target, lock)
    } else {
        let target = json::resolve(&super::disk::RealDisk, to.file()).map_err(failed)?;
        let lock = FileLock::acquire("store", &target, beside(&target, ".lock")).map_err(OpenError::from)?;
        (target, Some(lock))
    };
    let mut states = stock.states().inspect(|_| progress());
    let made = match to {
        Place::Json(_) => {
            let before = json::read(&target).map_err(failed)?;
            let content = together(stock, &there_json(&target, before.as_deref())?, to, now)?;
            if dry_run {
                return Ok(None);
            }
            aside::fill(&target, To::Store(before.as_deref()), &content, &mut states)
        }
        Place::Sqlite(_) => {
            let before = sqlite::aside::read(&target).map_err(StockError::damage)?;
            let content = together(stock, before.as_ref().map_or(&Content::default(), |before| &before.content), to, now)?;
            match before {
                _ if dry_run => return Ok(None),
                Some(before) => sqlite::aside::fill(&target, &before, &content, &mut states),
                None => sqlite::new::create(&target, &content, &mut states),
            }
        }
    };
    written(to, made).map(Some)
}

fn there_json(target: &Path, before: Option<&[u8]>) -> Result<Content, StockError> {
    let failed = |source| OpenError::Io { file: target.to_owned(), source };
    match before {
        None if states::any(target).map_err(failed)? => {
            let problem = "it is missing, and the saved state of its sessions is there".into();
            Err(OpenError::Unusable { file: target.to_owned(), problem }.into())
        }
        None => Ok(Content::default()),
        Some(text) => format::parse_all(text, 0).map_err(|problems| StockError::Damaged { file: target.to_owned(), problems }),
    }
}

/// What is there now; no host works with it.
fn written(place: &Place, made: io::Result<()>) -> Result<Counts, StockError> {
    made.map_err(|problem| StockError::Write { file: place.file().to_owned(), problem })?;
    let target = real(place)?;
    let stock = match place {
        Place::Json(_) => read_json(target, 0, None),
        Place::Sqlite(_) => {
            let held = sqlite::aside::read(&target);
            of_sqlite(target, held, None)
        }
    };
    Ok(stock?.counts())
}

/// What a store without sessions has once it has those of `stock`.
fn together(stock: &Stock, there: &Content, to: &Place, now: u64) -> Result<Content, StockError> {
    if !there.sessions.is_empty() {
        return Err(StockError::NotEmpty { place: to.to_string(), sessions: there.sessions.len() });
    }
    let sessions = stock.content.sessions.clone();
    let resting: Vec<_> = sessions.keys().filter(|id| there.resting.rests(**id, now)).map(ToString::to_string).collect();
    if !resting.is_empty() {
        let more = if resting.len() > LISTED { ", …" } else { "" };
        let ids = resting[..resting.len().min(LISTED)].join(", ") + more;
        return Err(StockError::Resting { place: to.to_string(), ids });
    }
    let mut ends: BTreeMap<SessionId, u64> = there.resting.iter().filter(|(id, _)| !sessions.contains_key(id)).collect();
    for (id, until) in stock.content.resting.iter() {
        let end = ends.entry(id).or_default();
        *end = until.max(*end);
    }
    Ok(Content { sessions, resting: ends.into_iter().collect() })
}

/// The file itself, where its name is a symbolic link.
fn real(place: &Place) -> Result<PathBuf, StockError> {
    let file = place.file();
    match file.canonicalize() {
        // What is beside it may say that it has been there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && place.there().is_some() => Ok(file.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StockError::Missing(file.to_owned())),
        Err(source) => Err(OpenError::Io { file: file.to_owned(), source }.into()),
        Ok(real) => Ok(real),
    }
}

fn check_new(place: &Place) -> Result<(), StockError> {
    if let Some(there) = place.there() {
        return Err(StockError::Exists(there));
    }
    let folder = folder_of(place.file());
    if folder.is_dir() {
        return Ok(());
    }
    let problem = io::Error::new(io::ErrorKind::NotFound, format!("there is no folder {}", folder.display()));
    Err(StockError::Write { file: place.file().to_owned(), problem })
}

fn state_problem(name: states::Name, problem: &str) -> String {
    format!("session {}: its saved state ({name}): {problem}", name.id())
}

#[cfg(test)]
mod tests;
