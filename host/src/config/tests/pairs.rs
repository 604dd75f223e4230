//! Keys that need another, and those that hold a secret.

use super::*;
use crate::access::Role;

#[test]
fn keys_that_need_another_say_so_where_they_are_set() {
    let file = |text: &str| lines(text, &[], &[]);
    assert_eq!(file("[mqtt]\nbroker = \"external\"\n"), ["settings.toml:2: mqtt.broker: needs mqtt.url, which is not set"]);
    assert_eq!(
        file("[admin]\ntls = true\n[mqtt]\ntls_listen = \"0.0.0.0:8883\"\n[tls]\ncert = \"c\"\n"),
        [
            "settings.toml:2: admin.tls: needs tls.key, which is not set",
            "settings.toml:4: mqtt.tls_listen: needs tls.key, which is not set",
            "settings.toml:6: tls.cert: needs tls.key, which is not set",
        ]
    );
    assert_eq!(
        file("[mqtt]\nclient_cert = \"c\"\nlink_password = \"p\"\nlink_password_file = \"f\"\n"),
        [
            "settings.toml:2: mqtt.client_cert: needs mqtt.client_key, which is not set",
            "settings.toml:3: mqtt.link_password: needs mqtt.link_username, which is not set",
            "settings.toml:4: mqtt.link_password_file: needs mqtt.link_username, which is not set",
            "settings.toml:4: mqtt.link_password_file: set beside mqtt.link_password (settings.toml:3); keep one of them",
        ]
    );
    // With another broker its listeners are checked, and need nothing.
    good("[mqtt]\nbroker = \"none\"\ntls_listen = \"0.0.0.0:1883\"\nlisten = \"0.0.0.0:1883\"\nurl = \"mqtts://h\"\n", &[], &[]);
    assert!(file("[mqtt]\nbroker = \"none\"\ntls_listen = \"here\"\n")[0].contains("mqtt.tls_listen: found \"here\""));
}

#[test]
fn identities_of_others_need_all_that_pins_them() {
    let file = |text: &str| lines(&format!("[admin]\n{text}\n"), &[], &[]);
    let missing = |key: &str, other: &str| format!("settings.toml:2: admin.{key}: needs admin.{other}, which is not set");
    let issuer = "oidc_issuer = \"https://login.example.org/\"";
    assert_eq!(file(issuer), [missing("oidc_issuer", "oidc_audience"), missing("oidc_issuer", "oidc_roles")]);
    assert_eq!(file("oidc_audience = \"a\""), [missing("oidc_audience", "oidc_issuer")]);
    assert_eq!(file("oidc_roles = { a = \"viewer\" }"), [missing("oidc_roles", "oidc_issuer")]);
    assert_eq!(file("client_ca = \"ca.pem\""), [missing("client_ca", "client_roles")]);
    assert_eq!(file("client_roles = { a = \"viewer\" }"), [missing("client_roles", "client_ca")]);
    let text = format!("[admin]\n{issuer}\noidc_audience = \"a\"\n[admin.oidc_roles]\n\"x y\" = \"admin\"\nb = \"viewer\"\n");
    let admin = good(&text, &[], &[]).admin;
    assert_eq!(admin.oidc_issuer.as_deref(), Some("https://login.example.org/"), "to the letter, its last slash included");
    assert_eq!(admin.oidc_roles, [("x y".to_owned(), Role::Admin), ("b".to_owned(), Role::Viewer)].into());
    let env = [("CONDUCTOR_HOST__ADMIN__CLIENT_ROLES", "{\"a\": \"operator\"}")];
    assert_eq!(good("[admin]\nclient_ca = \"c\"\n", &env, &[]).admin.client_roles, [("a".to_owned(), Role::Operator)].into());
    for wrong in ["root", "Admin", ""] {
        let line = only(&format!("{text}c = \"{wrong}\"\n"), &[], &[]);
        assert!(line.contains("admin.oidc_roles: found another role for \"c\""), "{line}");
    }
    for wrong in ["http://login.example.org", "https://login.example.org/?a=b", "https://login.example.org/#a", "login.example.org", ""] {
        let line = only(&text.replace("https://login.example.org/", wrong), &[], &[]);
        assert!(line.contains("admin.oidc_issuer: found") && line.contains("https://"), "{line}");
    }
    let line = only(&text.replace("https://", "https://u:s3cret@"), &[], &[]);
    assert!(!line.contains("s3cret"), "{line}");
}

#[test]
fn the_audit_log_can_be_moved_and_turned_off() {
    assert_eq!(good("", &[], &[]).audit.file, Some(Path::new(BASE).join("state/audit.log")));
    assert_eq!(good("[state]\ndir = \"s\"\n", &[], &[]).audit.file, Some(Path::new(BASE).join("s/audit.log")));
    assert_eq!(good("[audit]\nfile = \"\"\n", &[], &[]).audit.file, None);
    for (key, wrong) in [("max_bytes", "100"), ("max_bytes", "\"16MiB\""), ("keep", "101"), ("keep", "-1"), ("file", "1")] {
        assert!(only(&format!("[audit]\n{key} = {wrong}\n"), &[], &[]).contains(&format!("audit.{key}: found")), "{key} {wrong}");
    }
}

#[test]
fn a_secret_is_shown_nowhere() {
    let text = "[mqtt]\nlink_username = \"u\"\nlink_password = \"s3cret\"\n";
    let settings = good(text, &[], &[]);
    assert_eq!(settings.mqtt.link_password.as_ref().map(Secret::expose), Some("s3cret"));
    assert!(!settings.show().contains("s3cret") && settings.show().contains("# link_password is set, and not shown"));
    assert!(!format!("{settings:?}").contains("s3cret"));
    for url in ["mqtt://u:s3cret@h:1", "mqtts://u:s3cret@h/?x=1", "mqtt://u:s3 cret@h", "u:s3cret@h"] {
        let line = only("", &[], &[&format!("mqtt.url={url}")]);
        assert!(!line.contains("cret") && line.contains("expected a URL such as"), "{line}");
    }
    let long = "s3cret".repeat(20_000);
    for wrong in [format!("\"{long}\""), "[\"s3cret\"]".into(), "{ s3cret = 1 }".into(), "31337".into()] {
        let line = only(&format!("[mqtt]\nlink_username = \"u\"\nlink_password = {wrong}\n"), &[], &[]);
        assert!(!line.contains("s3cret") && !line.contains("31337") && line.contains("expected a text of 1 to 65535 bytes"), "{line}");
    }
    // From the environment a password of digits is a text too.
    let env = [("CONDUCTOR_HOST__MQTT__LINK_USERNAME", "u"), ("CONDUCTOR_HOST__MQTT__LINK_PASSWORD", "123")];
    assert_eq!(good("", &env, &[]).mqtt.link_password.unwrap().expose(), "123");
}
