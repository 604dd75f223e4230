//! From the trait to the binary contract.

mod service;

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
};

use conductor_abi::{
    ABI_VERSION,
    abi_stable::std_types::{RErr, ROk},
    async_ffi::BorrowingFfiFuture,
    contract::{ConductorObj, ConductorObject, Created, Event, HostObj, PluginEntry, Reply},
    wire::{ConductorManifest, CreateMeta, EventMeta, Manifest, code, event, requirement, root},
};

use crate::{
    CloseReason, Conductor, Error, Joining, Left, Link, Message, Methods, Result, Saved, Session, Timer,
    conductor::is_written,
    error::{answer, into_failure, reply},
    guard, logging,
    methods::parse,
    runtime::Surroundings,
};

pub use service::offer_service;

/// Exports conductors under the names that settings use, as the entry of this library. Once per crate, whose `Cargo.toml`
/// says `crate-type = ["cdylib"]`. [`export_plugin!`](crate::export_plugin!) does the same for services, too.
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// struct Lamp;
/// impl Conductor for Lamp {
///     type Config = ();
///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) }
/// }
///
/// export_conductors! { "lamp" => Lamp }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_conductors {
    ($($name:literal => $conductor:ty),+ $(,)?) => {
        $crate::export_plugin! { conductors { $($name => $conductor),+ } }
    };
}

/// Exports conductors and services under the names that settings use, as the entry of this library; either block may be left out, and no name
/// may be there twice. Once per crate, whose `Cargo.toml` says `crate-type = ["cdylib"]`.
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// struct Lamp;
/// impl Conductor for Lamp {
///     type Config = ();
///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Lamp) }
/// }
///
/// struct Census;
/// impl Service for Census {
///     type Config = ();
///     async fn create(_: &Host, _: ()) -> Result<Self> { Ok(Census) }
/// }
///
/// export_plugin! {
///     conductors { "lamp" => Lamp }
///     services { "census" => Census }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_plugin {
    () => {
        compile_error!("a plugin offers conductors { \"name\" => Type } or services { \"name\" => Type }");
    };
    (
        $(conductors { $($name:literal => $conductor:ty),+ $(,)? })?
        $(services { $($service_name:literal => $service:ty),+ $(,)? })?
    ) => {
        const _: () = {
            #[cfg(not(panic = "unwind"))]
            compile_error!("conductor plugins must be built with panic = \"unwind\": only then can the host survive a panic in one");

            struct Plugin;

            impl $crate::__private::Offers for Plugin {
                fn offers() -> &'static [::std::boxed::Box<dyn $crate::__private::Offer>] {
                    static OFFERS: ::std::sync::OnceLock<::std::vec::Vec<::std::boxed::Box<dyn $crate::__private::Offer>>> =
                        ::std::sync::OnceLock::new();
                    OFFERS.get_or_init(|| {
                        ::std::vec![
                            $($($crate::__private::offer::<$conductor>($name),)+)?
                            $($($crate::__private::offer_service::<$service>($service_name),)+)?
                        ]
                    })
                }
            }

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static conductor_host_plugin_v1: $crate::__private::LibHeader =
                $crate::__private::header::<$crate::__private::Entry<Plugin>>();
        };
    };
}

/// What one library offers.
pub trait Offers: 'static {
    /// All of it; made at the first call.
    fn offers() -> &'static [Box<dyn Offer>];
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One conductor, or one service, under its name.
pub trait Offer: Send + Sync {
    /// What settings call it.
    fn name(&self) -> &'static str;
    /// Whether it is a service.
    fn is_service(&self) -> bool {
        false
    }
    /// Its entry in the manifest.
    fn manifest(&self) -> ConductorManifest;
    /// What its code runs in.
    fn surroundings(&self) -> Result<Surroundings>;
    /// Whether `config` (JSON) fits.
    fn check_config(&self, config: &[u8]) -> Result<()>;
    /// Makes it for a session; a service for the whole host.
    fn create(&self, session: Session, config: &[u8], saved: Option<Saved>) -> BoxFuture<Result<ConductorObj>>;
}

struct Offered<C> {
    name: &'static str,
    methods: Arc<Methods<C>>,
}

