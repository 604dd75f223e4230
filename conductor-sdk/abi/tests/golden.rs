//! All names, numbers and JSON texts of the contract, as every 1.x has them. A later version adds lines here and changes none.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is how to fail")]

use conductor_abi::wire::{
    CallerMeta, ClientInfo, ConductorManifest, CreateMeta, EventMeta, Grants, JoinReply, JoinRules, Manifest, MethodManifest, PanicData,
    PublishMeta, SaveMeta, SessionCreated, SessionInfo, SessionMeta, SessionsMeta, SleepMeta, SpawnMeta, TimerMeta, call, close, code,
    event, leave, link, requirement, root, state,
};
use serde::{Serialize, de::DeserializeOwned};

#[test]
fn the_names_are_what_they_were() {
    assert_eq!(
        [event::REQUEST, event::MESSAGE, event::JOINING, event::LEFT, event::CONNECTED, event::DISCONNECTED, event::TIMER, event::LINK],
        ["request", "message", "joining", "left", "connected", "disconnected", "timer", "link"]
    );
    assert_eq!([event::CLOSE, event::SESSION_OPENED, event::SESSION_CLOSED], ["close", "session_opened", "session_closed"]);
    assert_eq!(
        [call::PUBLISH, call::CLIENTS, call::NOW, call::SLEEP, call::SAVE, call::TIMER, call::CANCEL_TIMER, call::GRANT, call::KICK],
        ["publish", "clients", "now", "sleep", "save", "timer", "cancel_timer", "grant", "kick"]
    );
    assert_eq!([call::JOIN_RULES, call::LABELS, call::CLOSE], ["join_rules", "labels", "close"]);
    let of_services = [call::SESSIONS, call::CREATE_SESSION, call::CLOSE_SESSION, call::ASK];
    assert_eq!(of_services, ["sessions", "create_session", "close_session", "ask"]);
    let states = [state::IDLE, state::LIVE, state::FAULTED, state::UNAVAILABLE, state::CLOSED];
    assert_eq!(states, ["idle", "live", "faulted", "unavailable", "closed"]);
    assert_eq!([leave::EXPIRED, leave::KICKED, link::UP, link::DOWN], ["expired", "kicked", "up", "down"]);
    assert_eq!(
        [close::REQUESTED, close::CONDUCTOR, close::EXPIRED, close::HOST_STOPPING, close::REPLACED],
        ["requested", "conductor", "expired", "host_stopping", "replaced"]
    );
    assert_eq!([root::CHECK_CONFIG, requirement::JOINING], ["check_config", "joining"]);
    assert!(requirement::ALL.contains(&requirement::JOINING));
    assert_eq!([conductor_abi::ENTRY_SYMBOL, conductor_abi::ENTRY_SYMBOL_PREFIX], ["conductor_host_plugin_v1", "conductor_host_plugin_v"]);
}

#[test]
fn the_codes_are_what_they_were() {
    assert_eq!([code::UNKNOWN_METHOD, code::INVALID_PARAMS, code::INTERNAL], [-32601, -32602, -32603]);
    assert_eq!(
        [code::UNSUPPORTED, code::CLOSED, code::OVERLOADED, code::REFUSED, code::INVALID_CONFIG, code::DEADLINE, code::UNAVAILABLE],
        [-32001, -32002, -32003, -32004, -32005, -32006, -32007]
    );
    assert_eq!([code::CANCELLED, code::NO_SUCH_SESSION, code::PANIC], [-32008, -32009, -32099]);
}

