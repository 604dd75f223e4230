//! What a schema expects, in words.

use serde_json::{Map, Value};

use super::{LISTS, check::kinds, referred};

/// How deep forms within forms are told.
const DEEPEST: usize = 8;
/// How many choices are told.
const MOST: usize = 12;

/// To follow "expected".
pub(super) fn words(root: &Value, schema: &Map<String, Value>) -> String {
    or(all_words(root, schema, 0).into_iter())
}

/// As [`words`], for one of several forms.
pub(super) fn words_of_any(root: &Value, forms: &[Value]) -> String {
    or(of_any(root, forms.iter(), 0).into_iter())
}

/// `a`, `a or b`, `a, b or c`
pub(super) fn or(words: impl Iterator<Item = String>) -> String {
    let mut words = words.fold(Vec::new(), |mut known: Vec<String>, word| {
        if !known.contains(&word) {
            known.push(word);
        }
        known
    });
    if words.len() > 1 {
        // Settings have no null; it stands for a key that may be absent.
        words.retain(|word| word != "null");
    }
    if words.len() > MOST {
        words.truncate(MOST);
        return format!("{}, …", words.join(", "));
    }
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} or {last}", words.join(", ")),
        Some(only) => only,
        None => "something else".to_owned(),
    }
}

fn all_words(root: &Value, schema: &Map<String, Value>, depth: usize) -> Vec<String> {
    if depth > DEEPEST {
        return vec!["…".to_owned()];
    }
    if let Some(value) = schema.get("const") {
        return vec![value.to_string()];
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::to_string).collect();
    }
    if let Some(target) = referred(root, schema).and_then(Value::as_object) {
        return all_words(root, target, depth + 1);
    }
    let all: Vec<String> = kinds(schema).map(|kind| of_kind(kind, schema)).collect();
    if !all.is_empty() {
        return all;
    }
    let all = of_any(root, LISTS.iter().filter_map(|list| schema.get(*list)?.as_array()).flatten(), depth + 1);
    if all.is_empty() { vec!["anything".to_owned()] } else { all }
}

fn of_any<'a>(root: &Value, forms: impl Iterator<Item = &'a Value>, depth: usize) -> Vec<String> {
    forms.filter_map(Value::as_object).flat_map(|form| all_words(root, form, depth)).collect()
}

fn of_kind(kind: &str, schema: &Map<String, Value>) -> String {
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number());
    let range = |least: Option<&Value>, most: Option<&Value>, unit: &str| match (least, most) {
        (Some(least), Some(most)) if least == most => format!(" of {least}{unit}"),
        (Some(least), Some(most)) => format!(" from {least} to {most}{unit}"),
        (Some(least), None) => format!(" of at least {least}{unit}"),
        (None, Some(most)) => format!(" of at most {most}{unit}"),
        (None, None) => String::new(),
    };
    let nonzero = |name: &str| bound(name).filter(|bound| bound.as_u64() != Some(0));
    match kind {
        "string" => format!("a text{}", range(nonzero("minLength"), bound("maxLength"), " characters")),
        "integer" | "number" => {
            let noun = if kind == "integer" { "an integer" } else { "a number" };
            let above = bound("exclusiveMinimum").map(|least| format!(" above {least}")).unwrap_or_default();
            let below = bound("exclusiveMaximum").map(|most| format!(" below {most}")).unwrap_or_default();
            format!("{noun}{}{above}{below}", range(bound("minimum"), bound("maximum"), ""))
        }
        "boolean" => "true or false".to_owned(),
        "array" => format!("a list{}", range(nonzero("minItems"), bound("maxItems"), " items")),
        "object" => {
            // An enum's variant that holds something.
            let only =
                schema.get("required").and_then(Value::as_array).filter(|names| names.len() == 1).and_then(|names| names[0].as_str());
            let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
            only.filter(|_| closed).map_or("a table".to_owned(), |name| format!("a table with the key {name}"))
        }
        other => other.to_owned(),
    }
}
