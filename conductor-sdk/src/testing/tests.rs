//! The rig itself, with a conductor that does what authors do.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::{Grants, Join, Joining, Leave, Left, Link, Message, Methods, Timer, runtime::Surroundings};

/// Panics when it is dropped, and counts that.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
        panic!("dropped");
    }
}

#[derive(Default)]
struct Probe {
    dropped: Arc<AtomicUsize>,
    ticks: Arc<AtomicUsize>,
}

impl Conductor for Probe {
    type Config = ();
    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self::default())
    }
    fn methods() -> Methods<Self> {
        Methods::new()
            .on("bomb", Self::bomb)
            .on("two loops", Self::two_loops)
            .on("counts", Self::counts)
            .on("finish", Self::finish)
            .on("panic", Self::panic)
            .on("to", Self::to)
    }
    async fn message(&mut self, session: &Session, message: &Message) -> Result<()> {
        session.publish("echo", message.payload()).await
    }
    async fn link(&mut self, session: &Session, link: Link) -> Result<()> {
        session.publish("link", format!("{link:?}")).await
    }
    async fn close(&mut self, session: &Session, _: CloseReason) -> Result<()> {
        // One that asks the host while it is dropped.
        struct Asks(Session);
        impl Drop for Asks {
            fn drop(&mut self) {
                assert!(self.0.clients().is_empty(), "the session is closed");
            }
        }
        let asks = Asks(session.clone());
        session.spawn(async move {
            std::future::pending::<()>().await;
            drop(asks);
        })?;
        session.publish("bye", "").await
    }
}

impl Probe {
    async fn bomb(&mut self, session: &Session, (): ()) -> Result<()> {
        let bomb = Bomb(self.dropped.clone());
        session.spawn(async move { drop(bomb) }).map(drop)
    }
    async fn two_loops(&mut self, session: &Session, (): ()) -> Result<()> {
        for _ in 0..2 {
            let (session_, ticks) = (session.clone(), self.ticks.clone());
            session.spawn(async move {
                loop {
                    if session_.sleep(Duration::from_secs(1)).await.is_ok() {
                        ticks.fetch_add(1, SeqCst);
                    }
                }
            })?;
        }
        Ok(())
    }
    async fn counts(&mut self, _: &Session, (): ()) -> Result<[usize; 2]> {
        Ok([self.dropped.load(SeqCst), self.ticks.load(SeqCst)])
    }
    async fn finish(&mut self, session: &Session, (): ()) -> Result<()> {
        session.close().await
    }
    async fn panic(&mut self, _: &Session, (): ()) -> Result<()> {
        panic!("on request");
    }
    async fn to(&mut self, session: &Session, client: String) -> Result<()> {
        session.publish_to(&client, "hand", "secret").await
    }
}

#[test]
fn a_task_that_panics_when_dropped_stays_inside_polled_or_not() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    rig.request("bomb", ()).unwrap();
    rig.tasks();
    assert!(rig.request("counts", ()).unwrap_err().message().contains("panic: dropped at "), "by its own end, and the conductor's");
    rig.close(CloseReason::Requested).unwrap();
    // Refused, and dropped without a poll.
    let host = Arc::new(Mutex::new(State { closed: true, ..State::default() }));
    let session = Session::new(HostObj::new(FakeHost(host)), "1".into(), "t".into(), &"00".repeat(32), Surroundings::default()).unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let bomb = Bomb(dropped.clone());
    assert!(session.spawn(async move { drop(bomb) }).unwrap_err().is_closed());
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn many_loops_tick_once_a_second() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    rig.request("two loops", ()).unwrap();
    for _ in 0..100 {
        rig.advance(Duration::from_secs(1));
    }
    assert_eq!(rig.request("counts", ()).unwrap()[1], 200);
}

#[test]
fn a_conductor_that_closes_its_session_still_says_goodbye() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    rig.request("finish", ()).unwrap();
    assert!(rig.is_closed());
    assert!(rig.request("finish", ()).unwrap_err().is_closed());
    rig.close(CloseReason::Conductor).unwrap();
    assert_eq!(rig.published()[0].name, "bye");
    assert!(rig.request("counts", ()).unwrap_err().is_closed());
}

#[test]
fn after_a_panic_the_conductor_is_told_nothing_more() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    let told = rig.request("panic", ()).unwrap_err();
    assert!(told.message().contains("panic: on request at "), "{told}");
    assert_eq!(rig.message("ann", "x", "y").unwrap_err().message(), told.message());
}

