//! A type's config: checked as a whole before the host serves, and its secrets kept.
#![cfg(unix)]

use std::{fs, os::unix::fs::PermissionsExt};

use conductor_tests::{Host, HostOptions, artefacts, host, http::post};
use serde_json::json;
use tempfile::tempdir;

/// A type of the conductor `keeper`, which wants a token.
fn keeper(options: HostOptions, name: &str) -> HostOptions {
    options.plugin(name, "conductor_test_tokio_user").set(&format!("types.{name}.conductor"), json!("keeper"))
}

#[test]
fn all_mistakes_in_all_configs_are_told_at_once() {
    let mut options = HostOptions::default();
    for name in ["one", "two"] {
        options = keeper(options, name);
    }
    options = options.set("types.one.config.token", json!(4711)).set("types.one.config.seats", json!(300));
    options = options.set("types.two.config.tokne", json!("SECRET")).set("types.two.config.doors", json!([5]));
    options = options.set("types.default.config.colour", json!("red"));
    let ended = host::run_refused(tempdir().unwrap().path(), &options);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for told in [
        "types.one.config.token: found no text; expected a text, { file = ",
        "types.one.config.seats: found 300, expected an integer from 0 to 255",
        "types.two.config.token: missing, expected a text",
        "types.two.config.doors[0]: found 5, expected a table",
        "types.two.config.tokne: unknown key; did you mean token?",
        "types.default.config.colour: unknown key; it takes no config",
    ] {
        assert!(ended.stderr.replace("\\\"", "\"").contains(told), "{told}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("SECRET") && !ended.stderr.contains("4711"), "{}", ended.stderr);
}

#[test]
fn secrets_reach_conductors_and_services_and_nobody_else() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("front-code");
    fs::write(&file, "from-the-file\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let options = keeper(HostOptions::default(), "keeper").environment("KEEPER_TOKEN", "from-the-environment").environment(
        "CONDUCTOR_HOST__TYPES__keeper__CONFIG",
        &json!({
            "token": {"env": "KEEPER_TOKEN"}, "saets": 3,
            "doors": [{"name": "front", "code": {"file": "front-code"}}, {"name": "back", "code": "from-the-settings"}, {"name": "open"}],
        })
        .to_string(),
    );
    let options = options.set("services.steward.plugin", json!(artefacts::plugin("conductor_test_steward")));
    let options = options.set("services.steward.config.key.file", json!("front-code"));
    let mut host = Host::start_in(folder, options);
    let key = post(host.admin, "/v1/services/steward/requests", "{\"method\": \"key\"}");
    assert_eq!(key.json()["result"], "from-the-file".len(), "{key:?}");
    let session = host.create("keeper");
    let lengths =
        json!({"front": "from-the-file".len(), "back": "from-the-settings".len(), "open": 0, "token": "from-the-environment".len()});
    assert_eq!(host.ask(&session, "lengths", ""), lengths);
    host.admin("/v1/types/keeper");
    host.stop();
    let log = host.log();
    for secret in ["from-the-file", "from-the-settings", "from-the-environment"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(log.contains("types.keeper.config.saets: unknown key; did you mean seats?"), "{log}");
}

#[test]
fn what_is_named_like_a_secret_is_not_shown() {
    let folder = tempdir().unwrap();
    let settings = "[types.keeper]\nplugin = 'x'\nconfig = { token = 'SECRET', seats = 3, doors = [{ name = 'front', api_key = 4711, \
                    key = { file = 'code' }, password = { env = 'CODE', or = 'SECRET' } }] }\n";
    fs::write(folder.path().join("host.toml"), settings).unwrap();
    let shown = host::run(folder.path(), &["config", "show", "host.toml"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(!shown.stdout.contains("SECRET") && !shown.stdout.contains("4711"), "{}", shown.stdout);
    for kept in ["seats = 3", "front", "{ file = \"code\" }", "token = \"(not shown)\""] {
        assert!(shown.stdout.contains(kept), "{kept}: {}", shown.stdout);
    }
}
