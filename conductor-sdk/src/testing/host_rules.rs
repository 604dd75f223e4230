//! The rig keeps the host's rules: deadlines, panics, grants, limits, the store behind the session.

use std::{future::IntoFuture as _, sync::mpsc, thread, time::Instant};

use conductor_abi::rules;
use tracing::Level;

use super::*;
use crate::{Grants, Join, Joining, Left, Message, Methods, Timer};

thread_local! {
    /// What an author may have kept of the session that was made last.
    static KEPT: std::cell::RefCell<Option<Session>> = const { std::cell::RefCell::new(None) };
}

/// Does what it is told, in words.
struct Actor {
    heard: Vec<String>,
}

impl Conductor for Actor {
    type Config = ();
    async fn create(session: &Session, (): ()) -> Result<Self> {
        KEPT.with(|kept| *kept.borrow_mut() = Some(session.clone()));
        let refused = session.close().await.unwrap_err();
        Ok(Self { heard: vec![refused.message().to_owned()] })
    }
    async fn restore(_: &Session, (): (), saved: Saved) -> Result<Self> {
        Ok(Self { heard: vec![format!("restored {:?} v{}", saved.bytes(), saved.version())] })
    }
    fn methods() -> Methods<Self> {
        Methods::new().on("do", Self::act).on("heard", Self::heard)
    }
    async fn joining(&mut self, _: &Session, joining: &Joining) -> Result<Join> {
        self.heard.push(format!("joining {} from {}", joining.client(), joining.peer().unwrap_or_default()));
        Ok(if joining.client() == "ann" { Grants::all().publish(["buzz", "team/+"]).into() } else { Join::accept() })
    }
    async fn left(&mut self, _: &Session, left: &Left) -> Result<()> {
        self.heard.push(format!("left {} {:?}", left.client(), left.reason()));
        Ok(())
    }
    async fn message(&mut self, _: &Session, message: &Message) -> Result<()> {
        let (qos, retain, will) = (message.qos(), message.is_retained(), message.is_will());
        self.heard.push(format!("{:?} {} {qos} {retain} {will}", message.sender(), message.name()));
        Ok(())
    }
    async fn timer(&mut self, _: &Session, timer: &Timer) -> Result<()> {
        self.heard.push(format!("timer {}", timer.name()));
        Ok(())
    }
    async fn close(&mut self, session: &Session, _: CloseReason) -> Result<()> {
        let saved = session.save(&"the end").await;
        session.publish("saved", saved.map_or_else(|error| error.message().to_owned(), |()| "yes".to_owned())).await
    }
}

impl Actor {
    async fn heard(&mut self, _: &Session, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.heard))
    }

    async fn act(&mut self, session: &Session, what: String) -> Result<String> {
        match what.as_str() {
            "wait for ever" => std::future::pending::<()>().await,
            "sleep a minute" => session.sleep(Duration::from_secs(60)).await?,
            "wait for a thread" => {
                let waiting = Arc::new(Mutex::new(None::<std::task::Waker>));
                let of_thread = waiting.clone();
                let (begin, begun) = mpsc::channel();
                let other = thread::spawn(move || {
                    begun.recv().unwrap();
                    of_thread.lock().unwrap().take().unwrap().wake();
                });
                let mut polls = 0;
                std::future::poll_fn(|cx| {
                    polls += 1;
                    if polls > 1 {
                        return std::task::Poll::Ready(());
                    }
                    *waiting.lock().unwrap() = Some(cx.waker().clone());
                    begin.send(()).unwrap();
                    std::task::Poll::Pending
                })
                .await;
                other.join().unwrap();
            }
            "panic in a task" => drop(session.spawn(async { panic!("in a task") })?),
            "wait in a task" => drop(session.spawn(std::future::pending::<()>())?),
            "fail in a task" => drop(session.spawn(async { Err(Error::new("no luck")) })?),
            "spawn too many" => {
                for _ in 0..rules::MAX_TASKS {
                    session.spawn(std::future::pending::<()>())?;
                }
                return Ok(session.spawn(async {}).unwrap_err().message().to_owned());
            }
            "answer too much" => return Ok("x".repeat(rules::MAX_REPLY)),
            "say too much" => return Ok(session.publish("x", vec![0; rules::MAX_PAYLOAD + 1]).await.unwrap_err().message().to_owned()),
            "save bytes" => session.save_bytes([0xff, 1]).version(4).await?,
            "labels and timers" => {
                session.set_labels([("phase", "one")]).await?;
                session.every("tick", Duration::from_secs(10)).await?;
                session.once("soon", Duration::from_secs(3)).await?;
                session.set_max_clients(2).await?;
            }
            "close" => session.close().await?,
            other => return Err(Error::new(format!("what is {other:?}?"))),
        }
        Ok(String::new())
    }
}

