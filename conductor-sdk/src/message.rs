//! What a conductor is told: messages, clients and reasons.

use std::time::{Duration, SystemTime};

use conductor_abi::{
    contract::Event,
    wire::{self, EventMeta},
};
use serde::de::DeserializeOwned;

use crate::{Error, Result, methods::misfit};

/// A message that a client of the session sent.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// async fn message(session: &Session, message: &Message) -> Result<()> {
///     tracing::info!(name = message.name(), sender = message.sender(), "{} bytes", message.payload().len());
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    name: String,
    payload: Vec<u8>,
    sender: Option<String>,
    meta: EventMeta,
}

impl Message {
    pub(crate) fn new(event: &Event<'_>, meta: EventMeta) -> Self {
        let sender = Some(event.client.as_str()).filter(|client| !client.is_empty()).map(str::to_owned);
        Self { name: event.subject.to_string(), payload: event.body.to_vec(), sender, meta }
    }

    /// The part of the topic after `/{id}/`.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// if message.name() == "buzz" { /* … */ }
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes as sent.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// let first = message.payload().first();
    /// # }
    /// ```
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) -> conductor_sdk::Result<()> {
    /// let answer = message.text()?.trim();
    /// # Ok(()) }
    /// ```
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.payload).map_err(|e| Error::new(format!("the payload of {:?} is not UTF-8: {e}", self.name)))
    }

    /// The payload read as JSON.
    ///
    /// # Errors
    /// Where it is not JSON, or does not fit `T`, with the place in it.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) -> conductor_sdk::Result<()> {
    /// let numbers: Vec<f64> = message.json()?;
    /// # Ok(()) }
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.payload)
            .map_err(|e| Error::new(format!("the payload of {:?} does not fit{}", self.name, misfit::<T>(&self.payload, &e))))
    }

    /// The id of the client that sent it; nothing where the broker cannot tell (an external one).
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// let who = message.sender().unwrap_or("somebody");
    /// # }
    /// ```
    #[must_use]
    pub fn sender(&self) -> Option<&str> {
        self.sender.as_deref()
    }

    /// MQTT quality of service it was sent with: 0, 1 or 2.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// let at_most_once = message.qos() == 0;
    /// # }
    /// ```
    #[must_use]
    pub fn qos(&self) -> u8 {
        self.meta.qos
    }

    /// Whether it was sent to be retained by the broker.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// if message.is_retained() { /* … */ }
    /// # }
    /// ```
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.meta.retain
    }

    /// Whether it is a last will, sent by the broker because its client's connection broke.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message) {
    /// if message.is_will() { /* … */ }
    /// # }
    /// ```
    #[must_use]
    pub fn is_will(&self) -> bool {
        self.meta.will
    }

    /// When the host heard it.
    ///
    /// ```
    /// # fn f(message: &conductor_sdk::Message, session: &conductor_sdk::Session) {
    /// let age = session.now().duration_since(message.time()).unwrap_or_default();
    /// # }
    /// ```
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.meta.time)
    }
}

/// A device that joined the session.
///
/// ```
/// # fn f(session: &conductor_sdk::Session) {
/// let names: Vec<String> = session.clients().iter().map(|client| client.id().to_owned()).collect();
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    id: String,
    expires_at: Option<u64>,
}

impl Client {
    pub(crate) fn new(info: wire::ClientInfo) -> Self {
        Self { id: info.client_id, expires_at: info.expires_at }
    }

    /// The name it joined with.
    ///
    /// ```
    /// # fn f(client: &conductor_sdk::Client) {
    /// let greeting = format!("hello, {}", client.id());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When its latest token ends, where the host says so.
    ///
    /// ```
    /// # fn f(client: &conductor_sdk::Client, session: &conductor_sdk::Session) {
    /// let over = client.expires_at().is_some_and(|end| end <= session.now());
    /// # }
    /// ```
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

/// Whether the host reaches a broker that is outside of it; see [`Conductor::link`](crate::Conductor::link).
///
/// ```
/// # use conductor_sdk::Link;
/// # fn f(link: Link) {
/// if link == Link::Down { /* show it on the stage */ }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Link {
    /// Messages pass.
    Up,
    /// No messages come, and those that are sent wait or fail.
    Down,
    /// A state that this version of the SDK does not know.
    Other,
}

impl Link {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            wire::link::UP => Self::Up,
            wire::link::DOWN => Self::Down,
            _ => Self::Other,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Up => wire::link::UP,
            Self::Down => wire::link::DOWN,
            Self::Other => "other",
        }
    }
}

/// Why a conductor is closed.
///
/// ```
/// # use conductor_sdk::CloseReason;
/// # fn f(reason: CloseReason) {
/// match reason {
///     // The session goes on with another conductor, made from what is saved now.
///     CloseReason::HostStopping | CloseReason::Replaced => { /* save */ }
///     _ => { /* say good-bye */ }
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// An administrator closed the session.
    Requested,
    /// The conductor closed it through [`Session::close`](crate::Session::close).
    Conductor,
    /// Its time was over: the host or the session has a limit, how long it lives or how long it may be empty.
    Expired,
    /// The host stops; the session stays stored and its conductor is made again at the next start.
    HostStopping,
    /// A reason that this version of the SDK does not know.
    Other,
    /// A newer build of the plugin takes over. A conductor saves what is to go on: once `close` has returned, its tasks end and it is dropped, and
    /// [`restore`](crate::Conductor::restore) of the newer build makes another from what was saved last; clients, grants, timers and connections
    /// stay. A service is made anew.
    Replaced,
}

impl CloseReason {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            wire::close::REQUESTED => Self::Requested,
            wire::close::CONDUCTOR => Self::Conductor,
            wire::close::EXPIRED => Self::Expired,
            wire::close::HOST_STOPPING => Self::HostStopping,
            wire::close::REPLACED => Self::Replaced,
            _ => Self::Other,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requested => wire::close::REQUESTED,
            Self::Conductor => wire::close::CONDUCTOR,
            Self::Expired => wire::close::EXPIRED,
            Self::HostStopping => wire::close::HOST_STOPPING,
            Self::Replaced => wire::close::REPLACED,
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_does_not_fit_is_told_with_its_place() {
        let read = |payload: &str| {
            let event = Event { subject: "score".into(), body: payload.as_bytes().into(), ..Event::new(wire::event::MESSAGE) };
            Message::new(&event, EventMeta::default()).json::<Vec<(String, u8)>>()
        };
        assert_eq!(read(r#"[["ann", 3]]"#).unwrap(), [("ann".to_owned(), 3)]);
        let told = read(r#"[["ann", 3], ["bob", "x"]]"#).unwrap_err();
        assert_eq!(told.message(), r#"the payload of "score" does not fit at "[1][1]": invalid type: string "x", expected u8"#);
        assert!(read("").unwrap_err().message().starts_with(r#"the payload of "score" does not fit: EOF"#));
    }
}
