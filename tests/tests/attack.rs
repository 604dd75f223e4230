//! Guessing from many addresses at many sessions: how much it gains, and whether those who belong there still get in.
//!
//! The pins are of three digits, the shortest that the settings allow, so that takeovers happen and can be counted.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use conductor_tests::{Host, HostOptions, http};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    task::JoinSet,
};

const SOURCES: usize = 1000;
const SESSIONS: usize = 100;
/// What a source may fail at once; the guessers use all of it.
const SOURCE_BURST: usize = 10;
/// What the pin of a session takes at once.
const PIN_BURST: usize = 10;
/// Guesses at each session: 0, 1, 2… as pins of three digits.
const GUESSES: usize = SOURCES * SOURCE_BURST / SESSIONS;
/// Joins by link and as many by resume token at each session, meanwhile.
const HONEST: usize = 10;

/// How often each status was answered.
type Statuses = BTreeMap<u16, usize>;

/// One request from this address: the answer's status.
async fn post(to: SocketAddr, from: Ipv4Addr, target: &str, body: &Value) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let body = body.to_string();
    let text = format!("POST {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

/// A guesser's address.
fn guesser(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number % SOURCES).unwrap();
    Ipv4Addr::from_bits(0x7f01_0001 + number)
}

/// An honest client's.
fn honest(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f02_0001 + u32::try_from(number).unwrap())
}

struct Session {
    join: String,
    pin: usize,
    secret: Value,
    /// Of a client that joined before the attack.
    resume: Value,
}

fn create(host: &Host) -> Session {
    let created = http::post(host.admin, "/v1/sessions", r#"{"type": "default"}"#).json();
    let join = format!("/v1/sessions/{}/join", created["id"].as_str().unwrap());
    let first = http::post(host.iot, &join, &json!({"client": "first", "pin": created["pin"]}).to_string()).json();
    let pin = created["pin"].as_str().unwrap().parse().unwrap();
    Session { join, pin, secret: created["join_secret"].clone(), resume: first["resume"].clone() }
}

/// Guesses one pin after the other, each from the next address.
async fn guess(iot: SocketAddr, join: String, from: usize) -> Statuses {
    let mut statuses = Statuses::new();
    for number in 0..GUESSES {
        let body = json!({"client": "eve", "pin": format!("{number:03}")});
        *statuses.entry(post(iot, guesser(from + number), &join, &body).await).or_default() += 1;
    }
    statuses
}

async fn come_in(iot: SocketAddr, session: Arc<Session>, from: usize) -> Statuses {
    let mut statuses = Statuses::new();
    for number in 0..HONEST {
        // From an address of their own, and from one that guesses.
        for (from, body) in [
            (honest(from), json!({"client": format!("c{number}"), "secret": session.secret})),
            (guesser(from * HONEST + number), json!({"client": "first", "resume": session.resume})),
        ] {
            *statuses.entry(post(iot, from, &session.join, &body).await).or_default() += 1;
        }
    }
    statuses
}

/// All of them at once; what each was answered, in their order.
async fn all(running: Vec<impl Future<Output = Statuses> + Send + 'static>) -> Vec<Statuses> {
    let mut tasks: JoinSet<(usize, Statuses)> = JoinSet::new();
    for (number, future) in running.into_iter().enumerate() {
        tasks.spawn(async move { (number, future.await) });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_unstable_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, statuses)| statuses).collect()
}

fn sum(of: &[Statuses]) -> Statuses {
    let mut sum = Statuses::new();
    of.iter().flatten().for_each(|(status, count)| *sum.entry(*status).or_default() += count);
    sum
}

#[test]
fn a_thousand_sources_take_no_more_sessions_over_than_the_budget_lets_them_and_lock_nobody_out() {
    let options =
        HostOptions::default().set("joins.exempt", json!("")).set("sessions.pin_digits", json!(3)).set("log.level", json!("info"));
    // The sessions are made from one address.
    let host = Host::start(options.set("joins.source_failures_per_minute", json!(1)));
    let sessions: Vec<Arc<Session>> = (0..SESSIONS).map(|_| Arc::new(create(&host))).collect();
    let (iot, begun) = (host.iot, Instant::now());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (guessed, came) = runtime.block_on(async {
        let guessing = sessions.iter().enumerate().map(|(number, session)| guess(iot, session.join.clone(), number * GUESSES)).collect();
        let coming = sessions.iter().enumerate().map(|(number, session)| come_in(iot, session.clone(), number)).collect();
        tokio::join!(all(guessing), all(coming))
    });
    // By now every source has used its budget up, at ids that exist; so it has at those that do not.
    let spent = runtime.block_on(all((0..SESSIONS).map(|number| guess_nowhere(iot, number)).collect()));
    let taken: Vec<bool> = guessed.iter().map(|statuses| statuses.contains_key(&200)).collect();
    let within = |guesses: usize| sessions.iter().filter(|session| session.pin < guesses).count();
    let (guesses, honest, after) = (sum(&guessed), sum(&came), sum(&spent));
    let let_in = honest.get(&200).copied().unwrap_or_default();
    let tried = SESSIONS * HONEST * 2;
    println!("{:<52} {:>8}", "guesses, from 1,000 addresses at 100 sessions", SESSIONS * GUESSES);
    println!("{:<52} {:>8}", "takeovers", taken.iter().filter(|taken| **taken).count());
    println!("{:<52} {:>8.1}", "  expected, of 10 guesses at each pin of 3 digits", SESSIONS as f64 * PIN_BURST as f64 / 1000.0);
    println!("{:<52} {:>8}", "  pins among those 10", within(PIN_BURST));
    println!("{:<52} {:>8}", "  pins among all guesses: takeovers without a budget", within(GUESSES));
    println!("{:<52} {:>8?}", "answers to guesses, by status", guesses);
    println!("{:<52} {:>8?}", "answers to the same addresses afterwards", after);
    println!("{:<52} {let_in:>5}/{tried}", "joins by link and resume token meanwhile");
    println!("{:<52} {:>8?}", "time", begun.elapsed());
    // Each budget to the letter: a pin is believed for as long as ten others were not.
    for (session, taken) in sessions.iter().zip(&taken) {
        assert_eq!(*taken, session.pin < PIN_BURST, "pin {}", session.pin);
    }
    assert!(let_in * 100 >= tried * 99, "{honest:?}");
    assert!(guesses.keys().all(|status| [200, 403, 429].contains(status)), "{guesses:?}");
    assert!(after.get(&429).copied().unwrap_or_default() * 100 >= SOURCES * 90, "{after:?}");
}

/// One more guess from some of the addresses, at ids of which most are no session's.
async fn guess_nowhere(iot: SocketAddr, number: usize) -> Statuses {
    let mut statuses = Statuses::new();
    for from in (0..SOURCES).skip(number).step_by(SESSIONS) {
        let join = format!("/v1/sessions/{:06}/join", from * 997 % 1_000_000);
        *statuses.entry(post(iot, guesser(from), &join, &json!({"client": "eve", "pin": "000"})).await).or_default() += 1;
    }
    statuses
}
