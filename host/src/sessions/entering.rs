//! Who comes in, and what opens a session: its pin, its link, what a client comes back with.

use std::{io, net::SocketAddr, sync::Arc};

use super::{
    Caller, Manager, Pin, Session, SessionId,
    manager::{Joined, Refused, to_its_end},
};
use crate::{
    joins::{
        Candidate, Denied, Shown,
        saved::{Found, Saved},
    },
    store::{Change, StoreError},
};

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Wrong => Self::Credentials,
            Denied::Limited(millis) => Self::Limited { seconds: millis.div_ceil(1000) },
        }
    }
}

impl Manager {
    /// Lets a client in that shows what opens the session. The caller has checked the name of the client.
    ///
    /// # Errors
    /// [`Refused::Credentials`], the same for an unknown session, a wrong pin and one that is guarded; [`Refused::Limited`]; [`Refused::Store`].
    pub async fn join(self: &Arc<Self>, id: Option<SessionId>, shown: Shown, client_id: String, caller: Caller) -> Result<Joined, Refused> {
        self.check_running()?;
        let session = id.and_then(|id| self.get(id));
        let record = session.as_ref().map(|session| session.record());
        let candidate = session.as_ref().zip(record.as_ref()).map(|(session, record)| Candidate { record, budget: &session.pin_budget });
        let from = caller.peer.as_ref().map(SocketAddr::ip);
        let judged = self.world.joins.judge(id, candidate, &shown, &client_id, from, self.world.clock.millis());
        let session = match (judged, session) {
            (Ok(()), Some(session)) => session,
            (denied, _) => {
                let denied = denied.err().unwrap_or(Denied::Wrong);
                let session = id.map(tracing::field::display);
                // Of what is over a limit there may be as much as somebody likes.
                match denied {
                    Denied::Limited(_) => tracing::debug!(session, %caller, ?denied, "a join was refused"),
                    _ => tracing::info!(session, %caller, ?denied, "a join was refused"),
                }
                return Err(denied.into());
            }
        };
        let manager = self.clone();
        to_its_end(async move { manager.join_session(&session, client_id, &caller).await }).await
    }

    /// Whether no pin of this session is believed now, since too many were wrong.
    #[must_use]
    pub fn is_pin_guarded(&self, session: &Session) -> bool {
        self.world.joins.is_guarded(&session.pin_budget, self.world.clock.millis())
    }

    /// Of how many sessions the pin is guarded.
    #[must_use]
    pub fn guarded_pins(&self) -> usize {
        let mut guarded = 0;
        self.for_each(|session| guarded += usize::from(self.is_pin_guarded(session)));
        guarded
    }

    /// Gives a session's pin a whole budget again.
    ///
    /// # Errors
    /// [`Refused::Store`] where that could not be kept; the budget is then as it was.
    pub async fn open_pin(self: &Arc<Self>, session: &Arc<Session>, caller: Caller) -> Result<(), Refused> {
        self.check_running()?;
        let (manager, session) = (self.clone(), session.clone());
        to_its_end(async move {
            let before = session.pin_budget.word();
            session.pin_budget.refill();
            if let Err(error) = manager.keep_pin_budgets_now().await {
                session.pin_budget.set(before);
                return Err(error);
            }
            tracing::info!(session = %session.id(), %caller, "the pin was opened");
            Ok(())
        })
        .await
    }

    async fn keep_pin_budgets_now(self: &Arc<Self>) -> Result<(), Refused> {
        let manager = self.clone();
        let kept = tokio::task::spawn_blocking(move || manager.keep_pin_budgets()).await;
        let kept = kept.map_err(|error| Refused::Internal(error.to_string()))?;
        kept.map_err(|error| Refused::Store(StoreError::Write(error.to_string().into())))
    }

