//! What a conductor may ask for, decided in one place: the host and the SDK's test kit both go by it, so that what passes in a test
//! passes in a session. Each function's error is a sentence for the author, to go with [`code::REFUSED`](crate::wire::code::REFUSED).

use std::collections::BTreeMap;

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
