//! The conductor `measured`: its methods do next to nothing, so that what is measured is the way to them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use conductor_sdk::prelude::*;

/// The session of the conductor that was made first in this library: for calls of the methods without the contract.
pub static SESSION: OnceLock<Session> = OnceLock::new();

/// Counts its requests.
#[derive(Debug, Default)]
pub struct Measured {
    asked: u64,
}

/// What is added.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Add {
    /// One number.
    pub a: u64,
    /// The other.
    pub b: u64,
}

impl Conductor for Measured {
    type Config = ();

    async fn create(session: &Session, (): ()) -> Result<Self> {
        // Of several, any will do.
        let _ = SESSION.set(session.clone());
        Ok(Self::default())
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("count", Self::count).on("add", Self::add).on("now", Self::now).on("publish", Self::publish)
    }
}

impl Measured {
    /// How often it was asked.
    ///
    /// # Errors
    /// None.
    pub async fn count(&mut self, _: &Session, (): ()) -> Result<u64> {
        self.asked += 1;
        Ok(self.asked)
    }

    /// The sum.
    ///
    /// # Errors
    /// None.
    pub async fn add(&mut self, _: &Session, add: Add) -> Result<u64> {
        Ok(add.a.wrapping_add(add.b))
    }

    /// Asks the host for the time this often.
    async fn now(&mut self, session: &Session, times: u64) -> Result<()> {
        for _ in 0..times {
            std::hint::black_box(session.now());
        }
        Ok(())
    }

    /// Publishes this often.
    async fn publish(&mut self, session: &Session, times: u64) -> Result<()> {
        for _ in 0..times {
            session.publish("name", b"payload").await?;
        }
        Ok(())
    }
}

export_conductors! { "measured" => Measured }
