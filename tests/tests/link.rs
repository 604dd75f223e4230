//! The link to a broker outside: every way there, every trouble, what becomes of messages while it is down.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use conductor_tests::{
    Credentials, Host, HostOptions, Mqtt, Session, Version, Way,
    certs::Authority,
    host::run_refused,
    link::{Fate, Proxy, Side, external, is_connect_5, trouble, wait_down, wait_up},
    mosquitto::Mosquitto,
    mqtt::topic,
    until,
};
use serde_json::{Value, json};

/// A device at a broker where everybody may do everything.
fn guest(broker: &Mosquitto, name: &str) -> Mqtt {
    Mqtt::connect_to(broker.address, Version::V5, Way::Tcp, &Credentials::new(name, name, "")).unwrap()
}

fn heard(host: &Host, session: &Session, count: usize) -> Vec<String> {
    until("the conductor to hear", || {
        let heard = host.ask(session, "heard", "");
        let heard = heard.as_array().unwrap_or_else(|| panic!("{heard}"));
        let payloads = heard.iter().map(|message| message["payload"].as_str().unwrap().to_owned());
        (heard.len() >= count).then(|| payloads.collect())
    })
}

fn say(host: &Host, session: &Session, payload: &str, qos: u8, retain: bool) -> (u16, Value) {
    let answer = host.request(session, "say", json!({"name": payload, "payload": payload, "qos": qos, "retain": retain}));
    (answer.status, answer.json())
}

/// The message goes round: to the broker, and back to the conductor by an echo of the test's own.
fn works(host: &Host, broker: &Mosquitto, what: &str) {
    wait_up(host);
    let session = host.create("echo");
    for qos in 0..=2 {
        assert_eq!(say(host, &session, "said", qos, false), (200, json!({"result": null})), "{what}");
    }
    until("the broker to have it", || (broker.log().matches(&format!("'/{}/said'", session.id)).count() >= 3).then_some(()));
    assert_eq!(heard(host, &session, 0).len(), 0, "{what}: not its own");
}

/// The first is there because this program does not start where all its listeners are of WebSocket.
const LISTEN: &str = "set_tcp_nodelay true\nlistener 0 DIR/socket\nlistener PORT 127.0.0.1\n";

/// Starts a broker whose settings are [`LISTEN`] and these; `PORT` and `DIR` are filled in.
fn broker(settings: &str, prepare: impl Fn(&Path)) -> Mosquitto {
    Mosquitto::start(|folder, port| {
        prepare(folder);
        format!("{LISTEN}{settings}").replace("PORT", &port.to_string()).replace("DIR", &folder.display().to_string())
    })
}

fn passwords(folder: &Path, user: &str, password: &str) {
    let file = folder.join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&file).args([user, password]).status().unwrap();
    assert!(made.success());
}

fn private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_link_works_on_every_way_and_with_every_kind_of_credentials() {
    let authority = Authority::new("of the broker");
    let issue = |folder: &Path| {
        authority.write(folder);
        authority.issue(folder, "server", &["127.0.0.1", "localhost"]);
        authority.issue(folder, "client", &["iotserver"]);
    };
    let open = "allow_anonymous true\n";
    let tls = "allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server-key.pem\n";
    let mutual = format!("{tls}cafile DIR/ca.pem\nrequire_certificate true\nuse_identity_as_username true\n");
    let web = "allow_anonymous true\nprotocol websockets\n";
    let with_password = "allow_anonymous false\npassword_file DIR/passwords\n";
    for (settings, scheme, keys) in [
        (open, "mqtt", vec![]),
        (with_password, "mqtt", vec!["link_username", "link_password"]),
        (with_password, "mqtt", vec!["link_username", "link_password_file"]),
        (tls, "mqtts", vec!["ca"]),
        (&mutual, "mqtts", vec!["ca", "client_cert", "client_key"]),
        (web, "ws", vec![]),
        (&format!("{tls}protocol websockets\n"), "wss", vec!["ca"]),
    ] {
        let what = format!("{scheme} {keys:?}");
        let broker = broker(settings, |folder| {
            issue(folder);
            passwords(folder, "host", "a secret word");
            private(&folder.join("password"), "a secret word\n");
        });
        let folder = broker.folder();
        let file = |name: &str| json!(folder.join(name));
        let mut options = external(&format!("{scheme}://{}", broker.address));
        for key in keys {
            let value = match key {
                "link_username" => json!("host"),
                "link_password" => json!("a secret word"),
                "link_password_file" => file("password"),
                "ca" => file("ca.pem"),
                "client_cert" => file("client.pem"),
                "client_key" => file("client-key.pem"),
                other => panic!("{other}"),
            };
            options = options.set(&format!("mqtt.{key}"), value);
        }
        let mut host = Host::start(options);
        works(&host, &broker, &what);
        host.stop();
        assert!(broker.log().contains("Received DISCONNECT from iotserver"), "{what}: a clean end");
        assert!(!host.log().contains("a secret word") && !host.log().contains("eyJ"), "{what}: no secret in the log");
        assert!(host.log().contains("\"version\":\"V5\""), "{what}");
    }
}

