//! `cargo xtask bench store`: how many sessions a second are created and acknowledged, by store, by how many callers ask at once, and by how many sessions
//! are there. The measuring at the store itself is in `tests/store_bench`; then hosts run on the stores that it filled, and are asked over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Client, Host, Outcome, Running, heading, say, succeed};
use crate::workspace;

const STORES: [(&str, &str); 3] = [("memory", ""), ("json", "sessions.json"), ("sqlite", "sessions.db")];
const CALLERS: [usize; 3] = [1, 16, 256];
const PRESENT: [usize; 4] = [0, 1_000, 10_000, 100_000];
/// What one cell of the table is measured for.
const LENGTH: Duration = Duration::from_secs(2);
/// The same, and how many sessions there are, with `--quick`.
const QUICK: (Duration, [usize; 2]) = (Duration::from_millis(200), [0, 1_000]);
/// At so many connections a host is asked.
const CONNECTIONS: usize = 16;

/// Sessions for each second, by store, how many are there, and callers; 0 callers are those over HTTP.
type Cells = Vec<(String, usize, usize, f64)>;

/// `FOLDER` chooses the disk; nothing else is made in it, and what is made goes.
pub(super) fn run(options: &[String]) -> Outcome<ExitCode> {
    let (mut quick, mut folder) = (false, None);
    for option in options {
        match option.as_str() {
            "--quick" => quick = true,
            path if folder.is_none() && !path.starts_with('-') => folder = Some(PathBuf::from(path)),
            other => return Err(format!("{other:?}: expected --quick, or the folder to measure in").into()),
        }
    }
    let (length, present) = if quick { (QUICK.0, &QUICK.1[..]) } else { (LENGTH, &PRESENT[..]) };
    say("building (release)…");
    succeed(workspace::cargo().args(["build", "--release"]).args([
        "-p",
        "conductor-host",
        "-p",
        "conductor-default",
        "-p",
        "conductor-store-bench",
    ]))?;
    let release = workspace::target()?.join("release");
    let above = folder.map_or_else(workspace::target, Ok)?;
    fs::create_dir_all(&above)?;
    let scratch = Scratch(std::path::absolute(above.join(format!("bench-store-{}", std::process::id())))?);
    fs::create_dir(&scratch.0)?;

    let mut progress = Progress { done: 0, of: STORES.len() * present.len() * (CALLERS.len() + 1) };
    let (mut cells, syncs) = measure(&release, &scratch.0, length, present, &mut progress)?;
    for (store, file) in STORES {
        for present in present {
            let rate = over_http(&release, &scratch.0.join(format!("{store}-{present}")), (store, file), *present, length)?;
            cells.push((store.to_owned(), *present, 0, rate));
            progress.one(&format!("{store}, {present} there, over HTTP: {rate:.0}/s"));
        }
    }
    heading("acknowledged creates per second");
    say(&format!("in {}, {:.1} s for each number; load average: {}", above.display(), length.as_secs_f64(), super::abi::load_average()));
    say(&table(&cells, present));
    let [before, after] = syncs[..] else { return Err("the disk was to be measured twice".into()) };
    say(&format!("fdatasync of 4 KiB appended, one after the other, in the same folder: {before:.0}/s before, {after:.0}/s after"));
    Ok(ExitCode::SUCCESS)
}

/// A folder that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed has the name of a benchmark.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A line on standard error that is written over, where that is a terminal; lines otherwise.
struct Progress {
    done: usize,
    of: usize,
}

impl Progress {
    fn one(&mut self, what: &str) {
        self.done += 1;
        let line = format!("{:>3}/{} {what}", self.done, self.of);
        let mut err = std::io::stderr().lock();
        let ends = if self.done == self.of { ["\r\x1b[2K", "\n"] } else { ["\r\x1b[2K", ""] };
        let [begin, end] = if err.is_terminal() { ends } else { ["", "\n"] };
        // A terminal that is gone is no reason to end.
        let _ = write!(err, "{begin}{line}{end}").and_then(|()| err.flush());
    }
}

/// Runs the measuring at the stores: its cells, and the syncs per second of the disk before and after.
fn measure(release: &Path, folder: &Path, length: Duration, present: &[usize], progress: &mut Progress) -> Outcome<(Cells, Vec<f64>)> {
    let mut command = Command::new(release.join("conductor-store-bench"));
    command.arg(folder).arg(length.as_millis().to_string()).args(present.iter().map(ToString::to_string));
    let mut running = Running(command.stdout(Stdio::piped()).spawn()?);
    let (mut cells, mut syncs) = (Cells::new(), Vec::new());
    for line in BufReader::new(running.0.stdout.take().ok_or("no output of the measuring")?).lines() {
        let line = line?;
        match cell(&line) {
            Some(Line::Sync(rate)) => syncs.push(rate),
            Some(Line::Cell(store, present, callers, rate)) => {
                progress.one(&format!("{store}, {present} there, {callers} callers: {rate:.0}/s"));
                cells.push((store, present, callers, rate));
            }
            None => return Err(format!("the measuring said {line:?}").into()),
        }
    }
    let status = running.0.wait()?;
    if status.success() { Ok((cells, syncs)) } else { Err(format!("the measuring ended with {status}").into()) }
}

