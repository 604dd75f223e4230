//! Sessions come back after a restart: first all of them, which costs a map entry each, and then their conductors. Those of lazy types wait for
//! their first event; of the others so many are made at a time that the threads have enough to do, and an event of any session finds its turn
//! between them. One that hangs holds up its own place among those alone, until its deadline.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, interval_at};

use super::{Caller, Manager, Session, event::What, session::State, status::Phase};
use crate::{
    conductors::{
        Trouble,
        catalog::{Catalog, Type},
    },
    store::StoredSession,
};

/// Conductors that are being made at a time.
const AT_ONCE: usize = 256;
/// Before the next try where the lane of a slow type has no room.
const WHERE_FULL: Duration = Duration::from_millis(100);
/// Between two lines of the log about how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

impl Manager {
    /// Takes over what was stored.
    pub(super) fn restore(&self, stored: Vec<Arc<StoredSession>>) {
        let catalog = self.catalog();
        let mut missing = BTreeMap::<Arc<str>, Arc<Type>>::new();
        let mut parked = BTreeMap::<Arc<str>, (usize, Arc<str>)>::new();
        for record in stored {
            let kind = catalog.get(&record.type_name).cloned().unwrap_or_else(|| {
                let name = &record.type_name;
                missing.entry(name.clone()).or_insert_with(|| Arc::new(Catalog::missing(name))).clone()
            });
            if let Err(reason) = &kind.plugin {
                parked.entry(kind.name.clone()).or_insert_with(|| (0, reason.clone())).0 += 1;
            }
            self.directory.add(Session::new(record, kind, self.world.clone(), Phase::Open));
        }
        for (kind, (sessions, reason)) in parked {
            tracing::error!(r#type = %kind, sessions, %reason, "sessions are parked until their type has its plugin again and it is loaded");
        }
    }

    /// Makes the conductors of restored sessions whose types are not lazy, in the background. Called once the broker serves,
    /// so that they can publish.
    pub fn start(self: &Arc<Self>) {
        let sessions = self.directory.all();
        sessions.iter().for_each(|session| self.set_timers(session));
        self.run_timers();
        self.run_expiry();
        self.make_soon(sessions);
    }

    /// Makes the conductors of sessions that are there already, in the background, unless those have time until their first event.
    pub(super) fn make_soon(self: &Arc<Self>, mut sessions: Vec<Arc<Session>>) {
        sessions.retain(|session| session.kind().plugin.as_ref().is_ok_and(|plugin| !plugin.manifest.lazy));
        if !sessions.is_empty() {
            let manager = Arc::downgrade(self);
            self.world.pool.runtime().spawn(async move {
                let (all, began) = (sessions.len(), Instant::now());
                let mut progress = interval_at(began + PROGRESS, PROGRESS);
                let makings = stream::iter(sessions).map(|session| {
                    let manager = manager.clone();
                    async move { make_one(&session, &manager).await }
                });
                let mut makings = std::pin::pin!(makings.buffer_unordered(AT_ONCE));
                let (mut over, mut made) = (0, 0);
                loop {
                    tokio::select! {
                        one = makings.next() => match one {
                            Some(is_made) => (over, made) = (over + 1, made + usize::from(is_made)),
                            None => break,
                        },
                        _ = progress.tick() => tracing::info!(made, left = all - over, "making the conductors of stored sessions"),
                    }
                }
                let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(made, parked = all - made, millis, "the conductors of stored sessions are made");
            });
        }
    }
}

/// Whether it has a conductor afterwards. Where it has not, that is told where it failed.
async fn make_one(session: &Arc<Session>, manager: &Weak<Manager>) -> bool {
    while manager.upgrade().is_some_and(|manager| !manager.is_stopping()) {
        match session.ask_in_turn(What::Make(Some(Caller::host()))).await {
            // Its type turned out to be slow, and as many wait for its threads as may: others than these can be told to come again.
            Err(Trouble::Overloaded) => tokio::time::sleep(WHERE_FULL).await,
            // No thread comes back soon, if ever.
            Err(trouble @ Trouble::Quarantined(_)) => {
                if session.lock().state == State::Idle {
                    session.park(&trouble);
                }
                break;
            }
            Err(error) => {
                tracing::debug!(session = %session.id(), %error, "the conductor was not made");
                break;
            }
            Ok(_) => break,
        }
    }
    session.status().is_live()
}
