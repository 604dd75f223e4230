use super::*;
use crate::prelude::*;

/// Has every hook, uses every call, and notes what it was told.
struct Steward(Vec<String>);

impl Service for Steward {
    type Config = ();

    async fn create(host: &Host, (): ()) -> Result<Self> {
        host.spawn(tick(host.clone()))?;
        Ok(Self(host.sessions().await?.iter().map(|session| format!("found {}", session.id())).collect()))
    }

    fn methods() -> Methods<Self, Host> {
        Methods::new().on("told", Self::told).on("make", Self::make).on("end", Self::end).on("ask", Self::ask).on("crash", Self::crash)
    }

    async fn message(&mut self, host: &Host, session: &str, message: &Message) -> Result<()> {
        let sender = message.sender().unwrap_or_default();
        let to = host.clients(session).await?.first().map(|client| client.id().to_owned()).unwrap_or_default();
        host.publish_to(session, &to, "heard", format!("{sender} {}", message.text()?)).qos(1).await
    }

    async fn session_opened(&mut self, _: &Host, opened: &SessionOpened) -> Result<()> {
        self.0.push(format!("opened {} {}", opened.id(), opened.type_name()));
        Ok(())
    }

    async fn session_closed(&mut self, host: &Host, closed: &SessionClosed) -> Result<()> {
        self.0.push(format!("closed {} {} {:?}", closed.id(), closed.type_name(), closed.reason()));
        if closed.reason() == CloseReason::Conductor { host.create_session("again").await.map(drop) } else { Err(Error::new("so be it")) }
    }

    async fn link(&mut self, _: &Host, link: Link) -> Result<()> {
        self.0.push(format!("{link:?}"));
        Ok(())
    }

    async fn close(&mut self, host: &Host, reason: CloseReason) -> Result<()> {
        for session in host.sessions().await? {
            host.publish(session.id(), "bye", format!("{reason:?}")).await?;
        }
        Ok(())
    }
}

impl Steward {
    async fn told(&mut self, _: &Host, (): ()) -> Result<Vec<String>> {
        Ok(std::mem::take(&mut self.0))
    }
    async fn make(&mut self, host: &Host, type_name: String) -> Result<String> {
        Ok(host.create_session(&type_name).await?.id().to_owned())
    }
    async fn end(&mut self, host: &Host, id: String) -> Result<()> {
        host.close_session(&id).await
    }
    async fn ask(&mut self, host: &Host, (id, method): (String, String)) -> Result<u32> {
        host.ask(&id, &method, [1, 2]).await
    }
    async fn crash(&mut self, _: &Host, (): ()) -> Result<()> {
        panic!("as ordered");
    }
}

async fn tick(host: Host) -> Result<()> {
    loop {
        host.sleep(Duration::from_secs(1)).await?;
        tracing::info!("{} of {}", host.sessions().await?.len(), host.name());
    }
}

fn told(rig: &mut ServiceRig) -> Vec<String> {
    serde_json::from_value(rig.request("told", ()).unwrap()).unwrap()
}

