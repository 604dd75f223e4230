//! `plugin bench`: how fast a plugin's conductors are, on the very threads, mailboxes and deadlines that `serve` has, without a network.

mod broker;
mod measure;
mod progress;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use conductor_abi::{abi_stable::std_types::RErr, rules, wire::event};
use serde_json::{Value, value::RawValue};
use tokio::{runtime::Runtime, task::JoinSet};

use self::{
    broker::CountingBroker,
    measure::{Figures, Phase, Report, resident},
    progress::Progress,
};
use super::{Said, inspect};
use crate::{
    broker::{Events, Message},
    conductors::{
        catalog::{Catalog, Plugin, Type},
        config::{self, Config},
        library::Library,
        pool::Pool,
    },
    config::Settings,
    joins::{Joins, Shown, secret::Secrets},
    networks::network,
    sessions::{
        Caller, CloseReason, Limits, Manager, Port, Session,
        clock::Clock,
        manager::Refused,
        world::{Counts, World},
    },
    store,
};

/// What `serve` logs unless told otherwise: what a plugin says in lines graver than this is counted in.
const LOG_LEVEL: u8 = 3;
/// Calls that are under way at a time, at the most: more would only wait in mailboxes.
const IN_FLIGHT: usize = 64;
/// How long calls are made before they are measured.
const WARM_UP: Duration = Duration::from_millis(100);
/// As long as they can be, so that ids do not run out.
const ID_DIGITS: u8 = 12;
const PIN_DIGITS: u8 = 6;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file, as for `inspect`. ITS CODE RUNS, with all your rights.
    file: PathBuf,
    /// Which conductor, where the file offers several.
    #[arg(long, value_name = "NAME")]
    conductor: Option<String>,
    /// The type's `config`, as JSON: checked as `serve` does, its secrets from files (relative to the working directory) and the environment, too.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// How many sessions.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,
    /// How many clients join each of them.
    #[arg(long, value_name = "M", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    clients: u32,
    /// For how many seconds requests and messages are sent.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// What is asked. Without it: the first method that takes no parameters, if there is one.
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Its parameters.
    #[arg(long, value_name = "JSON", default_value = "null")]
    params: String,
    /// The name of the messages that clients send, where the conductor hears messages.
    #[arg(long, value_name = "NAME", default_value = "bench")]
    message: String,
    /// Their payload.
    #[arg(long, value_name = "TEXT", default_value = "")]
    payload: String,
    /// Print one JSON object; its keys are described in docs/plugins.md.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("0 to 86400".to_owned()) }
}

pub(super) fn run(arguments: &Arguments) -> Said {
    inspect::with_loaded(&arguments.file, false, LOG_LEVEL, |library| match measure(arguments, library) {
        Ok((report, _)) if report.sessions_made() == 0 => Said::failed(report.text()),
        Ok((report, warnings)) => {
            let out = if arguments.json { report.json() } else { report.text() };
            Said { err: warnings.into_iter().map(|warning| warning + "\n").collect(), ..Said::done(out) }
        }
        Err(error) => Said::failed(format!("{error}\n")),
    })
}

