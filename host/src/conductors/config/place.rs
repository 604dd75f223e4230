//! A place in a config, as messages name it.

use serde_json::Value;

use crate::{
    conductors::refusal::one_line,
    config::{is_secret_name, segment},
};

/// How much of a value is shown.
const SHOWN: usize = 60;

/// `types.NAME.config.a.b[2]`
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) text: String,
    /// How many steps below the config.
    pub(super) depth: usize,
    /// Whether what stands here may be a secret, by a name on the way.
    hidden: bool,
}

impl Place {
    pub(super) fn config(section: &str, name: &str) -> Self {
        Self { text: format!("{section}.{}.config", segment(name)), depth: 0, hidden: false }
    }

    /// Of a command.
    pub(super) fn option(name: &str) -> Self {
        Self { text: name.to_owned(), depth: 0, hidden: false }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let text = format!("{}.{}", self.text, one_line(&segment(key), SHOWN));
        Self { text, depth: self.depth + 1, hidden: self.hidden || is_secret_name(key) }
    }

    pub(super) fn item(&self, index: usize) -> Self {
        Self { text: format!("{}[{index}]", self.text), depth: self.depth + 1, hidden: self.hidden }
    }

    /// As it is, and known to be a secret's.
    pub(super) fn hide(&self) -> Self {
        Self { hidden: true, ..self.clone() }
    }

    /// What was found here, for a message; of what may be a secret, its kind.
    pub(super) fn found(&self, value: &Value) -> String {
        match value {
            Value::Object(_) => "a table".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::String(_) if self.hidden => "a text (not shown)".to_owned(),
            Value::Number(_) if self.hidden => "a number (not shown)".to_owned(),
            other => one_line(&other.to_string(), SHOWN),
        }
    }
}
