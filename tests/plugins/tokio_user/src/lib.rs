//! The conductors `tokio_user`, which asks for tokio's runtime, and `no_tokio`, which uses tokio without it; and `keeper`, which has secrets.
#![forbid(unsafe_code)]

mod keeper;

use std::{future::Future, thread, time::Duration};

use conductor_sdk::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
const FOR_EVER: Duration = Duration::from_secs(3600);

/// `TOKIO` or not, the rest is the same.
struct User<const TOKIO: bool>;

impl<const TOKIO: bool> Conductor for User<TOKIO> {
    type Config = ();
    const TOKIO: bool = TOKIO;

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self)
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("fine", Self::fine)
            .on("wait", Self::wait)
            .on("connect", Self::connect)
            .on("task", Self::task)
            .on("elsewhere", Self::elsewhere)
            .on("panic_elsewhere", Self::panic_elsewhere)
            .on("hang", Self::hang)
    }
}

impl<const TOKIO: bool> User<TOKIO> {
    async fn fine(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("fine")
    }

    async fn wait(&mut self, _: &Session, (): ()) -> Result<()> {
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    /// Sockets, in a handler and in a task of tokio's.
    async fn connect(&mut self, _: &Session, (): ()) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let client = tokio::spawn(async move { TcpStream::connect(address).await?.write_all(b"hello").await });
        let mut heard = String::new();
        timeout(SECOND, listener.accept()).await??.0.read_to_string(&mut heard).await?;
        client.await??;
        Ok(heard)
    }

    /// A task of the session's: the name of the thread it ran on, after it waited on tokio.
    async fn task(&mut self, session: &Session, (): ()) -> Result<()> {
        let of_task = session.clone();
        session.spawn(async move {
            sleep(Duration::from_millis(1)).await;
            of_task.publish("task", thread_name()).await
        })?;
        Ok(())
    }

    /// What the session gives, polled on the plugin's own thread, where the host has no runtime: that thread's name.
    async fn elsewhere(&mut self, session: &Session, (): ()) -> Result<String> {
        let of_task = session.clone();
        let name = tokio::spawn(async move {
            of_task.sleep(Duration::from_millis(1)).await?;
            of_task.save(&"elsewhere").await?;
            of_task.publish("elsewhere", of_task.clients().len().to_string()).await?;
            Ok::<_, Error>(thread_name())
        });
        name.await?
    }

    async fn panic_elsewhere(&mut self, _: &Session, (): ()) -> Result<bool> {
        let task = tokio::spawn(async { panic!("in a task of tokio's") });
        Ok(task.await.is_err_and(|error| error.is_panic()))
    }

    /// Ends at the deadline; then it says so, from the drop.
    async fn hang(&mut self, session: &Session, (): ()) -> Result<()> {
        let session = session.clone();
        let _last = Last(Some(async move {
            let _ = session.sleep(Duration::from_millis(1)).await;
            let _ = session.publish("dropped", "").await;
        }));
        sleep(FOR_EVER).await;
        Ok(())
    }
}

/// Spawns its future on tokio when it is dropped.
struct Last<F: Future<Output = ()> + Send + 'static>(Option<F>);

impl<F: Future<Output = ()> + Send + 'static> Drop for Last<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take() {
            tokio::spawn(future);
        }
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("?").to_owned()
}

export_conductors! { "tokio_user" => User<true>, "no_tokio" => User<false>, "keeper" => keeper::Keeper }