/// The text is read, with keys of a later version in it, and written again without them.
fn keeps<T: Serialize + DeserializeOwned>(text: &str) {
    let later = text.replacen('{', r#"{"of_a_later_version":[{}],"#, 1).replace(",}", "}");
    for text in [text, &later] {
        let read: T = serde_json::from_str(text).unwrap();
        let mut written: serde_json::Value = serde_json::to_value(read).unwrap();
        // A manifest carries what it does not know.
        written.as_object_mut().unwrap().remove("of_a_later_version");
        assert_eq!(written.to_string(), text.replace(r#""of_a_later_version":[{}],"#, "").replace(r#""of_a_later_version":[{}]"#, ""));
    }
}

#[test]
fn every_text_is_read_and_written_as_it_was_and_what_is_new_is_passed_over() {
    keeps::<EventMeta>(
        r#"{"time":1,"deadline":2,"caller":{"port":"admin","peer":"a:1","principal":"p"},"qos":1,"retain":true,"will":true,"late":3}"#,
    );
    keeps::<EventMeta>(r#"{"time":1,"session":"7","type":"t"}"#);
    keeps::<CreateMeta>(
        r#"{"session":"1","type":"t","config":{"a":1},"seed":"5e","time":9,"restoring":true,"state_version":4,"caller":{"port":"host"}}"#,
    );
    keeps::<CallerMeta>(r#"{"port":"iot","peer":"b:2"}"#);
    keeps::<PublishMeta>(r#"{"qos":2,"retain":true}"#);
    // Of a service, both in one.
    let placed = r#"{"qos":1,"retain":true,"session":"7"}"#;
    let (how, place): (PublishMeta, SessionMeta) = (serde_json::from_str(placed).unwrap(), serde_json::from_str(placed).unwrap());
    assert_eq!((how.qos, how.retain, place.session.as_str()), (1, true, "7"));
    keeps::<SessionMeta>(r#"{"session":"7"}"#);
    keeps::<SessionsMeta>(r#"{"after":"7","limit":5}"#);
    keeps::<SessionInfo>(r#"{"id":"7","type":"t","created_at":9,"state":"live","clients":2}"#);
    keeps::<SessionCreated>(r#"{"id":"7","pin":"1234"}"#);
    keeps::<SleepMeta>(r#"{"micros":5}"#);
    keeps::<SaveMeta>(r#"{"version":3}"#);
    keeps::<TimerMeta>(r#"{"after":5,"every":10}"#);
    keeps::<Grants>(r##"{"subscribe":["#"],"publish":[]}"##);
    keeps::<JoinReply>(r#"{"refuse":"no","grants":{"publish":["a"]}}"#);
    keeps::<JoinRules>(r#"{"locked":true,"max_clients":2}"#);
    keeps::<SpawnMeta>(r#"{"name":"n"}"#);
    keeps::<ClientInfo>(r#"{"client_id":"ann","expires_at":7}"#);
    keeps::<PanicData>(r#"{"location":"a.rs:1:2"}"#);
    keeps::<MethodManifest>(r#"{"name":"m","params":{},"result":true}"#);
    keeps::<ConductorManifest>(r#"{"name":"c","hooks":["joining"],"methods":[],"config":{},"lazy":true,"requires":["joining"]}"#);
    keeps::<ConductorManifest>(r#"{"name":"c","hooks":[],"methods":[],"other_methods":true,"lazy":false}"#);
    keeps::<Manifest>(r#"{"abi":"1.0.0","sdk":"s","conductors":[]}"#);
    keeps::<Manifest>(r#"{"abi":"1.0.0","sdk":"s","conductors":[],"services":[{"name":"s","hooks":[],"methods":[],"lazy":false}]}"#);
}

#[test]
fn what_is_missing_has_its_default() {
    fn of_nothing<T: DeserializeOwned + Serialize>() -> String {
        serde_json::to_string(&serde_json::from_str::<T>("{}").unwrap()).unwrap()
    }
    assert_eq!(of_nothing::<EventMeta>(), r#"{"time":0}"#);
    assert_eq!(of_nothing::<PublishMeta>(), r#"{"qos":0,"retain":false}"#);
    assert_eq!(of_nothing::<SessionsMeta>(), "{}");
    assert_eq!(of_nothing::<SessionInfo>(), r#"{"id":"","type":"","created_at":0,"state":"","clients":0}"#);
    assert_eq!([of_nothing::<SaveMeta>(), of_nothing::<TimerMeta>()], [r#"{"version":0}"#, r#"{"after":0}"#]);
    assert_eq!([of_nothing::<Grants>(), of_nothing::<JoinReply>(), of_nothing::<JoinRules>()], ["{}", "{}", "{}"]);
    assert_eq!(of_nothing::<Manifest>(), r#"{"abi":"","sdk":"","conductors":[]}"#);
    assert_eq!(of_nothing::<ConductorManifest>(), r#"{"name":"","hooks":[],"methods":[],"lazy":false}"#);
    let meta: CreateMeta = serde_json::from_str(r#"{"session":"1","type":"t","config":{},"seed":"5e","time":9}"#).unwrap();
    assert!(!meta.restoring && meta.state_version == 0 && meta.caller.is_none());
    for key in ["session", "type", "config", "seed", "time"] {
        let mut short = serde_json::to_value(&meta).unwrap();
        assert!(short.as_object_mut().unwrap().remove(key).is_some());
        let text = short.to_string();
        assert!(serde_json::from_str::<CreateMeta>(&text).is_err(), "{text}");
    }
}

#[test]
fn a_pin_is_not_shown() {
    let created: SessionCreated = serde_json::from_str(r#"{"id":"7","pin":"1234"}"#).unwrap();
    assert!(!format!("{created:?}").contains("1234"));
}
