//! A new token before the old one ends: make before break. The new connection has the same client id, so the broker moves our MQTT
//! session to it; what it wrote to the old one before is read to its end.

use std::time::{Duration, SystemTime};

use mqtt5::{Packet, packet::publish::PublishPacket};
use tokio::time::{Instant, timeout};

use super::{
    dial::{Io, dial},
    link::{CONNECT_TIME, Link, chance},
    opening::{Opened, open},
    serving::{Ping, Serving},
    trouble::Trouble,
    wire::{Incoming, Wire},
};

/// The part of a token's time after which it is renewed.
const PART: f64 = 0.8;
/// Not sooner than this, whatever the token's time.
const SOONEST: Duration = Duration::from_millis(500);
/// What writing the last to the old connection may take, and reading the last of it.
const DRAIN: Duration = Duration::from_secs(1);

impl Link {
    /// When a token that ends then is to be renewed.
    pub(super) fn renew_at(&self, expires_at: Option<SystemTime>, now: Instant) -> Option<Instant> {
        let left = expires_at?.duration_since(self.settings.clock.now()).unwrap_or_default();
        // Without an answer, so far away that no time can say it: never.
        now.checked_add(left.mul_f64(PART).max(SOONEST))
    }

    /// The first half, beside the old connection's work: a stream to the broker.
    pub(super) fn begin_renewal(&self, serving: &mut Serving) {
        serving.renew_at = None;
        let settings = self.settings.clone();
        let dialling = async move { timeout(CONNECT_TIME, dial(&settings)).await.unwrap_or(Err(Trouble::Silent)) };
        serving.renewing = Some(Box::pin(dialling));
    }

    /// The second half, at one stroke. Where it fails, the old connection goes on as long as the broker lets it.
    pub(super) async fn renew(&mut self, serving: &mut Serving, dialled: Result<Box<dyn Io>, Trouble>) -> Result<(), Trouble> {
        let opened = match dialled {
            Ok(io) => {
                // What is written to the old one after the broker let it go would be lost.
                timeout(DRAIN, serving.wire.flush()).await.unwrap_or(Ok(()))?;
                let opening = open(&self.settings, io, serving.version);
                serving.half_renewed = true;
                timeout(CONNECT_TIME, opening).await.map_or(Err(Trouble::Silent), |opened| opened.map_err(|refused| refused.trouble))
            }
            Err(trouble) => Err(trouble),
        };
        match opened {
            Ok(opened) => self.move_to(serving, opened).await,
            Err(trouble) => {
                let wait = serving.renewals.next(Instant::now(), chance());
                tracing::warn!(?wait, "the link's token was not renewed, which is tried again: {trouble}");
                serving.renew_at = Some(Instant::now() + wait);
                Ok(())
            }
        }
    }

    async fn move_to(&mut self, serving: &mut Serving, opened: Opened) -> Result<(), Trouble> {
        let now = Instant::now();
        let old = std::mem::replace(&mut serving.wire, opened.wire);
        serving.limits = opened.limits;
        serving.keep_alive = opened.keep_alive;
        serving.next_ping = now + opened.keep_alive;
        serving.renew_at = self.renew_at(opened.expires_at, now);
        serving.renewals.reset();
        serving.half_renewed = false;
        // A broker that closes the old one late must not hold up the new one for long.
        if let Ok(Err(trouble)) = timeout(DRAIN, self.drain(serving, old, opened.resumed)).await {
            tracing::debug!("the link's old connection ended: {trouble}");
        }
        serving.forget_questions(self);
        tracing::debug!(resumed = opened.resumed, "the link's token is renewed");
        self.resume(serving, opened.resumed)
    }

    /// Reads what the broker wrote to the old connection before it let it go. Answers go to the new one.
    async fn drain(&mut self, serving: &mut Serving, mut old: Wire, resumed: bool) -> Result<(), Trouble> {
        loop {
            match old.next().await? {
                // Not acknowledged by us, so it comes again on the new one, if the broker moved our session.
                Incoming::Packet(Packet::Publish(PublishPacket { packet_id: Some(_), .. })) | Incoming::TooLong { .. } if resumed => {}
                Incoming::Packet(Packet::Publish(publish)) if self.desk.is_hearing() => self.hear(serving, publish)?,
                acknowledged @ Incoming::Packet(Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_)) => {
                    self.incoming(serving, acknowledged)?;
                }
                Incoming::Packet(Packet::Disconnect(_)) => return Ok(()),
                _ => {}
            }
        }
    }
}

impl Serving {
    /// Nobody answers any more what was asked on the old connection.
    fn forget_questions(&mut self, link: &Link) {
        let waiting = self.pings.drain(..).filter_map(|(_, why)| match why {
            Ping::KeepAlive => None,
            Ping::Retained(session) | Ping::Cleared(session) => Some(session),
        });
        let sessions: Vec<_> = waiting.chain(self.clearing.drain().map(|(_, session)| session)).collect();
        self.clearings = 0;
        self.subscribing = None;
        let mut state = link.desk.state();
        for session in sessions {
            state.closed.interrupted(session);
        }
    }
}
