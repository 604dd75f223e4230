use super::*;
use crate::{
    sessions::place::{NOW, Place, id, stored},
    store::StoredClient,
};

const SECOND: u64 = 1000;

/// A session made at `created` (seconds) with limits of its own, in seconds.
fn limited(session: &str, created: u64, lifetime: Option<u64>, empty_timeout: Option<u64>) -> StoredSession {
    let millis = |limit: Option<u64>| limit.map(|seconds| seconds * SECOND);
    let limits = Limits { lifetime: millis(lifetime), empty_timeout: millis(empty_timeout) };
    StoredSession { extra: limits.stored(), ..stored(session, created, &[]) }
}

fn place(sessions: impl IntoIterator<Item = StoredSession>) -> Place {
    let place = Place::with(sessions);
    place.manager.watch_all();
    place
}

/// What the task does each time, at `seconds` after the beginning; in how many seconds it looks again.
fn at(place: &Place, seconds: u64) -> Option<u64> {
    place.set_time(NOW + seconds);
    place.run(look(&place.manager))
}

async fn look(manager: &Arc<Manager>) -> Option<u64> {
    let wait = manager.end_due().await.expect("the host goes on");
    drop(manager.lifetimes.closing.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap());
    wait.map(|wait| wait.as_secs())
}

fn lives(place: &Place, session: &str) -> bool {
    place.manager.get(id(session)).is_some()
}

/// What it holds, which fits together.
fn held(place: &Place) -> usize {
    let queue = place.manager.lifetimes.lock();
    let queued: BTreeSet<_> = queue.watched.iter().filter_map(|(id, watched)| Some((watched.queued?, *id))).collect();
    assert_eq!(queue.due, queued);
    assert_eq!(place.manager.lifetimes.watched.load(Ordering::Relaxed), queue.watched.len());
    queue.watched.len()
}

fn ends(place: &Place, session: &str) -> Option<u64> {
    place.manager.ends(&place.manager.get(id(session)).unwrap()).at.map(|millis| millis / SECOND - NOW)
}

fn expired(place: &Place) -> u64 {
    place.manager.world().counts.expired.load(Ordering::Relaxed)
}

#[test]
fn a_lifetime_counts_from_the_creation_or_from_the_start_where_nobody_knows_that() {
    let place = place([
        limited("111111", NOW - 60, Some(100), None),
        limited("222222", 0, Some(100), None),
        limited("333333", NOW - 60, Some(0), None),
        stored("444444", NOW - 60, &[]),
    ]);
    assert_eq!(held(&place), 2, "one without limits is not held");
    assert_eq!(["111111", "222222", "333333", "444444"].map(|session| ends(&place, session)), [Some(40), Some(100), None, None]);
    // Whoever is there.
    place.connect(Some(&["a"]));
    assert_eq!(at(&place, 0), Some(40));
    assert_eq!(at(&place, 39), Some(1));
    assert!(lives(&place, "111111"));
    assert_eq!(at(&place, 40), Some(60));
    assert!(!lives(&place, "111111") && lives(&place, "222222"));
    assert_eq!(at(&place, 100), None);
    assert_eq!((place.manager.count(), expired(&place), held(&place)), (2, 2, 0));
}

#[test]
fn what_was_due_while_the_host_was_down_ends_at_once_and_a_clock_that_was_set_is_noticed() {
    let place = place([limited("111111", NOW - 500, Some(100), None), limited("222222", NOW, Some(86_400), None)]);
    assert_eq!(at(&place, 0), Some(LONGEST_SLEEP.as_secs()));
    assert!(!lives(&place, "111111") && lives(&place, "222222"));
    assert_eq!(at(&place, 90_000), None);
    assert!(!lives(&place, "222222"));
}

#[test]
fn own_limits_count_before_those_of_the_settings_and_none_is_a_limit_too() {
    let place = Place::limited(
        Limits::of(Some(Duration::from_secs(100)), None),
        [
            stored("111111", NOW, &[]),
            limited("222222", NOW, Some(200), None),
            limited("333333", NOW, Some(0), Some(50)),
            limited("444444", NOW, None, Some(0)),
        ],
    );
    place.manager.watch_all();
    let limits = |session: &str| place.manager.ends(&place.manager.get(id(session)).unwrap()).limits;
    let limit = |lifetime, empty_timeout| Limits { lifetime, empty_timeout };
    assert_eq!(limits("111111"), limit(Some(100 * SECOND), None));
    assert_eq!(limits("222222"), limit(Some(200 * SECOND), None));
    assert_eq!(limits("333333"), limit(None, Some(50 * SECOND)));
    assert_eq!(limits("444444"), limit(Some(100 * SECOND), None));
    assert_eq!(at(&place, 50), Some(50));
    assert!(!lives(&place, "333333"));
    assert_eq!(at(&place, 100), Some(100));
    assert!(!lives(&place, "111111") && !lives(&place, "444444") && lives(&place, "222222"));
}

