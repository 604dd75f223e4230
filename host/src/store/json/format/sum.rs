//! The file's last key, `"sum"`: SHA-256, in lower case hexadecimal digits, of all bytes from the file's first one to the one before the quotation mark that
//! begins this key.
//!
//! A file without it is taken as it is: it is older, the reference's, or somebody has edited it and deleted the key. Behind it there is nothing but the
//! end of the object, so a file that was cut has no whole object.

#[cfg(test)]
mod tests;

use std::io;

use aws_lc_rs::digest::{Context, SHA256};

use super::super::states::hex;

/// The key.
pub(super) const SUM: &str = "sum";

/// How much of a sum a message shows.
const SHOWN: usize = 8;

/// Passes on what is written, and sums it up.
pub(super) struct Summed<W> {
    to: W,
    context: Context,
}

impl<W: io::Write> Summed<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, context: Context::new(&SHA256) }
    }

    /// Writes the key with the sum of all before it, and the end of the object.
    pub(super) fn end(self) -> io::Result<()> {
        let Self { mut to, context } = self;
        write!(to, "\"{SUM}\": \"{}\"\n}}", hex(context))
    }
}

impl<W: io::Write> io::Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.context.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether `sum`, which the object in `bytes` has behind this key, is that of what is before it.
pub(super) fn check(bytes: &[u8], sum: &str) -> Result<(), String> {
    let before = before(bytes, sum).ok_or_else(|| {
        format!(
            "its {SUM:?} is not the last key of the file, followed by 64 hexadecimal digits; if you have edited the file, delete that key"
        )
    })?;
    let mut context = Context::new(&SHA256);
    context.update(before);
    let expected = hex(context);
    if sum == expected {
        return Ok(());
    }
    Err(format!(
        "its {SUM:?} begins with {}, and that of its content with {}: it is not what was written. If you have edited the file, delete its last key, {SUM:?}, \
         with the comma before it; otherwise it is damaged",
        &sum[..SHOWN],
        &expected[..SHOWN]
    ))
}

/// What is before the key, where it is the last one and `sum` may be one.
fn before<'a>(bytes: &'a [u8], sum: &str) -> Option<&'a [u8]> {
    if sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut rest = bytes;
    for part in ["}", "\"", sum, "\"", ":", "\"", SUM, "\""] {
        rest = rest.trim_ascii_end().strip_suffix(part.as_bytes())?;
    }
    Some(rest)
}
