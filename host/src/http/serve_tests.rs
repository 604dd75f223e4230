use axum::{
    extract::ws::WebSocketUpgrade,
    routing::{get, post},
};
use tokio::{io::DuplexStream, time::Instant};

use super::*;
use crate::http::body;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn limits() -> Limits {
    Limits {
        times: Times { head: Duration::from_secs(5), request: Duration::from_secs(10), idle: Duration::from_secs(15) },
        head_bytes: 16 << 10,
        headers: 32,
        write_time: Duration::from_secs(10),
        connections: 10,
        per_source: 10,
        exempt: Networks::default(),
        allow: Networks::default(),
    }
}

fn router() -> Router {
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        "at last"
    };
    let echo = |body: Body| async { body::read(body, 100).await };
    let upgrade = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.recv().await {
                socket.send(message).await.unwrap();
            }
        })
    };
    Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow)).route("/echo", post(echo)).route("/up", get(upgrade))
}

/// A client, connected; the time is the test's, and passes where all wait.
fn client() -> (DuplexStream, watch::Sender<bool>) {
    let (client, server) = tokio::io::duplex(64 << 10);
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(requests(server, PEER, None, router(), Arc::new(limits()), stopping));
    (client, stop)
}

/// Sends bytes, one in each `pause`, until the other side closes or all are sent; what it answers until it closes, and when that was.
async fn trickle(client: DuplexStream, bytes: &[u8], pause: Duration) -> (String, Duration) {
    let begun = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let sending = async {
        for byte in bytes {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = sending => {}
        // One that is cut may end in an error; what came before counts.
        _ = read.read_to_end(&mut answer) => {}
    }
    (String::from_utf8(answer).unwrap(), begun.elapsed())
}

fn near(took: Duration, seconds: u64) {
    assert!(took >= Duration::from_secs(seconds) && took < Duration::from_secs(seconds + 1), "{took:?}, not {seconds} s");
}

const SECOND: Duration = Duration::from_secs(1);

async fn answer(client: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 4096];
    let read = client.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_has_five_seconds() {
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1000));
    let (answer, took) = trickle(client().0, head.as_bytes(), SECOND / 10).await;
    near(took, 5);
    assert_eq!(answer, "");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_comes_byte_by_byte_has_ten_seconds_from_its_first_byte() {
    let (mut client, _stop) = client();
    client.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n").await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    let (answer, took) = trickle(client, format!("\r\n{}", "y".repeat(99)).as_bytes(), SECOND / 5).await;
    near(took, 6);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_be_idle_for_fifteen_seconds_before_and_between_requests() {
    let (answer_of_nothing, took) = trickle(client().0, b"", SECOND).await;
    near(took, 15);
    assert_eq!(answer_of_nothing, "");
    let (mut client, _stop) = client();
    for _ in 0..3 {
        tokio::time::sleep(14 * SECOND).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
    }
    let (rest, took) = trickle(client, b"", SECOND).await;
    near(took, 15);
    assert_eq!(rest, "");
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_as_long_as_it_takes_and_then_the_connection_is_idle() {
    let (mut client, _stop) = client();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(answer(&mut client).await.ends_with("at last"));
    let (_, took) = trickle(client, b"", SECOND).await;
    near(took, 15);
}

#[tokio::test(start_paused = true)]
async fn no_time_runs_after_an_upgrade() {
    let (mut client, _stop) = client();
    let head = "GET /up HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 101"));
    tokio::time::sleep(1000 * SECOND).await;
    client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'a']).await.unwrap();
    assert_eq!(answer(&mut client).await, "\u{fffd}\u{1}a", "the echo, in a frame");
}

#[tokio::test(start_paused = true)]
async fn too_many_headers_and_too_long_heads_are_431_and_too_long_bodies_413() {
    let headers = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    for (head, status) in [
        (headers(32), "200"),
        (headers(33), "431"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(12 << 10)), "200"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(17 << 10)), "431"),
        (format!("POST /echo HTTP/1.1\r\nContent-Length: 101\r\n\r\n{}", "y".repeat(101)), "413"),
    ] {
        let (mut client, _stop) = client();
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = answer(&mut client).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{} bytes: {answer}", head.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_what_is_idle_soon_and_lets_a_request_come_to_its_end() {
    let (client, stop) = client();
    stop.send_replace(true);
    let (_, took) = trickle(client, b"", SECOND).await;
    assert!(took < SECOND, "{took:?}");
    let (mut asking, stop) = self::client();
    asking.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na").await.unwrap();
    tokio::time::sleep(SECOND).await;
    stop.send_replace(true);
    tokio::time::sleep(3 * SECOND).await;
    asking.write_all(b"bc").await.unwrap();
    assert!(answer(&mut asking).await.ends_with("abc"));
    let (_, took) = trickle(asking, b"", SECOND).await;
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_answered_503_and_closed_and_places_are_given_back() {
    let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let to = listeners[0].local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(listeners, router(), Limits { per_source: 1, ..limits() }, None, stopping));
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    };
    let mut first = TcpStream::connect(to).await.unwrap();
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut second = TcpStream::connect(to).await.unwrap();
    let mut refused = ask(&mut second).await;
    second.read_to_string(&mut refused).await.unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 5\r\n") && head.contains("\r\nConnection: close"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "overloaded");
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"), "the first goes on");
    drop(first);
    let again = async {
        while !ask(&mut TcpStream::connect(to).await.unwrap()).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}

/// A request sent by a client that is connected.
async fn asking(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn who_had_connected_and_asked_before_the_stop_is_answered() {
    let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let to = listeners[0].local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(asking(to).await);
    }
    let (_stop, stopping) = watch::channel(true);
    let serving = tokio::spawn(serve(listeners, router(), limits(), None, stopping));
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(to).await.is_err(), "nobody new");
}

#[tokio::test(start_paused = true)]
async fn what_a_kept_connection_had_sent_before_the_stop_is_answered() {
    // Which of the two the server sees first is left to chance.
    for _ in 0..20 {
        let (mut client, stop) = client();
        for last in [false, true] {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            stop.send_replace(last);
            assert!(answer(&mut client).await.ends_with("hello"));
        }
    }
}

#[test]
fn however_fast_others_connect_the_stop_comes() {
    let mut accepted = 0;
    let accept = || {
        accepted += 1;
        assert!(accepted < 10_000, "for ever");
        Err(io::ErrorKind::ConnectionAborted.into())
    };
    for_each_waiting(accept, |_, _| ());
    assert_eq!(accepted, BACKLOG);
}
