//! A plugin built with another version of the contract: conductor `variant`, which answers every request with what it is.

pub mod contract {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}
#[path = "../../../conductor-sdk/abi/src/wire.rs"]
pub mod wire;

pub use abi_stable;
pub use async_ffi;

pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");

use std::sync::atomic::{AtomicU8, Ordering};

use abi_stable::std_types::{RErr, ROk};
use async_ffi::{BorrowingFfiFuture, FutureExt};
use contract::{ConductorObj, ConductorObject, Created, Event, Failure, HostObj, PluginEntry, Reply};

static LEVEL: AtomicU8 = AtomicU8::new(0);

struct Variant(HostObj);

impl ConductorObject for Variant {
    fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async move {
            // The way to the host and back, through its own table.
            let now = match self.0.call(Event::new(wire::call::NOW)).await {
                ROk(now) => String::from_utf8_lossy(&now).into_owned(),
                RErr(failure) => failure.message.into_string(),
            };
            let (version, level) = (env!("CARGO_PKG_VERSION"), LEVEL.load(Ordering::Relaxed));
            let answer = format!("\"{version} {} now={now} can_tell={} level={level}\"", event.subject, self.0.can_tell());
            ROk(answer.into_bytes().into())
        }
        .into_ffi()
    }
}

/// How this plugin misbehaves. The tests write another word over it in a copy of the built file.
#[used]
static MOOD: [u8; 24] = *b"plugin-mood=good        ";

fn mood() -> &'static str {
    let mood: &'static [u8; 24] = std::hint::black_box(&MOOD);
    std::str::from_utf8(mood).unwrap_or_default().trim_start_matches("plugin-mood=").trim_end()
}

struct Plugin;

impl PluginEntry for Plugin {
    fn manifest() -> Reply {
        let manifest = match mood() {
            "no-manifest" => return RErr(Failure::new(wire::code::INTERNAL, "there is none\ntoday")),
            "panicking" => panic!("on purpose"),
            "garbage" => "{",
            "twice" => r#"{"abi":"1.1.0","sdk":"none","conductors":[{"name":"a"},{"name":"a"}]}"#,
            "nothing" => r#"{"abi":"1.1.0","sdk":"none","conductors":[]}"#,
            _ => r#"{"abi":"1.1.0","sdk":"none","conductors":[{"name":"variant","new_key":1},{"name":"other"}],"another":{}}"#,
        };
        ROk(manifest.as_bytes().to_vec().into())
    }

    fn init(host: HostObj, _: &[u8]) -> Reply {
        host.log(3, "variant", "started", b"");
        match mood() {
            "init-fails" => RErr(Failure::new(wire::code::UNAVAILABLE, "no licence")),
            "init-panics" => panic!("on purpose"),
            _ => ROk(Vec::new().into()),
        }
    }

    fn handle<'a>(_: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async { RErr(Failure::new(wire::code::UNSUPPORTED, "nothing is known here")) }.into_ffi()
    }

    fn create<'a>(_: &'a str, host: HostObj, _: &'a [u8], _: &'a [u8]) -> BorrowingFfiFuture<'a, Created> {
        async { ROk(ConductorObj::new(Variant(host))) }.into_ffi()
    }

    fn set_log_level(level: u8) {
        LEVEL.store(level, Ordering::Relaxed);
    }
}

#[unsafe(no_mangle)]
pub static conductor_host_plugin_v1: abi_stable::library::LibHeader = contract::header::<Plugin>();
