//! The conductor `range` of the tests: it has every hook and uses every call, and tells what it was told.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, time::Duration};

use conductor_sdk::prelude::*;

/// Remembers what it is told until it is asked.
#[derive(Debug)]
pub struct Range {
    heard: Vec<String>,
    /// The events at whose next coming it is to fail.
    orders: Vec<String>,
    score: u32,
    slow: Duration,
}

/// What may be asked of it, as parameters of `ask`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Saves this score.
    Save(u32),
    /// Saves this many bytes.
    SaveBytes(usize),
    /// Sets a timer that fires once, after milliseconds.
    Once(String, u64),
    /// Sets one that repeats.
    Every(String, u64),
    /// Takes one away.
    CancelTimer(String),
    /// Replaces what a client may do: subscribe, publish.
    Grant(String, Option<Vec<String>>, Option<Vec<String>>),
    /// Sends a client away.
    Kick(String),
    /// Lets nobody new in, or again.
    Lock(bool),
    /// How many clients may be in.
    MaxClients(u32),
    /// Replaces the labels.
    Labels(BTreeMap<String, String>),
    /// Publishes.
    Publish(String, String),
    /// Publishes to one client.
    PublishTo(String, String, String),
    /// Fails at the next event of this name.
    FailAt(String),
    /// Takes this many milliseconds for each timer from now on.
    Slow(u64),
    /// Sleeps this many milliseconds by the host's clock, and says whether that went on as far.
    Sleep(u64),
    /// Spawns a task that says when it begins, and again after milliseconds.
    Spawn(u64),
    /// Spawns a task that fails.
    FailInTask,
    /// Logs at this level, 1 to 5.
    Log(u8, String),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Spawns a task that panics.
    PanicInTask,
    /// Closes the session.
    Close,
}

impl Range {
    fn new(first: String, score: u32) -> Self {
        Self { heard: vec![first], orders: Vec::new(), score, slow: Duration::ZERO }
    }

    /// Notes what happened; an error where one was ordered.
    fn note(&mut self, what: &str, detail: impl std::fmt::Display) -> Result<()> {
        if let Some(order) = self.orders.iter().position(|ordered| ordered == what) {
            self.orders.remove(order);
            return Err(Error::new(format!("{what} fails, as ordered")));
        }
        self.heard.push(format!("{what} {detail}"));
        Ok(())
    }
}

impl Conductor for Range {
    type Config = ();

    async fn create(session: &Session, (): ()) -> Result<Self> {
        // Before the session is stored: all of it must be there afterwards.
        session.set_labels([("made", "yes")]).await?;
        session.once("birth", Duration::from_millis(1)).await?;
        session.save(&0).version(7).await?;
        Ok(Self::new("create".into(), 0))
    }

    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        let score = saved.parse()?;
        Ok(Self::new(format!("restore {score} version {}", saved.version()), score))
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("heard", Self::heard).on("score", Self::score).on("ask", Self::ask).on("grants", Self::clients)
    }

    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        self.note("joining", joining.client())?;
        Ok(match joining.client() {
            "mallory" => Join::refuse("not you"),
            "astray" => Grants::all().subscribe(["/elsewhere/#"]).into(),
            "listener" => Grants::all().subscribe(["stage/#"]).publish(Vec::<String>::new()).into(),
            _ => Join::accept(),
        })
    }

    async fn left(&mut self, _: &Session, left: &Left) -> Result<()> {
        self.note("left", format_args!("{} {:?}", left.client(), left.reason()))
    }

    async fn connected(&mut self, _: &Session, client: &str) -> Result<()> {
        self.note("connected", client)
    }

    async fn disconnected(&mut self, _: &Session, client: &str) -> Result<()> {
        self.note("disconnected", client)
    }

    async fn message(&mut self, _: &Session, message: &Message) -> Result<()> {
        let sender = message.sender().unwrap_or_default();
        let retained = if message.is_retained() { " retained" } else { "" };
        let will = if message.is_will() { " will" } else { "" };
        self.note("message", format_args!("{sender} {} {} qos {}{retained}{will}", message.name(), message.text()?, message.qos()))
    }

    async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
        self.note("timer", timer.name())?;
        if timer.late() > Duration::from_secs(1) {
            self.note("late", timer.name())?;
        }
        if !self.slow.is_zero() {
            session.sleep(self.slow).await?;
        }
        Ok(())
    }

    async fn link(&mut self, _: &Session, link: Link) -> Result<()> {
        self.note("link", format_args!("{link:?}"))
    }

    async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
        session.publish("closed", format!("{reason:?}")).await?;
        let saved = session.save(&(self.score + 1000)).version(7).await;
        session.publish("closed/saved", saved.map_or_else(|error| error.to_string(), |()| "yes".to_owned())).await
    }
}

