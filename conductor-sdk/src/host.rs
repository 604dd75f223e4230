//! The handle that a service has on the host.

use std::{
    fmt,
    future::Future,
    time::{Duration, SystemTime},
};

use conductor_abi::wire::{self, ClientInfo, SessionMeta, SessionsMeta, call};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Client, NewSession, Publish, Result, Session, SessionInfo, Task, TaskOutput, session::to_json};

/// What a service can do: with all sessions, as an administrator could, and for itself. A cheap handle: clone it into tasks.
///
/// Its functions may be called from any thread, in any order, and never re-enter the service. A session that is named and is not there
/// gives an error whose [`is_no_such_session`](crate::Error::is_no_such_session) is true; after the service was closed each gives one
/// whose [`is_closed`](crate::Error::is_closed) is.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// async fn greet_all(host: &Host) -> Result<()> {
///     for session in host.sessions().await? {
///         host.publish(session.id(), "greetings", "hello").await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Host(Session);

impl Host {
    /// `own` is what the host gave at the service's creation: it stands for no session. Tasks, panics and log lines of the service
    /// count for it.
    pub(crate) fn new(own: Session) -> Self {
        Self(own)
    }

    /// The service's name in the host's settings (which may differ from its name in the plugin).
    ///
    /// ```
    /// # fn f(host: &conductor_sdk::Host) {
    /// tracing::info!("the service {} is there", host.name());
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.type_name()
    }

    /// All sessions that are open, in a fixed order: read page by page, so one that is opened or closed meanwhile may be among them or not.
    ///
    /// # Errors
    /// Where the service is closed.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host) -> Result<()> {
    /// let players: usize = host.sessions().await?.iter().map(|session| session.clients()).sum();
    /// # Ok(()) }
    /// ```
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let mut all = self.session_page(None, 0).await?;
        while let Some(last) = all.last() {
            let last = last.id().to_owned();
            let page = self.session_page(Some(&last), 0).await?;
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        Ok(all)
    }

    /// One page of [`sessions`](Self::sessions), for where not all of them are to be in memory at once: those behind the id `after`,
    /// at most `limit` (0 leaves that to the host, and it may give fewer than asked for). An empty one is the end.
    ///
    /// # Errors
    /// Where the service is closed, or `after` can be no id.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host) -> Result<()> {
    /// let mut page = host.session_page(None, 100).await?;
    /// while let Some(last) = page.last() {
    ///     let after = last.id().to_owned();
    ///     tracing::info!("{} sessions up to {after}", page.len());
    ///     page = host.session_page(Some(&after), 100).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn session_page(&self, after: Option<&str>, limit: u32) -> Result<Vec<SessionInfo>> {
        let mut meta = SessionsMeta::default();
        (meta.after, meta.limit) = (after.map(str::to_owned), limit);
        let reply = self.0.call(call::SESSIONS, "", "", &to_json(&meta)?, &[]).await?;
        let infos: Vec<wire::SessionInfo> = serde_json::from_slice(&reply)?;
        Ok(infos.into_iter().map(SessionInfo::new).collect())
    }

    /// Makes a session of a type of the settings. [`Service::session_opened`](crate::Service::session_opened) tells of it, too.
    ///
    /// # Errors
    /// An unknown type, one whose plugin or `create` failed, a store that cannot be written, a host that stops.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host) -> Result<()> {
    /// let made = host.create_session("default").await?;
    /// tracing::info!("made session {}", made.id());
    /// # Ok(()) }
    /// ```
    pub async fn create_session(&self, type_name: &str) -> Result<NewSession> {
        let reply = self.0.call(call::CREATE_SESSION, type_name, "", &[], &[]).await?;
        Ok(NewSession::new(serde_json::from_slice(&reply)?))
    }

    /// Closes a session, as an administrator does. Returns when it is gone: its conductor has closed, its clients are disconnected.
    ///
    /// # Errors
    /// No such session; a store that cannot be written, and then the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host) -> Result<()> {
    /// for session in host.sessions().await?.iter().filter(|session| session.clients() == 0) {
    ///     host.close_session(session.id()).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn close_session(&self, session: &str) -> Result<()> {
        self.0.call(call::CLOSE_SESSION, "", "", &named(session)?, &[]).await.map(drop)
    }

    /// Asks a session's conductor for one of its methods; `()` as parameters means none. The conductor's host shows the caller as
    /// `service:NAME`. The type's deadline holds.
    ///
    /// # Errors
    /// The conductor's own error, with its code (zero or above) and data; no such session, no such method, parameters that do not fit, a
    /// conductor that is faulted, unavailable, overloaded or late; an answer that does not fit `R`.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host, id: &str) -> Result<()> {
    /// let state: String = host.ask(id, "state", ()).await?;
    /// let _: serde_json::Value = host.ask(id, "move", [3, 4]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn ask<R: DeserializeOwned>(&self, session: &str, method: &str, params: impl Serialize + Send) -> Result<R> {
        let params = serde_json::to_vec(&params)?;
        let reply = self.0.call(call::ASK, method, "", &named(session)?, &params).await?;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// Sends `payload` to the clients of a session that subscribed to `/{id}/{name}`. Set quality and retention on the returned value, then
    /// `.await` it. Neither the session's conductor nor a service hears it.
    ///
    /// # Errors
    /// No such session; a name with a wildcard or empty, a host without a broker, a broker that is down.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host, id: &str) -> Result<()> {
    /// host.publish(id, "news", "we close in five minutes").qos(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish<'a>(&'a self, session: &str, name: &'a str, payload: impl AsRef<[u8]>) -> Publish<'a> {
        self.0.publish(name, payload).within(session)
    }

    /// Sends `payload` on `/{id}/to/{client}/{name}`, as [`Session::publish_to`] does.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); a client that has not joined that session, or an empty name, is one too.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host, id: &str) -> Result<()> {
    /// host.publish_to(id, "ann", "notice", "you won").qos(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_to<'a>(&'a self, session: &str, client: &'a str, name: &'a str, payload: impl AsRef<[u8]>) -> Publish<'a> {
        self.0.publish_to(client, name, payload).within(session)
    }

    /// The clients of a session that joined and whose grant has not ended, in the order of their first join.
    ///
    /// # Errors
    /// No such session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host, id: &str) -> Result<()> {
    /// let names: Vec<String> = host.clients(id).await?.iter().map(|client| client.id().to_owned()).collect();
    /// # Ok(()) }
    /// ```
    pub async fn clients(&self, session: &str) -> Result<Vec<Client>> {
        let reply = self.0.call(call::CLIENTS, "", "", &named(session)?, &[]).await?;
        let infos: Vec<ClientInfo> = serde_json::from_slice(&reply)?;
        Ok(infos.into_iter().map(Client::new).collect())
    }

    /// The host's time, in milliseconds; see [`Session::now`].
    ///
    /// ```
    /// # fn f(host: &conductor_sdk::Host) {
    /// let tomorrow = host.now() + std::time::Duration::from_secs(86_400);
    /// # }
    /// ```
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.0.now()
    }

    /// 64 random bits, **not for secrets**; see [`Session::random`].
    ///
    /// ```
    /// # fn f(host: &conductor_sdk::Host) {
    /// let heads = host.random() & 1 == 0;
    /// # }
    /// ```
    #[must_use]
    pub fn random(&self) -> u64 {
        self.0.random()
    }

    /// A random number from 0 to `end - 1`; see [`Session::random_below`].
    ///
    /// ```
    /// # fn f(host: &conductor_sdk::Host) {
    /// let die = host.random_below(6) + 1;
    /// # }
    /// ```
    #[must_use]
    pub fn random_below(&self, end: u64) -> u64 {
        self.0.random_below(end)
    }

    /// Waits, without a thread. In an event handler the deadline goes on counting: what takes long belongs into [`spawn`](Self::spawn).
    ///
    /// # Errors
    /// Where the service is closed.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(host: &Host) -> Result<()> {
    /// host.sleep(std::time::Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn sleep(&self, duration: Duration) -> Result<()> {
        self.0.sleep(duration).await
    }

    /// Runs `future` beside the service until it ends or the service is closed: its loop, say. As [`Session::spawn`], a panic in it included:
    /// it makes the service faulted.
    ///
    /// # Errors
    /// Where the service is closed, or has too many tasks.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// async fn each_minute(host: Host) -> Result<()> {
    ///     loop {
    ///         host.sleep(std::time::Duration::from_secs(60)).await?;
    ///         tracing::info!("{} sessions", host.sessions().await?.len());
    ///     }
    /// }
    /// # fn f(host: &Host) -> Result<()> {
    /// host.spawn(each_minute(host.clone()))?;
    /// # Ok(()) }
    /// ```
    pub fn spawn<F>(&self, future: F) -> Result<Task>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        self.0.spawn(future)
    }
}

fn named(session: &str) -> Result<Vec<u8>> {
    let mut meta = SessionMeta::default();
    session.clone_into(&mut meta.session);
    to_json(&meta)
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name()).finish_non_exhaustive()
    }
}
