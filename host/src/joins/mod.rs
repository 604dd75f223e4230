//! Who may join: what a device shows is judged here, and how often it may be wrong.
//!
//! Three things open a session: its **pin** (short, so it is guessed at), its **join secret** (128 bits, in a link or a QR code), and a **resume token** (what a join gave
//! the same client). Two budgets stand before the pin:
//!
//! - **of the source** (an IPv4 address, a /64 of IPv6): so many failures, and so many successes, whatever they are about. Over it the answer is 429. A secret or a resume token that is
//!   right is let in however many failures the source had: neither can be guessed.
//! - **of the pin**, in the session itself. Where it is spent the pin is *guarded*: a right pin is answered like a wrong one. Link and resume token still work. It ends with
//!   time, or once `total` failures were counted, only when an administrator opens or rotates the pin.
//!
//! **Nothing tells an unknown id from a wrong pin**: each look does the same work in both cases (one charge, one comparison in constant time), against stand-ins where
//! there is no session. A failure at an id that no session has uses up nothing that a later session could need: a new session begins with a whole budget. A guesser gains nothing by that,
//! since its pin is drawn anew: what he learnt under the id before says nothing about it. So each pin that was ever drawn is guessed by `total` tries at most, `total / 10^digits`.
//!
//! All that outsiders can make this keep has a fixed size: the table of sources and the stand-ins; a budget is part of a session, which administrators make.

pub mod budget;
pub mod saved;
pub mod secret;
mod sources;

use std::{
    collections::{HashSet, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use self::{
    budget::{PinBudget, PinLimits, Rate},
    saved::Saved,
    secret::{Bound, Secrets},
    sources::{Rates, Sources},
};
use crate::{
    config::Joins as Settings,
    networks::{Networks, Source},
    sessions::{Pin, SessionId},
    store::StoredSession,
};

/// Budgets of ids that no session has, which are charged and never asked.
const STAND_INS: usize = 1 << 12;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// What a device shows. Its `Debug` form says of what kind it is, and no more.
#[derive(Clone)]
pub enum Shown {
    /// A pin; nothing where it cannot be one.
    Pin(Option<Pin>),
    /// The join secret of a link.
    Secret(String),
    /// A resume token.
    Resume(String),
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pin(_) => "Pin(…)",
            Self::Secret(_) => "Secret(…)",
            Self::Resume(_) => "Resume(…)",
        })
    }
}

/// Why it is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// What was shown does not open the session, or there is none.
    Wrong,
    /// The source has had too many; so many milliseconds from now it may try again.
    Limited(u64),
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Joins that were refused for what was shown.
    pub refused: AtomicU64,
    /// Joins that were refused since their source had too many.
    pub limited: AtomicU64,
    /// How often a pin came to be guarded.
    pub guarded: AtomicU64,
}

/// A session that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// As it is stored.
    pub record: &'a StoredSession,
    /// What is left of its pin's budget.
    pub budget: &'a PinBudget,
}

/// Judges joins. One per host.
#[derive(Debug)]
pub struct Joins {
    secrets: Secrets,
    pin_limits: PinLimits,
    rates: Rates,
    exempt: Networks,
    sources: Sources,
    stand_ins: Vec<PinBudget>,
    hash: RandomState,
    /// What was counted.
    pub counts: Counts,
    /// Where budgets are kept over a restart, and what is there.
    file: Option<PathBuf>,
    kept: Mutex<Option<Vec<Saved>>>,
    /// Whether pins were shown, or budgets came from before a restart, since somebody looked.
    pins_shown: AtomicBool,
    /// Sessions of which it was said that their pin is guarded.
    told: Mutex<HashSet<SessionId>>,
}

