//! Every hook and every call of a conductor: one list of stories, played in the SDK's test kit and in the real host, must be the same in
//! both, and must have every name of the contract. What the kit cannot play (what devices see, restarts that kill) has tests of its own below.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

mod stage;
mod stories;

use std::{collections::BTreeSet, time::Duration};

use conductor_abi::wire::{call, close, event, leave, link};
use conductor_sdk::CloseReason;
use conductor_test_range::Ask;
use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way,
    mqtt::{device, topic},
    until,
};
use serde_json::{Value, json};

use self::{
    stage::{Kit, Real, Stage, ask, heard},
    stories::Story,
};

/// Each story is a test of its own, and in the list.
macro_rules! stories {
    ($($test:ident: $story:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                is_the_same_in_both(&stories::$story);
            }
        )*

        const STORIES: &[Story] = &[$(stories::$story),*];
    };
}

stories! {
    a_life_with_a_kill_in_it: A_LIFE,
    a_host_that_stops_newer_code_and_an_administrator_who_closes: THREE_ENDS,
    a_grant_that_ends: A_GRANT_ENDS,
    a_lifetime_that_ends: A_LIFETIME_ENDS,
    a_panic: A_PANIC,
    a_panic_in_a_task: A_PANIC_IN_A_TASK,
    a_handler_that_never_ends: NEVER_ENDS,
    a_broker_outside: A_LINK,
}

fn is_the_same_in_both(story: &Story) {
    let in_kit = story.play(&mut Kit::start(story));
    let in_host = story.play(&mut Real::start(story));
    for (kit, host) in in_kit.iter().zip(&in_host) {
        assert_eq!(kit, host, "kit and host differ");
    }
    assert_eq!(in_kit.len(), in_host.len());
    let all = in_kit.join("\n");
    for part in story.tells {
        assert!(all.contains(part), "{part:?} is missing from the story:\n{all}");
    }
}

/// What the plugin was told and asked is the same in kit and host, since its answers are.
#[test]
fn every_name_of_the_contract_is_in_a_story() {
    let (mut told, mut asked, mut whole) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for story in STORIES {
        let mut kit = Kit::start(story);
        whole += &story.play(&mut kit).join("\n");
        kit.look();
        told.append(&mut kit.told);
        asked.append(&mut kit.asked);
    }
    for (what, used, known) in [("hook", told, event::ALL), ("call", asked, call::ALL)] {
        let used: BTreeSet<&str> = used.iter().map(String::as_str).collect();
        let known: BTreeSet<&str> = known.iter().copied().collect();
        assert_eq!(used, known, "each {what} must be in a story of tests/tests/hooks/stories.rs, and in the plugin `range`");
    }
    // So are the reasons, which `range` writes down: "closed Replaced", "left ann Kicked", "link Up".
    let lines: Vec<Vec<&str>> = whole.split('"').map(|line| line.split(' ').collect()).collect();
    for (what, place, known) in [("closed", 1, close::ALL), ("left", 2, leave::ALL), ("link", 1, link::ALL)] {
        let told: BTreeSet<&str> = lines.iter().filter(|line| line[0] == what).filter_map(|line| line.get(place).copied()).collect();
        let known: BTreeSet<String> = known.iter().map(|name| variant(name)).collect();
        let known = known.iter().map(String::as_str).collect();
        assert_eq!(told, known, "each reason of {what:?} must be in a story of tests/tests/hooks/stories.rs");
    }
}