#[test]
fn a_broker_that_speaks_only_3_1_1_is_spoken_to_in_3_1_1() {
    let broker = Mosquitto::open();
    for closes in [false, true] {
        let refused = Arc::new(AtomicBool::new(false));
        let seen = refused.clone();
        let proxy = Proxy::start(broker.address, move |_, packet| match (is_connect_5(&packet), closes) {
            (false, _) => Fate::Pass(packet),
            (true, true) => {
                assert!(!seen.swap(true, Ordering::Relaxed), "it is not asked again so soon");
                Fate::Close
            }
            (true, false) => Fate::Answer(vec![0x20, 2, 0, 1]),
        });
        let mut host = Host::start(external(&format!("mqtt://{}", proxy.address)));
        works(&host, &broker, "3.1.1");
        assert!(host.log().contains("\"version\":\"V311\""));
        // What is retained already is no message to the conductor, and goes with the session.
        let session = host.create("echo");
        let mut device = guest(&broker, "device");
        assert!(device.publish(&topic(&session, "r"), "kept", 1, true));
        assert_eq!(heard(&host, &session, 1), ["kept"]);
        Mqtt::connect_to(broker.address, Version::V5, Way::Tcp, &Credentials::new("iotserver", "", "")).unwrap().cut();
        until("the link to be lost", || host.log().contains("the connection was lost").then_some(()));
        wait_up(&host);
        assert!(device.publish(&topic(&session, "n"), "new", 1, false));
        assert_eq!(heard(&host, &session, 2), ["kept", "new"]);
        assert_eq!(host.close(&session), "Success");
        if closes {
            continue;
        }
        assert!(device.publish(&topic(&session, "late"), "kept as well", 1, true));
        let mut late = guest(&broker, "late");
        until("what was retained after the end to be cleared", || (kept(&mut late, &[&session]) == 0).then_some(()));
        host.stop();
    }
}

/// How many messages the broker keeps for these sessions.
fn kept(device: &mut Mqtt, sessions: &[&Session]) -> usize {
    let filters: Vec<_> = sessions.iter().map(|session| topic(session, "#")).chain(["end".to_owned()]).collect();
    for filter in &filters {
        assert!(device.subscribe(filter, 0));
    }
    // Behind all that is kept.
    assert!(device.publish("end", "", 0, false));
    let kept = std::iter::from_fn(|| Some(device.heard().0).filter(|topic| topic != "end")).count();
    filters.iter().for_each(|filter| device.unsubscribe(filter));
    kept
}

