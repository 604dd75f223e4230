//! A service of the test's own, on a thread, that says what the test wants.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use conductor_sdk::serde_json::{self, Value};

/// What the service does about an event.
pub(super) enum Say {
    Json(Value),
    /// A status, more headers (each with its end of line), and a body.
    Raw(u16, &'static str, Vec<u8>),
    /// Hears, and hangs up.
    Cut,
    /// Hears, and says nothing for as long as the test lasts.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) line: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) event: Value,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Fake {
    pub(super) fn start(mut say: impl FnMut(&Value) -> Say + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = heard.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(one) = hear(&stream) else { continue };
                let said = say(&one.event);
                all.lock().unwrap().push(one);
                match said {
                    Say::Json(json) => answer(&stream, 200, "Content-Type: application/json\r\n", json.to_string().as_bytes()),
                    Say::Raw(status, headers, body) => answer(&stream, status, headers, &body),
                    Say::Cut => {}
                    Say::Nothing => kept.push(stream),
                }
            }
        });
        Self { address, heard }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/conduct/secret-path", self.address)
    }

    /// What it has heard since the last look.
    pub(super) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    /// The events among these.
    pub(super) fn events(&self) -> Vec<Value> {
        self.heard().into_iter().map(|heard| heard.event).collect()
    }
}

fn hear(stream: &TcpStream) -> Option<Heard> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: BTreeMap<_, _> =
        lines[1..].iter().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Heard { line: lines.swap_remove(0), headers, event: serde_json::from_slice(&body).unwrap() })
}

/// Whoever asked may have gone: that is for the test to see.
fn answer(mut stream: &TcpStream, status: u16, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    drop(stream.write_all(&[head.as_bytes(), body].concat()));
}
