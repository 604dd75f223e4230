//! Clears what is retained of closed sessions: subscribes, answers each retained message with an empty one, unsubscribes.

use std::time::Duration;

use bytes::Bytes;
use mqtt5::{
    QoS,
    packet::{
        subscribe::{RetainHandling, SubscriptionOptions},
        unsubscribe::UnsubscribePacket,
    },
};
use tokio::time::Instant;

use super::{
    link::Link,
    opening::Version,
    serving::{Later, Ping, Serving},
    trouble::Trouble,
};
use crate::sessions::SessionId;

/// Sessions being cleared at a time.
const AT_A_TIME: usize = 32;
/// How long the subscription stays, for brokers that tell late what is retained.
const LINGER: Duration = Duration::from_secs(1);
/// MQTT 3.1.1 does not say whether a message was retained: a closed session that is spoken to is looked through again after this.
const AGAIN: Duration = Duration::from_secs(3);

impl Link {
    /// Begins with sessions that are due.
    pub(super) fn clear_closed(&self, serving: &mut Serving) -> Result<(), Trouble> {
        if serving.clearings >= AT_A_TIME || serving.wire.is_full() {
            return Ok(());
        }
        let (reopened, due) = {
            let mut state = self.desk.state();
            (state.closed.reopened(), state.closed.begin(AT_A_TIME - serving.clearings))
        };
        for session in reopened {
            serving.unsubscribe(session)?;
        }
        for session in due {
            serving.clearings += 1;
            // The lowest QoS: such messages are not queued, and so not cut off by a queue's limit.
            let options = SubscriptionOptions {
                qos: QoS::AtMostOnce,
                no_local: false,
                retain_as_published: true,
                retain_handling: RetainHandling::SendAtSubscribe,
            };
            let id = serving.subscribe(filter_of(session), options)?;
            serving.clearing.insert(id, session);
        }
        Ok(())
    }

    /// The session is cleared, or cannot be.
    pub(super) fn cleared(&self, serving: &mut Serving, session: SessionId) {
        serving.clearings = serving.clearings.saturating_sub(1);
        self.desk.state().closed.cleared(session);
        serving.do_later(LINGER, Later::Unsubscribe(session));
    }

    /// A message of a session that is closed, or what is retained of it.
    pub(super) fn hear_of_closed(
        &self,
        serving: &mut Serving,
        session: SessionId,
        topic: String,
        payload: &Bytes,
        retain: bool,
    ) -> Result<(), Trouble> {
        if payload.is_empty() {
            return Ok(());
        }
        if retain {
            tracing::debug!(%session, topic, "a retained message of a closed session is cleared");
            return serving.wire.send(&serving.version.message(topic, Bytes::new(), QoS::AtMostOnce).with_retain(true));
        }
        if serving.version == Version::V311 && serving.clear_again.insert(session) {
            serving.do_later(AGAIN, Later::ClearAgain(session));
        }
        Ok(())
    }

    /// The oldest ping has no answer. A broker that has much to say may drop it with the rest, and yet lives.
    pub(super) fn unanswered(&self, serving: &mut Serving) -> Result<(), Trouble> {
        match serving.pings.pop_front() {
            Some((sent, _)) if serving.heard <= sent => return Err(Trouble::Lost("the broker does not answer pings".to_owned())),
            // What it told of the session may be cut off as well.
            Some((_, Ping::Retained(session) | Ping::Cleared(session))) => {
                serving.clearings = serving.clearings.saturating_sub(1);
                self.desk.state().closed.interrupted(session);
            }
            Some((_, Ping::KeepAlive)) | None => {}
        }
        Ok(())
    }

    pub(super) fn later(&self, serving: &mut Serving, later: Later) -> Result<(), Trouble> {
        match later {
            Later::Unsubscribe(session) => serving.unsubscribe(session),
            Later::ClearAgain(session) => {
                serving.clear_again.remove(&session);
                self.desk.state().closed.again(session);
                Ok(())
            }
        }
    }
}

impl Serving {
    fn unsubscribe(&mut self, session: SessionId) -> Result<(), Trouble> {
        let id = self.next_id();
        let packet = match self.version {
            Version::V5 => UnsubscribePacket::new(id),
            Version::V311 => UnsubscribePacket::new_v311(id),
        };
        self.wire.send(&packet.add_filter(filter_of(session)))
    }

    fn do_later(&mut self, after: Duration, what: Later) {
        let at = Instant::now() + after;
        // In the order of time.
        let place = self.later.partition_point(|(other, _)| *other <= at);
        self.later.insert(place, (at, what));
    }
}

/// All topics of the session.
fn filter_of(session: SessionId) -> String {
    format!("{}#", session.topic_prefix())
}
