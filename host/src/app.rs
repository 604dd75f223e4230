//! The composition root: from settings to a running host with bound addresses, and from there to its end.

use std::{
    cell::Cell,
    error::Error,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, time::Instant};
use tracing::level_filters::LevelFilter;

use crate::{
    access::{Access, audit::Audit},
    admission,
    broker::{Broker, EmbeddedBroker, Endpoints, ExternalBroker, LinkSettings, LinkToken, NoBroker},
    conductors::{catalog::Catalog, pool::Pool, services::LibraryHost},
    config::{BrokerKind, Settings, Source, TokenMode},
    http::{Ports, admin, iot, serve},
    joins::{
        Joins,
        saved::{self, Found},
        secret::Secrets,
    },
    reload::{self, Reloader},
    services::Services,
    sessions::{
        Limits, Manager,
        clock::Clock,
        world::{Counts, World},
    },
    store::{self, lock::StateLock},
    tasks::MainLoop,
    tls::{Inside, Tls},
    tokens::{issue::Tokens, keys::SigningKey, signer::Signer},
};

/// How often the main loop looks.
const MINUTE: Duration = Duration::from_secs(60);

/// What a drain may take from the signal on: for requests of the IoT port before sessions refuse them, which leaves conductors their 10 s; for requests, conductors and
/// services; until the admin port ends what it does; and in all. What is between is for the broker's farewell and the store, the rest up to 20 s for the runtime.
const REQUESTS: Duration = Duration::from_secs(7);
const ENDING: Duration = Duration::from_secs(17);
const LAST_ANSWERS: Duration = Duration::from_secs(18);
const WHOLE_DRAIN: Duration = Duration::from_millis(18_500);

type Failed = Box<dyn Error + Send + Sync>;

/// Runs the host until it is told to stop; the exit status: 0 after a drain, 1 where it could not start or was stopped at once.
/// `source` is where the settings come from, to read them again; `dev` is development mode.
#[must_use]
pub fn run(settings: &Settings, source: Source, ready_file: Option<&Path>, dev: bool) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads to run on");
            return 1;
        }
    };
    let status = match live(&runtime, settings, source, ready_file, dev) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("the host does not start: {error}");
            1
        }
    };
    runtime.shutdown_timeout(Duration::from_millis(500));
    status
}

