//! The order of joins, through the manager that keeps it.

use crate::sessions::{
    Phase,
    place::{DAY, NOW, Place, id, stored},
};

fn last(place: &Place, client: &str) -> Option<String> {
    place.manager.joined_last(client).map(|(_, session)| session.id().to_string())
}

/// How many entries there are, of all clients.
fn entries(place: &Place) -> usize {
    place.manager.joins.get().unwrap().write().values().map(Vec::len).sum()
}

fn three() -> Place {
    let place = Place::with(["111111", "222222", "333333"].map(|session| stored(session, NOW - 10, &[])));
    place.manager.remember_joins();
    place
}

#[test]
fn the_last_join_counts_and_a_rejoin_is_one() {
    let place = three();
    assert_eq!(last(&place, "ann"), None);
    for session in ["333333", "111111", "222222", "111111"] {
        place.join(session, "ann").unwrap();
        assert_eq!(last(&place, "ann").as_deref(), Some(session));
    }
    place.join("333333", "bob").unwrap();
    assert_eq!((last(&place, "ann").as_deref(), last(&place, "bob").as_deref()), (Some("111111"), Some("333333")));
    assert_eq!((last(&place, "Ann"), entries(&place)), (None, 4));
    assert_eq!(place.manager.joined_last("bob").unwrap().0, NOW + DAY.as_secs());
}

#[test]
fn when_the_last_session_closes_the_one_before_counts() {
    let place = three();
    for session in ["111111", "222222", "333333"] {
        place.join(session, "ann").unwrap();
    }
    for (closed, left) in [("222222", Some("333333")), ("333333", Some("111111")), ("111111", None)] {
        place.close(closed);
        assert_eq!(last(&place, "ann").as_deref(), left);
    }
    assert!(place.join("111111", "ann").is_err());
    assert_eq!(entries(&place), 0, "nothing is left of what was closed");
}

#[test]
fn a_session_that_is_closing_counts_no_more() {
    let place = three();
    place.join("111111", "ann").unwrap();
    place.join("222222", "ann").unwrap();
    let session = place.manager.get(id("222222")).unwrap();
    assert!(session.move_on(Phase::Open, Phase::Closing));
    assert_eq!(last(&place, "ann").as_deref(), Some("111111"));
    // The store refused, so it goes on.
    assert!(session.move_on(Phase::Closing, Phase::Open));
    assert_eq!(last(&place, "ann").as_deref(), Some("222222"));
}

#[test]
fn a_grant_that_is_over_counts_no_more_and_is_forgotten_when_it_is_ended() {
    let place = three();
    place.join("111111", "ann").unwrap();
    place.set_time(NOW + 100);
    place.join("222222", "ann").unwrap();
    place.join("222222", "bob").unwrap();
    // The earlier join, made again, outlives the later one.
    place.set_time(NOW + 200);
    place.join("111111", "ann").unwrap();
    place.set_time(NOW + 100 + DAY.as_secs());
    assert_eq!((last(&place, "ann").as_deref(), last(&place, "bob")), (Some("111111"), None), "over, though not yet ended");
    assert_eq!(entries(&place), 3);
    place.end_expired_grants();
    assert_eq!((last(&place, "ann").as_deref(), entries(&place)), (Some("111111"), 1));
    place.join("222222", "bob").unwrap();
    assert_eq!(last(&place, "bob").as_deref(), Some("222222"));
}

/// Ending and closing happen beside joins: what they forget is looked at again under the lock.
#[test]
fn what_comes_back_meanwhile_is_not_forgotten_and_what_went_is_not_remembered() {
    let place = three();
    place.join("111111", "ann").unwrap();
    let session = place.manager.directory.get(id("111111")).unwrap();
    let before = session.record();
    // As if it had joined again between the end of its grant and this.
    place.manager.note_leaving(&session, &before, u64::MAX);
    assert_eq!(last(&place, "ann").as_deref(), Some("111111"));
    place.close("111111");
    // As if its join had come to its end only now.
    place.manager.note_join("ann", &session);
    assert_eq!((last(&place, "ann"), entries(&place)), (None, 0));
}

#[test]
fn after_a_restart_the_order_is_that_of_the_stored_ends() {
    let place = Place::with([
        stored("111111", NOW - 9, &[("ann", NOW + 30), ("bob", NOW + 50)]),
        stored("222222", NOW - 8, &[("ann", NOW + 40), ("bob", NOW + 50), ("eve", NOW)]),
        stored("333333", NOW - 10, &[("ann", NOW + 20), ("bob", NOW + 50), ("eve", NOW - 1)]),
    ]);
    assert_eq!(last(&place, "ann"), None, "not asked for");
    place.manager.remember_joins();
    assert_eq!(last(&place, "ann").as_deref(), Some("222222"));
    assert_eq!(last(&place, "bob").as_deref(), Some("222222"), "of one second, the younger session");
    assert_eq!(last(&place, "eve"), None, "over");
    place.join("333333", "ann").unwrap();
    assert_eq!((last(&place, "ann").as_deref(), entries(&place)), (Some("333333"), 8));
}
