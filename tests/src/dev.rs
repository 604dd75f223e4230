//! The host in development mode: without settings, in a folder of one's own.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::{host::command, until};

/// A running host. Killed when it is dropped.
#[derive(Debug)]
pub struct DevHost {
    /// The trusted port.
    pub admin: SocketAddr,
    child: Child,
}

impl DevHost {
    /// Starts `conductor-host serve --dev` with these arguments beside in `folder`, its words going to `host.log` there, and waits until
    /// it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let ready = folder.join("ready.json");
        let log = File::create(folder.join("host.log")).expect("a log");
        let mut command = command(&[]);
        // Killed at the end, it leaves its state behind: then in the test's own folder.
        command.args(["serve", "--dev", "--ready-file"]).arg(&ready).args(arguments).current_dir(folder).env("TMPDIR", folder);
        for key in ["admin.listen", "iot.listen", "mqtt.listen", "mqtt.websocket_listen"] {
            command.args(["--set", &format!("{key}=127.0.0.1:0")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().expect("the host can be started");
        let ready: Value = until("the ready file", || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the host ended before it was ready: {status}");
            }
            fs::read(&ready).ok().map(|text| serde_json::from_slice(&text).expect("the ready file is JSON"))
        });
        let admin = ready["admin"].as_str().and_then(|address| address.parse().ok()).expect("the ready file names the admin port");
        Self { admin, child }
    }
}

impl Drop for DevHost {
    fn drop(&mut self) {
        // Ended already: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
