//! `conductor-host session`: what is kept of one session, read beside a host or without one.

use std::{ffi::OsString, fmt::Write as _, io::Write};

use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{
    Next, print,
    store::{Failed, Of},
};
use crate::{
    conductors::refusal::is_hidden,
    sessions::SessionId,
    store::{SavedState, StoredSession, stock},
};

/// How many bytes of a state are shown.
const SHOWN: usize = 4096;
/// How many bytes a line of hexadecimal numbers has.
const LINE: usize = 16;

#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// Shows what the conductor of a session has saved: its version, its size, and the content, as JSON, as text or else as hexadecimal numbers.
    ///
    /// A host may run: what it has acknowledged is shown. Only its author knows what is in it, so look where you show it.
    State {
        /// The session's id.
        id: String,
        /// Print one JSON object with all of it: `id`, `type`, `version`, `bytes`, and the content in `json`, `text` or `hex`.
        #[arg(long, conflicts_with = "raw")]
        json: bool,
        /// Print what was saved and nothing else, byte for byte.
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        of: Of,
    },
}

pub(super) fn run(
    command: SessionCommand,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let SessionCommand::State { id, json, raw, of } = command;
    match state(&id, &of, env) {
        Ok((_, state)) if raw => print(out, &state.bytes, 0),
        Ok((session, state)) if json => match object(&session, &state) {
            Ok(object) => print(out, format!("{object}\n").as_bytes(), 0),
            Err(error) => print(err, format!("{error}\n").as_bytes(), 1),
        },
        Ok((session, state)) => print(out, text(&session, &state).as_bytes(), 0),
        Err(failed) => print(err, format!("{failed}\n").as_bytes(), failed.status()),
    }
}

