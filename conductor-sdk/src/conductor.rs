//! The trait that an author implements.

use std::{
    any::type_name,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{CloseReason, Join, Joining, Left, Link, Message, Methods, Result, Saved, Session, Timer};

/// One type's instance in one session.
///
/// The host calls it, **one event at a time**: requests, messages, timers and close come in order, so `&mut self` needs no
/// lock. Different sessions run at the same time, on a few threads of the host made for plugin code. A handler must not
/// block its thread; what waits, awaits. When an event's deadline (5 s unless the settings say otherwise) passes, its
/// caller gets an error and the handler's future is dropped where it waits: what must finish goes to [`Session::spawn`].
///
/// **Thread and call order**: each event runs on any of the host's threads for plugin code, perhaps on another at each `.await`.
/// [`create`](Self::create) or [`restore`](Self::restore) comes first, [`close`](Self::close) last, and between them events come as they
/// happened (see the [front page](crate#order-threads-errors-delivery)). [`methods`](Self::methods) is called once, when the plugin is loaded.
///
/// A panic is caught: its caller gets an error, and the session is *faulted*. No further event reaches the conductor then.
///
/// Only [`create`](Self::create) must be written. Later versions add provided functions only.
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// struct Greeter { greeted: u64 }
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Greet { name: String }
///
/// impl Conductor for Greeter {
///     type Config = ();
///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Self { greeted: 0 }) }
///     fn methods() -> Methods<Self> { Methods::new().on("greet", Self::greet) }
/// }
///
/// impl Greeter {
///     async fn greet(&mut self, session: &Session, p: Greet) -> Result<String> {
///         self.greeted += 1;
///         session.publish("greetings", &p.name).await?;
///         Ok(format!("hello, {}", p.name))
///     }
/// }
/// ```
pub trait Conductor: Send + Sized + 'static {
    /// What `config` in the type's settings must look like; `()` for none, and not a `struct Config;` of your own: what a type without config gets is
    /// `{}`, which is no unit struct (a `struct Config {}` reads it). A [`Secret`](crate::Secret) in it may come from a file or the environment.
    ///
    /// The host checks it when it loads the plugin, against the JSON Schema that [`schemars`] makes of this type: **what the schema does not allow is refused**,
    /// with every mistake told (`#[schemars(range(min = 1))]` and `length` count, too; a `#[serde(alias)]` is in no schema, so it does not work here). A key that
    /// the schema does not know is warned about, and refused with `#[serde(deny_unknown_fields)]`. Then the type's own `Deserialize` has the last word.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// #[derive(Deserialize, JsonSchema)]
    /// struct Config {
    ///     #[serde(default)]
    ///     seats: u8,
    /// }
    /// # struct Game;
    /// impl Conductor for Game {
    ///     type Config = Config;
    ///     async fn create(_: &Session, config: Config) -> Result<Self> {
    ///         tracing::info!("{} seats", config.seats);
    ///         Ok(Game)
    ///     }
    /// }
    /// ```
    type Config: DeserializeOwned + JsonSchema + Send + 'static;

    /// Whether the conductor may be made as late as at its session's first event, and not when the session is made. Say
    /// `true` where [`create`](Self::create) starts nothing: a session that nobody uses then costs next to nothing.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Lamp;
    /// impl Conductor for Lamp {
    ///     type Config = ();
    ///     const LAZY: bool = true;
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) }
    /// }
    /// ```
    const LAZY: bool = false;

    /// Whether the conductor's code uses tokio, or libraries that do (reqwest, say). Exists with the feature `tokio` alone. Where it is
    /// `true`, the library has one small runtime (one thread, `plugin-tokio`), started at the first use and never ended; each poll and each
    /// drop of this conductor's code and of its tasks happens inside it, on the host's threads as ever. Without it tokio's timers, sockets and
    /// `tokio::spawn` panic. [`Session::sleep`], [`Session::spawn`] and timers need no runtime: prefer them.
    ///
    /// What `tokio::spawn` starts runs on the runtime's thread, outside of the session: it does not end with it, its log lines name no session,
    /// and a panic in it is logged and kept for whoever awaits its handle, but does not make the session faulted. So keep the handle and abort
    /// it, or use [`Session::spawn`]. A [`Session`] may be used there like everywhere.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # use std::time::Duration;
    /// struct Patient;
    /// impl Conductor for Patient {
    ///     type Config = ();
    ///     const TOKIO: bool = true;
    ///     async fn create(_: &Session, _: ()) -> Result<Self> {
    ///         tokio::time::timeout(Duration::from_secs(1), async { /* a library's call */ }).await?;
    ///         Ok(Patient)
    ///     }
    /// }
    /// # conductor_sdk::testing::Rig::start::<Patient>(()).unwrap();
    /// ```
    #[cfg(feature = "tokio")]
    const TOKIO: bool = false;

    /// Makes the conductor of a session: when the session is made (or at its first event where [`LAZY`](Self::LAZY)), and
    /// again after a restart of the host. Runs on a thread of the host for plugin code, as every event does, and before every other event of its
    /// session; other sessions' run at the same time.
    ///
    /// # Errors
    /// The session is not made then, and its administrator gets the error; one that is stored already is *parked*, as with an error of
    /// [`restore`](Self::restore).
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Clock;
    /// impl Conductor for Clock {
    ///     type Config = ();
    ///     async fn create(session: &Session, _: ()) -> Result<Self> {
    ///         session.publish("time", "begins").retain(true).await?;
    ///         Ok(Clock)
    ///     }
    /// }
    /// ```
    fn create(session: &Session, config: Self::Config) -> impl Future<Output = Result<Self>> + Send;

    /// Makes the conductor again from the state that [`Session::save`] kept last: after a restart of the host, and when the session is
    /// moved to a newer build of the plugin. The state may have been saved by an older build. Runs in place of
    /// [`create`](Self::create), which runs where nothing was saved. Where this is not written, `create` runs and the state stays.
    /// Thread and order are those of `create`; timers that were due meanwhile are told after it.
    ///
    /// # Errors
    /// The session is *parked*: kept without a conductor, its state as it was before, whatever was saved on the way to the error. The host
    /// tries again after a second, and then after ever longer pauses up to five minutes, so an error is right where something outside is down for
    /// now; and at once when a newer build of the plugin is loaded. A panic and a deadline that passes are errors, too.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// struct Game { score: u32 }
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Self { score: 0 }) }
    ///     async fn restore(_: &Session, _: (), saved: Saved) -> Result<Self> { Ok(Self { score: saved.parse()? }) }
    ///     async fn message(&mut self, session: &Session, _: &Message) -> Result<()> {
    ///         self.score += 1;
    ///         session.save(&self.score).await
    ///     }
    /// }
    /// ```
    fn restore(session: &Session, config: Self::Config, saved: Saved) -> impl Future<Output = Result<Self>> + Send {
        drop(saved);
        Self::create(session, config)
    }

    /// What administrators may ask. Called once per loaded library.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Door;
    /// impl Conductor for Door {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Door) }
    ///     fn methods() -> Methods<Self> { Methods::new().on("open", Self::open) }
    /// }
    /// impl Door {
    ///     async fn open(&mut self, session: &Session, _: ()) -> Result<()> {
    ///         session.publish("door", "open").await
    ///     }
    /// }
    /// ```
    #[must_use]
    fn methods() -> Methods<Self> {
        Methods::new()
    }

    /// A device that knows the pin asks to join, or to join again: may it, and what may it do then? Called before its token is signed,
    /// and only if the session is neither locked nor full. Where this is not written, everybody may join, as with
    /// [`Join::accept`]: one that is new may do everything in the session, one that joins again what it could before.
    ///
    /// Whom this accepts is in [`Session::clients`] a moment later, and not at all where the store cannot be written, the session filled up or the
    /// deadline passed meanwhile; the next joins may be asked about before that. So where the number of clients matters, say it by
    /// [`Session::set_max_clients`], which is exact, and do not count here.
    ///
    /// # Errors
    /// The join fails; the device is told no reason. A faulted conductor refuses all joins.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Game { running: bool }
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Game { running: false }) }
    ///     async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
    ///         if self.running {
    ///             return Ok(Join::refuse("the game has begun"));
    ///         }
    ///         // Everybody hears the stage, and what is for him alone; only the buzzer can be sent.
    ///         let own = format!("to/{}/#", joining.client());
    ///         Ok(Grants::all().subscribe(["stage/#".to_owned(), own]).publish(["buzz"]).into())
    ///     }
    /// }
    /// ```
    fn joining(&mut self, session: &Session, joining: &Joining) -> impl Future<Output = Result<Join>> + Send {
        let _ = (session, joining);
        Absent::new()
    }

    /// A client has left for good: its last token ended, or it was sent away. [`Session::clients`] lists it no more. (At the end of the
    /// session [`close`](Self::close) comes, and not this for each client.)
    ///
    /// # Errors
    /// Logged; the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Game;
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Game) }
    ///     async fn left(&mut self, session: &Session, left: &Left) -> Result<()> {
    ///         session.publish("gone", left.client()).await
    ///     }
    /// }
    /// ```
    fn left(&mut self, session: &Session, left: &Left) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, left);
        Absent::new()
    }

    /// The MQTT connection of a client came up. It may come and go many times between [`joining`](Self::joining) and
    /// [`left`](Self::left). Told only where the broker is in the host.
    ///
    /// # Errors
    /// Logged; the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Game;
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Game) }
    ///     async fn connected(&mut self, session: &Session, client: &str) -> Result<()> {
    ///         session.publish_to(client, "welcome", "the game begins soon").await
    ///     }
    /// }
    /// ```
    fn connected(&mut self, session: &Session, client: &str) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, client);
        Absent::new()
    }

    /// The last MQTT connection of a client ended (not told where the same client took over with a new one); its last will, if any,
    /// came as a message before. Told only where the broker is in the host.
    ///
    /// # Errors
    /// Logged; the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Game;
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Game) }
    ///     async fn disconnected(&mut self, session: &Session, client: &str) -> Result<()> {
    ///         session.publish("away", client).await
    ///     }
    /// }
    /// ```
    fn disconnected(&mut self, session: &Session, client: &str) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, client);
        Absent::new()
    }

    /// A timer fired that was set with [`Session::once`] or [`Session::every`], before a restart of the host perhaps.
    ///
    /// # Errors
    /// Logged; the session goes on, and a timer that repeats does, too.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # use std::time::Duration;
    /// # struct Quiz;
    /// impl Conductor for Quiz {
    ///     type Config = ();
    ///     async fn create(session: &Session, _: ()) -> Result<Self> {
    ///         session.once("question", Duration::from_secs(10)).await?;
    ///         Ok(Quiz)
    ///     }
    ///     async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
    ///         match timer.name() {
    ///             "question" => session.publish("question", "…").await,
    ///             _ => Ok(()),
    ///         }
    ///     }
    /// }
    /// ```
    fn timer(&mut self, session: &Session, timer: &Timer) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, timer);
        Absent::new()
    }

    /// A client sent a message in this session; each accepted one once, in order per sender, wills included, the
    /// conductor's own not. Messages that come faster than they are handled are dropped once the session's mailbox is full
    /// (the host counts and logs them). Where this is not implemented, messages cost the session nothing.
    ///
    /// # Errors
    /// Logged; the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Echo;
    /// impl Conductor for Echo {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Echo) }
    ///     async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
    ///         session.publish("echo", message.payload()).await
    ///     }
    /// }
    /// ```
    fn message(&mut self, session: &Session, message: &Message) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, message);
        Absent::new()
    }

    /// The host's link to the MQTT broker came up or was lost. Told only where the settings name an external broker: after
    /// [`create`](Self::create) if the link is down then, and at each change; the same may be told twice.
    ///
    /// # Errors
    /// Logged; the session goes on.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Lamp { lit: bool }
    /// impl Conductor for Lamp {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp { lit: false }) }
    ///     async fn link(&mut self, session: &Session, link: Link) -> Result<()> {
    ///         // What was missed meanwhile is said again.
    ///         if link == Link::Up { session.publish("lit", if self.lit { "1" } else { "0" }).await?; }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn link(&mut self, session: &Session, link: Link) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, link);
        Absent::new()
    }

    /// The last event: the session ends, the host stops, or the session moves to a newer build of the plugin. It has 10 s; the tasks of
    /// this conductor end after it, and then it is dropped. What must go on is saved here at the latest.
    ///
    /// A session that ends while its conductor waits to be made again, after a restart, gets it made for this event where it has saved something:
    /// what it began elsewhere can be ended here. One that saved nothing is not made to be closed.
    ///
    /// # Errors
    /// Logged; the session ends, or moves, all the same.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # struct Game;
    /// impl Conductor for Game {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Game) }
    ///     async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
    ///         match reason {
    ///             CloseReason::HostStopping | CloseReason::Replaced => session.save(&"half time").await,
    ///             _ => session.publish("game", "over").qos(1).await,
    ///         }
    ///     }
    /// }
    /// ```
    fn close(&mut self, session: &Session, reason: CloseReason) -> impl Future<Output = Result<()>> + Send {
        let _ = (session, reason);
        Absent::new()
    }
}

