//! The conductor `foreign` of the tests: uses the whole boundary, and tells what it was built with.
#![forbid(unsafe_code)]

use std::time::Duration;

use conductor_sdk::{prelude::*, serde_json::json};

#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Foreign {
    greeting: String,
    heard: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    greeting: String,
}

impl Conductor for Foreign {
    type Config = Config;

    async fn create(session: &Session, config: Config) -> Result<Self> {
        tracing::info!(type_name = session.type_name(), "created by {}", env!("BUILT_BY"));
        session.save(&0).await?;
        Ok(Self { greeting: config.greeting, heard: Vec::new() })
    }

    async fn restore(_: &Session, config: Config, saved: Saved) -> Result<Self> {
        Ok(Self { greeting: config.greeting, heard: vec![format!("restored {}", saved.parse::<u32>()?)] })
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .on("built", Self::built)
            .on("greet", Self::greet)
            .on("heard", Self::heard)
            .on("big", Self::big)
            .on("wait", Self::wait)
            .on("tick", Self::tick)
            .on("save", Self::save)
            .on("fail", Self::fail)
            .on("panic", Self::panic)
            .on("add", Self::add)
            .on("runtime", Self::runtime)
            .on("close", Self::end)
    }

    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        Ok(if joining.client() == "mallory" { Join::refuse("not you") } else { Grants::all().publish(["ask"]).into() })
    }

    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        self.heard.push(format!("{} {}", message.sender().unwrap_or_default(), message.text()?));
        session.publish("answer", message.payload()).qos(1).await
    }

    async fn timer(&mut self, session: &Session, timer: &Timer) -> Result<()> {
        session.publish("timer", timer.name()).qos(1).await
    }

    async fn close(&mut self, _: &Session, reason: CloseReason) -> Result<()> {
        tracing::info!(?reason, "closed in {}", env!("BUILT_BY"));
        Ok(())
    }
}

impl Foreign {
    async fn built(&mut self, _: &Session, (): ()) -> Result<conductor_sdk::serde_json::Value> {
        Ok(json!({
            "by": env!("BUILT_BY"), "at": env!("BUILT_AT"), "debug_assertions": cfg!(debug_assertions),
            "runtime": cfg!(feature = "runtime"), "allocator": cfg!(feature = "allocator"),
        }))
    }

    async fn greet(&mut self, _: &Session, name: String) -> Result<String> {
        Ok(format!("{}, {name}", self.greeting))
    }

    async fn heard(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(self.heard.clone())
    }

    /// As many bytes as asked, allocated here and freed by the host.
    async fn big(&mut self, _: &Session, count: usize) -> Result<String> {
        Ok("x".repeat(count.min(1 << 20)))
    }

    async fn wait(&mut self, session: &Session, millis: u64) -> Result<u64> {
        session.sleep(Duration::from_millis(millis)).await?;
        Ok(millis)
    }

    /// Publishes from a task and from a timer.
    async fn tick(&mut self, session: &Session, (): ()) -> Result<()> {
        let of_task = session.clone();
        let task = session.spawn(async move {
            of_task.sleep(Duration::from_millis(1)).await?;
            of_task.publish("tick", b"1").qos(1).await
        })?;
        drop(task);
        session.once("soon", Duration::from_millis(1)).await
    }

    async fn save(&mut self, session: &Session, score: u32) -> Result<()> {
        session.save(&score).await
    }

    async fn fail(&mut self, _: &Session, (): ()) -> Result<()> {
        Err(Error::new("as asked").with_code(7))
    }

    async fn panic(&mut self, _: &Session, (): ()) -> Result<()> {
        panic!("as asked, in {}", env!("BUILT_BY"))
    }

    /// Wraps, or panics where overflows are checked.
    async fn add(&mut self, _: &Session, number: u8) -> Result<u8> {
        Ok(std::hint::black_box(number) + 1)
    }

    /// A socket and a timer of this plugin's own tokio.
    async fn runtime(&mut self, _: &Session, (): ()) -> Result<String> {
        #[cfg(feature = "runtime")]
        return own::talk().await;
        #[cfg(not(feature = "runtime"))]
        Err(Error::new("this one has none"))
    }

    async fn end(&mut self, session: &Session, (): ()) -> Result<()> {
        session.close().await
    }
}

/// A runtime that lives as long as the library does, which is as long as the process.
#[cfg(feature = "runtime")]
mod own {
    use std::{io, sync::OnceLock, time::Duration};

    use conductor_sdk::{Error, Result};
    use tokio::{
        net::{TcpListener, TcpStream},
        runtime::Runtime,
    };

    fn started() -> Result<&'static Runtime> {
        static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
        let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        RUNTIME.get_or_init(start).as_ref().map_err(|error| Error::new(error.to_string()))
    }

    pub(crate) async fn talk() -> Result<String> {
        let task = started()?.spawn(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let client = TcpStream::connect(listener.local_addr()?).await?;
            let (server, _) = listener.accept().await?;
            Ok::<_, io::Error>(server.peer_addr()? == client.local_addr()?)
        });
        Ok(format!("connected: {}", task.await??))
    }
}

export_conductors! { "foreign" => Foreign }
