//! Who may connect to the broker: the token, the username and the client's record in its session must agree. The broker itself
//! holds the client id and the last will to what comes out of this.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    broker::{Admission, Admitted, ConnectRequest, Refusal},
    sessions::{Manager, SessionId},
    store::StoredClient,
    tokens::{grant::Grant, signer::Signer},
};

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
        let expires_at = record.clients.iter().find_map(|client| match client {
            StoredClient::Joined { client_id, expires_at } if **client_id == claims.client_id => Some(*expires_at),
            _ => None,
        });
        let recorded = expires_at.filter(|end| *end > clock.seconds()).ok_or("the client is not in the session")?;
        let grant = Grant::whole_session(session.id()).intersect(&Grant::from_lists(claims.subs, claims.publ));
        let expires_at = UNIX_EPOCH + Duration::from_secs(claims.exp.min(recorded));
        Ok(Admitted { session: session.id(), client_id: claims.client_id.into(), grant, expires_at })
    }
}

impl Admission for TokenAdmission {
    fn admit(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, Refusal> {
        self.decide(connect).map_err(|reason| {
            tracing::info!(peer = %connect.peer, client_id = connect.client_id, reason, "an MQTT connection was refused");
            Refusal::BadCredentials
        })
    }
}

impl fmt::Debug for TokenAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAdmission")
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
