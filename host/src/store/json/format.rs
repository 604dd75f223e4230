//! The file's format: the reference's `session_data.json`, with keys of our own behind the reference's.
//!
//! ```json
//! {
//!     "123456": {
//!         "id": "123456",
//!         "pin": "042",
//!         "type": "default",
//!         "clients": ["phone"],
//!         "created_at": "2025-01-01T00:00:00.000Z",
//!         "expires": {"phone": 1735776000}
//!     }
//! }
//! ```
//! Behind these come the keys of [`extra`], and last those that this version does not know. Behind the sessions is, where there are any,
//! `"resting": {"654321": 1735776000}`: ids that rest, and until when. The last key is the [`sum`].
//!
//! Reading is strict where the meaning would be a guess, and its messages show no value: one may be a pin.

mod extra;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod sum;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    io::{self, Write as _},
    mem,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use serde::{
    Serialize, Serializer,
    de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Map, Number, Value};

use super::super::{
    StoredClient, StoredSession,
    change::{Content, Sessions},
    resting::Resting,
};
use crate::sessions::{Pin, SessionId};
use sum::{SUM, Summed};

/// The keys that a session can have always, in the order they are written.
const KEYS: [&str; 6] = ["id", "pin", "type", "clients", "created_at", "expires"];

/// The key behind the sessions.
const RESTING: &str = "resting";

/// Bytes that are summed up at once.
const CHUNK: usize = 16 * 1024;

/// The last moment that RFC 3339 can say, in milliseconds since the Unix epoch.
const LAST_TIME: u64 = 253_402_300_799_999;

/// What is in `bytes`, or the first thing that is wrong and where.
pub(in crate::store) fn parse(bytes: &[u8], granted_until: u64) -> Result<Content, String> {
    read(bytes, granted_until, None)
}

/// As [`parse`], but a session that is not understood does not hide the next one: all that is wrong is told.
pub(in crate::store) fn parse_all(bytes: &[u8], granted_until: u64) -> Result<Content, Vec<String>> {
    let mut problems = Vec::new();
    match read(bytes, granted_until, Some(&mut problems)) {
        Ok(content) if problems.is_empty() => Ok(content),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn read(bytes: &[u8], granted_until: u64, mut problems: Option<&mut Vec<String>>) -> Result<Content, String> {
    if bytes.starts_with("\u{feff}".as_bytes()) {
        return Err("line 1: it begins with a byte order mark; save it as UTF-8 without one".into());
    }
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        None => return Err("it is empty, where a JSON object of sessions was expected (`{}` for none)".into()),
        Some(_) => return Err("line 1: expected a JSON object of sessions, which begins with `{`".into()),
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let file = File { granted_until, types: HashSet::new(), problems: problems.as_deref_mut() };
    let (content, sum) = json.deserialize_map(file).map_err(|error| error.to_string())?;
    json.end().map_err(|error| format!("something follows the JSON object: {error}"))?;
    if let Some(Err(problem)) = sum.map(|sum| sum::check(bytes, &sum)) {
        match problems {
            Some(problems) => problems.push(problem),
            None => return Err(problem),
        }
    }
    Ok(content)
}

/// One session as text without line feeds.
pub(in crate::store) fn record(session: &StoredSession) -> serde_json::Result<String> {
    serde_json::to_string(&Fields(session))
}

/// The reverse. `types` has one copy of each type's name for all sessions.
pub(in crate::store) fn parse_record(id: SessionId, text: &str, types: &mut HashSet<Arc<str>>) -> Result<StoredSession, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = match Strict.deserialize(&mut json).and_then(|value| json.end().map(|()| value)) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err("expected a JSON object".into()),
        Err(error) => return Err(error.to_string()),
    };
    let mut file = File { granted_until: 0, types: mem::take(types), problems: None };
    let session = file.session(id, fields);
    *types = file.types;
    session
}

/// Reads the outermost object, one session at a time.
struct File<'a> {
    granted_until: u64,
    /// One copy of each type's name for all its sessions.
    types: HashSet<Arc<str>>,
    /// Where to note a session that is not understood; without it reading ends there.
    problems: Option<&'a mut Vec<String>>,
}

