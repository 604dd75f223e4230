//! What the host has to send: a bounded queue, and behind it what was sent and is not acknowledged yet.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{broker::BrokerError, sessions::SessionId};

/// Messages that may wait or be unacknowledged.
pub(super) const MOST_MESSAGES: usize = 1_000;
/// The same in bytes of topics and payloads.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// A message that was sent over so many connections, each of which was lost before it was acknowledged, may be why: it is given up.
pub(super) const MOST_TRIES: u8 = 5;
/// Packet ids of messages; those above are for subscriptions.
pub(super) const LAST_ID: u16 = 60_000;

/// A message of the host's.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) session: SessionId,
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Over how many connections it was sent.
    pub(super) tries: u8,
    /// Who waits for its fate; nobody where it was only queued.
    pub(super) answer: Option<oneshot::Sender<Result<(), BrokerError>>>,
}

impl Outgoing {
    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    /// Tells whoever waits. Where nobody does, a failure is logged.
    pub(super) fn settle(self, result: Result<(), BrokerError>) {
        let Err(unheard) = self.answer.map_or(Err(result.clone()), |answer| answer.send(result)) else { return };
        if let Err(error) = unheard {
            tracing::warn!(session = %self.session, topic = self.topic, qos = self.qos, %error, "a message was not sent");
        }
    }
}

/// What the broker has yet to say about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// PUBACK, or PUBREC.
    Received,
    /// PUBCOMP: it has the message, which is not to be sent again.
    Released,
}

#[derive(Debug)]
struct Flight {
    id: u16,
    stage: Stage,
    message: Outgoing,
}

/// The queue. Messages leave it in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Outgoing>,
    flights: VecDeque<Flight>,
    bytes: usize,
    last_id: u16,
}

impl Outbox {
    /// Queues a message, or gives it back where there is no room.
    pub(super) fn push(&mut self, message: Outgoing) -> Result<(), Outgoing> {
        if self.len() >= MOST_MESSAGES || self.bytes + message.size() > MOST_BYTES {
            return Err(message);
        }
        self.bytes += message.size();
        self.waiting.push_back(message);
        Ok(())
    }

    /// Messages waiting and unacknowledged.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.flights.len()
    }

    /// The message to send next, and its packet id (0 for QoS 0), where no more than `window` messages are unacknowledged. It stays
    /// at the front until it is [`Outbox::launched`] or [`Outbox::refused`].
    pub(super) fn front(&mut self, window: usize) -> Option<(u16, &Outgoing)> {
        let qos = self.waiting.front()?.qos;
        if qos == 0 {
            return self.waiting.front().map(|message| (0, message));
        }
        if self.flights.len() >= window {
            return None;
        }
        let id = self.free_id();
        self.waiting.front().map(|message| (id, message))
    }

    /// The message at the front was written.
    pub(super) fn launched(&mut self, id: u16) {
        let Some(mut message) = self.waiting.pop_front() else { return };
        if message.qos == 0 {
            self.bytes -= message.size();
            message.settle(Ok(()));
        } else {
            self.last_id = id;
            message.tries += 1;
            self.flights.push_back(Flight { id, stage: Stage::Received, message });
        }
    }

    /// The message at the front cannot be sent.
    pub(super) fn refused(&mut self, error: BrokerError) {
        let Some(message) = self.waiting.pop_front() else { return };
        self.bytes -= message.size();
        message.settle(Err(error));
    }

    /// PUBACK, PUBREC with an error, or PUBCOMP: the broker's last word about a message. False where none has that id at that stage.
    pub(super) fn settled(&mut self, id: u16, stage: Stage, result: Result<(), BrokerError>) -> bool {
        let Some(at) = self.flights.iter().position(|flight| flight.id == id && flight.stage == stage) else { return false };
        let Some(flight) = self.flights.remove(at) else { return false };
        self.bytes -= flight.message.size();
        flight.message.settle(result);
        true
    }

    /// PUBREC: a QoS 2 message is the broker's now.
    pub(super) fn released(&mut self, id: u16) {
        for flight in self.flights.iter_mut().filter(|flight| flight.id == id && flight.message.qos == 2) {
            flight.stage = Stage::Released;
        }
    }

    /// What a broker that kept our MQTT session must be told again, in order.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = (u16, Stage, &Outgoing)> {
        self.flights.iter().map(|flight| (flight.id, flight.stage, &flight.message))
    }

    /// What was unacknowledged was sent over another connection.
    pub(super) fn tried_again(&mut self) {
        self.flights.iter_mut().for_each(|flight| flight.message.tries += 1);
    }

    /// The broker has no MQTT session of ours: what was unacknowledged is to be sent as if it were new, before all else. What the
    /// broker said it has is settled.
    pub(super) fn forget_flights(&mut self) {
        for flight in std::mem::take(&mut self.flights).into_iter().rev() {
            if flight.stage == Stage::Released {
                self.bytes -= flight.message.size();
                flight.message.settle(Ok(()));
            } else {
                self.waiting.push_front(flight.message);
            }
        }
    }

    /// Takes the messages that are not sent yet and that `drop` picks out of the queue.
    pub(super) fn withdraw(&mut self, drop: impl Fn(&Outgoing) -> bool, error: impl Fn(&Outgoing) -> BrokerError) {
        for message in std::mem::take(&mut self.waiting) {
            if drop(&message) {
                self.bytes -= message.size();
                let error = error(&message);
                message.settle(Err(error));
            } else {
                self.waiting.push_back(message);
            }
        }
    }

    /// The link is down: nobody gets what is of QoS 0, nor what was tried too often.
    pub(super) fn link_lost(&mut self, reason: &Arc<str>) {
        for flight in std::mem::take(&mut self.flights) {
            if flight.message.tries >= MOST_TRIES {
                self.bytes -= flight.message.size();
                flight.message.settle(Err(BrokerError::Failed(format!("the link was lost each of {MOST_TRIES} times that this was sent"))));
            } else {
                self.flights.push_back(flight);
            }
        }
        self.withdraw(|message| message.qos == 0, |_| BrokerError::Down(reason.clone()));
    }

    fn free_id(&self) -> u16 {
        let after = |id: u16| if id >= LAST_ID { 1 } else { id + 1 };
        let mut id = after(self.last_id);
        while self.flights.iter().any(|flight| flight.id == id) {
            id = after(id);
        }
        id
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