#[test]
fn a_message_to_nobody_is_not_one_to_all() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    rig.join("ann").unwrap();
    assert!(rig.request("to", "").is_err());
    assert!(rig.request("to", "bob").is_err(), "who has not joined");
    rig.request("to", "ann").unwrap();
    let published = rig.published();
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].client.as_deref(), Some("ann"));
}

#[test]
fn a_conductor_is_told_of_its_link_in_words_of_any_version() {
    let mut rig = Rig::start::<Probe>(()).unwrap();
    for link in [Link::Down, Link::Up, Link::Other] {
        rig.link(link).unwrap();
    }
    let said: Vec<_> = rig.published().iter().map(|published| published.payload.clone()).collect();
    assert_eq!(said, [&b"Down"[..], b"Up", b"Other"]);
}

#[test]
fn a_config_whose_reading_panics_is_an_error() {
    struct Panics;
    impl<'de> serde::Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("while reading")
        }
    }
    impl schemars::JsonSchema for Panics {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Panics".into()
        }
        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            true.into()
        }
    }
    struct Reads;
    impl Conductor for Reads {
        type Config = Panics;
        async fn create(_: &Session, _: Panics) -> Result<Self> {
            Ok(Self)
        }
    }
    let refused = Rig::start::<Reads>(serde_json::json!({})).unwrap_err();
    assert!(refused.message().contains("while reading"), "{refused}");
}

/// Uses every hook and every call.
struct Range {
    score: u32,
    heard: Vec<String>,
}

impl Conductor for Range {
    type Config = ();
    async fn create(session: &Session, (): ()) -> Result<Self> {
        session.every("tick", Duration::from_secs(10)).await?;
        session.once("end", Duration::from_secs(25)).await?;
        Ok(Self { score: 0, heard: Vec::new() })
    }
    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        Ok(Self { score: saved.parse()?, heard: vec![format!("restored {} v{}", saved.parse::<u32>()?, saved.version())] })
    }
    fn methods() -> Methods<Self> {
        Methods::new()
            .on("heard", Self::heard)
            .on("save", Self::save)
            .on("kick", Self::kick)
            .on("rules", Self::rules)
            .on("mute", Self::mute)
            .on("wrong", Self::wrong)
    }
    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        match joining.client() {
            "mallory" => Ok(Join::refuse("not you")),
            "confused" => Err(Error::new("no idea")),
            "astray" => Ok(Grants::all().subscribe(["/other/#"]).into()),
            "ann" => Ok(Grants::all().publish(["buzz"]).into()),
            "chair" => Ok(Grants::all().into()),
            _ => Ok(Join::accept()),
        }
    }
    async fn left(&mut self, _: &Session, left: &Left) -> Result<()> {
        self.heard.push(format!("left {} {:?}", left.client(), left.reason()));
        Ok(())
    }
    async fn connected(&mut self, _: &Session, client: &str) -> Result<()> {
        self.heard.push(format!("connected {client}"));
        Ok(())
    }
    async fn disconnected(&mut self, _: &Session, client: &str) -> Result<()> {
        self.heard.push(format!("disconnected {client}"));
        Err(Error::new("told to who called"))
    }
    async fn timer(&mut self, _: &Session, timer: &Timer) -> Result<()> {
        self.heard.push(format!("{} {}", timer.name(), timer.late().as_millis()));
        if timer.name() == "end" { Err(Error::new("over")) } else { Ok(()) }
    }
}

impl Range {
    async fn heard(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.heard))
    }
    async fn save(&mut self, session: &Session, score: u32) -> Result<()> {
        self.score = score;
        session.save(&score).version(3).await
    }
    async fn kick(&mut self, session: &Session, client: String) -> Result<()> {
        session.kick(&client).await?;
        // It is told after this, in its turn.
        self.heard.push("kicked".into());
        Ok(())
    }
    async fn mute(&mut self, session: &Session, client: String) -> Result<()> {
        session.set_grants(&client, Grants::none()).await
    }
    async fn rules(&mut self, session: &Session, most: u32) -> Result<()> {
        session.set_max_clients(most).await?;
        session.lock_joining(most == 0).await?;
        session.set_grants("ann", Grants::none()).await?;
        session.set_labels([("most", most.to_string())]).await
    }
    async fn wrong(&mut self, session: &Session, (): ()) -> Result<Vec<String>> {
        let results = [
            session.save_bytes(vec![0; conductor_abi::rules::MAX_STATE + 1]).await,
            session.once("", Duration::ZERO).await,
            session.every("fast", Duration::from_millis(1)).await,
            session.kick("nobody").await,
            session.set_grants("nobody", Grants::all()).await,
            session.set_grants("ann", Grants::all().publish(["a#"])).await,
            session.set_labels([("", "x")]).await,
        ];
        Ok(results.into_iter().map(|result| result.unwrap_err().message().to_owned()).collect())
    }
}

