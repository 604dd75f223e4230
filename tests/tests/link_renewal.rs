//! What is lost while the link renews its token, while the broker's certificate changes and while the broker is away: counted, by QoS.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]
#![expect(clippy::print_stderr, reason = "the figures are the point")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use conductor_tests::{
    Credentials, Host, Mqtt, Session, Version, Way,
    certs::Authority,
    link::{external, wait_down, wait_up},
    mosquitto::Mosquitto,
    mqtt::topic,
    until,
};
use serde_json::json;

/// What a device published, and was acknowledged where its QoS has that.
type Sent = BTreeSet<String>;

/// Three devices, one for each QoS, that publish without pause.
struct Crowd {
    stop: Arc<AtomicBool>,
    devices: Vec<JoinHandle<Sent>>,
}

impl Crowd {
    fn start(broker: SocketAddr, session: &Session, round: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let devices = (0..=2).map(|qos| {
            let (stop, topic) = (stop.clone(), topic(session, &format!("q{qos}")));
            let name = format!("{round}-{qos}");
            thread::spawn(move || {
                let mut device = Mqtt::connect_to(broker, Version::V5, Way::Tcp, &Credentials::new(&name, "", "")).unwrap();
                let mut sent = Sent::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = format!("{name}-{number}");
                    match device.try_publish(&topic, &payload, qos, false) {
                        Ok(true) => sent.insert(payload),
                        // The broker is gone.
                        _ => break,
                    };
                    thread::sleep(Duration::from_millis(3));
                }
                sent
            })
        });
        let devices = devices.collect();
        Self { stop, devices }
    }

    /// What each sent, by QoS.
    fn stop(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.devices.into_iter().map(|device| device.join().unwrap()).collect()
    }
}

