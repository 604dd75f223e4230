//! Write conductors for `conductor-host`.
//!
//! A *session* brings a few devices together; its *conductor* is the object that leads it: it answers the administrator's
//! requests, hears and sends the session's messages, and runs its own loop. You write it in safe Rust as a shared library
//! (a *plugin*), name the file in the host's settings, and the host makes one conductor per session. A plugin built with
//! version 1.0 of this crate loads in every later 1.x host.
//!
//! Begin with [`tutorial`], "your first conductor in fifteen minutes"; or read on.
//!
//! # The life of a conductor
//! 1. The host loads the plugin at its start, reads which conductors it offers, with their methods and hooks, and checks the type's `config` against
//!    the schema of [`Conductor::Config`]; [secrets](Secret) in it are fetched.
//! 2. An administrator creates a session of a type whose settings name your plugin: [`Conductor::create`] runs, with the
//!    type's `config`. (With [`Conductor::LAZY`] it runs at the session's first event.)
//! 3. Events come one at a time, in order, each with a deadline:
//!    - a device asks to join ([`Conductor::joining`]): accept it, say what it may do, or refuse it. Then its MQTT connection comes and
//!      goes ([`Conductor::connected`], [`Conductor::disconnected`]), until it has left for good ([`Conductor::left`]);
//!    - a client sends a message ([`Conductor::message`]);
//!    - an administrator asks for one of [`Conductor::methods`];
//!    - a timer fires ([`Conductor::timer`]);
//!    - the way to the broker is lost or comes back, where that is outside of the host ([`Conductor::link`]).
//! 4. At any time, from anywhere, the [`Session`] handle publishes, looks at clients, sleeps, spawns tasks, sets timers, saves, closes.
//! 5. [`Conductor::close`] runs when the session is closed, the host stops, or the session moves to a newer build of the plugin; then its
//!    tasks end and it is dropped.
//! 6. After a restart of the host, and after a move, the session is still there: [`Conductor::restore`] gets the state that was saved last;
//!    without any, `create` runs again. Timers go on.
//!
//! # A whole plugin
//! `Cargo.toml` says `crate-type = ["cdylib"]` and depends on `conductor-host-sdk` (and on `serde` and `schemars` for the
//! derives). `src/lib.rs`:
//!
//! ```
//! use conductor_sdk::prelude::*;
//!
//! struct Greeter { greeted: u64 }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet { name: String }
//!
//! impl Conductor for Greeter {
//!     type Config = ();
//!     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Self { greeted: 0 }) }
//!     fn methods() -> Methods<Self> { Methods::new().on("greet", Self::greet) }
//! }
//!
//! impl Greeter {
//!     async fn greet(&mut self, session: &Session, p: Greet) -> Result<String> {
//!         self.greeted += 1;
//!         session.publish("greetings", &p.name).await?;
//!         Ok(format!("hello, {}", p.name))
//!     }
//! }
//!
//! export_conductors! { "greeter" => Greeter }
//! # fn main() {}
//! ```
//!
//! Test it without a host: the feature `testing` has a rig that drives the very object that the host would.
//!
//! # Services
//! A plugin may offer [`Service`]s beside conductors or instead of them: app-wide objects without a session, with an administrator's rights,
//! made when the host starts. See there, and [`export_plugin!`].
//!
//! # Order, threads, errors, delivery
//! - **Order.** `create` (or `restore`) comes first and `close` last; between them events come in the order in which they happened to the
//!   session, one at a time. `joining` comes before that client's `connected`, a last will before `disconnected`, and of a client that is sent away
//!   `left` after the end of its connections (where its grant expires, the two come in any order). A client that leaves while a message of it waits is still heard first. A session that moves to a newer build goes on
//!   with another conductor, once the one before has closed ([`CloseReason::Replaced`]) and is dropped; what happens meanwhile waits for the new one.
//! - **Threads.** All your code runs on the host's threads for plugins, any of them, never two events of one session at once; tasks that you
//!   spawn run beside them. No thread is yours: what belongs to one (thread-locals, say) may be another's at the next event.
//! - **Errors.** A request's error goes to who asked, a `joining`'s error fails the join; those of the other hooks are logged. In each case the
//!   session goes on. An error of `create` means that there is no session, one of `restore` that it is kept without a conductor, and tried again. After the deadline the
//!   handler's future is dropped where it waits, and the next event comes. A panic ends the conductor, and its session is *faulted*: it is told
//!   nothing more, requests say why, and joins are refused where there is a `joining` and go on otherwise.
//! - **Delivery.** A message is heard once, in the order of its sender, and not at all where the session's mailbox (1,024 events) is full of
//!   others, the conductor is not there, or the host stops: what must not be lost, a device says until it is answered. With a broker outside of
//!   the host a message may be heard twice where MQTT's quality of service allows that, and nobody knows its sender. What you publish is with the
//!   broker when the call returns; whether a device gets it is what its quality of service promises.
//!
//! # tokio
//! The host gives what a conductor usually needs: [`Session::sleep`], [`Session::spawn`], timers. For libraries that need tokio (reqwest, say) there is the
//! feature `tokio`: a conductor that says `const TOKIO: bool = true` runs inside a runtime of its library, one thread. Of a library none of whose conductors
//! says so, nothing starts, even where cargo united features with one that does.
//!
//! # Rules
//! - Do not block the thread in a handler: no `std::thread::sleep`, no endless loop. The host replaces a stuck thread, and
//!   runs such a type apart from the others from then on.
//! - A panic is caught and ends the conductor, not the host. A plugin must be built with `panic = "unwind"`.
//! - Log with plain [`tracing`]: lines arrive in the host's log with the session's id.
//!
//! # Trust
//! A plugin is part of the host's process and **has all its rights**: it can read its keys, its memory and its files, and open what the host may open. The host
//! contains a plugin's *mistakes*: a panic, an error, a slow or blocked handler, a task that never ends, a reply that is too large. Each of them costs one session,
//! or time of one type. It cannot contain what ends a process: a segmentation fault (in `unsafe` or in a C library), `abort` and `exit`, a stack
//! overflow, memory that runs out. And nothing protects it from what a plugin does on purpose. Offer plugins that you would run yourself.

