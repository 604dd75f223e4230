//! What is lost while the link renews its token, while the broker's certificate changes and while the broker is away: counted, by QoS.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]
#![expect(clippy::print_stderr, reason = "the figures are the point")]

use std::{
    collections::BTreeMap,
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

/// How many messages a device published, from number 0 on; each was acknowledged where its QoS has that.
type Sent = usize;

/// Between two messages of a device where there is to be much under way.
const DENSE: Duration = Duration::from_millis(3);
/// The same where it piles up while the link is away: a conductor's mailbox has room for what comes of that at once.
const CALM: Duration = Duration::from_millis(10);

/// Three devices, one for each QoS, that publish without end.
struct Crowd {
    stop: Arc<AtomicBool>,
    devices: Vec<JoinHandle<Sent>>,
}

impl Crowd {
    fn start(broker: SocketAddr, session: &Session, round: &'static str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let devices = (0..=2).map(|qos| {
            let (stop, topic) = (stop.clone(), topic(session, &format!("q{qos}")));
            let name = format!("{round}-{qos}");
            // Before any of them has sent enough for the broker to be killed.
            let mut device = Mqtt::connect_to(broker, Version::V5, Way::Tcp, &Credentials::new(&name, "", "")).unwrap();
            thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    match device.try_publish(&topic, &format!("{name}-{sent}"), qos, false) {
                        Ok(true) => sent += 1,
                        // The broker is gone.
                        _ => return sent,
                    };
                    thread::sleep(pause);
                }
                // An acknowledged one: at QoS 0, all before it have left by then.
                let _ = device.try_publish(&topic, &format!("{name}-last"), 1, false);
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

/// What became of the messages of one device.
struct Fate {
    sent: Sent,
    /// The numbers of those that were never heard, in order.
    lost: Vec<usize>,
    twice: usize,
    /// The lowest and the highest number that was heard.
    heard: Option<(usize, usize)>,
}

impl Fate {
    /// How many times something was lost: pieces without a message between that was heard.
    fn gaps(&self) -> usize {
        self.lost.chunk_by(|one, next| one + 1 == *next).count()
    }

    fn lost_the_last_alone(&self) -> bool {
        self.heard.is_none_or(|(_, last)| self.lost.iter().all(|lost| *lost > last))
    }

    fn lost_the_first_alone(&self) -> bool {
        self.heard.is_some_and(|(first, _)| self.lost.iter().all(|lost| *lost < first))
    }
}

/// Waits until all that is to come has come, which a last message shows, and tells what became of each message of a round, by QoS.
fn count(host: &Host, broker: SocketAddr, session: &Session, round: &str, sent: &[Sent], what: &str) -> [Fate; 3] {
    let mut last = Mqtt::connect_to(broker, Version::V5, Way::Tcp, &Credentials::new("last", "", "")).unwrap();
    let end = format!("end of {what}");
    assert!(last.publish(&topic(session, "end"), &end, 1, false));
    let heard = until("the last message", || Some(heard(host, session)).filter(|heard| heard.contains_key(&end)));
    std::array::from_fn(|qos| {
        let times = |number: usize| heard.get(&format!("{round}-{qos}-{number}")).copied().unwrap_or(0);
        let (lost, came): (Vec<usize>, Vec<usize>) = (0..sent[qos]).partition(|number| times(*number) == 0);
        let fate = Fate {
            sent: sent[qos],
            twice: came.iter().filter(|number| times(**number) > 1).count(),
            heard: came.first().copied().zip(came.last().copied()),
            lost,
        };
        let (lost, twice, gaps) = (fate.lost.len(), fate.twice, fate.gaps());
        eprintln!("{what}: QoS {qos}: {} sent, {lost} lost in {gaps} places, {twice} heard twice", fate.sent);
        fate
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
    let crowd = Crowd::start(broker.address, &session, "renewal", DENSE);
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
    let fates = count(&host, broker.address, &session, "renewal", &sent, "renewals");
    let renewals = renewed();
    for (qos, fate) in fates.into_iter().enumerate() {
        assert!(fate.sent > 0, "QoS {qos}: there was something to lose");
        assert!(qos == 0 || fate.lost.is_empty(), "QoS {qos}: lost {:?}", fate.lost);
        assert!(qos != 2 || fate.twice == 0, "QoS {qos}: {} heard twice", fate.twice);
        // At QoS 0 the broker may drop what it was just writing.
        assert!(fate.gaps() <= renewals, "QoS {qos}: lost {:?} in {renewals} renewals", fate.lost);
    }
    assert!(!host.log().contains("the link to the MQTT broker is down"), "the link was up all the time");
    assert_eq!(host.ask(&session, "links", ""), json!([]));
}

#[test]
fn what_a_killed_broker_loses_is_counted_and_the_link_is_soon_back() {
    for (what, persistence) in [("a broker that forgets", ""), ("a broker that saves", "persistence true\nautosave_interval 1\n")] {
        let mut broker = Mosquitto::start(|folder, port| {
            let folder = folder.display();
            format!(
                "{persistence}persistence_location {folder}/\nset_tcp_nodelay true\nallow_anonymous true\nmax_queued_messages 0\n\
                 listener {port} 127.0.0.1\n"
            )
        });
        let host = Host::start(external(&format!("mqtt://{}", broker.address)).set("log.level", json!("debug")));
        wait_up(&host);
        let session = host.create("echo");
        if !persistence.is_empty() {
            // One that begins now, so that our subscription is in it.
            let saves = || broker.log().matches("Saving in-memory database").count();
            let before = saves();
            until("the broker to save", || (saves() > before).then_some(()));
        }
        let crowd = Crowd::start(broker.address, &session, "before", DENSE);
        until("some messages", || (heard(&host, &session).len() > 100).then_some(()));
        broker.kill();
        wait_down(&host, "");
        let before = crowd.stop();
        broker.start_again();
        let returned = Instant::now();
        let crowd = Crowd::start(broker.address, &session, "after", CALM);
        until("a message of each QoS through", || {
            let heard = heard(&host, &session);
            ["after-0", "after-1", "after-2"].iter().all(|of| heard.keys().any(|message| message.starts_with(of))).then_some(())
        });
        eprintln!("{what}: messages were through {:?} after its return", returned.elapsed());
        wait_up(&host);
        let after = crowd.stop();
        let fates = count(&host, broker.address, &session, "before", &before, &format!("{what}, before its death"));
        assert!(fates.iter().all(Fate::lost_the_last_alone), "only what it had not passed on yet");
        let fates = count(&host, broker.address, &session, "after", &after, &format!("{what}, after its return"));
        assert!(fates.iter().all(Fate::lost_the_first_alone), "only what came before the link was back");
        assert!(persistence.is_empty() || fates[1..].iter().all(|fate| fate.lost.is_empty()), "it kept our subscription");
    }
}