impl Range {
    async fn heard(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.heard))
    }

    async fn score(&mut self, _: &Session, (): ()) -> Result<u32> {
        Ok(self.score)
    }

    async fn clients(&mut self, session: &Session, (): ()) -> Result<Vec<String>> {
        Ok(session.clients().iter().map(|client| client.id().to_owned()).collect())
    }

    async fn ask(&mut self, session: &Session, ask: Ask) -> Result<Option<String>> {
        let Ask::Sleep(millis) = ask else {
            return self.act(session, ask).await.map(|()| None);
        };
        let (begun, time) = (session.now(), Duration::from_millis(millis));
        session.sleep(time).await?;
        let went_on = session.now().duration_since(begun).is_ok_and(|slept| slept >= time);
        Ok(Some(format!("slept as long: {went_on}")))
    }

    async fn act(&mut self, session: &Session, ask: Ask) -> Result<()> {
        match ask {
            Ask::Save(score) => {
                self.score = score;
                session.save(&score).version(7).await
            }
            Ask::SaveBytes(count) => session.save_bytes(vec![b'1'; count]).await,
            Ask::Once(name, millis) => session.once(&name, Duration::from_millis(millis)).await,
            Ask::Every(name, millis) => session.every(&name, Duration::from_millis(millis)).await,
            Ask::CancelTimer(name) => session.cancel_timer(&name).await,
            Ask::Grant(client, subscribe, publish) => {
                let mut grants = Grants::all();
                if let Some(names) = subscribe {
                    grants = grants.subscribe(names);
                }
                if let Some(names) = publish {
                    grants = grants.publish(names);
                }
                session.set_grants(&client, grants).await
            }
            Ask::Kick(client) => session.kick(&client).await,
            Ask::Lock(locked) => session.lock_joining(locked).await,
            Ask::MaxClients(most) => session.set_max_clients(most).await,
            Ask::Labels(labels) => session.set_labels(labels).await,
            Ask::Publish(name, payload) => session.publish(&name, payload).qos(1).await,
            Ask::PublishTo(client, name, payload) => session.publish_to(&client, &name, payload).qos(1).await,
            Ask::FailAt(event) => {
                self.orders.push(event);
                Ok(())
            }
            Ask::Slow(millis) => {
                self.slow = Duration::from_millis(millis);
                Ok(())
            }
            Ask::Spawn(millis) => {
                let of_task = session.clone();
                session.spawn(async move {
                    of_task.publish("say/task", "begins").await?;
                    of_task.sleep(Duration::from_millis(millis)).await?;
                    of_task.publish("say/task", "ends").await
                })?;
                Ok(())
            }
            Ask::FailInTask => session.spawn(async { Err(Error::new("a task fails, as ordered")) }).map(drop),
            Ask::Log(level, text) => {
                match level {
                    1 => tracing::error!("{text}"),
                    2 => tracing::warn!("{text}"),
                    3 => tracing::info!("{text}"),
                    4 => tracing::debug!("{text}"),
                    _ => tracing::trace!("{text}"),
                }
                Ok(())
            }
            Ask::Hang => std::future::pending().await,
            Ask::Panic => panic!("as ordered"),
            Ask::PanicInTask => session.spawn(async { panic!("in a task") }).map(drop),
            Ask::Close => session.close().await,
            Ask::Sleep(_) => Err(Error::new("`ask` does that itself")),
        }
    }
}

export_conductors! { "range" => Range }
