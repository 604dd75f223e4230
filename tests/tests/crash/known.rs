//! One client of the host, and what it knows: which changes were acknowledged, and which one it has no answer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
};

use conductor_tests::{
    Response,
    http::{NoAnswer, try_get, try_post},
};
use serde_json::{Value, json};

use super::is_overloaded;

/// As many sessions as a client has at a time.
const MOST: u64 = 4;

/// A session as its client knows it.
#[derive(Debug, Default)]
struct Known {
    pin: String,
    clients: Vec<String>,
    kept: u32,
}

/// The change that was asked for and is not answered.
#[derive(Debug)]
enum Asked {
    Create,
    Join(String, String),
    Keep(String, u32),
    Close(String),
}

/// What a restart showed.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Changes without an answer when the host was killed.
    pub(crate) unanswered: usize,
    /// Those of them that were made all the same, as far as can be seen.
    pub(crate) made: usize,
    /// Acknowledged and not there.
    pub(crate) lost: Vec<String>,
    /// There, and closed before or never asked for.
    pub(crate) resurrected: Vec<String>,
}

/// Any number, from nowhere.
pub(crate) fn any_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    sessions: BTreeMap<String, Known>,
    closed: BTreeSet<String>,
    asked: Option<Asked>,
    /// Names and numbers that this client used.
    used: u32,
}

impl Client {
    pub(crate) fn new(name: String) -> Self {
        Self { name, sessions: BTreeMap::new(), closed: BTreeSet::new(), asked: None, used: 0 }
    }

    /// Asks for one change by HTTP and notes the answer.
    ///
    /// # Errors
    /// When the host is gone: what it was asked for may be made or not.
    pub(crate) fn change(&mut self, admin: SocketAddr, iot: SocketAddr) -> Result<(), NoAnswer> {
        let any = any_number();
        let has = self.sessions.len() as u64;
        let session = self.sessions.iter().nth((any >> 32) as usize % has.max(1) as usize);
        self.used += 1;
        let (asked, answer) = match (session, any % 8) {
            (Some((id, session)), 0..3) => {
                let client = format!("{}-{}", self.name, self.used);
                let body = json!({"pin": session.pin, "client": client}).to_string();
                (Asked::Join(id.clone(), client), try_post(iot, &format!("/v1/sessions/{id}/join"), &body))
            }
            (Some((id, _)), 3..6) => {
                // Within a page of the disk, and over many.
                let bytes = [0, 1000, 50_000][(any >> 16) as usize % 3];
                let body = json!({"method": "keep", "params": {"number": self.used, "bytes": bytes}}).to_string();
                (Asked::Keep(id.clone(), self.used), try_post(admin, &format!("/v1/sessions/{id}/requests"), &body))
            }
            (Some((id, _)), chance) if has >= MOST || (chance == 7 && has > 1) => {
                (Asked::Close(id.clone()), try_get(admin, &format!("/api/closeSession?id={id}")))
            }
            _ => (Asked::Create, try_post(admin, "/v1/sessions", "{\"type\": \"echo\"}")),
        };
        match answer {
            Ok(answer) => {
                if !is_overloaded(&answer) {
                    self.note(asked, &answer);
                }
                Ok(())
            }
            Err(error) => {
                // What the host had not read was not under way.
                self.asked = matches!(error, NoAnswer::Cut(_)).then_some(asked);
                Err(error)
            }
        }
    }

    fn note(&mut self, asked: Asked, answer: &Response) {
        assert!((200..300).contains(&answer.status), "{asked:?}: {answer:?}");
        match asked {
            Asked::Create => {
                let (id, pin) = (text(&answer.json(), "id"), text(&answer.json(), "pin"));
                assert!(!self.closed.contains(&id), "{id} was given twice");
                self.sessions.insert(id, Known { pin, ..Known::default() });
            }
            Asked::Join(id, client) => self.sessions.get_mut(&id).unwrap().clients.push(client),
            Asked::Keep(id, number) => self.sessions.get_mut(&id).unwrap().kept = number,
            Asked::Close(id) => {
                assert_eq!(answer.json(), "Success");
                self.sessions.remove(&id);
                self.closed.insert(id);
            }
        }
    }

    /// Whether a change of its is without an answer.
    pub(crate) fn waits(&self) -> bool {
        self.asked.is_some()
    }

    /// Compares what it knows with what is there after a restart, takes from `found` what is its own, and knows from then on what it found.
    /// `kept` asks the session's conductor.
    pub(crate) fn compare(&mut self, found: &mut BTreeMap<String, Value>, kept: impl Fn(&str) -> Value, verdict: &mut Verdict) {
        let asked = self.asked.take();
        verdict.unanswered += usize::from(asked.is_some());
        for (id, mut known) in std::mem::take(&mut self.sessions) {
            let Some(shown) = found.remove(&id) else {
                if matches!(&asked, Some(Asked::Close(closing)) if *closing == id) {
                    verdict.made += 1;
                    self.closed.insert(id);
                } else {
                    verdict.lost.push(format!("session {id}"));
                }
                continue;
            };
            if text(&shown, "pin") != known.pin {
                verdict.lost.push(format!("the pin of {id}"));
            }
            let clients: Vec<_> = shown["clients"].as_array().unwrap().iter().map(|client| text(client, "client_id")).collect();
            verdict.lost.extend(known.clients.iter().filter(|client| !clients.contains(client)).map(|client| format!("{client} in {id}")));
            for client in clients.iter().filter(|client| !known.clients.contains(client)) {
                match &asked {
                    Some(Asked::Join(joined, joining)) if (joined, joining) == (&id, client) => verdict.made += 1,
                    _ => verdict.resurrected.push(format!("{client} in {id}")),
                }
            }
            let number = kept(&id);
            match &asked {
                _ if number == known.kept => {}
                Some(Asked::Keep(keeping, asked)) if *keeping == id && number == *asked => {
                    verdict.made += 1;
                    known.kept = *asked;
                }
                _ => verdict.lost.push(format!("the state {} of {id}, which has {number}", known.kept)),
            }
            known.clients = clients;
            self.sessions.insert(id, known);
        }
        for id in &self.closed {
            if found.remove(id).is_some() {
                verdict.resurrected.push(format!("session {id}"));
            }
        }
        self.asked = asked.filter(|asked| matches!(asked, Asked::Create));
    }

    /// Takes one of the sessions that nobody knows, where it had asked for one.
    pub(crate) fn adopt(&mut self, found: &mut BTreeMap<String, Value>, verdict: &mut Verdict) {
        if self.asked.take().is_some()
            && let Some((id, shown)) = found.pop_first()
        {
            verdict.made += 1;
            self.sessions.insert(id, Known { pin: text(&shown, "pin"), ..Known::default() });
        }
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}")).to_owned()
}
