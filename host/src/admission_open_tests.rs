//! Who gets in without tokens: names against records.

use super::*;
use crate::sessions::place::{NOW, Place, id, stored};

struct Door {
    place: Place,
    admission: OpenAdmission,
}

/// `ann` joined the first session after the second, `123456` is a client of the first alone.
fn door() -> Door {
    let place = Place::with([
        stored("111111", NOW - 10, &[("ann", NOW + 90), ("123456", NOW + 90), ("late", NOW)]),
        stored("222222", NOW - 10, &[("ann", NOW + 80), ("iotserver", NOW + 80), ("IoTServer", NOW + 80)]),
        stored("333333", NOW - 10, &[("", NOW + 80)]),
    ]);
    Door { admission: OpenAdmission::new(place.manager.clone()), place }
}

impl Door {
    fn ask(&self, client_id: &str, username: Option<&str>, password: Option<&[u8]>) -> Result<Admitted, &'static str> {
        self.admission.decide(&ConnectRequest { client_id, username, password, peer: ([127, 0, 0, 1], 1).into() })
    }

    fn session(&self, client_id: &str, username: Option<&str>) -> Result<String, &'static str> {
        self.ask(client_id, username, None).map(|admitted| admitted.session.to_string())
    }
}

const NOBODY: &str = "no client of this name is in a live session";

#[test]
fn the_session_is_the_one_that_the_username_names_or_else_the_one_joined_last() {
    let door = door();
    for (username, session) in [
        (Some("ann"), "111111"),
        (None, "111111"),
        (Some(""), "111111"),
        (Some("nonsense"), "111111"),
        (Some("111111"), "111111"),
        (Some("222222"), "222222"),
        // Not joined, and not there.
        (Some("333333"), "111111"),
        (Some("444444"), "111111"),
    ] {
        assert_eq!(door.session("ann", username).as_deref(), Ok(session), "{username:?}");
    }
    door.place.join("222222", "ann").unwrap();
    assert_eq!(door.session("ann", Some("ann")).as_deref(), Ok("222222"));
    assert_eq!(door.session("ann", Some("111111")).as_deref(), Ok("111111"));
    door.place.close("222222");
    for username in ["ann", "222222"] {
        assert_eq!(door.session("ann", Some(username)).as_deref(), Ok("111111"), "{username}");
    }
    assert_eq!(door.session("123456", Some("123456")).as_deref(), Ok("111111"), "a name that could be an id");
}

#[test]
fn the_grant_is_the_whole_session_and_no_more_and_ends_with_the_record() {
    let admitted = door().ask("ann", Some("222222"), Some(b"whatever")).unwrap();
    assert_eq!((admitted.session, &*admitted.client_id), (id("222222"), "ann"));
    assert!(admitted.grant.may_subscribe("/222222/#") && admitted.grant.may_publish("/222222/x"));
    for foreign in ["/111111/#", "/111111/x", "#", "/#", "/+/x"] {
        assert!(!admitted.grant.may_subscribe(foreign) && !admitted.grant.may_publish(foreign), "{foreign}");
    }
    assert_eq!(admitted.expires_at, UNIX_EPOCH + Duration::from_secs(NOW + 80));
}

#[test]
fn who_joined_nothing_is_refused() {
    let door = door();
    for stranger in ["bob", "Ann", "late", "null"] {
        for username in [None, Some(stranger), Some("111111"), Some("eve"), Some("iotserver")] {
            assert_eq!(door.session(stranger, username), Err(NOBODY), "{stranger} {username:?}");
        }
    }
    for name in ["iotserver", "IoTServer"] {
        for username in ["222222", name] {
            assert_eq!(door.session(name, Some(username)), Err("the name is the host's own"));
        }
    }
    door.place.set_time(NOW + 85);
    assert_eq!(door.session("ann", Some("222222")).as_deref(), Ok("111111"), "over in the second");
    door.place.set_time(NOW + 90);
    assert_eq!(door.session("ann", Some("ann")), Err(NOBODY));
}

/// As Unity's existing clients do.
#[test]
fn under_a_client_id_that_nobody_joined_with_the_username_is_the_name() {
    let admitted = door().ask("0f8fad5b-d9cb-469f-a165-70867728950e", Some("ann"), None).unwrap();
    assert_eq!((admitted.session, &*admitted.client_id), (id("111111"), "ann"));
}

#[test]
fn without_a_client_id_the_username_is_the_name() {
    let door = door();
    let admitted = door.ask("", Some("ann"), None).unwrap();
    assert_eq!((admitted.session, &*admitted.client_id), (id("111111"), "ann"));
    for username in ["222222", "bob"] {
        assert_eq!(door.session("", Some(username)), Err(NOBODY), "{username}");
    }
    for username in [None, Some("")] {
        assert_eq!(door.session("", username), Err("neither a client id nor a username"), "{username:?}");
    }
    assert_eq!(door.session("", Some("iotserver")), Err("the name is the host's own"));
}
