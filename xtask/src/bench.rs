//! `cargo xtask bench`: what a session costs, and how fast conductors are asked. Figures depend on the machine; ratios are taken
//! within one run, from slices that alternate.

mod abi;
mod author;
mod containment;
mod flood;
mod restart;
mod store;
pub(crate) mod tables;
mod timing;

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::workspace;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 9;
const SLICE: &str = "2s";
const CONNECTIONS: usize = 64;

/// Runs the named benchmarks, or all of those that go together.
pub(crate) fn run(names: &[String]) -> Outcome<ExitCode> {
    match names {
        [name] if name == "abi" => return abi::run(),
        [name] if name == "author" => return author::run(),
        [name, count @ ..] if name == "restart" && count.len() <= 1 => {
            build()?;
            restart::run(&Bench::new()?, count.first())?;
            return Ok(ExitCode::SUCCESS);
        }
        [name] if name == "flood" => {
            build()?;
            Bench::new()?.flood()?;
            return Ok(ExitCode::SUCCESS);
        }
        [name, samples @ ..] if name == "timing" && samples.len() <= 1 => {
            build()?;
            timing::run(&Bench::new()?, samples.first())?;
            return Ok(ExitCode::SUCCESS);
        }
        [name, count @ ..] if name == "tables" && count.len() <= 1 => {
            tables::run(count.first())?;
            return Ok(ExitCode::SUCCESS);
        }
        [name, options @ ..] if name == "store" => return store::run(options),
        _ => {}
    }
    let all = ["size", "memory", "requests", "blocking", "containment"];
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(format!(
            "there is no benchmark {unknown:?}; there are: {}, and by itself abi, author, flood, restart, store, tables or timing",
            all.join(", ")
        )
        .into());
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|other| other == name);
    build()?;
    let (root, bench) = (workspace::root(), Bench::new()?);
    if wanted("size") {
        bench.size(&root)?;
    }
    if wanted("memory") {
        bench.memory()?;
    }
    if wanted("requests") {
        bench.requests()?;
    }
    if wanted("blocking") {
        bench.blocking()?;
    }
    if wanted("containment") {
        bench.containment()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn build() -> Outcome<()> {
    say("building (release)…");
    let packages = [
        "conductor-host",
        "conductor-default",
        "conductor-active",
        "conductor-test-faulty",
        "conductor-test-raw",
        "conductor-test-echo",
        "bare_route",
    ];
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    succeed(workspace::cargo().args(["build", "--release"]).args(packages))
}

struct Bench {
    release: PathBuf,
    scratch: PathBuf,
}

/// A child that is killed with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Host {
    process: Running,
    admin: String,
    iot: String,
}

impl Bench {
    fn new() -> Outcome<Self> {
        let target = workspace::target()?;
        Ok(Self { release: target.join("release"), scratch: target.join("bench") })
    }

