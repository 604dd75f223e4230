//! What the service is told: the body of a POST.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use conductor_sdk::serde_json::value::RawValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The session is made. Where the service does not answer, it is not.
    Create,
    /// The host was started again.
    Restore,
    /// A client asks to join.
    Joining,
    Left,
    Connected,
    Disconnected,
    Message,
    Timer,
    /// The way to a broker outside of the host came up or was lost.
    Link,
    Close,
    /// An administrator asks for a method. Always told.
    Request,
}

impl Kind {
    /// Whether it may be told again where the service may have heard it already. Its id says so to the service; who asked for a method may do
    /// that better.
    pub(crate) fn is_repeated(self) -> bool {
        self != Self::Request
    }
}

/// Keys are added in later versions, never renamed.
#[derive(Serialize)]
pub(crate) struct Event<'a> {
    pub(crate) id: &'a str,
    pub(crate) event: Kind,
    pub(crate) session: Place<'a>,
    /// Milliseconds since the Unix epoch.
    pub(crate) time: u128,
    pub(crate) clients: Vec<String>,
    pub(crate) state: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) payload: Option<Payload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) will: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) late_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<&'a RawValue>,
}

impl Default for Event<'_> {
    /// What all have in common is filled in when it is told.
    fn default() -> Self {
        Self {
            id: "",
            event: Kind::Request,
            session: Place { id: "", kind: "" },
            time: 0,
            clients: Vec::new(),
            state: RawValue::NULL,
            client: None,
            peer: None,
            name: None,
            payload: None,
            qos: None,
            retain: None,
            will: None,
            late_ms: None,
            reason: None,
            method: None,
            params: None,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Place<'a> {
    pub(crate) id: &'a str,
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
}

/// Bytes in JSON.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payload<'a> {
    /// UTF-8.
    Payload(&'a str),
    /// Any other, in base64.
    PayloadBase64(String),
}

impl<'a> Payload<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Payload(text),
            Err(_) => Self::PayloadBase64(STANDARD.encode(bytes)),
        }
    }
}
