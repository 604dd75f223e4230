//! tokio in a conductor, by the rig. (The same with a real host: `tests/tests/tokio_plugins.rs`.)

use std::{sync::Mutex, time::Duration};

use crate::{Conductor, Methods, Result, Session, testing::Rig};

/// Says at its drop whether tokio is there.
struct Witness;

static DROPS: Mutex<Vec<bool>> = Mutex::new(Vec::new());

impl Drop for Witness {
    fn drop(&mut self) {
        DROPS.lock().expect("no panic holds it").push(tokio::runtime::Handle::try_current().is_ok());
    }
}

struct User<const TOKIO: bool> {
    /// Dropped with the conductor.
    own: Option<Witness>,
}

impl<const TOKIO: bool> Conductor for User<TOKIO> {
    type Config = ();
    const TOKIO: bool = TOKIO;
    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self { own: None })
    }
    fn methods() -> Methods<Self> {
        Methods::new().on("listen", Self::listen).on("spawn", Self::spawn).on("task", Self::task)
    }
}

impl<const TOKIO: bool> User<TOKIO> {
    async fn listen(&mut self, _: &Session, (): ()) -> Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let waited = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(waited.is_err(), "nobody connects");
        Ok(())
    }

    /// A task of tokio's that uses the session.
    async fn spawn(&mut self, session: &Session, (): ()) -> Result<bool> {
        let of_task = session.clone();
        tokio::spawn(async move { of_task.publish("from", "tokio").await }).await??;
        Ok(tokio::spawn(async { panic!("in a task of tokio's") }).await.is_err_and(|error| error.is_panic()))
    }

    /// A task of the session's, that waits on tokio and ends with the session.
    async fn task(&mut self, session: &Session, (): ()) -> Result<()> {
        self.own = Some(Witness);
        let witness = Witness;
        session.spawn(async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(witness);
        })?;
        Ok(())
    }
}

#[test]
fn a_conductor_that_asks_for_tokio_has_it_in_handlers_tasks_and_drops() {
    let mut rig = Rig::start::<User<true>>(()).unwrap();
    rig.request("listen", ()).unwrap();
    assert_eq!(rig.request("spawn", ()).unwrap(), true);
    assert_eq!(rig.published()[0].payload, b"tokio");
    rig.request("task", ()).unwrap();
    assert_eq!(rig.tasks(), 1);
    rig.close(crate::CloseReason::Requested).unwrap();
    assert_eq!(*DROPS.lock().unwrap(), [true, true]);
}

#[test]
fn one_that_does_not_gets_a_panic_that_is_contained() {
    let mut rig = Rig::start::<User<false>>(()).unwrap();
    let error = rig.request("listen", ()).unwrap_err();
    assert!(error.message().contains("no reactor"), "{error}");
}
