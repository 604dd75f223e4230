//! The three sources of settings, weakest first: file, environment, flags. Each gives values by path that know where they
//! were set; which keys exist is asked of the table, what a value means is the reader's business.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    path::Path,
    sync::Arc,
};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::{
    ENVIRONMENT_PREFIX,
    mistakes::{Mistake, Origin, Warning, clean},
    table::{self, Family},
    values::LOG_LEVEL,
};

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    name: String,
    /// Nothing where the text has no `=`.
    setting: Option<(String, String)>,
}

impl Flag {
    /// A flag that sets one key: `flag` as written (`--log-level`), its key and its value.
    #[must_use]
    pub fn new(flag: &str, key: &str, value: &str) -> Self {
        Self { name: flag.to_owned(), setting: Some((key.to_owned(), value.to_owned())) }
    }

    /// The argument of a `--set`: `SECTION.KEY=VALUE`. One of another form is reported with all other mistakes.
    #[must_use]
    pub fn set(argument: &str) -> Self {
        match argument.split_once('=') {
            Some((key, value)) => Self::new(&format!("--set {}", clean(key.trim())), key.trim(), value),
            None => Self { name: format!("--set {}", clean(argument)), setting: None },
        }
    }
}

pub(super) enum Raw {
    /// From the file.
    Value(Value),
    /// From the environment or a flag: its meaning depends on the key.
    Text(String),
}

pub(super) struct Given {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// All that the sources say.
#[derive(Default)]
pub(super) struct Collected {
    /// By path (`iot.listen`, `types.default.plugin`); the last one wins.
    pub(super) given: HashMap<String, Vec<Given>>,
    /// By the word of a family (`types`): the names in it, each with where it was said first.
    pub(super) names: BTreeMap<&'static str, BTreeMap<String, Origin>>,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Warning>,
    /// The file is no TOML, so that what it would have set is unknown.
    pub(super) file_unread: bool,
}

pub(super) fn collect(file: Option<(&Path, &str)>, env: impl IntoIterator<Item = (OsString, OsString)>, flags: &[Flag]) -> Collected {
    let mut all = Collected::default();
    let mut env: Vec<(OsString, OsString)> = env.into_iter().collect();
    env.sort();
    if let Some((_, value)) = env.iter().find(|(name, value)| name == "RUST_LOG" && !value.is_empty()) {
        all.rust_log(value);
    }
    if let Some((name, text)) = file {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        File { name: clean(&name.display().to_string()).into(), text, breaks, all: &mut all }.read();
    }
    for (name, value) in &env {
        all.variable(name, value);
    }
    for (position, flag) in flags.iter().enumerate() {
        all.flag(position, flag);
    }
    all
}

/// Where a key stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In this section, which need not exist.
    Section(&'a str),
    /// In the table of this name in a family (of the type of this name, say).
    Named(&'static Family, &'a str),
}

impl Place<'_> {
    fn path(self) -> String {
        match self {
            // As a proposal, `types.NAME` is written as it is meant.
            Self::Section(section) if table::FAMILIES.iter().any(|family| family.section == section) => section.to_owned(),
            Self::Section(section) => segment(section),
            Self::Named(family, name) => named_path(family, name),
        }
    }
}

/// A key as file and flags write it.
fn dotted(place: Place<'_>, key: &str) -> String {
    format!("{}.{key}", place.path())
}

/// The path of a type, say; a name that is not plain is quoted.
pub(super) fn named_path(family: &Family, name: &str) -> String {
    format!("{}.{}", family.word, segment(name))
}

/// One part of a key, quoted where TOML asks for it.
pub(crate) fn segment(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if plain { text.to_owned() } else { format!("{text:?}") }
}

