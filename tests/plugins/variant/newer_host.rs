//! The smallest host of the next minor version: loads the plugins that are its arguments, one after the other, with the real
//! host's comparison of layouts, and prints a line for each. An argument is a file and, in lines below it, what its first service or else conductor is
//! asked, each a method and its parameters; `state` unless something is. What is told: the answers, what the plugin has of the new functions, and
//! what it asked of this host.

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
    sync::{Arc, Mutex},
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
    wire::{Manifest, call, event},
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Answers each call at once, keeps its name, and runs a task when it is asked to.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Vec<String>>>);

impl Host {
    fn note(&self, what: String) {
        self.0.lock().expect("no thread panics with it").push(what);
    }
}

impl HostObject for Host {
    fn call<'a>(&'a self, call: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        self.note(call.kind.to_string());
        let answer = match call.kind.as_str() {
            call::CLIENTS => r#"[{"client_id":"ann","expires_at":7,"of_a_later_version":{}}]"#,
            call::SESSIONS => "[]",
            _ => "43",
        };
        async move { ROk(answer.as_bytes().to_vec().into()) }.into_ffi()
    }

    fn spawn(&self, _: &[u8], task: FfiFuture<Reply>) -> Result<u64, Failure> {
        self.note("spawn".to_owned());
        ready(task).into_result().map(|_| 7)
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

fn load(argument: &str) -> Result<String, String> {
    let mut lines = argument.lines();
    let path = lines.next().ok_or("no file")?;
    let requests: Vec<&str> = lines.collect();
    let requests = if requests.is_empty() { vec!["state null"] } else { requests };
    let host = Host::default();
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    let library = ManuallyDrop::new(library);
    let header = *unsafe { library.get::<AbiHeaderRef>("conductor_host_plugin_v1") }.map_err(|e| e.to_string())?;
    let header = header.upgrade().map_err(|e| e.to_string())?;
    layout::compatible(PluginRootRef::LAYOUT, header.layout().ok_or("no layout")?).map_err(|e| e.to_string())?;
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() }.map_err(|e| e.to_string())?;

    let manifest = root.manifest()().into_result().map_err(|f| f.message.into_string())?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
    let offer = manifest.services.first().or(manifest.conductors.first()).ok_or("it offers nothing")?;
    root.init()(HostObj::new(host.clone()), b"{}".as_slice().into()).into_result().map_err(|f| f.message.into_string())?;
    let meta = format!(r#"{{"session":"1","type":"t","config":{{}},"seed":"{}","time":0}}"#, "0".repeat(64));
    let created =
        ready(root.create()(offer.name.as_str().into(), HostObj::new(host.clone()), meta.as_bytes().into(), b"".as_slice().into()));
    let mut conductor = created.into_result().map_err(|f| f.message.into_string())?;
    let mut ask = |request: &str| {
        let (method, params) = request.split_once(' ').unwrap_or((request, "null"));
        let request = Event { subject: method.into(), body: params.as_bytes().into(), ..Event::new(event::REQUEST) };
        match ready(conductor.handle(request)) {
            ROk(answer) => String::from_utf8_lossy(&answer).into_owned(),
            RErr(failure) => failure.message.into_string(),
        }
    };
    let answers: Vec<String> = requests.into_iter().map(&mut ask).collect();
    let calls = host.0.lock().expect("no thread panics with it").join(" ");
    Ok(format!("{} more={:?} peek={:?} asked: {calls}", answers.join(" "), root.more().map(|more| more()), conductor.peek()))
}

fn main() {
    for path in std::env::args().skip(1) {
        match load(&path) {
            Ok(answered) => println!("{answered}"),
            Err(refused) => println!("refused: {refused}"),
        }
    }
}