/// Offers `C` as `name`.
#[must_use]
pub fn offer<C: Conductor>(name: &'static str) -> Box<dyn Offer> {
    Box::new(Offered::<C> { name, methods: Arc::new(C::methods()) })
}

fn parse_config<T: serde::de::DeserializeOwned + 'static>(config: &[u8]) -> Result<T> {
    let none = std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>();
    if none && !matches!(config, b"" | b"{}" | b"null") {
        return Err(Error::of(code::INVALID_CONFIG, "it takes no config"));
    }
    parse(config, code::INVALID_CONFIG, "the config does not fit")
}

impl<C: Conductor> Offer for Offered<C> {
    fn manifest(&self) -> ConductorManifest {
        let hooks = [
            (event::JOINING, is_written(C::joining)),
            (event::LEFT, is_written(C::left)),
            (event::CONNECTED, is_written(C::connected)),
            (event::DISCONNECTED, is_written(C::disconnected)),
            (event::MESSAGE, is_written(C::message)),
            (event::TIMER, is_written(C::timer)),
            (event::LINK, is_written(C::link)),
            (event::CLOSE, is_written(C::close)),
        ];
        let mut manifest = ConductorManifest::default();
        manifest.name = self.name.to_owned();
        manifest.hooks = hooks.into_iter().filter(|(_, written)| *written).map(|(hook, _)| hook.to_owned()).collect();
        if is_written(C::joining) {
            manifest.requires.push(requirement::JOINING.to_owned());
        }
        manifest.methods = self.methods.manifest();
        manifest.other_methods = self.methods.has_others();
        manifest.config = Some(schemars::schema_for!(C::Config).to_value());
        manifest.lazy = C::LAZY;
        manifest
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn surroundings(&self) -> Result<Surroundings> {
        #[cfg(feature = "tokio")]
        let wanted = C::TOKIO;
        #[cfg(not(feature = "tokio"))]
        let wanted = false;
        Surroundings::new(wanted)
    }

    fn check_config(&self, config: &[u8]) -> Result<()> {
        let surroundings = self.surroundings()?;
        let _entered = surroundings.enter();
        parse_config::<C::Config>(config).map(drop)
    }

    fn create(&self, session: Session, config: &[u8], saved: Option<Saved>) -> BoxFuture<Result<ConductorObj>> {
        let (config, methods) = (config.to_vec(), self.methods.clone());
        // All of it inside the future: reading the config runs the author's code too.
        Box::pin(async move {
            let config = parse_config(&config)?;
            let conductor = match saved {
                Some(saved) => C::restore(&session, config, saved).await?,
                None => C::create(&session, config).await?,
            };
            Ok(ConductorObj::new(Live { conductor: Some(conductor), lent: Some(session.clone()), session, methods }))
        })
    }
}

struct Live<C> {
    /// Taken only when the object is dropped.
    conductor: Option<C>,
    session: Session,
    /// The same once more, for the guard to lend.
    lent: Option<Session>,
    methods: Arc<Methods<C>>,
}

impl<C: Conductor> ConductorObject for Live<C> {
    fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        let Self { conductor, session, lent, methods } = self;
        let Some(conductor) = conductor else { return answer(ready(Err(Error::of(code::INTERNAL, "the conductor is gone")))) };
        let session = &*session;
        if event.kind.as_str() == event::REQUEST {
            // By itself: a future that has room for each of the hooks is large, and is moved a few times.
            return methods.call(conductor, session, lent, event.subject.as_str(), event.body.as_slice());
        }
        answer(guard::run(lent, async move {
            match event.kind.as_str() {
                event::MESSAGE => {
                    let message = Message::new(&event, parse_meta(event.meta.as_slice())?);
                    conductor.message(session, &message).await.map(|()| Vec::new())
                }
                event::JOINING => {
                    let meta = parse_meta(event.meta.as_slice())?;
                    let join = conductor.joining(session, &Joining::new(event.client.as_str(), meta.caller)).await?;
                    Ok(serde_json::to_vec(&join.into_wire())?)
                }
                event::LEFT => {
                    let left = Left::new(event.client.as_str(), event.subject.as_str());
                    conductor.left(session, &left).await.map(|()| Vec::new())
                }
                event::CONNECTED => conductor.connected(session, event.client.as_str()).await.map(|()| Vec::new()),
                event::DISCONNECTED => conductor.disconnected(session, event.client.as_str()).await.map(|()| Vec::new()),
                event::TIMER => {
                    let late = parse_meta(event.meta.as_slice())?.late;
                    conductor.timer(session, &Timer::new(event.subject.as_str(), late)).await.map(|()| Vec::new())
                }
                event::LINK => conductor.link(session, Link::parse(event.subject.as_str())).await.map(|()| Vec::new()),
                event::CLOSE => conductor.close(session, CloseReason::parse(event.subject.as_str())).await.map(|()| Vec::new()),
                other => Err(Error::of(code::UNSUPPORTED, format!("this plugin's SDK does not know the event {other:?}"))),
            }
        }))
    }
}