/// What a hook that is not written returns. By this type the SDK knows which hooks a conductor has, so that the host need
/// not wake it for the others.
pub(crate) struct Absent<T>(PhantomData<fn() -> T>);

impl<T> Absent<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// What a hook answers that is not written.
pub(crate) trait Answer {
    fn answer() -> Self;
}

impl Answer for () {
    fn answer() -> Self {}
}

impl Answer for Join {
    fn answer() -> Self {
        Self::accept()
    }
}

impl<T: Answer> Future for Absent<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<T>> {
        Poll::Ready(Ok(T::answer()))
    }
}

/// Whether `hook` was written by the author. Both names come from the same compiler run, so equal types have equal names;
/// no type outside of this module can have this one's.
pub(crate) fn is_written<A, B, C, T, Fut: Future<Output = Result<T>>>(_: impl Fn(A, B, C) -> Fut) -> bool {
    type_name::<Fut>() != type_name::<Absent<T>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bare;
    impl Conductor for Bare {
        type Config = ();
        async fn create(_: &Session, (): ()) -> Result<Self> {
            Ok(Self)
        }
    }

    struct Full;
    impl Conductor for Full {
        type Config = ();
        async fn create(_: &Session, (): ()) -> Result<Self> {
            Ok(Self)
        }
        async fn joining(&mut self, _: &Session, _: &Joining) -> Result<Join> {
            Ok(Join::accept())
        }
        async fn left(&mut self, _: &Session, _: &Left) -> Result<()> {
            Ok(())
        }
        async fn connected(&mut self, _: &Session, _: &str) -> Result<()> {
            Ok(())
        }
        async fn disconnected(&mut self, _: &Session, _: &str) -> Result<()> {
            Ok(())
        }
        async fn timer(&mut self, _: &Session, _: &Timer) -> Result<()> {
            Ok(())
        }
        async fn message(&mut self, _: &Session, _: &Message) -> Result<()> {
            Ok(())
        }
        async fn link(&mut self, _: &Session, _: Link) -> Result<()> {
            Ok(())
        }
        async fn close(&mut self, _: &Session, _: CloseReason) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn hooks_that_are_not_written_are_known() {
        assert!(!is_written(Bare::message) && !is_written(Bare::link) && !is_written(Bare::close) && !is_written(Bare::joining));
        assert!(is_written(Full::message) && is_written(Full::link) && is_written(Full::close) && is_written(Full::joining));
    }
}
