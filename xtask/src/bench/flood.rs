//! `cargo xtask bench flood`: how long others wait while the IoT port is flooded, beside how long they wait in peace.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Bench, Outcome, heading, median, say};

const ROUNDS: usize = 5;
/// How long each round is measured.
const SLICE: Duration = Duration::from_secs(3);
/// Connections that say nothing, and connections that send a head byte by byte.
const IDLE: usize = 2_000;
const SLOW: usize = 500;
/// How often one source knocks whose places are all taken.
const KNOCK: Duration = Duration::from_millis(2);
/// What the attackers may take of that source: its places.
const PLACES: usize = 1_024;

impl Bench {
    pub(super) fn flood(&self) -> Outcome<()> {
        heading(&format!("a flood: {IDLE} idle, {SLOW} slow, {PLACES} of one source that goes on knocking"));
        let files = 20_000;
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(files), maximum: Some(files) },
        )?;
        let _host = self.host("")?;
        let ready: serde_json::Value = serde_json::from_str(&fs::read_to_string(self.scratch.join("ready.json"))?)?;
        let to: SocketAddr = ready["iot"].as_str().ok_or("no IoT address")?.parse()?;
        let mut ratios = Vec::new();
        for round in 1..=ROUNDS {
            let peace = p99(to)?;
            let (stop, refused) = (AtomicBool::new(false), AtomicU64::new(0));
            let flooded = thread::scope(|scope| {
                let idle: Vec<_> = (0..IDLE).filter_map(|n| from(1 + n % 20, to).ok()).collect();
                let taken: Vec<_> = (0..PLACES).filter_map(|_| from(100, to).ok()).collect();
                scope.spawn(|| slow(to, &stop));
                scope.spawn(|| knock(to, &stop, &refused));
                let measured = p99(to);
                stop.store(true, Ordering::Relaxed);
                drop((idle, taken));
                measured
            })?;
            ratios.push(flooded / peace);
            say(&format!(
                "round {round}/{ROUNDS}: p99 {peace:.2} ms in peace, {flooded:.2} ms under the flood ({:.2}); {} were refused at once",
                flooded / peace,
                refused.load(Ordering::Relaxed)
            ));
        }
        say(&format!("median ratio: {:.2} (aim: 2 at most)", median(ratios.into_iter())));
        Ok(())
    }
}

/// A connection from one of the sources in 127/8.
fn from(source: usize, to: SocketAddr) -> Outcome<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let address = Ipv4Addr::from_bits(0x7f01_0000 + u32::try_from(source)?);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(address), 0))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// Heads that come byte by byte; one that is cut is begun again.
fn slow(to: SocketAddr, stop: &AtomicBool) {
    let mut streams: Vec<Option<TcpStream>> = (0..SLOW).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut streams {
            if stream.as_mut().is_none_or(|open| open.write_all(b"x").is_err()) {
                *stream = from(50, to).ok();
            }
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn knock(to: SocketAddr, stop: &AtomicBool, refused: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let mut answer = [0; 12];
        if from(100, to).is_ok_and(|mut stream| stream.read_exact(&mut answer).is_ok()) && answer.ends_with(b"503") {
            refused.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(KNOCK);
    }
}

/// The 99th percentile of a new connection with one request and its answer, in milliseconds, by four others.
fn p99(to: SocketAddr) -> Outcome<f64> {
    let measured = thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                scope.spawn(move || {
                    let (end, mut took) = (Instant::now() + SLICE, Vec::new());
                    while Instant::now() < end {
                        let begun = Instant::now();
                        let mut answer = String::new();
                        let mut stream = from(200 + caller, to).map_err(|error| error.to_string())?;
                        let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                        asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(|error| error.to_string())?;
                        if !answer.starts_with("HTTP/1.1 200") {
                            return Err(format!("another client was not served: {answer:?}"));
                        }
                        took.push(begun.elapsed().as_secs_f64() * 1e3);
                        // As clients come: not as fast as they can.
                        thread::sleep(Duration::from_millis(5));
                    }
                    Ok(took)
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".into())))
            .collect::<Result<Vec<_>, String>>()
    })?;
    let mut all: Vec<f64> = measured.into_iter().flatten().collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() * 99 / 100).copied().ok_or_else(|| "nothing was measured".into())
}
