//! Keys that need another, and those that hold a secret.

use super::*;

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
