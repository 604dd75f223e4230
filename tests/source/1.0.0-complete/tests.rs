//! The rig drives the conductor as the host would, without a host, and with a clock that waits for nobody.

use conductor_sdk::{
    serde_json::{self, Value},
    testing::Rig,
};

use super::*;

/// The quizmaster, two players and a screen, and three questions.
fn begun() -> Rig {
    let mut rig = Rig::start::<Quiz>(json!({})).unwrap();
    for client in ["quizmaster", "ann", "bob", "screen-1"] {
        rig.join(client).unwrap();
    }
    let questions = json!([
        { "question": "2 + 2?", "solution": "4" },
        { "question": "Capital of Peru?", "solution": "Lima", "points": 3 },
        { "question": "H2O?", "solution": "water" },
    ]);
    assert_eq!(rig.request("start", json!({ "questions": questions })).unwrap(), 2);
    rig
}

/// What the stage shows after all that was published since the last look.
fn stage(rig: &mut Rig) -> Value {
    let published = rig.published();
    let shown = published.iter().rfind(|message| message.name == "stage").expect("the stage was shown");
    assert!(shown.retain && shown.client.is_none(), "{shown:?}");
    serde_json::from_slice(&shown.payload).unwrap()
}

/// What was said to clients alone, since the last look: client, name, text.
fn told(rig: &mut Rig) -> Vec<(String, String, String)> {
    let private = rig.published().into_iter().filter_map(|message| Some((message.client?, message.name, message.payload)));
    private.map(|(client, name, payload)| (client, name, String::from_utf8(payload).unwrap())).collect()
}

fn said(client: &str, name: &str, text: &str) -> (String, String, String) {
    (client.into(), name.into(), text.into())
}

#[test]
fn who_joins_gets_what_the_role_needs_and_no_more() {
    let mut rig = begun();
    let grants = |subscribe: &[&str], publish: &[&str]| Grants::all().subscribe(subscribe.to_vec()).publish(publish.to_vec());
    for (client, expected) in [
        ("ann", grants(&["stage", "to/ann/#"], &["buzz"])),
        ("quizmaster", grants(&["stage", "to/quizmaster/#"], &["next", "judge"])),
        ("screen-1", grants(&["stage"], &[])),
    ] {
        assert_eq!(rig.grants(client), Some(expected));
    }
    assert_eq!(rig.join("eve").unwrap_err().message(), "the quiz has begun");
    rig.join("ann").unwrap();
    rig.join("screen-2").unwrap();
}

#[test]
fn the_first_buzz_counts_and_a_wrong_answer_opens_the_buzzers_for_the_others() {
    let mut rig = begun();
    assert_eq!(told(&mut rig), [said("quizmaster", "solution", "4")]);
    rig.message("ann", "buzz", "").unwrap();
    rig.message("bob", "buzz", "").unwrap();
    let shown = stage(&mut rig);
    assert_eq!((&shown["phase"], &shown["player"], &shown["seconds"]), (&json!("answering"), &json!("ann"), &json!(10)));
    assert_eq!(shown["solution"], Value::Null);
    rig.message("quizmaster", "judge", "false").unwrap();
    assert_eq!(told(&mut rig), [said("ann", "verdict", "wrong")]);
    rig.message("ann", "buzz", "").unwrap();
    assert!(rig.published().is_empty(), "who was wrong has no second try");
    rig.message("bob", "buzz", "").unwrap();
    assert_eq!(rig.request("judge", true).unwrap(), Value::Null);
    let shown = stage(&mut rig);
    assert_eq!((&shown["phase"], &shown["player"], &shown["solution"]), (&json!("solved"), &json!("bob"), &json!("4")));
    assert_eq!(rig.request("scores", ()).unwrap(), json!({ "ann": 0, "bob": 1 }));
    assert!(rig.timers().is_empty());
    assert_eq!(rig.request("judge", true).unwrap_err().message(), "nobody answers now");
}

#[test]
fn time_runs_out_for_who_answers_and_for_the_question() {
    let mut rig = begun();
    rig.advance(Duration::from_secs(29));
    rig.message("ann", "buzz", "").unwrap();
    // The buzzers' time is over meanwhile, which is nothing to who answers.
    rig.advance(Duration::from_secs(9));
    assert_eq!(stage(&mut rig)["phase"], "answering");
    rig.advance(Duration::from_secs(1));
    assert_eq!(stage(&mut rig)["phase"], "open");
    rig.message("bob", "buzz", "").unwrap();
    rig.advance(Duration::from_secs(10));
    let shown = stage(&mut rig);
    assert_eq!((&shown["phase"], &shown["player"], &shown["solution"]), (&json!("solved"), &Value::Null, &json!("4")));
    // Nobody knows the next one.
    assert_eq!(rig.request("next", ()).unwrap(), 2);
    rig.advance(Duration::from_secs(30));
    assert_eq!(stage(&mut rig)["phase"], "solved");
}

