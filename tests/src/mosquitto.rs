//! Debian's Mosquitto as a broker of the test's own.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::tools::is_ready;

/// Ports are chosen by looking for a free one, which another program may take before the broker does.
const ATTEMPTS: usize = 5;

/// A running broker, killed when it is dropped. Its folder lasts as long as this value.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where its first listener is.
    pub address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts one in a new folder. `settings` gets the folder and a free port, and gives the whole text of `mosquitto.conf`, in
    /// which the first listener is on that port of 127.0.0.1; files that it names are written by it. Ready when that port answers.
    ///
    /// # Panics
    /// When it is not installed or does not start; its log is shown.
    #[must_use]
    pub fn start(settings: impl Fn(&Path, u16) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for _ in 0..ATTEMPTS {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
            fs::write(folder.path().join("mosquitto.conf"), settings(folder.path(), address.port())).expect("written");
            let child = spawn(folder.path());
            let mut broker = Self { address, folder: tempfile::tempdir().expect("a temporary folder"), child: Some(child) };
            if broker.is_ready() {
                broker.folder = folder;
                return broker;
            }
        }
        panic!("mosquitto does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    /// An open broker: everybody may do everything.
    #[must_use]
    pub fn open() -> Self {
        Self::start(|_, port| format!("set_tcp_nodelay true\nlistener {port} 127.0.0.1\nallow_anonymous true\n"))
    }

    /// Where its files are: `mosquitto.conf`, `log`, and what the settings named.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder().join("log")).expect("the log")).into_owned()
    }

    /// Kills it, without a chance to say goodbye.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    /// Ends it in order: it writes its file, if it keeps one.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            let process = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("signalled");
            child.wait().expect("gone");
        }
    }

    /// Starts it again on the same port, with the `mosquitto.conf` that is there now. Ready when that port answers.
    ///
    /// # Panics
    /// When it runs already, or does not start.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(spawn(self.folder()));
        assert!(self.is_ready(), "mosquitto does not start again: {}", self.log());
    }

    /// Makes it read its settings, passwords and certificates again (SIGHUP).
    ///
    /// # Panics
    /// When it does not run.
    pub fn reload(&self) {
        let child = self.child.as_ref().expect("it runs");
        let process = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(process, rustix::process::Signal::HUP).expect("signalled");
    }

    fn is_ready(&mut self) -> bool {
        is_ready(self.child.as_mut().expect("started"), &[self.address])
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of mosquitto:\n{}", self.log());
        }
    }
}

/// Debian keeps it where users' paths do not lead.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.is_file() { debian } else { "mosquitto".into() }
}

fn spawn(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(program());
    // As root it would become another user, who may not read the folder.
    let file = folder.join("mosquitto.conf");
    let text = fs::read_to_string(&file).expect("the settings");
    if !text.contains("user ") && rustix::process::geteuid().is_root() {
        fs::write(&file, format!("user root\n{text}")).expect("written");
    }
    command.arg("-v").arg("-c").arg(file).current_dir(folder).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log);
    command
        .spawn()
        .unwrap_or_else(|e| panic!("mosquitto: {e}; install it (`apt-get install mosquitto`), or run `cargo xtask test`, which does"))
}
