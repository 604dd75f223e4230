//! What a conductor may ask for, decided in one place: the host and the SDK's test kit both go by it, so that what passes in a test
//! passes in a session. Each function's error is a sentence for the author, to go with [`code::REFUSED`](crate::wire::code::REFUSED).

use std::{collections::BTreeMap, time::Duration};

use crate::wire::{Grants, TimerMeta};

/// The most bytes of saved state, where the host's settings say nothing else.
pub const MAX_STATE: usize = 1 << 20;
/// The most timers of one session.
pub const MAX_TIMERS: usize = 1024;
/// The longest name of a timer, in bytes.
pub const MAX_TIMER_NAME: usize = 128;
/// The shortest period of a timer, in milliseconds.
pub const MIN_PERIOD: u64 = 10;
/// The longest delay and period of a timer, in milliseconds: ten years.
pub const MAX_DELAY: u64 = 10 * 366 * 86_400 * 1000;
/// The most labels of one session.
pub const MAX_LABELS: usize = 16;
/// The longest label, name and value each, in bytes.
pub const MAX_LABEL: usize = 256;
/// The most topic filters in each of a client's two lists.
pub const MAX_FILTERS: usize = 64;
/// The longest of them, in bytes.
pub const MAX_FILTER: usize = 1024;

/// The most bytes of one message, where the broker is in the host.
pub const MAX_PAYLOAD: usize = 256 << 10;
/// The most bytes that a conductor may answer.
pub const MAX_REPLY: usize = 16 << 20;
/// Tasks that one session may have at a time.
pub const MAX_TASKS: usize = 10_000;
/// How long an event may take, where the host's settings say nothing else.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long the last event may take, with the drops behind it.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a join is good for, where the host's settings say nothing else.
pub const GRANT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest name of a client, in characters.
pub const MAX_CLIENT: usize = 64;
/// The longest name of a client, in bytes.
pub const MAX_CLIENT_BYTES: usize = 128;
/// The name under which the host itself speaks at brokers.
pub const LINK_NAME: &str = "iotserver";

/// Said of an event whose deadline passed.
pub const GIVEN_UP: &str = "the session's conductor did not answer within its deadline";
/// Said of a join that is new while nobody new may.
pub const LOCKED: &str = "the session is locked";
/// Said of a join that is new while there are as many clients as may be.
pub const FULL: &str = "the session is full";
/// Said of a call after the end.
pub const CLOSED: &str = "the session is closed";
/// Said where a session cannot be closed by its conductor.
pub const NOT_CLOSABLE: &str = "the session is being closed, or not made yet";
/// Said of a change of a session that is in the store no more.
pub const NOT_STORED: &str = "there is no such session";
/// Said of what needs a running host, while it stops.
pub const STOPPING: &str = "the host is stopping";

/// Said of a task beyond [`MAX_TASKS`], with [`code::OVERLOADED`](crate::wire::code::OVERLOADED).
pub const TOO_MANY_TASKS: &str = "a session has at most 10000 tasks at a time";

/// Can a client have this name? (The widest rule of those by which a host lets clients join: each way in may allow less.)
///
/// # Errors
/// Why not.
pub fn client(name: &str) -> Result<(), String> {
    let printable = |c: char| !c.is_control() && !"+#/$\\".contains(c) && !is_invisible(c);
    let fits = (1..=MAX_CLIENT).contains(&name.chars().count()) && name.len() <= MAX_CLIENT_BYTES;
    if !fits || !name.chars().all(printable) || name.trim().is_empty() {
        return Err(format!(
            "a client's name has 1 to {MAX_CLIENT} visible characters, in {MAX_CLIENT_BYTES} bytes at most and none of + # / $ \\; {name:?} has not"
        ));
    }
    if is_reserved(name) {
        return Err(format!("no client can be called {name:?}: that is the server's own name"));
    }
    Ok(())
}

/// Whether the host itself speaks under this name at brokers: no client may have it.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.eq_ignore_ascii_case(LINK_NAME)
}

/// Not printable, though no control characters: separators of lines, characters that steer the direction of text, and other
/// characters of format (Unicode's category Cf) but for the two joiners, which Persian, Indic scripts and emoji need.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}' | '\u{8E2}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}'
            | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF0}'..='\u{FFFB}' | '\u{FFFE}' | '\u{FFFF}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Can a type of session, or a service, be called so in the settings: 1 to 64 of `[A-Za-z0-9_.-]`?