#[test]
fn where_the_broker_knows_a_session_is_empty_while_nobody_is_connected() {
    let session = || limited("111111", NOW - 500, None, Some(60));
    let place = place([session(), stored("222222", NOW, &[])]);
    place.connect(Some(&[]));
    // Counted from the host's start at the earliest, and from each join.
    assert_eq!((ends(&place, "111111"), at(&place, 59)), (Some(60), Some(1)));
    place.join("111111", "a").unwrap();
    place.join("222222", "a").unwrap();
    assert_eq!((ends(&place, "111111"), at(&place, 60)), (Some(119), Some(59)));
    // While somebody is there, nothing is due and nothing wakes.
    place.connect(Some(&["a"]));
    assert_eq!((at(&place, 119), ends(&place, "111111")), (None, None));
    assert_eq!(at(&place, 100_000), None);
    // The last connection ends. One that is not the last empties nothing.
    crate::broker::Events::disconnected(&*place.manager, id("111111"), "b");
    assert_eq!(at(&place, 100_060), None);
    assert!(lives(&place, "111111"));
    place.connect(Some(&[]));
    crate::broker::Events::disconnected(&*place.manager, id("111111"), "a");
    assert_eq!((ends(&place, "111111"), at(&place, 100_119)), (Some(100_120), Some(1)));
    assert_eq!(at(&place, 100_120), None);
    assert!(!lives(&place, "111111") && lives(&place, "222222"));
    assert_eq!(held(&place), 0);
}

#[test]
fn where_it_does_not_a_session_is_empty_while_no_client_is_in_its_list() {
    let mut old = limited("111111", NOW - 500, None, Some(60));
    old.clients = vec![
        // What is no client's name does not count, or nothing would ever end it.
        StoredClient::Foreign(serde_json::Value::Null),
        StoredClient::Joined { client_id: "a".into(), expires_at: NOW + 100 },
        StoredClient::Joined { client_id: "b".into(), expires_at: NOW + 1000 },
    ];
    let place = place([old]);
    assert_eq!((ends(&place, "111111"), at(&place, 60)), (None, None));
    place.set_time(NOW + 100);
    place.end_expired_grants();
    assert_eq!(at(&place, 160), None);
    let session = place.manager.get(id("111111")).unwrap();
    place.set_time(NOW + 200);
    place.run(place.manager.kick(&session, "b", Caller::host())).unwrap();
    assert_eq!((ends(&place, "111111"), at(&place, 259)), (Some(260), Some(1)));
    at(&place, 260);
    assert!(!lives(&place, "111111"));
    // The same where the last grant ends by itself.
    let place = Place::with([StoredSession {
        extra: Limits { lifetime: None, empty_timeout: Some(60 * SECOND) }.stored(),
        ..stored("111111", NOW, &[("a", NOW + 100)])
    }]);
    place.manager.watch_all();
    assert_eq!(at(&place, 99), None);
    place.set_time(NOW + 100);
    place.end_expired_grants();
    assert_eq!(at(&place, 159), Some(1));
    at(&place, 160);
    assert!(!lives(&place, "111111"));
}

#[test]
fn limits_that_are_given_later_hold_from_then_on() {
    let place = place([stored("111111", NOW, &[]), stored("222222", NOW, &[])]);
    place.connect(Some(&[]));
    let set = |session: &str, lifetime: Option<u64>, empty_timeout: Option<u64>| {
        let millis = |limit: Option<u64>| limit.map(|seconds| Some(seconds * SECOND));
        place.run(place.manager.set_limits(id(session), millis(lifetime), millis(empty_timeout), Caller::host())).unwrap();
        assert_eq!(held(&place), place.manager.lifetimes.lock().due.len());
        ends(&place, session)
    };
    place.set_time(NOW + 1000);
    // An empty session has been empty for long, and yet has all of the time that it gets.
    assert_eq!(set("111111", None, Some(60)), Some(1060));
    // What is not given stays.
    assert_eq!(set("111111", Some(1030), None), Some(1030));
    place.set_time(NOW + 1010);
    assert_eq!(set("111111", Some(2000), None), Some(1060));
    assert_eq!(set("111111", None, Some(100)), Some(1110));
    assert_eq!(set("111111", None, Some(0)), Some(2000));
    assert_eq!(set("111111", Some(0), None), None);
    assert_eq!(held(&place), 0);
    // One that is over already.
    assert_eq!(set("222222", Some(5), None), Some(5));
    assert_eq!(at(&place, 1010), None);
    assert!(lives(&place, "111111") && !lives(&place, "222222"));
    let none = place.run(place.manager.set_limits(id("222222"), None, None, Caller::host()));
    assert!(matches!(none, Err(Refused::NoSuchSession)));
}

