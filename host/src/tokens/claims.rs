//! What a token says.

use serde::{Deserialize, Serialize};

use crate::sessions::SessionId;

/// What `sub`, and therefore a client's MQTT username, is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsernameRule {
    /// The session's id, as the specification says.
    #[default]
    SessionId,
    /// The client's id, as clients made for the replaced system send it.
    ClientId,
}

impl UsernameRule {
    /// The username that this client of this session must show.
    #[must_use]
    pub fn username(self, session: SessionId, client_id: &str) -> String {
        match self {
            Self::SessionId => session.to_string(),
            Self::ClientId => client_id.to_owned(),
        }
    }
}

/// Whom a token is for, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Grantee<'a> {
    /// The session that the client joined.
    pub session: SessionId,
    /// The device's name in that session.
    pub client_id: &'a str,
    /// What becomes `sub`.
    pub username: UsernameRule,
    /// Topic filters that it may subscribe.
    pub subs: &'a [String],
    /// Topic filters that it may publish to.
    pub publ: &'a [String],
}

/// The payload of a token. All of it is required of a token that is shown to us; what else a payload holds is ignored. There
/// is no `aud`: readers that do not expect one would refuse it. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// What the MQTT username must be.
    pub sub: String,
    /// When it was signed.
    pub iat: u64,
    /// From when on it is refused.
    pub exp: u64,
    /// Topic filters that may be subscribed.
    pub subs: Vec<String>,
    /// Topic filters that may be published to.
    pub publ: Vec<String>,
    /// The device's name in its session; the MQTT client id must be this or empty.
    pub client_id: String,
    /// The session's id.
    pub sid: String,
    /// Random: no two tokens share it.
    pub jti: String,
    /// The host that signed it, as its settings name it.
    pub iss: String,
    /// Before this it is refused.
    pub nbf: u64,
}