#[must_use]
pub fn is_settings_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Can a conductor answer this many bytes?
///
/// # Errors
/// Why not, to go with [`code::INTERNAL`](crate::wire::code::INTERNAL).
pub fn reply(bytes: usize) -> Result<(), String> {
    if bytes > MAX_REPLY {
        return Err(format!("the conductor answered {bytes} bytes; at most {MAX_REPLY} are passed on"));
    }
    Ok(())
}

/// Can a message have this many bytes, where the broker takes `most`?
///
/// # Errors
/// Why not.
pub fn payload(bytes: usize, most: usize) -> Result<(), String> {
    if bytes > most {
        return Err(format!("a message of {bytes} bytes is longer than {most}"));
    }
    Ok(())
}

/// May a client that is granted these filters (nothing is everything in its session) publish under this name?
#[must_use]
pub fn may_publish(filters: Option<&[String]>, name: &str) -> bool {
    let is_name = !name.contains(['+', '#', '\0']);
    is_name && filters.is_none_or(|filters| filters.iter().any(|filter| covers(filter, name)))
}

fn covers(filter: &str, name: &str) -> bool {
    let mut names = name.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            (_, None) => return false,
            ("#", Some(_)) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Can a message be sent under this name, with this quality of service?
///
/// # Errors
/// Why not.
pub fn publish(name: &str, qos: u8) -> Result<(), String> {
    if name.is_empty() || name.contains(['+', '#', '\0']) || qos > 2 {
        return Err(format!("{name:?} with QoS {qos} cannot be published"));
    }
    Ok(())
}

/// Can this be saved, where `most` bytes are allowed?
///
/// # Errors
/// Why not.
pub fn state(bytes: usize, most: usize) -> Result<(), String> {
    if bytes > most {
        return Err(format!("a state of {bytes} bytes is larger than the {most} that are kept"));
    }
    Ok(())
}

/// Can this timer be set beside `others` (not counting one of the same name)?
///
/// # Errors
/// Why not.
pub fn timer(name: &str, timer: &TimerMeta, others: usize) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_TIMER_NAME {
        return Err(format!("a timer's name has 1 to {MAX_TIMER_NAME} bytes, and {name:?} has {}", name.len()));
    }
    if others >= MAX_TIMERS {
        return Err(format!("a session has at most {MAX_TIMERS} timers"));
    }
    if timer.every.is_some_and(|every| every < MIN_PERIOD) {
        return Err(format!("timer {name:?}: the period must be {MIN_PERIOD} ms at least"));
    }
    if timer.after.max(timer.every.unwrap_or(0)) > MAX_DELAY {
        return Err(format!("timer {name:?}: more than ten years ahead"));
    }
    Ok(())
}

/// Can a session have these labels?
///
/// # Errors
/// Why not.
pub fn labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("{} labels, where a session has at most {MAX_LABELS}", labels.len()));
    }
    match labels.iter().find(|(name, value)| name.is_empty() || name.len().max(value.len()) > MAX_LABEL) {
        Some((name, _)) => Err(format!("label {name:?}: a name has 1 to {MAX_LABEL} bytes, a value up to {MAX_LABEL}")),
        None => Ok(()),
    }
}

/// Are these lists of names that a client can be granted?
///
/// # Errors
/// Why not.
pub fn grants(grants: &Grants) -> Result<(), String> {
    for (side, list) in [("subscribe", &grants.subscribe), ("publish", &grants.publish)] {
        let Some(list) = list else { continue };
        if list.len() > MAX_FILTERS {
            return Err(format!("{side}: {} names, where at most {MAX_FILTERS} are kept", list.len()));
        }
        if let Some(wrong) = list.iter().find(|filter| !is_filter(filter)) {
            return Err(format!(
                "{side}: {wrong:?} is no name or topic filter within a session (no `/` in front, `+` and `#` alone in their level, `#` at the end)"
            ));
        }
    }
    Ok(())
}

