//! Checks a value against a JSON Schema, as far as schemars makes them of Rust types: `type`, `const`, `enum`, `$ref`, `allOf`, `anyOf`, `oneOf`,
//! ranges of numbers, lengths of texts and lists, fields and items. What is not known here allows everything.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{LISTS, all_of, place::Place, referred, words::or, words::words, words::words_of_any};

/// How many schemas are looked at in all: no schema takes long.
const STEPS: u32 = 20_000;
/// How deep schemas and values within others are looked at.
const DEEPEST: u32 = 128;
/// How alike two words must be for one to be proposed for the other, from 0 to 1.
const ALIKE: f64 = 0.7;

pub(super) struct Check<'a> {
    root: &'a Value,
    /// Where secrets are, and whether they are known.
    secrets: &'a BTreeMap<String, bool>,
    steps: u32,
    depth: u32,
    found: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
}

/// What is wrong in one place.
#[derive(Clone)]
struct Mistake {
    place: Place,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// It is of another kind: text, number, table…
    Type(String),
    /// It is none of the values that are possible; nothing where it is missing.
    Choice(Option<Value>, Vec<Value>),
    Other(String),
}

impl Mistake {
    /// Whether it says that another form than this one is meant by what stands at `place`.
    fn is_decisive(&self, place: &Place) -> bool {
        match self.kind {
            Kind::Type(_) => self.place.depth == place.depth,
            Kind::Choice(..) => self.place.depth <= place.depth + 1,
            Kind::Other(_) => false,
        }
    }

    fn text(&self) -> String {
        match &self.kind {
            Kind::Type(text) | Kind::Other(text) => text.clone(),
            Kind::Choice(value, choices) => {
                let texts: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
                let meant = value.as_ref().and_then(Value::as_str).map(|text| did_you_mean(text, &texts)).unwrap_or_default();
                let found = value.as_ref().map_or("missing".to_owned(), |value| format!("found {}", self.place.found(value)));
                format!("{found}, expected {}{meant}", or(choices.iter().map(Value::to_string)))
            }
        }
    }
}

fn did_you_mean(word: &str, known: &[&str]) -> String {
    let scored = known.iter().map(|known| (strsim::normalized_damerau_levenshtein(&known.to_lowercase(), &word.to_lowercase()), known));
    let best = scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default()
}

type Schema = Map<String, Value>;

impl<'a> Check<'a> {
    pub(super) fn new(root: &'a Value, secrets: &'a BTreeMap<String, bool>) -> Self {
        Self { root, secrets, steps: STEPS, depth: 0, found: Vec::new(), warnings: Vec::new() }
    }

    /// The config as a whole, a table.
    pub(super) fn all(&mut self, value: &Value, place: &Place) {
        if self.root.get("type").is_some_and(|kind| kind == "null") {
            // What takes no config is an empty table in the settings, or nothing.
            for key in value.as_object().into_iter().flat_map(Map::keys) {
                self.other(&place.key(key), "unknown key; it takes no config".to_owned());
            }
        } else {
            self.whole(self.root, value, place);
        }
    }

