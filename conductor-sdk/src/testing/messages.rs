//! What is said in the session: messages of clients and of the conductor, and lines in the log.

use conductor_abi::{
    rules,
    wire::{EventMeta, code, event},
};

use super::{Rig, fake::lock};
use crate::{Error, Result};

/// A message that the conductor sent.
///
/// ```
/// # fn f(sent: conductor_sdk::testing::Published) {
/// assert_eq!(sent.name, "lamp");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The client it was for; nothing where it was for all.
    pub client: Option<String>,
    /// The name after `/{id}/`.
    pub name: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// 0 to 2.
    pub qos: u8,
    /// Whether the broker would keep it.
    pub retain: bool,
}

/// A line that the conductor logged.
///
/// ```
/// # fn f(line: conductor_sdk::testing::Logged) {
/// assert_eq!(line.level, 3);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logged {
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace. Info and graver lines are there, as with the host's default settings.
    pub level: u8,
    /// The text.
    pub message: String,
}

/// A message that a client sends, for [`Rig::send`].
///
/// ```
/// # use conductor_sdk::{prelude::*, testing::{Rig, Sent}};
/// # struct Lamp;
/// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
/// # let mut rig = Rig::start::<Lamp>(()).unwrap();
/// rig.send(Sent::by("ann", "state", "away").qos(1).retained().as_will()).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until the rig sends it"]
pub struct Sent {
    client: Option<String>,
    name: String,
    payload: Vec<u8>,
    meta: EventMeta,
}

impl Sent {
    /// By this client, on `/{id}/{name}`.
    ///
    /// ```
    /// let sent = conductor_sdk::testing::Sent::by("ann", "switch", "on");
    /// ```
    pub fn by(client: &str, name: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { client: Some(client.to_owned()), ..Self::by_somebody(name, payload) }
    }

    /// By somebody: with a broker outside of the host, nobody knows the sender.
    ///
    /// ```
    /// let sent = conductor_sdk::testing::Sent::by_somebody("switch", "on");
    /// ```
    pub fn by_somebody(name: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { client: None, name: name.to_owned(), payload: payload.as_ref().to_vec(), meta: EventMeta::default() }
    }

    /// With this MQTT quality of service, 0 to 2; 0 unless set.
    ///
    /// ```
    /// let sent = conductor_sdk::testing::Sent::by("ann", "switch", "on").qos(2);
    /// ```
    pub fn qos(mut self, qos: u8) -> Self {
        self.meta.qos = qos;
        self
    }

    /// To be retained by the broker.
    ///
    /// ```
    /// let sent = conductor_sdk::testing::Sent::by("ann", "switch", "on").retained();
    /// ```
    pub fn retained(mut self) -> Self {
        self.meta.retain = true;
        self
    }

    /// As a last will: its client's connection broke. [`Rig::disconnect`] comes after it.
    ///
    /// ```
    /// let sent = conductor_sdk::testing::Sent::by("ann", "away", "").as_will();
    /// ```
    pub fn as_will(mut self) -> Self {
        self.meta.will = true;
        self
    }
}

impl Rig {
    /// A client sends a message, QoS 0, not retained. [`send`](Self::send) has more to say.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.message("ann", "switch", "on").unwrap();
    /// ```
    pub fn message(&mut self, client: &str, name: &str, payload: impl AsRef<[u8]>) -> Result<()> {
        self.send(Sent::by(client, name, payload))
    }

    /// A client sends a message. One that has not joined may send here whatever it likes; one that has, what its grants allow.
    ///
    /// # Errors
    /// What the conductor's `message` answered; a name that cannot be published to, or may not be by this client, or a payload that is too
    /// large (the broker refuses that, and the conductor does not hear of it).
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::{Rig, Sent}};
    /// struct Guard;
    /// impl Conductor for Guard {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Guard) }
    ///     async fn joining(&mut self, _: &Session, _: &Joining) -> Result<Join> { Ok(Grants::all().publish(["buzz"]).into()) }
    /// }
    /// let mut rig = Rig::start::<Guard>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// assert!(rig.send(Sent::by("ann", "buzz", "").qos(1)).is_ok());
    /// assert!(rig.send(Sent::by("ann", "score", "100")).is_err());
    /// ```
    pub fn send(&mut self, sent: Sent) -> Result<()> {
        let Sent { client, name, payload, meta } = sent;
        let client = client.unwrap_or_default();
        let refused = |reason| Error::of(code::REFUSED, reason);
        rules::publish(&name, meta.qos).and_then(|()| rules::payload(payload.len(), rules::MAX_PAYLOAD)).map_err(refused)?;
        let grants = self.grants(&client);
        if grants.is_some_and(|grants| !rules::may_publish(grants.publish_list(), &name)) {
            return Err(refused(format!("{client:?} may not publish {name:?}")));
        }
        self.drive(event::MESSAGE, &name, &client, &payload, meta)
    }

    /// What was sent since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.published().is_empty());
    /// ```
    pub fn published(&mut self) -> Vec<Published> {
        std::mem::take(&mut lock(&self.state).published)
    }

    /// What was logged since the last call. (Not where the test binary has a `tracing` subscriber of its own.)
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.logged().is_empty());
    /// ```
    pub fn logged(&mut self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.state).logged)
    }
}
