//! Secrets in a config: a text, or where the host finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::Path,
};

use serde_json::{Map, Value};

use super::{all_of, place::Place};
use crate::tokens::keys::{KeyProblem, read_private};

/// Puts in each place that the schema marks as a secret (`writeOnly`) the text that is meant there.
pub(super) struct Fetch<'a> {
    root: &'a Value,
    folder: &'a Path,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) mistakes: Vec<String>,
    pub(super) secrets: BTreeSet<String>,
    /// Where secrets are, and whether it is known what they are.
    pub(super) places: BTreeMap<String, bool>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(root: &'a Value, folder: &'a Path, env: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { root, folder, env, mistakes: Vec::new(), secrets: BTreeSet::new(), places: BTreeMap::new() }
    }

    pub(super) fn all(&mut self, value: &mut Value, place: &Place) {
        self.walk(vec![self.root], value, place);
    }

    /// `schemas` are all that say something about this value.
    fn walk(&mut self, schemas: Vec<&'a Value>, value: &mut Value, place: &Place) {
        let mut all = Vec::new();
        schemas.into_iter().for_each(|schema| all_of(self.root, schema, &mut all));
        let all: Vec<&'a Map<String, Value>> = all.into_iter().filter_map(Value::as_object).collect();
        if all.iter().any(|schema| is_secret(schema)) {
            let known = self.fetch(value, place);
            self.places.insert(place.text.clone(), known);
            return;
        }
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let of_field = |schema: &&'a Map<String, Value>| {
                        schema.get("properties").and_then(|known| known.get(name)).or_else(|| schema.get("additionalProperties"))
                    };
                    self.walk(all.iter().filter_map(of_field).collect(), field, &place.key(name));
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let of_item = |schema: &&'a Map<String, Value>| {
                        schema.get("prefixItems").and_then(|known| known.get(index)).or(schema.get("items"))
                    };
                    self.walk(all.iter().filter_map(of_item).collect(), item, &place.item(index));
                }
            }
            _ => {}
        }
    }

    fn fetch(&mut self, value: &mut Value, place: &Place) -> bool {
        let to_do = to_do_where_empty(value);
        let fetched = match value {
            // Of a secret that may be absent.
            Value::Null => return true,
            Value::String(text) => Ok(std::mem::take(text)),
            Value::Object(table) => self.elsewhere(table),
            Value::Array(_) => Err("found a list".to_owned()),
            _ => Err("found no text".to_owned()),
        };
        match fetched {
            Ok(text) if text.is_empty() => self.mistakes.push(format!("{}: the secret is empty; {to_do}", place.text)),
            Ok(text) => {
                self.secrets.insert(text.clone());
                *value = Value::String(text);
                return true;
            }
            Err(problem) => {
                self.mistakes.push(format!("{}: {problem}; expected a text, {{ file = \"PATH\" }} or {{ env = \"NAME\" }}", place.text))
            }
        }
        false
    }

    fn elsewhere(&self, table: &Map<String, Value>) -> Result<String, String> {
        let mut entries = table.iter();
        match (entries.next(), entries.next()) {
            (Some((kind, Value::String(name))), None) if kind == "file" => self.file(name),
            (Some((kind, Value::String(name))), None) if kind == "env" => self.variable(name),
            _ => Err("found a table of another kind".to_owned()),
        }
    }

    fn file(&self, name: &str) -> Result<String, String> {
        let path = self.folder.join(name);
        let told = |problem: &str| format!("the file {}: {problem}", path.display());
        let bytes = read_private(&path).map_err(|problem| match problem {
            KeyProblem::NotAFile => told("this is not a regular file"),
            KeyProblem::TooLarge => told("it is larger than 64 KiB"),
            other => told(&other.to_string()),
        })?;
        let text = String::from_utf8(bytes).map_err(|_| told("it is not UTF-8 text"))?;
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        Ok(text.to_owned())
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        let value = (self.env)(name).ok_or_else(|| format!("the environment variable {name:?} is not set"))?;
        value.into_string().map_err(|_| format!("the environment variable {name:?} is not UTF-8 text"))
    }
}

fn to_do_where_empty(value: &Value) -> String {
    let named = |kind: &str| value.get(kind).and_then(Value::as_str);
    match (named("file"), named("env")) {
        (Some(file), _) => format!("write it into the file {file:?}"),
        (_, Some(variable)) => format!("set the environment variable {variable:?} to it"),
        _ => "write it there, or where it is: { file = \"PATH\" } or { env = \"NAME\" }".to_owned(),
    }
}

fn is_secret(schema: &Map<String, Value>) -> bool {
    let text = match schema.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => false,
    };
    text && schema.get("writeOnly") == Some(&Value::Bool(true))
}
