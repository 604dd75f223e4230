//! The link's life: connect, serve until something is wrong, say what, wait, again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    backoff::Backoff,
    desk::Desk,
    dial::dial,
    echoes::Echoes,
    opening::{NotOpened, Opened, Version, open},
    settings::LinkSettings,
    trouble::Trouble,
};
use crate::broker::Events;

/// What connecting may take, from the name to CONNACK.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A connection that lived so long was a good one: the next trouble is a new one.
const HELD: Duration = Duration::from_secs(10);
/// A broker that knew only MQTT 3.1.1 is asked again after this.
const OLDER: Duration = Duration::from_secs(3600);

/// The link's task.
pub(super) struct Link {
    pub(super) desk: Arc<Desk>,
    pub(super) settings: Arc<LinkSettings>,
    pub(super) events: Arc<dyn Events>,
    /// Packet ids of QoS 2 messages that were heard and that the broker has not released yet.
    pub(super) received: HashSet<u16>,
    pub(super) echoes: Echoes,
    /// The QoS at which the broker granted our subscription, once it did, and the version in which it was asked for.
    pub(super) granted: Option<(u8, Version)>,
    older_until: Option<Instant>,
    backoff: Backoff,
    down_since: Instant,
    /// What the log says was wrong last.
    told: Option<Trouble>,
}

impl Link {
    pub(super) fn new(desk: Arc<Desk>, settings: Arc<LinkSettings>, events: Arc<dyn Events>) -> Self {
        Self {
            desk,
            settings,
            events,
            received: HashSet::new(),
            echoes: Echoes::default(),
            granted: None,
            older_until: None,
            backoff: Backoff::default(),
            down_since: Instant::now(),
            told: None,
        }
    }

    /// Until the host stops.
    pub(super) async fn run(mut self) {
        let desk = self.desk.clone();
        let mut stop = desk.stop.subscribe();
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let trouble = match connected {
                Ok(opened) => self.serve(opened, &mut stop).await,
                Err(trouble) => trouble,
            };
            if trouble == Trouble::Stopping {
                break;
            }
            self.down(trouble);
            let wait = self.backoff.next(Instant::now(), chance());
            tracing::debug!(?wait, "the link is tried again");
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        let unsent = {
            let mut state = desk.state();
            (state.up, state.ended) = (false, true);
            state.trouble = Trouble::Stopping.to_string().into();
            state.closed.link_lost();
            state.outbox.len()
        };
        desk.room.notify_waiters();
        if unsent > 0 {
            tracing::warn!(messages = unsent, "messages that the MQTT broker has not acknowledged are lost with this host");
        }
    }

    async fn connect(&mut self) -> Result<Opened, Trouble> {
        let older = self.older_until.is_some_and(|until| Instant::now() < until);
        let version = if older { Version::V311 } else { Version::V5 };
        let first = match self.attempt(version).await {
            Ok(opened) => return Ok(opened),
            Err(first) => first,
        };
        self.older_until = self.older_until.filter(|_| first.trouble != Trouble::Version);
        if !first.try_older {
            return Err(first.trouble);
        }
        let opened = self.attempt(Version::V311).await.map_err(|second| second.trouble)?;
        tracing::info!("the MQTT broker does not speak MQTT 5: MQTT 3.1.1 is used");
        self.older_until = Some(Instant::now() + OLDER);
        Ok(opened)
    }

    async fn attempt(&self, version: Version) -> Result<Opened, NotOpened> {
        let attempt = async { open(&self.settings, dial(&self.settings).await?, version).await };
        timeout(CONNECT_TIME, attempt).await.unwrap_or_else(|_| Err(Trouble::Silent.into()))
    }

    /// Messages pass.
    pub(super) fn up(&mut self, version: Version) {
        self.desk.state().up = true;
        let down_for = Instant::now() - self.down_since;
        tracing::info!(broker = %self.settings.address, ?version, ?down_for, "the link to the MQTT broker is up");
        self.told = None;
        self.events.link(true);
    }

    /// A connection that was up this long has ended.
    pub(super) fn held(&mut self, time: Duration) {
        if time >= HELD {
            self.backoff.reset();
        }
    }

    fn down(&mut self, trouble: Trouble) {
        let text: Arc<str> = format!("{}: {trouble}", self.settings.address).into();
        let was_up = {
            let mut state = self.desk.state();
            state.trouble = text.clone();
            state.outbox.link_lost(&text);
            state.closed.link_lost();
            std::mem::take(&mut state.up)
        };
        self.desk.room.notify_waiters();
        if self.told.as_ref() == Some(&trouble) {
            tracing::debug!("the link to the MQTT broker is still down: {text}");
        } else {
            tracing::warn!("the link to the MQTT broker is down: {text}");
            self.told = Some(trouble);
        }
        if was_up {
            self.down_since = Instant::now();
            self.events.link(false);
        }
    }
}

/// From 0 to 1. Without it, where the system's generator fails, hosts meet; that is all.
pub(super) fn chance() -> f64 {
    use rand::{TryRng as _, rngs::SysRng};
    SysRng.try_next_u32().map_or(0.5, |drawn| f64::from(drawn) / f64::from(u32::MAX))
}
