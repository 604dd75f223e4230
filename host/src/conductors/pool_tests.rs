//! The pool with jobs that block, on real threads.

use std::sync::{
    Condvar,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Opens once, for all who wait.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *lock(&self.0) = true;
        self.1.notify_all();
    }

    /// False where it did not open within [`LONG`].
    fn pass(&self) -> bool {
        let (open, _) = self.1.wait_timeout_while(lock(&self.0), LONG, |open| !*open).unwrap();
        *open
    }
}

/// Runs `work` as plugin code, once per push.
struct Work {
    lane: Arc<Lane>,
    slow: AtomicBool,
    in_lane: AtomicUsize,
    work: Box<dyn Fn() + Send + Sync>,
}

impl Work {
    fn of(lane: &Arc<Lane>, work: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { lane: lane.clone(), slow: AtomicBool::new(false), in_lane: AtomicUsize::new(0), work: Box::new(work) })
    }
}

impl Job for Work {
    fn run(self: Arc<Self>, slot: &Slot) {
        self.in_lane.fetch_add(usize::from(thread::current().name() == Some("slow conductors")), SeqCst);
        // A job that panics is told so; the tests look at what comes after.
        let _ = slot.plugin_code(|| (self.work)());
    }

    fn lane(&self) -> Arc<Lane> {
        self.lane.clone()
    }

    fn is_slow(&self) -> bool {
        self.slow.load(SeqCst) || self.lane.is_type_slow()
    }

    fn mark_slow(&self) {
        if !self.slow.swap(true, SeqCst) {
            self.lane.found_slow();
        }
    }
}

fn pool() -> (tokio::runtime::Runtime, Pool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let pool = Pool::start(runtime.handle().clone()).unwrap();
    (runtime, pool)
}

/// Pushes quick jobs and waits for all of them.
fn others_run(pool: &Pool, lane: &Arc<Lane>) -> bool {
    const JOBS: usize = 50;
    let (done, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Gate::default()));
    for _ in 0..JOBS {
        let (done, gate) = (done.clone(), gate.clone());
        pool.push(Work::of(lane, move || {
            if done.fetch_add(1, SeqCst) + 1 == JOBS {
                gate.open();
            }
        }));
    }
    gate.pass()
}

fn blockers(pool: &Pool, lane: &Arc<Lane>, count: usize) -> (Arc<Gate>, Vec<Arc<Work>>) {
    let gate = Arc::new(Gate::default());
    let jobs: Vec<_> = (0..count)
        .map(|_| {
            let gate = gate.clone();
            Work::of(lane, move || assert!(gate.pass(), "nobody let it go"))
        })
        .collect();
    for job in &jobs {
        pool.push(job.clone());
    }
    (gate, jobs)
}

#[test]
fn jobs_that_block_all_threads_stop_nobody() {
    let (_runtime, pool) = pool();
    let (lane, other) = (Arc::default(), Arc::default());
    let (gate, jobs) = blockers(&pool, &lane, 40);
    assert!(others_run(&pool, &other), "the others waited");
    assert!(jobs.iter().any(|job| job.slow.load(SeqCst)), "none was found");
    gate.open();
    pool.stop();
}

#[test]
fn a_job_found_slow_runs_in_its_lane_from_then_on() {
    let (_runtime, pool) = pool();
    let lane = Arc::default();
    let (gate, jobs) = blockers(&pool, &lane, 1);
    assert!(others_run(&pool, &Arc::default()));
    let [job] = &jobs[..] else { panic!("one") };
    let found = std::time::Instant::now();
    while !job.slow.load(SeqCst) {
        assert!(found.elapsed() < LONG, "never found");
        thread::yield_now();
    }
    assert_eq!(job.in_lane.load(SeqCst), 0);
    gate.open();
    pool.push(job.clone());
    assert!(others_run(&pool, &lane), "a type with one slow job runs as before");
    let again = std::time::Instant::now();
    while job.in_lane.load(SeqCst) == 0 {
        assert!(again.elapsed() < LONG, "not in the lane");
        thread::yield_now();
    }
    pool.stop();
}

