//! A store that no host works with, read and made as a whole.

use std::{io, path::Path};

use super::{
    super::{
        Loaded, OpenError,
        change::Content,
        disk::{self, RealDisk, beside},
        lock::FileLock,
        transfer::AtRest,
    },
    format, read as read_file,
    states::{self, Saves, States},
};

/// What the store in `file` holds while no host uses it; nothing where there is no such file. Neither the file nor anything beside it is changed.
pub(in crate::store) fn read(file: &Path, granted_until: u64) -> Result<Option<AtRest>, OpenError> {
    let failed = |source| OpenError::Io { file: file.to_owned(), source };
    let target = match file.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let _lock = FileLock::if_used("store", &target, beside(&target, ".lock"))?;
    let Some(text) = read_file(&target).map_err(failed)? else { return Ok(None) };
    let unusable = |problem| OpenError::Unusable { file: target.clone(), problem };
    let content = format::parse(&text, granted_until).map_err(unusable)?;
    let states = states::read_all(&states::folder(&target), &content.sessions).map_err(failed)?;
    let states = states.into_iter().collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?;
    let Loaded { sessions, resting } = content.loaded();
    Ok(Some(AtRest { sessions, resting, states }))
}

/// Puts a store into a new file, for its owner alone, durable when this returns. Its folder must be there. The file comes last: what is saved beside it counts
/// for nothing before.
pub(in crate::store) fn create(file: &Path, at_rest: &AtRest) -> io::Result<()> {
    if file.symlink_metadata().is_ok() || states::any(file)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let content = Content {
        sessions: at_rest.sessions.iter().map(|session| (session.id, session.clone())).collect(),
        resting: at_rest.resting.iter().copied().collect(),
    };
    let mut text = Vec::new();
    format::render(&mut text, &content)?;
    let made = save(file, &content, at_rest).and_then(|()| disk::write_new(file, &text));
    if made.is_err() {
        // As far as possible: an unfinished store is none.
        let _ = std::fs::remove_dir_all(states::folder(file));
    }
    made
}

fn save(file: &Path, content: &Content, at_rest: &AtRest) -> io::Result<()> {
    let mut folder = States::open(&RealDisk, file, &content.sessions)?;
    // Few at once: each is in memory a second time.
    for group in at_rest.states.chunks(super::GROUP) {
        let saves: Saves =
            group.iter().filter_map(|(id, state)| Some((*id, (content.sessions.get(id)?.created_at, state.clone())))).collect();
        if let Some(why) = folder.save(&RealDisk, saves).into_values().next() {
            return Err(io::Error::other(why.to_string()));
        }
    }
    Ok(())
}
