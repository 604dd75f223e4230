//! Who may connect to the broker. With tokens, the token, the username and the client's record in its session must agree; without,
//! the client's name and its record. The broker itself holds the client id and the last will to what comes out of this.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use conductor_abi::rules::is_reserved;

use crate::{
    broker::{Admission, Admitted, ConnectRequest, Refusal},
    sessions::{Manager, Session, SessionId},
    tokens::{grant::Grant, issue::Tokens, signer::Signer},
};

/// What goes with this way of making tokens.
#[must_use]
pub fn by(tokens: Tokens, manager: Arc<Manager>) -> Arc<dyn Admission> {
    match tokens {
        Tokens::Signed(signer) => Arc::new(TokenAdmission { manager, signer }),
        Tokens::ClientId => Arc::new(OpenAdmission::new(manager)),
    }
}

/// Checks tokens against the live sessions.
pub struct TokenAdmission {
    /// Where the sessions are.
    pub manager: Arc<Manager>,
    /// Knows this host's tokens.
    pub signer: Arc<Signer>,
}

impl TokenAdmission {
    /// The verdict with its reason, for the log.
    fn decide(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, String> {
        let clock = self.manager.world().clock;
        let token = connect.password.ok_or("no token")?;
        let claims = self.signer.verify(token, clock.now()).map_err(|error| format!("the token is refused: {error}"))?;
        if connect.username != Some(&claims.sub) {
            return Err("the username is not the token's".into());
        }
        let session = SessionId::parse(&claims.sid).and_then(|id| self.manager.get(id)).ok_or("the session is closed")?;
        let record = session.record();
        // A token of an earlier session that had this id opens nothing here.
        if claims.iat < record.created_at / 1000 {
            return Err("the token is older than the session".into());
        }
        let recorded = record.granted_until(&claims.client_id).filter(|end| *end > clock.seconds());
        let recorded = recorded.ok_or("the client is not in the session")?;
        let grant = record.grant(&claims.client_id).intersect(&Grant::from_lists(claims.subs, claims.publ));
        let expires_at = UNIX_EPOCH + Duration::from_secs(claims.exp.min(recorded));
        Ok(Admitted { session: session.id(), client_id: claims.client_id.into(), grant, expires_at })
    }
}

impl Admission for TokenAdmission {
    fn admit(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, Refusal> {
        self.decide(connect).map_err(|reason| refused(connect, &reason))
    }
}

fn refused(connect: &ConnectRequest<'_>, reason: &str) -> Refusal {
    // No name that may join is longer; what was sent may be.
    let client_id: String = connect.client_id.chars().take(64).collect();
    tracing::info!(peer = %connect.peer, client_id, reason, "an MQTT connection was refused");
    Refusal::BadCredentials
}

impl fmt::Debug for TokenAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAdmission")
    }
}

/// Looks for the client's name in the records of the live sessions. The password is not looked at.
#[derive(Debug)]
pub struct OpenAdmission {
    manager: Arc<Manager>,
}

impl OpenAdmission {
    /// The manager remembers the order of joins from here on: to be made before anybody can join.
    #[must_use]
    pub fn new(manager: Arc<Manager>) -> Self {
        manager.remember_joins();
        Self { manager }
    }

    /// The session that the username names, where the client is in that, or else the one it joined last; before it when its grant ends.
    fn place_of(&self, client_id: &str, username: Option<&str>) -> Option<(u64, Arc<Session>)> {
        let named = username.and_then(SessionId::parse).and_then(|id| self.manager.get(id));
        let now = self.manager.world().clock.seconds();
        let named = named.and_then(|session| Some((session.granted_until(client_id, now)?, session)));
        named.or_else(|| self.manager.joined_last(client_id))
    }

    /// The verdict with its reason, for the log.
    fn decide(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, &'static str> {
        // Most existing clients name themselves in both. Unity's make up a client id each time, and others leave it to the broker:
        // then the username is the name.
        let names = [connect.client_id, connect.username.unwrap_or_default()];
        let mut names = names.into_iter().filter(|name| !name.is_empty()).peekable();
        let first = *names.peek().ok_or("neither a client id nor a username")?;
        if is_reserved(first) {
            return Err("the name is the host's own");
        }
        let found = names.filter(|name| !is_reserved(name)).find_map(|name| Some((name, self.place_of(name, connect.username)?)));
        let (client_id, (expires_at, session)) = found.ok_or("no client of this name is in a live session")?;
        Ok(Admitted {
            session: session.id(),
            client_id: client_id.into(),
            grant: session.record().grant(client_id),
            expires_at: UNIX_EPOCH + Duration::from_secs(expires_at),
        })
    }
}

impl Admission for OpenAdmission {
    fn can_be_guessed(&self) -> bool {
        true
    }

    fn admit(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, Refusal> {
        self.decide(connect).map_err(|reason| refused(connect, reason))
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "admission_open_tests.rs"]
mod open_tests;