#[derive(Debug, PartialEq)]
enum Line {
    Sync(f64),
    Cell(String, usize, usize, f64),
}

fn cell(line: &str) -> Option<Line> {
    let rate = |count: &str, seconds: &str| Some(count.parse::<f64>().ok()? / seconds.parse::<f64>().ok()?);
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["SYNC", count, seconds] => Some(Line::Sync(rate(count, seconds)?)),
        ["CELL", store, present, callers, count, seconds] => {
            Some(Line::Cell(store.to_owned(), present.parse().ok()?, callers.parse().ok()?, rate(count, seconds)?))
        }
        _ => None,
    }
}

/// A host on the store that is in `folder`: what is created by so many connections at once.
fn over_http(release: &Path, folder: &Path, (store, file): (&str, &str), present: usize, length: Duration) -> Outcome<f64> {
    let url = if store == "memory" { "memory:".to_owned() } else { format!("{store}:{file}") };
    let host = host(release, folder, &url)?;
    if store == "memory" {
        host.create("default", present)?;
    }
    let begun = Instant::now();
    let made: Vec<Result<usize, String>> = thread::scope(|scope| {
        let callers: Vec<_> =
            (0..CONNECTIONS).map(|_| scope.spawn(|| create_until(&host, begun, length).map_err(|e| e.to_string()))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned()))).collect()
    });
    let time = begun.elapsed().as_secs_f64();
    Ok(made.into_iter().sum::<Result<usize, String>>()? as f64 / time)
}

fn create_until(host: &Host, begun: Instant, length: Duration) -> Outcome<usize> {
    let mut client = Client::connect(&host.admin)?;
    let mut count = 0;
    while begun.elapsed() < length {
        let answer = client.get("/api/createSession?type=default")?;
        if !answer.contains("\"pin\"") {
            return Err(format!("no session was made: {answer}").into());
        }
        count += 1;
    }
    Ok(count)
}

fn host(release: &Path, folder: &Path, url: &str) -> Outcome<Host> {
    let settings = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[iot]\nlisten = \"127.0.0.1:0\"\n[sessions]\nid_digits = 9\n[store]\nurl = {url:?}\n\
         [mqtt]\nbroker = \"none\"\n[log]\nlevel = \"error\"\n[types.default]\nplugin = {:?}\n",
        release.join("conductor_default").display().to_string()
    );
    fs::write(folder.join("settings.toml"), settings)?;
    let ready = folder.join("ready.json");
    let mut command = Command::new(release.join("conductor-host"));
    command.arg("serve").arg("--config").arg(folder.join("settings.toml")).arg("--ready-file").arg(&ready);
    let mut process = Running(command.spawn()?);
    while !ready.exists() {
        if let Some(status) = process.0.try_wait()? {
            return Err(format!("the host on {url} ended with {status}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let addresses: serde_json::Value = serde_json::from_str(&fs::read_to_string(ready)?)?;
    let admin = addresses["admin"].as_str().ok_or("no admin address")?.to_owned();
    let iot = addresses["iot"].as_str().ok_or("no IoT address")?.to_owned();
    Ok(Host { process, admin, iot })
}

/// One line for each store and each number of sessions.
fn table(cells: &Cells, present: &[usize]) -> String {
    let rate = |store: &str, present: usize, callers: usize| {
        let found = cells.iter().find(|(name, there, by, _)| name == store && *there == present && *by == callers);
        found.map_or_else(|| "-".to_owned(), |(.., rate)| if *rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") })
    };
    let mut lines = format!("| {:<8} | {:>8} |", "store", "there");
    for callers in CALLERS {
        lines += &format!(" {:>12} |", format!("{callers} at once"));
    }
    lines +=
        &format!(" {:>12} |\n|----------|---------:|{}", format!("{CONNECTIONS} by HTTP"), "-------------:|".repeat(CALLERS.len() + 1));
    for (store, _) in STORES {
        for present in present {
            lines += &format!("\n| {store:<8} | {present:>8} |");
            for callers in CALLERS.into_iter().chain([0]) {
                lines += &format!(" {:>12} |", rate(store, *present, callers));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_measuring_become_a_table() {
        assert_eq!(cell("SYNC 100 0.5"), Some(Line::Sync(200.0)));
        assert_eq!(cell("CELL json 1000 16 30 2"), Some(Line::Cell("json".into(), 1000, 16, 15.0)));
        assert_eq!(cell("CELL json 1000 16 30"), None);
        let cells = vec![("json".to_owned(), 0, 16, 15.2), ("sqlite".to_owned(), 0, 0, 9.87)];
        let table = table(&cells, &[0]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{table}");
        assert_eq!(lines[3], "| json     |        0 |            - |           15 |            - |            - |");
        assert_eq!(lines[4], "| sqlite   |        0 |            - |            - |            - |          9.9 |");
    }
}
