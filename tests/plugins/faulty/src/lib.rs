//! The conductors `faulty` and `hooked` of the black-box tests: they go wrong on request, in every place where a plugin can.
#![forbid(unsafe_code)]

mod hooked;

use std::{
    future::{pending, poll_fn},
    path::PathBuf,
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use conductor_sdk::prelude::*;

/// Where it goes wrong without being asked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum At {
    #[default]
    Nowhere,
    /// `create` panics at its first poll.
    Create,
    /// `create` panics after it waited.
    CreateLater,
    /// `create` says no.
    Refuse,
    /// `create` publishes what the broker keeps, then says no.
    Ghost,
    /// A task that `create` spawned panics while `create` waits.
    TaskFirst,
    /// `create` never ends.
    Hang,
    /// `close` panics.
    Close,
    /// The conductor panics when it is dropped.
    Drop,
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    #[serde(default)]
    at: At,
}

struct Faulty {
    at: At,
}

#[derive(Deserialize, JsonSchema)]
struct Wait {
    millis: u64,
}

/// Blocks its thread until there is such a file.
#[derive(Deserialize, JsonSchema)]
struct UntilFile {
    file: PathBuf,
    /// Without a pause between two looks.
    #[serde(default)]
    busy: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Tasks {
    count: usize,
    /// Whether they wait for ever.
    wait: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Elsewhere {
    name: String,
    #[serde(default)]
    to: Option<String>,
}

/// Panics when the future that holds it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("in a drop of a future");
    }
}

impl Conductor for Faulty {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        match config.at {
            At::Create => panic!("in create"),
            At::CreateLater => {
                session.sleep(Duration::from_millis(1)).await?;
                panic!("in create, later");
            }
            At::Refuse => Err(Error::new("create said no")),
            At::Ghost => {
                session.publish("ghost", "of a session that never was").retain(true).await?;
                Err(Error::new("create said no"))
            }
            At::TaskFirst => {
                session.spawn(panics())?;
                while session.sleep(Duration::from_millis(1)).await.is_ok() {}
                Ok(Self { at: config.at })
            }
            At::Hang => {
                session.sleep(Duration::from_secs(3600)).await?;
                Ok(Self { at: config.at })
            }
            at => Ok(Self { at }),
        }
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("fine", Self::fine)
            .on("fail", Self::fail)
            .on("panic", Self::panic)
            .on("panic_later", Self::panic_later)
            .on("panic_in_drop", Self::panic_in_drop)
            .on("panic_in_task", Self::panic_in_task)
            .on("block", Self::block)
            .on("hang", Self::hang)
            .on("storm", Self::storm)
            .on("stubborn", Self::stubborn)
            .on("block_until", Self::block_until)
            .on("tasks", Self::tasks)
            .on("huge", Self::huge)
            .on("fail_in_task", Self::fail_in_task)
            .on("block_in_task", Self::block_in_task)
            .on("publish", Self::publish)
            .on("wake_late", Self::wake_late)
            .on("woken_abroad", Self::woken_abroad)
            .on("outlive", Self::outlive)
            .on("once", Self::once)
    }

    async fn message(&mut self, _: &Session, message: &Message) -> Result<()> {
        match message.name() {
            "panic" => panic!("in message"),
            "fail" => Err(Error::new("message said no")),
            _ => Ok(()),
        }
    }

    async fn close(&mut self, _: &Session, _: CloseReason) -> Result<()> {
        if self.at == At::Close {
            panic!("in close");
        }
        Ok(())
    }
}

impl Faulty {
    async fn fine(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("fine")
    }

    async fn fail(&mut self, _: &Session, (): ()) -> Result<()> {
        Err(Error::new("the handler said no").with_data([1, 2]))
    }

    async fn panic(&mut self, _: &Session, (): ()) -> Result<()> {
        panic!("at the first poll");
    }

    async fn panic_later(&mut self, session: &Session, (): ()) -> Result<()> {
        session.sleep(Duration::from_millis(1)).await?;
        panic!("at a later poll");
    }

    /// Its deadline drops it.
    async fn panic_in_drop(&mut self, session: &Session, (): ()) -> Result<()> {
        let _guard = PanicsOnDrop;
        session.sleep(Duration::from_secs(3600)).await
    }

    async fn panic_in_task(&mut self, session: &Session, (): ()) -> Result<()> {
        session.spawn(panics())?;
        Ok(())
    }

