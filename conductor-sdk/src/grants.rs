//! Who may join a session, and what a client may do in it.

use conductor_abi::wire;

/// What a client may subscribe and publish, within its session. Names are MQTT topic filters without the leading `/{id}/`: `"#"`
/// is everything in the session, `"score/+"` every score. Where a side is not set, the client may do everything there.
///
/// ```
/// use conductor_sdk::Grants;
///
/// // One that listens only, and hears neither hands nor the jury.
/// let listener = Grants::all().subscribe(["stage/#"]).publish(Vec::<String>::new());
/// // A player who also hears what is sent to him alone.
/// let player = Grants::all().subscribe(["stage/#", "to/ann/#"]).publish(["buzz"]);
/// assert_ne!(listener, player);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    subscribe: Option<Vec<String>>,
    publish: Option<Vec<String>>,
}

impl Grants {
    /// Everything in the session: what a client has where a conductor says nothing else.
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Grants::all(), conductor_sdk::Grants::default());
    /// ```
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Nothing at all: the client is in the session, and cut off.
    ///
    /// ```
    /// # use conductor_sdk::Grants;
    /// assert_eq!(Grants::none().subscribe(["#"]).publish(["#"]).subscribe_list(), Some(&["#".to_owned()][..]));
    /// ```
    #[must_use]
    pub fn none() -> Self {
        Self { subscribe: Some(Vec::new()), publish: Some(Vec::new()) }
    }

    /// Sets what may be subscribed, in place of what was set before.
    ///
    /// ```
    /// let grants = conductor_sdk::Grants::all().subscribe(["stage/#"]);
    /// ```
    #[must_use]
    pub fn subscribe<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.subscribe = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets what may be published, in place of what was set before.
    ///
    /// ```
    /// let grants = conductor_sdk::Grants::all().publish(["buzz"]);
    /// ```
    #[must_use]
    pub fn publish<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.publish = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// What may be subscribed; nothing where that is everything.
    ///
    /// ```
    /// assert!(conductor_sdk::Grants::all().subscribe_list().is_none());
    /// ```
    #[must_use]
    pub fn subscribe_list(&self) -> Option<&[String]> {
        self.subscribe.as_deref()
    }

    /// What may be published; nothing where that is everything.
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Grants::none().publish_list(), Some(&[][..]));
    /// ```
    #[must_use]
    pub fn publish_list(&self) -> Option<&[String]> {
        self.publish.as_deref()
    }

    pub(crate) fn into_wire(self) -> wire::Grants {
        let mut grants = wire::Grants::default();
        (grants.subscribe, grants.publish) = (self.subscribe, self.publish);
        grants
    }

    #[cfg(feature = "testing")]
    pub(crate) fn from_wire(grants: wire::Grants) -> Self {
        Self { subscribe: grants.subscribe, publish: grants.publish }
    }
}

/// A client that asks to join; see [`Conductor::joining`](crate::Conductor::joining).
///
/// ```
/// # fn f(joining: &conductor_sdk::Joining) {
/// let seat = format!("a seat for {}", joining.client());
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Joining {
    client: String,
    peer: Option<String>,
}

impl Joining {
    pub(crate) fn new(client: &str, caller: Option<wire::CallerMeta>) -> Self {
        Self { client: client.to_owned(), peer: caller.and_then(|caller| caller.peer) }
    }

    /// The name that it gives.
    ///
    /// ```
    /// # fn f(joining: &conductor_sdk::Joining) -> bool {
    /// joining.client().starts_with("screen-")
    /// # }
    /// ```
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Address and port that it comes from, where the host knows: behind a proxy that is the proxy's.
    ///
    /// ```
    /// # fn f(joining: &conductor_sdk::Joining) {
    /// tracing::debug!(peer = joining.peer(), "somebody asks to join");
    /// # }
    /// ```
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }
}

/// What a conductor says to a client that asks to join.
///
/// ```
/// use conductor_sdk::{Grants, Join};
///
/// let everything: Join = Grants::all().into();
/// assert_eq!(everything, Join::Accept(Grants::all()));
/// assert_eq!(Join::accept(), Join::AcceptAsBefore);
/// assert_eq!(Join::refuse("the game has begun"), Join::Refuse("the game has begun".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Join {
    /// It may, and do this from now on, whatever it could before.
    Accept(Grants),
    /// It may, and do what it could before: everything, for one that is new. What [`accept`](Self::accept) gives.
    AcceptAsBefore,
    /// It may not, for this reason. On `/v1` the client is told the reason; on `/api` it looks like a wrong pin.
    Refuse(String),
}