    fn host(&self, more: &str) -> Outcome<Host> {
        let _ = fs::remove_dir_all(&self.scratch);
        fs::create_dir_all(&self.scratch)?;
        let plugin = |name: &str| self.release.join(name).display().to_string();
        let settings = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[iot]\nlisten = \"127.0.0.1:0\"\ntrusted_proxies = \"127.0.0.1\"\n[sessions]\nid_digits = 9\n{more}\n[store]\nurl = \"memory:\"\n\
             [mqtt]\nlisten = \"127.0.0.1:0\"\nwebsocket_listen = \"\"\n[log]\nlevel = \"error\"\n\
             [types.default]\nplugin = {:?}\n[types.faulty]\nplugin = {:?}\n[types.raw]\nplugin = {:?}\n",
            plugin("conductor_default"),
            plugin("conductor_test_faulty"),
            plugin("conductor_test_raw"),
        );
        let (file, ready) = (self.scratch.join("settings.toml"), self.scratch.join("ready.json"));
        fs::write(&file, settings)?;
        let mut host = Command::new(self.release.join("conductor-host"));
        // Beside the figures it would be in the way, where plugins misbehave on purpose.
        let log = self.scratch.join("host.log");
        host.stderr(fs::File::create(&log)?);
        let process = Running(host.arg("serve").arg("--config").arg(file).arg("--ready-file").arg(&ready).spawn()?);
        let started = Instant::now();
        while !ready.exists() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err(format!("the host did not become ready within 20 s; see {}", log.display()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let addresses: serde_json::Value = serde_json::from_str(&fs::read_to_string(ready)?)?;
        let admin = addresses["admin"].as_str().ok_or("no admin address")?.to_owned();
        let iot = addresses["iot"].as_str().ok_or("no IoT address")?.to_owned();
        Ok(Host { process, admin, iot })
    }

    fn size(&self, root: &Path) -> Outcome<()> {
        heading("size");
        for name in ["conductor-host", "libconductor_default.so", "libconductor_active.so"] {
            let bytes = fs::metadata(self.release.join(name))?.len();
            say(&format!("{name}: {:.2} MB", bytes as f64 / 1e6));
        }
        let lock = fs::read_to_string(root.join("Cargo.lock"))?;
        say(&format!("packages in Cargo.lock: {}", lock.matches("[[package]]").count()));
        for plugin in ["default", "active"] {
            let text = fs::read_to_string(root.join(format!("plugins/{plugin}/src/lib.rs")))?;
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            say(&format!("plugins/{plugin}: {} lines before the tests", code.lines().filter(|line| !line.trim().is_empty()).count()));
        }
        Ok(())
    }

    fn memory(&self) -> Outcome<()> {
        const SESSIONS: usize = 100_000;
        heading("memory and idleness");
        let host = self.host("")?;
        let pid = host.process.0.id();
        host.create("default", 1)?;
        let before = status(pid, "VmRSS:")?;
        let started = Instant::now();
        host.create("default", SESSIONS)?;
        let made = started.elapsed().as_secs_f64();
        // Buffers of the connections that made them are gone by then.
        thread::sleep(Duration::from_secs(2));
        let after = status(pid, "VmRSS:")?;
        say(&format!("RSS with 1 session: {:.1} MB", before as f64 / 1e3));
        say(&format!("RSS with {SESSIONS} idle `default` sessions: {:.1} MB", after as f64 / 1e3));
        say(&format!("a session: {:.0} bytes", (after - before) as f64 * 1024.0 / SESSIONS as f64));
        say(&format!("made over HTTP, 16 callers: {:.0}/s", SESSIONS as f64 / made));
        // The watchdog of the last request goes to sleep first.
        thread::sleep(Duration::from_secs(2));
        let (switches, ticks) = (switches(pid)?, ticks(pid)?);
        thread::sleep(Duration::from_secs(10));
        say(&format!(
            "in 10 s with all of them idle: {} context switches, {} ticks of CPU",
            self::switches(pid)? - switches,
            self::ticks(pid)? - ticks
        ));
        Ok(())
    }

    fn requests(&self) -> Outcome<()> {
        heading("requests through `default` beside a bare axum route");
        let host = self.host("")?;
        let (bare, bare_address) = self.bare()?;
        let ids = host.create("default", 900)?;
        let script = self.script(&ids)?;
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let bare = wrk(&bare_address, &script)?;
            let ours = wrk(&host.admin, &script)?;
            say(&format!(
                "round {round}/{ROUNDS}: bare {:.0}/s, p99 {:.2} ms; host {:.0}/s, p99 {:.2} ms; ratio {:.2}",
                bare.per_second,
                bare.p99,
                ours.per_second,
                ours.p99,
                ours.per_second / bare.per_second
            ));
            rounds.push((ours.per_second / bare.per_second, ours.p99 / bare.p99));
        }
        drop(bare);
        say(&format!("median ratio of requests per second: {:.2}", median(rounds.iter().map(|round| round.0))));
        say(&format!("median ratio of p99: {:.2}", median(rounds.iter().map(|round| round.1))));
        Ok(())
    }

