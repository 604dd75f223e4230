//! How many sessions a second each store acknowledges, with how many there already. `cargo xtask bench store` runs it on a release
//! build and makes a table of its lines:
//!
//! * `SYNC COUNT SECONDS`: 4 KiB appended to a file and synced (fdatasync), in the same folder; first and last.
//! * `CELL STORE PRESENT CALLERS COUNT SECONDS`: sessions that were created and acknowledged, in the time that this took.
//!
//! Callers are tasks, each of which waits for one answer before it asks for the next. What a measurement has created is closed again, untimed,
//! before it is so much that it would count; so each store is left with the sessions it was filled with, in `FOLDER/STORE-PRESENT`.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use conductor_host::{
    sessions::{Pin, SessionId},
    store::{self, Change, Store, StoredSession},
};
use tokio::{runtime::Runtime, task::JoinSet};

type Failed = Box<dyn Error + Send + Sync>;

const STORES: [(&str, &str); 3] = [("memory", "memory:"), ("json", "json:sessions.json"), ("sqlite", "sqlite:sessions.db")];
const CALLERS: [u64; 3] = [1, 16, 256];
/// Changes that are queued at once where nothing is measured.
const AT_ONCE: usize = 10_000;
/// A thousand million ids, and this number has no divisor in common with it: so each number has an id of its own, in no order.
const IDS: u64 = 1_000_000_000;
const STRIDE: u64 = 387_420_489;

const USAGE: &str = "conductor-store-bench FOLDER MILLISECONDS PRESENT…";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failed> {
    let [folder, length, present @ ..] = arguments else { return Err(USAGE.into()) };
    let folder = PathBuf::from(folder);
    let length = Duration::from_millis(length.parse().map_err(|_| USAGE)?);
    let present: Vec<u64> = present.iter().map(|number| number.parse()).collect::<Result<_, _>>().map_err(|_| USAGE)?;
    fs::create_dir_all(&folder)?;
    let runtime = Runtime::new()?;
    sync(&folder, length)?;
    for (name, url) in STORES {
        for present in &present {
            runtime.block_on(measure(name, url, &folder.join(format!("{name}-{present}")), *present, length))?;
        }
    }
    sync(&folder, length)
}

/// What the disk itself can do.
fn sync(folder: &Path, length: Duration) -> Result<(), Failed> {
    let path = folder.join("fdatasync");
    let mut file = File::create(&path)?;
    let (mut count, begun) = (0, Instant::now());
    while begun.elapsed() < length {
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    say(&format!("SYNC {count} {}", begun.elapsed().as_secs_f64()))?;
    Ok(fs::remove_file(path)?)
}

async fn measure(name: &str, url: &str, folder: &Path, present: u64, length: Duration) -> Result<(), Failed> {
    fs::create_dir(folder)?;
    let (store, _) = store::open(url, folder, Duration::ZERO, 0)?;
    let mut numbers = 0..u64::MAX;
    let mut filled = 0;
    while filled < present {
        let some = (present - filled).min(AT_ONCE as u64);
        together(&*store, numbers.by_ref().take(some as usize).map(create)).await?;
        filled += some;
    }
    for callers in CALLERS {
        let (count, time) = creates(&store, &mut numbers.start, present, callers, length).await?;
        say(&format!("CELL {name} {present} {callers} {count} {}", time.as_secs_f64()))?;
    }
    store.shutdown().await;
    Ok(())
}

/// Creates sessions for `length` of time, pauses for closing them not counted.
async fn creates(store: &Arc<dyn Store>, next: &mut u64, present: u64, callers: u64, length: Duration) -> Result<(u64, Duration), Failed> {
    // No more than a tenth of what is there, if that is enough for some rounds of all callers.
    let most = (present / 10).max(8 * CALLERS[2]);
    let (mut count, mut time) = (0, Duration::ZERO);
    while time < length {
        let first = *next;
        *next += most;
        let tickets = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (store, tickets) = (Arc::clone(store), Arc::clone(&tickets));
            let left = length - time;
            tasks.spawn(async move {
                let mut made = Vec::new();
                loop {
                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                    if ticket >= most || begun.elapsed() >= left {
                        return Ok::<_, Failed>(made);
                    }
                    store.apply(create(first + ticket)).await?;
                    made.push(first + ticket);
                }
            });
        }
        let mut made = Vec::new();
        while let Some(some) = tasks.join_next().await {
            made.append(&mut some??);
        }
        time += begun.elapsed();
        count += made.len() as u64;
        for some in made.chunks(AT_ONCE) {
            together(&**store, some.iter().map(|number| Change::Close(id(*number)))).await?;
        }
    }
    Ok((count, time))
}

/// Applies changes that wait for each other's sync.
async fn together(store: &dyn Store, changes: impl Iterator<Item = Change>) -> Result<(), Failed> {
    let answers: Vec<_> = changes.map(|change| store.apply(change)).collect();
    for answer in answers {
        answer.await?;
    }
    Ok(())
}

fn id(number: u64) -> SessionId {
    let text = format!("{:09}", (u128::from(number) * u128::from(STRIDE)) % u128::from(IDS));
    SessionId::parse(&text).unwrap_or_else(|| unreachable!("nine digits are an id"))
}

fn create(number: u64) -> Change {
    let id = id(number);
    let pin = Pin::parse("042042").unwrap_or_else(|| unreachable!("six digits are a pin"));
    // As now, so that what stores write is as long as it is.
    let created_at = 1_750_000_000_000 + number;
    let type_name = "default".into();
    Change::Create(Arc::new(StoredSession { id, pin, type_name, created_at, clients: Vec::new(), revision: 0, extra: None }))
}

/// Whoever reads it may have gone; then there is nothing to measure for.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
