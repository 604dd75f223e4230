//! Query strings, read as the replaced system reads them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Why a parameter cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

/// The value of `name` in a raw query string: the last one counts, blanks around it do not, `+` is a blank.
///
/// # Errors
/// Where that value holds a percent sign without two hexadecimal digits, or bytes that are not UTF-8.
pub fn parameter(query: &str, name: &str) -> Result<Option<String>, Undecodable> {
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let last = pairs.rfind(|(key, _)| *key == name || decode(key).is_ok_and(|key| key == name));
    last.map(|(_, value)| decode(value).map(|value| value.trim().to_owned())).transpose()
}

fn decode(text: &str) -> Result<Cow<'_, str>, Undecodable> {
    if !text.contains(['%', '+']) {
        return Ok(text.into());
    }
    let bytes = text.as_bytes();
    let bad = |at: usize| !matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && bad(at)) {
        return Err(Undecodable);
    }
    let blanks = text.replace('+', " ");
    percent_decode_str(&blanks).decode_utf8().map(|decoded| decoded.into_owned().into()).map_err(|_| Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_trimmed_and_decoded() {
        assert_eq!(parameter("type=a&x=1&type=+b%20c+", "type"), Ok(Some("b c".to_owned())));
        assert_eq!(parameter("t%79pe=%C3%A4", "type"), Ok(Some("ä".to_owned())));
        assert_eq!(parameter("type", "type"), Ok(Some(String::new())));
        assert_eq!(parameter("", "type"), Ok(None));
        assert_eq!(parameter("a=1=2", "a"), Ok(Some("1=2".to_owned())));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_where_it_matters_only() {
        for bad in ["type=%ff", "type=%", "type=%zz", "type=a%4"] {
            assert_eq!(parameter(bad, "type"), Err(Undecodable), "{bad}");
        }
        assert_eq!(parameter("other=%ff&type=a&%ff=1", "type"), Ok(Some("a".to_owned())));
    }
}
