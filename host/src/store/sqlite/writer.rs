//! The thread that owns the sessions and the database.
//!
//! A transaction takes what is queued when it begins, and does not wait for more. While it is made durable, whoever comes queues up and shares the next one: so
//! groups grow with the load by themselves. A wait would delay a single caller, who has nobody to share with, by all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::mpsc,
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::{
    super::{
        Applied, Change, SavedState, StoreError,
        change::{Content, Undo},
        lock::FileLock,
        queue::{Part, State, Trouble, Work},
    },
    check::{io_error, words},
    rows::{self, Tally},
};
use crate::sessions::SessionId;

/// As many changes as share a transaction.
const GROUP: usize = 256;

/// As much saved state as shares one, in bytes, so that who changes a session need not wait for all that is saved.
const GROUP_BYTES: usize = 4 << 20;

/// What the thread owns.
pub(super) struct Writer {
    content: Content,
    db: Connection,
    /// As it is in the database.
    tally: Tally,
    trouble: Trouble,
    /// A commit failed: what it was to write may be in the log, where a start would find it, until a later one takes its place there. Or the log is
    /// of a host that was killed, and may not be durable.
    unsettled: bool,
    /// Whether what failed took place all the same is still to be found out.
    doubt: bool,
    retry: Duration,
    _lock: FileLock,
}

/// The rows that a group of changes concerns.
#[derive(Default)]
struct Concerned {
    sessions: BTreeSet<SessionId>,
    resting: BTreeSet<SessionId>,
    /// Nothing takes it away.
    states: BTreeMap<SessionId, Option<SavedState>>,
}

impl Concerned {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.resting.is_empty() && self.states.is_empty()
    }
}

impl Writer {
    pub(super) fn new(
        db: Connection,
        content: Content,
        tally: Tally,
        trouble: Trouble,
        unsettled: bool,
        retry: Duration,
        lock: FileLock,
    ) -> Self {
        Self { content, db, tally, trouble, unsettled, doubt: false, retry, _lock: lock }
    }

    pub(super) fn run(mut self, queue: &mpsc::Receiver<Work>) {
        let mut end = None;
        while end.is_none() {
            let Some(mut next) = self.next(queue) else { break };
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let then = loop {
                match next {
                    Work::Change(change, answer) => {
                        if let Change::Save { state, .. } = &change {
                            bytes += state.bytes.len();
                        }
                        batch.push((change, answer));
                    }
                    other => break Some(other),
                }
                if batch.len() >= GROUP || bytes >= GROUP_BYTES {
                    break None;
                }
                match queue.try_recv() {
                    Ok(more) => next = more,
                    Err(_) => break None,
                }
            };
            self.commit(batch);
            match then {
                // Whoever dropped the future does not want to know.
                Some(Work::State(id, answer)) => drop(answer.send(self.state(id))),
                Some(Work::Shutdown(answer)) => end = Some(answer),
                #[cfg(test)]
                Some(Work::Run(run)) => run(&self.db),
                _ => {}
            }
        }
        if self.unsettled {
            self.write_again();
        }
        let Self { db, _lock: lock, .. } = self;
        // All of the log is in the database then, and it goes.
        if let Err((_, error)) = db.close() {
            tracing::warn!(error = words(&error), "the session store is not closed in order; the next start reads its log");
        }
        // The lock goes before the answer, so that whoever waited for it can open the file at once.
        drop(lock);
        if let Some(answer) = end {
            // Whoever dropped the future does not want to know.
            let _ = answer.send(());
        }
    }

    fn next(&mut self, queue: &mpsc::Receiver<Work>) -> Option<Work> {
        let (trouble, retry) = (self.trouble.clone(), self.retry);
        trouble.next(queue, retry, || {
            if self.write_again() {
                self.trouble.settle(Part::Sessions);
            }
        })
    }

