//! A text that is shown nowhere.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// A secret in a conductor's or a service's config: a password, a token, a key. Its `Debug` shows nothing of it.
///
/// In the settings of the host it is a text, or `{ file = "path" }` or `{ env = "NAME" }`: the host reads the file (or the variable) when it loads
/// the plugin, and who is made with the config gets the text. Its JSON Schema says `writeOnly`, which is how the host knows where secrets are.
///
/// ```
/// use conductor_sdk::prelude::*;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Config {
///     url: String,
///     token: Secret,
/// }
///
/// struct Bridge { header: String }
///
/// impl Conductor for Bridge {
///     type Config = Config;
///     async fn create(_: &Session, config: Config) -> Result<Self> {
///         tracing::info!("talks to {} with {:?}", config.url, config.token);
///         Ok(Self { header: format!("Bearer {}", config.token.expose()) })
///     }
/// }
/// ```
///
/// The settings then say:
///
/// ```toml
/// [types.bridge]
/// plugin = "plugins/bridge"
/// config = { url = "https://example.org", token = { file = "bridge-token" } }
/// ```
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// This text. For tests: a config that is made in code.
    ///
    /// ```
    /// let secret = conductor_sdk::Secret::new("swordfish");
    /// assert!(!format!("{secret:?}").contains("swordfish"));
    /// ```
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What it is: for where it is needed, and not for logs and errors.
    ///
    /// ```
    /// assert_eq!(conductor_sdk::Secret::new("swordfish").expose(), "swordfish");
    /// ```
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// Takes a text, and repeats nothing of what is none.
struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret as text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        Err(E::custom("found no text, expected a secret as text"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom("found a number, expected a secret as text"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        self.visit_i64(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        self.visit_i64(0)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_without_being_shown() {
        let read = |json: &str| serde_json::from_str::<Secret>(json);
        assert_eq!(read("\"swordfish\"").unwrap().expose(), "swordfish");
        assert_eq!(serde_json::from_value::<Secret>("swordfish".into()).unwrap().expose(), "swordfish");
        for json in ["4711", "-4711", "4711.5", "true", "null", "[4711]", r#"{"4711": "4711"}"#] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains("expected a secret as text") && !error.contains("4711") && !error.contains("true"), "{error}");
        }
    }

    #[test]
    fn its_schema_marks_it_also_where_it_is_optional() {
        for schema in [schemars::schema_for!(Secret), schemars::schema_for!(Option<Secret>)] {
            let schema = schema.to_value();
            assert_eq!((&schema["writeOnly"], &schema["format"]), (&true.into(), &"password".into()), "{schema}");
        }
    }
}
