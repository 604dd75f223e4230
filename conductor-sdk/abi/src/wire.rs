//! What travels inside `meta`, `body` and manifests: JSON that may grow, the names of events and calls, and error codes.
//!
//! Rules for every later version: keys are added, never renamed or given another meaning; unknown keys are ignored; a
//! missing key has its type's default (nothing, 0, no) unless another is stated. One struct has keys that are always there, and is not
//! read without them: [`CreateMeta`], of which those that its `new` takes are required; what later versions add to it has a default,
//! too. All structs may get fields, so they are made from their `Default` (or `new`) and then filled.

// Said in full, since fixtures of the tests take this file in by its path.
#[path = "wire/service.rs"]
mod service;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

pub use service::{SessionCreated, SessionInfo, SessionMeta, SessionsMeta, state};

/// Events that the host tells a conductor. One that the conductor does not know is answered [`code::UNSUPPORTED`].
pub mod event {
    /// An administrator asks; `subject` is the method, `body` its parameters as JSON. The reply is JSON.
    pub const REQUEST: &str = "request";
    /// A client sent a message; `subject` is its name (the topic after `/{id}/`), `client` the sender where known, `body`
    /// the payload.
    pub const MESSAGE: &str = "message";
    /// `client` asks to join, or to join again. The reply is a JSON [`JoinReply`](super::JoinReply); no bytes at all, or an answer of
    /// [`code::UNSUPPORTED`](super::code::UNSUPPORTED), mean the same as `{}`. (Told only to conductors whose manifest names the hook,
    /// like all below.)
    pub const JOINING: &str = "joining";
    /// `client` has left for good: it is in the session's list no more. `subject` is the reason, one of [`leave`](super::leave).
    pub const LEFT: &str = "left";
    /// The MQTT connection of `client` came up.
    pub const CONNECTED: &str = "connected";
    /// The last MQTT connection of `client` ended.
    pub const DISCONNECTED: &str = "disconnected";
    /// A timer is due; `subject` is its name, and `meta` says how late it is told.
    pub const TIMER: &str = "timer";
    /// The host's link to the MQTT broker came up or was lost; `subject` is one of [`link`](super::link). Told where the broker
    /// is outside of the host: after the conductor is made if the link is down then, and at each change; the same may be told twice.
    pub const LINK: &str = "link";
    /// The session ends, the host stops, or the session moves to other code; `subject` is the reason, one of [`close`](super::close).
    /// Whatever the reason, it is the last event that this object is told.
    pub const CLOSE: &str = "close";
    /// To a service: a session was opened, by whomever; `meta` has its `session` and `type`.
    pub const SESSION_OPENED: &str = "session_opened";
    /// To a service: a session has closed; `subject` is the reason, one of [`close`](super::close); `meta` has its `session` and `type`.
    pub const SESSION_CLOSED: &str = "session_closed";

    /// All that a service alone may be told; and requests, messages, the link and its close like a conductor.
    pub const OF_SERVICES: &[&str] = &[SESSION_OPENED, SESSION_CLOSED];

    /// All that a conductor may be told.
    pub const ALL: &[&str] = &[REQUEST, MESSAGE, JOINING, LEFT, CONNECTED, DISCONNECTED, TIMER, LINK, CLOSE];
}

/// Reasons of [`event::LEFT`].
pub mod leave {
    /// Its last grant expired.
    pub const EXPIRED: &str = "expired";
    /// It was sent away, by the conductor or an administrator.
    pub const KICKED: &str = "kicked";

    /// All of them.
    pub const ALL: &[&str] = &[EXPIRED, KICKED];
}

/// What a conductor may require of a host: that without which it would do harm rather than less.
pub mod requirement {
    /// To ask it who may join: a host that does not would let everybody in.
    pub const JOINING: &str = "joining";

    /// What this version knows.
    pub const ALL: &[&str] = &[JOINING];
}

/// What [`event::LINK`] says.
pub mod link {
    /// Messages pass.
    pub const UP: &str = "up";
    /// No messages come, and those that are sent wait or fail.
    pub const DOWN: &str = "down";