/// What `--config` gives, as `serve` would hand it to the plugin.
fn config_of(arguments: &Arguments, schema: Option<&Value>) -> Result<Config, Failed> {
    let given = serde_json::from_str::<Value>(&arguments.config).map_err(|e| format!("--config: this is no JSON: {e}"))?;
    let given = given.as_object().ok_or("--config: expected a JSON object")?;
    let prepared = config::prepare_option("--config", given, schema, "".as_ref(), &|name| std::env::var_os(name));
    prepared.map_err(|mistakes| mistakes.join("\n").into())
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn measure(arguments: &Arguments, library: &Arc<Library>) -> Result<(Report, Vec<String>), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let manifest = library.choose_conductor(arguments.conductor.as_deref(), "")?.clone();
    let config = config_of(arguments, manifest.config.as_ref())?;
    let params = RawValue::from_string(arguments.params.clone()).map_err(|e| format!("--params: this is no JSON: {e}"))?;
    if let RErr(failure) = runtime.block_on(library.check_config(&manifest.name, config.json.get().as_bytes())) {
        return Err(format!("--config: {}", config.hide_secrets(&failure.message)).into());
    }
    let method = arguments.method.clone().or_else(|| {
        let takes_none = |params: &Option<Value>| params.as_ref().is_some_and(|schema| schema["type"] == "null");
        manifest.methods.iter().find(|method| takes_none(&method.params)).map(|method| method.name.clone())
    });
    let hears = arguments.clients > 0 && manifest.hooks.iter().any(|hook| hook == event::MESSAGE);
    let mut report = Report::new(library.file(), &manifest.name, [arguments.sessions, arguments.clients]);
    report.method.clone_from(&method);
    report.message = hears.then(|| arguments.message.clone());

    let plugin = Plugin { library: library.clone(), conductor: manifest.name.clone(), manifest, config: config.json };
    let name: Arc<str> = plugin.conductor.as_str().into();
    let kind = Type { name: name.clone(), plugin: Ok(plugin), deadline: rules::DEADLINE, limits: Limits::default(), lane: Arc::default() };
    let pool = Pool::start(runtime.handle().clone())?;
    let broker = Arc::new(CountingBroker::default());
    let clock = Clock::system();
    let (store, loaded) = store::open("memory:", "".as_ref(), rules::GRANT_TTL, clock.seconds())?;
    let (mut settings, _) = Settings::load(None, std::iter::empty(), &[])?;
    // What is measured is the plugin; all joins come from one address.
    settings.joins.exempt = ["0.0.0.0/0", "::/0"].into_iter().filter_map(network).collect();
    let joins = Joins::new(&settings.joins, Secrets::of(&[0; 32]));
    let manager = Manager::new(Catalog::new(vec![kind]), loaded, |manager| World {
        pool: pool.clone(),
        broker: broker.clone(),
        store,
        clock,
        grant_ttl: rules::GRANT_TTL,
        max_clients: u32::MAX,
        joins,
        max_state: rules::MAX_STATE,
        limits: Limits::default(),
        id_digits: ID_DIGITS,
        pin_digits: PIN_DIGITS,
        manager,
        counts: Counts::default(),
    });
    let bench = Arc::new(Bench {
        manager,
        type_name: name,
        clients: arguments.clients as usize,
        hears,
        request: method.map(|method| (method, Bytes::copy_from_slice(params.get().as_bytes()))),
        message: (arguments.message.clone(), Bytes::copy_from_slice(arguments.payload.as_bytes())),
        stop: AtomicBool::new(false),
        done: AtomicUsize::new(0),
    });
    bench.clone().watch_interrupts(&runtime);
    runtime.block_on(async {
        bench.manager.start();
        bench.clone().run_all(arguments, &broker, &mut report).await;
    });
    report.ended_early = bench.is_stopped();
    pool.stop();
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok((report, config.warnings))
}

struct Bench {
    manager: Arc<Manager>,
    type_name: Arc<str>,
    clients: usize,
    hears: bool,
    request: Option<(String, Bytes)>,
    message: (String, Bytes),
    stop: AtomicBool,
    /// Of the phase that runs.
    done: AtomicUsize,
}

