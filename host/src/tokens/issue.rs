//! What a join is answered with: a signed token, or without authentication the client's own name.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    claims::Grantee,
    signer::{SignError, Signed, Signer, times},
};

/// How this host makes tokens, as `token.mode` says.
#[derive(Clone)]
pub enum Tokens {
    /// JWTs of the host's key.
    Signed(Arc<Signer>),
    /// The token is the client's name. Nothing is signed, and there is no key.
    ClientId,
}

impl Tokens {
    /// A token for a client that joined, good from `now` for `ttl`; both are cut to whole seconds.
    ///
    /// # Errors
    /// As [`Signer::sign`]; without signatures, when a time is out of range.
    pub fn issue(&self, grantee: &Grantee<'_>, now: SystemTime, ttl: Duration) -> Result<Signed, SignError> {
        match self {
            Self::Signed(signer) => signer.sign(grantee, now, ttl),
            Self::ClientId => {
                let (_, _, expires_at) = times(now, ttl)?;
                Ok(Signed { token: grantee.client_id.to_owned(), expires_at })
            }
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signed(_) => "Signed",
            Self::ClientId => "ClientId",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sessions::SessionId, tokens::claims::UsernameRule};

    #[test]
    fn without_authentication_the_token_is_the_name_and_ends_as_a_signed_one_would() {
        let session = SessionId::parse("123456").unwrap();
        let grantee = Grantee { session, client_id: "späce unit", username: UsernameRule::SessionId, subs: &[], publ: &[] };
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_900);
        let issued = Tokens::ClientId.issue(&grantee, now, Duration::from_secs(60)).unwrap();
        assert_eq!(issued.token, "späce unit");
        assert_eq!(issued.expires_at, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_060));
    }
}