    /// Keeps the budgets of pins over a restart, where they have changed. Blocks.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn keep_pin_budgets(&self) -> io::Result<()> {
        self.world.joins.keep(|| self.pin_budgets())
    }

    /// Gives a session another pin, with a whole budget. Its link and its resume tokens stay as they are.
    ///
    /// # Errors
    /// [`Refused::Store`], [`Refused::NoSuchSession`]; the pin is then the one it was.
    pub async fn rotate_pin(self: &Arc<Self>, session: &Arc<Session>, caller: Caller) -> Result<Pin, Refused> {
        self.check_running()?;
        let (manager, session) = (self.clone(), session.clone());
        to_its_end(async move {
            let old = session.record().pin;
            let pin = loop {
                let pin = Pin::random(manager.world.pin_digits).map_err(|error| Refused::Internal(error.to_string()))?;
                if !pin.matches(old) {
                    break pin;
                }
            };
            session.change(Change::Pin { id: session.id(), pin }).await?;
            session.pin_budget.refill();
            if let Err(error) = manager.keep_pin_budgets_now().await {
                // The pin is another one all the same, and has to be told.
                tracing::error!(session = %session.id(), %error, "after a crash the new pin may be guarded as the old one was");
            }
            tracing::info!(session = %session.id(), %caller, "the session has another pin");
            // As it is now: of two that rotate at once, both learn the one that is in force.
            Ok(session.record().pin)
        })
        .await
    }

    /// What is to be kept of the budgets of pins.
    #[must_use]
    pub fn pin_budgets(&self) -> Vec<Saved> {
        let mut budgets = Vec::new();
        self.for_each(|session| {
            let word = session.pin_budget.word();
            if word != 0 {
                budgets.push(Saved { id: session.id().packed(), created_at: session.record().created_at, word });
            }
        });
        budgets
    }

    /// Puts back what was kept. Where that is damaged, the pin of every session is guarded: it may have been.
    pub fn restore_pin_budgets(&self, found: Found) {
        if !matches!(&found, Found::Budgets(budgets) if budgets.is_empty()) {
            self.world.joins.look_again();
        }
        match found {
            Found::Budgets(budgets) => {
                for Saved { id, created_at, word } in budgets {
                    if let Some(session) = SessionId::unpack(id).and_then(|id| self.get(id))
                        && session.record().created_at == created_at
                    {
                        session.pin_budget.set(word);
                    }
                }
            }
            Found::Damaged(_) => self.for_each(|session| session.pin_budget.spend()),
        }
    }

    /// Tells the log of which sessions the pin has come to be guarded.
    pub fn tell_guarded_pins(&self) {
        let now = self.world.clock.millis();
        let mut guarded = Vec::new();
        self.for_each(|session| guarded.extend(self.is_pin_guarded(session).then(|| session.id())));
        let sessions: Vec<_> = guarded.into_iter().filter_map(|id| self.get(id)).collect();
        self.world.joins.tell_guarded(sessions.iter().map(|session| (session.id(), &session.pin_budget)), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::place::{NOW, Place, id, stored};

    fn join(place: &Place, shown: Shown, client: &str) -> Result<Joined, Refused> {
        place.run(place.manager.join(Some(id("111111")), shown, client.to_owned(), Caller::host()))
    }

    fn pin(text: &str) -> Shown {
        Shown::Pin(Pin::parse(text))
    }

    fn refused<T: std::fmt::Debug>(answer: Result<T, Refused>) -> bool {
        matches!(answer, Err(Refused::Credentials))
    }

    #[test]
    fn a_guarded_pin_is_not_believed_until_it_is_opened_or_rotated_and_link_and_resume_work_meanwhile() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let session = place.manager.get(id("111111")).unwrap();
        let secret = place.manager.world().joins.secret_of(&session.record());
        let resume = join(&place, pin("424242"), "ann").unwrap().resume;
        assert!((0..10).all(|_| refused(join(&place, pin("1"), "eve"))) && place.manager.is_pin_guarded(&session));
        assert!(refused(join(&place, pin("424242"), "bob")));
        assert!(join(&place, Shown::Secret(secret.clone()), "bob").is_ok());
        assert!(join(&place, Shown::Resume(resume.clone()), "ann").is_ok());
        assert_eq!(place.manager.guarded_pins(), 1);
        place.run(place.manager.open_pin(&session, Caller::host())).unwrap();
        assert!(join(&place, pin("424242"), "bob").is_ok());
        assert!((0..10).all(|_| refused(join(&place, pin("1"), "eve"))));
        let other = place.run(place.manager.rotate_pin(&session, Caller::host())).unwrap();
        assert!(refused(join(&place, pin("424242"), "bob")) && join(&place, Shown::Pin(Some(other)), "bob").is_ok());
        assert!(join(&place, Shown::Secret(secret), "bob").is_ok() && join(&place, Shown::Resume(resume), "ann").is_ok());
    }

    #[test]
    fn who_was_sent_away_needs_pin_or_link_again() {
        let place = Place::with([stored("111111", NOW, &[])]);
        let session = place.manager.get(id("111111")).unwrap();
        let first = join(&place, pin("424242"), "ann").unwrap().resume;
        let bob = join(&place, pin("424242"), "bob").unwrap().resume;
        assert!(refused(join(&place, Shown::Resume(bob.clone()), "ann")), "it is bob's");
        place.run(place.manager.kick(&session, "ann", Caller::host())).unwrap();
        assert!(refused(join(&place, Shown::Resume(first.clone()), "ann")));
        let second = join(&place, pin("424242"), "ann").unwrap().resume;
        assert!(refused(join(&place, Shown::Resume(first), "ann")) && join(&place, Shown::Resume(second), "ann").is_ok());
        assert!(join(&place, Shown::Resume(bob), "bob").is_ok());
    }

    #[test]
    fn budgets_come_back_with_their_session_and_with_no_other() {
        let place = Place::with([stored("111111", NOW, &[]), stored("222222", NOW, &[])]);
        let session = place.manager.get(id("111111")).unwrap();
        assert!((0..10).all(|_| refused(join(&place, pin("1"), "eve"))));
        let kept = place.manager.pin_budgets();
        assert_eq!(kept.len(), 1);
        let later = Place::with([stored("111111", NOW, &[])]);
        later.manager.restore_pin_budgets(Found::Budgets(kept.clone()));
        assert!(refused(join(&later, pin("424242"), "ann")));
        let another = Place::with([stored("111111", NOW + 1, &[])]);
        another.manager.restore_pin_budgets(Found::Budgets(kept));
        assert!(join(&another, pin("424242"), "ann").is_ok());
        another.manager.restore_pin_budgets(Found::Damaged(String::new()));
        assert!(refused(join(&another, pin("424242"), "ann")));
        another.set_time(NOW + 1_000_000);
        assert!(refused(join(&another, pin("424242"), "ann")), "time alone does not help");
        assert!(session.is_open());
    }
}
