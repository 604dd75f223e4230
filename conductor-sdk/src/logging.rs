//! Sends what authors log through plain `tracing` to the host, under the session that was running.

use std::{
    fmt::{self, Write as _},
    sync::{
        Once, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use conductor_abi::contract::HostObj;
use serde_json::{Map, Value};
use tracing::{
    Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use crate::guard;

/// 0 (nothing) to 5 (trace); info until the host says otherwise.
static MAX_LEVEL: AtomicU8 = AtomicU8::new(3);
/// For what is logged outside of any session.
static LIBRARY: OnceLock<HostObj> = OnceLock::new();

pub(crate) fn install(host: HostObj) {
    static ONCE: Once = Once::new();
    // A second `init` (a test rig's) keeps the first host: its log is the library's.
    let _ = LIBRARY.set(host);
    ONCE.call_once(|| {
        // A test binary may have its own subscriber already; then logs go there, which is what its author wants.
        let _ = tracing::subscriber::set_global_default(ToHost { next_span: AtomicU64::new(1) });
    });
}

pub(crate) fn set_level(level: u8) {
    if MAX_LEVEL.swap(level, Ordering::Relaxed) != level {
        tracing::callsite::rebuild_interest_cache();
    }
}

pub(crate) fn library_log(level: u8, target: &str, message: &str, fields: &[u8]) {
    if let Some(host) = LIBRARY.get() {
        host.log(level, target, message, fields);
    }
}

struct ToHost {
    next_span: AtomicU64,
}

pub(crate) fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

impl Subscriber for ToHost {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) <= MAX_LEVEL.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match MAX_LEVEL.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.next_span.fetch_add(1, Ordering::Relaxed).max(1))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let json = if fields.rest.is_empty() { Vec::new() } else { Value::Object(fields.rest).to_string().into_bytes() };
        let (level, target) = (number(*event.metadata().level()), event.metadata().target());
        match guard::current() {
            Some(session) => session.host().log(level, target, &fields.message, &json),
            None => library_log(level, target, &fields.message, &json),
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, value.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String fails only where the value's own Debug does; the rest of the line is still worth having.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }
}
