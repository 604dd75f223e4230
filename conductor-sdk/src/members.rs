//! What a conductor can do about its session's clients.

use std::collections::BTreeMap;

use conductor_abi::wire::{JoinRules, call};

use crate::{Grants, Result, Session, session::to_json};

impl Session {
    /// Replaces what `client` may do, at once: subscriptions that it may no longer have end. It holds until the next call, until
    /// [`Conductor::joining`](crate::Conductor::joining) answers one of the client's later joins with [`Grants`] ([`Join::accept`](crate::Join::accept)
    /// there leaves it as it is), or until the client has left: who comes back after that begins anew.
    ///
    /// Where the broker is outside of the host, it holds from the client's next join on: there the token says what a client may do.
    ///
    /// # Errors
    /// A client that is not in the session, a name that is no topic filter, a store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.set_grants("ann", Grants::all().publish(["slides"])).await
    /// # }
    /// ```
    pub async fn set_grants(&self, client: &str, grants: Grants) -> Result<()> {
        self.call(call::GRANT, "", client, &[], &to_json(&grants.into_wire())?).await.map(drop)
    }

    /// Sends `client` away: its connections end, without its last will, and its tokens are refused from now on.
    /// [`Conductor::left`](crate::Conductor::left) follows. It may join again, unless [`Conductor::joining`](crate::Conductor::joining)
    /// refuses it. (Where the broker is outside of the host, connections go on until the token ends.)
    ///
    /// # Errors
    /// A client that is not in the session, a store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.kick("ann").await
    /// # }
    /// ```
    pub async fn kick(&self, client: &str) -> Result<()> {
        self.call(call::KICK, "", client, &[], &[]).await.map(drop)
    }

    /// Whether anybody new may join. Who is in the session may join again even while it is locked.
    ///
    /// # Errors
    /// A store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.lock_joining(true).await
    /// # }
    /// ```
    pub async fn lock_joining(&self, locked: bool) -> Result<()> {
        let mut rules = JoinRules::default();
        rules.locked = Some(locked);
        self.call(call::JOIN_RULES, "", "", &[], &to_json(&rules)?).await.map(drop)
    }

    /// How many clients may be in the session at once; `u32::MAX` is no limit, as where nothing was set. Those that are too many already stay.
    ///
    /// # Errors
    /// A store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.set_max_clients(4).await
    /// # }
    /// ```
    pub async fn set_max_clients(&self, most: u32) -> Result<()> {
        let mut rules = JoinRules::default();
        rules.max_clients = Some(most);
        self.call(call::JOIN_RULES, "", "", &[], &to_json(&rules)?).await.map(drop)
    }

    /// Replaces the session's labels: pairs of texts that administrators see in its listing.
    ///
    /// # Errors
    /// More than 16 labels, one longer than 256 bytes, a store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.set_labels([("phase", "lobby"), ("round", "1")]).await
    /// # }
    /// ```
    pub async fn set_labels<K: Into<String>, V: Into<String>>(&self, labels: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let labels: BTreeMap<String, String> = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.call(call::LABELS, "", "", &[], &to_json(&labels)?).await.map(drop)
    }
}
