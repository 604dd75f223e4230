//! What only services are told and may ask.

use serde::{Deserialize, Serialize};

/// What a session has as a conductor, in [`SessionInfo`].
pub mod state {
    /// It is made at the session's first event.
    pub const IDLE: &str = "idle";
    /// It answers.
    pub const LIVE: &str = "live";
    /// It panicked.
    pub const FAULTED: &str = "faulted";
    /// It cannot be had.
    pub const UNAVAILABLE: &str = "unavailable";
    /// It was closed: the session is ending.
    pub const CLOSED: &str = "closed";
}

/// `meta` of the calls of a service that concern one session: [`call::CLIENTS`](super::call::CLIENTS), [`call::CLOSE_SESSION`](super::call::CLOSE_SESSION), [`call::ASK`](super::call::ASK).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionMeta {
    /// Its id.
    pub session: String,
}

/// `meta` of [`call::SESSIONS`](super::call::SESSIONS).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionsMeta {
    /// The id that the page before ended with, whether that session is still there or not; absent for the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The most sessions to answer with; the host may answer with fewer at a time. 0, the default, leaves it to the host.
    #[serde(skip_serializing_if = "super::is_none")]
    pub limit: u32,
}

/// One session in the reply of [`call::SESSIONS`](super::call::SESSIONS).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// When it was made, in milliseconds since the Unix epoch; 0 where that is not known.
    pub created_at: u64,
    /// What it has as a conductor: one of [`state`].
    pub state: String,
    /// How many clients are in it.
    pub clients: u64,
}

/// The reply of [`call::CREATE_SESSION`](super::call::CREATE_SESSION).
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionCreated {
    /// Its id.
    pub id: String,
    /// What devices need to join it. Not for logs.
    pub pin: String,
}

impl std::fmt::Debug for SessionCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCreated").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConductorManifest, EventMeta, Manifest, PublishMeta, call, close, code, event};

    fn json(value: impl Serialize) -> String {
        serde_json::to_string(&value).unwrap()
    }

    /// What these texts mean never changes; a later version adds keys.
    #[test]
    fn the_json_of_services_is_what_it_was() {
        let told = EventMeta { time: 1, session: Some("7".into()), type_name: Some("t".into()), ..EventMeta::default() };
        assert_eq!(json(told), r#"{"time":1,"session":"7","type":"t"}"#);
        assert_eq!(json(PublishMeta::default()), r#"{"qos":0,"retain":false}"#);
        let published = PublishMeta { qos: 1, retain: true, session: Some("7".into()) };
        assert_eq!(json(published), r#"{"qos":1,"retain":true,"session":"7"}"#);
        assert_eq!(json(SessionMeta { session: "7".into() }), r#"{"session":"7"}"#);
        assert_eq!(json(SessionsMeta { after: Some("7".into()), limit: 5 }), r#"{"after":"7","limit":5}"#);
        assert_eq!(json(SessionsMeta::default()), "{}");
        let info = SessionInfo { id: "7".into(), type_name: "t".into(), created_at: 9, state: "live".into(), clients: 2 };
        assert_eq!(json(info), r#"{"id":"7","type":"t","created_at":9,"state":"live","clients":2}"#);
        let created = SessionCreated { id: "7".into(), pin: "1234".into() };
        assert_eq!(json(&created), r#"{"id":"7","pin":"1234"}"#);
        assert!(!format!("{created:?}").contains("1234"));
        assert_eq!(json(Manifest::default()), r#"{"abi":"","sdk":"","conductors":[]}"#);
        let offers = Manifest { services: vec![ConductorManifest::default()], ..Manifest::default() };
        assert!(json(offers).ends_with(r#""conductors":[],"services":[{"name":"","hooks":[],"methods":[],"lazy":false}]}"#));
        let services = [event::SESSION_OPENED, event::SESSION_CLOSED, call::SESSIONS, call::CREATE_SESSION, call::CLOSE_SESSION, call::ASK];
        assert_eq!(services, ["session_opened", "session_closed", "sessions", "create_session", "close_session", "ask"]);
        let states = [state::IDLE, state::LIVE, state::FAULTED, state::UNAVAILABLE, state::CLOSED];
        assert_eq!(states, ["idle", "live", "faulted", "unavailable", "closed"]);
        assert_eq!((close::REPLACED, code::NO_SUCH_SESSION), ("replaced", -32009));
    }
}
