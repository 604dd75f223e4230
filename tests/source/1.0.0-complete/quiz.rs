//! The conductor `quiz`: a buzzer game. Questions are put to all; who presses the buzzer first answers aloud, and the quizmaster judges. Copy it where
//! devices have roles, time runs out, and what was reached must survive a restart. `README.md` tells the topics, for whoever writes a device.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, SystemTime},
};

use conductor_sdk::{prelude::*, serde_json::json};

/// The type's `config` in the settings. A key that is not here is a mistake, which the host tells at its start.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The client that hears the solutions and judges. A name proves nothing: choose one that players do not guess.
    quizmaster: String,
    /// How long the buzzers are open; 0 for as long as it takes.
    buzzer_seconds: u32,
    /// How long who pressed first may answer; 0 for as long as it takes.
    answer_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { quizmaster: "quizmaster".into(), buzzer_seconds: 30, answer_seconds: 10 }
    }
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Question {
    question: String,
    solution: String,
    #[serde(default = "one")]
    points: i64,
}

fn one() -> i64 {
    1
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// Players join.
    Lobby,
    /// The buzzers are open.
    Open,
    /// The player who was first answers.
    Answering,
    /// The solution is told; the player, if any, had it.
    Solved,
    /// There are no more questions.
    Over,
}

/// All that a restart must not lose.
#[derive(Clone, Serialize, Deserialize)]
struct Game {
    phase: Phase,
    scores: BTreeMap<String, i64>,
    /// The first is the one that is on.
    questions: VecDeque<Question>,
    player: Option<String>,
    /// Who was wrong at this question.
    out: BTreeSet<String>,
    /// When the time of a phase that has one is over.
    ends: SystemTime,
}

struct Quiz {
    config: Config,
    game: Game,
}

#[derive(PartialEq)]
enum Role {
    Quizmaster,
    /// Sees the stage, and says nothing.
    Screen,
    Player,
}

/// The name of the only timer.
const TIME: &str = "time";

