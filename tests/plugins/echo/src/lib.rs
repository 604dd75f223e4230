//! The conductor `echo` of the black-box tests: tells what it hears and says what it is told.
#![forbid(unsafe_code)]

use std::{path::Path, time::Duration};

use conductor_sdk::prelude::*;
use serde_json::{Value, json};

struct Echo {
    heard: Vec<Value>,
    /// What it was told of the link, in order.
    links: Vec<&'static str>,
    requests: u64,
    kept: u32,
}

/// What it keeps: a number, and that number in so many bytes more, which shows a state that is not whole.
#[derive(Deserialize, JsonSchema)]
struct Keep {
    number: u32,
    bytes: usize,
}

#[derive(Deserialize, JsonSchema)]
struct Say {
    name: String,
    payload: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    /// To this client alone.
    client: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct SayOften {
    name: String,
    payload: String,
    qos: u8,
    times: u64,
}

#[derive(Deserialize, JsonSchema)]
struct Wait {
    millis: u64,
}

impl Conductor for Echo {
    type Config = ();

    async fn create(session: &Session, (): ()) -> Result<Self> {
        tracing::info!(type_name = session.type_name(), "created");
        Ok(Self { heard: Vec::new(), links: Vec::new(), requests: 0, kept: 0 })
    }

    async fn restore(session: &Session, (): (), saved: Saved) -> Result<Self> {
        let (number, filler) = saved.bytes().split_first_chunk().ok_or_else(|| Error::new("no number was saved"))?;
        let kept = u32::from_le_bytes(*number);
        if filler.iter().any(|byte| *byte != number[0]) {
            return Err(Error::new(format!("half of what was saved is not of {kept}")));
        }
        Ok(Self { kept, ..Self::create(session, ()).await? })
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("params", Self::params)
            .on("whoami", Self::whoami)
            .on("count", Self::count)
            .on("heard", Self::heard)
            .on("links", Self::links)
            .on("say", Self::say)
            .on("say_often", Self::say_often)
            .on("clients", Self::clients)
            .on("wait", Self::wait)
            .on("wait_for", Self::wait_for)
            .on("spawn", Self::spawn)
            .on("keep", Self::keep)
            .on("kept", Self::kept)
            .on("close", Self::close_session)
    }

    /// Remembers it, and answers what is named `ask` to all.
    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        self.heard.push(json!({
            "name": message.name(), "payload": message.text()?, "sender": message.sender(),
            "qos": message.qos(), "retain": message.is_retained(), "will": message.is_will(),
        }));
        if message.name() == "ask" {
            session.publish("answer", message.payload()).qos(message.qos()).await?;
        }
        Ok(())
    }

    async fn link(&mut self, _: &Session, link: Link) -> Result<()> {
        self.links.push(if link == Link::Up { "up" } else { "down" });
        Ok(())
    }

    async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
        tracing::info!(id = session.id(), ?reason, "closing");
        Ok(())
    }
}

impl Echo {
    /// What the handler got.
    async fn params(&mut self, _: &Session, params: Value) -> Result<Value> {
        Ok(params)
    }

    async fn whoami(&mut self, session: &Session, (): ()) -> Result<Value> {
        Ok(json!([session.id(), session.type_name()]))
    }

    /// How often this conductor was asked: begins again where it was made again.
    async fn count(&mut self, _: &Session, (): ()) -> Result<u64> {
        self.requests += 1;
        Ok(self.requests)
    }

    async fn heard(&mut self, _: &Session, (): ()) -> Result<Vec<Value>> {
        Ok(self.heard.clone())
    }

    async fn links(&mut self, _: &Session, (): ()) -> Result<Vec<&'static str>> {
        Ok(self.links.clone())
    }

    async fn say(&mut self, session: &Session, say: Say) -> Result<()> {
        let publish = match &say.client {
            Some(client) => session.publish_to(client, &say.name, &say.payload),
            None => session.publish(&say.name, &say.payload),
        };
        publish.qos(say.qos).retain(say.retain).await
    }

    async fn say_often(&mut self, session: &Session, often: SayOften) -> Result<()> {
        for _ in 0..often.times {
            session.publish(&often.name, &often.payload).qos(often.qos).await?;
        }
        Ok(())
    }

    async fn clients(&mut self, session: &Session, (): ()) -> Result<Vec<String>> {
        Ok(session.clients().iter().map(|client| client.id().to_owned()).collect())
    }

    /// Says when it begins.
    async fn wait(&mut self, session: &Session, wait: Wait) -> Result<u64> {
        session.publish("waiting", wait.millis.to_string()).await?;
        session.sleep(Duration::from_millis(wait.millis)).await?;
        Ok(wait.millis)
    }

    /// Says when it begins, and ends once there is such a file.
    async fn wait_for(&mut self, session: &Session, file: String) -> Result<()> {
        session.publish("waiting", "").await?;
        while !Path::new(&file).exists() {
            session.sleep(Duration::from_millis(10)).await?;
        }
        Ok(())
    }

    /// A task that publishes `tick` for ever.
    async fn spawn(&mut self, session: &Session, wait: Wait) -> Result<()> {
        let of_task = session.clone();
        session.spawn(async move {
            for tick in 0_u64.. {
                of_task.publish("tick", tick.to_string()).await?;
                of_task.sleep(Duration::from_millis(wait.millis)).await?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Answers once it is durable.
    async fn keep(&mut self, session: &Session, keep: Keep) -> Result<()> {
        let mut bytes = keep.number.to_le_bytes().to_vec();
        bytes.resize(bytes.len() + keep.bytes, bytes[0]);
        session.save_bytes(bytes).await?;
        self.kept = keep.number;
        Ok(())
    }

    /// The number that was kept last; 0 where there is none.
    async fn kept(&mut self, _: &Session, (): ()) -> Result<u32> {
        Ok(self.kept)
    }

    async fn close_session(&mut self, session: &Session, (): ()) -> Result<()> {
        session.close().await
    }
}

export_conductors! { "echo" => Echo }