fn parse_meta(meta: &[u8]) -> Result<EventMeta> {
    if meta.is_empty() {
        return Ok(EventMeta::default());
    }
    serde_json::from_slice(meta).map_err(|e| Error::of(code::INTERNAL, format!("the host's meta cannot be read: {e}")))
}

impl<C> Drop for Live<C> {
    fn drop(&mut self) {
        if let Some(conductor) = self.conductor.take() {
            guard::discard(&mut self.lent, conductor);
        }
    }
}

/// The root functions of a library that offers `T`.
#[derive(Debug)]
pub struct Entry<T>(std::marker::PhantomData<T>);

impl<T: Offers> Entry<T> {
    fn find(name: &str) -> Result<&'static dyn Offer> {
        let offers = guard::scope(&mut None, T::offers)?;
        let found = offers.iter().find(|offer| offer.name() == name);
        found
            .map(|offer| &**offer)
            .ok_or_else(|| Error::of(code::REFUSED, format!("this plugin offers no conductor and no service {name:?}")))
    }
}

impl<T: Offers> PluginEntry for Entry<T> {
    fn manifest() -> Reply {
        guard::install_hook();
        let manifest = guard::scope(&mut None, || {
            let mut manifest = Manifest::default();
            manifest.abi = ABI_VERSION.to_owned();
            manifest.sdk = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
            for offer in T::offers() {
                let offers = if offer.is_service() { &mut manifest.services } else { &mut manifest.conductors };
                offers.push(offer.manifest());
            }
            manifest
        });
        reply(manifest.and_then(|manifest| Ok(serde_json::to_vec(&manifest)?)))
    }

    fn init(host: HostObj, _: &[u8]) -> Reply {
        guard::install_hook();
        logging::install(host);
        reply(Ok(Vec::new()))
    }

    fn handle<'a>(event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        answer(guard::run(None, async move {
            match event.kind.as_str() {
                root::CHECK_CONFIG => Self::find(event.subject.as_str())?.check_config(event.body.as_slice()).map(|()| Vec::new()),
                other => Err(Error::of(code::UNSUPPORTED, format!("this plugin's SDK does not know {other:?}"))),
            }
        }))
    }

    fn create<'a>(name: &'a str, host: HostObj, meta: &'a [u8], body: &'a [u8]) -> BorrowingFfiFuture<'a, Created> {
        BorrowingFfiFuture::new(async move {
            match create::<T>(name, host, meta, body).await {
                Ok(conductor) => ROk(conductor),
                Err(error) => RErr(into_failure(error)),
            }
        })
    }

    fn set_log_level(level: u8) {
        logging::set_level(level);
    }
}

async fn create<T: Offers>(name: &str, host: HostObj, meta: &[u8], body: &[u8]) -> Result<ConductorObj> {
    let meta: CreateMeta = serde_json::from_slice(meta)
        .map_err(|e| Error::of(code::INTERNAL, format!("the host's meta of a creation cannot be read: {e}")))?;
    let offer = Entry::<T>::find(name)?;
    let session = Session::new(host, meta.session, meta.type_name, &meta.seed, offer.surroundings()?)?;
    let config = meta.config.get().as_bytes();
    let saved = meta.restoring.then(|| Saved::new(meta.state_version, body.to_vec()));
    guard::run(Some(session.clone()), offer.create(session, config, saved)).await
}
