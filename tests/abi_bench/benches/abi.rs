//! What a request through the binary contract costs beside a direct call of the same method, what a call of the host costs, and how
//! long a plugin takes to load. `cargo xtask bench abi` runs it on a release build and sums it up.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    error::Error,
    fs,
    hint::black_box,
    path::PathBuf,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk, RSlice},
    async_ffi::{BorrowingFfiFuture, FfiFuture},
    contract::{ConductorObj, Event, Failure, HostObj, HostObject, Reply},
    wire::{call, code, event},
};
use conductor_abi_bench::{Add, Measured, SESSION};
use conductor_host::conductors::{library::Libraries, services::LibraryHost};
use conductor_sdk::testing::Rig;
use criterion::{Criterion, criterion_group, criterion_main};

/// Loaded this often; each time other bytes, since the same are the same library.
const LOADS: usize = 30;

/// A host that answers at the first poll, with what it has at hand.
struct Ready;

impl HostObject for Ready {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        let reply: Reply = match call.kind.as_str() {
            call::NOW => ROk(b"1000000000000".to_vec().into()),
            call::PUBLISH => ROk(Vec::new().into()),
            other => RErr(Failure::new(code::UNSUPPORTED, other.to_owned())),
        };
        BorrowingFfiFuture::new(std::future::ready(reply))
    }

    fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
        Err(Failure::new(code::UNSUPPORTED, "no tasks here"))
    }

    fn log(&self, _: u8, _: &str, _: &str, _: &[u8]) {}
}

/// Polls once: nothing here waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits, and nothing here should"),
    }
}

fn ask<'a>(conductor: &'a mut ConductorObj, method: &'a str, params: &'a [u8]) -> Reply {
    let meta = br#"{"time":1000000000000,"deadline":5000,"caller":{"port":"admin","peer":"127.0.0.1:1"}}"#;
    let event = Event {
        kind: event::REQUEST.into(),
        subject: method.into(),
        client: "".into(),
        meta: RSlice::from_slice(meta),
        body: RSlice::from_slice(params),
    };
    now(conductor.handle(event))
}

/// The plugin, where cargo put it: `target/release` of `target/release/deps/abi-0123`.
fn plugin() -> Result<PathBuf, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let release = own.parent().and_then(|deps| deps.parent()).ok_or("this program's place has no folder")?;
    Ok(release.join(format!("{DLL_PREFIX}conductor_abi_bench{DLL_SUFFIX}")))
}

fn all(criterion: &mut Criterion) {
    measure(criterion).unwrap_or_else(|error| panic!("{error}; build the plugin first: cargo xtask bench abi does"));
}

fn measure(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let (plugin, folder) = (plugin()?, tempfile::tempdir()?);
    let libraries: Libraries = LibraryHost::libraries(folder.path().join("copies"), 0);
    let library = libraries.load(&plugin, None)?;
    let meta = br#"{"session":"123456","type":"measured","config":{},"seed":"5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed","time":1}"#;
    let ROk(mut conductor) = now(library.create("measured", HostObj::new(Ready), meta, &[])) else { return Err("it was not made".into()) };

    // The same methods in this program, without the contract. The rig makes the session that they are given.
    let rig = Rig::start::<Measured>(()).map_err(|error| error.to_string())?;
    let session = SESSION.get().ok_or("there is no session")?;
    let mut direct = Measured::default();

    let mut group = criterion.benchmark_group("abi");
    group.bench_function("count_direct", |bencher| bencher.iter(|| now(direct.count(black_box(session), ()))));
    group.bench_function("count_through_the_abi", |bencher| bencher.iter(|| ask(black_box(&mut conductor), "count", b"")));
    let add = Add { a: 20, b: 22 };
    group.bench_function("add_direct", |bencher| bencher.iter(|| now(direct.add(black_box(session), black_box(add)))));
    let params = br#"{"a":20,"b":22}"#;
    group.bench_function("add_through_the_abi", |bencher| bencher.iter(|| ask(&mut conductor, "add", black_box(params))));
    // One request calls the host as often as is measured.
    for method in ["now", "publish"] {
        group.bench_function(format!("call_{method}"), |bencher| {
            bencher.iter_custom(|times| {
                let (params, begun) = (times.to_string(), Instant::now());
                let reply = ask(&mut conductor, method, params.as_bytes());
                assert!(matches!(reply, ROk(_)), "{method} failed");
                begun.elapsed()
            });
        });
    }
    group.finish();
    drop(rig);

    let mut times = Vec::new();
    for number in 0..LOADS {
        let (mut bytes, file) = (fs::read(&plugin)?, folder.path().join(format!("{DLL_PREFIX}load_{number}{DLL_SUFFIX}")));
        bytes.extend(number.to_string().bytes());
        fs::write(&file, bytes)?;
        let begun = Instant::now();
        libraries.load(&file, None)?;
        times.push(begun.elapsed());
    }
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    // To the error stream, as criterion's own words.
    eprintln!("LOAD {:.3} {:.3} {:.3}", millis(times[0]), millis(times[LOADS / 2]), millis(times[LOADS - 1]));
    Ok(())
}

criterion_group!(benches, all);
criterion_main!(benches);
