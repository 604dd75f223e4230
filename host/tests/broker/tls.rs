//! Listeners over TLS: what a connection costs before it has shown that it speaks TLS at all.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use conductor_host::{
    broker::{Broker, EmbeddedBroker, Endpoints, Limits},
    sessions::clock::Clock,
    tls::Tls,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::{
    host::Deaf,
    raw::{ACCEPTED_4, connect, packet, text},
    support::{Host, id, soon},
};

/// A certificate for `localhost`, and a client that trusts it.
fn identity() -> (Arc<Tls>, TlsConnector) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tls = Tls::load(&cert_file, &key_file, None, Clock::system()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    (tls, TlsConnector::from(Arc::new(config)))
}

async fn secure(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    soon("a handshake", connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

/// Enters as a device of session 1.
async fn enter(connector: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = secure(connector, address).await.unwrap();
    stream.write_all(&connect(4, "1:dev").bytes()).await.unwrap();
    let mut connack = [0; 4];
    soon("CONNACK", stream.read_exact(&mut connack)).await.unwrap();
    assert_eq!(connack, ACCEPTED_4);
    stream
}

async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // What is read is an alert at most; a reset is an end as well.
    let _end = soon("the end of a connection", stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < 10, "{rest:02x?}");
}

#[tokio::test]
async fn who_does_not_finish_a_handshake_is_cut_in_time() {
    let (tls, connector) = identity();
    let host = Host::with_tls(Limits { connect_time: Duration::from_millis(300), ..Limits::default() }, Some(tls)).await;
    let Endpoints { tls, websocket_tls, .. } = host.broker.endpoints();
    for address in [tls[0], websocket_tls[0]] {
        let started = Instant::now();
        let silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        // The head of a ClientHello that does not come.
        half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.unwrap();
        // After its handshake a client has the same time again.
        let mut mute = secure(&connector, address).await.unwrap();
        ended(silent).await;
        ended(half).await;
        let _end = soon("the end", mute.read_to_end(&mut Vec::new())).await;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let quick = Host::with_tls(Limits { connect_time: Duration::from_secs(60), ..Limits::default() }, Some(identity().0)).await;
    let Endpoints { tls, websocket_tls, .. } = quick.broker.endpoints();
    for (address, said) in [(tls[0], &connect(4, "1:dev").bytes()[..]), (websocket_tls[0], b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n")] {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(said).await.unwrap();
        // At once: long before its time is over.
        ended(plain).await;
    }
}

#[tokio::test]
async fn a_handshake_has_a_place_and_gives_it_back() {
    let few = Limits { connect_time: Duration::from_secs(60), ..Limits::default() };
    for limits in [
        Limits { connections: 2, ..few.clone() },
        Limits { opening: 2, ..few.clone() },
        Limits { per_source: 2, ..few.clone() },
        Limits { opening_per_source: 2, ..few.clone() },
    ] {
        let (tls, connector) = identity();
        let host = Host::with_tls(limits.clone(), Some(tls)).await;
        let Endpoints { tls, websocket_tls, .. } = host.broker.endpoints();
        let silent = [TcpStream::connect(tls[0]).await.unwrap(), TcpStream::connect(websocket_tls[0]).await.unwrap()];
        secure(&connector, tls[0]).await.expect_err("two are there already, on whichever port");
        secure(&connector, websocket_tls[0]).await.expect_err("two are there already, on whichever port");
        drop(silent);
        let started = Instant::now();
        while secure(&connector, tls[0]).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(5), "a place that was left is free: {limits:?}");
        }
    }
}

#[tokio::test]
async fn stalled_handshakes_stop_neither_others_nor_the_end() {
    let (tls, connector) = identity();
    let mut host = Host::with_tls(Limits { connect_time: Duration::from_secs(60), ..Limits::default() }, Some(tls)).await;
    let Endpoints { tls, websocket_tls, .. } = host.broker.endpoints();
    let mut stalled = Vec::new();
    for _ in 0..50 {
        stalled.push(TcpStream::connect(tls[0]).await.unwrap());
        stalled.push(TcpStream::connect(websocket_tls[0]).await.unwrap());
    }
    let mut device = enter(&connector, tls[0]).await;
    assert_eq!(host.presence().await, (true, "dev".to_owned()));
    soon("the end of the broker", host.broker.shutdown()).await;
    for stream in stalled {
        ended(stream).await;
    }
    let _end = soon("the end of the device", device.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn long_messages_come_whole_to_a_slow_reader() {
    let (tls, connector) = identity();
    let host = Host::with_tls(Limits::default(), Some(tls)).await;
    let mut device = enter(&connector, host.broker.endpoints().tls[0]).await;
    device.write_all(&packet(0x82, &[&[0, 1][..], &text("/1/x"), &[0]].concat())).await.unwrap();
    // Each is several records of TLS, and all are more than the buffers on the way hold while nothing is read.
    let one = packet(0x30, &[&text("/1/x")[..], &[b'x'; 200_000]].concat());
    let sending = async {
        for _ in 0..50 {
            let sent = host.broker.publish(id("1"), "/1/x", one[one.len() - 200_000..].to_vec().into(), 0, false).await;
            sent.unwrap();
        }
    };
    let mut suback = [0; 5];
    soon("SUBACK", device.read_exact(&mut suback)).await.unwrap();
    soon("all to be taken", sending).await;
    for _ in 0..50 {
        let mut heard = vec![0; one.len()];
        soon("a message", device.read_exact(&mut heard)).await.unwrap();
        assert!(heard == one, "{:02x?}", &heard[..20]);
    }
}

#[tokio::test]
async fn a_listener_over_tls_needs_a_certificate() {
    let host = Host::start().await;
    let any: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
    for wanted in [Endpoints { tls: any.clone(), ..Endpoints::default() }, Endpoints { websocket_tls: any, ..Endpoints::default() }] {
        let broker = EmbeddedBroker::new(Limits::default());
        let refused = broker.serve(Arc::clone(&host.admission) as Arc<_>, Arc::new(Deaf), &wanted, None).await;
        assert!(refused.unwrap_err().to_string().contains("certificate"));
        assert_eq!(broker.endpoints(), Endpoints::default());
    }
}