impl Bench {
    /// Ctrl-C ends the measuring; a second one the program.
    fn watch_interrupts(self: Arc<Self>, runtime: &Runtime) {
        runtime.spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                self.stop.store(true, Ordering::Relaxed);
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(130);
                }
            }
        });
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One session through all of it, so that what a process needs once is there before anything is measured.
    async fn warm_up(self: Arc<Self>, at_once: usize) {
        let Ok(session) = self.manager.create(&self.type_name, Caller::host()).await else { return };
        // What fails here fails again below, and is told there.
        if self.clients > 0 {
            let pin = session.record().pin;
            let _ = self.manager.join(Some(session.id()), Shown::Pin(Some(pin)), name_of(0), iot()).await;
        }
        let (mut report, sessions) = (Report::new("".as_ref(), "", [1, 1]), Arc::from([session.clone()]));
        self.clone().drive(&sessions, WARM_UP, at_once, &mut report).await;
        let _ = self.manager.close(session.id(), CloseReason::Requested, Caller::host()).await;
    }

    async fn run_all(self: Arc<Self>, arguments: &Arguments, broker: &CountingBroker, report: &mut Report) {
        let at_once = IN_FLIGHT.min(arguments.sessions as usize * self.clients.max(1));
        self.clone().warm_up(at_once).await;
        let (before, published) = (resident(), broker.published());
        let mut sessions = Vec::new();
        let made = self.clone().each(arguments.sessions as usize, "create", move |bench, _| async move {
            let session = bench.manager.create(&bench.type_name, Caller::host()).await?;
            Ok(session)
        });
        report.create = made.await.split(&mut sessions);
        report.created_bytes = per_session(before, sessions.len());
        let sessions: Arc<[Arc<Session>]> = sessions.into();
        if sessions.is_empty() {
            return;
        }
        let (all, count) = (sessions.clone(), sessions.len() * self.clients);
        let joined = self.clone().each(count, "join", move |bench, number| {
            let (session, client) = (all[number / bench.clients].clone(), name_of(number % bench.clients));
            async move {
                let pin = session.record().pin;
                bench.manager.join(Some(session.id()), Shown::Pin(Some(pin)), client.clone(), iot()).await?;
                bench.manager.connected(session.id(), &client);
                Ok(())
            }
        });
        report.join = joined.await.figures;
        let length = Duration::from_secs_f64(arguments.seconds);
        if self.request.is_some() || self.hears {
            self.clone().drive(&sessions, length, at_once, report).await;
        }
        report.used_bytes = per_session(before, sessions.len());
        let (all, count) = (sessions.clone(), sessions.len());
        // What was made is closed in any case, and measured where nobody is in a hurry.
        let closed = self.clone().each(count, "close", move |bench, number| {
            let session = all[number].clone();
            async move {
                match bench.manager.close(session.id(), CloseReason::Requested, Caller::host()).await {
                    // The conductor closed it itself.
                    Err(Refused::NoSuchSession) => Ok(()),
                    other => other,
                }
            }
        });
        report.close = closed.await.figures;
        report.published = broker.published() - published;
        self.manager.stop().await;
    }

    /// Does something `count` times, [`IN_FLIGHT`] at a time, until the user stops it.
    async fn each<T, Fut>(
        self: Arc<Self>,
        count: usize,
        what: &'static str,
        act: impl Fn(Arc<Self>, usize) -> Fut + Send + Sync + 'static,
    ) -> Phase<T>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Refused>> + Send + 'static,
    {
        self.done.store(0, Ordering::Relaxed);
        let progress = Progress::of_count(what, count, self.clone());
        let (act, next, begun) = (Arc::new(act), Arc::new(AtomicUsize::new(0)), Instant::now());
        let mut workers = JoinSet::new();
        for _ in 0..count.min(IN_FLIGHT) {
            let (bench, act, next) = (self.clone(), act.clone(), next.clone());
            workers.spawn(async move {
                let (mut figures, mut results) = (Figures::default(), Vec::new());
                while !bench.is_stopped() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let begun = Instant::now();
                    match act(bench.clone(), number).await {
                        Ok(result) => {
                            figures.add(begun.elapsed());
                            results.push(result);
                        }
                        Err(error) => figures.add_error(&error),
                    }
                    bench.done.fetch_add(1, Ordering::Relaxed);
                }
                (figures, results)
            });
        }
        let mut phase = Phase::default();
        while let Some(ended) = workers.join_next().await {
            match ended {
                Ok((figures, results)) => phase.add(&figures, results),
                Err(error) => phase.figures.add_error(&Refused::Internal(error.to_string())),
            }
        }
        phase.figures.took = begun.elapsed();
        progress.end().await;
        phase
    }

    /// Requests and messages in turn, to one session after the other, for this long.
    async fn drive(self: Arc<Self>, sessions: &Arc<[Arc<Session>]>, length: Duration, at_once: usize, report: &mut Report) {
        self.done.store(0, Ordering::Relaxed);
        let progress = Progress::of_time("calls", length, self.clone());
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..at_once {
            let (bench, sessions) = (self.clone(), sessions.clone());
            workers.spawn(async move {
                let (mut requests, mut messages) = (Figures::default(), Figures::default());
                let mut turn = worker;
                while !bench.is_stopped() && begun.elapsed() < length {
                    let session = &sessions[turn % sessions.len()];
                    if let Some((method, params)) = &bench.request {
                        let asked = Instant::now();
                        let answer = bench.manager.request(session.id(), method.clone(), params.clone(), Caller::host()).await;
                        requests.count(asked.elapsed(), answer.map(drop));
                        bench.done.fetch_add(1, Ordering::Relaxed);
                    }
                    if bench.hears {
                        let client = name_of(turn / sessions.len() % bench.clients);
                        let told = Instant::now();
                        let heard = bench.manager.hear(bench.message_of(session, &client)).await;
                        messages.count(told.elapsed(), heard);
                        bench.done.fetch_add(1, Ordering::Relaxed);
                    }
                    turn += at_once;
                }
                (requests, messages)
            });
        }
        while let Some(ended) = workers.join_next().await {
            match ended {
                Ok((requests, messages)) => {
                    report.request.merge(&requests);
                    report.messages.merge(&messages);
                }
                Err(error) => report.request.add_error(&Refused::Internal(error.to_string())),
            }
        }
        (report.request.took, report.messages.took) = (begun.elapsed(), begun.elapsed());
        progress.end().await;
    }

    fn message_of(&self, session: &Session, client: &str) -> Message {
        let (name, payload) = &self.message;
        Message {
            session: session.id(),
            topic: format!("{}{name}", session.id().topic_prefix()),
            payload: payload.clone(),
            qos: 0,
            retain: false,
            client_id: Some(client.into()),
            will: false,
        }
    }
}

fn name_of(client: usize) -> String {
    format!("client-{client}")
}

fn iot() -> Caller {
    Caller::at(Port::Iot, ([127, 0, 0, 1], 0).into())
}

/// How much larger the process is than before, for each session; nothing where the system does not say.
fn per_session(before: Option<u64>, sessions: usize) -> Option<u64> {
    let grown = resident()?.saturating_sub(before?);
    grown.checked_div(sessions as u64)
}