/// A port where nothing listens.
fn nowhere() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn each_trouble_is_told_in_its_own_words_once() {
    let (authority, stranger) = (Authority::new("of the broker"), Authority::new("unknown"));
    let secure = |hosts: &[&str], more: &str| {
        broker(&format!("allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server-key.pem\n{more}"), |folder| {
            authority.write(folder);
            authority.issue(folder, "server", hosts);
            stranger.issue(folder, "client", &["iotserver"]);
            fs::write(folder.join("other.pem"), stranger.pem()).unwrap();
        })
    };
    let plain = broker("allow_anonymous true\n", |_| ());
    let guarded = broker("allow_anonymous false\npassword_file DIR/passwords\n", |folder| passwords(folder, "host", "right"));
    let good = secure(&["127.0.0.1"], "");
    let misnamed = secure(&["broker.example"], "");
    let mutual = secure(&["127.0.0.1"], "cafile DIR/ca.pem\nrequire_certificate true\n");
    let deaf = Proxy::start(plain.address, |side, mut packet| {
        if side == Side::Broker && packet[0] == 0x90 {
            *packet.last_mut().unwrap() = 0x87;
        }
        Fate::Pass(packet)
    });
    let refusing = |code: u8| Proxy::start(plain.address, move |_, _| Fate::Answer(vec![0x20, 3, 0, code, 0]));
    let (unauthorised, busy) = (refusing(0x87), refusing(0x89));
    let file = |broker: &Mosquitto, name: &str| json!(broker.folder().join(name));
    let ca = |broker: &Mosquitto, name: &str| external(&format!("mqtts://{}", broker.address)).set("mqtt.ca", file(broker, name));
    let cases: Vec<(HostOptions, &str)> = vec![
        (external(&format!("mqtt://127.0.0.1:{}", nowhere())), "unreachable: connection refused"),
        (external("mqtt://no-such-name.invalid"), "unreachable: the name no-such-name.invalid cannot be resolved"),
        (ca(&good, "other.pem"), "unknown authority"),
        (ca(&misnamed, "ca.pem"), "not for the name 127.0.0.1"),
        (ca(&mutual, "ca.pem"), "demands a client certificate"),
        (
            ca(&mutual, "ca.pem")
                .set("mqtt.client_cert", file(&mutual, "client.pem"))
                .set("mqtt.client_key", file(&mutual, "client-key.pem")),
            "refused our client certificate",
        ),
        (external(&format!("mqtts://{}", plain.address)).set("mqtt.ca", file(&good, "ca.pem")), "TLS: the broker closed the connection"),
        (external(&format!("mqtt://{}", good.address)), "instead of answering: is this its port"),
        (external(&format!("ws://{}", plain.address)), "instead of answering: is this its port"),
        (external(&format!("mqtt://{}", guarded.address)), "not authorised"),
        (
            external(&format!("mqtt://{}", guarded.address))
                .set("mqtt.link_username", json!("host"))
                .set("mqtt.link_password", json!("no")),
            "not authorised",
        ),
        (external(&format!("mqtt://{}", deaf.address)), "refused the subscription to /+/#: not authorized (0x87)"),
        (external(&format!("mqtt://{}", unauthorised.address)), "not authorised"),
        (external(&format!("mqtt://{}", busy.address)), "busy"),
    ];
    // All at once: each waits for its second attempt.
    let hosts: Vec<_> = cases.into_iter().map(|(options, part)| (Host::start(options), part)).collect();
    for (host, part) in hosts {
        wait_down(&host, part);
        until("a second attempt", || host.log().contains("is still down").then_some(()));
        let told = host.log().lines().filter(|line| line.contains("the link to the MQTT broker is down") && line.contains(part)).count();
        assert_eq!(told, 1, "{part}: {}", host.log());
        let session = host.create("echo");
        host.join(&session, "a");
        assert_eq!(host.ask(&session, "links", ""), json!(["down"]), "{part}");
        let joined = conductor_tests::http::post(
            host.iot,
            &format!("/v1/sessions/{}/join", session.id),
            &json!({"pin": session.pin, "client": "a"}).to_string(),
        );
        assert_eq!(joined.json()["mqtt"], json!({}), "devices are not sent where nothing is");
    }
}

#[test]
fn a_file_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new("some");
    let (one, other) = (authority.issue(folder, "one", &["a"]), authority.issue(folder, "other", &["a"]));
    fs::write(folder.join("nonsense"), "nonsense").unwrap();
    fs::write(folder.join("open"), "password").unwrap();
    let pair = |cert: &Path, key: &Path| [("client_cert", json!(cert)), ("client_key", json!(key))].to_vec();
    let password = |name: &str| [("link_username", json!("u")), ("link_password_file", json!(folder.join(name)))].to_vec();
    for (keys, part) in [
        (vec![("ca", json!(folder.join("missing")))], "mqtt.ca"),
        (vec![("ca", json!(folder.join("nonsense")))], "no certificate in PEM form"),
        (pair(&one.cert, &other.key), "does not go with"),
        (pair(&one.cert, &one.cert), "mqtt.client_key"),
        (password("missing"), "no such file"),
        (password("open"), "others may read"),
    ] {
        let options =
            keys.iter().fold(external("mqtt://127.0.0.1"), |options, (key, value)| options.set(&format!("mqtt.{key}"), value.clone()));
        let ended = run_refused(folder, &options);
        assert!(ended.code == Some(1) && ended.stderr.contains(part), "{keys:?}: {ended:?}");
    }
}