    /// All of them.
    pub const ALL: &[&str] = &[UP, DOWN];
}

/// Reasons of [`event::CLOSE`].
pub mod close {
    /// An administrator closed the session.
    pub const REQUESTED: &str = "requested";
    /// The conductor closed its session.
    pub const CONDUCTOR: &str = "conductor";
    /// The session's time is over.
    pub const EXPIRED: &str = "expired";
    /// The host stops; the session stays stored.
    pub const HOST_STOPPING: &str = "host_stopping";
    /// A newer build of the plugin takes over: another object goes on in place of this one; for a session, it is made from what was saved last, so
    /// what is to go on is saved before the answer. Then this object's tasks end, its calls are answered [`code::CLOSED`](super::code::CLOSED), and
    /// it is dropped. A session's clients, grants, timers and connections stay.
    pub const REPLACED: &str = "replaced";

    /// All of them.
    pub const ALL: &[&str] = &[REQUESTED, CONDUCTOR, EXPIRED, HOST_STOPPING, REPLACED];
}

/// Events of the library as a whole.
pub mod root {
    /// Is `body` (JSON; `{}` for none) a good config for the conductor or service `subject`? An error of [`super::code::INVALID_CONFIG`] says
    /// what is wrong.
    pub const CHECK_CONFIG: &str = "check_config";
}

/// What a conductor or a service may ask of the host. One that the host does not know, or that is for the other of the two, is answered
/// [`code::UNSUPPORTED`], at the first poll. After a session's (a service's) end, once its conductor is faulted, and by an object that another
/// has replaced, all but [`call::NOW`] are answered [`code::CLOSED`]. A service has [`call::NOW`], [`call::SLEEP`], [`call::PUBLISH`] and
/// [`call::CLIENTS`] (these two with the `session` in `meta`), and those that are said to be for services.
pub mod call {
    /// Send `body` on `/{id}/{subject}`, or with `client` on `/{id}/to/{client}/{subject}`; `meta` is a [`super::PublishMeta`].
    pub const PUBLISH: &str = "publish";
    /// The clients of the session (to a service: of the session that `meta`, a [`super::SessionMeta`], names); the reply is a JSON list of
    /// [`super::ClientInfo`]. To a conductor, about its own session, ready at the first poll; to a service when the host has it.
    pub const CLIENTS: &str = "clients";
    /// The time, as JSON milliseconds since the Unix epoch. Ready at the first poll.
    pub const NOW: &str = "now";
    /// Resolves after `meta`'s [`super::SleepMeta`].
    pub const SLEEP: &str = "sleep";
    /// Keep `body` as the session's state, in place of what was saved before; `meta` is a [`super::SaveMeta`]. Answered when it is
    /// durable; during the creation of a new session, at once, and it is durable with the session. After a restart it is the body of the creation, and `meta` there says so.
    pub const SAVE: &str = "save";
    /// Set the timer `subject`, in place of one of that name; `meta` is a [`super::TimerMeta`]. It survives a restart.
    pub const TIMER: &str = "timer";
    /// Remove the timer `subject`, if there is one.
    pub const CANCEL_TIMER: &str = "cancel_timer";
    /// Replace what `client` may do by the [`super::Grants`] in `body`, at once.
    pub const GRANT: &str = "grant";
    /// Send `client` away: its connections end, its tokens are refused; it may join again. [`event::LEFT`](super::event::LEFT) follows.
    pub const KICK: &str = "kick";
    /// Change who may join, by the [`super::JoinRules`] in `body`.
    pub const JOIN_RULES: &str = "join_rules";
    /// Replace the session's labels, shown to administrators, by the JSON object of texts in `body`.
    pub const LABELS: &str = "labels";
    /// Close this session. Answered as soon as it is accepted: the conductor's own `close` comes after the current event.
    pub const CLOSE: &str = "close";
    /// For services: the sessions that are open, in a fixed order, by pages; `meta` is a [`super::SessionsMeta`], the reply a JSON list of
    /// [`super::SessionInfo`]. An empty list is the end.
    pub const SESSIONS: &str = "sessions";
    /// For services: make a session of the type `subject`; the reply is a JSON [`super::SessionCreated`].
    pub const CREATE_SESSION: &str = "create_session";
    /// For services: close the session that `meta`, a [`super::SessionMeta`], names. Answered when it is gone, its conductor and its
    /// clients' connections included.
    pub const CLOSE_SESSION: &str = "close_session";
    /// For services: ask the conductor of the session that `meta`, a [`super::SessionMeta`], names; `subject` is the method, `body` its
    /// parameters as JSON. The reply is the conductor's; so is an error of zero and above.
    pub const ASK: &str = "ask";