fn live(runtime: &Runtime, settings: &Settings, source: Source, ready_file: Option<&Path>, dev: bool) -> Result<u8, Failed> {
    let clock = Clock::system();
    let _lock = StateLock::acquire(&settings.state.dir)?;
    let tls = load_tls(settings, clock)?;
    let audit = Audit::open(&settings.audit, clock)?;
    let access = {
        let _context = runtime.enter();
        Arc::new(Access::new(settings, tls.as_ref(), clock)?)
    };
    let hangups = Hangups::new(runtime)?;
    if let Some(file) = ready_file {
        // Left by a host that was killed: nobody must take its addresses for ours.
        remove_ready_file(file)?;
    }
    let libraries = LibraryHost::libraries(settings.state.dir.join("plugins"), log_level());
    let watch = dev.then(|| reload::dev::Watch::begin(settings));
    let (types, wanted_services) = reload::at_start(runtime.handle(), &libraries, settings, dev)?;
    let tokens = match settings.token.mode {
        TokenMode::Signed => {
            let key = SigningKey::load_or_create(&settings.token.key, true)?;
            Tokens::Signed(Arc::new(Signer::new(key, settings.token.issuer.clone())?))
        }
        TokenMode::None => Tokens::ClientId,
    };
    let secrets = Secrets::load_or_create(&settings.state.dir.join("join-key"))?;
    let link = match settings.mqtt.broker {
        BrokerKind::External => Some(LinkSettings::new(&settings.mqtt, LinkToken::of(&tokens, settings.token.ttl), clock)?),
        BrokerKind::Embedded | BrokerKind::None => None,
    };
    let before = settings.store_before();
    let (store, loaded) =
        store::open_or_import(&settings.store.url.to_string(), &settings.base_dir, before.as_deref(), settings.token.ttl, clock.seconds())?;
    let pool = Pool::start(runtime.handle().clone())?;
    runtime.block_on(async {
        let embedded = (settings.mqtt.broker == BrokerKind::Embedded)
            .then(|| EmbeddedBroker::new(crate::broker::Limits::of(&settings.mqtt, settings.joins.exempt.clone())));
        let external = link.map(ExternalBroker::new);
        let broker: Arc<dyn Broker> = match (&embedded, &external) {
            (Some(embedded), _) => embedded.clone(),
            (None, Some(external)) => external.clone(),
            (None, None) => Arc::new(NoBroker),
        };
        let restored = loaded.sessions.len();
        let budgets = settings.state.dir.join("join-budgets");
        let joins = Joins::new(&settings.joins, secrets).kept_in(budgets.clone());
        let manager = Manager::new(Catalog::new(types), loaded, |manager| World {
            pool: pool.clone(),
            broker: broker.clone(),
            store: store.clone(),
            clock,
            grant_ttl: settings.token.ttl,
            max_clients: settings.sessions.max_clients,
            joins,
            max_state: settings.sessions.max_state_bytes,
            limits: Limits::of(settings.sessions.lifetime, settings.sessions.empty_timeout),
            id_digits: settings.sessions.id_digits,
            pin_digits: settings.sessions.pin_digits,
            manager,
            counts: Counts::default(),
        });
        restore_budgets(&manager, &budgets);
        let services = Services::new(&manager, wanted_services);
        let (stop, stopping) = watch::channel(false);
        let reloader = Reloader::new(source, settings.clone(), libraries, manager.clone(), services.clone(), dev);
        let ports = Arc::new(Ports {
            manager: manager.clone(),
            services: services.clone(),
            tokens: tokens.clone(),
            username: settings.mqtt.username,
            mqtt_public_url: settings.mqtt.public_url.clone(),
            has_broker: settings.mqtt.broker != BrokerKind::None,
            trusted_proxies: settings.iot.trusted_proxies.clone(),
            public_url: settings.iot.public_url.clone(),
            iot_tls: settings.iot.tls,
            audit,
            reloader: reloader.clone(),
            stopping: stopping.clone(),
        });
        // All addresses are bound before the first connection is served.
        let admin = serve::bind(&settings.admin.listen).await?;
        let iot = serve::bind(&settings.iot.listen).await?;
        if let Some(embedded) = &embedded {
            let admission = admission::by(tokens, manager.clone());
            let wanted = Endpoints {
                tcp: settings.mqtt.listen.clone(),
                websocket: settings.mqtt.websocket_listen.clone(),
                tls: settings.mqtt.tls_listen.clone(),
                websocket_tls: settings.mqtt.websocket_tls_listen.clone(),
            };
            embedded.serve(admission, manager.clone(), &wanted, tls.clone()).await?;
        }
        if let Some(external) = &external {
            external.start(manager.clone());
        }
        let addresses = addresses(&admin, &iot, &*broker)?;
        manager.start();
        let started = services.start().await;
        if let Err(failed) = started {
            services.stop().await;
            manager.stop().await;
            broker.shutdown().await;
            store.shutdown().await;
            pool.stop();
            return Err(failed.join("; ").into());
        }
        // Now that services hear of what was due while the host was down.
        manager.run_lifetimes();
        let (stop_admin, stopping_admin) = watch::channel(false);
        tokio::spawn(hangups.serve(tls.clone(), reloader.clone()));
        let mqtt = embedded.as_ref().map(EmbeddedBroker::websocket_router);
        let (admin_router, iot_router) = (admin::router(ports.clone(), access), iot::router(ports.clone(), mqtt));
        let exempt = &settings.joins.exempt;
        let admin_tls = tls.clone().filter(|_| settings.admin.tls).map(|tls| (tls, Inside::Admin));
        let iot_tls = tls.filter(|_| settings.iot.tls).map(|tls| (tls, Inside::Http));
        let admin = tokio::spawn(serve::serve(
            admin,
            admin_router,
            serve::Limits::trusted(&settings.admin, exempt.clone()),
            admin_tls,
            stopping_admin,
        ));
        let iot = tokio::spawn(serve::serve(
            iot,
            iot_router,
            serve::Limits::public(&settings.iot, exempt.and(&settings.iot.trusted_proxies)),
            iot_tls,
            stopping.clone(),
        ));
        let main_loop = tokio::spawn(periodic(&manager).run(stopping));
        let mut signals = Signals::new()?;
        if let Some(file) = ready_file {
            write_ready_file(file, &addresses).map_err(|e| format!("the ready file {} cannot be written: {e}", file.display()))?;
        }
        tracing::info!(sessions = restored, addresses = %addresses, "ready");
        if let Some(watch) = watch {
            reload::dev::welcome(settings, &addresses);
            tokio::spawn(watch.run(reloader, stop.subscribe()));
        }
        signals.wait().await;
        tracing::info!("stopping; a second signal ends it at once");
        let begun = Instant::now();
        let under_way = Cell::new("conductors, services and requests");
        let drain = async {
            if let Some(external) = &external {
                // What conductors would not hear any more waits at the broker for the next host.
                external.stop_hearing();
            }
            stop.send_replace(true);
            // A task that panicked has nothing under way any more; hence the results that are not looked at.
            let iot = iot.map(drop).shared();
            let asked = tokio::time::timeout_at(begun + REQUESTS, iot.clone());
            let end_in_order = async {
                // While services close and requests end, they still reach the sessions.
                let _ = tokio::join!(services.stop(), asked);
                manager.stop().await;
            };
            let ending = async { tokio::join!(end_in_order, iot, main_loop) };
            if tokio::time::timeout_at(begun + ENDING, ending).await.is_err() {
                tracing::warn!("what conductors, services and requests still do after {} s is cut off", ENDING.as_secs());
            }
            under_way.set("the broker's farewell to its clients");
            broker.shutdown().await;
            under_way.set("the store's last writes");
            store.shutdown().await;
            under_way.set("the saving of the budgets of pins");
            let keeping = manager.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || keeping.keep_pin_budgets()).await.unwrap_or_else(|e| Err(e.into())) {
                tracing::error!(%error, "the budgets of pins were not saved: what failed in the last seconds is forgotten");
            }
            under_way.set("the admin port");
            // Last, so that it can say until the end that the host is draining.
            stop_admin.send_replace(true);
            let _ = tokio::time::timeout_at(begun + LAST_ANSWERS, admin).await;
        };
        let status = tokio::select! {
            () = drain => {
                tracing::info!("stopped");
                0
            }
            () = tokio::time::sleep_until(begun + WHOLE_DRAIN) => {
                tracing::error!("stopped with something undone: {} did not end within {:?}; look at the disk and the broker", under_way.get(), WHOLE_DRAIN);
                1
            }
            () = signals.wait() => {
                tracing::warn!("stopped at once, at the second signal");
                1
            }
        };
        pool.stop();
        if let Some(file) = ready_file {
            remove_ready_file(file)?;
        }
        Ok(status)
    })
}

