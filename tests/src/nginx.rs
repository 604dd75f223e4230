//! Debian's nginx in front of a host, with the configuration that the project ships.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Host, PATIENCE, certs::Authority, tools::is_ready};

/// Ports are chosen by looking for free ones, which another program may take before nginx does.
const ATTEMPTS: usize = 5;

/// The loadable part for `stream`: Debian's place for it; elsewhere it is built in.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A running nginx with its workers, ended when it is dropped.
#[derive(Debug)]
pub struct Nginx {
    /// Plain HTTP, port 80 of the shipped file.
    pub http: SocketAddr,
    /// The IoT port over TLS, port 443.
    pub iot: SocketAddr,
    /// The same server on port 8883, which the shipped file has in a comment.
    pub iot_8883: SocketAddr,
    /// The admin port over TLS, port 50000.
    pub admin: SocketAddr,
    /// MQTT over TLS, port 8883 of the shipped file for `stream`.
    pub mqtt: SocketAddr,
    /// The certificate of the authority that its own is from.
    pub ca: PathBuf,
    folder: TempDir,
    child: Child,
}

/// Where what is behind it listens.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The IoT port.
    pub iot: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// MQTT over TCP.
    pub mqtt: SocketAddr,
}

impl Nginx {
    /// Starts one in front of this host.
    ///
    /// # Panics
    /// As [`Nginx::start`], and when the host does not listen for MQTT.
    #[must_use]
    pub fn in_front_of(host: &Host) -> Self {
        let mqtt = host.mqtt.expect("the host listens for MQTT");
        Self::start(Behind { iot: host.iot, admin: host.admin, mqtt }, &[])
    }

    /// Starts one with the shipped files; ports, paths and addresses are put in their places, and `changes` are made: pairs of a text that is
    /// in `conductor-host.conf` once and what to put there. In them `FOLDER` is the folder of the certificates, the authority's is `ca.pem`.
    ///
    /// # Panics
    /// When nginx is not installed or does not start, or the shipped files are not as they are expected here.
    #[must_use]
    pub fn start(behind: Behind, changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca = issue(folder.path());
        for _ in 0..ATTEMPTS {
            let [http, iot, iot_8883, admin, mqtt] = free_addresses();
            write_settings(folder.path(), behind, [http, iot, iot_8883, admin, mqtt], changes);
            let mut child = spawn(folder.path());
            if is_ready(&mut child, &[http, iot, iot_8883, admin, mqtt]) {
                return Self { http, iot, iot_8883, admin, mqtt, ca, folder, child };
            }
            end(&mut child);
        }
        panic!("nginx does not start: {}", log(folder.path()));
    }

    /// Replaces its certificate by one of another authority, whose own it puts into [`Nginx::ca`], and makes it read that.
    ///
    /// # Panics
    /// When nginx does not run.
    pub fn renew(&mut self) {
        self.ca = issue(self.folder.path());
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("signalled");
    }

    /// Where its certificates are: `client.pem` and `client-key.pem` are some that a client may show.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- what nginx said ---\n{}", log(self.folder.path()));
        }
    }
}

/// A file of the folder `deploy/nginx`, as it is shipped.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx").join(name);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn issue(folder: &Path) -> PathBuf {
    let authority = Authority::new("an authority of this test");
    let _ = authority.issue(folder, "server", &["localhost", "127.0.0.1"]);
    let _ = authority.issue(folder, "client", &["client.example.org"]);
    authority.write(folder)
}

fn write_settings(folder: &Path, behind: Behind, addresses: [SocketAddr; 5], changes: &[(&str, &str)]) {
    let [http, iot, iot_8883, admin, mqtt] = addresses;
    let [cert, key] = ["server.pem", "server-key.pem"].map(|name| folder.join(name).display().to_string());
    let common = [("/etc/ssl/conductor-host/fullchain.pem", &*cert), ("/etc/ssl/conductor-host/privkey.pem", &*key)];
    // Each of the shipped lines once.
    let replaced = [
        ("server 127.0.0.1:8888;", format!("server {};", behind.iot)),
        ("server 127.0.0.1:50001;", format!("server {};", behind.admin)),
        (" listen 80;", format!(" listen {http};")),
        (" listen [::]:80;", String::new()),
        (" listen 443 ssl;", format!(" listen {iot} ssl;")),
        (" listen [::]:443 ssl;", String::new()),
        (" #listen 8883 ssl;", format!(" listen {iot_8883} ssl;")),
        (" listen 50000 ssl;", format!(" listen {admin} ssl;")),
        (" listen [::]:50000 ssl;", String::new()),
    ];
    let changes: Vec<_> = changes.iter().map(|(from, to)| (*from, to.replace("FOLDER", &folder.display().to_string()))).collect();
    let all = replaced.iter().chain(&changes).map(|(from, to)| (*from, &**to, 1));
    put(folder, "conductor-host.conf", all.chain(common.map(|(from, to)| (from, to, 2))));
    let (backend, listen) = (format!("server {};", behind.mqtt), format!(" listen {mqtt} ssl "));
    let places =
        [("server 127.0.0.1:1883;", &*backend, 1), (" listen 8883 ssl ", &listen, 1), (" listen [::]:8883 ssl so_keepalive=on;", "", 1)];
    put(folder, "conductor-host-stream.conf", places.into_iter().chain(common.map(|(from, to)| (from, to, 1))));

    // As root its workers become another user, who may not read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let load = if Path::new(STREAM_MODULE).exists() { format!("load_module {STREAM_MODULE};") } else { String::new() };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {what};\n")).concat();
    // Around the shipped files, what Debian's own nginx.conf says where it bears on them.
    let text = format!(
        "{load}\n{user}\npid pid;\nlock_file lock;\nworker_processes 2;\nevents {{ worker_connections 768; }}\n\
         include {folder}/conductor-host-stream.conf;\n\
         http {{\nsendfile on;\ntcp_nopush on;\nssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;\nssl_prefer_server_ciphers on;\ngzip on;\n\
         access_log access.log;\n{temporary}include {folder}/conductor-host.conf;\n}}\n",
        folder = folder.display()
    );
    fs::write(folder.join("nginx.conf"), text).expect("written");
}

/// Copies a shipped file with these replacements, each of which must be met that many times.
fn put<'a>(folder: &Path, name: &str, replacements: impl IntoIterator<Item = (&'a str, &'a str, usize)>) {
    let mut text = shipped(name);
    for (from, to, times) in replacements {
        assert_eq!(text.matches(from).count(), times, "`{from}` in {name}");
        text = text.replace(from, to);
    }
    fs::write(folder.join(name), text).expect("written");
}

fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    // All are held until all are known, so that none comes twice.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("its address"))
}

fn spawn(folder: &Path) -> Child {
    let debian = PathBuf::from("/usr/sbin/nginx");
    let program = if debian.is_file() { debian } else { "nginx".into() };
    let output = File::options().create(true).append(true).open(folder.join("error.log")).expect("a log");
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
    command.args(["-g", "daemon off;"]).stdin(Stdio::null());
    command.stdout(output.try_clone().expect("a log")).stderr(output);
    command.spawn().unwrap_or_else(|e| {
        panic!("nginx: {e}; install it (`apt-get install nginx libnginx-mod-stream`), or run `cargo xtask test`, which does")
    })
}

/// Killed, it would leave its workers behind.
fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn log(folder: &Path) -> String {
    ["error.log", "access.log"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default()).concat()
}
