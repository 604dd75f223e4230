//! The host's own handling of services, with a real plugin and without the rest of a host: what is put in the place of a running one, what
//! does not keep up, and what is told of the link to a broker.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use conductor_abi::{
    abi_stable::std_types::RErr,
    contract::{self, HostObj},
    wire::{call, code},
};
use conductor_host::{
    broker::{Broker, BrokerError, Ended, Endpoints, Events, Message},
    conductors::{
        Trouble,
        catalog::{Catalog, Plugin, Type},
        library::Libraries,
        pool::Pool,
        services::{LibraryHost, SessionHost},
    },
    config::Settings,
    joins::{Joins, secret::Secrets},
    services::{Services, Wanted},
    sessions::{
        Caller, CloseReason, Limits, Manager, Session, SessionId, Status,
        clock::Clock,
        world::{Counts, World},
    },
    store::{self, Loaded},
    tokens::grant::Grant,
};
use conductor_tests::{artefacts, until};
use serde_json::{Value, json, value::RawValue};

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A broker outside, that nobody is connected to.
#[derive(Debug, Default)]
struct Outside {
    up: AtomicBool,
}

impl Broker for Outside {
    fn open_session(&self, _: SessionId) {}
    fn publish<'a>(&'a self, _: SessionId, _: &'a str, _: bytes::Bytes, _: u8, _: bool) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async { Ok(()) })
    }
    fn set_grant<'a>(&'a self, _: SessionId, _: &'a str, _: Grant) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
    fn kick<'a>(&'a self, _: SessionId, _: &'a str) -> BoxFuture<'a, Ended> {
        Box::pin(async { Ended::TokenOnly })
    }
    fn close_session(&self, _: SessionId) -> BoxFuture<'_, Ended> {
        Box::pin(async { Ended::TokenOnly })
    }
    fn connected(&self, _: SessionId) -> Option<Vec<Arc<str>>> {
        None
    }
    fn link(&self) -> Option<bool> {
        Some(self.up.load(Ordering::SeqCst))
    }
    fn endpoints(&self) -> Endpoints {
        Endpoints::default()
    }
    fn trouble(&self) -> Option<Arc<str>> {
        None
    }
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// What a host has of services, and the sessions behind them.
struct House {
    services: Arc<Services>,
    manager: Arc<Manager>,
    broker: Arc<Outside>,
    libraries: Libraries,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl House {
    /// With these services, by name and config.
    fn with(services: &[(&str, Value)]) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
        let libraries = LibraryHost::libraries(folder.path().join("plugins"), 3);
        let file = artefacts::plugin("conductor_test_steward");
        let wanted = services.iter().map(|(name, config)| wanted(&libraries, &file, name, config)).collect();
        let page = plugin(&libraries, &file, "page", &json!({}));
        let page = Type {
            name: "page".into(),
            plugin: Ok(page),
            deadline: Duration::from_secs(5),
            limits: Limits::default(),
            lane: Arc::default(),
        };
        let (broker, (store, _)) =
            (Arc::new(Outside::default()), store::open("memory:", Path::new("/"), Duration::from_secs(60), 0).unwrap());
        let (settings, _) = Settings::load(None, std::iter::empty(), &[]).unwrap();
        let pool = Pool::start(runtime.handle().clone()).unwrap();
        let manager = Manager::new(Catalog::new(vec![page]), Loaded::default(), |manager| World {
            pool,
            broker: broker.clone(),
            store,
            clock: Clock::system(),
            grant_ttl: Duration::from_secs(60),
            max_clients: 1000,
            joins: Joins::new(&settings.joins, Secrets::of(&[0; 32])),
            max_state: 1 << 20,
            limits: Limits::default(),
            id_digits: 6,
            pin_digits: 6,
            manager,
            counts: Counts::default(),
        });
        let services = Services::new(&manager, wanted);
        Self { services, manager, broker, libraries, runtime, folder }
    }

    fn start(&self) -> Result<(), Vec<String>> {
        self.runtime.block_on(self.services.start())
    }

    fn ask(&self, service: &str, method: &str, params: &Value) -> Result<Value, String> {
        let asked = self.services.request(service, method.to_owned(), params.to_string().into(), Caller::host());
        let answer = self.runtime.block_on(asked).map_err(|refused| refused.to_string())?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    fn told(&self, service: &str) -> Vec<String> {
        serde_json::from_value(self.ask(service, "told", &Value::Null).unwrap()).unwrap()
    }

    fn open(&self) -> Arc<Session> {
        self.runtime.block_on(self.manager.create("page", Caller::host())).unwrap()
    }

    fn say(&self, session: &Session, payload: &'static [u8]) {
        let topic = format!("/{}/say", session.id());
        let (payload, client_id) = (payload.into(), Some("ann".into()));
        self.manager.message(Message { session: session.id(), topic, payload, qos: 0, retain: false, client_id, will: false });
    }

    fn state(&self, service: &str) -> Status {
        self.services.get(service).unwrap().status()
    }

    fn replace(&self, file: &Path, name: &str, config: Value) -> Result<(), Trouble> {
        self.runtime.block_on(self.services.replace(wanted(&self.libraries, file, name, &config)))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            self.services.stop().await;
            self.manager.stop().await;
        });
        self.manager.world().pool.stop();
    }
}