/// The certificate, where a listener asks for it.
fn load_tls(settings: &Settings, clock: Clock) -> Result<Option<Arc<Tls>>, Failed> {
    let Settings { admin, iot, mqtt, tls, .. } = settings;
    let broker_asks = mqtt.broker == BrokerKind::Embedded && !(mqtt.tls_listen.is_empty() && mqtt.websocket_tls_listen.is_empty());
    if !(admin.tls || iot.tls || broker_asks) {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Err("TLS needs tls.cert and tls.key".into()) };
    Ok(Some(Tls::load(cert, key, admin.client_ca.as_deref(), clock)?))
}

/// SIGHUP reads certificate and plugins again. It is listened to from the start in any case, since by default it would end the process.
struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Hangups {
    fn new(runtime: &Runtime) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let _context = runtime.enter();
        Ok(Self { signal: signal(SignalKind::hangup())? })
    }

    async fn serve(mut self, tls: Option<Arc<Tls>>, reloader: Arc<Reloader>) {
        while self.signal.recv().await.is_some() {
            match tls.clone() {
                None => tracing::info!("SIGHUP: there is no certificate to read again"),
                Some(tls) => match tokio::task::spawn_blocking(move || tls.reload()).await {
                    Ok(Ok(())) => tracing::info!("SIGHUP: new connections get the certificate that was read now"),
                    Ok(Err(error)) => tracing::error!("SIGHUP: the certificate stays as it was: {error}"),
                    Err(error) => tracing::error!(%error, "SIGHUP: the certificate could not be read again"),
                },
            }
            // Beside the next signal: a plugin that takes long to start keeps no certificate waiting.
            let reloader = reloader.clone();
            tokio::spawn(async move {
                match reloader.reload(crate::sessions::upgrade::Which::None, true).await {
                    Ok(report) => tracing::info!(millis = report.millis, "SIGHUP: the plugins were looked at"),
                    Err(error) => tracing::error!("SIGHUP: {error}"),
                }
            });
        }
    }
}

