//! The conductor `raw` of the black-box tests: speaks the binary contract without the SDK, so that it can say what the SDK never would.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use conductor_abi::{
    abi_stable::{
        library::LibHeader,
        std_types::{RErr, ROk},
    },
    async_ffi::{BorrowingFfiFuture, FutureExt},
    contract::{ConductorObj, ConductorObject, Created, Event, Failure, HostObj, PluginEntry, Reply, header},
    wire::{call, code, event, root},
};

/// How the next join is answered.
static JOIN: Mutex<Option<Reply>> = Mutex::new(None);

struct Raw(Arc<HostObj>);

impl ConductorObject for Raw {
    fn handle<'a>(&'a mut self, event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async move {
            match event.kind.as_str() {
                event::REQUEST => self.request(event.subject.as_str(), event.body.as_slice()).await,
                event::JOINING => match JOIN.lock().map(|mut join| join.take()) {
                    Ok(Some(reply)) => reply,
                    _ => unsupported(event.kind.as_str()),
                },
                other => unsupported(other),
            }
        }
        .into_ffi()
    }
}

/// What a plugin says whose SDK is older than the event.
fn unsupported(kind: &str) -> Reply {
    RErr(Failure::new(code::UNSUPPORTED, format!("what is {kind:?}?")))
}

fn bytes(bytes: impl Into<Vec<u8>>) -> Reply {
    ROk(bytes.into().into())
}

/// 100 MB, the first of them JSON.
fn huge() -> Vec<u8> {
    vec![b' '; 100 << 20]
}

