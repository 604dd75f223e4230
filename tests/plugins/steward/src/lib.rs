//! The services `steward` and `deaf` of the tests, and a conductor `page` beside them. A steward has every hook, uses every call and
//! misbehaves on command; a deaf one has no hook at all.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use conductor_sdk::{prelude::*, serde_json::Value};

/// How it is to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What it answers to `mark`.
    mark: String,
    /// `create` fails, with this text.
    fail: Option<String>,
    /// `create` panics.
    panic: bool,
    /// `create` blocks its thread for milliseconds.
    block: u64,
    /// `key` answers how long it is.
    key: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self { mark: "none".into(), fail: None, panic: false, block: 0, key: None }
    }
}

/// Remembers what it is told until it is asked.
#[derive(Debug)]
pub struct Steward {
    mark: String,
    key: Option<Secret>,
    told: Vec<String>,
    heard: u64,
}

impl Service for Steward {
    type Config = Config;

    async fn create(host: &Host, config: Config) -> Result<Self> {
        std::thread::sleep(Duration::from_millis(config.block));
        if config.panic {
            panic!("as ordered");
        }
        if let Some(text) = config.fail {
            return Err(Error::new(text));
        }
        let told = host.sessions().await?.iter().map(|session| format!("found {}", session.id())).collect();
        tracing::info!(mark = config.mark, "the steward is here");
        Ok(Self { mark: config.mark, key: config.key, told, heard: 0 })
    }

    fn methods() -> Methods<Self, Host> {
        Methods::new()
            .on("mark", Self::mark)
            .on("told", Self::told)
            .on("key", Self::key)
            .on("heard", Self::heard)
            .on("list", Self::list)
            .on("clients", Self::clients)
            .on("create", Self::create_session)
            .on("close", Self::close_session)
            .on("ask", Self::ask)
            .on("publish", Self::publish)
            .on("now", Self::now)
            .on("sleep", Self::sleep)
            .on("fail", Self::fail)
            .on("panic", Self::panic)
            .on("panic_in_task", Self::panic_in_task)
            .on("block", Self::block)
            .on("never", Self::never)
    }

    async fn message(&mut self, _: &Host, session: &str, message: &Message) -> Result<()> {
        self.heard += 1;
        if message.payload().len() < 100 {
            let (sender, will) = (message.sender().unwrap_or("?"), if message.is_will() { " will" } else { "" });
            self.told.push(format!("message {session} {} {sender} {}{will}", message.name(), message.text()?));
        }
        Ok(())
    }

    async fn session_opened(&mut self, _: &Host, opened: &SessionOpened) -> Result<()> {
        self.told.push(format!("opened {} {}", opened.id(), opened.type_name()));
        Ok(())
    }

    async fn session_closed(&mut self, _: &Host, closed: &SessionClosed) -> Result<()> {
        self.told.push(format!("closed {} {} {:?}", closed.id(), closed.type_name(), closed.reason()));
        Ok(())
    }

    async fn link(&mut self, _: &Host, link: Link) -> Result<()> {
        self.told.push(format!("link {link:?}"));
        Ok(())
    }

    async fn close(&mut self, host: &Host, reason: CloseReason) -> Result<()> {
        // The sessions are still there, and their conductors answer.
        let sessions = host.sessions().await?;
        for session in &sessions {
            let state: String = if session.type_name() == "default" { host.ask(session.id(), "state", ()).await? } else { String::new() };
            host.publish(session.id(), "farewell", format!("{reason:?} {state}")).qos(1).await?;
        }
        tracing::info!("the steward {} leaves {} sessions: {reason:?}", self.mark, sessions.len());
        Ok(())
    }
}

impl Steward {
    async fn mark(&mut self, host: &Host, (): ()) -> Result<String> {
        Ok(format!("{} {}", host.name(), self.mark))
    }

    async fn key(&mut self, _: &Host, (): ()) -> Result<Option<usize>> {
        Ok(self.key.as_ref().map(|key| key.expose().len()))
    }

