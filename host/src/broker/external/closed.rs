//! Sessions that ended: what is retained of them at the broker is to be cleared, now or when the link is back, and what comes
//! from clients that live on is nobody's.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::sessions::SessionId;

/// How many ends are remembered.
const MOST: usize = 4096;

/// How far the clearing of one session is.
#[derive(Debug)]
enum State {
    /// To be cleared; whoever waits for it.
    Due(Vec<oneshot::Sender<()>>),
    /// The broker is telling what is retained.
    UnderWay(Vec<oneshot::Sender<()>>),
    /// What was retained is cleared.
    Cleared,
}

/// Bounded: the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Closed {
    states: HashMap<SessionId, State>,
    /// In the order of their ends: those in `states`, each once.
    order: VecDeque<SessionId>,
    /// In the order in which they are to be cleared; those that are not [`State::Due`] count for nothing.
    due: VecDeque<SessionId>,
    /// Ids that are in use again: no subscription of a clearing may stay for them.
    reopened: Vec<SessionId>,
}

impl Closed {
    /// The session ended. What is answered when it is cleared; dropped where that is given up.
    pub(super) fn close(&mut self, session: SessionId) -> oneshot::Receiver<()> {
        let (answer, cleared) = oneshot::channel();
        if self.states.insert(session, State::Due(vec![answer])).is_some() {
            self.order.retain(|known| *known != session);
        }
        self.order.push_back(session);
        self.due.push_back(session);
        while self.order.len() > MOST {
            let Some(oldest) = self.order.pop_front() else { break };
            if !matches!(self.states.remove(&oldest), None | Some(State::Cleared)) {
                tracing::warn!(session = %oldest, "what is retained of the session at the broker is not cleared: too many others ended since");
            }
        }
        cleared
    }

    /// The id is in use again.
    pub(super) fn open(&mut self, session: SessionId) {
        if self.states.remove(&session).is_some() {
            self.order.retain(|known| *known != session);
            self.reopened.push(session);
        }
    }

    /// The ids that were given out again since this was asked last.
    pub(super) fn reopened(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.reopened)
    }

    pub(super) fn contains(&self, session: SessionId) -> bool {
        self.states.contains_key(&session)
    }

    /// Up to `most` sessions that are due, which are under way from now on.
    pub(super) fn begin(&mut self, most: usize) -> Vec<SessionId> {
        let mut begun = Vec::new();
        while begun.len() < most {
            let Some(session) = self.due.pop_front() else { break };
            if let Some(state @ State::Due(_)) = self.states.get_mut(&session)
                && let State::Due(waiting) = std::mem::replace(state, State::Cleared)
            {
                *state = State::UnderWay(waiting);
                begun.push(session);
            }
        }
        begun
    }

    /// The session is cleared.
    pub(super) fn cleared(&mut self, session: SessionId) {
        if let Some(state @ State::UnderWay(_)) = self.states.get_mut(&session)
            && let State::UnderWay(waiting) = std::mem::replace(state, State::Cleared)
        {
            for answer in waiting {
                // Gone where it waited too long.
                let _ = answer.send(());
            }
        }
    }

    /// The clearing that was under way begins anew.
    pub(super) fn interrupted(&mut self, session: SessionId) {
        if let Some(state @ State::UnderWay(_)) = self.states.get_mut(&session)
            && let State::UnderWay(waiting) = std::mem::replace(state, State::Cleared)
        {
            *state = State::Due(waiting);
            self.due.push_front(session);
        }
    }

    /// Something may have been retained since the session was cleared: it is due again. False where it is anyway.
    pub(super) fn again(&mut self, session: SessionId) -> bool {
        match self.states.get_mut(&session) {
            Some(state @ State::Cleared) => {
                *state = State::Due(Vec::new());
                self.due.push_back(session);
                true
            }
            _ => false,
        }
    }

    /// The link is down: nobody waits for it, and all is due again, since anything may be retained meanwhile.
    pub(super) fn link_lost(&mut self) {
        for state in self.states.values_mut() {
            *state = State::Due(Vec::new());
        }
        self.due.clone_from(&self.order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SessionId {
        SessionId::parse(&format!("{number:06}")).unwrap()
    }

    #[test]
    fn what_ended_is_cleared_once_and_again_after_a_lost_link() {
        let mut closed = Closed::default();
        let mut waits: Vec<_> = (0..3).map(|number| closed.close(id(number))).collect();
        assert_eq!(closed.begin(2), [id(0), id(1)]);
        closed.interrupted(id(0));
        assert_eq!(closed.begin(1), [id(0)], "its place is kept, and who waits");
        closed.cleared(id(0));
        assert!(waits[0].try_recv().is_ok());
        assert_eq!(closed.begin(9), [id(2)]);
        closed.link_lost();
        assert!(waits[1].try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed), "nobody waits on a lost link");
        assert_eq!(closed.begin(9), [id(0), id(1), id(2)], "whatever was retained meanwhile");
        closed.cleared(id(0));
        assert!(closed.again(id(0)) && !closed.again(id(0)) && !closed.again(id(1)) && !closed.again(id(7)));
        assert_eq!(closed.begin(9), [id(0)]);
    }

    #[test]
    fn an_id_that_is_given_out_again_is_not_closed() {
        let mut closed = Closed::default();
        drop(closed.close(id(1)));
        assert!(closed.contains(id(1)));
        closed.open(id(1));
        assert!(!closed.contains(id(1)) && closed.begin(9).is_empty());
        assert_eq!((closed.reopened(), closed.reopened()), (vec![id(1)], vec![]));
        closed.open(id(2));
        assert!(closed.reopened().is_empty(), "a new one was never subscribed to");
        closed.cleared(id(1));
        assert!(!closed.contains(id(1)));
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let mut closed = Closed::default();
        for number in 0..=MOST {
            drop(closed.close(id(number)));
        }
        assert!(!closed.contains(id(0)) && closed.contains(id(1)) && closed.contains(id(MOST)));
        assert_eq!((closed.states.len(), closed.order.len()), (MOST, MOST));
        // The same again moves to the end.
        drop(closed.close(id(1)));
        drop(closed.close(id(MOST + 1)));
        assert!(closed.contains(id(1)) && !closed.contains(id(2)));
    }
}