#[test]
fn messages_wait_for_a_broker_that_is_down_or_fail_at_once() {
    let mut broker = Mosquitto::open();
    broker.kill();
    let mut host = Host::start(external(&format!("mqtt://{}", broker.address)));
    wait_down(&host, "connection refused");
    let session = host.create("echo");
    let (status, answer) = say(&host, &session, "q0", 0, true);
    assert!(status >= 500 && answer.to_string().contains("cannot be reached"), "{status} {answer}");
    for name in ["q1", "q2"] {
        assert_eq!(say(&host, &session, name, name[1..].parse().unwrap(), true).0, 200);
    }
    broker.start_again();
    wait_up(&host);
    let mut late = guest(&broker, "late");
    // They are sent as soon as the link is up; this comes behind them.
    assert_eq!(say(&host, &session, "q3", 1, true).0, 200);
    assert!(late.subscribe(&topic(&session, "#"), 2));
    let mut names = [late.heard().1, late.heard().1, late.heard().1];
    names.sort();
    assert_eq!(names, ["q1", "q2", "q3"]);
    assert_eq!(host.ask(&session, "links", ""), json!(["down", "up"]));

    // Killed while a conductor speaks: what is of QoS 1 comes after all.
    assert_eq!(host.request(&session, "spawn", json!({"millis": 20})).status, 200);
    broker.kill();
    wait_down(&host, "");
    for number in 0..50 {
        assert_eq!(say(&host, &session, &format!("{number:02}"), 1 + number % 2, true).0, 200);
    }
    broker.start_again();
    wait_up(&host);
    assert_eq!(host.ask(&session, "links", ""), json!(["down", "up", "down", "up"]));
    assert_eq!(say(&host, &session, "99", 1, true).0, 200, "behind what was queued");
    // The broker has forgotten what it kept before.
    assert_eq!(kept(&mut guest(&broker, "late"), &[&session]), 51);
    let log = broker.log();
    let received = log.lines().filter(|line| line.contains("Received PUBLISH from iotserver") && line.contains(", r1, "));
    let names: Vec<_> = received.filter_map(|line| line.split_once(&format!("'/{}/", session.id))?.1.get(..2)).collect();
    let expected: Vec<_> = ["q1", "q2", "q3"].map(str::to_owned).into_iter().chain((0..50).map(|number| format!("{number:02}"))).collect();
    assert_eq!(names[..53], expected, "in order");
    assert!(host.log().contains("down_for"));
    host.stop();
}

#[test]
fn a_full_queue_refuses_at_once() {
    let host = Host::start(external(&format!("mqtt://127.0.0.1:{}", nowhere())));
    let session = host.create("echo");
    let fill = json!({"name": "x", "payload": "p", "qos": 1, "times": 1000});
    assert_eq!(host.request(&session, "say_often", fill).status, 200);
    let (status, answer) = say(&host, &session, "one more", 1, false);
    assert!(status >= 500 && answer.to_string().contains("too many messages wait"), "{status} {answer}");
    // A session's end takes its own out.
    let other = host.create("echo");
    assert_eq!(host.close(&session), "Success");
    assert_eq!(say(&host, &other, "x", 1, false).0, 200);
}

#[test]
fn two_hosts_on_one_broker_are_told_so_and_each_comes_back() {
    let broker = Mosquitto::open();
    let host = Host::start(external(&format!("mqtt://{}", broker.address)));
    wait_up(&host);
    let mut other = Mqtt::connect_to(broker.address, Version::V5, Way::Tcp, &Credentials::new("iotserver", "", "")).unwrap();
    // This broker closes the connection without a word.
    wait_down(&host, "another client connects as iotserver");
    other.gone();
    works(&host, &broker, "again");

    let telling = Proxy::start(broker.address, |side, packet| match (side, packet[0] >> 4) {
        (Side::Client, 3) => Fate::Answer(vec![0xe0, 1, 0x8e]),
        _ => Fate::Pass(packet),
    });
    let host = Host::start(external(&format!("mqtt://{}", telling.address)));
    wait_up(&host);
    assert_eq!(say(&host, &host.create("echo"), "p", 1, false).0, 200, "it is kept");
    wait_down(&host, "another client connected as iotserver");
}