#[cfg(not(unix))]
impl Hangups {
    fn new(_: &Runtime) -> io::Result<Self> {
        Ok(Self {})
    }

    async fn serve(self, _: Option<Arc<Tls>>, _: Arc<Reloader>) {}
}

/// The most detailed level that any part of the log takes, as plugins count.
fn log_level() -> u8 {
    match LevelFilter::current() {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    }
}

/// What pins had used up of their budgets before the host ended.
fn restore_budgets(manager: &Manager, file: &Path) {
    let found = saved::read(file);
    if let Found::Damaged(problem) = &found {
        tracing::warn!(
            file = %file.display(),
            "the budgets of pins cannot be read ({problem}), so the pins of all sessions are guarded: open them (POST /v1/sessions/ID/pin/open), or remove the file and start \
             again to give all of them new tries. Join links and resume tokens work"
        );
    }
    manager.restore_pin_budgets(found);
}

/// What the host does again and again.
fn periodic(manager: &Arc<Manager>) -> MainLoop {
    let (summing, keeping) = (manager.clone(), manager.clone());
    let mut main_loop = MainLoop::new();
    main_loop.every("log a summary", MINUTE, move || {
        summary(&summing);
        async { Ok(()) }
    });
    main_loop.every("keep the budgets of pins", saved::PERIOD, move || {
        let shown = keeping.world().joins.were_pins_shown();
        if shown {
            keeping.tell_guarded_pins();
        }
        let keeping = keeping.clone();
        async move {
            if !shown {
                return Ok(());
            }
            let keeper = keeping.clone();
            let kept = tokio::task::spawn_blocking(move || keeper.keep_pin_budgets()).await?;
            if kept.is_err() {
                keeping.world().joins.look_again();
            }
            Ok(kept?)
        }
    });
    main_loop
}

fn summary(manager: &Manager) {
    let Counts { requests, joins, messages, dropped, expired } = &manager.world().counts;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    tracing::info!(
        sessions = manager.count(),
        requests = count(requests),
        joins = count(joins),
        messages = count(messages),
        dropped = count(dropped),
        expired = count(expired),
        "summary"
    );
}

/// Where everything listens, as the ready file says it: the first address of each kind.
fn addresses(admin: &[TcpListener], iot: &[TcpListener], broker: &dyn Broker) -> io::Result<Value> {
    let first = |listeners: &[TcpListener]| listeners.first().map(TcpListener::local_addr).transpose();
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let endpoints = broker.endpoints();
    Ok(json!({
        "admin": text(first(admin)?),
        "iot": text(first(iot)?),
        "mqtt": text(endpoints.tcp.first().copied()),
        "mqtt_websocket": text(endpoints.websocket.first().copied()),
        "mqtt_tls": text(endpoints.tls.first().copied()),
        "mqtt_websocket_tls": text(endpoints.websocket_tls.first().copied()),
    }))
}

/// Written whole: whoever waits for the file finds all of it.
fn write_ready_file(file: &Path, addresses: &Value) -> io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, format!("{addresses}\n"))?;
    fs::rename(&temporary, file)
}

fn remove_ready_file(file: &Path) -> Result<(), Failed> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("the ready file {} cannot be removed: {error}", file.display()).into())
        }
        _ => Ok(()),
    }
}

/// What asks a host to stop: SIGTERM and SIGINT; on Windows Ctrl-C, Ctrl-Break, a console that closes and a system that shuts down.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
    #[cfg(windows)]
    stop: tokio::signal::windows::CtrlBreak,
    #[cfg(windows)]
    close: tokio::signal::windows::CtrlClose,
    #[cfg(windows)]
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::windows;
        Ok(Self {
            interrupt: windows::ctrl_c()?,
            stop: windows::ctrl_break()?,
            close: windows::ctrl_close()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.stop.recv() => {}
            _ = self.close.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}