impl Joins {
    /// With these settings and this key.
    #[must_use]
    pub fn new(settings: &Settings, secrets: Secrets) -> Self {
        let pin_limits = PinLimits {
            rate: Rate::new(settings.pin_failures_burst, settings.pin_failures_per_hour, HOUR),
            total: settings.pin_failures_total,
        };
        let rates = Rates {
            successes: Rate::new(settings.source_joins_burst, settings.source_joins_per_minute, MINUTE),
            failures: Rate::new(settings.source_failures_burst, settings.source_failures_per_minute, MINUTE),
        };
        Self {
            secrets,
            pin_limits,
            rates,
            exempt: settings.exempt.clone(),
            sources: Sources::new(),
            stand_ins: (0..STAND_INS).map(|_| PinBudget::default()).collect(),
            hash: RandomState::new(),
            counts: Counts::default(),
            file: None,
            kept: Mutex::default(),
            pins_shown: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    /// Keeps the budgets of pins in this file.
    #[must_use]
    pub fn kept_in(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// Whether pins were shown since this was asked last: otherwise there is no budget to keep, and no pin has come to be guarded. So a host at which
    /// nobody joins goes through no sessions.
    pub fn were_pins_shown(&self) -> bool {
        self.pins_shown.swap(false, Ordering::Acquire)
    }

    /// What was found after [`Joins::were_pins_shown`] is to be looked at again.
    pub fn look_again(&self) {
        self.pins_shown.store(true, Ordering::Release);
    }

    /// Keeps them as they are now, where that is not what is in the file. Blocks.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn keep(&self, budgets: impl FnOnce() -> Vec<Saved>) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        // Taken before the look, so that of two that keep at once the later has what is newer.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let budgets = budgets();
        if kept.as_ref() != Some(&budgets) {
            saved::write(file, &budgets).map_err(|e| io::Error::new(e.kind(), format!("{} cannot be written: {e}", file.display())))?;
            *kept = Some(budgets);
        }
        Ok(())
    }

    /// Whether `client_id` may come in, who shows this from there. `session` is the one of that id, where there is one. `now` is in milliseconds.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn judge(
        &self,
        id: Option<SessionId>,
        session: Option<Candidate<'_>>,
        shown: &Shown,
        client_id: &str,
        from: Option<IpAddr>,
        now: u64,
    ) -> Result<(), Denied> {
        let exempt = from.is_some_and(|from| self.exempt.contains(from));
        let source = from.filter(|_| !exempt).map(Source::of);
        let judged = self.look(id, session, shown, client_id, source, exempt, now);
        match judged {
            Ok(()) => source.into_iter().for_each(|source| self.sources.succeeded(source, self.rates, now)),
            Err(Denied::Wrong) => count(&self.counts.refused),
            Err(Denied::Limited(_)) => count(&self.counts.limited),
        }
        judged
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are looked at, and in one order")]
    fn look(
        &self,
        id: Option<SessionId>,
        session: Option<Candidate<'_>>,
        shown: &Shown,
        client_id: &str,
        source: Option<Source>,
        exempt: bool,
        now: u64,
    ) -> Result<(), Denied> {
        let rates = self.rates;
        let charge = || source.map_or(Ok(()), |source| self.sources.charge(source, rates, now)).map_err(Denied::Limited);
        if let Some(source) = source {
            self.sources.may_succeed(source, rates, now).map_err(Denied::Limited)?;
        }
        let bound = session.map_or(Bound::to_nothing(id), |session| Bound::of(session.record));
        let (right, charged) = match shown {
            Shown::Pin(pin) => {
                charge()?;
                let budget = session.map_or_else(|| self.stand_in(id), |session| session.budget);
                let left = !exempt && budget.charge(self.pin_limits, now);
                self.look_again();
                // A pin of -1 digits matches none.
                let pin = session.map_or(Pin::NEVER, |session| session.record.pin).matches(pin.unwrap_or(Pin::NONE));
                let right = pin & (left | exempt);
                if right && left {
                    budget.give_back(self.pin_limits);
                }
                (right, true)
            }
            Shown::Secret(secret) => (self.secrets.is_join_secret(bound, secret), false),
            Shown::Resume(token) => {
                let count = self.secrets.resumes(bound, client_id, token);
                (count.is_some_and(|count| session.is_some_and(|session| session.record.may_resume(client_id, count))), false)
            }
        };
        // A stand-in opens nothing, whatever was shown.
        let right = right & session.is_some();
        match (right, charged) {
            (true, true) => source.into_iter().for_each(|source| self.sources.give_back(source, rates, now)),
            (false, false) => charge()?,
            (true, false) | (false, true) => {}
        }
        if right { Ok(()) } else { Err(Denied::Wrong) }
    }

    fn stand_in(&self, id: Option<SessionId>) -> &PinBudget {
        let hash = self.hash.hash_one(id);
        // The remainder is below the length.
        &self.stand_ins[usize::try_from(hash % STAND_INS as u64).unwrap_or_default()]
    }

    /// The join secret of a session.
    #[must_use]
    pub fn secret_of(&self, record: &StoredSession) -> String {
        self.secrets.join_secret(Bound::of(record))
    }

    /// What a client that has just joined comes back with.
    #[must_use]
    pub fn resume_of(&self, record: &StoredSession, client_id: &str) -> String {
        self.secrets.resume(Bound::of(record), client_id, record.kicks())
    }

    /// Whether no pin is believed now.
    #[must_use]
    pub fn is_guarded(&self, budget: &PinBudget, now: u64) -> bool {
        budget.is_spent(self.pin_limits, now)
    }

    /// Says of which sessions the pin has come to be guarded since the last time. Apart from the joins themselves: a line in the log would take them time,
    /// and only where there is a session.
    pub(crate) fn tell_guarded<'a>(&self, budgets: impl Iterator<Item = (SessionId, &'a PinBudget)>, now: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *told);
        for (id, budget) in budgets.filter(|(_, budget)| self.is_guarded(budget, now)) {
            told.insert(id);
            if before.contains(&id) {
                continue;
            }
            count(&self.counts.guarded);
            let until = if budget.is_spent_for_good(self.pin_limits) {
                "until an administrator opens it (POST /v1/sessions/ID/pin/open) or rotates it (…/pin/rotate)"
            } else {
                "for some minutes; an administrator can open it earlier (POST /v1/sessions/ID/pin/open)"
            };
            tracing::warn!(session = %id, "too many wrong pins: the pin is guarded, so nobody joins with it, {until}. Join links and resume tokens work");
        }
    }
}

impl Bound {
    fn of(record: &StoredSession) -> Self {
        Self { id: record.id, created_at: record.created_at }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