fn plugin(libraries: &Libraries, file: &Path, offered: &str, config: &Value) -> Plugin {
    let library = libraries.load(file, None).unwrap();
    let offers: BTreeMap<_, _> = {
        let manifest = library.manifest();
        manifest.conductors.iter().chain(&manifest.services).map(|offer| (offer.name.clone(), offer.clone())).collect()
    };
    let config = RawValue::from_string(config.to_string()).unwrap();
    Plugin { library, conductor: offered.to_owned(), manifest: offers[offered].clone(), config }
}

/// The service `steward` as `name`; with `{}` as config it does nothing special. `deadline` in the config is the settings' one, in ms.
fn wanted(libraries: &Libraries, file: &Path, name: &str, config: &Value) -> Wanted {
    let mut config = config.clone();
    let deadline = config.as_object_mut().unwrap().remove("deadline").and_then(|deadline| deadline.as_u64()).unwrap_or(5000);
    let plugin = Ok(Arc::new(plugin(libraries, file, "steward", &config)));
    Wanted { name: name.into(), plugin, deadline: Duration::from_millis(deadline), required: true }
}

#[test]
fn a_service_is_replaced_by_a_newer_build_and_comes_back_where_that_fails() {
    let house = House::with(&[("steward", json!({ "mark": "old" })), ("other", json!({}))]);
    house.start().unwrap();
    let session = house.open();
    assert_eq!(house.ask("steward", "mark", &Value::Null).unwrap(), "steward old");

    // Another file: what stands behind a library's end changes nothing but its hash.
    let newer = house.folder.path().join("libnewer.so");
    let mut bytes = fs::read(artefacts::plugin("conductor_test_steward")).unwrap();
    bytes.extend(b"newer");
    fs::write(&newer, bytes).unwrap();
    let hash = |name: &str| house.services.get(name).unwrap().plugin().as_ref().unwrap().library.hash();
    let old = hash("steward");
    let other = house.services.get("other").unwrap();
    house.replace(&newer, "steward", json!({ "mark": "new" })).unwrap();
    assert_eq!(house.ask("steward", "mark", &Value::Null).unwrap(), "steward new");
    assert!(hash("steward") != old && hash("other") == old);
    assert_eq!(house.told("steward"), [format!("found {}", session.id()), "link Down".to_owned()]);
    house.say(&session, b"hi");
    assert_eq!(house.told("steward"), [format!("message {} say ann hi", session.id())]);

    // One that cannot be made leaves the place to the old one, which is made again.
    let new = hash("steward");
    for config in [json!({ "fail": "no key today" }), json!({ "panic": true }), json!({ "block": 1500, "deadline": 100 })] {
        let why = house.replace(&artefacts::plugin("conductor_test_steward"), "steward", config).unwrap_err().to_string();
        assert!(["no key today", "as ordered", "deadline"].iter().any(|words| why.contains(words)), "{why}");
        assert_eq!(house.ask("steward", "mark", &Value::Null).unwrap(), "steward new");
        assert_eq!((hash("steward"), house.state("steward")), (new, Status::Live));
        house.say(&session, b"again");
        assert_eq!(house.ask("steward", "heard", &Value::Null).unwrap(), 1);
    }
    // Without a plugin, the running one is not touched.
    let nothing = Wanted { plugin: Err("no such file".into()), ..wanted(&house.libraries, &newer, "steward", &json!({})) };
    let why = house.runtime.block_on(house.services.replace(nothing)).unwrap_err();
    assert!(why.to_string().contains("no such file"), "{why}");
    assert_eq!(house.ask("steward", "heard", &Value::Null).unwrap(), 1);

    // A new name is added, a faulted one replaced; the others have not noticed.
    house.replace(&newer, "added", json!({ "mark": "added" })).unwrap();
    assert_eq!(house.ask("added", "mark", &Value::Null).unwrap(), "added added");
    assert!(house.ask("added", "panic", &Value::Null).unwrap_err().contains("as ordered"));
    house.replace(&newer, "added", json!({})).unwrap();
    assert_eq!(house.state("added"), Status::Live);
    assert!(Arc::ptr_eq(&other, &house.services.get("other").unwrap()) && other.status() == Status::Live);
    // Once the host stops, nothing is made any more: nobody would close it.
    house.runtime.block_on(house.services.stop());
    let why = house.replace(&newer, "steward", json!({ "mark": "late" })).unwrap_err();
    assert!(matches!(why, Trouble::Closed) && house.state("steward") == Status::Gone, "{why}");
}

