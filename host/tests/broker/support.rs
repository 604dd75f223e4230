//! A broker with an admission that reads `session:client` out of the password, and a record of what it tells.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use conductor_host::{
    broker::{Admission, Admitted, Broker, ConnectRequest, EmbeddedBroker, Endpoints, Events, Limits, Message, Refusal},
    sessions::SessionId,
    tls::Tls,
    tokens::grant::Grant,
};
use tokio::sync::mpsc;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Looks again and again, until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

pub(crate) fn filters(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[derive(Clone, Debug)]
pub(crate) enum Told {
    Message(Message),
    Connected(SessionId, String),
    Disconnected(SessionId, String),
}

struct Recorder(mpsc::UnboundedSender<Told>);

impl Events for Recorder {
    fn message(&self, message: Message) {
        drop(self.0.send(Told::Message(message)));
    }
    fn connected(&self, session: SessionId, client_id: &str) {
        drop(self.0.send(Told::Connected(session, client_id.to_owned())));
    }
    fn disconnected(&self, session: SessionId, client_id: &str) {
        drop(self.0.send(Told::Disconnected(session, client_id.to_owned())));
    }
    fn link(&self, _: bool) {
        panic!("the embedded broker has no link");
    }
}

type Hook = Box<dyn FnMut() + Send>;

/// Admits who shows `session:client` as password, with the whole session or what is set here.
pub(crate) struct TestAdmission {
    pub(crate) grants: Mutex<HashMap<String, Grant>>,
    pub(crate) lifetime: Mutex<Duration>,
    /// Whether passwords count as what can be found by trying.
    pub(crate) can_be_guessed: AtomicBool,
    /// Called between the decision and its telling.
    pub(crate) before_telling: Mutex<Option<Hook>>,
}

impl Admission for TestAdmission {
    fn can_be_guessed(&self) -> bool {
        self.can_be_guessed.load(Ordering::Relaxed)
    }

    fn admit(&self, connect: &ConnectRequest<'_>) -> Result<Admitted, Refusal> {
        let password = connect.password.and_then(|p| std::str::from_utf8(p).ok()).ok_or(Refusal::BadCredentials)?;
        let (session, client) = password.split_once(':').ok_or(Refusal::BadCredentials)?;
        let session = SessionId::parse(session).ok_or(Refusal::BadCredentials)?;
        let grant = self.grants.lock().unwrap().get(password).cloned().unwrap_or_else(|| Grant::whole_session(session));
        if let Some(hook) = &mut *self.before_telling.lock().unwrap() {
            hook();
        }
        let expires_at = conductor_host::sessions::clock::Clock::system().now() + *self.lifetime.lock().unwrap();
        Ok(Admitted { session, client_id: client.into(), grant, expires_at })
    }
}

pub(crate) struct Host {
    pub(crate) broker: Arc<EmbeddedBroker>,
    pub(crate) admission: Arc<TestAdmission>,
    pub(crate) tcp: SocketAddr,
    pub(crate) websocket: SocketAddr,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Host {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::with_tls(limits, None).await
    }

    /// Where TLS is given, it listens over TLS as well.
    pub(crate) async fn with_tls(limits: Limits, tls: Option<Arc<Tls>>) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let admission = Arc::new(TestAdmission {
            grants: Mutex::default(),
            lifetime: Mutex::new(Duration::from_secs(3600)),
            can_be_guessed: AtomicBool::new(false),
            before_telling: Mutex::default(),
        });
        let broker = EmbeddedBroker::new(limits);
        let any = vec!["127.0.0.1:0".parse().unwrap()];
        let over_tls = if tls.is_some() { any.clone() } else { Vec::new() };
        let wanted = Endpoints { tcp: any.clone(), websocket: any, tls: over_tls.clone(), websocket_tls: over_tls };
        broker.serve(Arc::<TestAdmission>::clone(&admission), Arc::new(Recorder(sender)), &wanted, tls).await.unwrap();
        let endpoints = broker.endpoints();
        Self { broker, admission, tcp: endpoints.tcp[0], websocket: endpoints.websocket[0], told }
    }

    pub(crate) fn grant(&self, password: &str, subscribe: &[&str], publish: &[&str]) {
        self.admission.grants.lock().unwrap().insert(password.to_owned(), Grant::from_lists(filters(subscribe), filters(publish)));
    }

    pub(crate) async fn told(&mut self) -> Told {
        soon("an event", self.told.recv()).await.unwrap()
    }

    /// The next message told; other events are passed over.
    pub(crate) async fn message(&mut self) -> Message {
        loop {
            if let Told::Message(message) = self.told().await {
                return message;
            }
        }
    }

    /// The next coming or going; messages are passed over.
    pub(crate) async fn presence(&mut self) -> (bool, String) {
        loop {
            match self.told().await {
                Told::Message(_) => {}
                Told::Connected(_, client) => return (true, client),
                Told::Disconnected(_, client) => return (false, client),
            }
        }
    }

    /// What has been told and not yet looked at.
    pub(crate) fn so_far(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }

    /// The payloads among it.
    pub(crate) fn messages_so_far(&mut self) -> Vec<String> {
        let message = |told| if let Told::Message(message) = told { Some(message) } else { None };
        self.so_far().into_iter().filter_map(message).map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
    }
}