impl<'de> Visitor<'de> for File<'_> {
    /// What it says, and its sum.
    type Value = (Content, Option<String>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of sessions")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Self::Value, A::Error> {
        let (mut sessions, mut resting, mut sum) = (Sessions::new(), None, None);
        while let Some(key) = object.next_key::<String>()? {
            if key == RESTING {
                let value = object.next_value_seed(Strict)?;
                match (&resting, ends(value)) {
                    (Some(_), _) => self.refuse(format!("the key {key:?} is there twice"))?,
                    (None, None) => {
                        self.refuse(format!("its {key:?} is not an object of session ids, each with a whole number of seconds"))?
                    }
                    (None, read) => resting = read,
                }
                continue;
            }
            if key == SUM {
                match (&sum, object.next_value_seed(Strict)?) {
                    (Some(_), _) => self.refuse(format!("the key {key:?} is there twice"))?,
                    (None, Value::String(text)) => sum = Some(text),
                    (None, _) => self.refuse(format!("its {key:?} is not a string; if you have edited the file, delete that key"))?,
                }
                continue;
            }
            let Some(id) = SessionId::parse(&key) else {
                self.refuse(format!("{key:?} is not a session id, which is 1 to 12 decimal digits"))?;
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let session = match object.next_value_seed(Strict)? {
                Value::Object(fields) => self.session(id, fields),
                _ => Err("expected a JSON object".into()),
            };
            let added = session.and_then(|session| match sessions.insert(id, Arc::new(session)) {
                Some(_) => Err("it is there twice".into()),
                None => Ok(()),
            });
            if let Err(problem) = added {
                self.refuse(format!("session {id}: {problem}"))?;
            }
        }
        let mut resting = resting.unwrap_or_default();
        // Nothing is made of a session that is there: what its id was before is over, or somebody has edited the file.
        resting.retain(|(id, _)| !sessions.contains_key(id));
        Ok((Content { sessions, resting: resting.into_iter().collect() }, sum))
    }
}

/// The ids that rest.
fn ends(value: Value) -> Option<Vec<(SessionId, u64)>> {
    let Value::Object(ends) = value else { return None };
    ends.into_iter().map(|(id, until)| Some((SessionId::parse(&id)?, until.as_u64()?))).collect()
}

impl File<'_> {
    /// Notes the problem, or ends with it.
    fn refuse<E: de::Error>(&mut self, problem: String) -> Result<(), E> {
        match &mut self.problems {
            Some(problems) => problems.push(problem),
            None => return Err(E::custom(problem)),
        }
        Ok(())
    }

    fn session(&mut self, id: SessionId, mut fields: Map<String, Value>) -> Result<StoredSession, String> {
        // `shift_remove` keeps the order of what stays, which is written back.
        let [stored_id, pin, type_name, clients, created_at, expires] = KEYS.map(|key| fields.shift_remove(key));
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let stored_id = text(stored_id).ok_or("its `id` is missing or not a string")?;
        if SessionId::parse(&stored_id) != Some(id) {
            return Err("its `id` is not the key it is stored under".into());
        }
        let pin = text(pin).and_then(|pin| Pin::parse(&pin)).ok_or("its `pin` is not a string of 1 to 12 decimal digits")?;
        let type_name = text(type_name).filter(|name| !name.is_empty()).ok_or("its `type` is missing, empty or not a string")?;
        let created_at = match created_at {
            None => 0,
            Some(value) => {
                text(Some(value)).and_then(|text| millis(&text)).ok_or("its `created_at` is not a time like \"2025-01-01T00:00:00Z\"")?
            }
        };
        let expires = match expires {
            None => Map::new(),
            Some(Value::Object(expires)) => expires,
            Some(_) => return Err("its `expires` is not an object".into()),
        };
        let clients = match clients {
            None => Vec::new(),
            Some(Value::Array(values)) => self.clients(values, &expires)?,
            Some(_) => return Err("its `clients` is not a list".into()),
        };
        let extra = extra::take(fields, &clients)?;
        Ok(StoredSession { id, pin, type_name: self.intern(&type_name), created_at, clients, revision: 0, extra })
    }

    fn clients(&self, values: Vec<Value>, expires: &Map<String, Value>) -> Result<Vec<StoredClient>, String> {
        let mut seen = HashSet::new();
        let mut clients = Vec::with_capacity(values.len());
        for value in values {
            let Value::String(name) = value else {
                clients.push(StoredClient::Foreign(value));
                continue;
            };
            if !seen.insert(name.clone()) {
                continue;
            }
            let expires_at = match expires.get(&name) {
                None => self.granted_until,
                Some(value) => value.as_u64().ok_or("a value in its `expires` is not a whole number of seconds")?,
            };
            clients.push(StoredClient::Joined { client_id: name.into(), expires_at });
        }
        clients.shrink_to_fit();
        Ok(clients)
    }

    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.types.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.types.insert(Arc::clone(&name));
        name
    }
}

