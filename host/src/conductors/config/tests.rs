//! Configs as administrators write them, against the schemas that schemars makes of Rust types.
#![expect(dead_code, reason = "the types are there for their schemas")]

use std::collections::{BTreeMap, HashMap};

use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(JsonSchema, Deserialize)]
struct Game {
    title: String,
    seats: u8,
    #[serde(default)]
    ratio: f64,
    mode: Option<Mode>,
    #[serde(default)]
    players: Vec<Player>,
    prizes: Option<HashMap<String, i64>>,
    spot: Option<(f32, f32)>,
    round: Option<Round>,
    reward: Option<Reward>,
    step: Option<Step>,
    rules: Option<Strict>,
    any: Option<Value>,
    by_number: Option<BTreeMap<u32, bool>>,
}

#[derive(JsonSchema, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    /// With words of its own.
    Slow,
    VerySlow,
}

#[derive(JsonSchema, Deserialize)]
struct Player {
    name: String,
    #[schemars(range(min = 1, max = 99))]
    number: Option<u16>,
    #[serde(default)]
    friends: Vec<Player>,
}

#[derive(JsonSchema, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Round {
    Timed { seconds: u32 },
    Open,
    Quiz { questions: Vec<String> },
}

#[derive(JsonSchema, Deserialize)]
enum Reward {
    None,
    Points(u32),
    Item { name: String },
}

#[derive(JsonSchema, Deserialize)]
#[serde(untagged)]
enum Step {
    Number(u32),
    Named { name: String, size: u32 },
}

#[derive(JsonSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    #[schemars(length(min = 2, max = 5))]
    code: Option<String>,
    #[serde(default)]
    colour: Option<String>,
}

fn check(schema: &schemars::Schema, config: &Value) -> Result<Vec<String>, Vec<String>> {
    let none = |_: &str| None;
    let checked = prepare("types", "game", config.as_object(), Some(schema.as_value()), Path::new("/"), &none);
    checked.map(|config| config.warnings).map_err(|mistakes| mistakes.iter().map(|text| text.replace("types.game.config", "~")).collect())
}

/// What is told for the fields `more` of a game.
fn told(more: &Value) -> Vec<String> {
    let mut config = json!({"title": "t", "seats": 2});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    match check(&schema_for!(Game), &config) {
        Ok(warnings) => {
            // What is accepted here, serde accepts.
            if let Err(error) = serde_json::from_value::<Game>(config) {
                panic!("{more}: {error}");
            }
            warnings.iter().map(|text| text.replace("types.game.config", "warned: ~")).collect()
        }
        Err(mistakes) => mistakes,
    }
}

#[test]
fn what_fits_is_accepted() {
    for more in [
        json!({}),
        json!({"seats": 255, "ratio": 1}),
        json!({"mode": "very_slow", "players": [{"name": "a", "number": 99, "friends": [{"name": "b"}]}]}),
        json!({"prizes": {"first": 3, "any name": -1}, "spot": [1, 2.5], "any": {"a": [null]}, "by_number": {"17": true}}),
        json!({"round": {"kind": "timed", "seconds": 3}, "reward": "None", "step": 4, "rules": {"code": "ab"}}),
        json!({"round": {"kind": "open"}, "reward": {"Points": 3}, "step": {"name": "a", "size": 1}, "rules": {}}),
        json!({"reward": {"Item": {"name": "cup"}}, "mode": null}),
    ] {
        assert_eq!(told(&more), [""; 0], "{more}");
    }
}

