//! New code for the types: which sessions take it, and when.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::{
    Manager, Session, SessionId,
    event::What,
    manager::Refused,
    moving::{Order, Outcome},
    status::Status,
};
use crate::conductors::{
    catalog::{Catalog, Type},
    library::{Hash, Library},
};

/// Sessions that move at a time; the threads for plugin code are what they wait for.
const AT_ONCE: usize = 64;
/// Sessions of a plugin that are told by name.
pub const TOLD_SESSIONS: usize = 100;
/// Failures that are kept to be told.
const TOLD_FAILURES: usize = 100;

/// Which sessions move to new code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// None: those that live keep the code that they run.
    #[default]
    None,
    /// Those whose conductor has saved something.
    Saved,
    /// All. Where nothing was saved, a conductor begins anew.
    All,
}

/// What became of the sessions of one type.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// They run the present code now.
    pub moved: usize,
    /// They run older code still.
    pub stayed: usize,
    /// They were to move and did not.
    pub failed: usize,
    /// They had no conductor, and are tried with the present code.
    pub tried_again: usize,
    /// Why, for the first of those that failed.
    pub failures: Vec<(SessionId, Arc<str>)>,
}

impl Tally {
    fn count(&mut self, session: SessionId, outcome: Outcome) {
        match outcome {
            Outcome::Moved { .. } => self.moved += 1,
            Outcome::Stayed(_) => self.stayed += 1,
            Outcome::Failed(reason) => {
                self.failed += 1;
                if self.failures.len() < TOLD_FAILURES {
                    self.failures.push((session, reason));
                }
            }
        }
    }
}

/// By the name of the type.
pub type Tallies = BTreeMap<Arc<str>, Tally>;

/// A loaded plugin that is in use.
#[derive(Debug)]
pub struct InUse {
    /// What was loaded.
    pub library: Arc<Library>,
    /// The types whose new sessions get it.
    pub types: Vec<Arc<str>>,
    /// How many sessions run it now.
    pub sessions: usize,
    /// The first of them, [`TOLD_SESSIONS`] at most.
    pub session_ids: Vec<SessionId>,
}

impl Manager {
    /// Puts other types in place of those that are there. New sessions are of these; one that has no conductor takes the new code, and is
    /// tried again where it could not be made. Others keep what they run.
    pub fn exchange(self: &Arc<Self>, catalog: Catalog) -> Tallies {
        self.catalog.store(Arc::new(catalog));
        let catalog = self.catalog();
        let (mut tallies, mut again_all) = (Tallies::new(), Vec::new());
        for session in self.directory.all() {
            let before = session.kind().clone();
            let Some(current) = catalog.get(&before.name) else { continue };
            if Arc::ptr_eq(&before, current) {
                continue;
            }
            if let Err(reason) = &current.plugin {
                session.still_without_plugin(reason);
                continue;
            }
            let Some(again) = session.renew(current) else { continue };
            if again {
                tallies.entry(before.name.clone()).or_default().tried_again += 1;
                again_all.push(session.clone());
            }
            session.hear_timers(&before, again);
        }
        self.watch_all();
        self.make_soon(again_all);
        tallies
    }

    /// Moves the sessions that run other code than their type has now, and counts into `tallies` what became of them; without a move, how
    /// many there are. A panic in the present code is not undone by making it again, so sessions that are faulted in it stay so.
    pub async fn move_all(self: &Arc<Self>, which: Which, mut tallies: Tallies) -> Tallies {
        let catalog = self.catalog();
        let runs_other_code = |session: &Arc<Session>| {
            let kind = session.kind();
            let old = catalog.get(&kind.name).is_none_or(|current| !Arc::ptr_eq(&kind, current));
            // One whose conductor is being made may be of the code before: its order waits behind that.
            let has_one = session.has_conductor() || matches!(session.status(), Status::Faulted(_));
            old && session.is_open() && has_one
        };
        let sessions: Vec<_> = self.directory.all().into_iter().filter(runs_other_code).collect();
        let moves = stream::iter(sessions).map(|session| async move {
            let outcome = match which {
                Which::None => Outcome::Stayed("no session moves".into()),
                Which::Saved | Which::All => move_one(&session, which == Which::Saved).await,
            };
            (session.kind().name.clone(), session.id(), outcome)
        });
        let mut moves = std::pin::pin!(moves.buffer_unordered(AT_ONCE));
        while let Some((name, id, outcome)) = moves.next().await {
            tallies.entry(name).or_default().count(id, outcome);
        }
        tallies
    }

    /// Moves one session to the code that its type has now. One whose conductor panicked, or could not be made, is made again.
    ///
    /// # Errors
    /// [`Refused::NoSuchSession`]; [`Refused::Stopping`].
    pub async fn move_session(&self, id: SessionId) -> Result<Outcome, Refused> {
        self.check_running()?;
        let session = self.get(id).ok_or(Refused::NoSuchSession)?;
        Ok(move_one(&session, false).await)
    }

    /// The plugins that are in use: by a type, or by a session that runs it still. Looks at every session, and holds no lock for longer than
    /// at one of them.
    #[must_use]
    pub fn plugins(&self) -> Vec<InUse> {
        let mut found = BTreeMap::<Hash, InUse>::new();
        fn of<'a>(found: &'a mut BTreeMap<Hash, InUse>, kind: &Type) -> Option<&'a mut InUse> {
            let library = &kind.plugin.as_ref().ok()?.library;
            Some(match found.entry(library.hash()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(InUse { library: library.clone(), types: Vec::new(), sessions: 0, session_ids: Vec::new() })
                }
            })
        }
        for kind in self.catalog().iter() {
            if let Some(of) = of(&mut found, kind) {
                of.types.push(kind.name.clone());
            }
        }
        for session in self.directory.all() {
            if let Some(of) = session.running().and_then(|kind| of(&mut found, &kind)) {
                of.sessions += 1;
                if of.session_ids.len() < TOLD_SESSIONS {
                    of.session_ids.push(session.id());
                }
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by(|a, b| (a.library.file(), a.types.is_empty()).cmp(&(b.library.file(), b.types.is_empty())));
        found
    }
}

async fn move_one(session: &Arc<Session>, only_saved: bool) -> Outcome {
    let (told, outcome) = oneshot::channel();
    // Behind the event that is being handled; a session that is busy for longer moves when its turn comes, and who asked waits no more.
    let mut longest = session.longest_move() + session.kind().deadline;
    if session.kind().lane.quarantine().is_some() {
        // No thread for its code comes back soon, if ever. The order waits in the mailbox, and who asked does not.
        longest = Duration::ZERO;
    }
    let moving = session.ask_in_turn(What::Move(Order { only_saved, told }));
    match tokio::time::timeout(longest, moving).await {
        Err(_) => Outcome::Failed("it is busy; it moves when its turn comes".into()),
        Ok(Err(trouble)) => Outcome::Failed(trouble.to_string().into()),
        Ok(Ok(_)) => outcome.await.unwrap_or_else(|_| Outcome::Failed("the session is closed".into())),
    }
}