#[test]
fn what_the_store_refuses_is_tried_again_and_nothing_else_meanwhile() {
    let place =
        place([limited("111111", NOW, Some(10), None), limited("222222", NOW, Some(12), None), limited("333333", NOW, Some(13), None)]);
    let (wait, pause) = (AFTER_FAILURE.as_secs(), AFTER_FAILURE);
    place.run(async { tokio::time::pause() });
    place.fail(2);
    at(&place, 10);
    assert!(lives(&place, "111111"), "it goes on");
    assert_eq!((at(&place, 12), lives(&place, "222222")), (Some(wait), true), "nothing is tried for now");
    let later = |seconds: u64| {
        place.set_time(NOW + seconds);
        place.run(async {
            tokio::time::advance(pause).await;
            look(&place.manager).await
        })
    };
    // The one of them that is tried first is refused again.
    later(12 + wait);
    later(12 + 2 * wait);
    later(12 + 3 * wait);
    assert_eq!((place.manager.count(), expired(&place), held(&place)), (0, 3, 0));
}

#[test]
fn what_is_being_closed_is_looked_at_again_and_what_is_closed_is_forgotten() {
    let place = place([limited("111111", NOW, Some(10), Some(20)), limited("222222", NOW, Some(20), None)]);
    let session = place.manager.get(id("111111")).unwrap();
    assert!(session.move_on(crate::sessions::Phase::Open, crate::sessions::Phase::Closing));
    assert_eq!(at(&place, 10), Some(AFTER_FAILURE.as_secs()), "who closes it may be refused");
    assert!(session.move_on(crate::sessions::Phase::Closing, crate::sessions::Phase::Open));
    at(&place, 10 + AFTER_FAILURE.as_secs());
    assert_eq!(place.manager.count(), 0);
    let place = self::place([limited("111111", NOW, Some(10), Some(20))]);
    assert_eq!(held(&place), 1);
    let session = place.manager.get(id("111111")).unwrap();
    place.close("111111");
    place.manager.watch(&session, true);
    place.manager.note_life(id("111111"));
    assert_eq!((held(&place), at(&place, 10)), (0, None));
}

#[test]
fn a_host_that_stops_ends_no_session() {
    let place = place([limited("111111", NOW, Some(10), None)]);
    place.run(place.manager.stop());
    place.set_time(NOW + 10);
    assert_eq!(place.run(place.manager.end_due()), None);
    assert!(lives(&place, "111111"));
}

#[test]
fn what_was_under_way_when_a_session_is_found_to_be_over_counts() {
    let seconds = |seconds: u64| Some(Some(seconds * SECOND));
    for (joins, knows) in [(false, true), (true, false), (true, true)] {
        let place = place([limited("111111", NOW, (!joins).then_some(10), joins.then_some(10))]);
        place.connect(knows.then_some(&[]));
        place.set_time(NOW + 10);
        // Found; the task that closes it has not begun.
        place.run(place.manager.end_due());
        if joins {
            place.join("111111", "a").unwrap();
        } else {
            place.run(place.manager.set_limits(id("111111"), seconds(30), None, Caller::host())).unwrap();
        }
        let again = at(&place, 10);
        assert!(lives(&place, "111111"), "it was answered, and ended: {joins} {knows}");
        assert_eq!((expired(&place), held(&place)), (0, 1));
        // It is watched as before: until its new end, or for ever while a client is in its list.
        let until = if joins { 20 } else { 30 };
        assert!(again.is_some_and(|again| again <= until - 10), "{again:?}");
        at(&place, until - 1);
        assert!(lives(&place, "111111"), "{joins} {knows}");
        at(&place, until);
        assert_eq!(lives(&place, "111111"), joins && !knows);
    }
}

#[test]
fn a_new_time_to_be_empty_is_a_whole_one_also_where_the_old_one_has_just_ended() {
    let place = place([limited("111111", NOW, None, Some(10))]);
    place.connect(Some(&[]));
    place.set_time(NOW + 10);
    place.run(place.manager.end_due());
    place.run(place.manager.set_limits(id("111111"), None, Some(Some(5 * SECOND)), Caller::host())).unwrap();
    at(&place, 14);
    assert!(lives(&place, "111111"));
    at(&place, 15);
    assert!(!lives(&place, "111111"));
}
