//! The real host as a process of its own.

mod ended;
mod options;

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    artefacts,
    http::{self, Response},
    tls::Trust,
    until,
};

pub use ended::{Ended, run, run_refused};
pub use options::HostOptions;

/// A running host. Killed when it is dropped; when that happens while a test fails, its log is shown.
#[derive(Debug)]
pub struct Host {
    /// The trusted port.
    pub admin: SocketAddr,
    /// The public port.
    pub iot: SocketAddr,
    /// MQTT over TCP, if it listens.
    pub mqtt: Option<SocketAddr>,
    /// MQTT over WebSocket on a port of its own, if it listens.
    pub mqtt_websocket: Option<SocketAddr>,
    /// MQTT over TLS, if it listens.
    pub mqtt_tls: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS on a port of its own, if it listens.
    pub mqtt_websocket_tls: Option<SocketAddr>,
    options: HostOptions,
    folder: TempDir,
    child: Child,
}

/// A session as its creator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Its pin.
    pub pin: String,
}

impl Host {
    /// Starts a host in a new folder and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start(options: HostOptions) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), options)
    }

    /// Starts a host in a folder that may hold state already.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start_in(folder: TempDir, options: HostOptions) -> Self {
        let mut host = Self::spawn_in(folder, options);
        host.wait_ready();
        host
    }

    /// As [`Host::start_in`], where the host may refuse to start: the second value is how it ended then. Its log has what it said.
    #[must_use]
    pub fn try_start_in(folder: TempDir, options: HostOptions) -> (Self, Option<ExitStatus>) {
        let mut host = Self::spawn_in(folder, options);
        let ended = host.ready_or_ended();
        (host, ended)
    }

    fn spawn_in(folder: TempDir, options: HostOptions) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let child = spawn(folder.path(), &options);
        let (mqtt, mqtt_websocket, mqtt_tls, mqtt_websocket_tls) = (None, None, None, None);
        Self { admin: nowhere, iot: nowhere, mqtt, mqtt_websocket, mqtt_tls, mqtt_websocket_tls, options, folder, child }
    }

    /// Its state folder as it sees it, its own disk included.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        let inside = self.folder.path().join("state");
        let inside = inside.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(inside)
    }

    /// How many threads it has.
    ///
    /// # Panics
    /// Where there is no /proc.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.thread_names().len()
    }

    /// The names of its threads.
    ///
    /// # Panics
    /// Where there is no /proc.
    #[must_use]
    pub fn thread_names(&self) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process in /proc").map_while(Result::ok);
        // One that ends meanwhile has no name any more.
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
    }

    /// How many bytes of memory it has in use (resident). Panics where there is no /proc.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process in /proc");
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.expect("a line of its memory") << 10
    }

    /// Starts again in the same folder with the same settings. What ran before must have ended.
    ///
    /// # Panics
    /// When it does not get ready.
    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &self.options);
        self.wait_ready();
    }

    /// As [`Host::start_again`], with other settings.
    ///
    /// # Panics
    /// When it does not get ready.
    pub fn start_again_with(&mut self, options: HostOptions) {
        self.options = options;
        self.start_again();
    }

    fn wait_ready(&mut self) {
        if let Some(status) = self.ready_or_ended() {
            panic!("the host ended before it was ready: {status}");
        }
    }

    /// How it ended, where it did so before it was ready.
    fn ready_or_ended(&mut self) -> Option<ExitStatus> {
        let file = self.folder.path().join("ready.json");
        let ready: Result<Value, ExitStatus> = until("the ready file", || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(Err(status));
            }
            // It is renamed into place, so where it is there it is whole.
            fs::read(&file).ok().map(|text| Ok(serde_json::from_slice(&text).expect("the ready file is JSON")))
        });
        let ready = match ready {
            Ok(ready) => ready,
            Err(status) => return Some(status),
        };
        let address = |name: &str| -> Option<SocketAddr> {
            let value = ready.get(name)?;
            let value = value.as_str().or_else(|| value.get(0)?.as_str())?;
            Some(value.parse().expect("an address"))
        };
        self.admin = address("admin").expect("the ready file names the admin port");
        self.iot = address("iot").expect("the ready file names the IoT port");
        (self.mqtt, self.mqtt_websocket) = (address("mqtt"), address("mqtt_websocket"));
        (self.mqtt_tls, self.mqtt_websocket_tls) = (address("mqtt_tls"), address("mqtt_websocket_tls"));
        None
    }

    /// Asks the host to end and waits for it.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&mut self) {
        self.signal_to_end();
        let status = self.wait();
        assert!(status.success(), "after SIGTERM the host ended with {status}");
    }

    /// Asks the host to end and does not wait.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal_to_end(&self) {
        // Wine makes Ctrl-C of SIGINT; Windows has nothing like SIGTERM.
        self.signal(if artefacts::are_for_windows() { rustix::process::Signal::INT } else { rustix::process::Signal::TERM });
    }

    /// Tells it to read its certificate again (SIGHUP), and does not wait.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal_to_reload(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// Stops it where it is, for what is done `meanwhile`: the system goes on to take connections and bytes for it.
    ///
    /// # Panics
    /// When it cannot be stopped.
    pub fn frozen<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.signal(rustix::process::Signal::STOP);
        let done = meanwhile();
        self.signal(rustix::process::Signal::CONT);
        done
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that does not come.
    pub fn wait(&mut self) -> ExitStatus {
        until("the host's end", || self.child.try_wait().expect("a child can be waited for"))
    }

    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts it again as [`Host::start_again`] does, and ends it as a power cut would after this time, ready or not.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn start_and_kill(&mut self, after: Duration) {
        self.child = spawn(self.folder.path(), &self.options);
        std::thread::sleep(after);
        self.kill();
    }

    /// Where its settings, state and log are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that it has said so far, in this and earlier runs in this folder.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(log_file(self.folder())).expect("the log can be read")
    }

    /// The file of the `json:` store.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.folder().join("state/sessions.json")
    }

    /// Whom its clients trust.
    ///
    /// # Panics
    /// When it was started without TLS.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        self.options.trust.as_ref().expect("options with TLS")
    }

    /// GET on the admin port.
    pub fn admin(&self, target: &str) -> Response {
        self.send("admin", "GET", target, "")
    }

    /// A request to a port by HTTP or HTTPS, as its settings say.
    fn send(&self, port: &str, method: &str, target: &str, body: &str) -> Response {
        let to = if port == "admin" { self.admin } else { self.iot };
        let headers: &[_] = if method == "POST" { &[("Content-Type", "application/json")] } else { &[] };
        if self.options.is(port, "tls", "true") {
            return self.trust().request(to, method, target, headers, body);
        }
        http::request(to, method, target, headers, body)
    }

    /// Creates a session of a type by `/api`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create(&self, type_name: &str) -> Session {
        let answer = self.admin(&format!("/api/createSession?type={type_name}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Session { id: text("id"), pin: text("pin") }
    }

    /// Closes a session by `/api`: the answer as JSON.
    pub fn close(&self, session: &Session) -> Value {
        self.admin(&format!("/api/closeSession?id={}", session.id)).json()
    }

    /// Joins by `/api`: the token.
    ///
    /// # Panics
    /// When it is refused.
    pub fn join(&self, session: &Session, client: &str) -> String {
        let body = json!({"id": session.id, "pin": session.pin, "client": client});
        let answer = self.join_raw(&body.to_string());
        let token = answer.json()["token"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(token.split('.').count(), 3, "no token: {answer:?}");
        token
    }

    /// Joins with any body.
    pub fn join_raw(&self, body: &str) -> Response {
        self.send("iot", "POST", "/api/joinSession", body)
    }

    /// Asks the session's conductor by `/api`: the answer as JSON. `more` is further query text, `&params=…`.
    pub fn ask(&self, session: &Session, method: &str, more: &str) -> Value {
        self.admin(&format!("/api/conductorRequest?id={}&method={method}{more}", session.id)).json()
    }

    /// Asks the session's conductor by `/v1`.
    pub fn request(&self, session: &Session, method: &str, params: Value) -> Response {
        let body = json!({"method": method, "params": params});
        self.send("admin", "POST", &format!("/v1/sessions/{}/requests", session.id), &body.to_string())
    }

    /// The session as `/v1` shows it to the administrator.
    pub fn show(&self, session: &Session) -> Response {
        self.admin(&format!("/v1/sessions/{}", session.id))
    }

    /// The clients of a session, by `/v1`.
    ///
    /// # Panics
    /// When the session is not there.
    #[must_use]
    pub fn clients(&self, session: &Session) -> Vec<String> {
        let shown = self.show(session).json();
        let clients = shown["clients"].as_array().unwrap_or_else(|| panic!("{shown}"));
        clients.iter().map(|client| client["client_id"].as_str().expect("a name").to_owned()).collect()
    }

    /// A connection to the admin port that sends nothing.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn connect_admin(&self) -> TcpStream {
        TcpStream::connect(self.admin).expect("the admin port accepts")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ended already: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(log_file(self.folder.path())).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the host's log, its last lines ---\n{}", lines[lines.len().saturating_sub(200)..].join("\n"));
        }
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("host.log")
}

