//! What the service answers, and how it is carried out.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use conductor_sdk::{
    prelude::*,
    serde_json::{Value, value::RawValue},
};

/// A key that is not here is a mistake of the service's, and said to be one.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) reply: Option<Box<RawValue>>,
    pub(crate) error: Option<Problem>,
    pub(crate) unknown_method: bool,
    pub(crate) join: Option<JoinAnswer>,
    pub(crate) save: Option<Box<RawValue>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) lock: Option<bool>,
    pub(crate) max_clients: Option<u32>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) kick: Vec<String>,
    pub(crate) timers: Vec<TimerAnswer>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) close: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Problem {
    message: String,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    data: Value,
}

/// May a client join? Without `refuse` it may, and do what is listed; everything where nothing is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinAnswer {
    refuse: Option<String>,
    subscribe: Option<Vec<String>>,
    publish: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    client: String,
    subscribe: Option<Vec<String>>,
    publish: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimerAnswer {
    name: String,
    after_ms: Option<u64>,
    every_ms: Option<u64>,
    #[serde(default)]
    cancel: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    name: String,
    /// Nothing: to all.
    to: Option<String>,
    /// A text is sent as it is, any other JSON as its text.
    payload: Option<Value>,
    payload_base64: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
}

impl Answer {
    /// All but what was saved already, in an order of its own: first who is there and what they may do, then what they hear. The first that fails ends it.
    pub(crate) async fn carry_out(&mut self, session: &Session) -> Result<()> {
        if let Some(labels) = self.labels.take() {
            session.set_labels(labels).await.map_err(|error| of("labels", &error))?;
        }
        if let Some(most) = self.max_clients {
            session.set_max_clients(most).await.map_err(|error| of("max_clients", &error))?;
        }
        if let Some(locked) = self.lock {
            session.lock_joining(locked).await.map_err(|error| of("lock", &error))?;
        }
        for Grant { client, subscribe, publish } in self.grants.drain(..) {
            session.set_grants(&client, grants(subscribe, publish)).await.map_err(|error| of("grants", &error))?;
        }
        for client in self.kick.drain(..) {
            session.kick(&client).await.map_err(|error| of("kick", &error))?;
        }
        for timer in self.timers.drain(..) {
            timer.set(session).await.map_err(|error| of("timers", &error))?;
        }
        for publish in self.publish.drain(..) {
            publish.send(session).await.map_err(|error| of("publish", &error))?;
        }
        if self.close {
            session.close().await.map_err(|error| of("close", &error))?;
        }
        Ok(())
    }

    /// The reply, or the error that the service says.
    pub(crate) fn into_result(self) -> Result<Box<RawValue>> {
        match self.error {
            Some(Problem { message, code, data: Value::Null }) => Err(Error::new(message).with_code(code)),
            Some(Problem { message, code, data }) => Err(Error::new(message).with_code(code).with_data(data)),
            None => Ok(self.reply.unwrap_or_else(|| RawValue::NULL.to_owned())),
        }
    }
}

fn of(key: &str, error: &Error) -> Error {
    Error::new(format!("the service's answer, {key:?}: {error}"))
}

fn grants(subscribe: Option<Vec<String>>, publish: Option<Vec<String>>) -> Grants {
    let mut grants = Grants::all();
    if let Some(names) = subscribe {
        grants = grants.subscribe(names);
    }
    if let Some(names) = publish {
        grants = grants.publish(names);
    }
    grants
}

impl From<JoinAnswer> for Join {
    fn from(answer: JoinAnswer) -> Self {
        match answer.refuse {
            Some(reason) => Self::refuse(reason),
            None => grants(answer.subscribe, answer.publish).into(),
        }
    }
}

impl TimerAnswer {
    async fn set(self, session: &Session) -> Result<()> {
        match (self.after_ms, self.every_ms, self.cancel) {
            (Some(after), None, false) => session.once(&self.name, Duration::from_millis(after)).await,
            (None, Some(every), false) => session.every(&self.name, Duration::from_millis(every)).await,
            (None, None, true) => session.cancel_timer(&self.name).await,
            _ => Err(Error::new(format!("timer {:?} needs one of after_ms, every_ms and cancel", self.name))),
        }
    }
}

impl Publish {
    async fn send(self, session: &Session) -> Result<()> {
        let payload = match (self.payload, self.payload_base64) {
            (None, None) => Vec::new(),
            (Some(Value::String(text)), None) => text.into_bytes(),
            (Some(json), None) => json.to_string().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64)?,
            (Some(_), Some(_)) => return Err(Error::new(format!("{:?} has two payloads", self.name))),
        };
        let publish = match &self.to {
            Some(client) => session.publish_to(client, &self.name, payload),
            None => session.publish(&self.name, payload),
        };
        publish.qos(self.qos).retain(self.retain).await
    }
}
