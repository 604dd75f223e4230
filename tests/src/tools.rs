//! Programs that others wrote, as clients and judges: mosquitto's and Python's. What is missing is a failure that names it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::PATIENCE;

/// A program that runs beside the test, killed when it is dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    /// Starts `mosquitto_sub` or `mosquitto_pub`.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn mosquitto(name: &str, arguments: &[&str]) -> Self {
        let found = Command::new(name).arg("--help").output();
        let install = "install mosquitto-clients (`apt-get install mosquitto-clients`), or run `cargo xtask test`, which does";
        found.unwrap_or_else(|e| panic!("{name}: {e}; {install}"));
        // Into a pipe it would speak only once its buffer is full.
        Self::start("stdbuf", &[&["-oL", name], arguments].concat())
    }

    /// A Python program in a file, with these variables set in its environment.
    ///
    /// # Panics
    /// When Python is missing.
    #[must_use]
    pub fn python_file(script: &Path, environment: &[(&str, PathBuf)], arguments: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.arg("-u").arg(script).args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        Self::run("python3", command)
    }

    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(name);
        command.args(arguments);
        Self::run(name, command)
    }

    fn run(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}; install it, or run `cargo xtask test`, which does"));
        let (sender, lines) = mpsc::channel();
        for stream in
            [Box::new(child.stdout.take().expect("piped")) as Box<dyn std::io::Read + Send>, Box::new(child.stderr.take().expect("piped"))]
        {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // The test may be over.
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, lines }
    }

    /// A Python program that needs these packages: pairs of module and what to install.
    ///
    /// # Panics
    /// When Python or a package is missing.
    #[must_use]
    pub fn python(script: &str, packages: &[(&str, &str)], arguments: &[&str]) -> Self {
        for (module, package) in packages {
            let found = Command::new("python3").args(["-c", &format!("import {module}")]).output();
            let found = found.unwrap_or_else(|e| panic!("python3: {e}; install Python 3"));
            assert!(found.status.success(), "Python lacks {module}: `pip install {package}`, or run `cargo xtask test`, which does");
        }
        Self::start("python3", &[&["-u", "-c", script], arguments].concat())
    }

    /// Its next line, from standard output or standard error.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{} said nothing more: {e}", self.name))
    }

    /// Reads lines up to the one that contains `text`.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(e) => panic!("{} did not say {text:?} ({e}), but {seen:?}", self.name),
            }
        }
    }

    /// Writes one line to its standard input.
    ///
    /// # Panics
    /// When it takes none.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("the program reads");
    }

    /// Waits for its end: the exit code, and the lines that were not read yet.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.stdin.take());
        let status = crate::until(&format!("the end of {}", self.name), || self.child.try_wait().expect("a child can be waited for"));
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        (status.code(), lines)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a server came to listen on all of these addresses before it ended or time was over.
pub(crate) fn is_ready(child: &mut Child, addresses: &[SocketAddr]) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && child.try_wait().expect("its state").is_none() {
        if addresses.iter().all(|address| TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok()) {
            // It may be another program that listens there, while this one is about to find that out.
            return child.try_wait().expect("its state").is_none();
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}