/// Writes the settings and starts the binary, its words going to the log file.
fn spawn(folder: &Path, options: &HostOptions) -> Child {
    let ready = folder.join("ready.json");
    // Left by an earlier run.
    let _ = fs::remove_file(&ready);
    let settings = folder.join("host.toml");
    if !options.written {
        fs::write(&settings, options.text()).expect("the settings can be written");
    }
    let log = File::options().create(true).append(true).open(log_file(folder)).expect("the log can be opened");
    let mut command = match options.disk {
        None => command(&options.wrapper.iter().map(String::as_str).collect::<Vec<_>>()),
        Some(kilobytes) => {
            let state = folder.join("state");
            fs::create_dir_all(&state).expect("a state folder");
            let mount = format!("mount -t tmpfs -o size={kilobytes}k,mode=700 none '{}' && exec \"$@\"", state.display());
            command(&["unshare", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"])
        }
    };
    command.arg("serve").arg("--config").arg(&settings).arg("--ready-file").arg(&ready);
    command.envs(options.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("the host can be started")
}

/// The binary behind `wrapper`, with none of this process's own settings for it.
pub(crate) fn command(wrapper: &[&str]) -> Command {
    let mut command = match wrapper {
        [] => Command::new(artefacts::binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(artefacts::binary());
            command
        }
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONDUCTOR_HOST")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}
