//! The rig drives the conductor as the host would, without a host, and with a clock that waits for nobody.

use std::time::Duration;

use conductor_sdk::{serde_json::json, testing::Rig};

use super::Vote;

fn asked() -> Rig {
    let mut rig = Rig::start::<Vote>(()).unwrap();
    let params = json!({"question": "Tea?", "answers": ["yes", "no"], "seconds": 3});
    rig.request("ask", params).unwrap();
    rig
}

#[test]
fn each_device_has_one_vote_and_may_change_its_mind() {
    let mut rig = asked();
    for (device, answer) in [("ann", "yes"), ("bob", "yes"), ("ann", "no"), ("eve", "milk")] {
        rig.message(device, "vote", answer).unwrap();
    }
    rig.message("eve", "chat", "yes").unwrap();
    assert_eq!(rig.request("result", ()).unwrap(), json!({"yes": 1, "no": 1}));
    assert_eq!(rig.logged()[0].message, "this answer does not count");
}

#[test]
fn the_question_is_kept_for_those_who_join_later() {
    let question = asked().published().remove(0);
    assert_eq!((question.name.as_str(), question.retain), ("question", true));
    assert_eq!(question.payload, br#"{"question":"Tea?","answers":["yes","no"]}"#);
}

#[test]
fn time_runs_out() {
    let mut rig = asked();
    rig.published();
    rig.advance(Duration::from_secs(10));
    let said: Vec<_> = rig.published().into_iter().map(|m| (m.name, m.payload)).collect();
    let expected = [b"2", b"1", b"0"].map(|left| ("left".to_owned(), left.to_vec()));
    assert_eq!(said, expected);
    rig.message("ann", "vote", "yes").unwrap();
    assert_eq!(rig.request("result", ()).unwrap(), json!({"yes": 0, "no": 0}));
    assert_eq!(rig.tasks(), 0);
}

#[test]
fn a_new_question_ends_the_one_before() {
    let mut rig = asked();
    rig.message("ann", "vote", "yes").unwrap();
    let params = json!({"question": "Cake?", "answers": ["yes"]});
    rig.request("ask", params).unwrap();
    assert_eq!(rig.request("result", ()).unwrap(), json!({"yes": 0}));
    assert_eq!(rig.tasks(), 1);
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    let mut rig = Rig::start::<Vote>(()).unwrap();
    let refused = rig.request("ask", json!({"question": "Tea?"})).unwrap_err();
    assert!(refused.message().contains("missing field `answers`"), "{refused}");
    let refused = rig.request("ask", json!({"question": "Tea?", "answers": []}));
    assert!(refused.is_err());
}