    pub(super) fn mistakes(&self) -> impl Iterator<Item = String> + '_ {
        self.found.iter().map(|mistake| format!("{}: {}", mistake.place.text, mistake.text()))
    }

    fn push(&mut self, place: &Place, kind: Kind) {
        self.found.push(Mistake { place: place.clone(), kind });
    }

    fn other(&mut self, place: &Place, text: String) {
        self.push(place, Kind::Other(text));
    }

    /// All that a schema says about a value, and the names in it that no part of the schema knows.
    fn whole(&mut self, schema: &'a Value, value: &Value, place: &Place) {
        let secret;
        let place = match self.secrets.get(&place.text) {
            // What is wrong with it has been told.
            Some(false) => return,
            Some(true) => {
                secret = place.hide();
                &secret
            }
            None => place,
        };
        self.part(schema, value, place);
        let Value::Object(fields) = value else { return };
        let mut all = Vec::new();
        all_of(self.root, schema, &mut all);
        let has_fields =
            |schema: &Schema| schema.get("properties").is_some_and(Value::is_object) || kinds(schema).any(|kind| kind == "object");
        if all.iter().any(|schema| is_open(schema)) || !all.iter().filter_map(|schema| schema.as_object()).any(has_fields) {
            return;
        }
        let closed = all.iter().any(|schema| schema.get("unevaluatedProperties") == Some(&Value::Bool(false)));
        let known = all.iter().filter_map(|schema| schema.get("properties")?.as_object()).flat_map(Map::keys);
        let known: Vec<&str> = known.map(String::as_str).collect();
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let unknown = place.key(name);
            let told = self.found.iter().any(|mistake| mistake.place.text == unknown.text || mistake.place.text == place.text);
            let text = format!("unknown key{}", did_you_mean(name, &known));
            match (told, closed) {
                (true, _) => {}
                (false, true) => self.other(&unknown, text),
                (false, false) => self.warnings.push(format!("{}: {text}", unknown.text)),
            }
        }
    }

    /// What one schema says about a value.
    fn part(&mut self, schema: &'a Value, value: &Value, place: &Place) {
        let Some(left) = self.steps.checked_sub(1).filter(|_| self.depth < DEEPEST) else { return };
        (self.steps, self.depth) = (left, self.depth + 1);
        match schema {
            Value::Object(schema) => self.says(schema, value, place),
            Value::Bool(false) => self.other(place, "not allowed here".to_owned()),
            _ => {}
        }
        self.depth -= 1;
    }

    fn says(&mut self, schema: &'a Schema, value: &Value, place: &Place) {
        if let Some(target) = referred(self.root, schema) {
            self.part(target, value, place);
        }
        let mut kinds = kinds(schema).peekable();
        if (kinds.peek().is_some() && !kinds.any(|kind| is_of(kind, value))) || !is_in_range(schema, value) {
            let text = format!("found {}, expected {}", place.found(value), words(self.root, schema));
            return self.push(place, Kind::Type(text));
        }
        if let Some(choices) = choices(schema)
            && !choices.contains(value)
        {
            return self.push(place, Kind::Choice(Some(value.clone()), choices.to_vec()));
        }
        for list in LISTS {
            let forms = schema.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match list {
                "allOf" => forms.iter().for_each(|form| self.part(form, value, place)),
                _ => self.one_of(forms, value, place),
            }
        }
        match value {
            Value::Object(fields) => self.fields(schema, fields, place),
            Value::Array(items) => self.items(schema, items, place),
            _ => {}
        }
    }

    fn fields(&mut self, schema: &'a Schema, fields: &Schema, place: &Place) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let property = |name: &str| properties.and_then(|known| known.get(name));
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if fields.contains_key(name) {
                continue;
            }
            match property(name).and_then(Value::as_object) {
                Some(schema) if schema.contains_key("const") => {
                    self.push(&place.key(name), Kind::Choice(None, choices(schema).unwrap_or_default().to_vec()));
                }
                Some(schema) => self.other(&place.key(name), format!("missing, expected {}", words(self.root, schema))),
                None => self.other(&place.key(name), "missing".to_owned()),
            }
        }
        let others = schema.get("additionalProperties").filter(|_| !schema.contains_key("patternProperties"));
        for (name, field) in fields {
            match property(name).or(others) {
                Some(Value::Bool(false)) => {
                    let known: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                    self.other(&place.key(name), format!("unknown key{}", did_you_mean(name, &known)));
                }
                Some(schema) => self.whole(schema, field, &place.key(name)),
                None => {}
            }
        }
    }

    fn items(&mut self, schema: &'a Schema, items: &[Value], place: &Place) {
        let first = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(index).or_else(|| schema.get("items")) {
                self.whole(schema, item, &place.item(index));
            }
        }
    }

    /// One of several forms. Where none fits, what is wrong is told for the one that is probably meant.
    fn one_of(&mut self, forms: &'a [Value], value: &Value, place: &Place) {
        let (mut before, warned) = (std::mem::take(&mut self.found), self.warnings.len());
        let mut tried = Vec::new();
        for form in forms {
            self.part(form, value, place);
            let mistakes = std::mem::take(&mut self.found);
            if mistakes.is_empty() {
                self.found = before;
                return;
            }
            tried.push((mistakes, self.warnings.split_off(warned)));
        }
        self.found.append(&mut before);
        if !tried.is_empty() {
            self.tell(tried, forms, value, place);
        }
    }

    fn tell(&mut self, tried: Vec<(Vec<Mistake>, Vec<String>)>, forms: &[Value], value: &Value, place: &Place) {
        let decisive: Vec<Mistake> =
            tried.iter().flat_map(|(mistakes, _)| mistakes).filter(|mistake| mistake.is_decisive(place)).cloned().collect();
        // A form that could be meant; of several, the one with the fewest mistakes, first of all near its top.
        let possible = tried.into_iter().filter(|(mistakes, _)| !mistakes.iter().any(|mistake| mistake.is_decisive(place)));
        let rank = |(mistakes, _): &(Vec<Mistake>, _)| {
            (mistakes.iter().filter(|mistake| mistake.place.depth <= place.depth + 1).count(), mistakes.len())
        };
        let mut possible: Vec<_> = possible.collect();
        possible.sort_by_key(rank);
        if possible.len() == 1 || possible.len() > 1 && rank(&possible[0]) < rank(&possible[1]) {
            let (mut mistakes, mut warnings) = possible.swap_remove(0);
            self.found.append(&mut mistakes);
            self.warnings.append(&mut warnings);
            return;
        }
        // The forms differ in one value, a tag perhaps, which is none of theirs: those of all of them are expected.
        let mut of_all: Option<(Place, Option<Value>, Vec<Value>)> = None;
        let mut one_place = possible.is_empty();
        for mistake in decisive {
            let Kind::Choice(value, mut choices) = mistake.kind else { continue };
            match &mut of_all {
                None => of_all = Some((mistake.place, value, choices)),
                Some((place, _, all)) if place.text == mistake.place.text => all.append(&mut choices),
                Some(_) => one_place = false,
            }
        }
        match of_all.filter(|_| one_place) {
            Some((place, value, choices)) => self.push(&place, Kind::Choice(value, choices)),
            None => {
                let expected = words_of_any(self.root, forms);
                self.push(place, Kind::Type(format!("found {}, expected {expected}", place.found(value))));
            }
        }
    }
}