    /// What no handler may do.
    async fn block(&mut self, _: &Session, wait: Wait) -> Result<&'static str> {
        thread::sleep(Duration::from_millis(wait.millis));
        Ok("blocked")
    }

    /// A task that two threads wake all the time, until they are done; then it says so.
    async fn storm(&mut self, session: &Session, (): ()) -> Result<()> {
        let session_of_task = session.clone();
        session.spawn(async move {
            let mut wakers = None;
            poll_fn(|cx| {
                let wakers = wakers.get_or_insert_with(|| [cx.waker().clone(), cx.waker().clone()].map(wake_often));
                if wakers.iter().all(thread::JoinHandle::is_finished) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            session_of_task.publish("survived", "").await
        })?;
        Ok(())
    }

    /// A task that goes on whatever it is told, and says when it is dropped.
    async fn stubborn(&mut self, session: &Session, (): ()) -> Result<()> {
        let (says, session_of_task) = (SaysGoodbye, session.clone());
        session.spawn(async move {
            let _says = says;
            loop {
                if session_of_task.sleep(Duration::from_millis(10)).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })?;
        Ok(())
    }

    async fn hang(&mut self, session: &Session, (): ()) -> Result<()> {
        session.sleep(Duration::from_secs(3600)).await
    }

    /// As a call into a library that does not come back.
    async fn block_until(&mut self, _: &Session, until: UntilFile) -> Result<&'static str> {
        block_until(&until);
        Ok("let go")
    }

    /// How many were accepted.
    async fn tasks(&mut self, session: &Session, tasks: Tasks) -> Result<usize> {
        let task = || async move {
            if tasks.wait {
                pending::<()>().await;
            }
        };
        Ok((0..tasks.count).filter(|_| session.spawn(task()).is_ok()).count())
    }

    /// A reply of 100 MB.
    async fn huge(&mut self, _: &Session, (): ()) -> Result<String> {
        Ok("x".repeat(100 << 20))
    }

    /// Sets a timer, without the hook that would hear it.
    async fn once(&mut self, session: &Session, wait: Wait) -> Result<()> {
        session.once("unheard", Duration::from_millis(wait.millis)).await
    }

    async fn fail_in_task(&mut self, session: &Session, (): ()) -> Result<()> {
        session.spawn(async { Err(Error::new("the task said no")) }).map(drop)
    }

    async fn block_in_task(&mut self, session: &Session, until: UntilFile) -> Result<()> {
        session.spawn(async move { block_until(&until) }).map(drop)
    }

    /// Under any name, also one that tries to get out of the session.
    async fn publish(&mut self, session: &Session, elsewhere: Elsewhere) -> Result<()> {
        match &elsewhere.to {
            Some(client) => session.publish_to(client, &elsewhere.name, "from inside").qos(1).await,
            None => session.publish(&elsewhere.name, "from inside").qos(1).await,
        }
    }

    /// Its task waits; its waker is kept for ever by a thread that wakes it once the session has ended, very often. A second is leaked.
    async fn wake_late(&mut self, session: &Session, (): ()) -> Result<()> {
        let session_of_thread = session.clone();
        session.spawn(async move {
            let mut handed_out = false;
            poll_fn(move |cx| {
                if !handed_out {
                    handed_out = true;
                    std::mem::forget(cx.waker().clone());
                    let (waker, session) = (cx.waker().clone(), session_of_thread.clone());
                    thread::spawn(move || {
                        wait_for_the_end(&session);
                        (0..100_000).for_each(|_| waker.wake_by_ref());
                        tracing::info!("woken late, session {}", session.id());
                    });
                }
                Poll::<()>::Pending
            })
            .await;
        })?;
        Ok(())
    }

    /// The handler itself waits until a thread has woken it 100,000 times.
    async fn woken_abroad(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        let mut thread = None;
        poll_fn(|cx| {
            let thread = thread.get_or_insert_with(|| wake_often(cx.waker().clone()));
            if thread.is_finished() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Ok("woken")
    }

    /// A thread keeps the handle, and uses it when the session is no more.
    async fn outlive(&mut self, session: &Session, (): ()) -> Result<()> {
        let session = session.clone();
        thread::spawn(move || {
            wait_for_the_end(&session);
            let (clients, now) = (session.clients().len(), session.now().elapsed().is_ok());
            tracing::info!(
                "outlived session {}: {clients} clients, a time {now}, a task {}",
                session.id(),
                session.spawn(async {}).is_ok()
            );
        });
        Ok(())
    }
}

fn block_until(until: &UntilFile) {
    while !until.file.exists() {
        if !until.busy {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn wait_for_the_end(session: &Session) {
    while !session.spawn(async {}).is_err_and(|error| error.is_closed()) {
        thread::sleep(Duration::from_millis(2));
    }
}

struct SaysGoodbye;

impl Drop for SaysGoodbye {
    fn drop(&mut self) {
        tracing::info!("a stubborn task is gone");
    }
}

fn wake_often(waker: Waker) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..100_000 {
            waker.wake_by_ref();
        }
        // Its end is seen by the poll after this one.
        let last = waker;
        thread::spawn(move || {
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(10));
                last.wake_by_ref();
            }
        });
    })
}

async fn panics() {
    panic!("in a task");
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(self.at != At::Drop, "in the drop of the conductor");
    }
}

export_conductors! { "faulty" => Faulty, "hooked" => hooked::Hooked }
