//! Rounds of: changes by several clients at once, kill -9 in the midst of them, a restart, and a comparison with what was acknowledged.

use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use conductor_tests::{Host, Session, until};
use serde_json::Value;

use super::{
    Medium,
    known::{Client, Verdict, any_number},
};

/// Set by `cargo xtask crash`: how many rounds, and progress is shown.
const ROUNDS: &str = "CONDUCTOR_TESTS_CRASH_ROUNDS";

const CLIENTS: usize = 6;

#[test]
fn json() {
    run(Medium::Json);
}

#[test]
fn sqlite() {
    run(Medium::Sqlite);
}

/// What came of all rounds.
#[derive(Debug, Default)]
struct Total {
    rounds: usize,
    /// Kills that met no change under way, and do not count.
    idle: usize,
    acknowledged: usize,
    verdict: Verdict,
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, idle, acknowledged, verdict: Verdict { unanswered, made, lost, resurrected } } = self;
        write!(
            f,
            "{rounds} kills with changes in flight ({idle} without any not counted), {acknowledged} acknowledged changes checked, \
             {unanswered} in flight ({made} of them had been made), lost: {}, resurrected: {}",
            lost.len(),
            resurrected.len()
        )
    }
}

fn run(medium: Medium) {
    let wanted: Option<usize> = std::env::var(ROUNDS).ok().map(|rounds| rounds.parse().expect("a number of rounds"));
    let (begun, mut shown) = (Instant::now(), Duration::ZERO);
    let mut host = Host::start(medium.options());
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(number.to_string())).collect();
    let mut total = Total::default();
    let rounds = wanted.unwrap_or(50);
    while total.rounds < rounds && total.verdict.lost.is_empty() && total.verdict.resurrected.is_empty() {
        total.acknowledged += until_killed(&mut host, &mut clients);
        if clients.iter().any(Client::waits) {
            total.rounds += 1;
        } else {
            total.idle += 1;
        }
        if any_number().is_multiple_of(4) {
            // It may be killed while it puts things in order, too.
            host.start_and_kill(Duration::from_micros(any_number() % 80_000));
        }
        host.start_again();
        compare(&host, &mut clients, &mut total.verdict);
        if wanted.is_some() && (begun.elapsed() > shown || total.rounds == rounds) {
            shown = begun.elapsed() + Duration::from_millis(200);
            progress(total.rounds, rounds, begun.elapsed());
        }
    }
    // For `cargo xtask crash`, and whoever looks at a failure.
    eprintln!("{medium:?}: {total}, in {:.0?}", begun.elapsed());
    let Verdict { lost, resurrected, .. } = total.verdict;
    assert!(lost.is_empty() && resurrected.is_empty(), "round {}: lost {lost:?}, resurrected {resurrected:?}", total.rounds);
    // A test that meets nothing half done shows nothing.
    assert!(rounds < 50 || (total.verdict.made > 0 && total.verdict.made < total.verdict.unanswered));
}

/// All clients change things until the host is killed. How many changes were acknowledged.
fn until_killed(host: &mut Host, clients: &mut [Client]) -> usize {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (admin, iot) = (host.admin, host.iot);
    thread::scope(|scope| {
        for client in clients {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && client.change(admin, iot).is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let changes = any_number() as usize % 16;
        until("some changes", || (done.load(Ordering::Relaxed) > changes).then_some(()));
        // Nothing is waited for: so it is another moment between two answers each time.
        thread::sleep(Duration::from_micros(any_number() % 5000));
        host.kill();
        stop.store(true, Ordering::Relaxed);
    });
    done.into_inner()
}

fn compare(host: &Host, clients: &mut [Client], verdict: &mut Verdict) {
    let listed = host.admin("/v1/sessions?limit=500").json();
    assert!(listed["next_cursor"].is_null(), "all are on one page");
    let items = listed["items"].as_array().expect("a list").iter();
    let mut found: BTreeMap<String, Value> = items.map(|item| (item["id"].as_str().expect("an id").to_owned(), item.clone())).collect();
    let kept = |id: &str| {
        let answer = super::kept(host, &Session { id: id.to_owned(), pin: String::new() });
        if answer.status == 200 { answer.json()["result"].clone() } else { answer.body.into() }
    };
    for client in &mut *clients {
        client.compare(&mut found, kept, verdict);
    }
    for client in clients {
        client.adopt(&mut found, verdict);
    }
    verdict.resurrected.extend(found.into_keys().map(|id| format!("session {id}, which nobody asked for")));
}

/// A bar on standard error, with the time that is left.
fn progress(done: usize, all: usize, time: Duration) {
    const WIDTH: usize = 40;
    let bar = "#".repeat(done * WIDTH / all.max(1));
    let left = time.as_secs_f64() / done.max(1) as f64 * (all - done) as f64;
    let end = if done == all { "\n" } else { "" };
    eprint!("\r[{bar:-<WIDTH$}] {done}/{all} rounds, {left:.0} s left  {end}");
    // Nobody may look.
    let _ = std::io::stderr().flush();
}