#[test]
fn two_slow_jobs_bring_the_whole_type_into_the_lane() {
    let (_runtime, pool) = pool();
    let lane: Arc<Lane> = Arc::default();
    assert!(!lane.is_type_slow());
    let (gate, _jobs) = blockers(&pool, &lane, 2);
    let begun = std::time::Instant::now();
    while !lane.is_type_slow() {
        assert!(begun.elapsed() < LONG, "never slow");
        thread::yield_now();
    }
    gate.open();
    let here = Arc::new(Gate::default());
    let opened = here.clone();
    let job = Work::of(&lane, move || opened.open());
    pool.push(job.clone());
    assert!(here.pass());
    assert_eq!(job.in_lane.load(SeqCst), 1);
    pool.stop();
}

#[test]
fn a_lane_full_of_blocked_jobs_says_so_and_stops_no_other() {
    let (_runtime, pool) = pool();
    let lane: Arc<Lane> = Arc::default();
    let (gate, jobs) = blockers(&pool, &lane, 2);
    let begun = std::time::Instant::now();
    while !lane.is_type_slow() {
        assert!(begun.elapsed() < LONG, "never slow");
        thread::yield_now();
    }
    let (more_gate, more) = blockers(&pool, &lane, 40);
    while !lane.is_full() {
        assert!(begun.elapsed() < LONG, "never full");
        thread::yield_now();
    }
    assert!(others_run(&pool, &Arc::default()));
    gate.open();
    more_gate.open();
    while more.iter().any(|job| job.in_lane.load(SeqCst) == 0) {
        assert!(begun.elapsed() < LONG, "what waited in the lane was lost");
        thread::yield_now();
    }
    drop(jobs);
    pool.stop();
}

#[test]
fn the_watchdog_sleeps_while_nothing_runs_and_wakes_for_the_next_job() {
    let (_runtime, pool) = pool();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        while !pool.0.watchdog.is_asleep() {
            assert!(begun.elapsed() < LONG, "it never sleeps");
            thread::yield_now();
        }
        let (gate, jobs) = blockers(&pool, &Arc::default(), 2);
        assert!(others_run(&pool, &Arc::default()), "it slept on");
        gate.open();
        drop(jobs);
    }
    pool.stop();
}

#[test]
fn replacements_end_when_they_are_not_needed_any_more() {
    let (_runtime, pool) = pool();
    let (gate, jobs) = blockers(&pool, &Arc::default(), 40);
    assert!(others_run(&pool, &Arc::default()));
    gate.open();
    let begun = std::time::Instant::now();
    while pool.0.threads.load(SeqCst) > pool.0.base {
        assert!(begun.elapsed() < LONG, "{} threads stay", pool.0.threads.load(SeqCst));
        assert!(pool.0.working() >= pool.0.base, "too many go");
        thread::yield_now();
    }
    assert_eq!(pool.0.working(), pool.0.base);
    drop(jobs);
    assert!(others_run(&pool, &Arc::default()), "some are left");
    pool.stop();
}

#[test]
fn a_panic_that_gets_out_of_a_plugin_costs_no_thread() {
    let (_runtime, pool) = pool();
    let lane: Arc<Lane> = Arc::default();
    let before = pool.0.threads.load(SeqCst);
    for _ in 0..50 {
        // As a panic comes out of a library: without this process's hook, which may take its time.
        pool.push(Work::of(&lane, || std::panic::resume_unwind(Box::new("out of the plugin"))));
    }
    assert!(others_run(&pool, &Arc::default()));
    assert_eq!(pool.0.threads.load(SeqCst), before);
    assert!(!lane.is_type_slow(), "and nobody is taken for stuck");
    pool.stop();
}

#[test]
fn a_pool_that_gets_no_more_threads_keeps_those_that_come_back() {
    let (_runtime, pool) = pool();
    // As many as there may be: every replacement is refused.
    pool.0.threads.fetch_add(MAX_THREADS, SeqCst);
    let (gate, jobs) = blockers(&pool, &Arc::default(), 2);
    let begun = std::time::Instant::now();
    while jobs.iter().any(|job| !job.slow.load(SeqCst)) {
        assert!(begun.elapsed() < LONG, "never found");
        thread::yield_now();
    }
    gate.open();
    assert!(others_run(&pool, &Arc::default()), "none came back");
    pool.stop();
}
