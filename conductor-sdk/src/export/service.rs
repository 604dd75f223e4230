//! A service behind the binary contract: the same objects and events as a conductor's.

use std::{
    any::type_name,
    future::{Future, ready},
    sync::Arc,
};

use conductor_abi::{
    async_ffi::BorrowingFfiFuture,
    contract::{ConductorObj, ConductorObject, Event, Reply},
    wire::{ConductorManifest, code, event},
};

use super::{BoxFuture, Offer, parse_config, parse_meta};
use crate::{
    CloseReason, Error, Host, Link, Message, Methods, Result, Saved, Service, Session, SessionClosed, SessionOpened,
    conductor::{Absent, is_written},
    error::answer,
    guard,
    runtime::Surroundings,
};

struct Offered<S> {
    name: &'static str,
    methods: Arc<Methods<S, Host>>,
}

/// Offers `S` as `name`.
#[must_use]
pub fn offer_service<S: Service>(name: &'static str) -> Box<dyn Offer> {
    Box::new(Offered::<S> { name, methods: Arc::new(S::methods()) })
}

/// As [`is_written`], for the hook with one more argument.
fn is_message_written<A, B, C, D, Fut: Future<Output = Result<()>>>(_: impl Fn(A, B, C, D) -> Fut) -> bool {
    type_name::<Fut>() != type_name::<Absent<()>>()
}

impl<S: Service> Offer for Offered<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_service(&self) -> bool {
        true
    }

    fn manifest(&self) -> ConductorManifest {
        let hooks = [
            (event::MESSAGE, is_message_written(S::message)),
            (event::SESSION_OPENED, is_written(S::session_opened)),
            (event::SESSION_CLOSED, is_written(S::session_closed)),
            (event::LINK, is_written(S::link)),
            (event::CLOSE, is_written(S::close)),
        ];
        let mut manifest = ConductorManifest::default();
        manifest.name = self.name.to_owned();
        manifest.hooks = hooks.into_iter().filter(|(_, written)| *written).map(|(hook, _)| hook.to_owned()).collect();
        manifest.methods = self.methods.manifest();
        manifest.other_methods = self.methods.has_others();
        manifest.config = Some(schemars::schema_for!(S::Config).to_value());
        manifest
    }

    fn surroundings(&self) -> Result<Surroundings> {
        #[cfg(feature = "tokio")]
        let wanted = S::TOKIO;
        #[cfg(not(feature = "tokio"))]
        let wanted = false;
        Surroundings::new(wanted)
    }

    fn check_config(&self, config: &[u8]) -> Result<()> {
        let surroundings = self.surroundings()?;
        let _entered = surroundings.enter();
        parse_config::<S::Config>(config).map(drop)
    }

    fn create(&self, own: Session, config: &[u8], _: Option<Saved>) -> BoxFuture<Result<ConductorObj>> {
        let (config, methods, lent, host) = (config.to_vec(), self.methods.clone(), Some(own.clone()), Host::new(own));
        Box::pin(async move {
            let service = S::create(&host, parse_config(&config)?).await?;
            Ok(ConductorObj::new(Live { service: Some(service), host, lent, methods }))
        })
    }
}

struct Live<S> {
    /// Taken only when the object is dropped.
    service: Option<S>,
    host: Host,
    /// Its own session once more, for the guard to lend.
    lent: Option<Session>,
    methods: Arc<Methods<S, Host>>,
}

impl<S: Service> ConductorObject for Live<S> {
    fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        let Self { service, host, lent, methods } = self;
        let Some(service) = service else { return answer(ready(Err(Error::of(code::INTERNAL, "the service is gone")))) };
        let (host, subject) = (&*host, event.subject.as_str());
        if event.kind.as_str() == event::REQUEST {
            return methods.call(service, host, lent, subject, event.body.as_slice());
        }
        answer(guard::run(lent, async move {
            let done = match event.kind.as_str() {
                event::MESSAGE => {
                    let mut meta = parse_meta(event.meta.as_slice())?;
                    let session = meta.session.take().unwrap_or_default();
                    service.message(host, &session, &Message::new(&event, meta)).await
                }
                event::SESSION_OPENED => {
                    let (id, type_name) = which(&event)?;
                    service.session_opened(host, &SessionOpened::new(id, type_name)).await
                }
                event::SESSION_CLOSED => {
                    let (id, type_name) = which(&event)?;
                    service.session_closed(host, &SessionClosed::new(id, type_name, subject)).await
                }
                event::LINK => service.link(host, Link::parse(subject)).await,
                event::CLOSE => service.close(host, CloseReason::parse(subject)).await,
                other => Err(Error::of(code::UNSUPPORTED, format!("this plugin's SDK does not know the event {other:?}"))),
            };
            done.map(|()| Vec::new())
        }))
    }
}

/// Id and type of the session that an event is about.
fn which(event: &Event<'_>) -> Result<(String, String)> {
    let meta = parse_meta(event.meta.as_slice())?;
    Ok((meta.session.unwrap_or_default(), meta.type_name.unwrap_or_default()))
}

impl<S> Drop for Live<S> {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            guard::discard(&mut self.lent, service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bare;
    impl Service for Bare {
        type Config = ();
        async fn create(_: &Host, (): ()) -> Result<Self> {
            Ok(Self)
        }
    }

    struct Full;
    impl Service for Full {
        type Config = ();
        async fn create(_: &Host, (): ()) -> Result<Self> {
            Ok(Self)
        }
        async fn message(&mut self, _: &Host, _: &str, _: &Message) -> Result<()> {
            Ok(())
        }
        async fn session_opened(&mut self, _: &Host, _: &SessionOpened) -> Result<()> {
            Ok(())
        }
        async fn session_closed(&mut self, _: &Host, _: &SessionClosed) -> Result<()> {
            Ok(())
        }
        async fn link(&mut self, _: &Host, _: Link) -> Result<()> {
            Ok(())
        }
        async fn close(&mut self, _: &Host, _: CloseReason) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_manifest_names_the_hooks_that_are_written() {
        assert_eq!(offer_service::<Bare>("bare").manifest().hooks, <[String; 0]>::default());
        let full = offer_service::<Full>("full").manifest();
        assert_eq!(full.hooks, ["message", "session_opened", "session_closed", "link", "close"]);
        assert_eq!((full.name.as_str(), full.requires.len()), ("full", 0));
    }
}
