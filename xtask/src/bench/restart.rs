//! `cargo xtask bench restart [COUNT]`: how long a host takes to come back with many sessions.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{Bench, Client, Outcome, Running, heading, median, say, status};

const COUNT: usize = 100_000;
const EAGER: usize = 1_000;
const ROUNDS: usize = 5;
/// When the clients' grants end: not while this is measured.
const EXPIRES: u64 = 4_000_000_000;
/// For one start.
const PATIENCE: Duration = Duration::from_secs(120);

struct Start {
    /// Until the ready file is there: sessions are found, joined and asked.
    ready: Duration,
    /// Until each session of a type that is not lazy has its conductor, too.
    made: Duration,
    /// Resident, in kB, at that time.
    rss: u64,
}

impl Bench {
    pub(super) fn restart(&self, count: usize) -> Outcome<()> {
        for (store, file) in [("json", "sessions.json"), ("sqlite", "sessions.db")] {
            for (kind, count) in [("default", count), ("echo", EAGER.min(count))] {
                heading(&format!("restart with {count} sessions of the type {kind}, {store}"));
                self.fill(&format!("{store}:{file}"), kind, count)?;
                let starts = (1..=ROUNDS).map(|round| {
                    let start = self.start_full(kind, count)?;
                    let (ready, made) = (start.ready.as_secs_f64(), start.made.as_secs_f64());
                    say(&format!(
                        "round {round}/{ROUNDS}: ready after {ready:.2} s, conductors after {made:.2} s, RSS {:.0} MB",
                        start.rss as f64 / 1e3
                    ));
                    Ok(start)
                });
                let starts = starts.collect::<Outcome<Vec<Start>>>()?;
                say(&format!(
                    "median: ready after {:.2} s, conductors after {:.2} s, RSS {:.0} MB",
                    median(starts.iter().map(|start| start.ready.as_secs_f64())),
                    median(starts.iter().map(|start| start.made.as_secs_f64())),
                    median(starts.iter().map(|start| start.rss as f64 / 1e3)),
                ));
            }
        }
        Ok(())
    }

    /// A folder with settings and a store of so many sessions, as after a day: one client each.
    fn fill(&self, store: &str, kind: &str, count: usize) -> Outcome<()> {
        let _ = fs::remove_dir_all(&self.scratch);
        fs::create_dir_all(&self.scratch)?;
        let plugin = |name: &str| self.release.join(name).display().to_string();
        let settings = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[iot]\nlisten = \"127.0.0.1:0\"\n[sessions]\nid_digits = 9\n[store]\nurl = {store:?}\n\
             [mqtt]\nlisten = \"127.0.0.1:0\"\nwebsocket_listen = \"\"\n[log]\nlevel = \"warn\"\n\
             [types.default]\nplugin = {:?}\n[types.echo]\nplugin = {:?}\n",
            plugin("conductor_default"),
            plugin("conductor_test_echo"),
        );
        fs::write(self.scratch.join("settings.toml"), settings)?;
        let mut text = String::from("{");
        for number in 0..count {
            // Spread over all ids, as chance does it.
            let id = (number as u64 * 618_033_989) % 1_000_000_000;
            let comma = if number == 0 { "" } else { "," };
            write!(
                text,
                "{comma}\n\"{id:09}\": {{\"id\": \"{id:09}\", \"pin\": \"123456\", \"type\": \"{kind}\", \"clients\": [\"device {number}\"], \
                 \"created_at\": \"2025-01-01T00:00:00.000Z\", \"expires\": {{\"device {number}\": {EXPIRES}}}}}"
            )?;
        }
        text.push_str("\n}\n");
        match store.strip_prefix("json:") {
            Some(file) => Ok(fs::write(self.scratch.join(file), text)?),
            None => {
                let plain = self.scratch.join("plain.json");
                fs::write(&plain, text)?;
                self.import(&plain)
            }
        }
    }

    /// Into the store of the settings.
    fn import(&self, plain: &Path) -> Outcome<()> {
        let from = format!("json:{}", plain.display());
        let mut import = Command::new(self.release.join("conductor-host"));
        super::succeed(import.args(["store", "import", "--from", &from, "--config"]).arg(self.scratch.join("settings.toml")))
    }

    fn start_full(&self, kind: &str, count: usize) -> Outcome<Start> {
        let (settings, ready_file) = (self.scratch.join("settings.toml"), self.scratch.join("ready.json"));
        let _ = fs::remove_file(&ready_file);
        let log = self.scratch.join("host.log");
        let mut host = Command::new(self.release.join("conductor-host"));
        host.stderr(fs::File::create(&log)?);
        let began = Instant::now();
        let process = Running(host.arg("serve").arg("--config").arg(settings).arg("--ready-file").arg(&ready_file).spawn()?);
        let wait = |what: &str, mut over: Box<dyn FnMut() -> Outcome<bool> + '_>| -> Outcome<Duration> {
            while !over()? {
                if began.elapsed() > PATIENCE {
                    return Err(format!("waited {PATIENCE:?} for {what}; see {}", log.display()).into());
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(began.elapsed())
        };
        let ready = wait("the ready file", Box::new(|| Ok(ready_file.exists())))?;
        let addresses: serde_json::Value = serde_json::from_str(&fs::read_to_string(&ready_file)?)?;
        let mut client = Client::connect(addresses["admin"].as_str().ok_or("no admin address")?)?;
        // Of a lazy type nothing is to be made.
        let state = if kind == "default" { "idle" } else { "live" };
        let sample = format!("conductor_host_sessions{{type=\"{kind}\",state=\"{state}\"}} {count}\n");
        let made = wait("the conductors", Box::new(|| Ok(client.get("/v1/metrics")?.contains(&sample))))?;
        Ok(Start { ready, made, rss: status(process.0.id(), "VmRSS:")? })
    }
}

/// How many sessions, where that is said.
pub(super) fn run(bench: &Bench, count: Option<&String>) -> Outcome<()> {
    let count = match count {
        None => COUNT,
        Some(text) => text.parse().map_err(|_| format!("{text:?} is no number of sessions"))?,
    };
    bench.restart(count)
}
