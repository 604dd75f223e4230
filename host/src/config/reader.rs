//! Puts the settings together: reads each key's values, weakest source first, then checks what concerns several keys.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use conductor_abi::rules;
use serde_json::Value;

use super::{
    BrokerKind, Mistakes, Settings, StoreUrl, TokenMode, is_secret_name,
    mistakes::{Mistake, Origin, Warning, clean},
    sources::{Collected, Given, Raw, named_path},
    table::{
        Admin, Audit, Fallback, Family, Iot, Joins, Log, Mqtt, SERVICE_FAMILY, Service, Sessions, State, Store, TYPE_FAMILY, Tls, Token,
        Type,
    },
    values::{Fault, Kind, Parser},
};

/// A key with the value in force.
#[derive(Clone, Debug)]
pub(super) struct Effective {
    pub(super) path: String,
    /// Nothing where it is not set and has no default.
    pub(super) value: Option<Value>,
    pub(super) origin: Origin,
    /// Whether the value must not be shown.
    pub(super) secret: bool,
}

/// Gives out typed values and notes mistakes.
pub(super) struct Reader {
    given: HashMap<String, Vec<Given>>,
    mistakes: Vec<Mistake>,
    effective: Vec<Effective>,
    /// Where the section that is being read was begun: the place to name for a key that is missing.
    section: Origin,
    /// Added where a key is missing.
    hint: String,
    /// What the file sets is unknown, so that nothing can be told to be missing.
    file_unread: bool,
}

impl Reader {
    /// The value of `at.name`. What is wrong is noted, and a placeholder returned. Every value is looked at, those that a
    /// stronger source overrides included: settings are right or wrong whatever else is set.
    pub(super) fn get<T: Default>(&mut self, at: &str, name: &str, parser: &Parser<T>, fallback: Fallback) -> T {
        let path = format!("{at}.{name}");
        let before = self.effective.len();
        let mut result = None;
        for given in self.given.remove(&path).unwrap_or_default() {
            let value = match given.raw {
                Raw::Value(value) => value,
                Raw::Text(text) => parser.kind.read_text(&text),
            };
            self.effective.truncate(before);
            result = Some(self.parse(&path, value, given.origin, parser));
        }
        match result {
            Some(parsed) => parsed.unwrap_or_default(),
            None => self.fall_back(path, parser, fallback),
        }
    }

    fn fall_back<T: Default>(&mut self, path: String, parser: &Parser<T>, fallback: Fallback) -> T {
        match fallback {
            Fallback::Text(template) => {
                let Some(text) = self.fill_in(template) else { return T::default() };
                let value = parser.kind.read_text(&text);
                self.parse(&path, value, Origin::Default, parser).unwrap_or_default()
            }
            Fallback::Unset => {
                self.effective.push(Effective { path, value: None, origin: Origin::Default, secret: false });
                T::default()
            }
            Fallback::Required => {
                if !self.file_unread {
                    let problem = format!("missing, expected {}{}", parser.expected, self.hint);
                    self.mistakes.push(Mistake::new(&self.section, &path, problem));
                }
                T::default()
            }
        }
    }

    /// A default's text with `{section.key}` replaced; nothing where that key's own value is wrong, which is said there.
    fn fill_in(&self, template: &str) -> Option<String> {
        let Some((before, (path, after))) = template.split_once('{').and_then(|(b, rest)| Some((b, rest.split_once('}')?))) else {
            return Some(template.to_owned());
        };
        let known = self.effective.iter().find(|known| known.path == path)?;
        Some(format!("{before}{}{after}", known.value.as_ref()?.as_str()?))
    }

    fn parse<T>(&mut self, path: &str, value: Value, origin: Origin, parser: &Parser<T>) -> Option<T> {
        let found = |text: &str| format!("found {}", clean(text));
        let problem = match (parser.parse)(&value) {
            Ok(parsed) => {
                let secret = parser.kind == Kind::Secret;
                // Of a secret it is kept only that it is set.
                let value = Some(match parser.kind {
                    Kind::Secret => Value::Null,
                    Kind::Table => without_secrets(value),
                    _ => value,
                });
                self.effective.push(Effective { path: path.to_owned(), value, origin, secret });
                return Some(parsed);
            }
            Err(Fault::Unexpected) => format!("{}, expected {}", found(&shown(&value, parser.kind)), parser.expected),
            Err(Fault::Element(element)) => format!("{}, expected {}", found(&element), parser.expected),
            Err(Fault::Secret(what)) => format!("found {what}; expected {}", parser.expected),
            Err(Fault::Because(reason)) => format!("{}: {reason}", found(&shown(&value, parser.kind))),
        };
        self.mistakes.push(Mistake::new(&origin, path, problem));
        None
    }

    fn is_set(&self, path: &str) -> bool {
        // One that was set wrongly is not in force; its own mistake says so.
        self.effective.iter().any(|known| known.path == path && known.value.is_some())
    }