/// A filter below `/{id}/`: MQTT's rules, and nothing that could be taken for a path from the top.
fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let wildcards_alone = levels.iter().enumerate().all(|(at, level)| match *level {
        "#" => at + 1 == levels.len(),
        "+" => true,
        level => !level.contains(['+', '#']),
    });
    (1..=MAX_FILTER).contains(&filter.len()) && !filter.starts_with('/') && !filter.contains('\0') && wildcards_alone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer_of(after: u64, every: Option<u64>) -> TimerMeta {
        TimerMeta { after, every }
    }

    #[test]
    fn names_and_qualities_of_messages() {
        assert!(publish("a/b", 2).is_ok() && publish("ä $", 0).is_ok());
        for (name, qos) in [("", 0), ("a/+", 0), ("#", 0), ("a\0", 0), ("a", 3)] {
            assert!(publish(name, qos).is_err(), "{name:?} {qos}");
        }
    }

    #[test]
    fn client_names_of_any_script_and_nothing_that_means_something_in_a_topic() {
        for name in ["a", "späce unit", "客户端", "می\u{200c}خواهم", "👩\u{200d}🚀", &"x".repeat(64)] {
            assert_eq!(client(name), Ok(()), "{name}");
        }
        let (long, wide) = ("x".repeat(65), "客".repeat(43));
        let without_sense = ["", " ", "a/b", "a+", "#", "$x", "a\\b", "a\nb", "a\0", "a\u{7f}", &long, &wide];
        let invisible = ["a\u{202e}b", "a\u{61c}b", "a\u{ad}b", "a\u{2028}b", "\u{e0041}"];
        for name in without_sense.into_iter().chain(invisible).chain(["iotserver", "IoTServer"]) {
            assert!(client(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_in_settings_are_short_and_plain() {
        let longest = "x".repeat(64);
        for name in ["a", "A-b_c.9", &longest] {
            assert!(is_settings_name(name), "{name}");
        }
        let longer = format!("{longest}x");
        for name in ["", "a b", "ä", "a/b", &longer] {
            assert!(!is_settings_name(name), "{name:?}");
        }
    }

    #[test]
    fn limits_are_met_and_not_passed() {
        assert!(state(MAX_STATE, MAX_STATE).is_ok() && state(MAX_STATE + 1, MAX_STATE).is_err());
        let name = "n".repeat(MAX_TIMER_NAME);
        assert!(timer(&name, &timer_of(0, None), MAX_TIMERS - 1).is_ok());
        assert!(timer(&name, &timer_of(0, None), MAX_TIMERS).is_err());
        assert!(timer(&format!("{name}n"), &timer_of(0, None), 0).is_err() && timer("", &timer_of(0, None), 0).is_err());
        assert!(timer("t", &timer_of(0, Some(MIN_PERIOD)), 0).is_ok() && timer("t", &timer_of(0, Some(MIN_PERIOD - 1)), 0).is_err());
        assert!(timer("t", &timer_of(MAX_DELAY, Some(MAX_DELAY)), 0).is_ok());
        assert!(timer("t", &timer_of(MAX_DELAY + 1, None), 0).is_err() && timer("t", &timer_of(0, Some(MAX_DELAY + 1)), 0).is_err());
        let many = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect::<BTreeMap<_, _>>();
        assert!(labels(&many(MAX_LABELS)).is_ok() && labels(&many(MAX_LABELS + 1)).is_err());
        let long = "x".repeat(MAX_LABEL + 1);
        for (name, value) in [("", "x"), (&long, ""), ("x", &long)] {
            assert!(labels(&BTreeMap::from([(name.to_owned(), value.to_owned())])).is_err());
        }
    }

    #[test]
    fn what_is_large_has_a_limit() {
        assert!(TOO_MANY_TASKS.contains(&MAX_TASKS.to_string()));
        assert!(reply(MAX_REPLY).is_ok() && reply(MAX_REPLY + 1).is_err());
        assert!(payload(MAX_PAYLOAD, MAX_PAYLOAD).is_ok() && payload(MAX_PAYLOAD + 1, MAX_PAYLOAD).is_err());
    }

    #[test]
    fn filters_stay_within_the_session() {
        let one = |filter: &str| grants(&Grants { subscribe: Some(vec![filter.to_owned()]), publish: None });
        for good in ["#", "+", "a", "a/b", "a/+/c", "a/#", "+/#", "$x", "a//b", "späce unit"] {
            assert!(one(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/", "/a", "/#", "#/a", "a#", "a+/b", "a/#/b", "a\0", &"x".repeat(MAX_FILTER + 1)] {
            assert!(one(bad).is_err(), "{bad:?}");
        }
        let many = |count| Grants { subscribe: None, publish: Some(vec!["a".to_owned(); count]) };
        assert!(grants(&many(MAX_FILTERS)).is_ok() && grants(&many(MAX_FILTERS + 1)).is_err());
        assert!(grants(&Grants::default()).is_ok());
    }
}
