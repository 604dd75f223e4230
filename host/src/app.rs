//! The composition root: from settings to a running host with bound addresses, and from there to its end.

use std::{
    error::Error,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use conductor_abi::abi_stable::std_types::RErr;
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tracing::level_filters::LevelFilter;

use crate::{
    admission,
    broker::{Broker, EmbeddedBroker, Endpoints, ExternalBroker, LinkSettings, LinkToken, NoBroker},
    conductors::{
        catalog::{Catalog, Plugin, Type},
        library::Libraries,
        pool::Pool,
        services::LibraryHost,
    },
    config::{self, BrokerKind, Settings, TokenMode},
    http::{Ports, admin, iot, serve},
    sessions::{
        Manager,
        clock::Clock,
        world::{Counts, World},
    },
    store::{self, lock::StateLock},
    tasks::MainLoop,
    tls::Tls,
    tokens::{issue::Tokens, keys::SigningKey, signer::Signer},
};

/// How often the main loop looks.
const MINUTE: Duration = Duration::from_secs(60);

type Failed = Box<dyn Error + Send + Sync>;

/// Runs the host until it is told to stop; the exit status: 0 after a drain, 1 where it could not start or was stopped at once.
#[must_use]
pub fn run(settings: &Settings, ready_file: Option<&Path>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads to run on");
            return 1;
        }
    };
    let status = match live(&runtime, settings, ready_file) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("the host does not start: {error}");
            1
        }
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    status
}

