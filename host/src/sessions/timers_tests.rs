//! The queue, and what follows after a timer was told.

use conductor_abi::{contract::Event, wire::call};

use super::*;
use crate::{
    conductors::asks,
    sessions::{
        Phase,
        place::{NOW, Place, stored},
    },
};

fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

fn at(due: u64) -> StoredTimer {
    StoredTimer { due, every: None }
}

#[test]
fn due_times_do_not_drift_and_none_that_is_over_comes_twice() {
    let timer = StoredTimer { due: 1000, every: Some(100) };
    for (now, next) in [(0, 1100), (999, 1100), (1000, 1100), (1001, 1100), (1099, 1100), (1100, 1200), (1550, 1600)] {
        assert_eq!(next_due(timer, 100, now), next, "{now}");
    }
    // Read from the store: not due yet; due once while nobody told it; due often.
    for (now, due) in [(999, 1000), (1000, 1000), (1099, 1000), (1550, 1500)] {
        assert_eq!(first_due(timer, now), due, "{now}");
    }
    assert_eq!(first_due(at(5), 1_000_000), 5);
    assert_eq!(next_due(StoredTimer { due: u64::MAX - 1, every: Some(u64::MAX) }, u64::MAX, 7), u64::MAX);
}

#[test]
fn the_first_that_is_due_comes_first_and_of_one_name_the_last_counts() {
    let timers = Timers::default();
    let mut queue = timers.lock();
    assert!(queue.set(id("1"), "b", at(20), 20));
    assert!(!queue.set(id("1"), "c", at(30), 30));
    assert!(queue.set(id("2"), "a", at(10), 10));
    // Of one moment, in the order they were set.
    assert!(!queue.set(id("2"), "d", at(20), 20));
    assert!(!queue.set(id("1"), "c", at(40), 40));
    assert_eq!(queue.next(9), Err(Some(1)));
    drop(queue);
    assert_eq!(timers.len(), 4);
    let names = |now| std::iter::from_fn(|| timers.lock().next(now).ok()).map(|(_, name, ..)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(20), ["a", "b", "d"]);
    assert_eq!((names(39).len(), timers.len()), (0, 1));
    assert_eq!(names(40), ["c"]);
    assert_eq!(timers.lock().next(u64::MAX), Err(None));
    assert_eq!(timers.len(), 0);
}

#[test]
fn what_is_taken_away_or_of_a_session_that_is_no_more_does_not_come() {
    let timers = Timers::default();
    for (session, name) in [("1", "a"), ("1", "b"), ("2", "a")] {
        timers.set(id(session), name, at(1), 1);
    }
    timers.lock().remove(id("1"), "a");
    timers.lock().remove(id("1"), "never");
    timers.lock().remove(id("3"), "a");
    assert_eq!(timers.len(), 2);
    timers.forget(id("1"));
    timers.forget(id("1"));
    assert_eq!(timers.lock().next(1).map(|(session, name, ..)| (session, name)), Ok((id("2"), "a".into())));
    assert_eq!(timers.len(), 0);
}
#[test]
fn the_queue_holds_the_timer_that_is_set_of_a_session_that_is_live() {
    let place = Place::with([stored("111111", NOW, &[])]);
    let manager = &place.manager;
    let session = manager.get(id("111111")).unwrap();
    let meta = |after| {
        let mut meta = TimerMeta::default();
        meta.after = after;
        meta
    };
    let set = |after| place.run(manager.set_timer(&session, 0, "t", Some(&meta(after)))).unwrap();
    set(10);
    let first = session.timer("t").unwrap();
    assert_eq!((first, manager.timers.len()), (at(NOW * 1000 + 10), 1));
    set(20);
    let second = session.timer("t").unwrap();
    // Two at once may come to the queue in another order than to the store.
    manager.queue(&session, "t", first, first.due);
    assert_eq!(manager.timers.lock().next(u64::MAX).map(|(.., timer, _)| timer), Ok(second));
    manager.queue(&session, "t", second, second.due);
    manager.unqueue(&session, "t");
    assert_eq!(manager.timers.len(), 1);
    // While a session is being closed, its timers stay: the store may refuse.
    assert!(session.move_on(Phase::Open, Phase::Closing));
    set(30);
    assert_eq!(manager.timers.len(), 1);
    assert!(session.move_on(Phase::Closing, Phase::Open));
    let third = session.timer("t").unwrap();
    place.close("111111");
    assert_eq!(manager.timers.len(), 0);
    manager.queue(&session, "t", third, third.due);
    assert_eq!(manager.timers.len(), 0);
}

