//! The conductors of the tests of upgrades. Which version a file is, is a word in it that the tests write over in a copy of the built
//! file: so one build makes as many versions as there are words.
#![forbid(unsafe_code)]

mod lasting;

use std::{
    hint::black_box,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use conductor_sdk::prelude::*;

/// The word. `hopeless` makes no conductor; `broken` makes none and changes its session first, as `eager` does, which makes one; `panicking`
/// panics where it is to restore; `slow` never ends restoring.
#[used]
static VERSION: [u8; 28] = *b"plugin-version=one          ";

fn version() -> &'static str {
    let bytes: &'static [u8; 28] = black_box(&VERSION);
    std::str::from_utf8(bytes).unwrap_or_default().trim_start_matches("plugin-version=").trim_end()
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    /// Part of each answer.
    #[serde(default)]
    name: String,
}

struct TellsItsDrop;

impl Drop for TellsItsDrop {
    fn drop(&mut self) {
        tracing::info!("the task is gone");
    }
}

static LENT: Mutex<Option<Session>> = Mutex::new(None);

/// Changes all that a conductor can change about itself; what it has saved last.
async fn begin(session: &Session) -> Result<u32> {
    session.save(&998).await?;
    session.set_labels([("made_by", version())]).await?;
    session.lock_joining(true).await?;
    session.once("begun", Duration::from_millis(1)).await?;
    session.once("called off", Duration::from_millis(1)).await?;
    session.cancel_timer("called off").await?;
    session.save(&999).await?;
    Ok(999)
}

/// Counts what it is asked to count.
struct Counter {
    count: u32,
    /// The timers it was told of.
    told: Vec<String>,
    name: String,
}

impl Conductor for Counter {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        let count = if ["broken", "eager"].contains(&version()) { begin(session).await? } else { 0 };
        if ["broken", "hopeless"].contains(&version()) {
            return Err(Error::new("this version makes no conductor"));
        }
        Ok(Self { count, told: Vec::new(), name: config.name })
    }

    async fn restore(session: &Session, config: Config, saved: Saved) -> Result<Self> {
        match version() {
            "broken" | "hopeless" => {
                // What an attempt that fails has saved is not for the version before.
                session.save(&999).await?;
                return Err(Error::new("this version restores nothing"));
            }
            "panicking" => panic!("this version panics"),
            "slow" => session.sleep(Duration::from_secs(3600)).await?,
            _ => {}
        }
        Ok(Self { count: saved.parse()?, told: Vec::new(), name: config.name })
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("version", Self::version)
            .on("count", Self::count)
            .on("save", Self::save)
            .on("tick_in", Self::tick_in)
            .on("ticks", Self::ticks)
            .on("told", Self::told)
            .on("spawn", Self::spawn)
            .on("lend", Self::lend)
            .on("use_lent", Self::use_lent)
            .on("stay", Self::stay)
            .on("crash", Self::crash)
    }

    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        session.publish("heard", format!("{} {}", version(), message.text()?)).await
    }

    async fn timer(&mut self, _: &Session, timer: &Timer) -> Result<()> {
        self.told.push(timer.name().to_owned());
        Ok(())
    }

    async fn close(&mut self, session: &Session, reason: CloseReason) -> Result<()> {
        if reason == CloseReason::Replaced && self.count > 0 {
            session.save(&self.count).await?;
            session.publish("moved", version()).await?;
        }
        Ok(())
    }
}

impl Counter {
    async fn version(&mut self, _: &Session, (): ()) -> Result<String> {
        Ok(format!("{}{}", self.name, version()))
    }

    async fn count(&mut self, _: &Session, (): ()) -> Result<u32> {
        self.count += 1;
        Ok(self.count)
    }

    async fn save(&mut self, session: &Session, (): ()) -> Result<()> {
        session.save(&self.count).await
    }

    async fn tick_in(&mut self, session: &Session, millis: u64) -> Result<()> {
        session.once("tick", Duration::from_millis(millis)).await
    }

    async fn ticks(&mut self, _: &Session, (): ()) -> Result<usize> {
        Ok(self.told.len())
    }

    async fn told(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(self.told.clone())
    }

    /// Two tasks that never end by themselves: one publishes the version, the other says when it is gone.
    async fn spawn(&mut self, session: &Session, (): ()) -> Result<()> {
        session.spawn(async {
            let _told = TellsItsDrop;
            std::future::pending::<()>().await;
            Ok(())
        })?;
        let of_task = session.clone();
        session.spawn(async move {
            while of_task.publish("beat", version()).await.is_ok() {
                of_task.sleep(Duration::from_millis(5)).await?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Leaves the handle on its session to others of this build.
    async fn lend(&mut self, session: &Session, (): ()) -> Result<()> {
        *LENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(())
    }

    /// Publishes in the session whose handle was left.
    async fn use_lent(&mut self, _: &Session, (): ()) -> Result<()> {
        let lent = LENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lent.ok_or_else(|| Error::new("nothing was lent"))?.publish("lent", "").await
    }

    /// Takes this many milliseconds.
    async fn stay(&mut self, session: &Session, millis: u64) -> Result<()> {
        tracing::info!("staying");
        session.sleep(Duration::from_millis(millis)).await
    }

    async fn crash(&mut self, _: &Session, (): ()) -> Result<()> {
        panic!("as asked")
    }
}

/// Has no ear for timers, and sets one.
struct Deaf;

impl Conductor for Deaf {
    type Config = ();

    async fn create(session: &Session, (): ()) -> Result<Self> {
        session.once("tick", Duration::from_millis(1)).await?;
        session.save(&7).await?;
        Ok(Self)
    }

    async fn restore(_: &Session, (): (), _: Saved) -> Result<Self> {
        Ok(Self)
    }
}

/// Made at its first event; says when it is closed, and what it knows then.
struct Lazy {
    kept: u32,
}

impl Conductor for Lazy {
    type Config = ();
    const LAZY: bool = true;

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self { kept: 0 })
    }

    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        Ok(Self { kept: saved.parse()? })
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("version", Self::version).on("keep", Self::keep)
    }

    async fn close(&mut self, _: &Session, reason: CloseReason) -> Result<()> {
        tracing::info!("the lazy one that kept {} closes: {reason:?}", self.kept);
        Ok(())
    }
}

impl Lazy {
    async fn version(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok(version())
    }

    async fn keep(&mut self, session: &Session, kept: u32) -> Result<()> {
        self.kept = kept;
        session.save(&kept).await
    }
}

export_conductors! {
    "counter" => Counter,
    "deaf" => Deaf,
    "lazy" => Lazy,
    "lasting" => lasting::Lasting,
    "lasting_lazy" => lasting::LastingLazy,
    "doorkeeper" => lasting::Doorkeeper,
}
