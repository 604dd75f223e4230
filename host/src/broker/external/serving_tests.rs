//! One connection, with the test as the broker, byte by byte.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{
    broker::{
        Events,
        external::{desk::Desk, settings::LinkSettings, settings::LinkToken},
    },
    config::Settings,
    sessions::clock::Clock,
};

#[derive(Default)]
struct Heard {
    payloads: Mutex<Vec<String>>,
    /// What the link said of itself when each change was told.
    links: Mutex<Vec<(bool, bool)>>,
    desk: Mutex<Option<Arc<Desk>>>,
}

impl Events for Heard {
    fn message(&self, message: Message) {
        self.payloads.lock().unwrap().push(String::from_utf8(message.payload.to_vec()).unwrap());
    }

    fn connected(&self, _: SessionId, _: &str) {}

    fn disconnected(&self, _: SessionId, _: &str) {}

    fn link(&self, up: bool) {
        let said = self.desk.lock().unwrap().as_ref().unwrap().state().up;
        self.links.lock().unwrap().push((up, said));
    }
}

struct Rig {
    far: DuplexStream,
    events: Arc<Heard>,
    desk: Arc<Desk>,
    serving: JoinHandle<Trouble>,
    _stop: watch::Sender<bool>,
}

impl Rig {
    fn start(resumed: bool) -> Self {
        Self::start_with(resumed, |_, _| ())
    }

    /// As [`Rig::start`], with what `prepare` changes first.
    fn start_with(resumed: bool, prepare: impl FnOnce(&mut Link, &mut Opened)) -> Self {
        let text = "[mqtt]\nbroker = 'external'\nurl = 'mqtt://b'\n";
        let mqtt = Settings::parse(Some((Path::new("s"), text)), Path::new("/"), [], &[]).unwrap().0.mqtt;
        let settings = LinkSettings::new(&mqtt, LinkToken::Name, Clock::system()).unwrap();
        let (near, far) = duplex(64 * 1024);
        let (desk, events) = (Arc::new(Desk::new("")), Arc::new(Heard::default()));
        *events.desk.lock().unwrap() = Some(desk.clone());
        let mut link = Link::new(desk.clone(), Arc::new(settings), events.clone());
        let mut opened = Opened {
            wire: Wire::new(Box::new(near), 5, "b"),
            version: Version::V5,
            resumed,
            limits: Limits { packet_bytes: usize::MAX, qos: 2, retains: true, window: 10 },
            keep_alive: Duration::from_secs(20),
            expires_at: None,
        };
        prepare(&mut link, &mut opened);
        let (stop, mut stopping) = watch::channel(false);
        let serving = tokio::spawn(async move { link.serve(opened, &mut stopping).await });
        Self { far, events, desk, serving, _stop: stop }
    }

    /// The next packet of the host's.
    async fn packet(&mut self) -> Vec<u8> {
        let mut packet = vec![0; 2];
        self.far.read_exact(&mut packet).await.unwrap();
        packet.resize(2 + usize::from(packet[1]), 0);
        self.far.read_exact(&mut packet[2..]).await.unwrap();
        packet
    }

    async fn send(&mut self, packet: &[u8]) {
        self.far.write_all(packet).await.unwrap();
    }