#[test]
fn a_handler_that_is_given_up_leaves_nothing_half_done() {
    let place = Place::with([stored("111111", NOW, &[])]);
    let session = place.manager.get(id("111111")).unwrap();
    for (kind, subject, meta, body) in
        [(call::TIMER, "t", r#"{"after":5}"#, ""), (call::JOIN_RULES, "", "", r#"{"locked":true}"#), (call::LABELS, "", "", r#"{"a":"b"}"#)]
    {
        place.run(async {
            let call = Event {
                kind: kind.into(),
                subject: subject.into(),
                client: "".into(),
                meta: meta.as_bytes().into(),
                body: body.as_bytes().into(),
            };
            let mut given_up = Box::pin(asks::answer(&session, 0, &call));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending(), "{kind}");
            drop(given_up);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
    }
    let record = session.record();
    let extra = record.extra.as_ref().unwrap();
    assert!(extra.locked && extra.labels.len() == 1 && extra.timers.len() == 1 && place.manager.timers.len() == 1);
}

#[test]
fn what_follows_after_a_timer_was_told_goes_by_how_that_went() {
    let place = Place::with([stored("111111", NOW, &[])]);
    let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
    let reason = || std::sync::Arc::from("why");
    let own = || Trouble::Conductor { code: 1, message: String::new(), data: None };
    // Told: whether it is stored, and whether it is in the queue.
    for (told, stored, queued) in [
        (Ok(Vec::new()), false, false),
        (Err(own()), false, false),
        (Err(Trouble::Deadline), false, false),
        (Err(Trouble::Overloaded), true, true),
        // Over: the next start tells it.
        (Err(Trouble::Faulted(reason())), true, false),
        (Err(Trouble::Unavailable(reason())), true, false),
        (Err(Trouble::Closed), true, false),
    ] {
        let text = format!("{told:?}");
        place.run(async {
            tokio::time::pause();
            let mut meta = TimerMeta::default();
            meta.after = 10;
            manager.set_timer(&session, 0, "t", Some(&meta)).await.unwrap();
            let (_, _, timer, due) = manager.timers.lock().next(u64::MAX).unwrap();
            let began = tokio::time::Instant::now();
            manager.fired(&session, "t", timer, due, told).await;
            assert_eq!(session.has_timer("t", timer), stored, "{text}");
            let again = manager.timers.lock().next(u64::MAX).ok();
            assert_eq!(again.map(|(.., due)| due), queued.then_some(due), "{text}");
            assert_eq!(began.elapsed() >= WHERE_FULL, queued, "{text}");
            tokio::time::resume();
        });
    }
}

#[test]
fn of_a_stored_timer_that_was_due_often_the_last_time_counts() {
    let mut old = stored("111111", NOW, &[]);
    let timers = [("repeats", StoredTimer { due: NOW * 1000 - 2550, every: Some(1000) }), ("once", at(NOW * 1000 - 2550))];
    let timers = timers.into_iter().map(|(name, timer)| (name.into(), timer)).collect();
    old.extra = Some(Box::new(crate::store::Extra { timers, ..Default::default() }));
    let place = Place::with([old]);
    place.manager.set_timers(&place.manager.get(id("111111")).unwrap());
    let mut due: Vec<_> =
        std::iter::from_fn(|| place.manager.timers.lock().next(u64::MAX).ok()).map(|(_, name, _, due)| (name, due)).collect();
    due.sort();
    assert_eq!(due, [("once".into(), NOW * 1000 - 2550), ("repeats".into(), NOW * 1000 - 550)]);
}

/// A session with these stored timers.
fn with_timers(timers: &[(&str, StoredTimer)]) -> Place {
    let mut old = stored("111111", NOW, &[]);
    let timers = timers.iter().map(|(name, timer)| ((*name).into(), *timer)).collect();
    old.extra = Some(Box::new(crate::store::Extra { timers, ..Default::default() }));
    Place::with([old])
}

#[test]
fn of_a_long_period_what_was_told_is_stored() {
    let begin = NOW * 1000;
    for (every, stays) in [(LONG_PERIOD - 1, true), (LONG_PERIOD, false)] {
        let timer = StoredTimer { due: begin, every: Some(every) };
        let place = with_timers(&[("t", timer)]);
        let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
        // Told late, in the third period.
        place.set_time(NOW + 2 * LONG_PERIOD / 1000 + 1);
        place.run(manager.fired(&session, "t", timer, begin, Ok(Vec::new())));
        let next = StoredTimer { due: begin + 3 * every, ..timer };
        assert_eq!(session.timer("t"), Some(if stays { timer } else { next }));
        let (_, _, queued, due) = manager.timers.lock().next(u64::MAX).unwrap();
        assert_eq!((queued, due), (session.timer("t").unwrap(), next.due));
        // A restart within the period tells it once more, or not.
        assert_eq!(first_due(queued, begin + 2 * every + 1000), if stays { begin + 2 * every } else { next.due });
    }
}

#[test]
fn what_nobody_heard_waits_for_a_conductor_once() {
    let early = NOW * 1000 - 500;
    let place = with_timers(&[("t", at(early)), ("u", at(early))]);
    let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
    manager.set_timers(&session);
    // Its session is parked: nobody hears of them.
    assert_eq!(place.run(async { manager.fire_due() }), Some(None));
    assert_eq!((manager.timers.len(), session.timer("t")), (0, Some(at(early))));
    // One that is set anew is in the queue by itself.
    let mut meta = TimerMeta::default();
    meta.after = 70;
    place.run(manager.set_timer(&session, 0, "u", Some(&meta))).unwrap();
    let due = |due| manager.timers.lock().next(due).map(|(_, name, _, due)| (name, due));
    assert_eq!(due(u64::MAX), Ok(("u".into(), NOW * 1000 + 70)));
    manager.set_unheard_timers(&session);
    assert_eq!(due(u64::MAX), Ok(("t".into(), early)));
    assert_eq!(manager.timers.len(), 0, "the other is being told");
    manager.set_unheard_timers(&session);
    assert_eq!(manager.timers.len(), 0, "once");
    // What another has replaced is not kept, nor what is of a session that is no more.
    manager.keep_unheard(&session, "t", at(1));
    manager.set_unheard_timers(&session);
    assert_eq!(manager.timers.len(), 0);
    manager.keep_unheard(&session, "t", at(early));
    place.close("111111");
    manager.keep_unheard(&session, "t", at(early));
    assert!(manager.timers.lock().unheard.is_empty());
}

#[test]
fn a_clock_that_is_set_moves_the_timers_and_is_noticed() {
    let due = (NOW + 10) * 1000;
    let place = with_timers(&[("t", at(due))]);
    let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
    manager.set_timers(&session);
    let wait = |seconds| {
        place.set_time(seconds);
        place.run(async { manager.fire_due() }).unwrap()
    };
    assert_eq!(wait(NOW), Some(Duration::from_secs(10)));
    // Set back: later, and looked at now and then.
    assert_eq!((wait(NOW - 86_400), manager.timers.len()), (Some(LONGEST_SLEEP), 1));
    // Set forward: at the next look, late.
    assert_eq!((wait(NOW + 86_400), manager.timers.len()), (None, 0));
    assert_eq!(first_due(at(due), (NOW + 86_400) * 1000), due);
}

#[test]
fn one_that_was_told_once_is_taken_away_also_where_the_disk_refuses_for_a_while() {
    let (told, other) = (at(NOW * 1000), at(NOW * 1000 + 5));
    // Until the disk takes it; until it is another one; until its session is no more; until the host stops.
    for (failing, ended_by) in [(5, ""), (usize::MAX, "set"), (usize::MAX, "closed"), (usize::MAX, "stopping")] {
        let place = with_timers(&[("t", told)]);
        let (manager, session) = (&place.manager, place.manager.get(id("111111")).unwrap());
        place.run(async {
            tokio::time::pause();
            place.fail(failing);
            let mut fired = std::pin::pin!(manager.fired(&session, "t", told, told.due, Ok(Vec::new())));
            assert!(tokio::time::timeout(Duration::from_secs(5), fired.as_mut()).await.is_err(), "it is given up: {ended_by}");
            assert!(session.has_timer("t", told) && manager.timers.len() == 0, "it is told again by this host: {ended_by}");
            match ended_by {
                "set" => drop(session.change(Change::Timer { id: id("111111"), name: "t".into(), timer: Some(other) }).await.unwrap()),
                "closed" => drop(manager.directory.remove(id("111111"))),
                "stopping" => manager.stop().await,
                _ => {}
            }
            tokio::time::timeout(Duration::from_secs(60), fired).await.expect("it ends");
        });
        let left = match ended_by {
            "" => None,
            "set" => Some(other),
            _ => Some(told),
        };
        assert_eq!(session.timer("t"), left, "{ended_by}");
    }
}

#[test]
fn a_restart_on_a_clock_that_was_set_tells_what_is_due_by_it_and_nothing_twice() {
    const DAY: u64 = 86_400;
    for url in ["json:sessions.json", "sqlite:sessions.db"] {
        let folder = tempfile::tempdir().unwrap();
        // The host at that time: in how many seconds it looks again, and what it would tell by then.
        let start = |now: u64| {
            let place = Place::on(url, folder.path());
            place.set_time(now);
            let manager = &place.manager;
            manager.directory.all().iter().for_each(|session| manager.set_timers(session));
            let told: Vec<_> = std::iter::from_fn(|| manager.timers.lock().next(now * 1000).ok())
                .map(|(_, name, timer, due)| (name.to_string(), timer, due / 1000))
                .collect();
            let wait = place.run(async { manager.fire_due() }).unwrap();
            (place, wait.map(|wait| wait.as_secs()), told)
        };
        let names = |told: &[(String, StoredTimer, u64)]| told.iter().map(|(name, _, due)| (name.clone(), *due)).collect::<Vec<_>>();
        let stop = |place: Place| place.run(place.manager.world().store.shutdown());
        let (place, ..) = start(NOW);
        let store = &place.manager.world().store;
        place.run(store.apply(Change::Create(std::sync::Arc::new(stored("111111", NOW, &[]))))).unwrap();
        let every = StoredTimer { due: (NOW + 60) * 1000, every: Some(60_000) };
        for (name, timer) in [("once", at((NOW + 10) * 1000)), ("every", every)] {
            place.run(store.apply(Change::Timer { id: id("111111"), name: name.into(), timer: Some(timer) })).unwrap();
        }
        stop(place);
        // Set back: nothing is due, and the clock is looked at now and then.
        let (place, wait, told) = start(NOW - DAY);
        assert_eq!((wait, names(&told)), (Some(LONGEST_SLEEP.as_secs()), vec![]), "{url}");
        stop(place);
        // Set forward by a day and a half minute: both are late, and of the one that repeats the last time counts.
        let later = NOW + DAY + 30;
        let (place, _, told) = start(later);
        assert_eq!(names(&told), [("once".to_owned(), NOW + 10), ("every".to_owned(), NOW + DAY)], "{url}");
        let session = place.manager.get(id("111111")).unwrap();
        for (name, timer, due) in &told {
            place.run(place.manager.fired(&session, name, *timer, due * 1000, Ok(Vec::new())));
        }
        stop(place);
        // The same time again, and one before: what was told is not told again, and the other comes when its next time does.
        for (now, next) in [(later, 30), (NOW, LONGEST_SLEEP.as_secs())] {
            let (place, wait, told) = start(now);
            assert_eq!((wait, names(&told), place.manager.timers.len()), (Some(next), vec![], 1), "{url} {now}");
            stop(place);
        }
        let (_, _, told) = start(NOW + DAY + 60);
        assert_eq!(names(&told), [("every".to_owned(), NOW + DAY + 60)], "{url}");
    }
}
