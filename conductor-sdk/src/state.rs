//! What survives a restart: saved state, and timers.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use conductor_abi::wire::{SaveMeta, call, code};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, Session, methods::misfit, session::to_json};

/// State that was saved by [`Session::save`], handed to [`Conductor::restore`](crate::Conductor::restore).
///
/// ```
/// # use conductor_sdk::{Result, Saved};
/// # fn f(saved: &Saved) -> Result<Vec<u32>> {
/// match saved.version() {
///     // An earlier build kept a single score, and gave no version.
///     0 => Ok(vec![saved.parse::<u32>()?]),
///     _ => saved.parse(),
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    version: u32,
    bytes: Vec<u8>,
}

impl Saved {
    pub(crate) fn new(version: u32, bytes: Vec<u8>) -> Self {
        Self { version, bytes }
    }

    /// The number that was given with it; 0 where none was.
    ///
    /// ```
    /// # fn f(saved: &conductor_sdk::Saved) -> bool { saved.version() < 2 }
    /// ```
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The bytes.
    ///
    /// ```
    /// # fn f(saved: &conductor_sdk::Saved) -> usize { saved.bytes().len() }
    /// ```
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value that [`Session::save`] was given.
    ///
    /// # Errors
    /// Where the bytes are not JSON of this type, with the place in them.
    ///
    /// ```
    /// # use conductor_sdk::{Result, Saved};
    /// # #[derive(serde::Deserialize)] struct Scores;
    /// # fn f(saved: &Saved) -> Result<()> {
    /// let scores: Scores = saved.parse()?;
    /// # Ok(()) }
    /// ```
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(|e| {
            Error::of(code::INTERNAL, format!("the saved state (version {}) does not fit{}", self.version, misfit::<T>(&self.bytes, &e)))
        })
    }
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may hold what no log should.
        f.debug_struct("Saved").field("version", &self.version).field("bytes", &self.bytes.len()).finish()
    }
}

/// State about to be saved: made by [`Session::save`] and [`Session::save_bytes`], saved by `.await`: on any thread, in the order in
/// which they are awaited, so the last counts.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # async fn f(session: &Session) -> Result<()> {
/// session.save(&[3, 2]).version(1).await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is saved until it is awaited"]
pub struct Save<'a> {
    session: &'a Session,
    bytes: Result<Vec<u8>>,
    meta: SaveMeta,
}

impl Save<'_> {
    /// A number for what the state looks like, so that a later build of the plugin can read it. 0 unless set.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.save(&"idle").version(2).await
    /// # }
    /// ```
    pub fn version(mut self, version: u32) -> Self {
        self.meta.version = version;
        self
    }
}

impl<'a> IntoFuture for Save<'a> {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let bytes = self.bytes?;
            self.session.call(call::SAVE, "", "", &to_json(&self.meta)?, &bytes).await.map(drop)
        })
    }
}

