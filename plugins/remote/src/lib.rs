//! The conductor `remote`: a microservice conducts. Each event of a session becomes a POST with JSON; the answer, JSON too, says what to do. The
//! protocol is in `docs/remote.md` with a service of twenty lines, a fuller one in `examples/service.py`. Copy it where a conductor talks to something over a network.
#![forbid(unsafe_code)]

mod answer;
mod config;
mod event;
mod service;

use conductor_sdk::{
    prelude::*,
    serde_json::{self, value::RawValue},
};

use self::{
    answer::Answer,
    config::Config,
    event::{Event, Kind, Payload, Place},
};

struct Remote {
    config: Config,
    /// What the service saved last, as JSON. It goes with each event, so that the service need remember nothing.
    state: Box<RawValue>,
    /// What ids of events begin with: no other life of a session has the same.
    life: String,
    count: u64,
}

impl Remote {
    fn new(session: &Session, config: Config, state: Box<RawValue>) -> Self {
        let born = session.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { config, state, life: format!("{}-{}", session.id(), born.as_millis()), count: 0 }
    }

    /// Tells the service, if it is to hear this, and does what it answers.
    async fn tell(&mut self, session: &Session, kind: Kind, detail: Event<'_>) -> Result<Answer> {
        if !self.config.hears(kind) {
            return Ok(Answer::default());
        }
        self.count += 1;
        let id = format!("{}-{}", self.life, self.count);
        let place = Place { id: session.id(), kind: session.type_name() };
        let time = session.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let clients = session.clients().iter().map(|client| client.id().to_owned()).collect();
        let event = Event { id: &id, event: kind, session: place, time, clients, state: &self.state, ..detail };
        let body = serde_json::to_vec(&event)?;
        let mut answer: Answer = service::ask(&self.config, session, kind, body).await?;
        if let Some(state) = answer.save.take() {
            session.save(&state).await?;
            self.state = state;
        }
        answer.carry_out(session).await?;
        Ok(answer)
    }

    /// For events that the service can only hear.
    async fn report(&mut self, session: &Session, kind: Kind, detail: Event<'_>) -> Result<()> {
        self.tell(session, kind, detail).await?.into_result().map(drop)
    }

    async fn request(&mut self, session: &Session, request: Request) -> Result<Box<RawValue>> {
        let detail = Event { method: Some(request.method()), params: Some(request.params()), ..Event::default() };
        let answer = self.tell(session, Kind::Request, detail).await?;
        if answer.unknown_method { Err(request.unknown()) } else { answer.into_result() }
    }
}

fn nothing() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl Conductor for Remote {
    type Config = Config;
    const TOKIO: bool = true;

    /// Something is saved in any case: so this runs once in a session's life, and `restore` after each restart.
    async fn create(session: &Session, config: Config) -> Result<Self> {
        session.save(&nothing()).await?;
        let mut remote = Self::new(session, config, nothing());
        remote.report(session, Kind::Create, Event::default()).await?;
        Ok(remote)
    }

    /// The state is with the host, so the session goes on where the service does not answer yet.
    async fn restore(session: &Session, config: Config, saved: Saved) -> Result<Self> {
        let mut remote = Self::new(session, config, saved.parse()?);
        if let Err(error) = remote.report(session, Kind::Restore, Event::default()).await {
            tracing::warn!(%error, "the service did not hear of the restart");
        }
        Ok(remote)
    }

    fn methods() -> Methods<Self> {
        Methods::new().otherwise(Self::request)
    }

    async fn joining(&mut self, session: &Session, joining: &Joining) -> Result<Join> {
        let detail = Event { client: Some(joining.client()), peer: joining.peer(), ..Event::default() };
        let mut answer = self.tell(session, Kind::Joining, detail).await?;
        let join = answer.join.take();
        answer.into_result()?;
        Ok(join.map_or(Join::accept(), Into::into))
    }

    async fn left(&mut self, session: &Session, left: &Left) -> Result<()> {
        let reason = match left.reason() {
            Leave::Expired => "expired",
            Leave::Kicked => "kicked",
            _ => "other",
        };
        self.report(session, Kind::Left, Event { client: Some(left.client()), reason: Some(reason), ..Event::default() }).await
    }

    async fn connected(&mut self, session: &Session, client: &str) -> Result<()> {
        self.report(session, Kind::Connected, Event { client: Some(client), ..Event::default() }).await
    }

    async fn disconnected(&mut self, session: &Session, client: &str) -> Result<()> {
        self.report(session, Kind::Disconnected, Event { client: Some(client), ..Event::default() }).await
    }

    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        let detail = Event {
            client: message.sender(),
            name: Some(message.name()),
            payload: Some(Payload::of(message.payload())),
            qos: Some(message.qos()),
            retain: Some(message.is_retained()),
            will: Some(message.is_will()),
            ..Event::default()
        };
        self.report(session, Kind::Message, detail).await
    }

    async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
        let late = Some(timer.late().as_millis());
        self.report(session, Kind::Timer, Event { name: Some(timer.name()), late_ms: late, ..Event::default() }).await
    }

    async fn link(&mut self, session: &Session, link: Link) -> Result<()> {
        let reason = match link {
            Link::Up => "up",
            Link::Down => "down",
            _ => "other",
        };
        self.report(session, Kind::Link, Event { reason: Some(reason), ..Event::default() }).await
    }

    async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
        let reason = match reason {
            CloseReason::Requested => "requested",
            CloseReason::Conductor => "conductor",
            CloseReason::Expired => "expired",
            CloseReason::HostStopping => "host_stopping",
            CloseReason::Replaced => "replaced",
            _ => "other",
        };
        self.report(session, Kind::Close, Event { reason: Some(reason), ..Event::default() }).await
    }
}

export_conductors! { "remote" => Remote }

#[cfg(test)]
mod tests;
