//! The disk that keeps account of what was synced, and what a power cut may leave of it.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::super::{
    Applied, Change, Store, StoreError,
    disk::{Disk, RealDisk},
    queue::Queue,
};

/// What happened to the disk, in order; paths from its top on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A new file, by its number.
    Create(PathBuf, usize),
    Write(usize, Vec<u8>),
    Sync(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeFolder(PathBuf),
    SyncFolder(PathBuf),
    /// Not the disk's: the change of this number was acknowledged.
    Acknowledged(usize),
    /// It was refused.
    Refused(usize),
}

/// Changes that were asked for: number and answer.
type Asked = Vec<(usize, BoxFuture<'static, Applied>)>;

#[derive(Default)]
pub(super) struct Account {
    pub(super) events: Vec<Event>,
    pub(super) files: usize,
    asked: Asked,
    /// The folder whose next sync fails, from the top on.
    pub(super) fails: Option<PathBuf>,
}

impl Account {
    /// Notes who was answered before that what comes now.
    fn look(&mut self) {
        let Self { events, asked, .. } = self;
        asked.retain_mut(|(number, answer)| match answer.now_or_never() {
            None => true,
            Some(answer) => {
                events.push(match answer {
                    Ok(_) => Event::Acknowledged(*number),
                    Err(StoreError::Write(_)) => Event::Refused(*number),
                    Err(error) => panic!("change {number}: {error}"),
                });
                false
            }
        });
    }
}

/// The real disk below `top`, with an account of what is done to it. Clones share it.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) top: PathBuf,
    pub(super) account: Arc<Mutex<Account>>,
}

impl Watched {
    fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.top).expect("below the top").to_owned()
    }

    /// Before it is done: so the answer to an earlier change stands before it.
    fn begin(&self, event: impl FnOnce(&mut Account) -> Event) {
        let mut account = self.account.lock().unwrap();
        account.look();
        let event = event(&mut account);
        account.events.push(event);
    }

    /// Queues these changes at once, and returns when all are answered.
    pub(super) fn ask(&self, store: &Queue, changes: impl IntoIterator<Item = (usize, Change)>) {
        {
            // The writer waits for this before its first step.
            let mut account = self.account.lock().unwrap();
            let asked: Asked = changes.into_iter().map(|(number, change)| (number, store.apply(change))).collect();
            account.asked = asked;
        }
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut account = self.account.lock().unwrap();
            account.look();
            if account.asked.is_empty() {
                return;
            }
            drop(account);
            assert!(Instant::now() < end, "no answer within a minute");
            thread::yield_now();
        }
    }
}

pub(super) struct WatchedFile {
    file: File,
    number: usize,
    disk: Watched,
}

impl Write for WatchedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.begin(|_| Event::Write(self.number, bytes.to_owned()));
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Disk for Watched {
    type File = WatchedFile;

    fn create(&self, path: &Path) -> io::Result<WatchedFile> {
        if path.symlink_metadata().is_ok() {
            self.begin(|_| Event::Remove(self.inside(path)));
        }
        let file = RealDisk.create(path)?;
        let number = Cell::new(0);
        self.begin(|account| {
            account.files += 1;
            number.set(account.files);
            Event::Create(self.inside(path), account.files)
        });
        Ok(WatchedFile { file, number: number.get(), disk: self.clone() })
    }

    fn sync(&self, file: &mut WatchedFile) -> io::Result<()> {
        // The account is all that counts here.
        self.begin(|_| Event::Sync(file.number));
        file.file.flush()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(|_| Event::Rename(self.inside(from), self.inside(to)));
        RealDisk.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = self.inside(folder);
        let fails = self.account.lock().unwrap().fails.take_if(|failing| *failing == folder);
        if fails.is_some() {
            return Err(io::Error::other("as ordered"));
        }
        self.begin(|_| Event::SyncFolder(folder));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.symlink_metadata().is_ok() {
            self.begin(|_| Event::Remove(self.inside(path)));
        }
        RealDisk.remove(path)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if !folder.exists() {
            self.begin(|_| Event::MakeFolder(self.inside(folder)));
        }
        RealDisk.make_folder(folder)
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    File(usize),
    Folder,
}

/// One change of names that may be lost: what each becomes.
pub(super) type Step = Vec<(PathBuf, Option<Entry>)>;

/// The disk as the account says, at one moment.
#[derive(Clone, Default)]
pub(super) struct Reckoned {
    /// As programs see it.
    now: BTreeMap<PathBuf, Entry>,
    /// As it is certain to be after a power cut.
    certain: BTreeMap<PathBuf, Entry>,
    /// What may be, in order.
    pub(super) pending: Vec<Step>,
    /// Of each file: what was written, and how much of it is synced.
    pub(super) files: BTreeMap<usize, (Vec<u8>, usize)>,
}

/// How much of what was not synced is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unsynced {
    Nothing,
    Half,
    All,
}

