//! Devices as the existing ones behave, and the doors at which they come in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{Host, Session, artefacts, nginx::Nginx, tools::Program};

/// What is spoken behind a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// MQTT over TCP.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket over TLS.
    Wss,
}

/// A way in, as a device is told about it.
#[derive(Clone, Debug)]
pub struct Door {
    /// For messages of the test.
    pub name: &'static str,
    /// What is spoken there.
    pub wire: Wire,
    /// Where to join.
    pub join: String,
    /// Where MQTT is.
    pub mqtt: SocketAddr,
}

impl Door {
    fn new(name: &'static str, wire: Wire, iot: &str, mqtt: SocketAddr) -> Self {
        Self { name, wire, join: format!("{iot}/api/joinSession"), mqtt }
    }
}

/// The doors of a host with this nginx in front.
///
/// # Panics
/// When the host does not listen for MQTT.
#[must_use]
pub fn doors(host: &Host, nginx: &Nginx) -> Vec<Door> {
    let (plain, https) = (format!("http://{}", host.iot), format!("https://{}", nginx.iot));
    vec![
        Door::new("tcp", Wire::Tcp, &plain, host.mqtt.expect("the host listens for MQTT")),
        Door::new("nginx, tls", Wire::Tls, &https, nginx.mqtt),
        Door::new("nginx, wss", Wire::Wss, &https, nginx.iot),
        Door::new("nginx, wss on 8883", Wire::Wss, &format!("https://{}", nginx.iot_8883), nginx.iot_8883),
    ]
}

/// A version of paho-mqtt for Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paho {
    /// 1.x, in a folder of its own.
    One,
    /// 2.x, as it is installed.
    Two,
}

/// How a device goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// For messages of the test.
    pub name: &'static str,
    /// The MQTT client id: "client" or "session" for the value of that name, and else the text itself.
    pub client_id: &'static str,
    /// The MQTT username, in the same way.
    pub username: &'static str,
    /// The QoS of its subscriptions and messages.
    pub qos: u8,
    /// Whether its TLS ends at version 1.2.
    pub tls_1_2: bool,
}

/// A Python program in `tests/clients`, running as such a device; its name is `device`.
#[must_use]
pub fn device(habits: Habits, paho: Paho, door: &Door, ca: &Path, session: &Session) -> Program {
    let told = json!({
        "join": door.join, "host": door.mqtt.ip().to_string(), "port": door.mqtt.port(),
        "session": session.id, "pin": session.pin, "client": "device",
        "websocket": door.wire == Wire::Wss, "tls": door.wire != Wire::Tcp, "tls_1_2": habits.tls_1_2 && door.wire != Wire::Tcp,
        "client_id": habits.client_id, "username": habits.username, "qos": habits.qos,
    });
    let mut environment = vec![("SSL_CERT_FILE", ca.to_owned()), ("NO_PROXY", "*".into())];
    if paho == Paho::One {
        let folder = folder("test-paho1");
        let install = format!("`pip install --target {} 'paho-mqtt>=1.6,<2'`", folder.display());
        assert!(folder.join("paho").is_dir(), "paho-mqtt 1.x is not there: {install}, or run `cargo xtask test`, which does");
        environment.push(("PYTHONPATH", folder));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/device.py");
    let program = Program::python_file(&script, &environment, &[&told.to_string()]);
    let version = if paho == Paho::One { "1." } else { "2." };
    let joined = said(&program, "joined");
    assert!(joined.as_str().is_some_and(|found| found.starts_with(version)), "paho-mqtt {joined} where {version}x was asked for");
    program
}

/// What the device says next under this head, the first value of it.
#[must_use]
pub fn said(device: &Program, head: &str) -> Value {
    words(device, head)[1].clone()
}

/// The whole line that a device says next under this head.
///
/// # Panics
/// When it says no such thing.
#[must_use]
pub fn words(device: &Program, head: &str) -> Value {
    let line = device.wait_for(&format!("[\"{head}\""));
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// A folder in the target folder into which `cargo xtask test` installs what the tests need.
///
/// # Panics
/// As [`artefacts::folder`].
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    artefacts::folder().parent().expect("a build lies in the target folder").join(name)
}
