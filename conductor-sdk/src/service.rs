//! The trait of a service.

use std::future::Future;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{CloseReason, Host, Link, Message, Methods, Result, SessionClosed, SessionOpened, conductor::Absent};

/// An app-wide object without a session: one for each `[services.NAME]` of the settings, made when the host starts.
///
/// It has an administrator's rights: through [`Host`] it lists, makes and closes sessions, asks their conductors, and publishes in them; by
/// its hooks it hears the messages of all sessions and of sessions that open and close; and it has a loop of its own by [`Host::spawn`].
///
/// The host calls it, **one event at a time**, on its threads for plugin code, as it does a [`Conductor`](crate::Conductor): a handler must
/// not block its thread, has a deadline (5 s unless the settings say otherwise), and a panic in it ends the service alone: it is *faulted* then,
/// visibly, until it is made again: at a reload (SIGHUP or `POST /v1/plugins/reload`), or when the host starts again. A service keeps no state
/// and has no timers that survive a restart.
///
/// **Thread and call order**: each event runs on any of the host's threads for plugin code. [`create`](Self::create) comes first,
/// [`close`](Self::close) last, and between them what happens in one session comes in its order; of two sessions, in any.
///
/// Only [`create`](Self::create) must be written. Later versions add provided functions only.
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// /// Closes sessions that nobody has joined within a minute.
/// struct Janitor;
///
/// impl Service for Janitor {
///     type Config = ();
///
///     async fn create(host: &Host, _: ()) -> Result<Self> {
///         host.spawn(sweep(host.clone()))?;
///         Ok(Self)
///     }
/// }
///
/// async fn sweep(host: Host) -> Result<()> {
///     const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
///     loop {
///         host.sleep(MINUTE).await?;
///         for session in host.sessions().await? {
///             let old = session.created_at().is_some_and(|made| made + MINUTE < host.now());
///             if old && session.clients() == 0 {
///                 host.close_session(session.id()).await?;
///             }
///         }
///     }
/// }
///
/// export_plugin! { services { "janitor" => Janitor } }
/// # fn main() {}
/// ```
pub trait Service: Send + Sized + 'static {
    /// What `config` in the service's settings must look like; `()` for none. The host checks it, and reads a [`Secret`](crate::Secret) in it, as it does
    /// with [`Conductor::Config`](crate::Conductor::Config).
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// #[derive(Deserialize, JsonSchema)]
    /// struct Config { seconds: u64 }
    /// # struct Clock;
    /// impl Service for Clock {
    ///     type Config = Config;
    ///     async fn create(_: &Host, config: Config) -> Result<Self> {
    ///         tracing::info!("each {} s", config.seconds);
    ///         Ok(Clock)
    ///     }
    /// }
    /// ```
    type Config: DeserializeOwned + JsonSchema + Send + 'static;

    /// As [`Conductor::TOKIO`](crate::Conductor::TOKIO): whether the service's code uses tokio, or libraries that do. Exists with the feature
    /// `tokio` alone.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # use std::time::Duration;
    /// struct Patient;
    /// impl Service for Patient {
    ///     type Config = ();
    ///     const TOKIO: bool = true;
    ///     async fn create(_: &Host, _: ()) -> Result<Self> {
    ///         tokio::time::timeout(Duration::from_secs(1), async { /* a library's call */ }).await?;
    ///         Ok(Patient)
    ///     }
    /// }
    /// # conductor_sdk::testing::ServiceRig::start::<Patient>(()).unwrap();
    /// ```
    #[cfg(feature = "tokio")]
    const TOKIO: bool = false;

    /// Makes the service: at the start of the host, once the broker serves and the stored sessions are there, and before the admin port answers;
    /// and again when a newer build takes its place. What happens meanwhile is told afterwards, so that a session that opens now may be in
    /// [`Host::sessions`] already and told by [`session_opened`](Self::session_opened) as well.
    ///
    /// Runs on a thread of the host for plugin code, as every event does, and at the same time as the other services are made: in which order,
    /// nobody knows.
    ///
    /// # Errors
    /// The host does not start, unless the service's settings say `required = false`: then it is *unavailable*, and says why.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Greeter;
    /// impl Service for Greeter {
    ///     type Config = ();
    ///     async fn create(host: &Host, _: ()) -> Result<Self> {
    ///         for session in host.sessions().await? {
    ///             host.publish(session.id(), "news", "the host is back").await?;
    ///         }
    ///         Ok(Greeter)
    ///     }
    /// }
    /// ```
    fn create(host: &Host, config: Self::Config) -> impl Future<Output = Result<Self>> + Send;

    /// What administrators may ask (`POST /v1/services/NAME/requests`). Called once per loaded library.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Counter;
    /// impl Service for Counter {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Counter) }
    ///     fn methods() -> Methods<Self, Host> { Methods::new().on("count", Self::count) }
    /// }
    /// impl Counter {
    ///     async fn count(&mut self, host: &Host, _: ()) -> Result<usize> { Ok(host.sessions().await?.len()) }
    /// }
    /// ```
    #[must_use]
    fn methods() -> Methods<Self, Host> {
        Methods::new()
    }

    /// A client sent a message in the session of this id: any client, any session, wills included; what conductors and services publish
    /// is not told. Where this is written, all messages of the host come here one after the other: what does not fit into the service's mailbox
    /// is dropped and counted, and the sessions do not notice. Where no service has it, messages cost nothing more.
    ///
    /// # Errors
    /// Logged; the service goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Alarm;
    /// impl Service for Alarm {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Alarm) }
    ///     async fn message(&mut self, host: &Host, session: &str, message: &Message) -> Result<()> {
    ///         if message.name() == "fire" {
    ///             for other in host.sessions().await?.iter().filter(|other| other.id() != session) {
    ///                 host.publish(other.id(), "alarm", message.payload()).await?;
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn message(&mut self, host: &Host, session: &str, message: &Message) -> impl Future<Output = Result<()>> + Send {
        let _ = (host, session, message);
        Absent::new()
    }

    /// A session was opened, by whomever. (Those that the host found in its store at the start are not told: [`Host::sessions`] has them.)
    ///
    /// # Errors
    /// Logged; the service goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Welcome;
    /// impl Service for Welcome {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Welcome) }
    ///     async fn session_opened(&mut self, host: &Host, opened: &SessionOpened) -> Result<()> {
    ///         host.publish(opened.id(), "welcome", opened.type_name()).retain(true).await
    ///     }
    /// }
    /// ```
    fn session_opened(&mut self, host: &Host, opened: &SessionOpened) -> impl Future<Output = Result<()>> + Send {
        let _ = (host, opened);
        Absent::new()
    }

    /// A session has closed: its conductor and its clients' connections are gone. (Not told when the host stops: sessions stay stored.)
    ///
    /// # Errors
    /// Logged; the service goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Log;
    /// impl Service for Log {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Log) }
    ///     async fn session_closed(&mut self, _: &Host, closed: &SessionClosed) -> Result<()> {
    ///         tracing::info!("session {} has closed: {:?}", closed.id(), closed.reason());
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn session_closed(&mut self, host: &Host, closed: &SessionClosed) -> impl Future<Output = Result<()>> + Send {
        let _ = (host, closed);
        Absent::new()
    }

    /// The host's link to the MQTT broker came up or was lost. Told only where the settings name an external broker: after
    /// [`create`](Self::create) if the link is down then, and at each change; the same may be told twice.
    ///
    /// # Errors
    /// Logged; the service goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Watch;
    /// impl Service for Watch {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Watch) }
    ///     async fn link(&mut self, _: &Host, link: Link) -> Result<()> {
    ///         if link == Link::Down { tracing::warn!("no messages pass"); }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn link(&mut self, host: &Host, link: Link) -> impl Future<Output = Result<()>> + Send {
        let _ = (host, link);
        Absent::new()
    }

    /// The last event: the host stops ([`CloseReason::HostStopping`]; all sessions are still there) or a newer build takes over
    /// ([`CloseReason::Replaced`]). It has 10 s; the tasks of the service end after it.
    ///
    /// # Errors
    /// Logged; the service ends all the same.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Farewell;
    /// impl Service for Farewell {
    ///     type Config = ();
    ///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Farewell) }
    ///     async fn close(&mut self, host: &Host, _: CloseReason) -> Result<()> {
    ///         for session in host.sessions().await? {
    ///             host.publish(session.id(), "news", "the host pauses").await?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn close(&mut self, host: &Host, reason: CloseReason) -> impl Future<Output = Result<()>> + Send {
        let _ = (host, reason);
        Absent::new()
    }
}
