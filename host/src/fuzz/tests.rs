//! Each target with many inputs, and the runner itself.

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::{
    TARGETS, Target,
    generator::{self, Generator},
};
use crate::crowd::resident;

/// How long one input may take: they take microseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much more memory the process may hold at the end than after a quarter of the inputs.
const GROWTH: u64 = 64 << 20;

/// Where the inputs to begin with and the words are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    generator::corpus(&folder(), target)
}

fn words(target: &str) -> Vec<Vec<u8>> {
    generator::words(&folder(), target)
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*
    };
}

targets! { join query settings grants token networks forwarded manifest inspect connect store bearer budgets }

fn holds(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = corpus(name);
    assert!(seeds.iter().filter(|seed| (target.read)(seed)).count() >= 2, "hardly anything in the corpus of {name} is understood");
    let generator = Generator::new(seeds, words(name), 1);
    let outcome = run(*target, generator, PATIENCE, GROWTH);
    if let Ok(understood) = outcome {
        // What is refused at its first byte shows nothing, and neither does what is always right.
        eprintln!("{name}: {understood} of {} inputs were understood", target.inputs);
        assert!((target.inputs / 100..target.inputs / 100 * 99).contains(&understood), "{understood}");
    }
    if let Err(failed) = outcome {
        let file = std::env::temp_dir().join(format!("conductor-fuzz-{name}"));
        let kept = fs::write(&file, &failed.input).map(|()| file.display().to_string());
        panic!(
            "{} at input {}: \"{}\"\nkept for `cargo xtask fuzz {name} --input FILE` in: {kept:?}",
            failed.what,
            failed.number,
            failed.input[..failed.input.len().min(2000)].escape_ascii()
        );
    }
}

#[test]
fn every_target_is_tested_and_has_inputs_and_words() {
    assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), TESTED);
    for name in TESTED {
        assert!(corpus(name).len() >= 3 && words(name).len() >= 5, "{name}");
    }
    for folder in ["corpus", "words"].map(|part| folder().join(part)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert!(TESTED.iter().any(|name| path.file_stem().is_some_and(|stem| stem == *name)), "{} is of no target", path.display());
        }
    }
    let all: u32 = TARGETS.iter().map(|target| target.inputs).sum();
    assert!(all >= 1_000_000, "{all} inputs in all");
}

/// What went wrong, and with which input.
#[derive(Debug)]
struct Failed {
    what: String,
    number: u32,
    input: Vec<u8>,
}

/// The input that is being read, and which one it is.
#[derive(Default)]
struct Progress {
    input: Mutex<Vec<u8>>,
    number: AtomicU32,
}

/// Tries all inputs of a target: none panics, none hangs, none keeps memory. How many were understood.
fn run(target: Target, mut generator: Generator, patience: Duration, growth: u64) -> Result<u32, Failed> {
    let progress = Arc::new(Progress::default());
    let (finished, waiting) = mpsc::channel();
    let shared = progress.clone();
    let work = move || {
        let (mut input, mut before, mut understood) = (Vec::new(), None, 0);
        for number in 0..target.inputs {
            generator.next(&mut input);
            shared.input.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
            shared.number.store(number, Ordering::Relaxed);
            understood += u32::from((target.read)(&input));
            if number == target.inputs / 4 {
                before = resident();
            }
        }
        (understood, before.zip(resident()).map_or(0, |(before, after)| after.saturating_sub(before)))
    };
    // It is not joined: what hangs cannot be ended.
    drop(thread::spawn(move || finished.send(panic::catch_unwind(AssertUnwindSafe(work)))));
    let failed = |what: String| {
        let input = progress.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Failed { what, number: progress.number.load(Ordering::Relaxed), input })
    };
    let mut last = None;
    loop {
        match waiting.recv_timeout(patience) {
            Ok(Ok((understood, more))) if more <= growth => return Ok(understood),
            Ok(Ok((_, more))) => return failed(format!("{more} bytes more are held than after a quarter of the inputs")),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return failed("a panic".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                let number = Some(progress.number.load(Ordering::Relaxed));
                if number == last {
                    return failed(format!("no end within {patience:?}"));
                }
                last = number;
            }
        }
    }
}

fn tried(read: fn(&[u8]) -> bool, patience: Duration, growth: u64) -> Result<u32, Failed> {
    let generator = Generator::new(vec![b"abc".to_vec()], vec![b"word".to_vec()], 1);
    run(Target { name: "test", read, inputs: 2_000 }, generator, patience, growth)
}

#[test]
fn a_panic_is_found_with_its_input() {
    let read: fn(&[u8]) -> bool = |bytes| {
        assert!(!bytes.starts_with(b"word"));
        bytes.len() > 3
    };
    let failed = tried(read, PATIENCE, GROWTH).unwrap_err();
    assert!(failed.what == "a panic" && failed.input.starts_with(b"word") && failed.number > 0, "{failed:?}");
    let all = tried(|_| true, PATIENCE, GROWTH).unwrap();
    assert!((all, tried(|_| false, PATIENCE, GROWTH).unwrap()) == (2_000, 0));
}

#[test]
fn what_does_not_end_is_found_with_its_input() {
    let read: fn(&[u8]) -> bool = |bytes| {
        while bytes.starts_with(b"word") {
            thread::park();
        }
        true
    };
    let failed = tried(read, Duration::from_millis(200), GROWTH).unwrap_err();
    assert!(failed.what.starts_with("no end within") && failed.input.starts_with(b"word"), "{failed:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_kept_is_found() {
    let failed = tried(|_| !vec![1_u8; 32 << 10].leak().is_empty(), PATIENCE, 16 << 20).unwrap_err();
    assert!(failed.what.contains("bytes more are held"), "{failed:?}");
}
