//! `cargo xtask bench timing [SAMPLES]`: whether the time of an answer tells an unknown id from a wrong pin.
//!
//! The two are asked in turn over one connection, in an order that is drawn for each pair, and compared by Welch's t. Below 4.5 no difference is seen; what is
//! measured is also the same question about itself, which shows what the machine's own noise makes of it.

use super::{Bench, Client, Outcome, heading, say};

use std::{io::Write as _, time::Instant};

/// Asked before anything is measured.
const WARM_UP: usize = 5000;
/// What does not count, of the slowest answers of each kind: the scheduler's, not the host's.
const CUT: f64 = 0.05;

pub(super) fn run(bench: &Bench, samples: Option<&String>) -> Outcome<()> {
    let samples: usize = samples.map_or(Ok(100_000), |text| text.parse().map_err(|_| format!("{text:?} is no number of samples")))?;
    heading("unknown id and wrong pin, by the time of the answer");
    // Budgets are charged as they always are, and are large enough for all: else most would be answered 429, without a look at the pin.
    let keys = ["source_failures_burst", "source_failures_per_minute", "pin_failures_burst", "pin_failures_per_hour", "pin_failures_total"];
    let joins: Vec<String> = keys.iter().map(|key| format!("{key} = 60000\n")).collect();
    let host = bench.host(&format!("[joins]\n{}", joins.concat()))?;
    let ids = host.create("default", 1000)?;
    let mut client = Client::connect(&host.iot)?;
    // As likely to be in the directory's every part as those that are there.
    let known: Vec<String> = ids.iter().map(|id| body(id)).collect();
    let unknown: Vec<String> =
        (0..1000_u64).map(|n| body(&format!("{:09}", n * 999_983 % 1_000_000_000))).filter(|b| !known.contains(b)).collect();
    let nowhere: Vec<String> =
        (0..1000_u64).map(|n| body(&format!("{:09}", n * 777_781 % 1_000_000_000))).filter(|b| !known.contains(b)).collect();
    for (name, first, second) in [("unknown id against unknown id", &unknown, &nowhere), ("unknown id against wrong pin", &unknown, &known)]
    {
        let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
        let mut order = 0x9e37_79b9_7f4a_7c15_u64;
        for number in 0..WARM_UP + samples {
            // xorshift: which of the two is first must follow nothing that the machine does again and again.
            order ^= order << 13;
            order ^= order >> 7;
            order ^= order << 17;
            let turns = if order & 1 == 0 { [0, 1] } else { [1, 0] };
            for which in turns {
                let bodies = [first, second][which];
                let begun = Instant::now();
                client.post("/api/joinSession", number, &bodies[number % bodies.len()])?;
                if number >= WARM_UP {
                    times[which].push(begun.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
        let [first, second] = times.map(|times| Sample::of(times, CUT));
        let t = (first.mean - second.mean) / (first.variance / first.count + second.variance / second.count).sqrt();
        say(&format!("{name}: {:.3} and {:.3} µs of {samples} each, t = {t:.2}", first.mean, second.mean));
    }
    say("below 4.5 (either sign) no difference is seen");
    Ok(())
}

fn body(id: &str) -> String {
    // A pin of one digit is no session's.
    format!("{{\"id\":\"{id}\",\"pin\":\"1\",\"client\":\"a\"}}")
}

struct Sample {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Sample {
    fn of(mut times: Vec<f64>, cut: f64) -> Self {
        times.sort_by(f64::total_cmp);
        let kept = times.len() - (times.len() as f64 * cut) as usize;
        times.truncate(kept.max(2));
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { count, mean, variance }
    }
}

impl Client {
    /// One request, as if from one of many sources; its answer is read.
    fn post(&mut self, path: &str, number: usize, body: &str) -> Outcome<()> {
        let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (number as u32 & 0xffff));
        write!(
            self.0.get_mut(),
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {source}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let body = super::read_answer(&mut self.0)?;
        let refused = body.starts_with(b"{\"token\":\"Could not");
        if refused { Ok(()) } else { Err(format!("answered {:?}", String::from_utf8_lossy(&body)).into()) }
    }
}
