//! What a client may subscribe and publish, as MQTT topic filters: pure functions, decided in one place.
//!
//! A grant is two lists of topic filters. In it `+` stands for one level and a closing `#` for one **or more** levels, so that
//! `/123456/#` covers everything below `/123456/` but not the bare topic `/123456`. A wildcard as a filter's first level never
//! covers topics that begin with `$`, as MQTT has it.

use std::sync::Arc;

use crate::sessions::SessionId;

/// The longest topic or filter that MQTT can carry, in bytes.
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// What a client may do. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    subscribe: Arc<[String]>,
    publish: Arc<[String]>,
}

impl Grant {
    /// Everything below `/{id}/`, for subscribing and for publishing.
    #[must_use]
    pub fn whole_session(session: SessionId) -> Self {
        let all: Arc<[String]> = Arc::from([format!("{}#", session.topic_prefix())]);
        Self { subscribe: Arc::clone(&all), publish: all }
    }

    /// What is covered by these filters below `/{id}/`, which they are without; a list that is nothing is everything in the session.
    #[must_use]
    pub fn within_session(session: SessionId, subscribe: Option<&[String]>, publish: Option<&[String]>) -> Self {
        let prefix = session.topic_prefix();
        let below = |list: Option<&[String]>| match list {
            None => vec![format!("{prefix}#")],
            Some(list) => list.iter().map(|name| format!("{prefix}{name}")).collect(),
        };
        Self::from_lists(below(subscribe), below(publish))
    }

    /// What is covered by these filters, and nothing else. An invalid filter covers nothing and is left out.
    #[must_use]
    pub fn from_lists(subscribe: Vec<String>, publish: Vec<String>) -> Self {
        let clean = |list: Vec<String>| list.into_iter().filter(|f| is_valid_filter(f)).collect();
        Self { subscribe: clean(subscribe), publish: clean(publish) }
    }

    /// Nothing at all: what a client may do whose rights have ended.
    #[must_use]
    pub fn nothing() -> Self {
        Self::from_lists(Vec::new(), Vec::new())
    }

    /// What both allow.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        if self == other {
            return self.clone();
        }
        Self { subscribe: intersect(&self.subscribe, &other.subscribe), publish: intersect(&self.publish, &other.publish) }
    }

    /// Whether every topic that a subscription to `filter` can match is allowed. `$share/group/filter` asks for `filter`.
    /// Invalid filters are refused. (MQTT lets `a/#` match its parent `a` too; that single topic is not asked for, or no
    /// client could subscribe `/{id}/#`.)
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let filter = match filter.strip_prefix("$share/") {
            None => filter,
            Some(shared) => match shared.split_once('/') {
                Some((group, inner)) if !group.is_empty() && !group.contains(['+', '#']) && !inner.starts_with("$share/") => inner,
                _ => return false,
            },
        };
        is_valid_filter(filter) && covers(&self.subscribe, filter)
    }

    /// Whether `topic` may be published to. What is no topic (wildcards, NUL, empty, too long) is refused.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        is_valid_topic(topic) && {
            let topic: Vec<_> = topic.split('/').map(Level::Named).collect();
            self.publish.iter().any(|allowed| matches(allowed, &topic))
        }
    }

    /// The filters that may be subscribed, as in the token's claim `subs`.
    #[must_use]
    pub fn subscribe_list(&self) -> &[String] {
        &self.subscribe
    }

    /// The filters that may be published to, as in the token's claim `publ`.
    #[must_use]
    pub fn publish_list(&self) -> &[String] {
        &self.publish
    }
}

/// Whether `topic` can be published to at all: 1 to 65,535 bytes, without `+`, `#` and NUL.
#[must_use]
pub fn is_valid_topic(topic: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&topic.len()) && !topic.contains(['+', '#', '\0'])
}

/// Whether `filter` is a topic filter as MQTT defines it (without a `$share/group/` in front).
#[must_use]
pub fn is_valid_filter(filter: &str) -> bool {
    (1..=MAX_TOPIC_BYTES).contains(&filter.len())
        && !filter.contains('\0')
        && !filter.trim_end_matches('#').contains('#')
        && filter.split('/').all(|level| level.len() == 1 || !level.contains(['+', '#']))
}

/// One level of a topic that stands for many: a name, or any name that no filter spells out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level<'a> {
    Named(&'a str),
    Any,
}

/// Whether the filter `allowed` matches the topic, `#` standing for one or more levels.
fn matches(allowed: &str, topic: &[Level<'_>]) -> bool {
    let hidden = matches!(topic.first(), Some(Level::Named(name)) if name.starts_with('$'));
    let mut rest = topic.iter();
    for (depth, level) in allowed.split('/').enumerate() {
        let Some(found) = rest.next() else { return false };
        match level {
            "#" => return !(hidden && depth == 0),
            "+" if !(hidden && depth == 0) => {}
            name if *found == Level::Named(name) => {}
            _ => return false,
        }
    }
    rest.next().is_none()
}

/// Whether every topic that `filter` matches is matched by one of `allowed`.
///
/// It is enough to look at one topic for each depth, in which each wildcard of `filter` has become a name that no filter spells
/// out: only wildcards match such a name, and what they match there they match for every name. Below the deepest allowed filter
/// all depths look alike.
fn covers(allowed: &[String], filter: &str) -> bool {
    let mut topic: Vec<_> = filter.split('/').map(|level| if level == "+" { Level::Any } else { Level::Named(level) }).collect();
    let covered = |topic: &[Level<'_>]| allowed.iter().any(|filter| matches(filter, topic));
    if topic.last() != Some(&Level::Named("#")) {
        return covered(&topic);
    }
    topic.pop();
    let deepest = allowed.iter().map(|filter| filter.split('/').count()).max().unwrap_or(0);
    loop {
        topic.push(Level::Any);
        if !covered(&topic) {
            return false;
        }
        if topic.len() > deepest {
            return true;
        }
    }
}

fn intersect(left: &[String], right: &[String]) -> Arc<[String]> {
    let mut both: Vec<String> = left.iter().flat_map(|l| right.iter().filter_map(|r| overlap(l, r))).collect();
    both.sort_unstable();
    both.dedup();
    both.into()
}

/// The one filter that matches what both match.
fn overlap(left: &str, right: &str) -> Option<String> {
    let (mut left_levels, mut right_levels) = (left.split('/'), right.split('/'));
    let mut both = Vec::new();
    loop {
        let level = match (left_levels.next(), right_levels.next()) {
            (None, None) => return Some(both.join("/")),
            (Some("#"), Some(level)) | (Some(level), Some("#")) => {
                let rest = if level == "#" { None } else { Some(level) };
                // One side takes all that the other has from here on.
                let tail = if left_levels.clone().next().is_some() { left_levels } else { right_levels };
                both.extend(rest.or(Some("#")));
                both.extend(tail);
                return both.first().filter(|first| !hides(left, right, first)).is_some().then(|| both.join("/"));
            }
            (Some("+"), Some(level)) | (Some(level), Some("+")) => level,
            (Some(l), Some(r)) if l == r => l,
            _ => return None,
        };
        both.push(level);
        if hides(left, right, both[0]) {
            return None;
        }
    }
}

/// A wildcard in front does not match a first level that begins with `$`.
fn hides(left: &str, right: &str, first: &str) -> bool {
    first.starts_with('$') && [left, right].iter().any(|filter| filter.starts_with(['+', '#']))
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
