//! Session ids and pins: short strings of decimal digits, packed into one word.
//!
//! Leading zeros count (`"012"` and `"12"` are two ids), so the number of digits is kept beside the value. A text that is
//! not 1 to 12 digits can be no id, and is refused here without a look into any directory.

use std::fmt;

use rand::{TryRng, rngs::SysRng};

/// The most digits an id or a pin may have; 10^12 fits into 40 bits, which leaves room for the count of digits.
pub const MAX_DIGITS: u8 = 12;

const VALUE_BITS: u32 = 48;

/// One to twelve decimal digits, leading zeros kept, in eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Digits(u64);

impl Digits {
    fn parse(text: &str) -> Option<Self> {
        let count = u8::try_from(text.len()).ok().filter(|n| (1..=MAX_DIGITS).contains(n))?;
        let mut value = 0_u64;
        for byte in text.bytes() {
            if !byte.is_ascii_digit() {
                return None;
            }
            value = value * 10 + u64::from(byte - b'0');
        }
        Some(Self(u64::from(count) << VALUE_BITS | value))
    }

    /// Uniform over all strings of `count` digits: values that would favour small numbers are drawn again.
    fn random(count: u8) -> Result<Self, RandomnessError> {
        let count = count.clamp(1, MAX_DIGITS);
        let range = 10_u64.pow(u32::from(count));
        let unbiased = u64::MAX - u64::MAX % range;
        loop {
            let drawn = SysRng.try_next_u64().map_err(|e| RandomnessError(e.to_string()))?;
            if drawn < unbiased {
                return Ok(Self(u64::from(count) << VALUE_BITS | (drawn % range)));
            }
        }
    }

    fn count(self) -> usize {
        (self.0 >> VALUE_BITS) as usize
    }

    fn value(self) -> u64 {
        self.0 & ((1 << VALUE_BITS) - 1)
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$}", self.value(), width = self.count())
    }
}

/// The operating system's generator did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random generator failed: {0}")]
pub struct RandomnessError(String);

/// The public number of a session; it also begins every topic of that session, as `/{id}/`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Digits);

impl SessionId {
    /// No session's: for comparing where there is nothing to compare.
    pub(crate) const NOBODY: Self = Self(Digits(0));

    /// The id that `text` spells, or nothing where it is not 1 to 12 decimal digits. Nothing is trimmed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Digits::parse(text).map(Self)
    }

    /// A random id of `digits` digits (clamped to 1..=12), uniform, from the operating system's generator.
    ///
    /// # Errors
    /// When that generator fails.
    pub fn random(digits: u8) -> Result<Self, RandomnessError> {
        Digits::random(digits).map(Self)
    }

    /// The packed form: equal for equal ids only. A key for maps.
    #[must_use]
    pub fn packed(self) -> u64 {
        self.0.0
    }

    /// The reverse; nothing where no id has this form.
    #[must_use]
    pub(crate) fn unpack(packed: u64) -> Option<Self> {
        let digits = Digits(packed);
        let count = u8::try_from(digits.count()).ok().filter(|count| (1..=MAX_DIGITS).contains(count))?;
        (digits.value() < 10_u64.pow(count.into())).then_some(Self(digits))
    }

    /// What every topic of this session begins with: `/{id}/`.
    #[must_use]
    pub fn topic_prefix(self) -> String {
        format!("/{self}/")
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The secret that a device shows to join. Its `Debug` form hides it, so that no log can hold one by accident.
#[derive(Clone, Copy)]
pub struct Pin(Digits);

impl Pin {
    /// Matches no pin, not even itself as [`Pin::NEVER`]: for comparing where there is nothing to compare.
    pub(crate) const NONE: Self = Self(Digits(0));
    /// The other side of such a comparison.
    pub(crate) const NEVER: Self = Self(Digits(1));

    /// The pin that `text` spells, or nothing where it is not 1 to 12 decimal digits. Nothing is trimmed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Digits::parse(text).map(Self)
    }

    /// A random pin of `digits` digits (clamped to 1..=12), uniform, from the operating system's generator.
    ///
    /// # Errors
    /// When that generator fails.
    pub fn random(digits: u8) -> Result<Self, RandomnessError> {
        Digits::random(digits).map(Self)
    }

    /// Compares in constant time.
    #[must_use]
    pub fn matches(self, other: Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.0.ct_eq(&other.0.0).into()
    }

    /// The pin in clear: for the answer to the administrator who made the session, and for the store. Never for a log.
    #[must_use]
    pub fn reveal(self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Random bytes from the operating system's generator, as lower-case hexadecimal.
///
/// # Errors
/// When that generator fails.
pub fn random_hex<const BYTES: usize>() -> Result<String, RandomnessError> {
    let mut bytes = [0_u8; BYTES];
    SysRng.try_fill_bytes(&mut bytes).map_err(|e| RandomnessError(e.to_string()))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_kept_and_count() {
        for text in ["0", "000", "012", "12", "999999999999"] {
            assert_eq!(SessionId::parse(text).unwrap().to_string(), text);
        }
        assert_ne!(SessionId::parse("012"), SessionId::parse("12"));
    }

    #[test]
    fn what_is_not_one_to_twelve_digits_is_no_id() {
        for text in ["", "1234567890123", "12a", " 12", "-1", "+1", "१२"] {
            assert_eq!(SessionId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pin_never_shows_in_debug_output() {
        assert_eq!(format!("{:?}", Pin::parse("424242").unwrap()), "Pin(…)");
    }

    #[test]
    fn random_digits_have_no_bias() {
        // Chi-square over the ten one-digit ids; 27.88 is the 99.9 % quantile for 9 degrees of freedom, and 60 is far beyond it.
        let mut seen = [0_f64; 10];
        for _ in 0..20_000 {
            let id = SessionId::random(1).unwrap();
            seen[id.to_string().parse::<usize>().unwrap()] += 1.0;
        }
        let chi: f64 = seen.iter().map(|n| (n - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi < 60.0, "{seen:?}");
    }

    #[test]
    fn random_ids_have_the_asked_length() {
        for digits in 1..=MAX_DIGITS {
            assert_eq!(SessionId::random(digits).unwrap().to_string().len(), usize::from(digits));
        }
    }
}