/// The values that are possible, where they are listed.
fn choices(schema: &Schema) -> Option<&[Value]> {
    schema.get("const").map(std::slice::from_ref).or_else(|| schema.get("enum")?.as_array().map(Vec::as_slice))
}

/// The kinds of value that are possible, where that is said.
pub(super) fn kinds(schema: &Schema) -> impl Iterator<Item = &str> {
    let kinds = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.as_slice(),
        Some(kind) => std::slice::from_ref(kind),
        None => &[],
    };
    kinds.iter().filter_map(Value::as_str)
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

fn is_in_range(schema: &Schema, value: &Value) -> bool {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let within =
        |size: f64, least: &str, most: &str| bound(least).is_none_or(|least| size >= least) && bound(most).is_none_or(|most| size <= most);
    #[expect(clippy::cast_precision_loss, reason = "no length in a settings file comes near")]
    match value {
        Value::Number(number) => number.as_f64().is_none_or(|number| {
            let above = bound("exclusiveMinimum").is_none_or(|least| number > least);
            let below = bound("exclusiveMaximum").is_none_or(|most| number < most);
            above && below && within(number, "minimum", "maximum")
        }),
        Value::String(text) => within(text.chars().count() as f64, "minLength", "maxLength"),
        Value::Array(items) => within(items.len() as f64, "minItems", "maxItems"),
        _ => true,
    }
}

/// Whether names are allowed that are not among a schema's fields, or may be: what says so is not looked into.
fn is_open(schema: &Value) -> bool {
    let Value::Object(schema) = schema else { return schema == &Value::Bool(true) };
    let says_more = ["patternProperties", "propertyNames", "if", "dependentSchemas", "not"].iter().any(|key| schema.contains_key(*key));
    let takes_others = ["additionalProperties", "unevaluatedProperties"].iter().filter_map(|key| schema.get(*key));
    let says_nothing = !["type", "properties", "$ref", "const", "enum"].iter().chain(&LISTS).any(|key| schema.contains_key(*key));
    says_more || takes_others.into_iter().any(|others| others != &Value::Bool(false)) || says_nothing
}