    async fn accept_subscription(&mut self) {
        let subscribe = self.packet().await;
        assert_eq!(subscribe[0], 0x82);
        // QoS 2, no local, retain as published, nothing retained to be sent.
        assert_eq!(subscribe.last(), Some(&(2 | 4 | 8 | 2 << 4)));
        self.send(&[0x90, 4, subscribe[2], subscribe[3], 0, 2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_says_nothing_more_is_noticed_and_an_idle_link_only_pings() {
    let started = Instant::now();
    let mut rig = Rig::start(false);
    rig.accept_subscription().await;
    for round in 1..=5 {
        assert_eq!(rig.packet().await, [0xc0, 0]);
        assert_eq!(started.elapsed().as_secs(), 20 * round);
        rig.send(&[0xd0, 0]).await;
    }
    assert_eq!(rig.packet().await, [0xc0, 0]);
    assert_eq!(rig.serving.await.unwrap(), Trouble::Lost("the broker does not answer pings".into()));
    assert_eq!(started.elapsed().as_secs(), 130);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_not_answered_is_noticed() {
    let rig = Rig::start(false);
    assert_eq!(rig.serving.await.unwrap(), Trouble::Lost("the broker does not answer the subscription".into()));
    assert!(rig.events.links.lock().unwrap().is_empty(), "it was never up");
}

#[tokio::test]
async fn a_message_of_qos_2_is_heard_once_however_often_it_comes() {
    let mut rig = Rig::start(false);
    rig.accept_subscription().await;
    let publish = |first: u8, payload: u8| [&[first, 10, 0, 4], b"/1/x".as_slice(), &[0, 7, 0, payload]].concat();
    for first in [0x34, 0x3c] {
        rig.send(&publish(first, b'a')[..]).await;
        assert_eq!(rig.packet().await, [0x50, 2, 0, 7]);
    }
    rig.send(&[0x62, 2, 0, 7]).await;
    assert_eq!(rig.packet().await, [0x70, 2, 0, 7]);
    // The packet id is free again.
    rig.send(&publish(0x34, b'b')[..]).await;
    assert_eq!(rig.packet().await, [0x50, 2, 0, 7]);
    assert_eq!(*rig.events.payloads.lock().unwrap(), ["a", "b"]);
    assert_eq!(*rig.events.links.lock().unwrap(), [(true, true)], "what is asked says it before it is told");
    // Not heard and not acknowledged when the host stops.
    rig.desk.stop_hearing();
    rig.send(&publish(0x32, b'c')[..]).await;
    rig.send(&[0x62, 2, 0, 7]).await;
    assert_eq!(rig.packet().await, [0x70, 2, 0, 7]);
    assert_eq!(rig.events.payloads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_id_that_a_broker_gives_anew_after_its_death_is_another_message() {
    let mut rig = Rig::start_with(true, |link, _| link.received.extend([7]));
    rig.accept_subscription().await;
    for (first, payload) in [(0x3c, b'a'), (0x34, b'b'), (0x3c, b'b')] {
        rig.send(&[&[first, 10, 0, 4], b"/1/x".as_slice(), &[0, 7, 0, payload]].concat()).await;
        assert_eq!(rig.packet().await, [0x50, 2, 0, 7]);
    }
    assert_eq!(*rig.events.payloads.lock().unwrap(), ["b"]);
}

#[tokio::test]
async fn what_the_broker_did_not_acknowledge_is_sent_again() {
    for resumed in [true, false] {
        let mut rig = Rig::start(resumed);
        let session = SessionId::parse("1").unwrap();
        {
            let mut state = rig.desk.state();
            for qos in [1, 2, 2] {
                let message = Outgoing { session, topic: "/1/x".into(), payload: "p".into(), qos, retain: false, tries: 0, answer: None };
                state.outbox.push(message).unwrap();
                let id = state.outbox.front(9).unwrap().0;
                state.outbox.launched(id);
            }
            // It has the last.
            state.outbox.released(3);
        }
        let publish = |first: u8, id: u8| [&[first, 10, 0, 4], b"/1/x".as_slice(), &[0, id, 0], b"p"].concat();
        if resumed {
            for packet in [publish(0x3a, 1), publish(0x3c, 2), vec![0x62, 2, 0, 3]] {
                assert_eq!(rig.packet().await, packet);
            }
            rig.accept_subscription().await;
        } else {
            rig.accept_subscription().await;
            assert_eq!([rig.packet().await[0], rig.packet().await[0]], [0x32, 0x34], "as new ones");
            assert_eq!(rig.desk.state().outbox.len(), 2);
        }
        rig.send(&[0xe0, 1, 0x8e]).await;
        assert_eq!(rig.serving.await.unwrap(), Trouble::TakenOver);
    }
}

#[tokio::test]
async fn a_subscription_of_mqtt_5_does_not_go_on_in_3_1_1() {
    for (asked, again) in [(Version::V5, true), (Version::V311, false)] {
        let mut rig = Rig::start_with(true, |link, opened| {
            link.granted = Some((2, asked));
            opened.version = Version::V311;
        });
        if again {
            assert_eq!(rig.packet().await[0], 0x82);
        } else {
            rig.send(&[0xe0, 0]).await;
            rig.serving.await.unwrap();
            assert_eq!(rig.far.read(&mut [0]).await.unwrap(), 0, "it is kept, and nothing need be sent");
        }
    }
}

#[tokio::test]
async fn what_a_closed_session_said_is_not_sent_as_new() {
    let (session, other) = (SessionId::parse("1").unwrap(), SessionId::parse("2").unwrap());
    let mut rig = Rig::start_with(false, |link, _| {
        let mut state = link.desk.state();
        for (session, topic) in [(session, "/1/x"), (other, "/2/x")] {
            let message = Outgoing { session, topic: topic.into(), payload: "p".into(), qos: 1, retain: true, tries: 0, answer: None };
            state.outbox.push(message).unwrap();
            let id = state.outbox.front(9).unwrap().0;
            state.outbox.launched(id);
        }
        drop(state.closed.close(session));
    });
    rig.accept_subscription().await;
    let publish = rig.packet().await;
    assert!(publish[0] == 0x33 && publish.windows(4).any(|part| part == b"/2/x"), "{publish:x?}");
    assert_eq!(rig.packet().await[0], 0x82, "nothing between that and the clearing");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_drops_an_answer_but_speaks_is_asked_again() {
    let mut rig = Rig::start_with(false, |link, _| drop(link.desk.state().closed.close(SessionId::parse("1").unwrap())));
    rig.accept_subscription().await;
    for _ in 0..2 {
        let subscribe = rig.packet().await;
        assert_eq!(subscribe[0], 0x82);
        rig.send(&[0x90, 4, subscribe[2], subscribe[3], 0, 0]).await;
        assert_eq!(rig.packet().await, [0xc0, 0]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.send(&[0x31, 8, 0, 4, b'/', b'1', b'/', b'x', 0, b'p']).await;
        assert_eq!(rig.packet().await[0], 0x31, "what is retained is cleared");
    }
    // And then it speaks no more.
    assert_eq!(rig.packet().await, [0xc0, 0], "the keep-alive");
    let subscribe = rig.packet().await;
    rig.send(&[0x90, 4, subscribe[2], subscribe[3], 0, 0]).await;
    assert_eq!(rig.serving.await.unwrap(), Trouble::Lost("the broker does not answer pings".into()));
}