impl Collected {
    /// `RUST_LOG` is everybody's variable: what is wrong with it must not stop the start.
    fn rust_log(&mut self, value: &OsStr) {
        let origin = Origin::Environment("RUST_LOG".into());
        match value.to_str().filter(|text| (LOG_LEVEL.parse)(&Value::from(*text)).is_ok()) {
            Some(text) => self.give("log.level", Raw::Text(text.to_owned()), origin),
            None => {
                let text = format!("ignored: {} is not {}", found(&value.to_string_lossy()), LOG_LEVEL.expected);
                self.warnings.push(Warning { origin, key: "log.level".to_owned(), text });
            }
        }
    }

    fn variable(&mut self, name: &OsStr, value: &OsStr) {
        let lossy = name.to_string_lossy();
        let Some(rest) = lossy.strip_prefix(ENVIRONMENT_PREFIX) else { return };
        let origin = Origin::Environment(clean(&lossy).into());
        let (Some(_), Some(value)) = (name.to_str(), value.to_str()) else {
            return self.mistake(&origin, "", "name and value must be Unicode text");
        };
        let named = table::FAMILIES.into_iter().find_map(|family| {
            let rest = rest.strip_prefix(&*family.word.to_uppercase())?.strip_prefix("__")?;
            rest.rsplit_once("__").map(|(name, key)| (Place::Named(family, name), key))
        });
        let (place, key, upper) = match named {
            Some((place, key)) => (place, key, key.to_uppercase() == key),
            None => {
                let (section, key) = rest.split_once("__").unwrap_or((rest, ""));
                (Place::Section(&section.to_lowercase()), key, rest.to_uppercase() == rest)
            }
        };
        if !upper {
            // Otherwise two variables could set the same key, in no order.
            return self.mistake(&origin, "", format!("expected {ENVIRONMENT_PREFIX}SECTION__KEY, all in upper case"));
        }
        let spell = |place: Place<'_>, key: &str| match place {
            Place::Section(section) => format!("{ENVIRONMENT_PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase()),
            Place::Named(family, name) => {
                format!("{ENVIRONMENT_PREFIX}{}__{name}__{}", family.word.to_uppercase(), key.to_uppercase())
            }
        };
        self.set(place, &key.to_lowercase(), Raw::Text(value.to_owned()), origin, spell);
    }

    fn flag(&mut self, position: usize, flag: &Flag) {
        let origin = Origin::Flag { position, name: flag.name.as_str().into() };
        let Some((path, value)) = &flag.setting else {
            return self.mistake(&origin, "", "expected SECTION.KEY=VALUE");
        };
        let named = path.split_once('.').and_then(|(word, rest)| Some((table::family(word)?, rest.rsplit_once('.')?)));
        let (place, key) = match named {
            Some((family, (name, key))) => (Place::Named(family, name), key),
            None => {
                let (section, key) = path.split_once('.').unwrap_or((path, ""));
                (Place::Section(section), key)
            }
        };
        self.set(place, key, Raw::Text(value.clone()), origin, dotted);
    }

    /// Gives a key its value, or says that there is no such key; `spell` writes a key as this source does.
    fn set(&mut self, place: Place<'_>, key: &str, raw: Raw, origin: Origin, spell: impl Fn(Place<'_>, &str) -> String) {
        let (section, known_section) = match place {
            Place::Named(family, name) => {
                self.name(family, name, &origin);
                (family.section, true)
            }
            Place::Section(section) => {
                if let Some(family) = section.split('.').next().and_then(table::family) {
                    let problem = format!("expected the name of {} and a key, as in {}.plugin", family.what, family.section);
                    return self.mistake(&origin, family.word, problem);
                }
                (section, table::is_section(section))
            }
        };
        let path = if key.is_empty() { place.path() } else { format!("{}.{}", place.path(), segment(key)) };
        if table::has(section, key) {
            self.give(&path, raw, origin);
        } else if known_section {
            let suggestion = table::suggest_key(section, key).map(|(other, key)| {
                let place = if other == section { place } else { Place::Section(other) };
                spell(place, key)
            });
            self.mistake(&origin, &path, format!("unknown key{}", did_you_mean(suggestion)));
        } else {
            self.unknown_section(&origin, section, &path);
        }
    }

    /// Notes a name of a family.
    fn name(&mut self, family: &'static Family, name: &str, origin: &Origin) {
        let names = self.names.entry(family.word).or_default();
        names.entry(name.to_owned()).or_insert_with(|| origin.clone());
    }

    fn unknown_section(&mut self, origin: &Origin, section: &str, path: &str) {
        self.mistake(origin, path, format!("unknown section or key{}", did_you_mean(table::suggest_section(section))));
    }

    fn give(&mut self, path: &str, raw: Raw, origin: Origin) {
        self.given.entry(path.to_owned()).or_default().push(Given { raw, origin });
    }

    fn mistake(&mut self, origin: &Origin, path: &str, problem: impl Into<String>) {
        self.mistakes.push(Mistake::new(origin, path, problem));
    }
}