    async fn told(&mut self, _: &Host, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.told))
    }

    async fn heard(&mut self, _: &Host, (): ()) -> Result<u64> {
        Ok(self.heard)
    }

    async fn list(&mut self, host: &Host, page: u32) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut sessions = host.session_page(None, page).await?;
        while let Some(last) = sessions.last().map(|session| session.id().to_owned()) {
            let line = |session: &SessionInfo| {
                let made = session.created_at().is_some_and(|made| made <= host.now());
                format!("{} {} {} {} {made}", session.id(), session.type_name(), session.state().as_str(), session.clients())
            };
            lines.extend(sessions.iter().map(line));
            sessions = host.session_page(Some(&last), page).await?;
        }
        Ok(lines)
    }

    async fn clients(&mut self, host: &Host, session: String) -> Result<Vec<String>> {
        Ok(host.clients(&session).await?.iter().map(|client| client.id().to_owned()).collect())
    }

    async fn create_session(&mut self, host: &Host, type_name: String) -> Result<(String, String)> {
        let made = host.create_session(&type_name).await?;
        Ok((made.id().to_owned(), made.pin().to_owned()))
    }

    async fn close_session(&mut self, host: &Host, session: String) -> Result<()> {
        host.close_session(&session).await
    }

    async fn ask(&mut self, host: &Host, (session, method, params): (String, String, Value)) -> Result<Value> {
        host.ask(&session, &method, params).await
    }

    async fn publish(&mut self, host: &Host, (session, client, name, payload): (String, String, String, String)) -> Result<()> {
        if client.is_empty() {
            return host.publish(&session, &name, payload).qos(1).await;
        }
        host.publish_to(&session, &client, &name, payload).qos(1).await
    }

    /// Whether the host's clock is of this century.
    async fn now(&mut self, host: &Host, (): ()) -> Result<bool> {
        Ok(host.now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }

    /// Whether the host's clock went on as far.
    async fn sleep(&mut self, host: &Host, millis: u64) -> Result<bool> {
        let (begun, time) = (host.now(), Duration::from_millis(millis));
        host.sleep(time).await?;
        Ok(host.now().duration_since(begun).is_ok_and(|slept| slept >= time))
    }

    async fn fail(&mut self, _: &Host, (): ()) -> Result<()> {
        Err(Error::new("as ordered").with_code(7).with_data([1]))
    }

    async fn panic(&mut self, _: &Host, (): ()) -> Result<()> {
        panic!("as ordered");
    }

    async fn panic_in_task(&mut self, host: &Host, (): ()) -> Result<()> {
        host.spawn(async { panic!("in a task, as ordered") }).map(drop)
    }

    async fn block(&mut self, _: &Host, millis: u64) -> Result<()> {
        std::thread::sleep(Duration::from_millis(millis));
        Ok(())
    }

    async fn never(&mut self, _: &Host, (): ()) -> Result<()> {
        std::future::pending().await
    }
}

struct Deaf;

impl Service for Deaf {
    type Config = ();

    async fn create(_: &Host, (): ()) -> Result<Self> {
        Ok(Self)
    }
}

/// Answers, refuses and ends.
#[derive(Debug)]
pub struct Page;

impl Conductor for Page {
    type Config = ();

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self)
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("double", Self::double).on("refuse", Self::refuse).on("end", Self::end)
    }
}

impl Page {
    async fn double(&mut self, _: &Session, number: u32) -> Result<u32> {
        Ok(number * 2)
    }

    async fn refuse(&mut self, _: &Session, (): ()) -> Result<()> {
        Err(Error::new("not me").with_code(9).with_data("why"))
    }

    async fn end(&mut self, session: &Session, (): ()) -> Result<()> {
        session.close().await
    }
}

export_plugin! {
    conductors { "page" => Page }
    services {
        "steward" => Steward,
        "deaf" => Deaf,
    }
}
