//! HTTP by hand: tests send what no library would, and see each byte of the answer.

use std::{
    io::{self, ErrorKind, Read as _, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::{PATIENCE, until};

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The version in the status line, `HTTP/1.1`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// In the order of arrival; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks put together.
    pub body: String,
}

impl Response {
    /// The header's value, if there is exactly one of that name.
    ///
    /// # Panics
    /// When there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {self:?}");
        value
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

/// One request with `Host`, `Connection: close` and, where there is a body, its length.
///
/// # Panics
/// When no complete answer comes.
pub fn request(to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
    raw(to, text(to, method, target, headers, body).as_bytes())
}

/// The text of such a request.
pub(crate) fn text(to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{text}\r\n{body}")
}

/// A GET without anything special.
///
/// # Panics
/// As [`request`].
pub fn get(to: SocketAddr, target: &str) -> Response {
    request(to, "GET", target, &[], "")
}

/// A POST of a JSON text.
///
/// # Panics
/// As [`request`].
pub fn post(to: SocketAddr, target: &str, body: &str) -> Response {
    request(to, "POST", target, &[("Content-Type", "application/json")], body)
}

/// Sends these bytes and reads until the other side closes; so what is sent must end the connection.
///
/// # Panics
/// When the connection fails or the answer is not HTTP.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> Response {
    parse(&exchange(to, bytes).unwrap_or_else(|e| panic!("{}: {e}", String::from_utf8_lossy(bytes))))
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The request was not sent, or nobody read it: the system resets a connection that ends with bytes nobody has read. So nobody has acted on it.
    NotRead(io::Error),
    /// It was read, and may have been acted on.
    Cut(io::Error),
}

/// As [`raw`], for a host that may be killed meanwhile.
///
/// # Errors
/// When the connection fails or ends before the answer does.
pub fn try_post(to: SocketAddr, target: &str, body: &str) -> Result<Response, NoAnswer> {
    let head = format!("POST {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    try_raw(to, head.as_bytes())
}

/// As [`try_post`], a GET.
///
/// # Errors
/// As [`try_post`].
pub fn try_get(to: SocketAddr, target: &str) -> Result<Response, NoAnswer> {
    try_raw(to, format!("GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())
}

fn try_raw(to: SocketAddr, bytes: &[u8]) -> Result<Response, NoAnswer> {
    let mut stream = send(to, bytes).map_err(NoAnswer::NotRead)?;
    let answer = receive(&mut stream).map_err(|error| match error.kind() {
        ErrorKind::ConnectionReset => NoAnswer::NotRead(error),
        _ => NoAnswer::Cut(error),
    })?;
    if complete(&answer) { Ok(parse(&answer)) } else { Err(NoAnswer::Cut(ErrorKind::UnexpectedEof.into())) }
}

fn exchange(to: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    receive(&mut send(to, bytes)?)
}

fn send(to: SocketAddr, bytes: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    Ok(stream)
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Whether the body is as long as the head says.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok()));
    length.is_none_or(|length: usize| body.len() >= length)
}

/// The answer in these bytes, which must be whole.
pub(crate) fn parse(answer: &[u8]) -> Response {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let mut status = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = status.next().unwrap_or_default().to_owned();
    let status = status.next().and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {text:?}"));
    let headers: Vec<_> = lines
        .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Response { version, status, headers, body }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|e| panic!("chunk of size {size:?}: {e}"));
        if size == 0 {
            break;
        }
        body += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}

/// Sends request after request and reads no answer, until the host cuts the connection. Writing to `stream` must give up after a while.
///
/// # Panics
/// When it is not cut, or is before the host had to wait for it.
pub fn ask_and_never_read(stream: &mut impl Write) {
    // So many at once that the buffers on the way are full long before the host has waited enough, on a machine that is busy, too.
    let requests = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000);
    let mut full = false;
    // First the answers fill all buffers on the way, then the host waits for a while, then it has waited enough.
    until("the host to close the connection", || match stream.write(requests.as_bytes()) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            full = true;
            None
        }
        Err(_) => Some(()),
    });
    assert!(full, "it was not cut for its silence");
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn what_nobody_had_read_when_the_other_side_ended_is_told_from_what_was_read() {
        for reads in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let asking = thread::spawn(move || try_post(to, "/", "body"));
            let (mut stream, _) = listener.accept().unwrap();
            // It is there in any case.
            assert_eq!(stream.peek(&mut [0; 1]).unwrap(), 1);
            let mut read = Vec::new();
            while reads && !read.ends_with(b"body") {
                let mut byte = [0; 1];
                stream.read_exact(&mut byte).unwrap();
                read.extend(byte);
            }
            drop(stream);
            let told = asking.join().unwrap();
            assert!(matches!((reads, &told), (true, Err(NoAnswer::Cut(_))) | (false, Err(NoAnswer::NotRead(_)))), "{told:?}");
        }
    }
}