    fn commit(&mut self, batch: Vec<(Change, oneshot::Sender<Applied>)>) {
        if batch.is_empty() {
            return;
        }
        let mut undo: Vec<Undo> = Vec::new();
        let mut concerned = Concerned::default();
        let mut answers = Vec::with_capacity(batch.len());
        for (change, _) in &batch {
            let (answer, step) = self.content.apply(change);
            match (change, &answer) {
                (Change::Save { id, state }, Ok(_)) => drop(concerned.states.insert(*id, Some(state.clone()))),
                (Change::Close(id), Ok(_)) => drop(concerned.states.insert(*id, None)),
                _ => {}
            }
            answers.push(answer);
            if let Some(step) = step {
                concerned.sessions.insert(step.id);
                concerned.resting.extend(step.resting.ids());
                undo.push(step);
            }
        }
        if !concerned.is_empty() || self.unsettled || self.doubt {
            match self.write(&concerned) {
                Ok(()) => self.trouble.settle(Part::Sessions),
                Err(error) => {
                    self.content.take_back(undo);
                    let why = self.trouble.complain(Part::Sessions, error.to_string().into());
                    if self.unsettled {
                        self.write_again();
                    }
                    let unsure = self.unsettled || self.doubt;
                    answers = batch.iter().map(|(change, _)| self.content.refuse(change, &why, unsure)).collect();
                }
            }
        }
        for ((_, to), answer) in batch.into_iter().zip(answers) {
            // Whoever dropped the future does not want to know either; the change stands.
            let _ = to.send(answer);
        }
    }

    /// A transaction that changes nothing, on nobody's behalf; true where that worked. The trouble it came from stays on show until a change
    /// or a later try succeeds.
    fn write_again(&mut self) -> bool {
        match self.write(&Concerned::default()) {
            Ok(()) => true,
            Err(error) => {
                self.trouble.complain(Part::Sessions, error.to_string().into());
                false
            }
        }
    }

    fn write(&mut self, concerned: &Concerned) -> io::Result<()> {
        self.resolve()?;
        let was_unsettled = self.unsettled;
        let written = self.transact(concerned);
        let tally = match written {
            Ok(tally) => tally,
            Err(error) => {
                self.doubt = true;
                // Where this fails as well, the next one begins with it.
                let _ = self.resolve();
                return Err(io_error(&error));
            }
        };
        (self.tally, self.unsettled) = (tally, false);
        if was_unsettled {
            // What was refused is still in the log, behind its end. Where a reader is in the way it stays there, and is no harm.
            // The next change begins the log anew. It is not cut: after a power cut an older -shm may still tell of its frames, and a start that misses them refuses.
            let _ = self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        }
        Ok(())
    }

    fn transact(&mut self, concerned: &Concerned) -> rusqlite::Result<Tally> {
        let Self { db, tally, content, unsettled, .. } = self;
        let transaction = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let mut tally = *tally;
        for id in &concerned.sessions {
            tally.put_session(db, *id, content.sessions.get(id).map(|session| &**session))?;
        }
        for id in &concerned.resting {
            tally.put_resting(db, *id, content.resting.get(*id))?;
        }
        for (id, state) in &concerned.states {
            tally.put_state(db, *id, state.as_ref())?;
        }
        tally.write(db)?;
        *unsettled = true;
        transaction.commit()?;
        Ok(tally)
    }

    /// Makes sure that what failed has not taken place: SQLite says so where it says that a commit failed, and the database says the same.
    fn resolve(&mut self) -> io::Result<()> {
        if !self.doubt {
            return Ok(());
        }
        let sqlite = |error: rusqlite::Error| io_error(&error);
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK").map_err(sqlite)?;
        }
        if Tally::read(&self.db).map_err(sqlite)? != self.tally {
            return Err(io::Error::other(
                "a change that failed is in the database all the same, or another program has written to it; restart the host",
            ));
        }
        self.doubt = false;
        Ok(())
    }

    fn state(&self, id: SessionId) -> State {
        rows::state(&self.db, id).map_err(|error| StoreError::State(id, error.to_string().into()))
    }
}
