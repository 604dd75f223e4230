//! How others tell a session's conductor an event: with an answer or without.

use std::{future::Future, sync::Arc, time::Duration};

use conductor_abi::wire::event;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Session,
    event::{Event, What},
    session::Answer,
    world::count,
};
use crate::conductors::Trouble;

impl Session {
    /// Tells the conductor an event and waits for its answer, until `timeout` has passed, the time in the mailbox included.
    ///
    /// # Errors
    /// Why there is no answer, or the conductor's own error.
    pub(super) async fn ask(self: &Arc<Self>, what: What, timeout: Duration) -> Result<Vec<u8>, Trouble> {
        let (answer, answered) = oneshot::channel();
        let (name, deadline) = (what.name(), Instant::now() + timeout);
        self.post(Event { what, deadline, time: self.world().clock.millis(), answer: Some(answer) })?;
        let answer = match tokio::time::timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or(Err(Trouble::Closed)),
            Err(_) => Err(Trouble::Deadline),
        };
        if self.is_late(&answer) {
            tracing::warn!(session = %self.id(), event = name, "the conductor did not answer within its deadline");
        }
        answer
    }

    /// Tells the conductor an event **before it returns**, and resolves when that is over, however long it waits in the mailbox.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) fn ask_in_turn(self: &Arc<Self>, what: What) -> impl Future<Output = Result<Vec<u8>, Trouble>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.kind().deadline;
        let posted = self.post(Event { what, deadline, time: self.world().clock.millis(), answer: Some(answer) });
        let session = self.clone();
        async move {
            posted?;
            let answer = answered.await.unwrap_or(Err(Trouble::Closed));
            session.is_late(&answer);
            answer
        }
    }

    /// Answers who asked; an error that nobody waits for is logged.
    pub(super) fn tell(&self, answer: Option<Answer>, name: &str, result: Result<Vec<u8>, Trouble>) {
        match (answer, result) {
            (Some(answer), result) => {
                if let Err(error) = &result {
                    tracing::debug!(session = %self.id(), event = name, %error, "the conductor failed");
                }
                // Who asked may have gone meanwhile; then nobody wants the answer.
                drop(answer.send(result));
            }
            (None, Ok(_) | Err(Trouble::Closed)) => {}
            // Told where it was parked, once.
            (None, Err(Trouble::Unavailable(_))) => {
                if name == event::MESSAGE {
                    count(&self.world().counts.dropped);
                }
            }
            (None, Err(error)) => {
                if matches!(error, Trouble::Deadline) {
                    self.kind().lane.tally.deadlines.add();
                }
                tracing::warn!(session = %self.id(), event = name, %error, "the conductor failed");
            }
        }
    }

    /// Tells the conductor how the link to an external broker is, if it wants to know.
    pub(super) fn tell_link(self: &Arc<Self>) {
        if self.has_conductor() {
            self.inform(What::Link);
        }
    }

    /// Tells the conductor an event that nobody waits for.
    pub(super) fn post_alone(self: &Arc<Self>, what: What) {
        let (name, deadline) = (what.name(), Instant::now() + self.kind().deadline);
        match self.post(Event { what, deadline, time: self.world().clock.millis(), answer: None }) {
            // Without a conductor by now, there is nobody to tell.
            Ok(()) | Err(Trouble::Faulted(_) | Trouble::Unavailable(_) | Trouble::Closed) => {}
            Err(error) => tracing::warn!(session = %self.id(), event = name, %error, "the conductor was not told"),
        }
    }

    /// Whether the deadline was missed; that is counted.
    fn is_late(&self, answer: &Result<Vec<u8>, Trouble>) -> bool {
        let late = matches!(answer, Err(Trouble::Deadline));
        if late {
            self.kind().lane.tally.deadlines.add();
        }
        late
    }
}
