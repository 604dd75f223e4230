//! A host whose broker is another program, and what may stand between the two.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use serde_json::json;

use crate::{Host, HostOptions, until};

/// Options of a host that uses the broker at this URL.
#[must_use]
pub fn external(url: &str) -> HostOptions {
    HostOptions::default().set("mqtt.broker", json!("external")).set("mqtt.url", json!(url)).plugin("echo", "conductor_test_echo")
}

/// Why the host's link is down, as `/readyz` says it; nothing where it is up.
///
/// # Panics
/// When the host does not answer.
#[must_use]
pub fn trouble(host: &Host) -> Option<String> {
    let answer = host.admin("/readyz");
    let ready = answer.json();
    let reason = ready["parts"]["broker"]["reason"].as_str().map(str::to_owned);
    assert_eq!(answer.status, 200, "a host whose link is down serves");
    assert_eq!(ready["status"] == "ready", reason.is_none(), "{ready}");
    reason
}

/// Waits until the link is up.
///
/// # Panics
/// When it does not come up.
pub fn wait_up(host: &Host) {
    until("the link to be up", || trouble(host).is_none().then_some(()));
}

/// Waits until the link is down for a reason with this in it.
///
/// # Panics
/// When it is up, or down for another reason, for too long.
pub fn wait_down(host: &Host, part: &str) {
    until(&format!("the link to be down: {part}"), || trouble(host).filter(|reason| reason.contains(part)));
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host.
    Client,
    /// The broker.
    Broker,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Fate {
    /// It goes on, perhaps changed.
    Pass(Vec<u8>),
    /// Its sender gets this instead.
    Answer(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// Passes MQTT on to a broker, packet by packet, as it is told. Lives as long as the test.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts it; `decide` is asked about every packet, as bytes.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(broker: SocketAddr, decide: impl Fn(Side, Vec<u8>) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let decide = Arc::new(decide);
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let Ok(upstream) = TcpStream::connect(broker) else { continue };
                client.set_nodelay(true).and_then(|()| upstream.set_nodelay(true)).expect("an option");
                for (side, from, to) in [(Side::Client, &client, &upstream), (Side::Broker, &upstream, &client)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let decide = decide.clone();
                    thread::spawn(move || {
                        // An end is an end, however it came.
                        let _ = pass(side, &from, &to, &*decide);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { address }
    }
}

fn pass(side: Side, mut from: &TcpStream, mut to: &TcpStream, decide: &(impl Fn(Side, Vec<u8>) -> Fate + ?Sized)) -> io::Result<()> {
    loop {
        match decide(side, read_packet(&mut from)?) {
            Fate::Pass(packet) => to.write_all(&packet)?,
            Fate::Answer(packet) => from.write_all(&packet)?,
            Fate::Close => return Ok(()),
        }
    }
}

fn read_packet(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 2];
    from.read_exact(&mut packet)?;
    while packet.last().is_some_and(|byte| byte & 0x80 != 0) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        packet.extend(byte);
    }
    let length = packet[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    let head = packet.len();
    packet.resize(head + length, 0);
    from.read_exact(&mut packet[head..])?;
    Ok(packet)
}

/// Whether the packet is a CONNECT of MQTT 5.
#[must_use]
pub fn is_connect_5(packet: &[u8]) -> bool {
    packet.first() == Some(&0x10) && packet.windows(7).any(|part| part == b"\x00\x04MQTT\x05")
}
