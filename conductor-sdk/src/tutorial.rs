//! Your first conductor in fifteen minutes. (Documentation only: there is nothing in this module.)
//!
//! We make a buzzer: somebody opens a round, the first device that presses its button wins, and the score is still there after the host was
//! restarted. You need Rust, the program `conductor-host`, and nothing that runs yet.
//!
//! # 1. A crate (one minute)
//! `conductor-host plugin new buzzer` writes one that builds, with another example in it. By hand it is `cargo new --lib buzzer` and this `Cargo.toml`
//! (the path is where the SDK lies, or `version = "1"` once it is published):
//!
//! ```toml
//! [package]
//! name = "buzzer"
//! version = "0.1.0"
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! conductor-host-sdk = { path = "…/conductor-sdk" }
//! serde = { version = "1", features = ["derive"] }
//! schemars = "1"
//!
//! [dev-dependencies]
//! conductor-host-sdk = { path = "…/conductor-sdk", features = ["testing"] }
//! ```
//!
//! # 2. The conductor and its test (eight minutes)
//! `src/lib.rs`. The host makes one `Buzzer` for each session. It is told one thing at a time, so that `&mut self` needs no lock:
//!
//! ```
//! use std::{collections::BTreeMap, time::Duration};
//!
//! use conductor_sdk::prelude::*;
//!
//! struct Buzzer {
//!     seconds: u64,
//!     open: bool,
//!     score: BTreeMap<String, u32>,
//! }
//!
//! /// What the settings say: `config = { seconds = 10 }`. The host checks it before it starts.
//! #[derive(Deserialize, JsonSchema)]
//! struct Config {
//!     #[serde(default = "ten")]
//!     seconds: u64,
//! }
//!
//! fn ten() -> u64 { 10 }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Open { question: String }
//!
//! impl Conductor for Buzzer {
//!     type Config = Config;
//!
//!     async fn create(_: &Session, config: Config) -> Result<Self> {
//!         Ok(Self { seconds: config.seconds, open: false, score: BTreeMap::new() })
//!     }
//!
//!     // In the place of `create`, where something was saved: after a restart of the host.
//!     async fn restore(_: &Session, config: Config, saved: Saved) -> Result<Self> {
//!         Ok(Self { seconds: config.seconds, open: false, score: saved.parse()? })
//!     }
//!
//!     // What an administrator may ask for.
//!     fn methods() -> Methods<Self> {
//!         Methods::new().on("open", Self::open).on("score", Self::score)
//!     }
//!
//!     // Devices hear everything, and can send nothing but `buzz`.
//!     async fn joining(&mut self, _: &Session, _: &Joining) -> Result<Join> {
//!         Ok(Grants::all().publish(["buzz"]).into())
//!     }
//!
//!     async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
//!         let Some(who) = message.sender().filter(|_| self.open) else { return Ok(()) };
//!         self.open = false;
//!         session.cancel_timer("too late").await?;
//!         *self.score.entry(who.to_owned()).or_default() += 1;
//!         // On the disk when it returns.
//!         session.save(&self.score).await?;
//!         session.publish("winner", who).qos(1).await
//!     }
//!
//!     async fn timer(&mut self, session: &Session, _: &Timer) -> Result<()> {
//!         self.open = false;
//!         session.publish("nobody", "").qos(1).await
//!     }
//! }
//!
//! impl Buzzer {
//!     async fn open(&mut self, session: &Session, round: Open) -> Result<()> {
//!         self.open = true;
//!         session.once("too late", Duration::from_secs(self.seconds)).await?;
//!         session.publish("question", &round.question).qos(1).await
//!     }
//!
//!     async fn score(&mut self, _: &Session, _: ()) -> Result<BTreeMap<String, u32>> {
//!         Ok(self.score.clone())
//!     }
//! }
//!
//! export_conductors! { "buzzer" => Buzzer }
//!
//! # /*
//! #[test]
//! # */
//! fn the_first_one_wins_and_the_score_stays() -> Result<()> {
//!     use conductor_sdk::{serde_json::json, testing::Rig};
//!
//!     let mut rig = Rig::start::<Buzzer>(json!({ "seconds": 5 }))?;
//!     rig.join("ann")?;
//!     rig.request("open", json!({ "question": "7 x 8?" }))?;
//!     rig.message("ann", "buzz", "")?;
//!     rig.message("bob", "buzz", "")?;
//!     let sent: Vec<_> = rig.published().into_iter().map(|sent| sent.name).collect();
//!     assert_eq!(sent, ["question", "winner"]);
//!
//!     // Five seconds pass at once, and nobody presses.
//!     rig.request("open", json!({ "question": "9 x 6?" }))?;
//!     rig.advance(Duration::from_secs(5));
//!     assert_eq!(rig.published().last().unwrap().name, "nobody");
//!
//!     // The host is killed and starts again.
//!     rig.restart::<Buzzer>(json!({}))?;
//!     assert_eq!(rig.request("score", ())?, json!({ "ann": 1 }));
//!
//!     // What does not fit is told with its place, and no code of yours ran.
//!     let error = rig.request("open", json!({ "question": 7 })).unwrap_err();
//!     assert!(error.message().contains(r#"at "question": invalid type: integer `7`, expected a string"#));
//!     Ok(())
//! }
//! # fn main() { the_first_one_wins_and_the_score_stays().unwrap() }
//! ```
//!
//! The test drives the very object that the host drives, through the same binary contract, with a virtual clock: `cargo test` takes no time to wait.
//!
//! # 3. Build and look (two minutes)
//! ```sh
//! cargo test
//! cargo build --release
//! conductor-host plugin inspect target/release/buzzer
//! ```
//! `inspect` loads the file as the host would and shows its conductors, hooks, methods and config; or it says what is wrong with it.
//!
//! # 4. Run (four minutes)
//! `settings.toml`:
//!
//! ```toml
//! [types.buzzer]
//! plugin = "target/release/buzzer"      # libbuzzer.so, buzzer.dll or libbuzzer.dylib
//! config = { seconds = 20 }
//! ```
//!
//! ```sh
//! conductor-host serve --config settings.toml &
//! curl -s -X POST http://127.0.0.1:50001/v1/sessions -H 'content-type: application/json' -d '{"type": "buzzer"}'
//! # {"id":"123456","pin":"654321",…}: a device joins with them on the public port, and gets a token
//! curl -s -X POST http://127.0.0.1:8888/v1/sessions/123456/join -H 'content-type: application/json' -d '{"pin": "654321", "client": "ann"}'
//! curl -s -X POST http://127.0.0.1:8888/v1/sessions/123456/join -H 'content-type: application/json' -d '{"pin": "654321", "client": "bob"}'
//! # with its token as password each is an MQTT client
//! mosquitto_sub -h 127.0.0.1 -i ann -u 123456 -P TOKEN_OF_ANN -t '/123456/#' -v &
//! curl -s -X POST http://127.0.0.1:50001/v1/sessions/123456/requests -H 'content-type: application/json' \
//!     -d '{"method": "open", "params": {"question": "7 x 8?"}}'
//! mosquitto_pub -h 127.0.0.1 -i bob -u 123456 -P TOKEN_OF_BOB -t /123456/buzz -m '' -q 1
//! # ann hears: /123456/question 7 x 8?, then /123456/buzz, then /123456/winner bob
//! ```
//!
//! # And then
//! - All hooks, in the order in which they come: [`Conductor`](crate::Conductor). All that a session can be asked for: [`Session`](crate::Session).
//! - A password or a token in the config: [`Secret`](crate::Secret).
//! - A loop of its own: [`Session::spawn`](crate::Session::spawn). A library that needs tokio: "tokio" on the [front page](crate#tokio).
