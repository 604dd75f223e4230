//! How long a session lives, and how long its id rests.

use std::sync::Arc;

use super::{
    super::{Applied, Change, Store, StoreError, StoredSession},
    Place, create, create_at, done, expire, id, join, leave, limits, wait,
};

pub(super) fn limits_are_what_was_said_last(place: &Place) {
    let (mut store, _) = place.open();
    let of = |record: &StoredSession| record.extra.as_ref().map(|extra| (extra.lifetime, extra.empty_timeout));
    done(&store, create("1"));
    done(&store, limits("1", Some(Some(0)), None));
    done(&store, limits("1", None, Some(Some(7))));
    let last = done(&store, limits("1", Some(Some(u64::MAX)), None));
    assert_eq!((of(&last), last.revision), (Some((Some(u64::MAX), Some(7))), 3));
    for nothing in [limits("1", None, None), limits("1", Some(Some(u64::MAX)), Some(Some(7)))] {
        assert!(Arc::ptr_eq(&last, &done(&store, nothing)));
    }
    let back = done(&store, limits("1", None, Some(None)));
    assert_eq!((of(&back), back.revision), (Some((Some(u64::MAX), None)), 4), "as the settings say, as before it was said");
    assert_eq!(of(&done(&store, limits("1", Some(None), None))), None, "nothing is left of them");
    done(&store, limits("1", Some(Some(0)), Some(Some(0))));
    if place.keeps() {
        wait(store.shutdown());
        let (again, loaded) = place.open();
        assert_eq!(of(&loaded[0]), Some((Some(0), Some(0))), "no limit is not the same as none said");
        done(&again, limits("1", None, Some(None)));
        wait(again.shutdown());
        let (again, loaded) = place.open();
        assert_eq!(of(&loaded[0]), Some((Some(0), None)), "none said is not the same as no limit");
        store = again;
    }
    assert!(matches!(wait(store.apply(limits("2", None, None))), Err(StoreError::NoSuchSession(_))));
}

pub(super) fn tokens_that_the_list_does_not_tell_of_are_known_until_they_are_over(place: &Place) {
    let (mut store, _) = place.open();
    let unlisted = |record: &StoredSession| record.extra.as_ref().map_or(0, |extra| extra.tokens_until);
    assert_eq!(done(&store, create("1")).tokens_until(), 0);
    done(&store, join("1", "a", 10));
    assert_eq!(done(&store, join("1", "b", 20)).tokens_until(), 20);
    let shorter = done(&store, join("1", "b", 15));
    assert_eq!((unlisted(&shorter), shorter.tokens_until()), (20, 20));
    assert_eq!(unlisted(&done(&store, leave("1", "a"))), 20, "the later one counts");
    let longer = done(&store, join("1", "b", 30));
    assert_eq!((unlisted(&longer), longer.tokens_until()), (20, 30));
    assert_eq!(unlisted(&done(&store, leave("1", "b"))), 30);
    if place.keeps() {
        wait(store.shutdown());
        let (again, loaded) = place.open();
        assert_eq!((loaded[0].tokens_until(), loaded[0].clients.len()), (30, 0));
        store = again;
    }
    assert_eq!(unlisted(&done(&store, expire("1", 29))), 30);
    assert!(done(&store, expire("1", 30)).extra.is_none());
}

pub(super) fn an_id_rests_until_its_last_token_is_over(place: &Place) {
    let (mut store, loaded) = place.open_all();
    assert!(loaded.resting.is_empty());
    let close = |store: &Arc<dyn Store>, number: &str| assert!(wait(store.apply(Change::Close(id(number)))).unwrap().is_none());
    let rests = |answer: Applied| matches!(answer, Err(StoreError::Resting(resting)) if resting == id("1"));
    done(&store, create_at("1", 5));
    close(&store, "1");
    done(&store, create_at("1", 5));
    done(&store, join("1", "a", 20));
    done(&store, leave("1", "a"));
    done(&store, create_at("02", 5));
    // At once, one after the other.
    let answers =
        [Change::Close(id("1")), create_at("1", 19), create_at("1", 20), Change::Close(id("1"))].map(|change| store.apply(change));
    let [closed, early, made, again] = answers.map(wait);
    assert!(closed.unwrap().is_none() && rests(early) && made.is_ok() && again.unwrap().is_none());
    done(&store, create_at("1", 5));
    done(&store, join("1", "a", 40));
    close(&store, "1");
    done(&store, join("02", "b", 30));
    close(&store, "02");
    for _ in 0..2 {
        assert!(rests(wait(store.apply(create_at("1", 39)))));
        if place.keeps() {
            wait(store.shutdown());
            let opened = place.open_all();
            assert_eq!(opened.1.resting, [(id("1"), 40), (id("02"), 30)]);
            assert!(opened.1.sessions.is_empty());
            store = opened.0;
        }
    }
    done(&store, create_at("3", 30));
    if place.keeps() {
        wait(store.shutdown());
        let (again, loaded) = place.open_all();
        assert_eq!(loaded.resting, [(id("1"), 40)], "what is over was forgotten at a creation");
        store = again;
    }
    done(&store, create_at("1", 40));
    if place.keeps() {
        wait(store.shutdown());
        let (_store, loaded) = place.open_all();
        assert_eq!((loaded.sessions.len(), loaded.resting), (2, vec![]));
    }
}