#[test]
fn what_a_broker_does_not_take_is_an_error() {
    let broker = broker("allow_anonymous true\nmax_packet_size 2000\nretain_available false\nmax_qos 1\n", |_| ());
    let refusing = Proxy::start(broker.address, |side, packet| match (side, packet.as_slice()) {
        (Side::Broker, [0x40, 2, high, low]) => Fate::Pass(vec![0x40, 3, *high, *low, 0x87]),
        _ => Fate::Pass(packet),
    });
    let host = Host::start(external(&format!("mqtt://{}", broker.address)));
    wait_up(&host);
    let session = host.create("echo");
    for (payload, qos, retain, part) in [
        ("long".repeat(1000), 1, false, "up to 2000 bytes"),
        ("p".into(), 2, false, "no messages of QoS 2"),
        ("p".into(), 1, true, "does not retain"),
    ] {
        let (status, answer) = {
            let answer = host.request(&session, "say", json!({"name": "x", "payload": payload, "qos": qos, "retain": retain}));
            (answer.status, answer.json())
        };
        assert!(status >= 500 && answer.to_string().contains(part), "{part}: {status} {answer}");
    }
    assert_eq!(say(&host, &session, "p", 1, false).0, 200, "and the link holds");
    assert!(trouble(&host).is_none());

    let host = Host::start(external(&format!("mqtt://{}", refusing.address)));
    wait_up(&host);
    let session = host.create("echo");
    let (status, answer) = say(&host, &session, "p", 1, false);
    assert!(status >= 500 && answer.to_string().contains("not authorized (0x87)"), "{status} {answer}");
}

#[test]
fn a_closed_session_leaves_nothing_retained_whenever_the_link_is_back() {
    let mut broker = broker("allow_anonymous true\npersistence true\npersistence_location DIR/\n", |_| ());
    let host = Host::start(external(&format!("mqtt://{}", broker.address)).set("mqtt.public_url", json!("mqtt://outside")));
    wait_up(&host);
    let (first, second, third) = (host.create("echo"), host.create("echo"), host.create("echo"));
    let mut device = guest(&broker, "device");
    for session in [&first, &second, &third] {
        for number in 0..50 {
            assert!(device.publish(&topic(session, &format!("r/{number}")), "kept", 1, true));
        }
    }
    assert_eq!(host.close(&first), "Success");
    // After its end as well.
    assert!(device.publish(&topic(&first, "late"), "kept", 1, true));
    // And with the link down: the broker keeps what is retained in its file.
    broker.terminate();
    wait_down(&host, "");
    assert_eq!(host.close(&second), "Success");
    broker.start_again();
    wait_up(&host);
    let mut late = guest(&broker, "late");
    until("the sessions to be cleared", || (kept(&mut late, &[&first, &second]) == 0).then_some(()));
    assert!(late.subscribe(&topic(&third, "#"), 0));
    for _ in 0..50 {
        assert_eq!(late.heard().1, "kept", "what lives is left alone");
    }
}

#[test]
fn a_restarted_host_hears_what_came_meanwhile() {
    let broker = Mosquitto::open();
    let mut host = Host::start(external(&format!("mqtt://{}", broker.address)));
    wait_up(&host);
    let session = host.create("echo");
    let mut device = guest(&broker, "device");
    assert!(device.publish(&topic(&session, "x"), "before", 1, false));
    assert_eq!(heard(&host, &session, 1), ["before"]);
    host.stop();
    for qos in 0..=2 {
        assert!(device.publish(&topic(&session, "x"), &format!("meanwhile {qos}"), qos, false));
    }
    host.start_again();
    assert_eq!(heard(&host, &session, 2), ["meanwhile 1", "meanwhile 2"]);
}

#[test]
fn a_certificate_of_another_authority_is_accepted_once_the_file_names_it() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut broker = broker("allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server-key.pem\n", |folder| {
        old.write(folder);
        old.issue(folder, "server", &["localhost"]);
    });
    let ca = broker.folder().join("ca.pem");
    let host = Host::start(external(&format!("mqtts://localhost:{}", broker.address.port())).set("mqtt.ca", json!(ca)));
    works(&host, &broker, "old");
    broker.kill();
    new.issue(broker.folder(), "server", &["localhost"]);
    broker.start_again();
    wait_down(&host, "unknown authority");
    fs::write(&ca, "nonsense").unwrap();
    wait_down(&host, "ca.pem: there is no certificate");
    new.write(broker.folder());
    works(&host, &broker, "new");
}