fn live(runtime: &Runtime, settings: &Settings, ready_file: Option<&Path>) -> Result<u8, Failed> {
    let clock = Clock::system();
    let _lock = StateLock::acquire(&settings.state.dir)?;
    let tls = load_tls(settings, clock)?;
    reload_on_hangup(runtime, tls.clone())?;
    if let Some(file) = ready_file {
        // Left by a host that was killed: nobody must take its addresses for ours.
        remove_ready_file(file)?;
    }
    let (types, missing_plugins) = load_types(runtime, settings)?;
    let tokens = match settings.token.mode {
        TokenMode::Signed => {
            let key = SigningKey::load_or_create(&settings.token.key, true)?;
            Tokens::Signed(Arc::new(Signer::new(key, settings.token.issuer.clone())?))
        }
        TokenMode::None => Tokens::ClientId,
    };
    let link = match settings.mqtt.broker {
        BrokerKind::External => Some(LinkSettings::new(&settings.mqtt, LinkToken::of(&tokens, settings.token.ttl), clock)?),
        BrokerKind::Embedded | BrokerKind::None => None,
    };
    let (store, stored) = store::open(&settings.store.url.to_string(), &settings.base_dir, settings.token.ttl, clock.seconds())?;
    let pool = Pool::start(runtime.handle().clone())?;
    runtime.block_on(async {
        let embedded = (settings.mqtt.broker == BrokerKind::Embedded).then(|| EmbeddedBroker::new(crate::broker::Limits::default()));
        let external = link.map(ExternalBroker::new);
        let broker: Arc<dyn Broker> = match (&embedded, &external) {
            (Some(embedded), _) => embedded.clone(),
            (None, Some(external)) => external.clone(),
            (None, None) => Arc::new(NoBroker),
        };
        let restored = stored.len();
        let manager = Manager::new(Catalog::new(types), stored, |manager| World {
            pool: pool.clone(),
            broker: broker.clone(),
            store: store.clone(),
            clock,
            grant_ttl: settings.token.ttl,
            max_state: settings.sessions.max_state_bytes,
            id_digits: settings.sessions.id_digits,
            pin_digits: settings.sessions.pin_digits,
            manager,
            counts: Counts::default(),
        });
        let ports = Arc::new(Ports {
            manager: manager.clone(),
            tokens: tokens.clone(),
            username: settings.mqtt.username,
            mqtt_public_url: settings.mqtt.public_url.clone(),
            has_broker: settings.mqtt.broker != BrokerKind::None,
            iot_tls: settings.iot.tls,
            missing_plugins,
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
        let (stop, stopping) = watch::channel(false);
        let (stop_admin, stopping_admin) = watch::channel(false);
        let mqtt = embedded.as_ref().map(EmbeddedBroker::websocket_router);
        let (admin_router, iot_router) = (admin::router(ports.clone()), iot::router(ports.clone(), mqtt));
        let (admin_tls, iot_tls) = (tls.clone().filter(|_| settings.admin.tls), tls.filter(|_| settings.iot.tls));
        let admin = tokio::spawn(serve::serve(admin, admin_router, serve::Limits::trusted(), admin_tls, stopping_admin));
        let iot = tokio::spawn(serve::serve(iot, iot_router, serve::Limits::public(), iot_tls, stopping.clone()));
        let main_loop = tokio::spawn(periodic(&manager).run(stopping));
        let mut signals = Signals::new()?;
        if let Some(file) = ready_file {
            write_ready_file(file, &addresses).map_err(|e| format!("the ready file {} cannot be written: {e}", file.display()))?;
        }
        tracing::info!(sessions = restored, addresses = %addresses, "ready");
        signals.wait().await;
        tracing::info!("stopping; a second signal ends it at once");
        let drain = async {
            if let Some(external) = &external {
                // What conductors would not hear any more waits at the broker for the next host.
                external.stop_hearing();
            }
            stop.send_replace(true);
            // A task that panicked has nothing under way any more; hence the results that are not looked at.
            let _ = tokio::join!(manager.stop(), iot, main_loop);
            broker.shutdown().await;
            store.shutdown().await;
            // Last, so that it can say until the end that the host is draining.
            stop_admin.send_replace(true);
            let _ = admin.await;
        };
        let status = tokio::select! {
            () = drain => {
                tracing::info!("stopped");
                0
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
    Ok(Some(Tls::load(cert, key, clock)?))
}

/// SIGHUP reads the certificate again. It is listened to in any case, since by default it would end the process.
#[cfg(unix)]
fn reload_on_hangup(runtime: &Runtime, tls: Option<Arc<Tls>>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let _context = runtime.enter();
    let mut hangups = signal(SignalKind::hangup())?;
    runtime.spawn(async move {
        while hangups.recv().await.is_some() {
            let Some(tls) = tls.clone() else {
                tracing::info!("SIGHUP: there is no certificate to read again");
                continue;
            };
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => tracing::info!("SIGHUP: new connections get the certificate that was read now"),
                Ok(Err(error)) => tracing::error!("SIGHUP: the certificate stays as it was: {error}"),
                Err(error) => tracing::error!(%error, "SIGHUP: the certificate could not be read again"),
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_on_hangup(_runtime: &Runtime, _tls: Option<Arc<Tls>>) -> io::Result<()> {
    Ok(())
}

/// Loads the plugin of each type. What a type that is not required lacks is told beside.
fn load_types(runtime: &Runtime, settings: &Settings) -> Result<(Vec<Type>, Vec<String>), Failed> {
    let libraries = LibraryHost::libraries(settings.state.dir.join("plugins"), log_level());
    let (mut types, mut missing, mut fatal) = (Vec::new(), Vec::new(), Vec::new());
    for (name, wanted) in &settings.types {
        let plugin = load_plugin(runtime, &libraries, name, wanted).map_err(|reason| {
            let text = format!("type {name}: {reason}");
            if wanted.required {
                fatal.push(text);
            } else {
                tracing::error!("{text}");
                missing.push(text);
            }
            reason.into()
        });
        types.push(Type { name: name.as_str().into(), plugin, deadline: wanted.deadline, lane: Arc::default() });
    }
    if !fatal.is_empty() {
        return Err(fatal.join("; ").into());
    }
    if let Err(error) = libraries.remove_unused_copies() {
        tracing::warn!(%error, "copies of earlier builds of plugins stay in the state folder");
    }
    Ok((types, missing))
}

fn load_plugin(runtime: &Runtime, libraries: &Libraries, name: &str, wanted: &config::Type) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, None).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_conductor(wanted.conductor.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    let config = wanted.config.as_ref().map_or_else(|| "{}".to_owned(), |config| Value::Object(config.clone()).to_string());
    if let RErr(failure) = runtime.block_on(library.check_config(&manifest.name, config.as_bytes())) {
        return Err(format!("types.{name}.config: {}", failure.message));
    }
    tracing::info!(r#type = name, conductor = manifest.name, file = %library.file().display(), hash = %library.hash(), "plugin loaded");
    let config = RawValue::from_string(config).map_err(|e| e.to_string())?;
    Ok(Plugin { conductor: manifest.name.clone(), manifest, library, config })
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

/// What the host does again and again.
fn periodic(manager: &Arc<Manager>) -> MainLoop {
    let summing = manager.clone();
    let mut main_loop = MainLoop::new();
    main_loop.every("log a summary", MINUTE, move || {
        summary(&summing);
        async { Ok(()) }
    });
    main_loop
}

fn summary(manager: &Manager) {
    let Counts { requests, joins, messages, dropped } = &manager.world().counts;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    tracing::info!(
        sessions = manager.count(),
        requests = count(requests),
        joins = count(joins),
        messages = count(messages),
        dropped = count(dropped),
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
