//! What opens a session, and for how many.

use super::{
    super::{Change, StoreError},
    Place, create, done, id, join, leave, pin, rules, wait,
};

pub(super) fn a_pin_is_the_last_that_was_given(place: &Place) {
    let (mut store, _) = place.open();
    done(&store, create("1"));
    let first = done(&store, pin("1", "000777"));
    assert_eq!((first.pin.reveal(), first.revision), ("000777".into(), 1));
    assert_eq!(done(&store, pin("1", "000777")).revision, 1, "the same one is no change");
    assert_eq!(done(&store, pin("1", "00777")).revision, 2);
    if place.keeps() {
        wait(store.shutdown());
        let (again, loaded) = place.open();
        assert_eq!(loaded[0].pin.reveal(), "00777");
        store = again;
    }
    assert!(matches!(wait(store.apply(pin("2", "1"))), Err(StoreError::NoSuchSession(_))));
}

pub(super) fn who_was_sent_away_is_known_for_good(place: &Place) {
    let (mut store, _) = place.open();
    assert!(done(&store, create("1")).may_resume("a", 0));
    for client in ["a", "b"] {
        done(&store, join("1", client, 9));
    }
    let mut record = done(&store, leave("1", "a"));
    for _ in 0..2 {
        assert_eq!(
            (record.kicks(), record.may_resume("a", 0), record.may_resume("a", 1), record.may_resume("b", 0)),
            (1, false, true, true)
        );
        if place.keeps() {
            wait(store.shutdown());
            let (again, loaded) = place.open();
            (store, record) = (again, loaded[0].clone());
        }
    }
    done(&store, join("1", "a", 9));
    let again = done(&store, leave("1", "a"));
    assert_eq!((again.kicks(), again.may_resume("a", 1), again.may_resume("a", 2), again.may_resume("b", 0)), (2, false, true, true));
    // Beyond a thousand names the oldest go, and tokens as old as they are with them.
    let before = again;
    for number in 0..1001 {
        let name = format!("c{number}");
        drop(store.apply(join("1", &name, 9)));
        drop(store.apply(leave("1", &name)));
    }
    let many = done(&store, join("1", "d", 9));
    let kicked = &many.extra.as_ref().unwrap().kicked;
    assert_eq!((kicked.clients.len(), kicked.count, kicked.floor), (1000, 1003, 3));
    assert!(!many.may_resume("a", 2) && !many.may_resume("c0", 2) && !many.may_resume("c1000", 1002));
    assert!(many.may_resume("c0", 3) && many.may_resume("d", many.kicks()), "who joined since is not concerned");
    assert_eq!(before.kicks(), 2);
}

pub(super) fn a_session_is_full_where_its_conductor_says_so_and_else_where_the_join_does(place: &Place) {
    let (store, _) = place.open();
    let join = |client: &str, max_clients| {
        wait(store.apply(Change::Join { id: id("1"), client_id: client.into(), expires_at: 9, grants: None, max_clients }))
    };
    done(&store, create("1"));
    assert!(join("a", 2).is_ok() && join("b", 2).is_ok());
    assert!(matches!(join("c", 2), Err(StoreError::Full(_))));
    assert!(join("a", 2).is_ok(), "who is in it may always join");
    done(&store, rules("1", None, Some(3)));
    assert!(join("c", 2).is_ok(), "the conductor's number may be larger");
    assert!(matches!(join("d", 9), Err(StoreError::Full(_))), "or smaller");
}
