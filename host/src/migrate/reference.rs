//! Writes sessions as the reference writes them: Python's `json.dumps(…, indent=4)`, to the byte.

use std::{
    io::{self, Write},
    sync::Arc,
};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{
    Value,
    ser::{CharEscape, Formatter, PrettyFormatter},
};

use crate::store::{StoredClient, StoredSession};

/// The four keys of the reference, and nothing else.
pub(super) struct Session<'a>(pub(super) &'a StoredSession);

impl Serialize for Session<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let session = self.0;
        let clients: Vec<_> = session.clients.iter().map(client).collect();
        let mut object = json.serialize_map(Some(4))?;
        object.serialize_entry("id", &session.id.to_string())?;
        object.serialize_entry("pin", &session.pin.reveal())?;
        object.serialize_entry("type", &*session.type_name)?;
        object.serialize_entry("clients", &clients)?;
        object.end()
    }
}

fn client(client: &StoredClient) -> Value {
    match client {
        StoredClient::Joined { client_id, .. } => Value::from(&**client_id),
        StoredClient::Foreign(value) => value.clone(),
    }
}

/// The file's content. Sessions come in the order in which they were created, as far as that is known, and by id otherwise.
///
/// # Errors
/// Never in memory; the library's signature has one.
pub(super) fn render(sessions: &[Arc<StoredSession>]) -> io::Result<Vec<u8>> {
    let mut sorted: Vec<_> = sessions.iter().collect();
    sorted.sort_by_key(|session| (session.created_at, session.id));
    let mut text = Vec::new();
    let mut json = serde_json::Serializer::with_formatter(&mut text, Python(PrettyFormatter::with_indent(b"    ")));
    json.collect_map(sorted.into_iter().map(|session| (session.id.to_string(), Session(session))))?;
    Ok(text)
}

/// Blanks and line breaks are `serde_json`'s; characters and fractions are Python's.
struct Python(PrettyFormatter<'static>);

/// Hands the named methods on.
macro_rules! as_before {
    ($($name:ident($($argument:ident: $type:ty),*);)+) => {$(
        fn $name<W: ?Sized + Write>(&mut self, to: &mut W $(, $argument: $type)*) -> io::Result<()> {
            self.0.$name(to $(, $argument)*)
        }
    )+};
}

impl Formatter for Python {
    as_before! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
        write_char_escape(escape: CharEscape);
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        let mut units = [0; 2];
        for c in fragment.chars() {
            // Control characters come as escapes; of the others only DEL is left.
            if c.is_ascii() && c != '\u{7f}' {
                to.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut units) {
                write!(to, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        to.write_all(fraction(value).as_bytes())
    }
}

/// As Python's `repr`: the same digits as Rust's, and an exponent from 1e16 on and below 1e-4.
fn fraction(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3.13 wrote for these.
    #[test]
    fn fractions_are_pythons() {
        for text in [
            "1.0",
            "0.1",
            "-2.5",
            "0.0",
            "-0.0",
            "123456789012345.6",
            "1000000000000000.0",
            "1e+16",
            "1.5e+16",
            "0.0001",
            "1e-05",
            "1.5e-07",
            "1e+22",
            "1e+100",
            "1.7976931348623157e+308",
            "5e-324",
            "9007199254740993.0",
            "-1e-05",
            "12345.678",
        ] {
            let value: f64 = text.parse().unwrap();
            let expected = if text == "9007199254740993.0" { "9007199254740992.0" } else { text };
            assert_eq!(fraction(value), expected);
        }
    }
}