    /// All that a service alone may ask.
    pub const OF_SERVICES: &[&str] = &[SESSIONS, CREATE_SESSION, CLOSE_SESSION, ASK];

    /// All that a conductor may ask.
    pub const ALL: &[&str] = &[PUBLISH, CLIENTS, NOW, SLEEP, SAVE, TIMER, CANCEL_TIMER, GRANT, KICK, JOIN_RULES, LABELS, CLOSE];
}

/// Error codes below zero belong to this contract; zero and above to authors. The three of JSON-RPC 2.0 keep their meaning.
pub mod code {
    /// No such method.
    pub const UNKNOWN_METHOD: i32 = -32601;
    /// The parameters do not fit.
    pub const INVALID_PARAMS: i32 = -32602;
    /// Something inside the SDK or the host went wrong.
    pub const INTERNAL: i32 = -32603;
    /// The other side is older and does not know this kind.
    pub const UNSUPPORTED: i32 = -32001;
    /// The session is closed.
    pub const CLOSED: i32 = -32002;
    /// Too much at once: a mailbox or a limit is full.
    pub const OVERLOADED: i32 = -32003;
    /// What was asked is not allowed or makes no sense (a topic with a wildcard, say).
    pub const REFUSED: i32 = -32004;
    /// The conductor's config does not fit.
    pub const INVALID_CONFIG: i32 = -32005;
    /// The deadline passed.
    pub const DEADLINE: i32 = -32006;
    /// What is needed is down (the broker, the store).
    pub const UNAVAILABLE: i32 = -32007;
    /// The task was cancelled.
    pub const CANCELLED: i32 = -32008;
    /// A service named a session that is not there, or not any more.
    pub const NO_SUCH_SESSION: i32 = -32009;
    /// The conductor's code panicked; the host treats it as faulted. Only a plugin answers this: what goes wrong in the host
    /// behind a call is [`INTERNAL`].
    pub const PANIC: i32 = -32099;
}

/// What a plugin offers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of the contract that it was built with.
    pub abi: String,
    /// Name and version of the SDK that it was built with.
    pub sdk: String,
    /// What it can conduct.
    pub conductors: Vec<ConductorManifest>,
    /// Which services it has: app-wide objects without a session, made by the same `create` and told by the same `handle`. `lazy` means
    /// nothing here. No name is there twice, those of the conductors included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ConductorManifest>,
    /// Keys of later versions.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// One conductor, or one service, of a plugin.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConductorManifest {
    /// The name that settings use.
    pub name: String,
    /// The events it wants beside requests, by their names in [`event`]; others are not told.
    pub hooks: Vec<String>,
    /// What it answers.
    pub methods: Vec<MethodManifest>,
    /// Whether it may answer others, too: which, nobody can tell beforehand.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_methods: bool,
    /// JSON Schema of its config; absent means unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Whether it may be made as late as at its session's first event.
    pub lazy: bool,
    /// What the host must be able to do for it, by the names in [`requirement`]; a host that does not know one refuses the conductor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Keys of later versions.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// One method of a conductor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MethodManifest {
    /// Its name.
    pub name: String,
    /// JSON Schema of its parameters; absent means unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// JSON Schema of its result; absent means unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Keys of later versions.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// `meta` of a creation.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CreateMeta {
    /// The session's id; empty for a service.
    pub session: String,
    /// The session's type, as the settings name it; for a service, its own name in the settings.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The type's `config`. Where the settings have none, the two bytes `{}` and nothing else, for ever, here and in
    /// [`root::CHECK_CONFIG`]: an SDK of 1.0 compares the text where a conductor takes no config.
    pub config: Box<RawValue>,
    /// 64 hexadecimal digits: the seed of the session's randomness, which an SDK feeds into xoshiro256++ as its 32 bytes of
    /// state. That never changes, so that a session can be played again.
    pub seed: String,
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    /// Whether the body holds saved state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restoring: bool,
    /// The version that was given with that state.
    #[serde(default, skip_serializing_if = "is_none")]
    pub state_version: u32,
    /// Who asked for the session, where it is new and somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerMeta>,
}

