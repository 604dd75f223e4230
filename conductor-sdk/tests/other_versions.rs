//! A plugin of this SDK in a host of another version: an older one, which knows less than is asked, and a later one, which tells more.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    pin::pin,
    sync::OnceLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk},
    async_ffi::{BorrowingFfiFuture, FfiFuture, FutureExt},
    contract::{ConductorObj, Event, Failure, HostObj, HostObject, PluginEntry, Reply},
    wire::{call, code, event},
};
use conductor_sdk::{
    __private::{Entry, Offer, Offers, offer},
    prelude::*,
};

/// Knows the time, and nothing that came later.
struct OldHost;

impl HostObject for OldHost {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        let answer = match call.kind.as_str() {
            call::NOW => ROk(b"42".to_vec().into()),
            other => RErr(Failure::new(code::UNSUPPORTED, format!("this host does not know the call {other:?}"))),
        };
        async { answer }.into_ffi()
    }

    fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
        Err(Failure::new(code::UNSUPPORTED, "no tasks here"))
    }

    fn log(&self, _: u8, _: &str, _: &str, _: &[u8]) {}
}

struct Modern {
    told: Vec<String>,
}

impl Conductor for Modern {
    type Config = ();

    async fn create(session: &Session, (): ()) -> Result<Self> {
        let saved = session.save(&1).await;
        Ok(Self { told: vec![format!("can save: {}", !saved.is_err_and(|error| error.is_unsupported()))] })
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("told", Self::told).on("try_all", Self::try_all).on("draw", Self::draw)
    }

    async fn left(&mut self, _: &Session, left: &Left) -> Result<()> {
        self.told.push(format!("left {}", left.client()));
        Ok(())
    }

    async fn message(&mut self, _: &Session, message: &Message) -> Result<()> {
        self.told.push(format!("message {} {}", message.name(), message.qos()));
        Ok(())
    }

    async fn close(&mut self, _: &Session, _: CloseReason) -> Result<()> {
        self.told.push("close".into());
        Ok(())
    }
}

impl Modern {
    async fn told(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(self.told.clone())
    }

    /// Everything that may be asked of a host: each answers, and says that it is not known.
    async fn try_all(&mut self, session: &Session, (): ()) -> Result<Vec<bool>> {
        let answers = [
            session.publish("a", "b").await,
            session.sleep(Duration::from_millis(1)).await,
            session.once("t", Duration::from_millis(1)).await,
            session.cancel_timer("t").await,
            session.kick("ann").await,
            session.lock_joining(true).await,
            session.set_max_clients(1).await,
            session.set_labels([("a", "b")]).await,
            session.set_grants("ann", Grants::all()).await,
            session.save(&1).await,
            session.spawn(async { Ok(()) }).map(drop),
            session.close().await,
        ];
        Ok(answers.into_iter().map(|answer| answer.is_err_and(|error| error.is_unsupported())).collect())
    }

    async fn draw(&mut self, session: &Session, (): ()) -> Result<Vec<String>> {
        Ok((0..4).map(|_| session.random().to_string()).collect())
    }
}

struct Plugin;

impl Offers for Plugin {
    fn offers() -> &'static [Box<dyn Offer>] {
        static OFFERS: OnceLock<Vec<Box<dyn Offer>>> = OnceLock::new();
        OFFERS.get_or_init(|| vec![offer::<Modern>("modern")])
    }
}

/// All futures here are ready at once.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing waits here"),
    }
}

/// `more` goes into the meta of the creation.
fn made(more: &str) -> ConductorObj {
    let seed: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    let meta = format!(r#"{{"session":"1","type":"t","config":{{}},"seed":"{seed}","time":42{more}}}"#);
    ready(Entry::<Plugin>::create("modern", HostObj::new(OldHost), meta.as_bytes(), b"")).into_result().unwrap()
}

fn tell(conductor: &mut ConductorObj, event: Event<'_>) -> Result<String, i32> {
    match ready(conductor.handle(event)) {
        ROk(answer) => Ok(String::from_utf8(answer.to_vec()).unwrap()),
        RErr(failure) => Err(failure.code),
    }
}

fn ask(conductor: &mut ConductorObj, method: &str) -> String {
    tell(conductor, Event { subject: method.into(), body: b"null".as_slice().into(), ..Event::new(event::REQUEST) }).unwrap()
}

#[test]
fn whatever_an_older_host_does_not_know_it_says_so_and_the_conductor_goes_on() {
    let mut conductor = made("");
    assert_eq!(ask(&mut conductor, "told"), r#"["can save: false"]"#);
    let answers = ask(&mut conductor, "try_all");
    assert!(answers.starts_with("[true,true,") && !answers.contains("false"), "{answers}");
}

#[test]
fn what_a_later_host_tells_is_passed_over_or_answered_unsupported() {
    let mut conductor = made(r#","of_a_later_version":{"a":[1]}"#);
    assert_eq!(tell(&mut conductor, Event::new("teleport")), Err(code::UNSUPPORTED));
    let meta = br#"{"time":1,"qos":1,"of_a_later_version":[]}"#.as_slice();
    let message = Event { subject: "buzz".into(), meta: meta.into(), ..Event::new(event::MESSAGE) };
    assert_eq!(tell(&mut conductor, message), Ok(String::new()));
    // Reasons that only a later version has.
    let left = Event { subject: "of_a_later_version".into(), client: "ann".into(), ..Event::new(event::LEFT) };
    assert_eq!(tell(&mut conductor, left), Ok(String::new()));
    let link = Event { subject: "of_a_later_version".into(), ..Event::new(event::LINK) };
    assert_eq!(tell(&mut conductor, link), Ok(String::new()));
    let close = Event { subject: "of_a_later_version".into(), ..Event::new(event::CLOSE) };
    assert_eq!(tell(&mut conductor, close), Ok(String::new()));
    assert_eq!(ask(&mut conductor, "told"), r#"["can save: false","message buzz 1","left ann","close"]"#);
    // And of the library as a whole.
    let RErr(failure) = ready(Entry::<Plugin>::handle(Event::new("teleport"))) else { panic!("this is not known") };
    assert_eq!(failure.code, code::UNSUPPORTED);
}

/// Worked out by hand from the published algorithm, not by the library that the SDK uses.
#[test]
fn a_seed_gives_the_numbers_of_xoshiro256_plus_plus() {
    let expected = r#"["1663256601371677457","11682512382921186587","16199730368114376880","17609096012404963716"]"#;
    assert_eq!(ask(&mut made(""), "draw"), expected);
}