/// The SDK's name for a name of the contract: `HostStopping` for `host_stopping`.
fn variant(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

#[test]
fn grants_hold_for_devices_at_once_and_after_a_restart() {
    let mut real = Real::usual();
    let (session, host) = (real.session.clone(), &real.host);
    let mut ann = device(host, &session, "ann", Version::V5, Way::Tcp);
    let mut bob = device(host, &session, "bob", Version::V311, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "#"), 1) && bob.subscribe(&topic(&session, "stage/#"), 1));
    // The listener joined with less.
    let mut listener = device(host, &session, "listener", Version::V5, Way::Tcp);
    assert!(!listener.subscribe(&topic(&session, "#"), 1) && listener.subscribe(&topic(&session, "stage/1"), 1));
    assert!(!listener.publish(&topic(&session, "stage/1"), "mine", 1, false));
    // A narrower grant ends the subscription that it does not allow, and the right to publish, of a connection that is there.
    ask(&mut real, &Ask::Grant("ann".into(), Some(vec!["stage/#".into()]), Some(Vec::new()))).unwrap();
    assert!(!ann.publish(&topic(&session, "stage/1"), "no more", 1, false));
    assert!(ann.subscribe(&topic(&session, "stage/#"), 1) && !ann.subscribe(&topic(&session, "#"), 1));
    assert!(bob.publish(&topic(&session, "hidden"), "not for ann", 1, false));
    assert!(bob.publish(&topic(&session, "stage/1"), "for all", 1, false));
    for device in [&mut ann, &mut bob, &mut listener] {
        assert_eq!(device.message().payload, "for all");
    }
    // It is stored: the same token, after a kill, opens no more.
    let token = real.host.join(&session, "ann");
    ask(&mut real, &Ask::Grant("ann".into(), Some(vec!["stage/#".into()]), Some(vec!["buzz".into()]))).unwrap();
    real.restart();
    let mut ann = Mqtt::connect(&real.host, Version::V5, Way::Tcp, &Credentials::new("ann", &session.id, &token)).unwrap();
    assert!(!ann.publish(&topic(&session, "stage/1"), "no", 1, false) && ann.publish(&topic(&session, "buzz"), "yes", 1, false));
    assert!(!ann.subscribe(&topic(&session, "#"), 1) && ann.subscribe(&topic(&session, "stage/1"), 1));
    // Who is accepted as before keeps it, too.
    real.join("regular").unwrap();
    ask(&mut real, &Ask::Grant("regular".into(), None, Some(Vec::new()))).unwrap();
    real.join("regular").unwrap();
    let mut regular = device(&real.host, &session, "regular", Version::V5, Way::Tcp);
    assert!(!regular.publish(&topic(&session, "stage/1"), "no", 1, false) && regular.subscribe(&topic(&session, "#"), 1));
    // Wider again, at once, by the same token.
    ask(&mut real, &Ask::Grant("ann".into(), None, None)).unwrap();
    assert!(ann.publish(&topic(&session, "stage/1"), "again", 1, false) && ann.subscribe(&topic(&session, "#"), 1));
}

#[test]
fn a_client_that_is_sent_away_is_cut_and_its_token_is_good_no_more_until_it_joins_again() {
    let mut real = Real::usual();
    let session = real.session.clone();
    let token = real.host.join(&session, "ann");
    let credentials = Credentials::new("ann", &session.id, &token).will(&topic(&session, "will"), "gone", false);
    let mut ann = Mqtt::connect(&real.host, Version::V5, Way::Tcp, &credentials).unwrap();
    let mut bob = device(&real.host, &session, "bob", Version::V5, Way::Tcp);
    assert!(bob.subscribe(&topic(&session, "#"), 1));
    ask(&mut real, &Ask::Kick("ann".into())).unwrap();
    ann.gone();
    assert!(Mqtt::connect(&real.host, Version::V5, Way::Tcp, &credentials).is_err());
    assert_eq!(real.host.clients(&session), ["bob"]);
    // An administrator can, too.
    let kick = |client: &str| {
        conductor_tests::request(real.host.admin, "DELETE", &format!("/v1/sessions/{}/clients/{client}", session.id), &[], "")
    };
    assert_eq!((kick("bob").status, kick("bob").status), (204, 404));
    assert_eq!(kick("bob").json()["code"], "client_not_found");
    bob.gone();
    let heard = heard(&mut real, "left bob Kicked");
    assert!(heard.contains(&"left ann Kicked".to_owned()) && !heard.iter().any(|line| line.starts_with("message")), "{heard:?}");
    // It joins before it connects, and has left once its connection is over.
    for client in ["ann", "bob"] {
        assert_eq!(of_client(&heard, client), ["joining", "connected", "disconnected", "left"], "{heard:?}");
    }
    let mut ann = device(&real.host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "#"), 1));
}