impl Session {
    /// Keeps `state` (as JSON) in the host's store, in place of what was saved before. **Durable when it returns**: after a crash or a
    /// restart [`Conductor::restore`](crate::Conductor::restore) gets it. It costs a disk write: save what matters, when it matters.
    ///
    /// There is one exception: while [`Conductor::create`](crate::Conductor::create) makes a **new** session, nothing of that session is
    /// stored yet. What is saved then is durable when the session has been made (before its administrator is told), and gone where `create` fails. The same
    /// is true of timers, labels and rules for joining; and of all four where a conductor is made again **after a restart**, and where a session **moves**
    /// to a newer build: what `create` or `restore` changes there is durable when the conductor is made, and gone where it is not, so that the next try,
    /// or the old build, goes on from what was there before.
    ///
    /// In [`Conductor::close`](crate::Conductor::close) it works where the host stops or newer code takes over; where the session ends, there is
    /// nothing to save for.
    ///
    /// # Errors
    /// State that cannot be JSON or is larger than the host allows (1 MiB unless its settings say otherwise), a store that cannot be
    /// written, a closed session. What was saved before is still there then. Of a handler whose deadline passes while it waits for this, the
    /// state may have been saved or not.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// #[derive(Serialize, Deserialize)]
    /// struct Scores { home: u32, away: u32 }
    /// # async fn f(session: &Session, scores: &Scores) -> Result<()> {
    /// session.save(scores).await?;
    /// # Ok(()) }
    /// ```
    pub fn save(&self, state: &impl Serialize) -> Save<'_> {
        let bytes = serde_json::to_vec(state).map_err(|e| Error::of(code::REFUSED, format!("the state cannot be JSON: {e}")));
        Save { session: self, bytes, meta: SaveMeta::default() }
    }

    /// As [`save`](Self::save), for bytes of any form.
    ///
    /// # Errors
    /// Those of [`save`](Self::save).
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session, image: Vec<u8>) -> Result<()> {
    /// session.save_bytes(image).await
    /// # }
    /// ```
    pub fn save_bytes(&self, bytes: impl Into<Vec<u8>>) -> Save<'_> {
        Save { session: self, bytes: Ok(bytes.into()), meta: SaveMeta::default() }
    }

    /// Sets a timer that fires once: [`Conductor::timer`](crate::Conductor::timer) is called with `name` after `delay`, in turn
    /// with all other events, however long the conductor is busy with those. A timer of that name is replaced. **It survives a restart**: one
    /// that was due meanwhile fires then, at once, and [says how late](Timer::late) it is. So does one of a session that had no conductor
    /// for a while, and it makes that of a session whose conductor is made at its first event. It is taken away after its event was handled, with an error too; where the host dies before that, it
    /// fires again. A session may have 1,024 timers. The delay is measured on the host's clock: where somebody sets that, the timer fires earlier or later (a clock
    /// that is set forward is noticed within a minute).
    ///
    /// # Errors
    /// Too many timers, a name longer than 128 bytes, a store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.once("round", std::time::Duration::from_secs(30)).await
    /// # }
    /// ```
    pub async fn once(&self, name: &str, delay: Duration) -> Result<()> {
        self.set_timer(name, delay, None).await
    }

    /// Sets a timer that fires each `period`, first after one. Else as [`once`](Self::once). The times at which it is due do not
    /// drift; of those that pass while the host is down or the conductor is busy, one fires: the last, and then it goes on in its own rhythm. With a period of a
    /// minute or more, what was told is stored each time; one with a shorter period may be told a time again if the host is back before the next.
    ///
    /// # Errors
    /// Those of [`once`](Self::once), and a period below 10 ms.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.every("tick", std::time::Duration::from_secs(1)).await
    /// # }
    /// ```
    pub async fn every(&self, name: &str, period: Duration) -> Result<()> {
        self.set_timer(name, period, Some(period)).await
    }

    async fn set_timer(&self, name: &str, after: Duration, every: Option<Duration>) -> Result<()> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut meta = conductor_abi::wire::TimerMeta::default();
        (meta.after, meta.every) = (millis(after), every.map(millis));
        self.call(call::TIMER, name, "", &to_json(&meta)?, &[]).await.map(drop)
    }

    /// Removes the timer of that name, if there is one. It does not fire any more, unless it has fired already and its event
    /// waits for its turn.
    ///
    /// # Errors
    /// A store that cannot be written, a closed session.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// # async fn f(session: &Session) -> Result<()> {
    /// session.cancel_timer("round").await
    /// # }
    /// ```
    pub async fn cancel_timer(&self, name: &str) -> Result<()> {
        self.call(call::CANCEL_TIMER, name, "", &[], &[]).await.map(drop)
    }
}

/// A timer that fired; see [`Conductor::timer`](crate::Conductor::timer).
///
/// ```
/// # fn f(timer: &conductor_sdk::Timer) {
/// if timer.name() == "round" { /* … */ }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timer {
    name: String,
    late: Duration,
}

impl Timer {
    pub(crate) fn new(name: &str, late: u64) -> Self {
        Self { name: name.to_owned(), late: Duration::from_millis(late) }
    }

    /// The name it was set with.
    ///
    /// ```
    /// # fn f(timer: &conductor_sdk::Timer) -> bool { timer.name() == "tick" }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long after it was due it fires: long after a restart, a few milliseconds otherwise.
    ///
    /// ```
    /// # fn f(timer: &conductor_sdk::Timer) -> bool { timer.late() > std::time::Duration::from_secs(60) }
    /// ```
    #[must_use]
    pub fn late(&self) -> Duration {
        self.late
    }
}