    /// Notes a mistake where `other`, without which `path` cannot be used, is not set.
    fn needs(&mut self, path: &str, other: &str) {
        let unset = self.effective.iter().any(|known| known.path == other && known.value.is_none());
        if unset && !self.file_unread {
            self.mistakes.push(Mistake::new(&self.origin(path), path, format!("needs {other}, which is not set")));
        }
    }

    fn origin(&self, path: &str) -> Origin {
        self.effective.iter().find(|known| known.path == path).map_or(Origin::Default, |known| known.origin.clone())
    }
}

/// A wrong value for a message. What a plugin gets may hold secrets, so only its kind is told.
fn shown(value: &Value, kind: Kind) -> String {
    match value {
        _ if !matches!(kind, Kind::Table | Kind::Secret) => value.to_string(),
        Value::String(_) if kind == Kind::Secret => "a text of another length".into(),
        Value::String(_) => "a text that is no such object".into(),
        Value::Number(_) if kind == Kind::Secret => "a number".into(),
        Value::Object(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        other => other.to_string(),
    }
}

/// A plugin's config as it may be shown: what is named like a secret is not, unless it only says where the secret is.
fn without_secrets(value: Value) -> Value {
    let elsewhere =
        |value: &Value| value.as_object().is_some_and(|table| table.len() == 1 && table.keys().all(|key| key == "file" || key == "env"));
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, field)| {
                    let hidden = is_secret_name(&name) && !elsewhere(&field);
                    let shown = if hidden { Value::from("(not shown)") } else { without_secrets(field) };
                    (name, shown)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_secrets).collect()),
        other => other,
    }
}

pub(super) fn read(collected: Collected, base_dir: &Path) -> Result<(Settings, Vec<Warning>), Mistakes> {
    let Collected { given, names, mistakes, mut warnings, file_unread } = collected;
    let mut reader = Reader { given, mistakes, effective: Vec::new(), section: Origin::Default, hint: String::new(), file_unread };
    let mut settings = Settings {
        base_dir: base_dir.to_path_buf(),
        state: State::read(&mut reader, "state"),
        admin: Admin::read(&mut reader, "admin"),
        iot: Iot::read(&mut reader, "iot"),
        sessions: Sessions::read(&mut reader, "sessions"),
        joins: Joins::read(&mut reader, "joins"),
        store: Store::read(&mut reader, "store"),
        token: Token::read(&mut reader, "token"),
        mqtt: Mqtt::read(&mut reader, "mqtt"),
        tls: Tls::read(&mut reader, "tls"),
        audit: Audit::read(&mut reader, "audit"),
        log: Log::read(&mut reader, "log"),
        types: read_family(&mut reader, &TYPE_FAMILY, &names, Type::read),
        services: read_family(&mut reader, &SERVICE_FAMILY, &names, Service::read),
        effective: Vec::new(),
    };
    check_listeners(&mut reader, &settings);
    check_pairs(&mut reader, &settings);
    if let Some(mistakes) = Mistakes::of(std::mem::take(&mut reader.mistakes)) {
        return Err(mistakes);
    }
    resolve_paths(&mut settings);
    warn(&reader, &settings, &mut warnings);
    settings.effective = reader.effective;
    Ok((settings, warnings))
}

/// Reads all tables of a family.
fn read_family<T>(
    reader: &mut Reader,
    family: &Family,
    names: &BTreeMap<&'static str, BTreeMap<String, Origin>>,
    read: impl Fn(&mut Reader, &str) -> T,
) -> BTreeMap<String, T> {
    let mut tables = BTreeMap::new();
    let Some(names) = names.get(family.word) else { return tables };
    for (name, origin) in names {
        reader.section = origin.clone();
        let at = named_path(family, name);
        if !rules::is_settings_name(name) {
            let problem = format!("not the name of {}, expected 1 to 64 of A-Z a-z 0-9 _ . -", family.what);
            reader.mistakes.push(Mistake::new(&reader.section, &at, problem));
        }
        // Another one whose name differs in upper and lower case only.
        let twin = names.keys().find(|other| *other != name && other.eq_ignore_ascii_case(name));
        reader.hint = twin.map(|twin| format!("; did you mean {}?", named_path(family, twin))).unwrap_or_default();
        tables.insert(name.clone(), read(reader, &at));
    }
    tables
}

/// Two listeners on one address: the second one could never be bound.
fn check_listeners(reader: &mut Reader, settings: &Settings) {
    let mut keys: Vec<(&str, &[SocketAddr])> = vec![("admin.listen", &settings.admin.listen), ("iot.listen", &settings.iot.listen)];
    if settings.mqtt.broker == BrokerKind::Embedded {
        keys.push(("mqtt.listen", &settings.mqtt.listen));
        keys.push(("mqtt.websocket_listen", &settings.mqtt.websocket_listen));
        keys.push(("mqtt.tls_listen", &settings.mqtt.tls_listen));
        keys.push(("mqtt.websocket_tls_listen", &settings.mqtt.websocket_tls_listen));
    }
    let listeners: Vec<(&str, SocketAddr)> =
        keys.into_iter().flat_map(|(key, list)| list.iter().map(move |address| (key, *address))).collect();
    for (index, (key, address)) in listeners.iter().enumerate() {
        let Some((other_key, other)) = listeners[..index].iter().find(|(_, other)| collide(*address, *other)) else { continue };
        // The one that was set is the one to change; of two that were set, the later.
        let (here, there) = match (reader.origin(key), reader.origin(other_key)) {
            (Origin::Default, origin) if origin != Origin::Default => ((other_key, other, origin), (key, address, Origin::Default)),
            (origin, other_origin) => ((key, address, origin), (other_key, other, other_origin)),
        };
        let problem = format!("found {}, where {} listens already ({}: {})", here.1, there.0, there.2, there.1);
        reader.mistakes.push(Mistake::new(&here.2, here.0, problem));
    }
}