#[test]
fn a_service_that_does_not_keep_up_loses_messages_and_holds_nobody_up() {
    const SENT: u64 = 20_000;
    let house = House::with(&[("steward", json!({})), ("quick", json!({ "mark": "quick" }))]);
    house.start().unwrap();
    let session = house.open();
    assert_eq!(house.told("steward").last().unwrap(), &format!("opened {} page", session.id()));
    let blocked = std::thread::scope(|scope| {
        let blocked = scope.spawn(|| house.ask("steward", "block", &json!(1500)));
        until("the block", || house.services.get("steward").filter(|_| house.ask("quick", "mark", &Value::Null).is_ok()));
        let begun = Instant::now();
        let mut sent = 0;
        // It may not be in its handler yet; what it still hears before, it hears.
        while sent < SENT || house.services.get("steward").unwrap().dropped() == 0 {
            house.say(&session, &[b'x'; 200]);
            sent += 1;
        }
        let spent = begun.elapsed();
        // What is told once has room.
        let late = house.open();
        let closing = house.manager.close(late.id(), CloseReason::Requested, Caller::host());
        house.runtime.block_on(closing).unwrap();
        assert!(spent < Duration::from_millis(1400), "the sender was held up: {spent:?}");
        (blocked.join().unwrap(), sent, late.id())
    });
    let (answer, sent, late) = blocked;
    assert_eq!(answer.unwrap(), Value::Null);
    let dropped = house.services.get("steward").unwrap().dropped();
    // While its mailbox is full, requests are refused.
    let heard = |name: &str| house.ask(name, "heard", &Value::Null).ok().and_then(|heard| heard.as_u64());
    let heard_by_it = until("all that waited", || heard("steward").filter(|heard| heard + dropped == sent));
    assert!((16_000..sent).contains(&heard_by_it), "{heard_by_it} heard, {dropped} dropped of {sent}");
    assert_eq!(house.told("steward"), [format!("opened {late} page"), format!("closed {late} page Requested")]);
    // The other service had its own room.
    let quick = house.services.get("quick").unwrap().dropped();
    until("the other one", || heard("quick").filter(|heard| heard + quick == sent));
}

#[test]
fn the_link_to_a_broker_outside_is_told() {
    let house = House::with(&[("steward", json!({}))]);
    house.start().unwrap();
    house.broker.up.store(true, Ordering::SeqCst);
    house.manager.link(true);
    let told = until("two words", || {
        // The first may have been told before the link came up, or after.
        let told = house.told("steward");
        told.ends_with(&["link Up".to_owned()]).then_some(told)
    });
    assert!(told.len() <= 2, "{told:?}");
}

#[test]
fn a_start_waits_for_no_service_that_blocks_and_names_all_that_fail() {
    let house = House::with(&[
        ("blocks", json!({ "block": 3000, "deadline": 100 })),
        ("fails", json!({ "fail": "no key today" })),
        ("good", json!({})),
    ]);
    let begun = Instant::now();
    let failed = house.start().unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(failed, ["service blocks: it was not made within its deadline", "service fails: no key today"]);
    assert_eq!(house.ask("good", "mark", &Value::Null).unwrap(), "good none");
    assert_eq!(house.services.trouble().len(), 2);
    // What was made too late is not there: its conductor is dropped, and it hears nothing.
    house.runtime.block_on(house.services.stop());
    assert_eq!(
        (house.state("good"), house.ask("good", "mark", &Value::Null).unwrap_err()),
        (Status::Gone, "the service good: it is closed".into())
    );
}

#[test]
fn a_conductor_cannot_do_what_a_service_can() {
    let house = House::with(&[]);
    let (session, other) = (house.open(), house.open());
    let host = HostObj::new(SessionHost::new(&session, session.life()));
    let code = |event: contract::Event<'_>| match house.runtime.block_on(host.call(event)) {
        RErr(failure) => failure.code,
        _ => 0,
    };
    for kind in [call::SESSIONS, call::CREATE_SESSION, call::CLOSE_SESSION, call::ASK] {
        assert_eq!(code(contract::Event::new(kind)), code::UNSUPPORTED, "{kind}");
    }
    let publish = |session: &Session| {
        let meta = json!({ "qos": 0, "session": session.id().to_string() }).to_string();
        code(contract::Event { subject: "news".into(), meta: meta.as_bytes().into(), ..contract::Event::new(call::PUBLISH) })
    };
    assert_eq!((publish(&session), publish(&other)), (0, code::REFUSED));
}
