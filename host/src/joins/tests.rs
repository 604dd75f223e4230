use std::net::Ipv4Addr;

use super::*;
use crate::{
    crowd,
    networks::network,
    sessions::place::{NOW, id, stored},
};

const MILLIS: u64 = NOW * 1000;

fn joins(change: impl FnOnce(&mut Settings)) -> Joins {
    let mut settings = crate::config::Settings::load(None, std::iter::empty(), &[]).unwrap().0.joins;
    change(&mut settings);
    Joins::new(&settings, Secrets::of(&[7; 32]))
}

fn at(number: u32) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)))
}

fn right() -> Shown {
    Shown::Pin(Pin::parse("424242"))
}

fn wrong() -> Shown {
    Shown::Pin(Pin::parse("424243"))
}

const LIMITED: Result<(), Denied> = Err(Denied::Limited(10_000));

/// One session, asked for by whoever is at an address.
struct Door {
    joins: Joins,
    record: StoredSession,
    budget: PinBudget,
}

impl Door {
    fn new(joins: Joins) -> Self {
        Self { joins, record: stored("111111", NOW, &[]), budget: PinBudget::default() }
    }

    fn try_it(&self, shown: &Shown, from: Option<IpAddr>) -> Result<(), Denied> {
        let candidate = Candidate { record: &self.record, budget: &self.budget };
        self.joins.judge(Some(self.record.id), Some(candidate), shown, "ann", from, MILLIS)
    }

    fn nowhere(&self, shown: &Shown, from: Option<IpAddr>) -> Result<(), Denied> {
        self.joins.judge(Some(id("999999")), None, shown, "ann", from, MILLIS)
    }
}

#[test]
fn a_source_that_guesses_is_slowed_down_whether_or_not_there_is_a_session() {
    let door = Door::new(joins(|_| {}));
    let (a, b): (Vec<_>, Vec<_>) = (0..20).map(|_| (door.try_it(&wrong(), at(1)), door.nowhere(&wrong(), at(2)))).unzip();
    assert_eq!(a, b);
    assert_eq!((a[9], a[10]), (Err(Denied::Wrong), LIMITED));
    assert_eq!(door.try_it(&right(), at(1)), LIMITED, "a right pin as well, or else guessing would go on");
    let counts = &door.joins.counts;
    assert_eq!((counts.refused.load(Ordering::Relaxed), counts.limited.load(Ordering::Relaxed)), (20, 21));
}

#[test]
fn link_and_resume_token_work_from_a_source_that_guesses() {
    let door = Door::new(joins(|_| {}));
    let secret = Shown::Secret(door.joins.secret_of(&door.record));
    let resume = Shown::Resume(door.joins.resume_of(&door.record, "ann"));
    while door.try_it(&wrong(), at(1)) != LIMITED {}
    for _ in 0..100 {
        assert_eq!((door.try_it(&secret, at(1)), door.try_it(&resume, at(1))), (Ok(()), Ok(())));
    }
    // They open nothing where there is no session, and what is wrong of them is charged.
    assert_eq!(door.nowhere(&secret, at(2)), Err(Denied::Wrong));
    for _ in 1..10 {
        assert_eq!(door.try_it(&Shown::Secret("x".into()), at(2)), Err(Denied::Wrong));
    }
    for bad in [&secret, &resume] {
        assert_eq!(door.nowhere(bad, at(2)), LIMITED);
    }
    assert_eq!(door.try_it(&secret, at(2)), Ok(()));
}

#[test]
fn successes_of_a_source_are_bounded_and_use_no_failure_up() {
    let door = Door::new(joins(|_| {}));
    for _ in 0..300 {
        assert_eq!(door.try_it(&right(), at(1)), Ok(()));
    }
    let secret = Shown::Secret(door.joins.secret_of(&door.record));
    for shown in [right(), wrong(), secret] {
        assert_eq!(door.try_it(&shown, at(1)), Err(Denied::Limited(1000)));
    }
    assert!(!door.joins.is_guarded(&door.budget, MILLIS));
}

#[test]
fn many_sources_share_the_budget_of_the_pin() {
    let door = Door::new(joins(|_| {}));
    for number in 0..10 {
        assert_eq!(door.try_it(&wrong(), at(number)), Err(Denied::Wrong));
    }
    assert_eq!(door.try_it(&right(), at(100)), Err(Denied::Wrong), "guarded: a right pin is like a wrong one");
    // And it is charged like one, or else its source would see that it was right.
    for _ in 1..10 {
        assert_eq!(door.try_it(&right(), at(100)), Err(Denied::Wrong));
    }
    assert_eq!(door.try_it(&right(), at(100)), LIMITED);
}

#[test]
fn where_no_pin_is_shown_there_is_nothing_to_look_at() {
    let door = Door::new(joins(|_| {}));
    assert!(!door.joins.were_pins_shown());
    let secret = Shown::Secret(door.joins.secret_of(&door.record));
    assert_eq!(door.try_it(&secret, at(1)), Ok(()));
    assert!(!door.joins.were_pins_shown());
    for number in 0..3 {
        let _ = match number {
            0 => door.try_it(&wrong(), at(1)),
            1 => door.try_it(&right(), at(1)),
            _ => door.nowhere(&wrong(), at(1)),
        };
        assert!(door.joins.were_pins_shown(), "{number}");
    }
    assert!(!door.joins.were_pins_shown());
    door.joins.look_again();
    assert!(door.joins.were_pins_shown());
}

#[test]
fn exempt_networks_skip_every_budget() {
    let door = Door::new(joins(|settings| settings.exempt = [network("10.0.0.1").unwrap()].into_iter().collect()));
    for _ in 0..1000 {
        assert_eq!(door.try_it(&wrong(), at(1)), Err(Denied::Wrong));
        assert_eq!(door.try_it(&right(), at(1)), Ok(()));
    }
    assert_eq!(door.budget.word(), 0);
    while !door.joins.is_guarded(&door.budget, MILLIS) {
        let _ = door.try_it(&wrong(), None);
    }
    assert_eq!((door.try_it(&right(), at(1)), door.try_it(&right(), at(2))), (Ok(()), Err(Denied::Wrong)));
}

#[test]
fn a_million_ids_that_no_session_has_keep_nothing() {
    let joins = joins(|_| {});
    let before = joins.stand_ins.capacity();
    crowd::comes("ids that no session has", 1_000_000, |count| {
        for number in 0..count {
            let id = SessionId::unpack(12 << 48 | number);
            assert_eq!(joins.judge(id, None, &wrong(), "a", None, MILLIS), Err(Denied::Wrong));
        }
    });
    assert_eq!((joins.stand_ins.len(), joins.stand_ins.capacity()), (STAND_INS, before));
    // And a session that gets such an id begins with all its tries.
    assert!(!joins.is_guarded(&PinBudget::default(), MILLIS));
}

#[test]
fn settings_are_the_limits() {
    let door = Door::new(joins(|settings| {
        (settings.source_failures_burst, settings.source_failures_per_minute) = (3, 60);
        settings.pin_failures_total = 2;
    }));
    assert_eq!(
        [0; 4].map(|_| door.try_it(&wrong(), at(1))),
        [Err(Denied::Wrong), Err(Denied::Wrong), Err(Denied::Wrong), Err(Denied::Limited(1000))]
    );
    assert!(door.budget.is_spent_for_good(door.joins.pin_limits));
}
