//! A host with plugins that misbehave, and what a case leaves behind in it.

use std::{io::Write as _, net::TcpStream};

use conductor_tests::{Host, HostOptions, Session, until};
use serde_json::{Value, json};

/// The types that misbehave: faulty, hooked and raw. A host, with a session of each that does not.
pub(crate) struct Stage {
    pub(crate) host: Host,
    pub(crate) others: Vec<Session>,
}

impl Stage {
    pub(crate) fn start(options: HostOptions) -> Self {
        let options = options.plugin("faulty", "conductor_test_faulty").plugin("hooked", "conductor_test_faulty");
        let options = options.plugin("raw", "conductor_test_raw").set("sessions.deadline", json!("1s"));
        // To fill 100 MB takes a while on a busy machine.
        let options = options.set("types.raw.deadline", json!("30s"));
        let host = Host::start(options);
        let others = ["faulty", "hooked", "raw"].map(|kind| host.create(kind)).to_vec();
        Self { host, others }
    }

    /// The other sessions, of the same plugins and of others, are answered.
    pub(crate) fn others_are_fine(&self, after: &str) {
        for other in &self.others {
            assert_eq!(self.host.ask(other, "fine", ""), "fine", "after {after}");
        }
        assert_eq!(self.host.ask(&self.host.create("default"), "state", ""), "State", "after {after}");
    }

    /// A line of the log that names the session and says this.
    pub(crate) fn is_logged(&self, session: &Session, words: &str) {
        let id = format!("\"{}\"", session.id);
        until(words, || self.host.log().lines().any(|line| line.contains(words) && line.contains(&id)).then_some(()));
    }

    pub(crate) fn metric(&self, name: &str, kind: &str) -> u64 {
        let start = format!("conductor_host_{name}{{type=\"{kind}\"}} ");
        let text = self.host.admin("/v1/metrics").body;
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {start} in\n{text}")).parse().unwrap()
    }

    /// Asks, and does not wait for the answer.
    pub(crate) fn ask_and_leave(&self, session: &Session, method: &str, params: Value) -> TcpStream {
        let body = json!({ "method": method, "params": params }).to_string();
        let mut stream = self.host.connect_admin();
        let head =
            format!("POST /v1/sessions/{}/requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", session.id, body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream
    }

    pub(crate) fn close(&self, session: &Session) {
        assert_eq!(self.host.close(session), "Success");
        assert_eq!(self.host.show(session).status, 404);
    }
}

/// What a case leaves behind.
pub(crate) struct Seen {
    pub(crate) state: &'static str,
    /// Part of the reason, where the session is faulted.
    pub(crate) reason: &'static str,
    /// In a line of the log that names the session.
    pub(crate) logged: &'static str,
    /// What grows.
    pub(crate) counter: &'static str,
}

pub(crate) const FAULTED: Seen = Seen { state: "faulted", reason: "panic", logged: "the conductor is faulted", counter: "faults_total" };
pub(crate) const FAILED: Seen = Seen { state: "live", reason: "", logged: "the conductor failed", counter: "errors_total" };
pub(crate) const CLOSED: Seen = Seen { state: "", ..FAILED };
pub(crate) const LATE: Seen = Seen { logged: "did not answer within its deadline", counter: "deadlines_missed_total", ..FAILED };

/// Plays one case, and looks at what it left.
pub(crate) fn play(stage: &Stage, kind: &str, name: &str, seen: &Seen, act: impl FnOnce(&Host, &Session)) {
    let host = &stage.host;
    let session = host.create(kind);
    let before = stage.metric(seen.counter, kind);
    act(host, &session);
    until(name, || (stage.metric(seen.counter, kind) > before).then_some(()));
    stage.is_logged(&session, seen.logged);
    stage.others_are_fine(name);
    if seen.state.is_empty() {
        assert_eq!(host.show(&session).status, 404, "{name}");
        return;
    }
    let shown = host.show(&session).json();
    assert_eq!(shown["state"], seen.state, "{name}: {shown}");
    assert!(shown["reason"].as_str().unwrap_or_default().contains(seen.reason), "{name}: {shown}");
    stage.close(&session);
}
