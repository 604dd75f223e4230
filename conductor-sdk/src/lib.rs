//! Write conductors for `conductor-host`.
//!
//! A *session* brings a few devices together; its *conductor* is the object that leads it: it answers the administrator's
//! requests, hears and sends the session's messages, and runs its own loop. You write it in safe Rust as a shared library
//! (a *plugin*), name the file in the host's settings, and the host makes one conductor per session. A plugin built with
//! version 1.0 of this crate loads in every later 1.x host.
//!
//! # The life of a conductor
//! 1. The host loads the plugin at its start and reads which conductors it offers, with their methods and hooks.
//! 2. An administrator creates a session of a type whose settings name your plugin: [`Conductor::create`] runs, with the
//!    type's `config`. (With [`Conductor::LAZY`] it runs at the session's first event.)
//! 3. Events come one at a time, in order: a request for one of [`Conductor::methods`], a message of a client
//!    ([`Conductor::message`]). Each has a deadline.
//! 4. At any time, from anywhere, the [`Session`] handle publishes, looks at clients, sleeps, spawns tasks, closes.
//! 5. [`Conductor::close`] runs when the session is closed or the host stops; then its tasks end and it is dropped.
//! 6. After a restart of the host the session is still there, and `create` runs again.
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
//! # Rules
//! - Do not block the thread in a handler: no `std::thread::sleep`, no endless loop. The host replaces a stuck thread, and
//!   runs such a type apart from the others from then on.
//! - A panic is caught and ends the conductor, not the host. A plugin must be built with `panic = "unwind"`.
//! - Log with plain [`tracing`]: lines arrive in the host's log with the session's id.
//! - A plugin runs with all rights of the host: nothing protects the host from what it does on purpose.

mod conductor;
mod error;
mod export;
mod guard;
mod logging;
mod message;
mod methods;
mod session;
mod task;
#[cfg(feature = "testing")]
pub mod testing;

pub use conductor::Conductor;
pub use error::{Error, Result};
pub use message::{Client, CloseReason, Link, Message};
pub use methods::Methods;
pub use session::{Publish, Session};
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
    pub use crate::{Client, CloseReason, Conductor, Error, Link, Message, Methods, Result, Session, Task, export_conductors, tracing};
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// For `export_conductors!` alone; not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{Entry, Offer, Offers, offer};
    pub use conductor_abi::{abi_stable::library::LibHeader, contract::header};
}
