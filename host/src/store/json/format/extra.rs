//! The keys that few sessions have; each is there only where it says something:
//!
//! ```json
//! "labels": {"room": "4"},
//! "locked": true,
//! "max_clients": 8,
//! "grants": {"phone": {"subscribe": ["news/#"], "publish": []}},
//! "timers": {"round": {"due": "2025-01-01T00:00:00.000Z", "every": 1000}},
//! "lifetime": 3600000,
//! "empty_timeout": 60000,
//! "tokens_until": 1735776000,
//! "kicked": {"count": 3, "floor": 0, "clients": {"phone": 3}}
//! ```
//! The times behind `timers` are milliseconds, milliseconds, and seconds since the Unix epoch.
//!
//! A key inside of them that is not known is refused: without it the rest would mean something else. Grants of a client that is not in the list
//! are dropped: a version that does not know them leaves them there when the client goes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use conductor_abi::wire::Grants;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{Time, millis};
use crate::store::{Extra, Kicked, StoredClient, StoredTimer};

/// The keys, in the order they are written.
pub(super) const KEYS: [&str; 9] =
    ["labels", "locked", "max_clients", "grants", "timers", "lifetime", "empty_timeout", "tokens_until", "kicked"];

/// Takes the keys out of a session's `fields`; what is left in there is kept as it is.
pub(super) fn take(mut fields: Map<String, Value>, clients: &[StoredClient]) -> Result<Option<Box<Extra>>, String> {
    let [labels, locked, max_clients, grants, timers, lifetime, empty_timeout, tokens_until, kicked] =
        KEYS.map(|key| fields.shift_remove(key));
    let mut grants: BTreeMap<Box<str>, Grants> =
        entries(grants, "its `grants` is not an object of clients, each with lists of texts in `subscribe` and `publish`", granted)?;
    if !grants.is_empty() {
        let listed: HashSet<_> = clients.iter().filter_map(StoredClient::client_id).collect();
        grants.retain(|client, grants| *grants != Grants::default() && listed.contains(&**client));
    }
    let extra = Extra {
        labels: entries(labels, "its `labels` is not an object of texts", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })?,
        locked: match locked {
            None => false,
            Some(value) => value.as_bool().ok_or("its `locked` is neither true nor false")?,
        },
        max_clients: match max_clients {
            None => None,
            Some(value) => Some(whole(&value).ok_or("its `max_clients` is not a whole number from 0 to 4294967295")?),
        },
        grants,
        timers: entries(
            timers,
            "its `timers` is not an object of timers, each with a time in `due` and at most milliseconds in `every`",
            timer,
        )?,
        lifetime: number(lifetime, "its `lifetime` is not a whole number of milliseconds")?,
        empty_timeout: number(empty_timeout, "its `empty_timeout` is not a whole number of milliseconds")?,
        tokens_until: number(tokens_until, "its `tokens_until` is not a whole number of seconds")?.unwrap_or_default(),
        kicked: match kicked {
            None => Kicked::default(),
            Some(value) => sent_away(value)
                .ok_or("its `kicked` is not an object with whole numbers in `count`, `floor` and, by client, in `clients`")?,
        },
        rest: fields,
    };
    Ok((extra != Extra::default()).then(|| Box::new(extra)))
}

fn entries<K: From<String> + Ord, V>(
    value: Option<Value>,
    otherwise: &str,
    entry: impl Fn(Value) -> Option<V>,
) -> Result<BTreeMap<K, V>, String> {
    let object = match value {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(otherwise.into()),
    };
    object.into_iter().map(|(key, value)| Some((key.into(), entry(value)?))).collect::<Option<_>>().ok_or_else(|| otherwise.into())
}

fn number(value: Option<Value>, otherwise: &str) -> Result<Option<u64>, String> {
    value.map(|value| value.as_u64().ok_or_else(|| otherwise.into())).transpose()
}

fn whole(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn granted(value: Value) -> Option<Grants> {
    let Value::Object(mut fields) = value else { return None };
    let mut topics = |key| match fields.shift_remove(key) {
        None => Some(None),
        Some(value) => serde_json::from_value(value).ok().map(Some),
    };
    let mut grants = Grants::default();
    grants.subscribe = topics("subscribe")?;
    grants.publish = topics("publish")?;
    fields.is_empty().then_some(grants)
}

fn sent_away(value: Value) -> Option<Kicked> {
    let Value::Object(mut fields) = value else { return None };
    let (count, floor) = (fields.shift_remove("count")?.as_u64()?, fields.shift_remove("floor")?.as_u64()?);
    let clients = entries(fields.shift_remove("clients"), "", |value| value.as_u64()).ok()?;
    fields.is_empty().then_some(Kicked { count, floor, clients })
}

fn timer(value: Value) -> Option<StoredTimer> {
    let Value::Object(mut fields) = value else { return None };
    let due = millis(fields.shift_remove("due")?.as_str()?)?;
    let every = match fields.shift_remove("every") {
        None => None,
        Some(value) => Some(value.as_u64().filter(|every| *every > 0)?),
    };
    fields.is_empty().then_some(StoredTimer { due, every })
}

/// Writes the keys into a session's object.
pub(super) fn write<M: SerializeMap>(extra: &Extra, object: &mut M) -> Result<(), M::Error> {
    if !extra.labels.is_empty() {
        object.serialize_entry(KEYS[0], &extra.labels)?;
    }
    if extra.locked {
        object.serialize_entry(KEYS[1], &true)?;
    }
    if let Some(max_clients) = extra.max_clients {
        object.serialize_entry(KEYS[2], &max_clients)?;
    }
    if !extra.grants.is_empty() {
        object.serialize_entry(KEYS[3], &extra.grants)?;
    }
    if !extra.timers.is_empty() {
        object.serialize_entry(KEYS[4], &Timers(&extra.timers))?;
    }
    if let Some(lifetime) = extra.lifetime {
        object.serialize_entry(KEYS[5], &lifetime)?;
    }
    if let Some(empty_timeout) = extra.empty_timeout {
        object.serialize_entry(KEYS[6], &empty_timeout)?;
    }
    if extra.tokens_until > 0 {
        object.serialize_entry(KEYS[7], &extra.tokens_until)?;
    }
    if extra.kicked != Kicked::default() {
        object.serialize_entry(KEYS[8], &SentAway(&extra.kicked))?;
    }
    Ok(())
}

struct SentAway<'a>(&'a Kicked);

impl Serialize for SentAway<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let Kicked { count, floor, clients } = self.0;
        let mut object = json.serialize_map(None)?;
        object.serialize_entry("count", count)?;
        object.serialize_entry("floor", floor)?;
        object.serialize_entry("clients", clients)?;
        object.end()
    }
}

struct Timers<'a>(&'a BTreeMap<Box<str>, StoredTimer>);

impl Serialize for Timers<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.collect_map(self.0.iter().map(|(name, timer)| (name, Timer(timer))))
    }
}

struct Timer<'a>(&'a StoredTimer);

impl Serialize for Timer<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut object = json.serialize_map(None)?;
        object.serialize_entry("due", &Time(self.0.due))?;
        if let Some(every) = self.0.every {
            object.serialize_entry("every", &every)?;
        }
        object.end()
    }
}
