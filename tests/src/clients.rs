//! Devices as the existing ones behave, and the doors at which they come in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{Host, HostOptions, Session, artefacts, certs::Authority, nginx::Nginx, tls::Trust, tools::Program};

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
pub struct Door<'a> {
    /// For messages of the test.
    pub name: &'static str,
    /// The host behind it.
    pub host: &'a Host,
    /// What is spoken there.
    pub wire: Wire,
    /// Where to join.
    pub join: String,
    /// Where MQTT is.
    pub mqtt: SocketAddr,
    /// The authority that its certificate is from.
    pub ca: &'a Path,
}

/// Two hosts with the same settings, but for TLS: one has nginx in front, the other has a certificate of its own.
#[derive(Debug)]
pub struct House {
    behind: Host,
    nginx: Nginx,
    own: Host,
    ca: PathBuf,
}

impl House {
    /// Starts all of it.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn open(options: &HostOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("the house's authority");
        let (ca, identity) = (authority.write(folder.path()), authority.issue(folder.path(), "host", &["localhost", "127.0.0.1"]));
        let over_tls = options.clone().tls(&identity, Trust::new(&authority)).set("iot.tls", json!(true));
        let behind = Host::start(options.clone());
        Self { nginx: Nginx::in_front_of(&behind), behind, own: Host::start_in(folder, over_tls), ca }
    }

    /// The authorities that the doors' certificates are from.
    #[must_use]
    pub fn authorities(&self) -> [&Path; 2] {
        [&self.nginx.ca, &self.ca]
    }

    /// Its doors.
    ///
    /// # Panics
    /// When a host does not listen where it was told to.
    #[must_use]
    pub fn doors(&self) -> Vec<Door<'_>> {
        let listens = |address: Option<SocketAddr>| address.expect("the host listens there");
        let own = |name, wire, mqtt| door(name, &self.own, wire, &format!("https://{}", self.own.iot), mqtt, &self.ca);
        let mut doors = vec![
            door("tcp", &self.behind, Wire::Tcp, &format!("http://{}", self.behind.iot), listens(self.behind.mqtt), &self.ca),
            own("the host's tls", Wire::Tls, listens(self.own.mqtt_tls)),
            own("the host's wss", Wire::Wss, listens(self.own.mqtt_websocket_tls)),
            own("the host's IoT port with tls", Wire::Wss, self.own.iot),
        ];
        doors.extend(through(&self.nginx, &self.behind));
        doors
    }
}

/// The doors of a host through nginx.
#[must_use]
pub fn through<'a>(nginx: &'a Nginx, host: &'a Host) -> [Door<'a>; 3] {
    let door = |name, wire, iot, mqtt| door(name, host, wire, &format!("https://{iot}"), mqtt, &nginx.ca);
    [
        door("nginx, wss", Wire::Wss, nginx.iot, nginx.iot),
        door("nginx, wss on 8883", Wire::Wss, nginx.iot_8883, nginx.iot_8883),
        door("nginx, tls", Wire::Tls, nginx.iot, nginx.mqtt),
    ]
}

fn door<'a>(name: &'static str, host: &'a Host, wire: Wire, iot: &str, mqtt: SocketAddr, ca: &'a Path) -> Door<'a> {
    Door { name, host, wire, join: format!("{iot}/api/joinSession"), mqtt, ca }
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
pub fn device(habits: Habits, paho: Paho, door: &Door<'_>, session: &Session) -> Program {
    let told = json!({
        "join": door.join, "host": door.mqtt.ip().to_string(), "port": door.mqtt.port(),
        "session": session.id, "pin": session.pin, "client": "device",
        "websocket": door.wire == Wire::Wss, "tls": door.wire != Wire::Tcp, "tls_1_2": habits.tls_1_2 && door.wire != Wire::Tcp,
        "client_id": habits.client_id, "username": habits.username, "qos": habits.qos,
    });
    let mut environment = vec![("SSL_CERT_FILE", door.ca.to_owned()), ("NO_PROXY", "*".into())];
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
