//! A type's `config`, before its plugin gets it: its secrets are fetched, and it is checked against the schema in the plugin's manifest.
//!
//! Every mistake is told at once, with its key, what was found and what is expected; a value that is a secret, or is named like one, is
//! never told. The schema counts: what it does not allow is refused, whatever the plugin itself would say. The plugin looks at the config
//! after that, for what no schema says.

mod check;
mod place;
mod secrets;
#[cfg(test)]
mod tests;
mod words;

use std::{collections::BTreeSet, ffi::OsString, fmt, path::Path};

use serde_json::{Map, Value, value::RawValue};

use self::{check::Check, place::Place, secrets::Fetch};

/// A config that its schema allows, with its secrets in it.
pub struct Config {
    /// For the plugin.
    pub json: Box<RawValue>,
    /// What is probably not meant, each with its key.
    pub warnings: Vec<String>,
    secrets: BTreeSet<String>,
}

impl Config {
    /// `text` (an error of the plugin, say) with the config's secrets taken out.
    #[must_use]
    pub fn hide_secrets(&self, text: &str) -> String {
        // Also as a plugin may quote them; the longest first, since one may be a part of another.
        let quoted = |secret: &String| {
            let json = Value::from(secret.as_str()).to_string();
            [secret.clone(), secret.escape_debug().to_string(), json[1..json.len() - 1].to_owned()]
        };
        let mut hidden: Vec<String> = self.secrets.iter().filter(|secret| !secret.is_empty()).flat_map(quoted).collect();
        hidden.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let text = hidden.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"));
        super::clip(&text).into_owned()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// Checks the config that the settings give the type `type_name`, and fetches its secrets: from files, relative to `folder` and their owner's
/// alone, or from the environment (`env`). Without a schema there is nothing to check.
///
/// # Errors
/// All mistakes, each with its key, and all warnings behind them.
pub fn prepare(
    section: &str,
    name: &str,
    given: Option<&Map<String, Value>>,
    schema: Option<&Value>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Config, Vec<String>> {
    prepare_at(&Place::config(section, name), given, schema, folder, env)
}

/// As [`prepare`], for what a command is given as its `option`.
///
/// # Errors
/// As there.
pub fn prepare_option(
    option: &str,
    given: &Map<String, Value>,
    schema: Option<&Value>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Config, Vec<String>> {
    prepare_at(&Place::option(option), Some(given), schema, folder, env)
}

fn prepare_at(
    place: &Place,
    given: Option<&Map<String, Value>>,
    schema: Option<&Value>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Config, Vec<String>> {
    let mut value = Value::Object(given.cloned().unwrap_or_default());
    let (mut mistakes, mut warnings, mut secrets) = (Vec::new(), Vec::new(), BTreeSet::new());
    if let Some(schema) = schema {
        let mut fetch = Fetch::new(schema, folder, env);
        fetch.all(&mut value, place);
        let mut check = Check::new(schema, &fetch.places);
        check.all(&value, place);
        mistakes.extend(fetch.mistakes);
        mistakes.extend(check.mistakes());
        warnings = check.warnings;
        secrets = fetch.secrets;
    }
    if mistakes.is_empty() {
        let json = RawValue::from_string(value.to_string()).map_err(|e| vec![format!("{}: {e}", place.text)])?;
        return Ok(Config { json, warnings, secrets });
    }
    mistakes.append(&mut warnings);
    Err(mistakes)
}

/// `$ref` within the same schema.
fn referred<'a>(root: &'a Value, schema: &Map<String, Value>) -> Option<&'a Value> {
    let reference = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    root.pointer(reference)
}

/// The lists of schemas in which a schema may have further ones for the same value.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// How many schemas may say something about one value; what is beyond is not looked at.
const MOST: usize = 500;

/// `schema` and all that it refers to for the same value: each once, so that a circle ends.
fn all_of<'a>(root: &'a Value, schema: &'a Value, found: &mut Vec<&'a Value>) {
    if found.len() >= MOST || found.iter().any(|known| std::ptr::eq(*known, schema)) {
        return;
    }
    found.push(schema);
    let Value::Object(schema) = schema else { return };
    if let Some(target) = referred(root, schema) {
        all_of(root, target, found);
    }
    for part in LISTS.iter().filter_map(|list| schema.get(*list)?.as_array()).flatten() {
        all_of(root, part, found);
    }
}
