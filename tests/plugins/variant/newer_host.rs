//! The smallest host of the next minor version: loads the plugins that are its arguments, one after the other, with the real
//! host's comparison of layouts, and prints a line for each.

// Where the host's modules look for the contract, they find the next version.
extern crate plugin_next_minor as conductor_abi;

#[path = "../../../host/src/conductors/layout.rs"]
mod layout;
#[expect(dead_code, reason = "this host refuses less")]
#[path = "../../../host/src/conductors/refusal.rs"]
mod refusal;

use std::{
    mem::ManuallyDrop,
    pin::pin,
    task::{Context, Poll, Waker},
};

use conductor_abi::{
    abi_stable::{
        StableAbi,
        library::AbiHeaderRef,
        std_types::{RErr, ROk},
    },
    async_ffi::{BorrowingFfiFuture, FfiFuture, FutureExt},
    contract::{Event, Failure, HostObj, HostObject, PluginRootRef, Reply},
    wire::{code, event},
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

struct Host;

impl HostObject for Host {
    fn call<'a>(&'a self, _: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async { ROk(b"43".to_vec().into()) }.into_ffi()
    }

    fn spawn(&self, _: &[u8], _: FfiFuture<Reply>) -> Result<u64, Failure> {
        Err(Failure::new(code::UNSUPPORTED, "nothing is spawned here"))
    }

    fn log(&self, _: u8, _: &str, _: &str, _: &[u8]) {}
}

/// All futures here are ready at once.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing waits here"),
    }
}

fn load(path: &str) -> Result<String, String> {
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    let library = ManuallyDrop::new(library);
    let header = *unsafe { library.get::<AbiHeaderRef>("conductor_host_plugin_v1") }.map_err(|e| e.to_string())?;
    let header = header.upgrade().map_err(|e| e.to_string())?;
    layout::compatible(PluginRootRef::LAYOUT, header.layout().ok_or("no layout")?).map_err(|e| e.to_string())?;
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() }.map_err(|e| e.to_string())?;

    root.manifest()().into_result().map_err(|f| f.message.into_string())?;
    root.init()(HostObj::new(Host), b"{}".as_slice().into()).into_result().map_err(|f| f.message.into_string())?;
    let meta = format!(r#"{{"session":"1","type":"t","config":{{}},"seed":"{}","time":0}}"#, "0".repeat(64));
    let created = ready(root.create()("default".into(), HostObj::new(Host), meta.as_bytes().into(), b"".as_slice().into()));
    let mut conductor = created.into_result().map_err(|f| f.message.into_string())?;
    let request = Event { subject: "state".into(), body: b"null".as_slice().into(), ..Event::new(event::REQUEST) };
    let answer = match ready(conductor.handle(request)) {
        ROk(answer) => String::from_utf8_lossy(&answer).into_owned(),
        RErr(failure) => failure.message.into_string(),
    };
    Ok(format!("{answer} more={:?} peek={:?}", root.more().map(|more| more()), conductor.peek()))
}

fn main() {
    for path in std::env::args().skip(1) {
        match load(&path) {
            Ok(answered) => println!("{answered}"),
            Err(refused) => println!("refused: {refused}"),
        }
    }
}