/// Keys that make no sense without another, or beside another.
fn check_pairs(reader: &mut Reader, settings: &Settings) {
    let Settings { admin, iot, mqtt, .. } = settings;
    let embedded = mqtt.broker == BrokerKind::Embedded;
    let wants_tls = [
        ("admin.tls", admin.tls),
        ("iot.tls", iot.tls),
        ("mqtt.tls_listen", embedded && !mqtt.tls_listen.is_empty()),
        ("mqtt.websocket_tls_listen", embedded && !mqtt.websocket_tls_listen.is_empty()),
    ];
    for (key, _) in wants_tls.into_iter().filter(|(_, wanted)| *wanted) {
        reader.needs(key, "tls.cert");
        reader.needs(key, "tls.key");
    }
    if mqtt.broker == BrokerKind::External {
        reader.needs("mqtt.broker", "mqtt.url");
    }
    let pairs = [
        ("admin.client_ca", "admin.client_roles"),
        ("admin.client_roles", "admin.client_ca"),
        ("admin.oidc_issuer", "admin.oidc_audience"),
        ("admin.oidc_issuer", "admin.oidc_roles"),
        ("admin.oidc_audience", "admin.oidc_issuer"),
        ("admin.oidc_jwks_url", "admin.oidc_issuer"),
        ("admin.oidc_roles", "admin.oidc_issuer"),
        ("tls.cert", "tls.key"),
        ("tls.key", "tls.cert"),
        ("mqtt.client_cert", "mqtt.client_key"),
        ("mqtt.client_key", "mqtt.client_cert"),
    ];
    for (key, other) in pairs {
        if reader.is_set(key) {
            reader.needs(key, other);
        }
    }
    for key in ["mqtt.link_password", "mqtt.link_password_file"] {
        if reader.is_set(key) {
            reader.needs(key, "mqtt.link_username");
        }
    }
    if reader.is_set("mqtt.link_password") && reader.is_set("mqtt.link_password_file") {
        let origin = reader.origin("mqtt.link_password_file");
        let problem = format!("set beside mqtt.link_password ({}); keep one of them", reader.origin("mqtt.link_password"));
        reader.mistakes.push(Mistake::new(&origin, "mqtt.link_password_file", problem));
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || wildcard && a.is_ipv4() == b.is_ipv4())
}

fn resolve_paths(settings: &mut Settings) {
    let base = settings.base_dir.clone();
    let resolve = |path: &mut PathBuf| *path = base.join(&*path);
    resolve(&mut settings.state.dir);
    resolve(&mut settings.token.key);
    resolve(&mut settings.admin.tokens);
    let (mqtt, tls) = (&mut settings.mqtt, &mut settings.tls);
    let optional = [
        &mut settings.audit.file,
        &mut settings.admin.client_ca,
        &mut mqtt.ca,
        &mut mqtt.client_cert,
        &mut mqtt.client_key,
        &mut mqtt.link_password_file,
        &mut tls.cert,
        &mut tls.key,
    ];
    optional.into_iter().flatten().for_each(resolve);
    if let StoreUrl::Json(path) | StoreUrl::Sqlite(path) = &mut settings.store.url {
        resolve(path);
    }
    settings.types.values_mut().for_each(|read| resolve(&mut read.plugin));
    settings.services.values_mut().for_each(|read| resolve(&mut read.plugin));
}

fn warn(reader: &Reader, settings: &Settings, warnings: &mut Vec<Warning>) {
    let mut warning = |key: &str, text: String| {
        warnings.push(Warning { origin: reader.origin(key), key: key.to_owned(), text });
    };
    let public = settings.iot.listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = public.filter(|_| settings.sessions.pin_digits < 4) {
        let digits = settings.sessions.pin_digits;
        warning("sessions.pin_digits", format!("pins of {digits} digits are guessed soon on a public port (iot.listen is {address})"));
    }
    if let Some(address) = public.filter(|_| !settings.joins.exempt.is_empty()) {
        let exempt = &settings.joins.exempt;
        warning("joins.exempt", format!("whoever is in {exempt} may guess pins as fast as they can (iot.listen is {address})"));
    }
    if settings.token.mode == TokenMode::None && settings.mqtt.broker != BrokerKind::None {
        warning(
            "token.mode",
            "MQTT is not authenticated: whoever knows the name of a client that joined can speak as that client".to_owned(),
        );
    }
    if settings.types.is_empty() {
        warning("types", "no type is configured, so no session can be created".to_owned());
    }
}