fn start() -> Rig {
    Rig::start::<Actor>(()).unwrap()
}

fn act(rig: &mut Rig, what: &str) -> Result<Value> {
    rig.request("do", what)
}

fn heard(rig: &mut Rig) -> Vec<String> {
    serde_json::from_value(rig.request("heard", ()).unwrap()).unwrap()
}

#[test]
fn what_takes_longer_than_its_deadline_is_given_up_at_once() {
    let (mut rig, begun) = (start(), Instant::now());
    for what in ["wait for ever", "sleep a minute"] {
        let before = lock(&rig.state).now;
        let given_up = act(&mut rig, what).unwrap_err();
        assert_eq!((given_up.code(), given_up.message()), (code::DEADLINE, rules::GIVEN_UP), "{what}");
        assert_eq!(lock(&rig.state).now - before, rules::DEADLINE, "{what}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "in virtual time, not in real time");
    // The conductor goes on, and what comes in time is not given up.
    rig.set_deadline(Duration::from_secs(61));
    act(&mut rig, "sleep a minute").unwrap();
    act(&mut rig, "wait for a thread").unwrap();

    struct Never;
    impl Conductor for Never {
        type Config = ();
        async fn create(_: &Session, (): ()) -> Result<Self> {
            std::future::pending().await
        }
    }
    assert_eq!(Rig::start::<Never>(()).unwrap_err().message(), rules::GIVEN_UP);
}

#[test]
fn a_panic_in_a_task_faults_the_session_and_joins_are_refused_where_they_are_asked_about() {
    let mut rig = start();
    rig.join("ann").unwrap();
    act(&mut rig, "fail in a task").unwrap();
    rig.tasks();
    rig.expect_logged(Level::WARN, "no luck");
    act(&mut rig, "labels and timers").unwrap();
    act(&mut rig, "panic in a task").unwrap();
    rig.tasks();
    rig.expect_logged(Level::ERROR, "in a task");
    assert!(rig.join("bob").unwrap_err().message().contains("panic: in a task at "));
    assert!(rig.request("heard", ()).unwrap_err().message().contains("in a task"));
    // Nothing may be asked any more, the time apart.
    let kept = KEPT.with(|kept| kept.borrow_mut().take()).unwrap();
    assert!(rig.run(kept.save(&1).into_future(), rules::DEADLINE).unwrap().unwrap_err().is_closed());
    assert!(kept.spawn(async {}).unwrap_err().is_closed());
    assert_eq!(kept.now().duration_since(std::time::UNIX_EPOCH).unwrap(), lock(&rig.state).now);
    // Told to nobody, and no fault of anybody.
    rig.advance(Duration::from_secs(30));
    rig.leave("ann", crate::Leave::Expired).unwrap_err();
    assert!(rig.logged().iter().all(|line| !line.message.contains("failed at")));
    rig.close(CloseReason::Requested).unwrap();

    struct Open;
    impl Conductor for Open {
        type Config = ();
        async fn create(_: &Session, (): ()) -> Result<Self> {
            Ok(Self)
        }
        fn methods() -> Methods<Self> {
            Methods::new().on("panic", Self::panic)
        }
    }
    impl Open {
        async fn panic(&mut self, _: &Session, (): ()) -> Result<()> {
            panic!("here")
        }
    }
    let mut rig = Rig::start::<Open>(()).unwrap();
    rig.request("panic", ()).unwrap_err();
    rig.join("ann").unwrap();
    rig.message("ann", "x", "").unwrap();
    assert_eq!(rig.clients(), ["ann"]);
}

#[test]
fn messages_come_as_they_were_sent_and_as_grants_allow() {
    let mut rig = start();
    rig.join_from("ann", "10.0.0.7:1").unwrap();
    rig.join("bob").unwrap();
    rig.send(Sent::by("ann", "buzz", "").qos(2).retained().as_will()).unwrap();
    rig.message("ann", "team/red", "").unwrap();
    for name in ["team", "team/red/1", "score", "a+", ""] {
        assert!(rig.message("ann", name, "").is_err(), "{name}");
    }
    rig.send(Sent::by_somebody("score", "")).unwrap();
    let expected = [
        rules::NOT_CLOSABLE,
        "joining ann from 10.0.0.7:1",
        "joining bob from 192.0.2.1:50000",
        "Some(\"ann\") buzz 2 true true",
        "Some(\"ann\") team/red 0 false false",
        "None score 0 false false",
    ];
    assert_eq!(heard(&mut rig), expected);
}

#[test]
fn grants_end_after_a_day() {
    let mut rig = start();
    rig.join("ann").unwrap();
    rig.advance(Duration::from_secs(3600));
    rig.join("bob").unwrap();
    heard(&mut rig);
    rig.advance(rules::GRANT_TTL - Duration::from_secs(3600));
    assert_eq!((rig.clients(), heard(&mut rig)), (vec!["bob".to_owned()], vec!["left ann Expired".to_owned()]));
}

#[test]
fn limits_are_those_of_the_host() {
    let mut rig = start();
    assert_eq!(act(&mut rig, "spawn too many").unwrap(), rules::TOO_MANY_TASKS);
    assert_eq!(rig.tasks(), rules::MAX_TASKS);
    // With its quotes it is longer than the limit.
    assert!(act(&mut rig, "answer too much").unwrap_err().message().contains("at most"));
    assert!(act(&mut rig, "say too much").unwrap().as_str().unwrap().contains("longer than"));
}

#[test]
fn what_ends_cannot_be_saved_and_what_only_stops_can() {
    let ends = [CloseReason::Requested, CloseReason::Conductor, CloseReason::Expired].map(|reason| (reason, rules::NOT_STORED));
    let stops = [CloseReason::HostStopping, CloseReason::Replaced].map(|reason| (reason, "yes"));
    for (reason, saved) in ends.into_iter().chain(stops) {
        let mut rig = start();
        rig.close(reason).unwrap();
        rig.expect_published("saved", saved);
        rig.expect_nothing_published();
        assert_eq!(rig.saved().is_some(), saved == "yes");
    }
    let mut rig = start();
    act(&mut rig, "close").unwrap();
    assert!(act(&mut rig, "save bytes").unwrap_err().is_closed());
    rig.close(CloseReason::Conductor).unwrap();
    rig.expect_published("saved", rules::NOT_STORED);
    assert!(rig.close(CloseReason::Requested).unwrap_err().is_closed());
}

#[test]
fn who_no_host_would_let_in_does_not_join_and_what_no_broker_takes_is_not_heard() {
    let mut rig = start();
    for client in ["", "a/#", "iotserver", " ", &"x".repeat(65)] {
        assert_eq!(rig.join(client).unwrap_err().message(), rules::client(client).unwrap_err());
    }
    assert!(rig.clients().is_empty());
    assert!(rig.message("ann", "x", vec![0; rules::MAX_PAYLOAD + 1]).unwrap_err().message().contains("longer than"));
    rig.message("ann", "x", vec![0; rules::MAX_PAYLOAD]).unwrap();
    assert_eq!(heard(&mut rig), [rules::NOT_CLOSABLE, "Some(\"ann\") x 0 false false"]);
}

#[test]
fn a_session_moves_to_newer_code_with_all_that_it_has() {
    let mut rig = start();
    rig.join("ann").unwrap();
    act(&mut rig, "labels and timers").unwrap();
    act(&mut rig, "wait in a task").unwrap();
    assert_eq!(rig.tasks(), 1);
    let old = KEPT.with(|kept| kept.borrow_mut().take()).unwrap();
    rig.replace::<Actor>(()).unwrap();
    rig.expect_published("saved", "yes");
    assert_eq!((rig.tasks(), old.spawn(async {}).unwrap_err().is_closed()), (0, true), "the old one is over");
    assert_eq!((rig.clients(), rig.grants("ann").unwrap()), (vec!["ann".to_owned()], Grants::all().publish(["buzz", "team/+"])));
    assert_eq!((rig.timers().len(), rig.labels()["phase"].as_str()), (2, "one"));
    rig.advance(Duration::from_secs(3));
    assert_eq!(heard(&mut rig), [format!("restored {:?} v0", b"\"the end\""), "timer soon".to_owned()]);

    // One that panicked is not told, and made anew from what it saved before.
    act(&mut rig, "panic in a task").unwrap();
    rig.tasks();
    rig.replace::<Actor>(()).unwrap();
    rig.expect_nothing_published();
    act(&mut rig, "save bytes").unwrap();
    rig.close(CloseReason::Requested).unwrap();
    assert!(rig.replace::<Actor>(()).unwrap_err().is_closed());
}

/// Does in its `close` what a host allows there while newer code takes over.
struct Parting;

impl Conductor for Parting {
    type Config = String;
    async fn create(session: &Session, what: String) -> Result<Self> {
        session.set_labels([("what", what)]).await?;
        Ok(Self)
    }
    async fn left(&mut self, session: &Session, left: &Left) -> Result<()> {
        session.publish("left", left.client()).await
    }
    async fn close(&mut self, session: &Session, _: CloseReason) -> Result<()> {
        session.kick("ann").await?;
        session.set_grants("bob", Grants::none()).await?;
        match session.clients().len() {
            1 => Err(Error::new("so be it")),
            _ => session.close().await,
        }
    }
}

#[test]
fn what_a_conductor_does_while_it_is_replaced_counts() {
    let mut rig = Rig::start::<Parting>("old").unwrap();
    rig.join("ann").unwrap();
    rig.join("bob").unwrap();
    rig.replace::<Parting>("new").unwrap();
    rig.expect_logged(Level::WARN, "so be it");
    rig.expect_published("left", "ann");
    assert_eq!((rig.grants("bob"), rig.labels()["what"].as_str()), (Some(Grants::none()), "new"));

    rig.join("ann").unwrap();
    rig.join("cleo").unwrap();
    assert!(rig.replace::<Parting>("newer").unwrap_err().is_closed(), "it closed its session");
    assert!(rig.is_closed() && rig.labels()["what"] == "new");
}

#[test]
fn a_snapshot_is_the_session_again() {
    let mut rig = start();
    rig.join("ann").unwrap();
    rig.advance(Duration::from_secs(100));
    act(&mut rig, "labels and timers").unwrap();
    act(&mut rig, "save bytes").unwrap();
    let snapshot = rig.snapshot();
    let mut again = Rig::start_from_snapshot::<Actor>((), &snapshot).unwrap();
    assert_eq!(again.snapshot(), snapshot);
    assert_eq!((again.clients(), again.grants("ann"), again.labels()), (rig.clients(), rig.grants("ann"), rig.labels()));
    assert_eq!((again.timers(), again.saved()), (rig.timers(), rig.saved()));
    again.join("bob").unwrap();
    assert_eq!(again.join("cleo").unwrap_err().message(), rules::FULL);
    heard(&mut again);
    again.advance(Duration::from_secs(10));
    assert_eq!(heard(&mut again), ["timer soon", "timer tick"]);
    assert!(Rig::start_from_snapshot::<Actor>((), "{}").unwrap_err().message().contains("no snapshot"));
}

/// Never changed: a plugin's author keeps such files.
#[test]
fn a_snapshot_of_the_first_version_is_read() {
    let kept = r#"{"time":1000000100000,"clients":[{"id":"ann","grants":{"publish":["buzz"]},"expires_at":1000086400}],
        "rules":{"locked":true,"max_clients":3},"labels":{"phase":"one"},
        "timers":[{"name":"late","due":1000000000000},{"name":"tick","due":1000000110000,"every":10000}],
        "saved":{"version":4,"bytes":[255,1]}}"#;
    let mut rig = Rig::start_from_snapshot::<Actor>((), kept).unwrap();
    assert_eq!(heard(&mut rig), ["restored [255, 1] v4", "timer late"]);
    assert_eq!((rig.grants("ann"), rig.timers()), (Some(Grants::all().publish(["buzz"])), vec!["tick".to_owned()]));
    assert_eq!(rig.join("bob").unwrap_err().message(), rules::LOCKED);
    let text = kept.replace(r#""bytes":[255,1]"#, r#""text":"AB""#);
    let rig = Rig::start_from_snapshot::<Actor>((), text).unwrap();
    assert_eq!(rig.saved().unwrap().bytes(), b"AB");
}

#[test]
fn an_expectation_that_fails_tells_the_whole_session() {
    let mut rig = start();
    rig.join("ann").unwrap();
    act(&mut rig, "labels and timers").unwrap();
    act(&mut rig, "save bytes").unwrap();
    lock(&rig.state).published.push(Published { client: None, name: "lamp".into(), payload: b"off".to_vec(), qos: 1, retain: true });
    lock(&rig.state).logged.push(Logged { level: 3, message: "made".into() });
    let failed = |check: &mut dyn FnMut(&mut Rig), rig: &mut Rig| {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(rig))).unwrap_err();
        panicked.downcast_ref::<String>().unwrap().clone()
    };
    let first = failed(&mut |rig| drop(rig.expect_published("lamp", "on")), &mut rig);
    let expected = r#"no message "lamp" with the payload "on" was published
the session at 1000000000.000 s, 0 tasks:
  conductor live
  published "lamp": "off" (QoS 1, retained)
  logged    INFO made
  clients   ann: subscribe all, publish ["buzz", "team/+"]
  kicked    nothing
  timers    "soon" in 3s
            "tick" in 10s, then every 10s
  labels    "phase" = "one"
  saved     version 4: [255, 1]… (2 bytes)
"#;
    assert_eq!(first, expected);
    let others: [&mut dyn FnMut(&mut Rig); 3] = [
        &mut |rig| drop(rig.expect_published_to("ann", "lamp", "off")),
        &mut |rig| drop(rig.expect_logged(Level::WARN, "made")),
        &mut Rig::expect_nothing_published,
    ];
    for check in others {
        assert!(failed(check, &mut rig).contains("the session at "));
    }
    rig.expect_logged(Level::INFO, "ma");
    rig.expect_published("lamp", "off");
    rig.expect_nothing_published();
}