impl Join {
    /// It may join, and do what it could before: one that is new everything; one that joins again what
    /// [`Session::set_grants`](crate::Session::set_grants) or an earlier join gave it, so that nobody gets rid of what was taken from him by
    /// joining again. To give it everything in any case, answer `Grants::all().into()`.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lobby;
    /// # impl Conductor for Lobby {
    /// #     type Config = ();
    /// #     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lobby) }
    /// #     fn methods() -> Methods<Self> { Methods::new().on("mute", Self::mute) }
    /// async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
    ///     Ok(if joining.client() == "mallory" { Join::refuse("not you") } else { Join::accept() })
    /// }
    /// # }
    /// # impl Lobby { async fn mute(&mut self, session: &Session, client: String) -> Result<()> { session.set_grants(&client, Grants::none()).await } }
    /// # let mut rig = Rig::start::<Lobby>(()).unwrap();
    /// # rig.join("ann").unwrap();
    /// # assert_eq!(rig.grants("ann"), Some(Grants::all()));
    /// # rig.request("mute", "ann").unwrap();
    /// # rig.join("ann").unwrap();
    /// # assert_eq!(rig.grants("ann"), Some(Grants::none()));
    /// ```
    #[must_use]
    pub fn accept() -> Self {
        Self::AcceptAsBefore
    }

    /// It may not join.
    ///
    /// ```
    /// assert!(matches!(conductor_sdk::Join::refuse("full"), conductor_sdk::Join::Refuse(_)));
    /// ```
    #[must_use]
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self::Refuse(reason.into())
    }

    pub(crate) fn into_wire(self) -> wire::JoinReply {
        let mut reply = wire::JoinReply::default();
        match self {
            Self::Accept(grants) => reply.grants = Some(grants.into_wire()),
            Self::AcceptAsBefore => {}
            Self::Refuse(reason) => reply.refuse = Some(reason),
        }
        reply
    }
}

impl From<Grants> for Join {
    fn from(grants: Grants) -> Self {
        Self::Accept(grants)
    }
}

/// A client that has left; see [`Conductor::left`](crate::Conductor::left).
///
/// ```
/// # use conductor_sdk::{Leave, Left};
/// # fn f(left: &Left) {
/// if left.reason() == Leave::Kicked { tracing::info!("{} was sent away", left.client()); }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    client: String,
    reason: Leave,
}

impl Left {
    pub(crate) fn new(client: &str, reason: &str) -> Self {
        Self { client: client.to_owned(), reason: Leave::parse(reason) }
    }

    /// The name it joined with.
    ///
    /// ```
    /// # fn f(left: &conductor_sdk::Left) -> String { left.client().to_owned() }
    /// ```
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Why.
    ///
    /// ```
    /// # fn f(left: &conductor_sdk::Left) -> bool { left.reason() == conductor_sdk::Leave::Expired }
    /// ```
    #[must_use]
    pub fn reason(&self) -> Leave {
        self.reason
    }
}

/// Why a client has left.
///
/// ```
/// # fn f(reason: conductor_sdk::Leave) -> bool { reason != conductor_sdk::Leave::Kicked }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// Its last token ended, and it did not join again.
    Expired,
    /// It was sent away, by [`Session::kick`](crate::Session::kick) or an administrator.
    Kicked,
    /// A reason that this version of the SDK does not know.
    Other,
}

impl Leave {
    fn parse(text: &str) -> Self {
        match text {
            wire::leave::EXPIRED => Self::Expired,
            wire::leave::KICKED => Self::Kicked,
            _ => Self::Other,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => wire::leave::EXPIRED,
            Self::Kicked => wire::leave::KICKED,
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conductor::Answer;

    #[test]
    fn the_answers_to_a_join_look_the_same_for_ever() {
        for (join, json) in [
            (Join::accept(), "{}"),
            (Answer::answer(), "{}"),
            (Grants::all().into(), r#"{"grants":{}}"#),
            (Join::refuse("no"), r#"{"refuse":"no"}"#),
            (Grants::none().publish(["a"]).into(), r#"{"grants":{"subscribe":[],"publish":["a"]}}"#),
        ] {
            assert_eq!(serde_json::to_string(&join.into_wire()).unwrap(), json);
        }
    }
}
