//! Flipped bits and lost ends, 10,000 of them, each followed by a start: a refusal that leaves the files as they are. What a conductor has saved
//! is refused by itself, and all else is what was acknowledged.

use std::collections::BTreeMap;

use super::{
    super::super::{
        StoredSession,
        contract::{labels, save, saved},
        damage::{All, Damage, damages},
    },
    *,
};
use crate::sessions::Pin;

/// The system's disk; nothing here is about power cuts.
struct Unsynced;

impl Disk for Unsynced {
    type File = fs::File;

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        RealDisk.create(path)
    }

    fn sync(&self, _: &mut fs::File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.make_folder(folder)
    }
}

/// In no message by chance.
const PIN: &str = "918273645546";

/// Not what any client has: a client whose time is lost shows.
const GRANTED: u64 = 77_777;

/// What was acknowledged, and the files that it is in.
struct Sample {
    folder: tempfile::TempDir,
    all: All,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Sample {
    /// So many sessions; the first of them have saved so many bytes each.
    fn new(sessions: usize, saves: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(&folder.path().join("sessions.json"), GRANTED, NEVER, Unsynced).unwrap();
        let (mut changes, mut states) = (Vec::new(), BTreeMap::new());
        for (number, time) in (0..=sessions).zip(100..) {
            let number = number.to_string();
            let new = StoredSession { pin: Pin::parse(PIN).unwrap(), ..StoredSession::clone(&session(&number)) };
            changes.extend([Change::Create(new.into()), join(&number, "phone", time), join(&number, "späce unit", time)]);
            changes.push(labels(&number, [("room".to_owned(), number.clone())].into()));
        }
        // Its id rests.
        changes.push(Change::Close(id(&sessions.to_string())));
        for (number, size) in saves.iter().enumerate() {
            let state = saved(7, vec![number as u8; *size]);
            changes.push(save(&number.to_string(), state.clone()));
            states.insert(number.to_string(), state);
        }
        let answers: Vec<_> = changes.into_iter().map(|change| (change.id(), store.apply(change))).collect();
        let mut acknowledged = BTreeMap::new();
        for (id, answer) in answers {
            match wait(answer).unwrap() {
                Some(session) => drop(acknowledged.insert(id, session)),
                None => drop(acknowledged.remove(&id)),
            }
        }
        wait(store.shutdown());
        let all = All::new(acknowledged.values(), [(id(&sessions.to_string()), 100 + sessions as u64)], states);
        let mut sample = Self { folder, all, files: BTreeMap::new() };
        sample.files = sample.read();
        assert_eq!((sample.all.sessions.len(), sample.files.len()), (sessions, 1 + saves.len()));
        assert_eq!(sample.start(), Ok((sample.all.clone(), Vec::new())));
        sample
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("sessions.json")
    }

    /// All that a host keeps; not its lock.
    fn read(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = |folder: &Path| -> Vec<_> { fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect() };
        let files = names(self.folder.path()).into_iter().chain(names(&states::folder(&self.file())));
        let files = files.filter(|path| path.is_file() && path.extension().is_none_or(|end| end != "lock"));
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// What a start finds, and which states are refused.
    fn start(&self) -> Result<(All, Vec<String>), String> {
        let (store, loaded) = open(&self.file(), GRANTED, NEVER, Unsynced).map_err(|error| error.to_string())?;
        let (mut states, mut refused) = (BTreeMap::new(), Vec::new());
        for session in &loaded.sessions {
            match wait(store.state(session.id)) {
                Ok(state) => states.extend(state.map(|state| (session.id.to_string(), state))),
                Err(error) => refused.push(error.to_string()),
            }
        }
        wait(store.shutdown());
        Ok((All::new(&loaded.sessions, loaded.resting, states), refused))
    }

    /// Damages this file again and again. `check` gets what a start made of it.
    fn damage(&self, path: &Path, count: usize, check: impl Fn(Damage, Result<(All, Vec<String>), String>)) {
        for damage in damages(count, self.files[path].len()) {
            let mut files = self.files.clone();
            let content = files.get_mut(path).unwrap();
            damage.to(content);
            fs::write(path, content).unwrap();
            check(damage, self.start());
            assert!(self.read() == files, "{damage:?}: the files were touched");
        }
        fs::write(path, &self.files[path]).unwrap();
        assert_eq!(self.start(), Ok((self.all.clone(), Vec::new())));
    }

    fn damage_file(&self, count: usize) {
        self.damage(&self.file(), count, |damage, found| {
            let message = found.expect_err(&format!("{damage:?} was not noticed"));
            assert!(message.contains("sessions.json cannot be used: ") && message.contains("left as it is"), "{damage:?}: {message}");
            assert!(!message.contains(PIN), "{damage:?}: {message}");
        });
    }

    fn damage_states(&self, each: usize) {
        for path in self.files.keys().filter(|path| **path != self.file()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut rest = self.all.clone();
            rest.states.remove(name.split_once('-').unwrap().0).unwrap();
            self.damage(path, each, |damage, found| {
                let (found, refused) = found.unwrap_or_else(|message| panic!("{damage:?} of {name}: {message}"));
                assert!(found == rest, "{damage:?} of {name}");
                assert!(refused.len() == 1 && refused[0].contains(name), "{damage:?} of {name}: {refused:?}");
            });
        }
    }
}

#[test]
fn of_a_file_with_one_session() {
    Sample::new(1, &[]).damage_file(2500);
}

#[test]
fn of_a_file_with_some_sessions() {
    Sample::new(12, &[0, 40]).damage_file(2500);
}

#[test]
fn of_a_file_with_many_sessions() {
    Sample::new(150, &[]).damage_file(1000);
}

#[test]
fn of_short_states() {
    Sample::new(3, &[0, 40]).damage_states(1250);
}

#[test]
fn of_long_states() {
    Sample::new(3, &[1500, 70_000]).damage_states(750);
}