    fn blocking(&self) -> Outcome<()> {
        heading("others while one conductor blocks its thread");
        let host = self.host("deadline = \"30s\"")?;
        let script = self.script(&host.create("default", 900)?)?;
        let blocker = host.create("faulty", 1)?.remove(0);
        let (mut quiet, mut blocked) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let alone = wrk(&host.admin, &script)?;
            let path = format!("/api/conductorRequest?id={blocker}&method=block&params=%7B%22millis%22:1500%7D");
            let address = host.admin.clone();
            let blocking =
                thread::spawn(move || Client::connect(&address).and_then(|mut client| client.get(&path)).map_err(|e| e.to_string()));
            let beside = wrk(&host.admin, &script)?;
            let answer = blocking.join().map_err(|_| "the blocking request panicked")??;
            if !answer.contains("blocked") {
                return Err(format!("the blocking request was answered {answer:?}").into());
            }
            say(&format!("round {round}/{ROUNDS}: p99 alone {:.2} ms, beside the blocker {:.2} ms", alone.p99, beside.p99));
            quiet.push(alone);
            blocked.push(beside);
        }
        let (a, b) = (median(quiet.iter().map(|m| m.p99)), median(blocked.iter().map(|m| m.p99)));
        say(&format!("median p99: {a:.2} ms alone, {b:.2} ms beside the blocker: {:.2}x", b / a));
        let (a, b) = (median(quiet.iter().map(|m| m.per_second)), median(blocked.iter().map(|m| m.per_second)));
        say(&format!("median requests per second: {a:.0} alone, {b:.0} beside the blocker: {:.2}x", b / a));
        Ok(())
    }

    fn bare(&self) -> Outcome<(Running, String)> {
        let mut process = Command::new(self.release.join("bare_route")).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("no output of the bare route")?;
        let running = Running(process);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok((running, line.trim().to_owned()))
    }

    /// A wrk script that asks a random one of the sessions.
    fn script(&self, ids: &[String]) -> Outcome<PathBuf> {
        let file = self.scratch.join("requests.lua");
        let list: Vec<String> = ids.iter().map(|id| format!("{id:?}")).collect();
        let text = format!(
            "local ids = {{{}}}\nrequest = function()\n  return wrk.format(\"GET\", \"/api/conductorRequest?method=state&id=\" .. ids[math.random(#ids)])\nend\n\
             done = function(summary, latency, requests)\n  io.write(string.format(\"RESULT %f %f %d\\n\", summary.requests / summary.duration * 1e6, latency:percentile(99) / 1000,\n\
               summary.errors.status + summary.errors.read + summary.errors.timeout))\nend\n",
            list.join(",")
        );
        fs::write(&file, text)?;
        Ok(file)
    }
}

impl Host {
    /// Makes sessions from 16 connections; their ids.
    fn create(&self, kind: &str, count: usize) -> Outcome<Vec<String>> {
        let callers = count.min(16);
        let made: Vec<Result<Vec<String>, String>> = thread::scope(|scope| {
            let callers: Vec<_> = (0..callers)
                .map(|caller| {
                    let share = count / callers + usize::from(caller < count % callers);
                    scope.spawn(move || self.create_some(kind, share).map_err(|e| e.to_string()))
                })
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned()))).collect()
        });
        let mut ids = Vec::with_capacity(count);
        for some in made {
            ids.extend(some?);
        }
        Ok(ids)
    }

    fn create_some(&self, kind: &str, count: usize) -> Outcome<Vec<String>> {
        let mut client = Client::connect(&self.admin)?;
        (0..count)
            .map(|_| {
                let answer = client.get(&format!("/api/createSession?type={kind}"))?;
                let session: serde_json::Value = serde_json::from_str(&answer)?;
                Ok(session["id"].as_str().ok_or_else(|| format!("no session was made: {answer}"))?.to_owned())
            })
            .collect()
    }
}

/// One kept connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn get(&mut self, path: &str) -> Outcome<String> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        Ok(String::from_utf8(read_answer(&mut self.0)?)?)
    }
}

/// The body of the next answer of a connection.
fn read_answer(from: &mut impl BufRead) -> Outcome<Vec<u8>> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Err("the host closed the connection".into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

struct Measured {
    per_second: f64,
    /// In milliseconds.
    p99: f64,
}

fn wrk(address: &str, script: &Path) -> Outcome<Measured> {
    let connections = format!("-c{CONNECTIONS}");
    let output = Command::new("wrk")
        .args(["-t2", &connections, "-d", SLICE, "--latency", "-s"])
        .arg(script)
        .arg(format!("http://{address}"))
        .output();
    let output = output.map_err(|e| format!("wrk does not run ({e}); install the package wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT ")).ok_or_else(|| format!("wrk said: {text}"))?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    match numbers[..] {
        [per_second, p99, 0.0] => Ok(Measured { per_second, p99 }),
        _ => Err(format!("some requests failed: {line}").into()),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number of /proc/PID/status.
fn status(pid: u32, key: &str) -> Outcome<u64> {
    number(&fs::read_to_string(format!("/proc/{pid}/status"))?, key)
}

fn number(text: &str, key: &str) -> Outcome<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).ok_or_else(|| format!("no {key} in /proc"))?;
    Ok(line.split_whitespace().next().ok_or("an empty line in /proc")?.parse()?)
}

/// Context switches of all threads, wanted or not.
fn switches(pid: u32) -> Outcome<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("status"))?;
        sum += number(&text, "voluntary_ctxt_switches:")? + number(&text, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(sum)
}

/// CPU time in clock ticks.
fn ticks(pid: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| -> Outcome<u64> { Ok(fields.get(at).ok_or("a short /proc/stat")?.parse()?) };
    Ok(field(11)? + field(12)?)
}

fn succeed(command: &mut Command) -> Outcome<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

fn say(text: &str) {
    crate::say(&format!("{text}\n"));
}