impl Conductor for Quiz {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        let (scores, questions, out) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new());
        let game = Game { phase: Phase::Lobby, scores, questions, player: None, out, ends: session.now() };
        let quiz = Self { config, game };
        quiz.show(session).await;
        Ok(quiz)
    }

    /// The timer goes on by itself; what the broker retained may be gone, so it is said again.
    async fn restore(session: &Session, config: Config, saved: Saved) -> Result<Self> {
        let quiz = Self { config, game: saved.parse()? };
        quiz.show(session).await;
        Ok(quiz)
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("start", Self::start)
            .on("next", Self::next)
            .on("judge", Self::judge)
            .on("award", Self::award)
            .on("scores", Self::scores)
    }

    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        let client = joining.client();
        let (stage, own) = ("stage".to_owned(), format!("to/{client}/#"));
        Ok(match self.role(client) {
            Role::Quizmaster => Grants::all().subscribe([stage, own]).publish(["next", "judge"]).into(),
            Role::Screen => Grants::all().subscribe([stage]).publish([""; 0]).into(),
            Role::Player if self.game.phase == Phase::Lobby || self.game.scores.contains_key(client) => {
                Grants::all().subscribe([stage, own]).publish(["buzz"]).into()
            }
            Role::Player => Join::refuse("the quiz has begun"),
        })
    }

    /// The grants have decided already who may say what.
    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        match (message.name(), message.sender()) {
            ("buzz", Some(player)) => self.buzz(session, player).await,
            ("next", _) => self.next(session, ()).await.map(drop),
            ("judge", _) => self.judge(session, message.json()?).await,
            _ => Err(Error::new("not a message of the game, or the broker does not say whose")),
        }
    }

    async fn timer(&mut self, session: &Session, _: &Timer) -> Result<()> {
        match self.game.phase {
            // A buzz came in between, and gave a new time.
            _ if session.now() < self.game.ends => Ok(()),
            Phase::Answering => self.judge(session, false).await,
            Phase::Open => self.step(session, Game { phase: Phase::Solved, ..self.game.clone() }).await,
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Start {
    questions: VecDeque<Question>,
}

#[derive(Deserialize, JsonSchema)]
struct Award {
    player: String,
    /// Below zero takes points away.
    points: i64,
}

/// What the administrator may ask.
impl Quiz {
    /// Begins, with the players that are there now: how many.
    async fn start(&mut self, session: &Session, start: Start) -> Result<usize> {
        let clients = session.clients();
        let players = clients.iter().map(Client::id).filter(|client| self.role(client) == Role::Player);
        let scores: BTreeMap<_, _> = players.map(|player| (player.to_owned(), 0)).collect();
        if self.game.phase != Phase::Lobby || scores.is_empty() || start.questions.is_empty() {
            return Err(Error::new("a quiz begins once, with a player and a question at least"));
        }
        self.ask(session, Game { scores, questions: start.questions, ..self.game.clone() }).await?;
        Ok(self.game.scores.len())
    }

    /// Leaves the question that is on for the next one: how many there are still, that one included.
    async fn next(&mut self, session: &Session, (): ()) -> Result<usize> {
        let mut game = self.game.clone();
        game.questions.pop_front().ok_or_else(|| Error::new("there is no question to go on from"))?;
        self.ask(session, game).await?;
        Ok(self.game.questions.len())
    }

    /// Of the player who answers: right ends the question, wrong opens the buzzers for those who are left.
    async fn judge(&mut self, session: &Session, right: bool) -> Result<()> {
        let mut game = self.game.clone();
        let (Phase::Answering, Some(player), Some(question)) = (game.phase, &self.game.player, game.questions.front()) else {
            return Err(Error::new("nobody answers now"));
        };
        let player = player.clone();
        if right {
            game.phase = Phase::Solved;
            let score = game.scores.entry(player.clone()).or_default();
            *score = score.saturating_add(question.points);
        } else {
            game.player = None;
            game.out.insert(player.clone());
            let all_out = game.scores.keys().all(|player| game.out.contains(player));
            game.phase = if all_out { Phase::Solved } else { Phase::Open };
        }
        self.step(session, game).await?;
        tell(session, &player, "verdict", if right { "right" } else { "wrong" }).await;
        Ok(())
    }

    /// Gives points at any time: how many the player has then.
    async fn award(&mut self, session: &Session, award: Award) -> Result<i64> {
        let mut game = self.game.clone();
        let score = game.scores.get_mut(&award.player).ok_or_else(|| Error::new("there is no such player"))?;
        *score = score.saturating_add(award.points);
        let score = *score;
        self.keep(session, game).await?;
        Ok(score)
    }

    async fn scores(&mut self, _: &Session, (): ()) -> Result<BTreeMap<String, i64>> {
        Ok(self.game.scores.clone())
    }
}

/// How the game goes: each step makes a copy of the game as it is to be, which counts once it is saved.
impl Quiz {
    fn role(&self, client: &str) -> Role {
        match client {
            quizmaster if quizmaster == self.config.quizmaster => Role::Quizmaster,
            screen if screen.starts_with("screen") => Role::Screen,
            _ => Role::Player,
        }
    }

    /// Opens the buzzers for the first question, if there is one.
    async fn ask(&mut self, session: &Session, mut game: Game) -> Result<()> {
        game.phase = if game.questions.is_empty() { Phase::Over } else { Phase::Open };
        (game.player, game.out) = (None, BTreeSet::new());
        self.step(session, game).await?;
        if let Some(question) = self.game.questions.front() {
            tell(session, &self.config.quizmaster, "solution", &question.solution).await;
        }
        Ok(())
    }

    /// Events come one at a time, so the first is the first. Who is late, or was wrong already, is passed over.
    async fn buzz(&mut self, session: &Session, player: &str) -> Result<()> {
        if self.game.phase != Phase::Open || self.game.out.contains(player) || !self.game.scores.contains_key(player) {
            return Ok(());
        }
        self.step(session, Game { phase: Phase::Answering, player: Some(player.to_owned()), ..self.game.clone() }).await
    }

    /// Into a new phase, with its time.
    async fn step(&mut self, session: &Session, mut game: Game) -> Result<()> {
        let seconds = match game.phase {
            Phase::Open => self.config.buzzer_seconds,
            Phase::Answering => self.config.answer_seconds,
            _ => 0,
        };
        let time = Duration::from_secs(seconds.into());
        game.ends = session.now() + time;
        match seconds {
            0 => session.cancel_timer(TIME).await?,
            _ => session.once(TIME, time).await?,
        }
        self.keep(session, game).await
    }

    /// Saved first: a restart must not undo what everybody has seen.
    async fn keep(&mut self, session: &Session, game: Game) -> Result<()> {
        session.save(&game).await?;
        self.game = game;
        self.show(session).await;
        Ok(())
    }

    async fn show(&self, session: &Session) {
        let game = &self.game;
        let question = game.questions.front();
        let stage = json!({
            "phase": game.phase,
            "scores": game.scores,
            "question": question.map(|question| &question.question),
            "player": game.player,
            "solution": question.filter(|_| game.phase == Phase::Solved).map(|question| &question.solution),
            "seconds": game.ends.duration_since(session.now()).unwrap_or_default().as_secs(),
        });
        if let Err(error) = session.publish("stage", stage.to_string()).qos(1).retain(true).await {
            tracing::warn!(%error, "the stage was not shown");
        }
    }
}

/// To one client alone: nobody else may subscribe there. Where it has gone, the game goes on.
async fn tell(session: &Session, client: &str, name: &str, text: &str) {
    if let Err(error) = session.publish_to(client, name, text).qos(1).await {
        tracing::debug!(%error, client, name, "not told");
    }
}

export_conductors! { "quiz" => Quiz }

#[cfg(test)]
mod tests;