/// Part of the binary contract: SDK 1.0 compares the text where a conductor takes no config, and `{ }`, say, would be refused for ever.
#[test]
fn no_config_is_these_two_bytes_for_ever() {
    for given in [None, Some(Map::new())] {
        for schema in [None, Some(schema_for!(())), Some(schema_for!(Strict))] {
            let config =
                prepare("types", "game", given.as_ref(), schema.as_ref().map(schemars::Schema::as_value), Path::new("/"), &|_| None);
            assert_eq!(config.unwrap().json.get().as_bytes(), b"{}", "{schema:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_told_with_place_finding_and_expectation() {
    for (more, expected) in [
        (json!({"seats": 300}), "~.seats: found 300, expected an integer from 0 to 255"),
        (json!({"seats": 2.5}), "~.seats: found 2.5, expected an integer from 0 to 255"),
        (json!({"seats": "two"}), "~.seats: found \"two\", expected an integer from 0 to 255"),
        (json!({"title": ["x"]}), "~.title: found a list, expected a text"),
        (json!({"ratio": "x"}), "~.ratio: found \"x\", expected a number"),
        (
            json!({"mode": "verry_slow"}),
            "~.mode: found \"verry_slow\", expected \"fast\", \"very_slow\" or \"slow\"; did you mean very_slow?",
        ),
        (json!({"mode": 3}), "~.mode: found 3, expected \"fast\", \"very_slow\" or \"slow\""),
        (json!({"players": [{"name": "a"}, {"name": 5}]}), "~.players[1].name: found 5, expected a text"),
        (json!({"players": [{"number": 3}]}), "~.players[0].name: missing, expected a text"),
        (json!({"players": [{"name": "a", "number": 100}]}), "~.players[0].number: found 100, expected an integer from 1 to 99"),
        (
            json!({"players": [{"name": "a", "friends": [{"name": "b", "friends": [7]}]}]}),
            "~.players[0].friends[0].friends[0]: found 7, expected a table",
        ),
        (json!({"prizes": {"a b": "x"}}), "~.prizes.\"a b\": found \"x\", expected an integer"),
        (json!({"spot": [1]}), "~.spot: found a list, expected a list of 2 items"),
        (json!({"spot": [1, "x"]}), "~.spot[1]: found \"x\", expected a number"),
        (
            json!({"round": {"kind": "tmied"}}),
            "~.round.kind: found \"tmied\", expected \"timed\", \"open\" or \"quiz\"; did you mean timed?",
        ),
        (json!({"round": {}}), "~.round.kind: missing, expected \"timed\", \"open\" or \"quiz\""),
        (json!({"round": {"kind": "timed", "seconds": "x"}}), "~.round.seconds: found \"x\", expected an integer of at least 0"),
        (json!({"round": {"kind": "timed"}}), "~.round.seconds: missing, expected an integer of at least 0"),
        (json!({"round": "open"}), "~.round: found \"open\", expected a table"),
        (json!({"reward": {"Points": "x"}}), "~.reward.Points: found \"x\", expected an integer of at least 0"),
        (
            json!({"reward": {"Pionts": 1}}),
            "~.reward: found a table, expected \"None\", a table with the key Points or a table with the key Item",
        ),
        (json!({"reward": {"Item": {}}}), "~.reward.Item.name: missing, expected a text"),
        (json!({"reward": "Nothing"}), "~.reward: found \"Nothing\", expected \"None\""),
        (json!({"step": "x"}), "~.step: found \"x\", expected an integer of at least 0 or a table"),
        (json!({"step": {"name": "a", "size": -1}}), "~.step.size: found -1, expected an integer of at least 0"),
        (json!({"rules": {"color": "x"}}), "~.rules.color: unknown key; did you mean colour?"),
        (json!({"rules": {"code": "a"}}), "~.rules.code: found \"a\", expected a text from 2 to 5 characters"),
        (json!({"seatz": 3}), "warned: ~.seatz: unknown key; did you mean seats?"),
        (json!({"players": [{"name": "a", "wholly else": 1}]}), "warned: ~.players[0].\"wholly else\": unknown key"),
        (json!({"round": {"kind": "timed", "seconds": 1, "minutes": 2}}), "warned: ~.round.minutes: unknown key"),
    ] {
        assert_eq!(told(&more), [expected], "{more}");
    }
}

#[test]
fn every_mistake_is_told_and_unknown_keys_behind_them() {
    let config = json!({"title": 1, "saets": 2, "players": [{"number": 0}, 3]});
    let expected = [
        "~.seats: missing, expected an integer from 0 to 255",
        "~.title: found 1, expected a text",
        "~.players[0].name: missing, expected a text",
        "~.players[0].number: found 0, expected an integer from 1 to 99",
        "~.players[1]: found 3, expected a table",
        "~.saets: unknown key; did you mean seats?",
    ];
    assert_eq!(check(&schema_for!(Game), &config).unwrap_err(), expected);
}

#[test]
fn what_takes_no_config_gets_none() {
    let schema = schema_for!(());
    assert_eq!(check(&schema, &json!({})), Ok(vec![]));
    assert_eq!(check(&schema, &Value::Null), Ok(vec![]));
    let expected = ["~.a: unknown key; it takes no config", "~.b: unknown key; it takes no config"];
    assert_eq!(check(&schema, &json!({"a": 1, "b": 2})).unwrap_err(), expected);
}

#[test]
fn no_schema_takes_long_and_an_unknown_one_allows_everything() {
    let config = json!({"a": {"b": {"c": [1, 2, {"d": 1}]}}});
    for schema in [
        json!({"$ref": "#"}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#/allOf"}], "additionalProperties": {"$ref": "#"}}),
        json!({"anyOf": [{"type": "object", "additionalProperties": {"$ref": "#"}}, {"$ref": "#"}, {"$ref": "#/anyOf/0"}]}),
        json!({"if": {}, "then": {"type": "null"}, "type": "object"}),
        json!({"type": "object", "patternProperties": {".*": {"type": "null"}}, "additionalProperties": false}),
        json!({"type": 7, "required": 3, "properties": [], "anyOf": 1, "$ref": 5}),
        json!(true),
        json!("nonsense"),
    ] {
        let checked = prepare("types", "game", config.as_object(), Some(&schema), Path::new("/"), &|_| None);
        assert!(checked.is_ok_and(|config| config.warnings.is_empty()), "{schema}");
    }
}

/// As the SDK's type makes it.
fn secret() -> Value {
    json!({"type": "string", "format": "password", "writeOnly": true})
}

fn with_secrets() -> Value {
    json!({
        "type": "object",
        "properties": {
            "token": secret(),
            "old": {"type": ["string", "null"], "writeOnly": true},
            "doors": {"type": "array", "items": {"$ref": "#/$defs/Door"}},
            "many": {"anyOf": [{"type": "object", "additionalProperties": secret()}, {"type": "null"}]},
        },
        "required": ["token"],
        "$defs": {"Door": {"type": "object", "properties": {"code": secret(), "name": {"type": "string"}}, "required": ["code"]}},
    })
}

fn write_private(path: &Path, text: &[u8]) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    write_private(&folder.path().join("code"), b"sesame\r\n");
    let env = |name: &str| (name == "OLD").then(|| "sword\"fish".into());
    let config = json!({
        "token": "inline", "old": {"env": "OLD"}, "many": {"a": {"file": "code"}, "b": "short"},
        "doors": [{"code": {"file": folder.path().join("code")}, "name": "front"}],
    });
    let config = prepare("types", "game", config.as_object(), Some(&with_secrets()), folder.path(), &env).unwrap();
    let expected = json!({"token": "inline", "old": "sword\"fish", "many": {"a": "sesame", "b": "short"}, "doors": [{"code": "sesame", "name": "front"}]});
    assert_eq!(serde_json::from_str::<Value>(config.json.get()).unwrap(), expected);
    // As it is, and as a plugin may quote it.
    assert_eq!(config.hide_secrets(r#"inline sword"fish sword\"fish at sesame, front"#), "… … … at …, front");
    let debug = format!("{config:?}");
    assert!(!debug.contains("sesame") && !debug.contains("inline"), "{debug}");
}

#[test]
fn a_secret_that_cannot_be_had_is_told_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for (name, content) in [("empty", &b"\n"[..]), ("binary", b"\xffSECRET"), ("large", &[b'S'; 70_000])] {
        write_private(&folder.path().join(name), content);
    }
    let env = |name: &str| (name == "EMPTY").then(OsString::new);
    let kinds = "; expected a text, { file = \"PATH\" } or { env = \"NAME\" }";
    for (token, expected) in [
        (json!({"file": "none"}), format!("the file {}: there is no such file{kinds}", at("none"))),
        (json!({"file": "."}), format!("the file {}: this is not a regular file{kinds}", at("."))),
        (json!({"file": "binary"}), format!("the file {}: it is not UTF-8 text{kinds}", at("binary"))),
        (json!({"file": "large"}), format!("the file {}: it is larger than 64 KiB{kinds}", at("large"))),
        (json!({"file": "empty"}), "the secret is empty; write it into the file \"empty\"".to_owned()),
        (json!({"env": "EMPTY"}), "the secret is empty; set the environment variable \"EMPTY\" to it".to_owned()),
        (json!(""), "the secret is empty; write it there, or where it is: { file = \"PATH\" } or { env = \"NAME\" }".to_owned()),
        (json!({"env": "A\nB"}), format!("the environment variable \"A\\nB\" is not set{kinds}")),
        (json!({"file": "empty", "env": "EMPTY"}), format!("found a table of another kind{kinds}")),
        (json!({"fiel": "SECRET"}), format!("found a table of another kind{kinds}")),
        (json!({"file": 4711}), format!("found a table of another kind{kinds}")),
        (json!(4711), format!("found no text{kinds}")),
        (json!(["SECRET"]), format!("found a list{kinds}")),
    ] {
        let config = json!({ "token": token });
        let refused = prepare("types", "game", config.as_object(), Some(&with_secrets()), folder.path(), &env).unwrap_err();
        assert_eq!(refused, [format!("types.game.config.token: {expected}")], "{config}");
    }
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "SECRET").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let config = json!({"token": {"file": "token"}});
    let refused = prepare("types", "game", config.as_object(), Some(&with_secrets()), folder.path(), &|_| None).unwrap_err();
    assert!(refused[0].contains("others may read") && !refused[0].contains("SECRET"), "{refused:?}");
}

#[test]
fn a_secret_of_the_wrong_form_is_not_told() {
    // Not a word in the name of its key says so.
    let schema = json!({"type": "object", "properties": {"door": {"type": ["string", "null"], "writeOnly": true, "minLength": 8}}});
    let refused = prepare("types", "game", json!({"door": "SECRET"}).as_object(), Some(&schema), Path::new("/"), &|_| None).unwrap_err();
    assert_eq!(refused, ["types.game.config.door: found a text (not shown), expected a text of at least 8 characters"]);
}

#[test]
fn what_is_named_like_a_secret_is_not_told() {
    // In a schema that marks nothing.
    let schema =
        json!({"type": "object", "properties": {"api_key": {"type": "integer"}, "tokens": {"type": "array", "items": {"enum": [1]}}}});
    let config = json!({"api_key": "SECRET", "tokens": [4711, "SECRET"], "passwrod": "SECRET", "password": "SECRET"});
    let refused = prepare("types", "game", config.as_object(), Some(&schema), Path::new("/"), &|_| None).unwrap_err();
    assert_eq!(refused.len(), 5, "{refused:?}");
    let all = refused.join("\n");
    assert!(!all.contains("SECRET") && !all.contains("4711"), "{all}");
    assert!(all.contains("types.game.config.api_key: found a text (not shown), expected an integer"), "{all}");
}