#[test]
fn a_service_sees_and_changes_all_sessions() {
    let mut rig = ServiceRig::start_among::<Steward>((), &["default"]).unwrap();
    let quiz = rig.open("quiz");
    assert_eq!(told(&mut rig), ["found 100001", "opened 100002 quiz"]);

    rig.join(&quiz, "ann").unwrap();
    rig.message(&quiz, "bob", "say", "hi").unwrap();
    let sent = rig.announced();
    assert_eq!((sent[0].session.as_str(), sent[0].client.as_deref(), sent[0].qos), ("100002", Some("ann"), 1));
    assert_eq!((sent[0].name.as_str(), sent[0].payload.as_slice()), ("heard", &b"bob hi"[..]));
    // Nobody has joined there.
    assert!(rig.message("100001", "bob", "say", "hi").unwrap_err().message().contains("needs that client's name"));

    assert_eq!(rig.request("make", "lobby").unwrap(), "100003");
    rig.request("end", "100001").unwrap();
    assert!(rig.request("end", "100001").unwrap_err().is_no_such_session());
    rig.end(&quiz, CloseReason::Conductor).unwrap();
    let expected = ["opened 100003 lobby", "closed 100001 default Requested", "closed 100002 quiz Conductor", "opened 100004 again"];
    assert_eq!(told(&mut rig), expected);
    assert_eq!((rig.created(), rig.closed()), (vec!["100003".to_owned(), "100004".to_owned()], vec!["100001".to_owned()]));
    assert_eq!(rig.sessions(), ["100003", "100004"]);

    rig.link(Link::Down).unwrap();
    assert_eq!(told(&mut rig), ["Down"]);
    rig.close(CloseReason::Replaced).unwrap();
    assert_eq!(rig.announced().iter().map(|sent| sent.payload.as_slice()).collect::<Vec<_>>(), [b"Replaced", b"Replaced"]);
    assert!(rig.request("told", ()).unwrap_err().is_closed());
}

#[test]
fn what_no_host_would_admit_is_refused() {
    let mut rig = ServiceRig::start_among::<Steward>((), &["default"]).unwrap();
    for client in ["", "a/#", "iotserver"] {
        assert!(rig.join("100001", client).is_err(), "{client:?}");
    }
    rig.join("100001", "ann").unwrap();
    for (name, bytes) in [("", 1), ("a/+", 1), ("say", rules::MAX_PAYLOAD + 1)] {
        assert!(rig.message("100001", "ann", name, vec![b'x'; bytes]).is_err(), "{name:?}, {bytes} bytes");
    }
    assert!(rig.announced().is_empty(), "the service did not hear of it");
    // With the sender's name before it, its answer is too long.
    let refused = rig.message("100001", "ann", "say", vec![b'x'; rules::MAX_PAYLOAD]).unwrap_err();
    assert!(refused.message().contains("longer than"), "{refused}");
    for name in ["", "a b", "a/b", &"x".repeat(65)] {
        assert!(rig.request("make", name).unwrap_err().message().contains("there is no type"), "{name:?}");
    }
    assert_eq!((rig.announced(), rig.created()), (Vec::new(), Vec::new()));
}

#[test]
fn conductors_answer_as_the_test_says() {
    let mut rig = ServiceRig::start_among::<Steward>((), &["default"]).unwrap();
    assert!(rig.request("ask", ("100001", "sum")).unwrap_err().message().contains("no method"));
    rig.answer(|asked| if asked.method == "sum" { Ok(3.into()) } else { Err(Error::new("no").with_code(7)) });
    assert_eq!(rig.request("ask", ("100001", "sum")).unwrap(), 3);
    assert_eq!(rig.request("ask", ("100001", "other")).unwrap_err().code(), 7);
    assert!(rig.request("ask", ("100009", "sum")).unwrap_err().is_no_such_session());
    let asked = rig.asked();
    assert_eq!((asked.len(), asked[1].method.as_str(), &asked[1].params), (3, "sum", &serde_json::json!([1, 2])));
}

#[test]
fn its_loop_runs_in_virtual_time_and_a_panic_ends_it() {
    let mut rig = ServiceRig::start_among::<Steward>((), &["default", "quiz"]).unwrap();
    rig.advance(Duration::from_millis(3500));
    assert_eq!(rig.tasks(), 1);
    let lines: Vec<_> = rig.logged().into_iter().map(|line| line.message).collect();
    assert!(lines == ["2 of test", "2 of test", "2 of test"], "{lines:?}");
    assert!(rig.request("crash", ()).unwrap_err().message().contains("as ordered"));
    assert_eq!((rig.tasks(), rig.open("default").as_str()), (0, "100003"));
    assert!(rig.request("told", ()).unwrap_err().message().contains("as ordered"));
}
