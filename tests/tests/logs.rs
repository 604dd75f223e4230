//! What the host says about itself, and what it never says.
#![cfg(unix)]

use std::{collections::BTreeSet, fs};

use conductor_tests::{Credentials, Host, HostOptions, Mqtt, mqtt::EVERY_WAY};
use serde_json::{Value, json};

#[test]
fn no_pin_token_or_key_is_in_the_log_at_level_trace() {
    // Pins of twelve digits are found in a log by no accident.
    let options = HostOptions::default().plugin("echo", "conductor_test_echo").plugin("faulty", "conductor_test_faulty");
    let mut host = Host::start(options.set("sessions.pin_digits", json!(12)));
    let mut secrets = BTreeSet::new();
    for type_name in ["echo", "default", "active", "faulty"] {
        let session = host.create(type_name);
        secrets.insert(session.pin.clone());
        let wrong = format!("{:0>12}", session.pin.chars().rev().collect::<String>());
        host.join_raw(&json!({"id": session.id, "pin": wrong, "client": "a"}).to_string());
        host.join_raw(&json!({"id": session.id, "pin": [wrong], "client": "a"}).to_string());
        host.join_raw(&format!("{{\"pin\": \"{wrong}\""));
        secrets.insert(wrong);
        for client in ["a", "b"] {
            let token = host.join(&session, client);
            for (version, way) in EVERY_WAY {
                let credentials = Credentials::new(client, &session.id, &token).will(&format!("/{}/w", session.id), "w", false);
                Mqtt::connect(&host, version, way, &credentials).unwrap().cut();
                let stranger = Credentials::new("z", &session.id, &token);
                assert!(Mqtt::connect(&host, version, way, &stranger).is_err());
            }
            secrets.extend(token.split('.').skip(1).map(str::to_owned));
        }
        host.show(&session);
        host.ask(&session, "state", "");
        host.request(&session, "panic", Value::Null);
    }
    host.admin("/v1/sessions");
    host.stop();
    host.start_again();
    host.kill();
    secrets.extend(fs::read_to_string(host.folder().join("state/token-key.pem")).unwrap().lines().map(str::to_owned));
    secrets.retain(|secret| !secret.starts_with("-----"));
    let log = host.log();
    assert!(log.lines().count() > 50, "at level trace there is a lot to say:\n{log}");
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} is in the log:\n{}", log.lines().find(|line| line.contains(&secret)).unwrap());
    }
}

#[test]
fn every_line_is_one_json_object_and_names_its_session() {
    let mut host = Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"));
    let session = host.create("echo");
    host.stop();
    let log = host.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let created = lines.iter().find(|line| line.to_string().contains("type_name")).expect("what the plugin says arrives");
    assert!(created.to_string().contains(&session.id), "{created}");
}

#[test]
fn the_level_of_the_settings_holds() {
    let mut host = Host::start(HostOptions::default().set("log.level", json!("error")));
    let session = host.create("default");
    host.close(&session);
    host.stop();
    assert_eq!(host.log(), "");
}
