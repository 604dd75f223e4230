//! The conductors `lasting` and `lasting_lazy` of the tests of restarts: they keep a number and timers, and say what they were told since they
//! were made.

use std::{path::PathBuf, time::Duration};

use conductor_sdk::prelude::*;

use crate::version;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// While there is such a file, no conductor can be made: something outside is down.
    #[serde(default)]
    down: Option<PathBuf>,
    /// While there is such a file, making one blocks its thread.
    #[serde(default)]
    blocks: Option<PathBuf>,
    /// While there is such a file, none is done being made.
    #[serde(default)]
    hangs: Option<PathBuf>,
}

impl Config {
    async fn look(&self, session: &Session) -> Result<()> {
        if self.down.as_ref().is_some_and(|file| file.exists()) {
            return Err(Error::new("what it needs is down"));
        }
        while self.blocks.as_ref().is_some_and(|file| file.exists()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        while self.hangs.as_ref().is_some_and(|file| file.exists()) {
            session.sleep(Duration::from_millis(5)).await?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Common {
    /// Version and value of what was restored.
    restored: Option<(u32, u64)>,
    /// Names and milliseconds of lateness.
    told: Vec<(String, u64)>,
    heard: u64,
}

impl Common {
    fn restored(saved: &Saved) -> Result<Self> {
        match (version(), saved.version()) {
            ("broken", _) => Err(Error::new("this version restores nothing")),
            ("panicking", _) => panic!("this version panics"),
            (_, version) => Ok(Self { restored: Some((version, saved.parse()?)), ..Self::default() }),
        }
    }

    fn tell(&mut self, timer: &Timer) {
        let late = u64::try_from(timer.late().as_millis()).unwrap_or(u64::MAX);
        tracing::info!("told {} late by {late}", timer.name());
        self.told.push((timer.name().to_owned(), late));
    }
}

/// Both share all but when they are made.
macro_rules! conductor {
    ($name:ident, $lazy:literal) => {
        pub(crate) struct $name(Common);

        impl Conductor for $name {
            type Config = Config;
            const LAZY: bool = $lazy;

            async fn create(session: &Session, config: Config) -> Result<Self> {
                config.look(session).await?;
                Ok(Self(Common::default()))
            }

            async fn restore(session: &Session, config: Config, saved: Saved) -> Result<Self> {
                config.look(session).await?;
                Ok(Self(Common::restored(&saved)?))
            }

            fn methods() -> Methods<Self> {
                Methods::new()
                    .on("once", Self::once)
                    .on("every", Self::every)
                    .on("many", Self::many)
                    .on("cancel", Self::cancel)
                    .on("told", Self::told)
                    .on("save", Self::save)
                    .on("restored", Self::restored)
                    .on("heard", Self::heard)
            }

            async fn message(&mut self, _: &Session, _: &Message) -> Result<()> {
                self.0.heard += 1;
                Ok(())
            }

            async fn timer(&mut self, _: &Session, timer: &Timer) -> Result<()> {
                self.0.tell(timer);
                Ok(())
            }

            async fn close(&mut self, _: &Session, reason: CloseReason) -> Result<()> {
                tracing::info!("one that lasts closes: {reason:?}");
                Ok(())
            }
        }

        impl $name {
            async fn once(&mut self, session: &Session, (name, millis): (String, u64)) -> Result<()> {
                session.once(&name, Duration::from_millis(millis)).await
            }

            async fn every(&mut self, session: &Session, (name, millis): (String, u64)) -> Result<()> {
                session.every(&name, Duration::from_millis(millis)).await
            }

            /// So many that fire once, after milliseconds.
            async fn many(&mut self, session: &Session, (count, millis): (u32, u64)) -> Result<()> {
                for number in 0..count {
                    session.once(&format!("t{number}"), Duration::from_millis(millis)).await?;
                }
                Ok(())
            }

            async fn cancel(&mut self, session: &Session, name: String) -> Result<()> {
                session.cancel_timer(&name).await
            }

            async fn told(&mut self, _: &Session, (): ()) -> Result<Vec<(String, u64)>> {
                Ok(self.0.told.clone())
            }

            async fn save(&mut self, session: &Session, (version, value): (u32, u64)) -> Result<()> {
                session.save(&value).version(version).await
            }

            async fn restored(&mut self, _: &Session, (): ()) -> Result<Option<(u32, u64)>> {
                Ok(self.0.restored)
            }

            async fn heard(&mut self, _: &Session, (): ()) -> Result<u64> {
                Ok(self.0.heard)
            }
        }
    };
}

conductor!(Lasting, false);
conductor!(LastingLazy, true);

/// As `lasting`, with a say in who joins.
pub(crate) struct Doorkeeper;

impl Conductor for Doorkeeper {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        config.look(session).await?;
        Ok(Self)
    }

    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        Ok(if joining.client() == "bad" { Join::refuse("not you") } else { Join::accept() })
    }
}
