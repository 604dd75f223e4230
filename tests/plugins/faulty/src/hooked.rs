//! The conductor `hooked`: has every hook, and goes wrong in the one that it is told.

use std::{collections::BTreeMap, path::PathBuf, thread, time::Duration};

use conductor_sdk::prelude::*;

/// How it goes wrong.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    Panic,
    Error,
    /// Its future never ends.
    Hang,
    /// Blocks its thread until there is such a file.
    Block(PathBuf),
}

impl Fault {
    async fn happen(self, place: &str) -> Result<()> {
        match self {
            Self::Panic => panic!("in {place}"),
            Self::Error => Err(Error::new(format!("{place} said no"))),
            Self::Hang => std::future::pending().await,
            Self::Block(until) => {
                while !until.exists() {
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            }
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Order {
    /// The name of the hook, `request`, `restore` or `drop`.
    at: String,
    fault: Fault,
}

pub(crate) struct Hooked {
    ordered: BTreeMap<String, Fault>,
}

impl Hooked {
    async fn go(&mut self, place: &str) -> Result<()> {
        match self.ordered.remove(place) {
            Some(fault) => fault.happen(place).await,
            None => Ok(()),
        }
    }

    async fn order(&mut self, session: &Session, order: Order) -> Result<()> {
        match order.at.as_str() {
            "restore" => session.save(&order.fault).await?,
            "timer" => session.once("t", Duration::from_millis(1)).await?,
            _ => {}
        }
        self.ordered.insert(order.at, order.fault);
        Ok(())
    }

    async fn fine(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        self.go("request").await?;
        Ok("fine")
    }

    /// A timer of that name after milliseconds.
    async fn once(&mut self, session: &Session, (name, millis): (String, u64)) -> Result<()> {
        session.once(&name, Duration::from_millis(millis)).await
    }
}

impl Conductor for Hooked {
    type Config = ();

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self { ordered: BTreeMap::new() })
    }

    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        saved.parse::<Fault>()?.happen("restore").await?;
        Ok(Self { ordered: BTreeMap::new() })
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("order", Self::order).on("fine", Self::fine).on("once", Self::once)
    }

    async fn joining(&mut self, _: &Session, _: &Joining) -> Result<Join> {
        self.go("joining").await?;
        Ok(Join::accept())
    }

    async fn left(&mut self, _: &Session, _: &Left) -> Result<()> {
        self.go("left").await
    }

    async fn connected(&mut self, _: &Session, _: &str) -> Result<()> {
        self.go("connected").await
    }

    async fn disconnected(&mut self, _: &Session, _: &str) -> Result<()> {
        self.go("disconnected").await
    }

    async fn message(&mut self, _: &Session, _: &Message) -> Result<()> {
        self.go("message").await
    }

    async fn timer(&mut self, _: &Session, timer: &Timer) -> Result<()> {
        tracing::info!("timer {} was told", timer.name());
        self.go("timer").await
    }

    async fn close(&mut self, _: &Session, _: CloseReason) -> Result<()> {
        self.go("close").await
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        assert!(!self.ordered.contains_key("drop"), "in drop");
    }
}