#[test]
fn a_restart_loses_neither_scores_nor_time() {
    let mut rig = begun();
    rig.message("ann", "buzz", "").unwrap();
    rig.request("judge", true).unwrap();
    rig.message("quizmaster", "next", "").unwrap();
    rig.message("bob", "buzz", "").unwrap();
    rig.published();
    rig.advance(Duration::from_secs(4));
    rig.restart::<Quiz>(json!({})).unwrap();
    let shown = stage(&mut rig);
    assert_eq!((&shown["player"], &shown["seconds"], &shown["scores"]), (&json!("bob"), &json!(6), &json!({ "ann": 1, "bob": 0 })));
    rig.pass_down_time(Duration::from_secs(60));
    rig.restart::<Quiz>(json!({})).unwrap();
    // It was due while nobody could tell it.
    assert_eq!(told(&mut rig), [said("bob", "verdict", "wrong")]);
    rig.message("ann", "buzz", "").unwrap();
    rig.request("judge", true).unwrap();
    assert_eq!(rig.request("scores", ()).unwrap(), json!({ "ann": 4, "bob": 0 }));
}

#[test]
fn it_begins_once_and_ends_after_the_last_question() {
    let mut rig = Rig::start::<Quiz>(json!({})).unwrap();
    let start = json!({ "questions": [{ "question": "?", "solution": "!" }] });
    assert!(rig.request("start", &start).is_err(), "without a player");
    assert!(rig.request("next", ()).is_err());
    rig.join("ann").unwrap();
    assert!(rig.request("start", json!({ "questions": [] })).is_err());
    assert!(rig.request("start", json!({ "questions": [{ "question": "?" }] })).unwrap_err().message().contains("solution"));
    rig.request("start", &start).unwrap();
    assert!(rig.request("start", &start).is_err());
    assert_eq!(rig.request("award", json!({ "player": "ann", "points": -2 })).unwrap(), -2);
    assert!(rig.request("award", json!({ "player": "eve", "points": 1 })).is_err());
    assert_eq!(rig.request("next", ()).unwrap(), 0);
    let shown = stage(&mut rig);
    assert_eq!((&shown["phase"], &shown["scores"], &shown["question"]), (&json!("over"), &json!({ "ann": -2 }), &Value::Null));
    assert!(rig.timers().is_empty());
}

#[test]
fn its_config_names_the_quizmaster_and_says_how_long() {
    let mut rig = Rig::start::<Quiz>(json!({ "quizmaster": "k3v1n", "buzzer_seconds": 0 })).unwrap();
    for client in ["k3v1n", "quizmaster"] {
        rig.join(client).unwrap();
    }
    assert_eq!(rig.request("start", json!({ "questions": [{ "question": "?", "solution": "!" }] })).unwrap(), 1);
    assert_eq!(told(&mut rig), [said("k3v1n", "solution", "!")]);
    rig.advance(Duration::from_secs(100_000));
    rig.message("quizmaster", "buzz", "").unwrap();
    assert_eq!(stage(&mut rig)["player"], "quizmaster");
    assert!(Rig::start::<Quiz>(json!({ "quizmaster": "k3v1n", "seconds": 5 })).unwrap_err().message().contains("seconds"));
}

/// The quiz, with a timer event at a time that is none.
struct Early(Quiz);

impl Conductor for Early {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        let mut quiz = Quiz::create(session, config).await?;
        let question = Question { question: "?".into(), solution: "!".into(), points: 1 };
        let game = Game { scores: [("ann".into(), 0)].into(), questions: [question].into(), ..quiz.game.clone() };
        quiz.ask(session, game).await?;
        session.once("early", Duration::from_secs(1)).await?;
        Ok(Self(quiz))
    }

    async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
        self.0.timer(session, timer).await
    }
}

#[test]
fn a_timer_that_was_due_before_its_phase_had_a_new_time_changes_nothing() {
    let mut rig = Rig::start::<Early>(json!({})).unwrap();
    rig.published();
    rig.advance(Duration::from_secs(29));
    assert!(rig.published().is_empty());
    rig.advance(Duration::from_secs(1));
    assert_eq!(stage(&mut rig)["phase"], "solved");
}
