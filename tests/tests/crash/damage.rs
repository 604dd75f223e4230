//! Files of the store with a flipped bit, or cut: the host refuses to start and leaves them as they are, or all that was acknowledged is there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use conductor_tests::{Host, Session};
use serde_json::json;

use super::{Medium, kept, known::any_number};

#[test]
fn json() {
    damage(Medium::Json);
}

#[test]
fn sqlite() {
    damage(Medium::Sqlite);
}

/// Of each store.
const FILES: usize = 50;

/// As many hosts at a time.
const AT_ONCE: usize = 3;

/// What was acknowledged: a session, and the number that it has kept.
type Acknowledged = Vec<(Session, u32)>;

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip { byte: usize, bit: u8 },
    Cut { length: usize },
}

impl Damage {
    fn any(length: usize) -> Self {
        let any = any_number();
        let byte = (any >> 16) as usize % length;
        match any % 4 {
            0 => Self::Cut { length: byte },
            _ => Self::Flip { byte, bit: (any >> 8) as u8 % 8 },
        }
    }

    fn of(self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Flip { byte, bit } => bytes[byte] ^= 1 << bit,
            Self::Cut { length } => bytes.truncate(length),
        }
        bytes
    }
}

fn damage(medium: Medium) {
    let mut host = Host::start(medium.options());
    let acknowledged: Acknowledged = (1..=5)
        .map(|number| {
            let session = host.create("echo");
            host.join(&session, "client");
            let answer = host.request(&session, "keep", json!({"number": number, "bytes": 3000}));
            assert_eq!(answer.status, 200, "{answer:?}");
            (session, number)
        })
        .collect();
    // So that what is behind it in a log, where there is one, is there.
    host.kill();
    let files = files(&host.folder().join("state"));
    let names: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
    let (next, outcomes) = (Mutex::new(0..FILES), Mutex::new((0, 0)));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(number) = { next.lock().unwrap().next() } {
                    let name = &names[number % names.len()];
                    let served = start_on(medium, &files, name, &acknowledged);
                    let mut outcomes = outcomes.lock().unwrap();
                    if served { outcomes.0 += 1 } else { outcomes.1 += 1 }
                }
            });
        }
    });
    let (served, refused) = outcomes.into_inner().unwrap();
    assert!(served + refused == FILES && refused > 0, "{served} served, {refused} refused");
}

/// Names from `folder` on, with content.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                found.push((entry.strip_prefix(folder).unwrap().to_owned(), fs::read(&entry).unwrap()));
            }
        }
    }
    // Copies of plugins are made again, and locks belong to nobody any more.
    found.retain(|(name, _)| name.to_string_lossy().starts_with("sessions.") && !name.to_string_lossy().ends_with(".lock"));
    found
}

/// Whether a host serves with this file damaged in any way; it has all that was acknowledged then.
fn start_on(medium: Medium, files: &[(PathBuf, Vec<u8>)], damaged: &Path, acknowledged: &Acknowledged) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut damage = None;
    for (name, content) in files {
        let mut content = content.clone();
        if name == damaged {
            let chosen = Damage::any(content.len());
            content = chosen.of(content);
            damage = Some((chosen, content.clone()));
        }
        fs::create_dir_all(state.join(name).parent().unwrap()).unwrap();
        fs::write(state.join(name), content).unwrap();
    }
    let (damage, content) = damage.unwrap();
    let what = format!("{damage:?} of {}", damaged.display());
    let (host, ended) = Host::try_start_in(folder, medium.options());
    if let Some(status) = ended {
        assert_eq!(status.code(), Some(1), "{what}");
        let log = host.log();
        assert!(log.contains("sessions.") && log.contains("left as it is") && !log.contains("panicked"), "{what}: {log}");
        assert!(fs::read(state.join(damaged)).unwrap() == content, "{what}: the file was touched");
        return false;
    }
    let mut without = 0;
    for (session, number) in acknowledged {
        let shown = host.show(session).json();
        assert_eq!((&shown["pin"], &shown["clients"][0]["client_id"]), (&json!(session.pin), &json!("client")), "{what}: {shown}");
        let answer = kept(&host, session);
        if answer.status == 503 {
            // Its own state is damaged: it says so, and keeps the file.
            assert!(answer.body.contains("saved state"), "{what}: {answer:?}");
            assert!(fs::read(state.join(damaged)).unwrap() == content, "{what}: the file was touched");
            without += 1;
        } else {
            assert_eq!((answer.status, &answer.json()["result"]), (200, &json!(number)), "{what}");
        }
    }
    assert!(without <= usize::from(medium.is_of_one_session(damaged)), "{what}: {without} sessions are without their state");
    true
}