/// How often the conductor heard each message.
fn heard(host: &Host, session: &Session) -> BTreeMap<String, u32> {
    let mut heard = BTreeMap::new();
    for message in host.ask(session, "heard", "").as_array().unwrap() {
        *heard.entry(message["payload"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    heard
}

/// Waits until all that is to come has come, which a last message shows, and tells what was lost and what came twice, by QoS.
fn count(host: &Host, broker: SocketAddr, session: &Session, sent: &[Sent], what: &str) -> [(usize, usize); 3] {
    let mut last = Mqtt::connect_to(broker, Version::V5, Way::Tcp, &Credentials::new("last", "", "")).unwrap();
    let end = format!("end of {what}");
    assert!(last.publish(&topic(session, "end"), &end, 1, false));
    let heard = until("the last message", || Some(heard(host, session)).filter(|heard| heard.contains_key(&end)));
    std::array::from_fn(|qos| {
        let lost = sent[qos].iter().filter(|message| !heard.contains_key(*message)).count();
        let twice = sent[qos].iter().filter(|message| heard.get(*message).is_some_and(|times| *times > 1)).count();
        eprintln!("{what}: QoS {qos}: {} sent, {lost} lost, {twice} heard twice", sent[qos].len());
        (lost, twice)
    })
}

#[test]
fn renewing_the_token_and_changing_the_certificate_lose_nothing() {
    let authority = Authority::new("of the broker");
    let secure = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = Mosquitto::start(|folder, port| {
        authority.write(folder);
        authority.issue(folder, "server", &["localhost"]);
        let folder = folder.display();
        format!(
            "set_tcp_nodelay true\nallow_anonymous true\nmax_queued_messages 0\nlistener {port} 127.0.0.1\nlistener {secure} 127.0.0.1\n\
             certfile {folder}/server.pem\nkeyfile {folder}/server-key.pem\n"
        )
    });
    let options = external(&format!("mqtts://localhost:{secure}"))
        .set("mqtt.ca", json!(broker.folder().join("ca.pem")))
        .set("token.ttl", json!("3s"))
        .set("log.level", json!("debug"));
    let host = Host::start(options);
    wait_up(&host);
    let session = host.create("echo");
    let renewed = || host.log().matches("the link's token is renewed").count();
    let crowd = Crowd::start(broker.address, &session, "renewal");
    // The second is made with the certificate that there is then.
    until("a renewal", || (renewed() >= 1).then_some(()));
    authority.issue(broker.folder(), "server", &["localhost"]);
    broker.reload();
    // The conductor speaks as well, meanwhile.
    let mut listener = Mqtt::connect_to(broker.address, Version::V5, Way::Tcp, &Credentials::new("listener", "", "")).unwrap();
    assert!(listener.subscribe(&topic(&session, "said"), 2));
    let mut said = 0;
    until("three renewals", || {
        let often = json!({"name": "said", "payload": "", "qos": 1 + said % 2, "times": 20});
        assert_eq!(host.request(&session, "say_often", often).status, 200);
        said += 1;
        (renewed() >= 3).then_some(())
    });
    let by_qos = |said: u64| [said.div_ceil(2) * 20, said / 2 * 20];
    let mut arrived = [0, 0];
    while arrived[0] < by_qos(said)[0] || arrived[1] < by_qos(said)[1] {
        arrived[usize::from(listener.message().qos) - 1] += 1;
    }
    eprintln!("said by the conductor at QoS 1 and 2: {:?}, arrived: {arrived:?}", by_qos(said));
    assert_eq!(arrived[1], by_qos(said)[1], "at QoS 2 once each");
    let sent = crowd.stop();
    let counts = count(&host, broker.address, &session, &sent, "renewals");
    assert!(sent.iter().all(|sent| sent.len() > 100), "there was something to lose");
    for (qos, (lost, twice)) in counts.into_iter().enumerate() {
        assert!(qos == 0 || lost == 0, "QoS {qos}: {lost} lost");
        assert!(qos != 2 || twice == 0, "QoS {qos}: {twice} heard twice");
        // At QoS 0 the broker may drop what it was just writing.
        assert!(lost < 10, "QoS {qos}: {lost} lost in three renewals");
    }
    assert!(!host.log().contains("the link to the MQTT broker is down"), "the link was up all the time");
    assert_eq!(host.ask(&session, "links", ""), json!([]));
}

#[test]
fn what_a_killed_broker_loses_is_counted_and_the_link_is_soon_back() {
    for (what, persistence) in [("a broker that forgets", ""), ("a broker that saves", "persistence true\nautosave_interval 1\n")] {
        let mut broker = Mosquitto::start(|folder, port| {
            let folder = folder.display();
            format!("{persistence}persistence_location {folder}/\nset_tcp_nodelay true\nallow_anonymous true\nlistener {port} 127.0.0.1\n")
        });
        let host = Host::start(external(&format!("mqtt://{}", broker.address)).set("log.level", json!("debug")));
        wait_up(&host);
        let session = host.create("echo");
        if !persistence.is_empty() {
            until("the broker to save", || broker.log().contains("Saving in-memory database").then_some(()));
        }
        let crowd = Crowd::start(broker.address, &session, "before");
        until("some messages", || (heard(&host, &session).len() > 100).then_some(()));
        broker.kill();
        wait_down(&host, "");
        let before = crowd.stop();
        broker.start_again();
        let returned = Instant::now();
        let crowd = Crowd::start(broker.address, &session, "after");
        until("a message through", || heard(&host, &session).keys().any(|message| message.starts_with("after")).then_some(()));
        let first = returned.elapsed();
        wait_up(&host);
        let after = crowd.stop();
        eprintln!("{what}: the first message was through {first:?} after its return");
        let counts = count(&host, broker.address, &session, &before, &format!("{what}, before its death"));
        assert!(counts.iter().all(|(lost, _)| *lost < 20), "only what it had not passed on yet");
        let counts = count(&host, broker.address, &session, &after, &format!("{what}, before the link was back"));
        assert!(persistence.is_empty() || (counts[1].0, counts[2].0) == (0, 0), "it kept our subscription");
        // One wait of the back-off, two more on a busy machine.
        assert!(first < Duration::from_secs(9), "{first:?}");
    }
}
