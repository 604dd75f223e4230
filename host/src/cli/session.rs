//! `conductor-host session`: what is kept of one session, read beside a host or without one.

use std::{ffi::OsString, fmt::Write as _, io::Write};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Next, print,
    store::{Failed, Of},
};
use crate::{
    sessions::SessionId,
    store::{SavedState, StoredSession, transfer},
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
        Ok((session, state)) if json => print(out, format!("{}\n", object(&session, &state)).as_bytes(), 0),
        Ok((session, state)) => print(out, text(&session, &state).as_bytes(), 0),
        Err(failed) => print(err, format!("{failed}\n").as_bytes(), failed.status()),
    }
}

fn state(id: &str, of: &Of, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(StoredSession, SavedState), Failed> {
    let known = SessionId::parse(id).ok_or_else(|| Failed::Found(format!("{id:?} is not a session id, which is 1 to 12 decimal digits")))?;
    let (_, place) = of.store(env)?;
    match transfer::session(&place, known)? {
        None => Err(Failed::Found(format!("there is no session {id} in the store {place}"))),
        Some((session, None)) => {
            Err(Failed::Found(format!("the conductor of session {id} (type {:?}) has saved nothing", &*session.type_name)))
        }
        Some((session, Some(state))) => Ok((StoredSession::clone(&session), state)),
    }
}

fn object(session: &StoredSession, state: &SavedState) -> Value {
    let (key, content) = match (serde_json::from_slice(&state.bytes), str::from_utf8(&state.bytes)) {
        (Ok(value), _) => ("json", value),
        (_, Ok(text)) => ("text", Value::from(text)),
        _ => ("hex", Value::from(hex(&state.bytes))),
    };
    json!({
        "id": session.id.to_string(),
        "type": &*session.type_name,
        "version": state.version,
        "bytes": state.bytes.len(),
        key: content,
    })
}

fn text(session: &StoredSession, state: &SavedState) -> String {
    let (bytes, size) = (&state.bytes, state.bytes.len());
    let mut text = format!("session {} (type {:?}): version {}, {size} bytes", session.id, &*session.type_name, state.version);
    let pretty = serde_json::from_slice::<Value>(bytes).ok().and_then(|value| serde_json::to_string_pretty(&value).ok());
    let (kind, lines) = match (pretty, str::from_utf8(bytes)) {
        (Some(pretty), _) => ("JSON", escaped(&pretty)),
        (None, Ok(text)) => ("text", escaped(text)),
        (None, Err(_)) => ("no text", dump(&bytes[..size.min(SHOWN)])),
    };
    let _ = write!(text, ", {kind}\n\n{}\n", lines.trim_end_matches('\n'));
    let cut = if kind == "no text" { size > SHOWN } else { lines.ends_with(CUT) };
    if cut {
        text.push_str("\nThis is the beginning; --raw prints all of it\n");
    }
    text
}

/// Where a long text ends early.
const CUT: &str = "…";

/// The beginning of a text, in which what a terminal would act on is escaped.
fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= SHOWN {
            return shown + CUT;
        }
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
