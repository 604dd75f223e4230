//! A real browser: Chromium without a window, and the server of the page that it shows.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, clients};

/// A file that the page may ask for: its path, its type, its content.
type Served = (&'static str, &'static str, Vec<u8>);

/// A browser with one page; killed when it is dropped.
#[derive(Debug)]
pub struct Browser {
    /// What the page is to do is served at `/cases`; what it posts to `/report` comes out here.
    reports: Receiver<Value>,
    child: Child,
    folder: TempDir,
}

impl Browser {
    /// Opens `tests/browser/page.html`, which runs these cases. The browser trusts the authorities that it came with, and those
    /// in these PEM files.
    ///
    /// # Panics
    /// When Chromium, its tools or the page's libraries are not installed.
    #[must_use]
    pub fn open(authorities: &[&Path], cases: &Value) -> Self {
        Self::show(authorities, "page.html", files(cases))
    }

    /// Opens `tests/browser/attack.html`, which tries these requests on others than its own server.
    ///
    /// # Panics
    /// When Chromium or its tools are not installed.
    #[must_use]
    pub fn open_attack(cases: &Value) -> Self {
        let files = vec![
            ("/attack.html", "text/html", own("attack.html")),
            ("/attack.js", "text/javascript", own("attack.js")),
            ("/cases", "application/json", cases.to_string().into_bytes()),
        ];
        Self::show(&[], "attack.html", files)
    }

    fn show(authorities: &[&Path], page: &str, files: Vec<Served>) -> Self {
        let (sender, reports) = mpsc::channel();
        let server = serve(files, sender);
        let folder = tempfile::tempdir().expect("a temporary folder");
        trust(folder.path(), authorities);
        let output = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        command.arg(format!("http://{server}/{page}"));
        // Its own list of trusted authorities is in the home folder.
        command.env("HOME", folder.path()).stdin(Stdio::null()).stdout(output.try_clone().expect("a log")).stderr(output);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("chromium: {e}; install it (`apt-get install chromium`), or run `cargo xtask test`, which does"));
        Self { reports, child, folder }
    }

    /// What the page reports next.
    ///
    /// # Panics
    /// When it reports nothing.
    #[must_use]
    pub fn report(&self) -> Value {
        self.reports.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("the page reported nothing more: {e}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ended already: then there is nothing to kill. Its helper processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- what the browser said ---\n{}", String::from_utf8_lossy(&log));
        }
    }
}

/// A file of `tests/browser`.
fn own(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(name);
    fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn files(cases: &Value) -> Vec<Served> {
    let installed = |name: &str| {
        let file = clients::folder("test-browser").join("node_modules").join(name);
        fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask test`, which installs it", file.display()))
    };
    vec![
        ("/page.html", "text/html", own("page.html")),
        ("/page.js", "text/javascript", own("page.js")),
        ("/mqtt.js", "text/javascript", installed("mqtt/dist/mqtt.min.js")),
        ("/paho-mqtt.js", "text/javascript", installed("paho-mqtt/paho-mqtt.js")),
        ("/cases", "application/json", cases.to_string().into_bytes()),
    ]
}

/// Puts the authorities into the browser's list.
fn trust(home: &Path, authorities: &[&Path]) {
    let folder = home.join(".pki/nssdb");
    fs::create_dir_all(&folder).expect("a folder");
    let certutil = |arguments: &[&str]| {
        let ended = Command::new("certutil").arg("-d").arg(format!("sql:{}", folder.display())).args(arguments).output();
        let ended = ended.unwrap_or_else(|e| {
            panic!("certutil: {e}; install it (`apt-get install libnss3-tools`), or run `cargo xtask test`, which does")
        });
        assert!(ended.status.success(), "certutil: {}", String::from_utf8_lossy(&ended.stderr));
    };
    certutil(&["-N", "--empty-password"]);
    for ca in authorities {
        let name = ca.display().to_string();
        certutil(&["-A", "-n", &name, "-t", "C,,", "-i", &name]);
    }
}

/// Serves these files until the test's process ends.
fn serve(files: Vec<Served>, reports: Sender<Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (files, reports) = (Arc::clone(&files), reports.clone());
            // A browser opens connections on which it sends nothing.
            std::thread::spawn(move || answer(&stream, &files, &reports));
        }
    });
    address
}

fn answer(mut stream: &TcpStream, files: &[Served], reports: &Sender<Value>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        length = header.to_ascii_lowercase().strip_prefix("content-length:").and_then(|n| n.trim().parse().ok()).unwrap_or(length);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = line.split(' ').nth(1).unwrap_or_default();
    let (status, kind, content) = if path == "/report" {
        // The test may be over.
        let _ = reports.send(serde_json::from_slice(&body)?);
        ("200 OK", "application/json", &b"null"[..])
    } else {
        let found = files.iter().find(|(name, ..)| *name == path);
        found.map_or(("404 Not Found", "text/plain", &b""[..]), |(_, kind, content)| ("200 OK", kind, content))
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(content)
}
