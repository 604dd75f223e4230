//! Clients that come and go, and what the conductor made of its session.

use std::collections::BTreeMap;

use conductor_abi::{
    rules,
    wire::{EventMeta, JoinReply, code, event},
};

use super::{
    PEER, Rig, caller,
    fake::{Member, lock},
};
use crate::{Error, Grants, Leave, Link, Result, Saved};

impl Rig {
    /// A client joins, or joins again: the conductor's `joining` says whether it may, where the session is neither locked nor full.
    /// Then [`Session::clients`](crate::Session::clients) lists it, for 24 h of virtual time.
    ///
    /// # Errors
    /// Why it was refused: a name that no client can have, the conductor's reason or error, or that the session is locked, full or closed.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// assert!(rig.join("a/#").is_err());
    /// ```
    pub fn join(&mut self, client: &str) -> Result<()> {
        self.join_from(client, PEER)
    }

    /// As [`join`](Self::join), over a connection from this address, which [`Joining::peer`](crate::Joining::peer) tells.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// struct AtHome;
    /// impl Conductor for AtHome {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(AtHome) }
    ///     async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
    ///         let near = joining.peer().is_some_and(|peer| peer.starts_with("10."));
    ///         Ok(if near { Join::accept() } else { Join::refuse("only from here") })
    ///     }
    /// }
    /// let mut rig = Rig::start::<AtHome>(()).unwrap();
    /// rig.join_from("ann", "10.0.0.7:51112").unwrap();
    /// assert_eq!(rig.join_from("bob", "198.51.100.3:4242").unwrap_err().message(), "only from here");
    /// ```
    pub fn join_from(&mut self, client: &str, peer: &str) -> Result<()> {
        rules::client(client).map_err(|reason| Error::of(code::REFUSED, reason))?;
        self.admits(client)?;
        let reply: JoinReply = match self.tell_hook(event::JOINING, "", client, &[], caller("iot", peer))? {
            Some(bytes) if !bytes.is_empty() => serde_json::from_slice(&bytes)?,
            _ => JoinReply::default(),
        };
        if let Some(reason) = reply.refuse {
            return Err(Error::of(code::REFUSED, reason));
        }
        if let Some(grants) = &reply.grants {
            rules::grants(grants).map_err(|reason| Error::of(code::REFUSED, reason))?;
        }
        // The conductor may have changed the rules meanwhile.
        self.admits(client)?;
        let grants = reply.grants.map(Grants::from_wire);
        let mut state = lock(&self.state);
        let expires_at = state.now.as_secs() + rules::GRANT_TTL.as_secs();
        match state.member(client) {
            Some(member) => {
                member.expires_at = expires_at;
                member.grants = grants.unwrap_or_else(|| member.grants.clone());
            }
            None => state.clients.push(Member { id: client.to_owned(), grants: grants.unwrap_or_default(), expires_at }),
        }
        Ok(())
    }

    /// What the store says of a join.
    fn admits(&self, client: &str) -> Result<()> {
        let state = lock(&self.state);
        if state.closed || state.closing {
            return Err(Error::of(code::CLOSED, rules::CLOSED));
        }
        let new = !state.has(client);
        if new && state.rules.locked == Some(true) {
            return Err(Error::of(code::REFUSED, rules::LOCKED));
        }
        if new && state.rules.max_clients.is_some_and(|most| state.clients.len() >= most as usize) {
            return Err(Error::of(code::REFUSED, rules::FULL));
        }
        Ok(())
    }

    /// A client leaves for good, and the conductor is told.
    ///
    /// # Errors
    /// A client that is not in the session; what the conductor's `left` answered.
    ///
    /// ```
    /// # use conductor_sdk::Leave;
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// rig.leave("ann", Leave::Expired).unwrap();
    /// assert!(rig.leave("ann", Leave::Expired).is_err());
    /// ```
    pub fn leave(&mut self, client: &str, reason: Leave) -> Result<()> {
        self.known(client)?;
        lock(&self.state).clients.retain(|member| member.id != client);
        self.drive(event::LEFT, reason.as_str(), client, &[], EventMeta::default())
    }

    /// The MQTT connection of a client that joined comes up.
    ///
    /// # Errors
    /// A client that is not in the session; what the conductor's `connected` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// rig.connect("ann").unwrap();
    /// ```
    pub fn connect(&mut self, client: &str) -> Result<()> {
        self.known(client)?;
        self.drive(event::CONNECTED, "", client, &[], EventMeta::default())
    }

    /// The last MQTT connection of a client ends.
    ///
    /// # Errors
    /// What the conductor's `disconnected` answered.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.disconnect("ann").unwrap();
    /// ```
    pub fn disconnect(&mut self, client: &str) -> Result<()> {
        self.drive(event::DISCONNECTED, "", client, &[], EventMeta::default())
    }

    /// The link to the broker comes up or is lost.
    ///
    /// # Errors
    /// What the conductor's `link` answered.
    ///
    /// ```
    /// # use conductor_sdk::Link;
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.link(Link::Down).unwrap();
    /// ```
    pub fn link(&mut self, link: Link) -> Result<()> {
        self.drive(event::LINK, link.as_str(), "", &[], EventMeta::default())
    }

    fn known(&self, client: &str) -> Result<()> {
        if lock(&self.state).has(client) {
            return Ok(());
        }
        Err(Error::of(code::REFUSED, format!("there is no client {client:?} in this session")))
    }

    /// What a client may do; nothing where it is not in the session.
    ///
    /// ```
    /// # use conductor_sdk::Grants;
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// assert_eq!(rig.grants("ann"), Some(Grants::all()));
    /// ```
    #[must_use]
    pub fn grants(&self, client: &str) -> Option<Grants> {
        lock(&self.state).member(client).map(|member| member.grants.clone())
    }

    /// The clients in the session, in the order of their first join.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// rig.join("ann").unwrap();
    /// assert_eq!(rig.clients(), ["ann"]);
    /// ```
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        lock(&self.state).clients.iter().map(|member| member.id.clone()).collect()
    }

    /// The clients that the conductor sent away since the last call.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.kicked().is_empty());
    /// ```
    pub fn kicked(&mut self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).kicked)
    }

    /// What was saved last.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.saved().is_none());
    /// ```
    #[must_use]
    pub fn saved(&self) -> Option<Saved> {
        lock(&self.state).saved.clone()
    }

    /// The names of the timers that are set.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.timers().is_empty());
    /// ```
    #[must_use]
    pub fn timers(&self) -> Vec<String> {
        lock(&self.state).timers.keys().cloned().collect()
    }

    /// The session's labels.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, testing::Rig};
    /// # struct Lamp;
    /// # impl Conductor for Lamp { type Config = (); async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) } }
    /// # let mut rig = Rig::start::<Lamp>(()).unwrap();
    /// assert!(rig.labels().is_empty());
    /// ```
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        lock(&self.state).labels.clone()
    }
}