impl Raw {
    async fn request(&self, method: &str, params: &[u8]) -> Reply {
        match method {
            "fine" => bytes("\"fine\""),
            "huge" => bytes(huge()),
            "not_utf8" => bytes(*b"\"\xff\xfe\""),
            "not_json" => bytes("{\"a\":"),
            "two_values" => bytes("1 2"),
            "nothing" => bytes(""),
            "deep" => bytes("[".repeat(1 << 20)),
            "unknown_code" => RErr(Failure::new(-31_999, "of a later version")),
            "garbage_data" => RErr(Failure { data: b"{\xff".to_vec().into(), ..Failure::new(1, "with garbage") }),
            "huge_data" => RErr(Failure { data: huge().into(), ..Failure::new(1, "with much") }),
            "huge_message" => RErr(Failure::new(1, "x".repeat(100 << 20))),
            "huge_panic" => RErr(Failure::new(code::PANIC, "x".repeat(100 << 20))),
            "huge_line" => {
                self.0.log(3, "raw", &"x".repeat(1 << 20), b"\xff\xfe");
                bytes("null")
            }
            "next_join" => {
                let reply = match params {
                    b"\"huge\"" => bytes(huge()),
                    b"\"garbage\"" => bytes("{"),
                    b"\"not_utf8\"" => bytes(*b"{\"refuse\":\"\xff\"}"),
                    b"\"wrong_type\"" => bytes(r#"{"refuse":5}"#),
                    b"\"elsewhere\"" => bytes(r##"{"grants":{"subscribe":["/#"],"publish":["a","../b","#/c"]}}"##),
                    b"\"long_refusal\"" => bytes(format!("{{\"refuse\":\"{}\"}}", "x".repeat(1 << 20))),
                    _ => unsupported("joining"),
                };
                if let Ok(mut join) = JOIN.lock() {
                    *join = Some(reply);
                }
                bytes("null")
            }
            // A thread that lives on after the session, and speaks in its name.
            "outlive" => {
                let host = self.0.clone();
                thread::spawn(move || outlive(&host));
                bytes("null")
            }
            // The code of the host's answer to each.
            "calls" => {
                let mut answers = Vec::new();
                for (kind, subject, meta, body) in calls() {
                    let call = Event {
                        kind: kind.into(),
                        subject: subject.as_str().into(),
                        client: "".into(),
                        meta: meta.into(),
                        body: body.into(),
                    };
                    let answer = match self.0.call(call).await {
                        ROk(_) => 0,
                        RErr(failure) => failure.code,
                    };
                    answers.push(answer.to_string());
                }
                bytes(format!("[{}]", answers.join(",")))
            }
            "publish" => {
                let name = String::from_utf8_lossy(params);
                let call = Event { subject: name.trim_matches('"').into(), ..Event::new("publish") };
                match self.0.call(call).await {
                    ROk(_) => bytes("null"),
                    error => error,
                }
            }
            other => RErr(Failure::new(code::UNKNOWN_METHOD, format!("what is {other:?}?"))),
        }
    }
}

/// The code of an answer that is there at once; 0 for none.
fn code_of(host: &HostObj, kind: &str) -> i32 {
    let answer = pin!(host.call(Event { subject: "late".into(), ..Event::new(kind) }));
    match answer.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(RErr(failure)) => failure.code,
        Poll::Ready(ROk(_)) | Poll::Pending => 0,
    }
}

fn outlive(host: &HostObj) {
    while code_of(host, call::CLIENTS) != code::CLOSED {
        thread::sleep(Duration::from_millis(2));
    }
    let kinds =
        [call::PUBLISH, call::SAVE, call::TIMER, call::CANCEL_TIMER, call::GRANT, call::KICK, call::LABELS, call::SLEEP, call::CLOSE];
    let codes: Vec<i32> = kinds.into_iter().map(|kind| code_of(host, kind)).collect();
    let task = host.spawn(b"", async { bytes("") }.into_ffi()).map_err(|failure| failure.code);
    let now = code_of(host, call::NOW);
    host.log(1, "raw", &format!("after the end: {codes:?}, a task {task:?}, the time {now}"), b"");
}

/// Calls that no host should take: kind, subject, meta, body.
fn calls() -> Vec<(&'static str, String, &'static [u8], &'static [u8])> {
    vec![
        ("no_such_call", String::new(), b"", b""),
        ("", String::new(), b"", b""),
        ("publish", "x".repeat(70_000), b"", b""),
        ("publish", "a".into(), b"{", b""),
        ("publish", "a".into(), b"\xff", b""),
        ("publish", "a".into(), br#"{"qos":9}"#, b""),
        ("sleep", String::new(), br#"{"micros":-1}"#, b""),
        ("timer", "x".repeat(1 << 20), br#"{"after":1}"#, b""),
        ("timer", "t".into(), br#"{"after":18446744073709551615,"every":0}"#, b""),
        ("labels", String::new(), b"", b"\xff"),
        ("grant", String::new(), b"", b"[]"),
        ("kick", "nobody".into(), b"", b""),
        ("join_rules", String::new(), b"", br#"{"max_clients":-1}"#),
    ]
}

struct Plugin;

impl PluginEntry for Plugin {
    fn manifest() -> Reply {
        bytes(
            r#"{"abi":"1.0.0","sdk":"none","conductors":[
              {"name":"raw","hooks":["joining","left","connected","disconnected","message","timer","close","of_a_later_version"]}]}"#,
        )
    }

    fn init(_: HostObj, _: &[u8]) -> Reply {
        bytes("")
    }

    fn handle<'a>(event: Event<'a>) -> BorrowingFfiFuture<'a, Reply> {
        async move { if event.kind == root::CHECK_CONFIG { bytes("") } else { unsupported(event.kind.as_str()) } }.into_ffi()
    }

    fn create<'a>(_: &'a str, host: HostObj, _: &'a [u8], _: &'a [u8]) -> BorrowingFfiFuture<'a, Created> {
        async { ROk(ConductorObj::new(Raw(Arc::new(host)))) }.into_ffi()
    }

    fn set_log_level(_: u8) {}
}

/// What the host looks for in the file.
#[expect(unsafe_code, reason = "the entry of a plugin is a symbol of this name")]
#[unsafe(no_mangle)]
pub static conductor_host_plugin_v1: LibHeader = header::<Plugin>();