mod conductor;
mod error;
mod export;
mod grants;
mod guard;
mod host;
mod logging;
mod members;
mod message;
mod methods;
mod runtime;
mod secret;
mod service;
mod session;
mod sessions;
mod state;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tutorial;

pub use conductor::Conductor;
pub use error::{Error, Result};
pub use grants::{Grants, Join, Joining, Leave, Left};
pub use host::Host;
pub use message::{Client, CloseReason, Link, Message};
pub use methods::{Methods, Request};
pub use secret::Secret;
pub use service::Service;
pub use session::{Publish, Session};
pub use sessions::{NewSession, SessionClosed, SessionInfo, SessionOpened, SessionState};
pub use state::{Save, Saved, Timer};
pub use task::{Task, TaskOutput};

pub use schemars;
pub use serde;
pub use serde_json;
pub use tracing;

/// All that a plugin usually needs: `use conductor_sdk::prelude::*;`
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// fn describe(session: &Session) -> String { session.id().to_owned() }
/// ```
pub mod prelude {
    pub use crate::{
        Client, CloseReason, Conductor, Error, Grants, Host, Join, Joining, Leave, Left, Link, Message, Methods, NewSession, Request,
        Result, Saved, Secret, Service, Session, SessionClosed, SessionInfo, SessionOpened, SessionState, Task, Timer, export_conductors,
        export_plugin, tracing,
    };
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// For `export_plugin!` alone; not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{Entry, Offer, Offers, offer, offer_service};
    pub use conductor_abi::{abi_stable::library::LibHeader, contract::header};
}