fn state(id: &str, of: &Of, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(StoredSession, SavedState), Failed> {
    let known =
        SessionId::parse(id).ok_or_else(|| Failed::Found(format!("{id:?} is not a session id, which is 1 to 12 decimal digits")))?;
    let (_, place) = of.store(env)?;
    match stock::session(&place, known)? {
        None => Err(Failed::Found(format!("there is no session {id} in the store {place}"))),
        Some((session, None)) => {
            Err(Failed::Found(format!("the conductor of session {id} (type {:?}) has saved nothing", &*session.type_name)))
        }
        Some((session, Some(state))) => Ok((StoredSession::clone(&session), state)),
    }
}

/// All of it for programs. JSON is in it as it was saved.
#[derive(Serialize)]
struct Object<'a> {
    id: String,
    r#type: &'a str,
    version: u32,
    bytes: usize,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Hex(String),
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match (serde_json::from_slice(bytes), str::from_utf8(bytes)) {
            (Ok(json), _) => Self::Json(json),
            (_, Ok(text)) => Self::Text(text),
            _ => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

fn object(session: &StoredSession, state: &SavedState) -> Result<String, serde_json::Error> {
    let SavedState { version, bytes } = state;
    let (id, r#type, content) = (session.id.to_string(), &*session.type_name, Content::of(bytes));
    serde_json::to_string(&Object { id, r#type, version: *version, bytes: bytes.len(), content })
}

fn text(session: &StoredSession, state: &SavedState) -> String {
    let SavedState { version, bytes } = state;
    let (kind, mut lines) = match Content::of(bytes) {
        Content::Json(json) => ("JSON", shown(&pretty(json))),
        Content::Text(text) => ("text", shown(text)),
        Content::Hex(_) => ("no text", dump(&bytes[..bytes.len().min(SHOWN)])),
    };
    if bytes.len() > SHOWN && kind == "no text" {
        lines += CUT;
    }
    let cut = if lines.ends_with(CUT) { "\n\nThis is the beginning; --raw prints all of it" } else { "" };
    let lines = lines.trim_end_matches('\n');
    format!("session {} (type {:?}): version {version}, {} bytes, {kind}\n\n{lines}{cut}\n", session.id, &*session.type_name, bytes.len())
}

/// With line ends, where that keeps all of it: each digit, and each key.
fn pretty(json: &RawValue) -> String {
    let value: Option<Value> = serde_json::from_str(json.get()).ok();
    let kept = |value: &Value| serde_json::to_string(value).is_ok_and(|text| text == json.get());
    value.filter(kept).and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| json.get().to_owned())
}

/// Where a long text ends early.
const CUT: &str = "…";

/// The beginning of a text, in which what a terminal would act on is escaped.
fn shown(text: &str) -> String {
    let mut begin = String::new();
    for c in text.chars() {
        if begin.len() >= SHOWN {
            return begin + CUT;
        }
        if is_hidden(c) && c != '\n' && c != '\t' {
            begin.extend(c.escape_unicode());
        } else {
            begin.push(c);
        }
    }
    begin
}

fn dump(bytes: &[u8]) -> String {
    let mut lines = String::new();
    for (at, line) in bytes.chunks(LINE).enumerate() {
        let numbers: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String = line.iter().map(|byte| if (b' '..=b'~').contains(byte) { *byte as char } else { '.' }).collect();
        let _ = writeln!(lines, "{:08x}  {:47}  {letters}", at * LINE, numbers.join(" "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sessions::Pin;

    fn shown_as(bytes: &[u8]) -> (String, String) {
        let id = SessionId::parse("000042").unwrap();
        let (pin, type_name) = (Pin::parse("918").unwrap(), "quiz".into());
        let session = StoredSession { id, pin, type_name, created_at: 0, clients: Vec::new(), revision: 0, extra: None };
        let state = SavedState { version: 2, bytes: Bytes::copy_from_slice(bytes) };
        let text = text(&session, &state);
        let head = format!("session 000042 (type \"quiz\"): version 2, {} bytes, ", bytes.len());
        let object = object(&session, &state).unwrap();
        assert!(serde_json::from_str::<Value>(&object).is_ok(), "{object}");
        let before = format!("{{\"id\":\"000042\",\"type\":\"quiz\",\"version\":2,\"bytes\":{},", bytes.len());
        (text.strip_prefix(&head).unwrap().to_owned(), object.strip_prefix(&before).unwrap().to_owned())
    }

    #[test]
    fn a_state_is_shown_as_what_it_is() {
        for (bytes, text, object) in [
            (&br#"{"b":1,"a":[]}"#[..], "JSON\n\n{\n  \"b\": 1,\n  \"a\": []\n}\n", r#""json":{"b":1,"a":[]}}"#),
            // What would not be the same with line ends is shown as it is.
            (
                br#"{"a":12345678901234567890123,"a":1e2}"#,
                "JSON\n\n{\"a\":12345678901234567890123,\"a\":1e2}\n",
                r#""json":{"a":12345678901234567890123,"a":1e2}}"#,
            ),
            (
                "on\u{1b}[2Je\n\u{202e}two\n".as_bytes(),
                "text\n\non\\u{1b}[2Je\n\\u{202e}two\n",
                "\"text\":\"on\\u001b[2Je\\n\u{202e}two\\n\"}",
            ),
            (b"", "text\n\n\n", r#""text":""}"#),
            (
                b"\xff\x00hello, world ab~!",
                "no text\n\n00000000  ff 00 68 65 6c 6c 6f 2c 20 77 6f 72 6c 64 20 61  ..hello, world a\n00000010  62 7e 21                                         b~!\n",
                r#""hex":"ff0068656c6c6f2c20776f726c642061627e21"}"#,
            ),
        ] {
            assert_eq!(shown_as(bytes), (text.to_owned(), object.to_owned()));
        }
    }

    #[test]
    fn of_a_long_one_the_beginning_is_shown_and_it_is_said() {
        for (bytes, cut) in
            [(vec![b'x'; SHOWN], false), (vec![b'x'; SHOWN + 1], true), (vec![0xff; SHOWN], false), (vec![0xff; SHOWN + 1], true)]
        {
            let (text, _) = shown_as(&bytes);
            assert_eq!(text.ends_with("\n\nThis is the beginning; --raw prints all of it\n"), cut);
            assert!(text.len() < SHOWN * 6);
        }
    }
}