impl Reckoned {
    pub(super) fn apply(&mut self, event: &Event) {
        let step = match event {
            Event::Create(path, number) => {
                self.files.insert(*number, Default::default());
                vec![(path.clone(), Some(Entry::File(*number)))]
            }
            Event::Write(number, bytes) => {
                self.files.get_mut(number).unwrap().0.extend(bytes);
                return;
            }
            Event::Sync(number) => {
                let (content, synced) = self.files.get_mut(number).unwrap();
                *synced = content.len();
                return;
            }
            Event::Rename(from, to) => vec![(from.clone(), None), (to.clone(), Some(self.now[from]))],
            Event::Remove(path) => vec![(path.clone(), None)],
            Event::MakeFolder(path) => vec![(path.clone(), Some(Entry::Folder))],
            Event::SyncFolder(folder) => {
                let (synced, pending): (Vec<Step>, _) =
                    mem::take(&mut self.pending).into_iter().partition(|step| step[0].0.parent() == Some(folder));
                self.pending = pending;
                for step in synced {
                    put(&mut self.certain, &step);
                }
                return;
            }
            Event::Acknowledged(_) | Event::Refused(_) => return,
        };
        put(&mut self.now, &step);
        self.pending.push(step);
    }

    /// All that a power cut may leave: paths with content, and nothing for a folder.
    pub(super) fn left(&self) -> BTreeSet<BTreeMap<PathBuf, Option<Vec<u8>>>> {
        assert!(self.pending.len() <= 8, "too much is pending to look at each: {:?}", self.pending);
        let happened = 0..1_u32 << self.pending.len();
        let all =
            happened.flat_map(|happened| [Unsynced::Nothing, Unsynced::Half, Unsynced::All].map(|unsynced| self.image(happened, unsynced)));
        all.collect()
    }

    pub(super) fn image(&self, happened: u32, unsynced: Unsynced) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut names = self.certain.clone();
        for (_, step) in self.pending.iter().enumerate().filter(|(at, _)| happened & (1 << at) != 0) {
            put(&mut names, step);
        }
        let reached =
            |path: &Path| path.ancestors().skip(1).all(|above| above == Path::new("") || names.get(above) == Some(&Entry::Folder));
        let content = |entry: Entry| match entry {
            Entry::Folder => None,
            Entry::File(number) => {
                let (content, synced) = &self.files[&number];
                let end = match unsynced {
                    Unsynced::Nothing => *synced,
                    Unsynced::Half => synced.midpoint(content.len()),
                    Unsynced::All => content.len(),
                };
                Some(content[..end].to_owned())
            }
        };
        names.iter().filter(|(path, _)| reached(path)).map(|(path, entry)| (path.clone(), content(*entry))).collect()
    }
}

fn put(names: &mut BTreeMap<PathBuf, Entry>, step: &Step) {
    for (path, entry) in step {
        match entry {
            Some(entry) => names.insert(path.clone(), *entry),
            None => names.remove(path),
        };
    }
}
