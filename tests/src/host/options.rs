//! What a host is started with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{artefacts, certs::Identity, tls::Trust};

/// What a host is started with: settings by key, each value as TOML text.
#[derive(Clone, Debug)]
pub struct HostOptions {
    settings: BTreeMap<(String, String), String>,
    pub(super) environment: Vec<(String, String)>,
    /// KiB of the disk that the state folder is, where it is one of its own.
    pub(super) disk: Option<u32>,
    /// Whom clients of listeners over TLS trust.
    pub(super) trust: Option<Trust>,
    /// The program that runs the host, with its arguments.
    pub(super) wrapper: Vec<String>,
    /// Whether the folder has its settings file already.
    pub(super) written: bool,
}

impl Default for HostOptions {
    /// All ports chosen by the system, the store in the host's own folder, all types of the tests, logs at level trace.
    fn default() -> Self {
        let (settings, environment, wrapper) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut options = Self { settings, environment, disk: None, trust: None, wrapper, written: false };
        for (key, value) in [
            ("admin.listen", "127.0.0.1:0"),
            ("iot.listen", "127.0.0.1:0"),
            ("mqtt.listen", "127.0.0.1:0"),
            ("mqtt.websocket_listen", "127.0.0.1:0"),
            ("state.dir", "state"),
            ("store.url", "json:state/sessions.json"),
            // All devices of a test are at this one address; what it may do is the matter of `joins.rs` and `attack.rs`.
            ("joins.exempt", "127.0.0.0/8"),
            ("log.level", "trace"),
            ("log.format", "json"),
        ] {
            options = options.set(key, json!(value));
        }
        options.plugin("default", "conductor_default").plugin("active", "conductor_active")
    }
}

impl HostOptions {
    /// Sets one key, `section.name`. JSON's text, numbers, booleans and lists are TOML, too.
    ///
    /// # Panics
    /// When the key has no section.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        let (section, name) = key.rsplit_once('.').expect("section.name");
        self.settings.insert((section.to_owned(), name.to_owned()), value.to_string());
        self
    }

    /// Adds a type whose conductor is in the library of this name.
    #[must_use]
    pub fn plugin(self, type_name: &str, library: &str) -> Self {
        let file = artefacts::plugin(library);
        self.set(&format!("types.{type_name}.plugin"), json!(file))
    }

    /// Takes one key away, `section.name`: its default applies.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.settings.retain(|(section, name), _| format!("{section}.{name}") != key);
        self
    }

    /// Takes a type away.
    #[must_use]
    pub fn without(mut self, type_name: &str) -> Self {
        self.settings.retain(|(section, _), _| *section != format!("types.{type_name}"));
        self
    }

    /// Sets a variable of the host's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the state folder a small disk of its own (in memory, seen by this host alone): it can be full. All is lost when
    /// the host ends. Needs `unshare` and a kernel that lets this user have namespaces.
    #[must_use]
    pub fn small_disk(mut self, kilobytes: u32) -> Self {
        self.disk = Some(kilobytes);
        self
    }

    /// Starts the host by this program, to whose arguments its own are added, and which becomes the host.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Listens for MQTT over TLS and for WebSocket over TLS, too, with this certificate; clients are those that trust so.
    #[must_use]
    pub fn tls(mut self, identity: &Identity, trust: Trust) -> Self {
        self.trust = Some(trust);
        self.set("tls.cert", json!(identity.cert))
            .set("tls.key", json!(identity.key))
            .set("mqtt.tls_listen", json!("127.0.0.1:0"))
            .set("mqtt.websocket_tls_listen", json!("127.0.0.1:0"))
    }

    /// Whether a setting is this, as TOML text.
    pub(super) fn is(&self, section: &str, name: &str, value: &str) -> bool {
        self.settings.get(&(section.to_owned(), name.to_owned())).is_some_and(|set| set == value)
    }

    /// Runs on the `host.toml` that is in the folder already, whatever else is set here; the environment still counts.
    #[must_use]
    pub fn as_written(mut self) -> Self {
        self.written = true;
        self
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for ((section, name), value) in &self.settings {
            if section != last {
                text += &format!("[{section}]\n");
                last = section;
            }
            text += &format!("{name} = {value}\n");
        }
        text
    }
}