/// Any JSON value, but with each key once: of two, a reader can only guess which one was meant.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let value = object.next_value_seed(Strict)?;
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} is twice in one object")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// Writes all sessions in the order of their ids, so that the same sessions give the same bytes.
pub(in crate::store) fn render(to: impl io::Write, content: &Content) -> io::Result<()> {
    let mut to = io::BufWriter::with_capacity(CHUNK, Summed::new(to));
    let pretty = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut json = serde_json::Serializer::with_formatter(&mut to, pretty);
    let mut object = json.serialize_map(None)?;
    for session in content.sessions.values() {
        SerializeMap::serialize_entry(&mut object, &format_args!("{}", session.id), &Fields(session))?;
    }
    if !content.resting.is_empty() {
        SerializeMap::serialize_entry(&mut object, RESTING, &Ends(&content.resting))?;
    }
    // The end of the object is the sum's.
    let comma = if content.sessions.is_empty() && content.resting.is_empty() { "" } else { "," };
    write!(to, "{comma}\n    ")?;
    to.into_inner().map_err(io::IntoInnerError::into_error)?.end()
}

struct Ends<'a>(&'a Resting);

impl Serialize for Ends<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut object = json.serialize_map(None)?;
        for (id, until) in self.0.iter() {
            object.serialize_entry(&format_args!("{id}"), &until)?;
        }
        object.end()
    }
}

struct Fields<'a>(&'a StoredSession);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let session = self.0;
        let mut object = json.serialize_map(None)?;
        object.serialize_entry("id", &format_args!("{}", session.id))?;
        object.serialize_entry("pin", &session.pin.reveal())?;
        object.serialize_entry("type", &*session.type_name)?;
        object.serialize_entry("clients", &Clients(&session.clients))?;
        if session.created_at != 0 {
            object.serialize_entry("created_at", &Time(session.created_at))?;
        }
        if session.clients.iter().any(|client| client.client_id().is_some()) {
            object.serialize_entry("expires", &Expires(&session.clients))?;
        }
        if let Some(extra) = &session.extra {
            extra::write(extra, &mut object)?;
            for (key, value) in &extra.rest {
                // A key written twice would make a file that does not load.
                if !KEYS.iter().chain(&extra::KEYS).any(|known| known == key) {
                    object.serialize_entry(key, value)?;
                }
            }
        }
        object.end()
    }
}

/// Milliseconds since the Unix epoch, as a text that people can read; the last moment that it can say for all later ones.
struct Time(u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let time = UNIX_EPOCH + Duration::from_millis(self.0.min(LAST_TIME));
        json.collect_str(&humantime::format_rfc3339_millis(time))
    }
}

/// The reverse; nothing where `text` is not a time since then.
fn millis(text: &str) -> Option<u64> {
    humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_millis().try_into().ok()
}

struct Clients<'a>(&'a [StoredClient]);

impl Serialize for Clients<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut list = json.serialize_seq(Some(self.0.len()))?;
        for client in self.0 {
            match client {
                StoredClient::Joined { client_id, .. } => list.serialize_element(client_id)?,
                StoredClient::Foreign(value) => list.serialize_element(value)?,
            }
        }
        list.end()
    }
}

struct Expires<'a>(&'a [StoredClient]);

impl Serialize for Expires<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut object = json.serialize_map(None)?;
        for client in self.0 {
            if let StoredClient::Joined { client_id, expires_at } = client {
                object.serialize_entry(client_id, expires_at)?;
            }
        }
        object.end()
    }
}
