//! The broker where files run out. A program of its own, since it lowers its own limit.
#![cfg(unix)]

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use conductor_host::{
    broker::{Admission, Admitted, Broker, ConnectRequest, EmbeddedBroker, Endpoints, Events, Limits, Message, Refusal},
    sessions::SessionId,
    tokens::grant::Grant,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct All;

impl Admission for All {
    fn admit(&self, _: &ConnectRequest<'_>) -> Result<Admitted, Refusal> {
        let session = SessionId::parse("1").ok_or(Refusal::BadCredentials)?;
        let expires_at = conductor_host::sessions::clock::Clock::system().now() + Duration::from_secs(60);
        Ok(Admitted { session, client_id: "dev".into(), grant: Grant::whole_session(session), expires_at })
    }
}

impl Events for All {
    fn message(&self, _: Message) {}
    fn connected(&self, _: SessionId, _: &str) {}
    fn disconnected(&self, _: SessionId, _: &str) {}
    fn link(&self, _: bool) {}
}

async fn until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_broker_without_files_says_so_and_goes_on_when_there_are_some() {
    let limits = Limits { connect_time: Duration::from_secs(60), ..Limits::default() };
    let broker = EmbeddedBroker::new(limits);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    broker.serve(Arc::new(All), Arc::new(All), &Endpoints { tcp: vec![any], ..Endpoints::default() }, None).await.unwrap();
    let address = broker.endpoints().tcp[0];
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: before.maximum }).unwrap();
    // Nothing else runs on this thread meanwhile: they take all files before the broker has accepted one of them.
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(address) {
        clients.push(client);
    }
    until(|| broker.trouble().is_some_and(|trouble| trouble.contains("cannot be accepted"))).await;
    drop(clients);
    until(|| broker.trouble().is_none()).await;
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev").await.unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}