fn heard(rig: &mut Rig) -> Vec<String> {
    serde_json::from_value(rig.request("heard", ()).unwrap()).unwrap()
}

#[test]
fn who_joins_again_may_do_what_it_could_before_unless_the_conductor_says_what() {
    for (client, then) in [("bob", Grants::none()), ("ann", Grants::all().publish(["buzz"])), ("chair", Grants::all())] {
        let mut rig = Rig::start::<Range>(()).unwrap();
        rig.join(client).unwrap();
        rig.request("mute", client).unwrap();
        rig.join(client).unwrap();
        assert_eq!(rig.grants(client), Some(then), "{client}");
    }
    let mut rig = Rig::start::<Range>(()).unwrap();
    rig.join("bob").unwrap();
    rig.request("mute", "bob").unwrap();
    rig.leave("bob", Leave::Expired).unwrap();
    rig.join("bob").unwrap();
    assert_eq!(rig.grants("bob"), Some(Grants::all()), "who comes back begins anew");
}

#[test]
fn clients_come_and_go_as_the_conductor_says() {
    let mut rig = Rig::start::<Range>(()).unwrap();
    rig.join("ann").unwrap();
    rig.join("bob").unwrap();
    assert_eq!((rig.grants("ann"), rig.grants("bob")), (Some(Grants::all().publish(["buzz"])), Some(Grants::all())));
    for (client, why) in [("mallory", "not you"), ("confused", "no idea"), ("astray", "/other/#")] {
        assert!(rig.join(client).unwrap_err().message().contains(why), "{client}");
        assert_eq!(rig.grants(client), None);
    }
    rig.connect("ann").unwrap();
    assert_eq!(rig.disconnect("ann").unwrap_err().message(), "told to who called");
    rig.leave("bob", Leave::Expired).unwrap();
    rig.request("kick", "ann").unwrap();
    assert_eq!(heard(&mut rig), ["connected ann", "disconnected ann", "left bob Expired", "kicked", "left ann Kicked"]);
    assert!(rig.connect("ann").is_err() && rig.request("kick", "ann").is_err());

    rig.join("ann").unwrap();
    rig.request("rules", 1).unwrap();
    assert_eq!((rig.grants("ann"), rig.labels()["most"].as_str()), (Some(Grants::none()), "1"));
    assert!(rig.join("bob").unwrap_err().message().contains("full"));
    rig.request("rules", 0).unwrap();
    assert!(rig.join("bob").unwrap_err().message().contains("locked"));
    rig.join("ann").unwrap();
    assert_eq!(rig.request("wrong", ()).unwrap().as_array().unwrap().len(), 7);
}

#[test]
fn timers_fire_in_their_order_and_survive_with_what_was_saved() {
    let mut rig = Rig::start::<Range>(()).unwrap();
    rig.advance(Duration::from_secs(9));
    assert!(heard(&mut rig).is_empty());
    rig.advance(Duration::from_secs(21));
    assert_eq!(heard(&mut rig), ["tick 0", "tick 0", "end 0", "tick 0"]);
    assert_eq!(rig.timers(), ["tick"]);
    assert!(rig.logged().iter().any(|line| line.level == 2 && line.message.contains("over")));
    assert!(rig.saved().is_none());
    rig.request("save", 17).unwrap();

    // Five due times pass: one is told, and the rhythm stays.
    rig.pass_down_time(Duration::from_secs(52));
    rig.restart::<Range>(()).unwrap();
    assert_eq!(heard(&mut rig), ["restored 17 v3", "tick 42000"]);
    rig.advance(Duration::from_secs(8));
    assert_eq!(heard(&mut rig), ["tick 0"]);
    rig.close(CloseReason::Requested).unwrap();
    assert!(rig.restart::<Range>(()).unwrap_err().is_closed());
    rig.advance(Duration::from_secs(100));
}