impl CreateMeta {
    /// What every creation has; the rest is absent.
    #[must_use]
    pub fn new(session: String, type_name: String, config: Box<RawValue>, seed: String, time: u64) -> Self {
        Self { session, type_name, config, seed, time, restoring: false, state_version: 0, caller: None }
    }
}

/// `meta` of an event.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EventMeta {
    /// Milliseconds since the Unix epoch: when it happened.
    pub time: u64,
    /// Milliseconds that are left until the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerMeta>,
    /// MQTT quality of service of a message.
    #[serde(skip_serializing_if = "is_zero")]
    pub qos: u8,
    /// Whether a message was sent to be retained.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// Whether a message is a last will.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub will: bool,
    /// Of a timer: how many milliseconds after it was due it is told.
    #[serde(skip_serializing_if = "is_no_time")]
    pub late: u64,
    /// To a service, of a message and of a session's beginning and end: which session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// To a service, of a session's beginning and end: its type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_no_time(millis: &u64) -> bool {
    *millis == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(version: &u32) -> bool {
    *version == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(qos: &u8) -> bool {
    *qos == 0
}

/// Who is behind an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CallerMeta {
    /// `admin`, `iot`, or `host` for the host itself.
    pub port: String,
    /// Address and port of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Who that is, where the port knows; `service:NAME` for a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

/// `meta` of [`call::PUBLISH`]; no bytes at all mean the defaults. A [`SessionMeta`] may be in the same object: a service must say in which
/// session it publishes, and a conductor may name its own alone.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PublishMeta {
    /// MQTT quality of service, 0 to 2; 0 by default.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// `meta` of [`call::SLEEP`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SleepMeta {
    /// How long, in microseconds.
    pub micros: u64,
}

/// `meta` of [`call::SAVE`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SaveMeta {
    /// Of the author's choosing: what the bytes look like.
    pub version: u32,
}

/// `meta` of [`call::TIMER`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TimerMeta {
    /// When it is first due, in milliseconds from now.
    pub after: u64,
    /// Where it repeats: the time from one due time to the next, in milliseconds. Absent: it fires once. Of due times that pass
    /// while it cannot be told, one is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
}

/// What a client may do in its session. (No later version adds a key that narrows this: an older host would not know it, and grant too much.
/// Such a thing comes as a call or a [`requirement`] of its own.) MQTT topic filters without the leading `/{id}/`, so `#` is everything in the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Grants {
    /// What it may subscribe; absent means everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
    /// What it may publish; absent means everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
}

/// The reply of [`event::JOINING`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct JoinReply {
    /// Why it may not join; absent means that it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse: Option<String>,
    /// What it may do then; absent means what it could before, which is everything for one that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grants>,
}

/// Who may join, for [`call::JOIN_RULES`]. What is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct JoinRules {
    /// Whether nobody new may join. Who is in the session may join again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// How many clients may be in the session at once, 4294967295 being no limit; those that are too many already stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients: Option<u32>,
}

/// `meta` of a spawn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SpawnMeta {
    /// For the log; may be empty.
    pub name: String,
}

/// One client in the reply of [`call::CLIENTS`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The name it joined with.
    pub client_id: String,
    /// When its grant ends, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// `data` of a [`Failure`](crate::contract::Failure) with [`code::PANIC`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PanicData {
    /// `file:line:column`, where it is known.
    pub location: String,
}

#[cfg(test)]
mod names;