#[test]
fn a_refused_join_is_told_on_v1_and_looks_like_a_wrong_pin_on_api() {
    let mut real = Real::usual();
    let session = real.session.clone();
    let api = |real: &Real, client: &str, pin: &str| {
        let answer = real.host.join_raw(&json!({ "id": session.id, "pin": pin, "client": client }).to_string());
        (answer.status, answer.body.clone())
    };
    let wrong_pin = api(&real, "ann", "0");
    for client in ["mallory", "", "a/#", "iotserver", " "] {
        assert_eq!(api(&real, client, &session.pin), wrong_pin, "{client:?}");
    }
    ask(&mut real, &Ask::MaxClients(0)).unwrap();
    assert_eq!(api(&real, "ann", &session.pin), wrong_pin);
    ask(&mut real, &Ask::Lock(true)).unwrap();
    assert_eq!(api(&real, "ann", &session.pin), wrong_pin);
    let v1 = |real: &Real, client: &str| {
        let body = json!({ "pin": session.pin, "client": client }).to_string();
        let answer = conductor_tests::request(real.host.iot, "POST", &format!("/v1/sessions/{}/join", session.id), &[], &body);
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned(), answer.json()["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(v1(&real, "ann").1, "session_locked");
    ask(&mut real, &Ask::Lock(false)).unwrap();
    assert_eq!(v1(&real, "ann").1, "session_full");
    ask(&mut real, &Ask::MaxClients(9)).unwrap();
    assert_eq!(v1(&real, "mallory"), (403, "join_refused".into(), "not you".into()));
    let view = real.host.show(&session).json();
    assert_eq!((&view["max_clients"], &view["labels"]["made"]), (&json!(9), &json!("yes")));
}

#[test]
fn many_joins_at_once_do_not_overfill_a_session() {
    let mut real = Real::usual();
    ask(&mut real, &Ask::MaxClients(5)).unwrap();
    let (iot, session) = (real.host.iot, real.session.clone());
    let joins: Vec<_> = (0..40)
        .map(|number| {
            let body = json!({ "pin": session.pin, "client": format!("c{number}") }).to_string();
            let target = format!("/v1/sessions/{}/join", session.id);
            std::thread::spawn(move || conductor_tests::request(iot, "POST", &target, &[], &body).status)
        })
        .collect();
    let statuses: Vec<u16> = joins.into_iter().map(|join| join.join().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert_eq!(real.host.clients(&session).len(), 5);
}

#[test]
fn a_timer_that_repeats_fires_again_and_again_and_goes_on_after_a_kill() {
    let mut real = Real::usual();
    ask(&mut real, &Ask::Every("tick".into(), 30)).unwrap();
    let ticks = |real: &mut Real, count: usize| {
        let mut seen = 0;
        until("ticks", || {
            let heard: Vec<String> = serde_json::from_value(real.request("heard", Value::Null).unwrap()).unwrap();
            seen += heard.iter().filter(|line| *line == "timer tick").count();
            (seen >= count).then_some(())
        });
    };
    ticks(&mut real, 5);
    real.restart();
    ticks(&mut real, 5);
    ask(&mut real, &Ask::CancelTimer("tick".into())).unwrap();
    // One that was on its way is told before this one; from then on there is none for many times its pause.
    ask(&mut real, &Ask::Once("drained".into(), 1)).unwrap();
    heard(&mut real, "timer drained");
    ask(&mut real, &Ask::Once("marker".into(), 200)).unwrap();
    assert_eq!(heard(&mut real, "timer marker"), ["timer marker"]);
}

#[test]
fn timers_are_told_in_the_order_in_which_they_are_due_and_none_is_lost_while_the_conductor_is_busy() {
    let options = HostOptions::default().plugin("range", "conductor_test_range").set("sessions.deadline", json!("1500ms"));
    let host = Host::start(options);
    let session = host.create("range");
    let mut real = Real::of(host, session);
    heard(&mut real, "timer birth");
    // Due together, after a restart: by due time, whatever their names. Due late enough that the host is gone by then.
    let due = 3000;
    let names: Vec<String> = (0..12).map(|number| format!("{:02}", number * 7 % 12)).collect();
    for (number, name) in names.iter().enumerate() {
        ask(&mut real, &Ask::Once(name.clone(), due + number as u64)).unwrap();
    }
    real.host.kill();
    // Until the last is late by more than a second.
    std::thread::sleep(Duration::from_millis(due + 1200));
    real.host.start_again();
    let all = heard(&mut real, &format!("late {}", names[11]));
    let told: Vec<_> = all.iter().filter_map(|line| line.strip_prefix("timer ")).collect();
    assert_eq!(told, names);
    // What was saved while the session was made is there, too.
    assert_eq!(all[0], "restore 0 version 7");
    // They take so long that the last waits longer than the deadline for its turn.
    ask(&mut real, &Ask::Slow(600)).unwrap();
    for number in 0..4 {
        ask(&mut real, &Ask::Once(format!("slow {number}"), 500 + number)).unwrap();
    }
    // A request would wait longer than that, too.
    until("the last to be over", || stored_timers(&real.host, &real.session).is_null().then_some(()));
    let mut told = heard(&mut real, "timer slow 3");
    told.retain(|line| line.starts_with("timer slow"));
    assert_eq!(told, ["timer slow 0", "timer slow 1", "timer slow 2", "timer slow 3"]);
}

#[test]
fn the_reasons_of_an_end_are_told() {
    let real = Real::usual();
    let session = real.session.clone();
    let mut ann = device(&real.host, &session, "ann", Version::V5, Way::Tcp);
    assert!(ann.subscribe(&topic(&session, "closed"), 1));
    real.host.close(&session);
    assert_eq!(ann.message().payload, format!("{:?}", CloseReason::Requested));
}

/// What was told about a client.
fn of_client<'a>(heard: &'a [String], client: &str) -> Vec<&'a str> {
    let mut words = heard.iter().map(|line| line.split(' ').collect::<Vec<_>>());
    std::iter::from_fn(|| words.find(|words| words.get(1) == Some(&client))).map(|words| words[0]).collect()
}

/// The timers of a session, as they are stored.
fn stored_timers(host: &Host, session: &Session) -> Value {
    let stored: Value = serde_json::from_slice(&std::fs::read(host.store_file()).unwrap()).unwrap();
    stored[&session.id]["timers"].clone()
}

#[test]
fn a_timer_that_nobody_can_be_told_stays_stored_for_the_next_start() {
    let options = HostOptions::default().plugin("faulty", "conductor_test_faulty").plugin("hooked", "conductor_test_faulty");
    let mut host = Host::start(options);
    let (unheard, faulted, marker) = (host.create("faulty"), host.create("hooked"), host.create("hooked"));
    assert_eq!(host.request(&unheard, "once", json!({ "millis": 1 })).status, 200);
    assert_eq!(host.request(&faulted, "once", json!(["faulted", 1])).status, 200);
    let told = |host: &Host, name: &str| host.log().matches(&format!("timer {name} was told")).count();
    until("a timer", || (told(&host, "faulted") == 1).then_some(()));
    // Told once, it is over; the next is due after the conductor is.
    assert_eq!(host.request(&faulted, "order", json!({ "at": "request", "fault": "panic" })).status, 200);
    assert_eq!(host.request(&faulted, "once", json!(["faulted", 2000])).status, 200);
    assert_eq!(host.request(&faulted, "fine", Value::Null).status, 502);
    // Timers are told in the order in which they are due.
    assert_eq!(host.request(&marker, "once", json!(["marker", 2100])).status, 200);
    until("the marker", || (told(&host, "marker") == 1).then_some(()));
    until("the marker to be over", || stored_timers(&host, &marker).is_null().then_some(()));
    assert_eq!(told(&host, "faulted"), 1);
    for (session, name) in [(&unheard, "unheard"), (&faulted, "faulted")] {
        assert!(stored_timers(&host, session)[name].is_object(), "{}", stored_timers(&host, session));
    }
    host.kill();
    host.start_again();
    until("the timer, told anew", || (told(&host, "faulted") == 2).then_some(()));
    assert_eq!(host.ask(&faulted, "fine", ""), "fine");
}

#[test]
fn a_conductor_saves_as_much_as_the_settings_say() {
    let host = Host::start(HostOptions::default().plugin("range", "conductor_test_range").set("sessions.max_state_bytes", json!(1000)));
    let session = host.create("range");
    let save = |bytes: usize| host.request(&session, "ask", json!({ "save_bytes": bytes }));
    assert_eq!(save(1000).status, 200);
    let refused = save(1001).json();
    assert!(refused["conductor"]["code"] == -32004 && refused["detail"].as_str().unwrap().contains("1000"), "{refused}");
}
