//! JSON Schema in short, for people: `{name: string, qos?: uint8}`. What it leaves out is in the schema itself.

use serde_json::{Map, Value};

use crate::conductors::refusal::one_line;

/// How many bytes a short form has before no further part is begun; and how deep it goes, in schemas.
const LONGEST: usize = 600;
const DEEPEST: usize = 16;

/// The short form, on one line and without control characters. Takes a bounded time, whatever the schema.
pub(crate) fn short(schema: &Value) -> String {
    let mut writer = Writer { root: schema, out: String::new() };
    writer.schema(schema, 0);
    one_line(&writer.out, 2 * LONGEST)
}

/// The short form; nothing where nothing is taken (a type whose only value is null).
pub(super) fn parameters(schema: &Value) -> Option<String> {
    (schema.get("type").and_then(Value::as_str) != Some("null")).then(|| short(schema))
}

struct Writer<'a> {
    root: &'a Value,
    out: String,
}

impl<'a> Writer<'a> {
    fn schema(&mut self, schema: &'a Value, depth: usize) {
        if depth > DEEPEST || self.out.len() > LONGEST {
            // Once, however many parts are left.
            if !self.out.ends_with('…') {
                self.out.push('…');
            }
            return;
        }
        match schema {
            Value::Object(schema) => self.object(schema, depth),
            Value::Bool(false) => self.out += "nothing",
            _ => self.out += "any",
        }
    }

    fn object(&mut self, schema: &'a Map<String, Value>, depth: usize) {
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            match reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) {
                Some(found) => self.schema(found, depth + 1),
                None => self.out += reference,
            }
        } else if let Some(value) = schema.get("const") {
            self.out += &value.to_string();
        } else if let Some(values) = list("enum") {
            self.joined(values, " | ", |this, value| this.out += &value.to_string());
        } else if let Some(variants) = list("anyOf").or_else(|| list("oneOf")) {
            self.joined(variants, " | ", |this, variant| this.schema(variant, depth + 1));
        } else if let Some(parts) = list("allOf") {
            self.joined(parts, " & ", |this, part| this.schema(part, depth + 1));
        } else {
            match schema.get("type") {
                Some(Value::String(kind)) => self.typed(kind, schema, depth),
                Some(Value::Array(kinds)) => {
                    self.joined(kinds, " | ", |this, kind| this.typed(kind.as_str().unwrap_or("any"), schema, depth));
                }
                _ => self.out += "any",
            }
        }
    }

    fn typed(&mut self, kind: &str, schema: &'a Map<String, Value>, depth: usize) {
        match kind {
            "object" => self.fields(schema, depth),
            "array" => {
                self.out.push('[');
                if let Some(parts) = schema.get("prefixItems").and_then(Value::as_array) {
                    self.joined(parts, ", ", |this, part| this.schema(part, depth + 1));
                } else if let Some(items) = schema.get("items") {
                    self.schema(items, depth + 1);
                    self.out += ", …";
                }
                self.out.push(']');
            }
            // A format is what values of another type have.
            "null" => self.out += "null",
            _ => self.out += schema.get("format").and_then(Value::as_str).unwrap_or(kind),
        }
    }

    fn fields(&mut self, schema: &'a Map<String, Value>, depth: usize) {
        let required = |name: &str| {
            let required = schema.get("required").and_then(Value::as_array);
            required.is_some_and(|required| required.iter().any(|known| known == name))
        };
        self.out.push('{');
        let mut separator = "";
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.out += separator;
            separator = ", ";
            if self.out.len() > LONGEST {
                self.schema(field, depth);
                break;
            }
            self.out += &format!("{name}{}: ", if required(name) { "" } else { "?" });
            self.schema(field, depth + 1);
        }
        // Others are allowed where nothing is said; only a type for them is worth a word.
        if let Some(others @ Value::Object(_)) = schema.get("additionalProperties") {
            self.out += &format!("{separator}[any name]: ");
            self.schema(others, depth + 1);
        }
        self.out.push('}');
    }

    fn joined<T>(&mut self, parts: &'a [T], separator: &str, mut write: impl FnMut(&mut Self, &'a T)) {
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.out += separator;
            }
            if self.out.len() > LONGEST {
                self.out.push('…');
                return;
            }
            write(self, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_schemars_makes_of_usual_types_is_short() {
        for (schema, expected) in [
            (json!({"$schema": "x", "title": "string", "type": "string"}), "string"),
            (json!({"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255}), "uint8"),
            (json!({"type": ["integer", "null"], "format": "uint8"}), "uint8 | null"),
            (json!({"type": ["string", "null"]}), "string | null"),
            (json!(true), "any"),
            (json!(false), "nothing"),
            (json!({"title": "AnyValue"}), "any"),
            (json!({"type": "array", "items": {"type": "boolean"}}), "[boolean, …]"),
            (json!({"type": "array", "prefixItems": [{"type": "string"}, true]}), "[string, any]"),
            (json!({"type": "object", "additionalProperties": {"type": "number", "format": "double"}}), "{[any name]: double}"),
            (
                json!({"type": "object", "properties": {"b": {"type": "string"}, "a": {"$ref": "#/$defs/A"}}, "required": ["b"],
                    "$defs": {"A": {"oneOf": [{"const": "x"}, {"enum": ["y", 1]}]}}}),
                "{b: string, a?: \"x\" | \"y\" | 1}",
            ),
            (json!({"allOf": [{"type": "null"}, {"$ref": "elsewhere"}]}), "null & elsewhere"),
        ] {
            assert_eq!(short(&schema), expected, "{schema}");
        }
        assert_eq!(parameters(&json!({"title": "null", "type": "null"})), None);
    }

    #[test]
    fn no_schema_takes_long_or_a_second_line() {
        let circle = json!({"$ref": "#"});
        assert_eq!(short(&circle), "…");
        // Each level has ten of the next: 10^16 without a bound.
        let fan: Vec<_> = (0..10).map(|_| json!({"$ref": "#"})).collect();
        assert!(short(&json!({"anyOf": fan})).len() < 2 * LONGEST);
        let fan: serde_json::Map<_, _> = (0..10).map(|i| (format!("f{i}"), json!({"$ref": "#"}))).collect();
        assert!(short(&json!({"type": "object", "properties": fan})).len() < 2 * LONGEST);
        assert_eq!(short(&json!({"const": "a\nb\u{1b}"})), "\"a\\nb\\u001b\"");
        assert_eq!(short(&json!({"type": "a\nb"})), "a b");
        assert!(short(&json!({"const": "x".repeat(1 << 20)})).len() < 3 * LONGEST);
    }
}
