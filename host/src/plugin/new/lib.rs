//! The conductor `@name@`: puts a question to the devices of its session and counts their answers.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use conductor_sdk::{prelude::*, serde_json};

/// What `ask` takes. A request whose parameters do not fit is refused before the method runs.
#[derive(Deserialize, JsonSchema)]
struct Ask {
    question: String,
    answers: Vec<String>,
    /// How long answers count.
    #[serde(default = "half_a_minute")]
    seconds: u32,
}

fn half_a_minute() -> u32 {
    30
}

/// What the devices are told, as JSON.
#[derive(Serialize)]
struct Question<'a> {
    question: &'a str,
    answers: &'a [String],
}

/// Leads one session. Events come one at a time, so that no lock is needed.
struct Vote {
    /// Nothing is asked before the first `ask`.
    answers: Vec<String>,
    ends: SystemTime,
    /// By device: the last one counts.
    given: BTreeMap<String, String>,
    countdown: Option<Task>,
}

impl Conductor for Vote {
    /// The type's `config` in the settings: none. A struct like `Ask` here asks for one;
    /// `Secret` is the type of a password in it.
    type Config = ();
    /// `create` starts nothing, so it may wait for the session's first event.
    const LAZY: bool = true;

    async fn create(session: &Session, (): ()) -> Result<Self> {
        Ok(Self {
            answers: Vec::new(),
            ends: session.now(),
            given: BTreeMap::new(),
            countdown: None,
        })
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("ask", Self::ask)
            .on("result", Self::result)
    }

    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        if message.name() != "vote" || session.now() >= self.ends {
            return Ok(());
        }
        let (answer, device) = (message.text()?, message.sender());
        match device.filter(|_| self.answers.iter().any(|known| known == answer)) {
            Some(device) => {
                self.given.insert(device.to_owned(), answer.to_owned());
            }
            None => tracing::info!(answer, device, "this answer does not count"),
        }
        Ok(())
    }
}

impl Vote {
    async fn ask(&mut self, session: &Session, ask: Ask) -> Result<()> {
        if ask.answers.is_empty() {
            return Err(Error::new("a question needs at least one answer"));
        }
        if let Some(countdown) = self.countdown.take() {
            countdown.cancel();
        }
        let question = serde_json::to_vec(&Question {
            question: &ask.question,
            answers: &ask.answers,
        })?;
        session
            .publish("question", question)
            .qos(1)
            .retain(true)
            .await?;
        self.ends = session.now() + Duration::from_secs(ask.seconds.into());
        self.answers = ask.answers;
        self.given.clear();
        self.countdown = Some(session.spawn(count_down(session.clone(), ask.seconds))?);
        Ok(())
    }

    async fn result(&mut self, _: &Session, (): ()) -> Result<BTreeMap<String, usize>> {
        let count = |answer: &String| self.given.values().filter(|given| *given == answer).count();
        Ok(self
            .answers
            .iter()
            .map(|answer| (answer.clone(), count(answer)))
            .collect())
    }
}

/// Runs beside the conductor, and ends with the session at the latest.
async fn count_down(session: Session, seconds: u32) -> Result<()> {
    for left in (0..seconds).rev() {
        session.sleep(Duration::from_secs(1)).await?;
        session.publish("left", left.to_string()).await?;
    }
    Ok(())
}

export_conductors! { "@name@" => Vote }

#[cfg(test)]
mod tests;
