//! The conductor `hooked`: has every hook, and goes wrong in the one that it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    thread,
    time::Duration,
};

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
    turns: Arc<Turns>,
}

impl Hooked {
    fn new() -> Self {
        let turns = Arc::<Turns>::default();
        turns.note_thread();
        Self { ordered: BTreeMap::new(), turns }
    }

    async fn go(&mut self, place: &str) -> Result<()> {
        let _turn = Turn::take(&self.turns).await;
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

    /// How many events came so far, how many of them while another was not over, and on which threads.
    async fn turns(&mut self, _: &Session, (): ()) -> Result<(usize, usize, BTreeSet<String>)> {
        let Turns { taken, overlaps, threads, .. } = &*self.turns;
        Ok((taken.load(SeqCst), overlaps.load(SeqCst), threads.lock().map_err(|e| Error::new(e.to_string()))?.clone()))
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
        Ok(Self::new())
    }

    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        saved.parse::<Fault>()?.happen("restore").await?;
        Ok(Self::new())
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("order", Self::order).on("fine", Self::fine).on("once", Self::once).on("turns", Self::turns)
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

/// Whether events come one at a time, and where.
#[derive(Default)]
struct Turns {
    inside: AtomicUsize,
    taken: AtomicUsize,
    overlaps: AtomicUsize,
    threads: Mutex<BTreeSet<String>>,
}

impl Turns {
    fn note_thread(&self) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).insert(thread_name());
    }
}

/// An event that is not over.
struct Turn(Arc<Turns>);

impl Turn {
    /// Gives others several chances to come between.
    async fn take(turns: &Arc<Turns>) -> Self {
        turns.taken.fetch_add(1, SeqCst);
        if turns.inside.fetch_add(1, SeqCst) > 0 {
            turns.overlaps.fetch_add(1, SeqCst);
        }
        let (turn, mut chances) = (Self(turns.clone()), 3);
        poll_fn(|cx| {
            turns.note_thread();
            chances -= 1;
            cx.waker().wake_by_ref();
            if chances == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
    }
}

/// As the system knows it: a library does not see the name that the program gave.
fn thread_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default().trim().to_owned()
}

impl Drop for Hooked {
    fn drop(&mut self) {
        tracing::info!("dropped on a thread {:?}", thread_name());
        assert!(!self.ordered.contains_key("drop"), "in drop");
    }
}
