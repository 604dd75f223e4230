//! How a rig tells its conductor an event, and what follows from that: the order and the rules are those of the host.

use std::time::Duration;

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice},
    contract::{Event, Reply},
    rules,
    wire::{CallerMeta, EventMeta, code, event, leave},
};

use super::{Logged, Rig, fake::lock};
use crate::{Error, Result, error::from_failure};

/// Who asks where the test says nothing: an address that is nobody's.
pub(super) const PEER: &str = "192.0.2.1:50000";

/// Who is behind an event.
pub(super) fn caller(port: &str, peer: &str) -> EventMeta {
    let (mut meta, mut caller) = (EventMeta::default(), CallerMeta::default());
    (caller.port, caller.peer) = (port.to_owned(), Some(peer.to_owned()));
    meta.caller = Some(caller);
    meta
}

impl Rig {
    /// Tells the conductor, if it has this hook and is there, what nobody waits for.
    pub(super) fn tell(&mut self, kind: &str, subject: &str, client: &str, meta: EventMeta) {
        if self.faulted.is_none() {
            // Logged there.
            let _ = self.drive(kind, subject, client, &[], meta);
        }
    }

    /// Tells the conductor, if it has this hook. An error is logged as in the host, and the test gets it, too.
    pub(super) fn drive(&mut self, kind: &str, subject: &str, client: &str, body: &[u8], meta: EventMeta) -> Result<()> {
        let was_over = self.faulted.is_some() || self.is_closed();
        let told = self.tell_hook(kind, subject, client, body, meta);
        if let Some(error) = told.as_ref().err().filter(|_| !was_over) {
            self.log(2, format!("the conductor failed at {kind}: {}", error.message()));
        }
        told.map(drop)
    }

    /// Tells the conductor, if it has this hook; nothing otherwise.
    pub(super) fn tell_hook(&mut self, kind: &str, subject: &str, client: &str, body: &[u8], meta: EventMeta) -> Result<Option<Vec<u8>>> {
        if !self.hooks.iter().any(|hook| hook == kind) {
            return Ok(None);
        }
        self.event(kind, subject, client, body, meta).map(Some)
    }

    /// A client is in the session no more.
    pub(super) fn let_go(&mut self, client: &str, reason: &str) {
        lock(&self.state).clients.retain(|member| member.id != client);
        self.tell(event::LEFT, reason, client, EventMeta::default());
    }

    /// What the last event led to, in the order in which the host would tell it.
    pub(super) fn follow_up(&mut self) {
        // What follows from these is told by the same loop.
        if !std::mem::replace(&mut self.following, true) {
            self.tell_what_follows();
            self.following = false;
        }
    }

    fn tell_what_follows(&mut self) {
        loop {
            let leaving = std::mem::take(&mut lock(&self.state).leaving);
            for client in &leaving {
                self.tell(event::LEFT, leave::KICKED, client, EventMeta::default());
            }
            let due = {
                let mut state = lock(&self.state);
                let now = state.now;
                let live = !(state.closed || state.closing);
                live.then(|| state.next_timer(now)).flatten().map(|(_, name)| (state.fire(&name), name))
            };
            match due {
                Some((late, name)) => {
                    let mut meta = EventMeta::default();
                    meta.late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                    self.tell(event::TIMER, &name, "", meta);
                }
                None if leaving.is_empty() => return,
                None => {}
            }
        }
    }

    /// How long an event of this kind may take.
    pub(super) fn deadline_of(&self, kind: &str) -> Duration {
        if kind == event::CLOSE { rules::CLOSE_DEADLINE } else { self.deadline }
    }

    pub(super) fn event(&mut self, kind: &str, subject: &str, client: &str, body: &[u8], mut meta: EventMeta) -> Result<Vec<u8>> {
        let deadline = self.deadline_of(kind);
        {
            let mut state = lock(&self.state);
            meta.time = state.millis();
            meta.deadline = u64::try_from(deadline.as_millis()).ok();
            if state.closing && kind != event::CLOSE {
                return Err(Error::of(code::CLOSED, rules::CLOSED));
            }
            if self.faulted.is_none() && self.conductor.is_some() {
                state.told.insert(kind.to_owned());
            }
        }
        let meta = serde_json::to_vec(&meta)?;
        if let Some(fault) = &self.faulted {
            return Err(fault.clone());
        }
        let mut conductor = self.conductor.take().ok_or_else(|| Error::of(code::CLOSED, rules::CLOSED))?;
        let event = Event {
            kind: kind.into(),
            subject: subject.into(),
            client: client.into(),
            meta: RSlice::from_slice(&meta),
            body: RSlice::from_slice(body),
        };
        let reply = self.run(conductor.handle(event), deadline);
        // A task that panicked meanwhile has ended the conductor.
        if self.faulted.is_none() {
            self.conductor = Some(conductor);
        } else {
            drop(conductor);
        }
        let answer = self.answer(reply);
        if kind != event::CLOSE {
            self.follow_up();
        }
        answer
    }

    /// Nothing as a reply: it was given up.
    fn answer(&mut self, reply: Option<Reply>) -> Result<Vec<u8>> {
        match reply {
            None => Err(Error::of(code::DEADLINE, rules::GIVEN_UP)),
            Some(ROk(bytes)) => {
                rules::reply(bytes.len()).map_err(|reason| Error::of(code::INTERNAL, reason))?;
                Ok(bytes.to_vec())
            }
            Some(RErr(failure)) => {
                let error = from_failure(&failure);
                if failure.code == code::PANIC {
                    self.fault(error.clone());
                }
                Err(error)
            }
        }
    }

    pub(super) fn task_ended(&mut self, reply: Reply) {
        let RErr(failure) = reply else { return };
        match failure.code {
            code::PANIC => self.fault(from_failure(&failure)),
            code::CLOSED | code::CANCELLED => {}
            _ => self.log(2, format!("a task of the conductor failed: {}", failure.message)),
        }
    }

    /// The conductor panicked: no further event reaches it, nothing may be asked for it, and its tasks end.
    fn fault(&mut self, error: Error) {
        if self.faulted.is_none() {
            self.log(1, format!("the conductor is faulted: {}", error.message()));
            self.faulted = Some(error);
            lock(&self.state).faulted = true;
            self.end();
        }
    }

    fn log(&self, level: u8, message: String) {
        lock(&self.state).logged.push(Logged { level, message });
    }

    /// Drops the conductor and its tasks. They may still call the host: outside of its lock.
    pub(super) fn end(&mut self) {
        self.tasks.clear();
        let spawned = std::mem::take(&mut lock(&self.state).spawned);
        drop(spawned);
        self.conductor = None;
    }
}