fn did_you_mean(suggestion: Option<String>) -> String {
    suggestion.map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}

/// A found text for a message.
fn found(text: &str) -> String {
    clean(&format!("{text:?}"))
}

/// The settings file.
struct File<'a> {
    name: Arc<str>,
    text: &'a str,
    /// Where its line breaks are.
    breaks: Vec<usize>,
    all: &'a mut Collected,
}

impl File<'_> {
    fn read(mut self) {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        self.all.file_unread = !errors.is_empty();
        for error in &errors {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            let origin = Origin::File { name: self.name.clone(), line: self.line(at), column: self.column(at) };
            self.all.mistake(&origin, "", format!("TOML syntax: {}", clean(error.message())));
        }
        if errors.is_empty() {
            self.root(root.get_ref());
        }
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (key, value) in root {
            let (section, origin) = (key.get_ref(), self.origin(key.span().start));
            match (value.get_ref(), table::family(section)) {
                (DeValue::Table(tables), Some(family)) => self.family(family, tables),
                (DeValue::Table(keys), None) if table::is_section(section) => self.keys(Place::Section(section), keys),
                (other, family) if family.is_some() || table::is_section(section) => self.not_a_table(&origin, section, other),
                _ => self.all.unknown_section(&origin, section, &segment(section)),
            }
        }
    }

    fn family(&mut self, family: &'static Family, tables: &DeTable<'_>) {
        for (name, value) in tables {
            let origin = self.origin(name.span().start);
            match value.get_ref() {
                DeValue::Table(keys) => {
                    self.all.name(family, name.get_ref(), &origin);
                    self.keys(Place::Named(family, name.get_ref()), keys);
                }
                other => self.not_a_table(&origin, &named_path(family, name.get_ref()), other),
            }
        }
    }

    fn not_a_table(&mut self, origin: &Origin, path: &str, value: &DeValue<'_>) {
        let found = value.type_str();
        self.all.mistake(origin, path, format!("found a value of type {found}, expected a table with keys"));
    }

    fn keys(&mut self, place: Place<'_>, keys: &DeTable<'_>) {
        for (key, value) in keys {
            let origin = self.origin(key.span().start);
            match json(value.get_ref()) {
                Ok(value) => self.all.set(place, key.get_ref(), Raw::Value(value), origin, dotted),
                Err(problem) => self.all.mistake(&origin, &dotted(place, &segment(key.get_ref())), problem),
            }
        }
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File { name: self.name.clone(), line: self.line(at), column: 0 }
    }

    fn line(&self, at: usize) -> usize {
        self.breaks.partition_point(|&line_break| line_break < at) + 1
    }

    fn column(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = before.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line).chars().count() + 1
    }
}

/// A TOML value as JSON, the form in which a plugin gets its own settings; date and time as text.
fn json(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|_| format!("found {}, expected an integer of 64 bits", clean(number.as_str())))?,
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
            parsed.map(Value::Number).ok_or_else(|| format!("found {}, expected a finite number", clean(number.as_str())))?
        }
        DeValue::Array(list) => Value::Array(list.iter().map(|value| json(value.get_ref())).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value.get_ref())?)));
            Value::Object(entries.collect::<Result<Map<_, _>, String>>()?)
        }
    })
}
