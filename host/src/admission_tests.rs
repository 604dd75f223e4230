//! Who gets in, and with what: tokens against records, at times of the test's choosing.

use std::time::Duration;

use super::*;
use crate::{
    sessions::place::{self, DAY, NOW, stored},
    tokens::{
        claims::{Grantee, UsernameRule},
        keys::SigningKey,
    },
};

fn id() -> SessionId {
    place::id("123456")
}

struct Place {
    admission: TokenAdmission,
    _host: place::Place,
}

impl Place {
    /// A host with one session, made at `created` (seconds), that `ann` joined until `until`.
    fn with(created: u64, until: u64) -> Self {
        let host = place::Place::with([stored("123456", created, &[("ann", until)])]);
        let key = SigningKey::from_pem(include_bytes!("../tests/keys/test-p256.pem")).unwrap();
        let signer = Arc::new(Signer::new(key, "test").unwrap());
        Self { admission: TokenAdmission { manager: host.manager.clone(), signer }, _host: host }
    }

    fn token(&self, session: SessionId, client_id: &str, signed_at: u64, subs: &[&str]) -> String {
        let subs: Vec<String> = subs.iter().map(|filter| (*filter).to_owned()).collect();
        let grantee = Grantee { session, client_id, username: UsernameRule::SessionId, subs: &subs, publ: &subs };
        self.admission.signer.sign(&grantee, UNIX_EPOCH + Duration::from_secs(signed_at), DAY).unwrap().token
    }

    fn ask(&self, token: &str, username: Option<&str>) -> Result<Admitted, String> {
        let peer = ([127, 0, 0, 1], 1).into();
        self.admission.decide(&ConnectRequest { client_id: "", username, password: Some(token.as_bytes()), peer })
    }

    /// A good token of `ann`, with these changes.
    fn refused(&self, session: SessionId, client_id: &str, signed_at: u64) -> String {
        let token = self.token(session, client_id, signed_at, &["/123456/#"]);
        self.ask(&token, Some(&session.to_string())).unwrap_err()
    }
}

#[test]
fn a_client_of_the_record_with_its_token_gets_what_both_allow() {
    let place = Place::with(NOW - 10, NOW + 100);
    let wide = place.ask(&place.token(id(), "ann", NOW - 5, &["/123456/#", "/999999/#"]), Some("123456")).unwrap();
    assert_eq!((wide.session, &*wide.client_id), (id(), "ann"));
    assert!(wide.grant.may_subscribe("/123456/#") && !wide.grant.may_subscribe("/999999/#"), "the record's limits hold");
    assert_eq!(wide.expires_at, UNIX_EPOCH + Duration::from_secs(NOW + 100), "the record's end comes first");
    let narrow = place.ask(&place.token(id(), "ann", NOW - 5, &["/123456/a"]), Some("123456")).unwrap();
    assert!(narrow.grant.may_publish("/123456/a") && !narrow.grant.may_publish("/123456/b"), "the token's limits hold");
    let long = Place::with(NOW - 10, NOW + 10 * DAY.as_secs());
    let admitted = long.ask(&long.token(id(), "ann", NOW - 5, &["/123456/#"]), Some("123456")).unwrap();
    assert_eq!(admitted.expires_at, UNIX_EPOCH + Duration::from_secs(NOW - 5) + DAY, "the token's end comes first");
}

#[test]
fn each_thing_that_is_wrong_is_enough() {
    let place = Place::with(NOW - 10, NOW + 100);
    let good = place.token(id(), "ann", NOW - 5, &["/123456/#"]);
    for username in [None, Some(""), Some("ann"), Some("123457")] {
        assert_eq!(place.ask(&good, username).unwrap_err(), "the username is not the token's");
    }
    assert_eq!(place.refused(SessionId::parse("123457").unwrap(), "ann", NOW - 5), "the session is closed");
    for stranger in ["bob", "Ann", "null"] {
        assert_eq!(place.refused(id(), stranger, NOW - 5), "the client is not in the session");
    }
    assert_eq!(place.refused(id(), "ann", NOW - 11), "the token is older than the session");
    assert!(place.refused(id(), "ann", NOW - 2 * DAY.as_secs()).contains("expired"));
    let over = Place::with(NOW - 10, NOW);
    assert_eq!(over.refused(id(), "ann", NOW - 5), "the client is not in the session");
    let peer = ([127, 0, 0, 1], 1).into();
    let none = place.admission.decide(&ConnectRequest { client_id: "ann", username: Some("123456"), password: None, peer });
    assert_eq!(none.unwrap_err(), "no token");
}
