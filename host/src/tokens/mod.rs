//! Tokens: what a device shows to the broker, and what it may do with it.
//!
//! [`issue`] is what a join gets, as the settings say. [`keys`] reads or makes the one signing key, [`claims`] is what a token says,
//! [`signer`] makes and checks tokens, and [`grant`] decides what a token's topic filters allow.

pub mod claims;
pub mod grant;
pub mod issue;
pub mod keys;
pub mod signer;

pub use claims::{Claims, Grantee, UsernameRule};
pub use issue::Tokens;
pub use keys::{KeyError, SigningKey};
pub use signer::{SignError, Signed, Signer, TokenError};
