//! The types that a key can have, each with its parser and the words that say what it expects.
//!
//! A value arrives as JSON, whichever source it comes from; a text from the environment or a flag becomes a number, a
//! boolean or a table first where the key's [`Kind`] asks for one.

mod access;

use std::{
    collections::HashSet,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use conductor_abi::rules;
use hyper::Uri;
use serde_json::{Map, Value};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{conductors::library::Hash, tokens::claims::UsernameRule};

pub(super) use self::access::{CLAIM, HOST_NAMES, NETWORKS, OIDC_ISSUER, OIDC_URL, ROLES};

/// How a key's values are read.
pub(super) struct Parser<T> {
    /// What a text from the environment or a flag stands for.
    pub(super) kind: Kind,
    /// What is expected, to follow "expected"; also the reference's description of the type.
    pub(super) expected: &'static str,
    pub(super) parse: fn(&Value) -> Result<T, Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Bool,
    Table,
    /// A text that is shown nowhere.
    Secret,
}

impl Kind {
    /// What `text` from the environment or a flag stands for; the text itself where it is not of this kind, for the
    /// parser to refuse in the same words as one in the file.
    pub(super) fn read_text(self, text: &str) -> Value {
        let read = match self {
            Self::Text | Self::Secret => None,
            Self::Integer => text.parse::<i64>().ok().map(Value::from),
            Self::Bool => text.parse::<bool>().ok().map(Value::from),
            Self::Table => serde_json::from_str(text).ok().filter(Value::is_object),
        };
        read.unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

/// Why a value was refused.
pub(super) enum Fault {
    /// It is not what the parser expects.
    Unexpected,
    /// One element of the list is not.
    Element(String),
    /// It is of the right form, and still cannot be.
    Because(String),
    /// It holds a secret, so it is not shown; what to do instead.
    Secret(&'static str),
}

/// A text that no message and no debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What it is.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Where sessions are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreUrl {
    /// In memory: all is lost at the end. For tests.
    #[default]
    Memory,
    /// In this JSON file.
    Json(PathBuf),
    /// In this SQLite database.
    Sqlite(PathBuf),
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Json(path) => write!(f, "json:{}", path.display()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// Whether tokens are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenMode {
    /// A token is a signed JWT.
    #[default]
    Signed,
    /// A token is the client's own name: nothing is authenticated.
    None,
}

/// Which broker carries the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerKind {
    /// The one in this process.
    #[default]
    Embedded,
    /// One that runs elsewhere.
    External,
    /// None: sessions have requests and joins, and no messages.
    None,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human where standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

pub(super) const PATH: Parser<PathBuf> = Parser { kind: Kind::Text, expected: "a path", parse: |value| text(value).and_then(path) };

pub(super) const OPTIONAL_PATH: Parser<Option<PathBuf>> =
    Parser { kind: Kind::Text, expected: "a path", parse: |value| (PATH.parse)(value).map(Some) };

pub(super) const PATH_OR_OFF: Parser<Option<PathBuf>> = Parser {
    kind: Kind::Text,
    expected: "a path, or \"\" for none",
    parse: |value| if value == "" { Ok(None) } else { (OPTIONAL_PATH.parse)(value) },
};

pub(super) const AUDIT_BYTES: Parser<u64> = Parser {
    kind: Kind::Integer,
    expected: "an integer from 4096 to 1099511627776 (1 TiB)",
    parse: |value| value.as_u64().filter(|number| (4096..=1 << 40).contains(number)).ok_or(Fault::Unexpected),
};

pub(super) const AUDIT_KEEP: Parser<u32> =
    Parser { kind: Kind::Integer, expected: "an integer from 0 to 100", parse: |value| integer(value, 0, 100).map(u32::from) };

pub(super) const LINK_USERNAME: Parser<Option<String>> = Parser {
    kind: Kind::Text,
    expected: "a text of 1 to 65535 bytes without control characters",
    parse: |value| Some(text(value)?).filter(|text| is_mqtt_text(text)).map(|text| Some(text.to_owned())).ok_or(Fault::Unexpected),
};

pub(super) const LINK_PASSWORD: Parser<Option<Secret>> = Parser {
    kind: Kind::Secret,
    expected: "a text of 1 to 65535 bytes",
    parse: |value| {
        let text = text(value)?;
        if (1..=65_535).contains(&text.len()) { Ok(Some(Secret(text.to_owned()))) } else { Err(Fault::Unexpected) }
    },
};

pub(super) const ID_DIGITS: Parser<u8> =
    Parser { kind: Kind::Integer, expected: "an integer from 4 to 12", parse: |value| integer(value, 4, 12) };

pub(super) const PIN_DIGITS: Parser<u8> =
    Parser { kind: Kind::Integer, expected: "an integer from 3 to 12", parse: |value| integer(value, 3, 12) };

pub(super) const STATE_BYTES: Parser<usize> = Parser {
    kind: Kind::Integer,
    expected: "an integer from 0 to 67108864 (64 MiB)",
    parse: |value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number <= 64 << 20).ok_or(Fault::Unexpected)
    },
};

pub(super) const CONNECTIONS: Parser<usize> = Parser {
    kind: Kind::Integer,
    expected: "an integer from 1 to 1000000",
    parse: |value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| (1..=1_000_000).contains(number)).ok_or(Fault::Unexpected)
    },
};

pub(super) const RATE: Parser<u32> = Parser {
    kind: Kind::Integer,
    expected: "an integer from 1 to 1000000",
    parse: |value| (CONNECTIONS.parse)(value).and_then(|number| u32::try_from(number).map_err(|_| Fault::Unexpected)),
};

pub(super) const PACKET_BYTES: Parser<usize> = Parser {
    kind: Kind::Integer,
    expected: "an integer from 1024 to 262144 (256 KiB)",
    parse: |value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| (1024..=rules::MAX_PAYLOAD).contains(number)).ok_or(Fault::Unexpected)
    },
};

pub(super) const SHA256: Parser<Option<Hash>> = Parser {
    kind: Kind::Text,
    expected: "a SHA-256 as 64 hexadecimal digits (`conductor-host plugin inspect FILE` shows it)",
    parse: |value| text(value)?.parse().map(Some).map_err(|_| Fault::Unexpected),
};

/// A thousand in a second are as good as no limit, and more would make intervals of less than a millisecond.
pub(super) const COUNT: Parser<u32> =
    Parser { kind: Kind::Integer, expected: "an integer from 1 to 60000", parse: |value| whole(value, 60_000) };

pub(super) const PIN_TRIES: Parser<u16> =
    Parser { kind: Kind::Integer, expected: "an integer from 1 to 60000", parse: |value| whole(value, 60_000) };

pub(super) const BOOL: Parser<bool> =
    Parser { kind: Kind::Bool, expected: "true or false", parse: |value| value.as_bool().ok_or(Fault::Unexpected) };

pub(super) const DEADLINE: Parser<Duration> = Parser {
    kind: Kind::Text,
    expected: "a duration from \"1ms\" to \"1h\", such as \"5s\"",
    parse: |value| duration(value, Duration::from_millis(1), Duration::from_secs(3600)),
};

pub(super) const CONNECT_TIME: Parser<Duration> = Parser {
    kind: Kind::Text,
    expected: "a duration from \"100ms\" to \"1m\", such as \"5s\"",
    parse: |value| duration(value, Duration::from_millis(100), Duration::from_secs(60)),
};

/// Ten years bound it, so that no sum of times overflows.
pub(super) const LIFETIME: Parser<Duration> = Parser {
    kind: Kind::Text,
    expected: "a duration from \"1s\" to \"3650days\", such as \"24h\"",
    parse: |value| duration(value, Duration::from_secs(1), Duration::from_secs(3650 * 86_400)),
};

/// What a limit of a session is written as.
pub const EXPECTED_LIMIT: &str = "a duration from \"1s\" to \"3650days\", such as \"24h\", or \"none\"";

pub(super) const LIMIT: Parser<Option<Duration>> = Parser {
    kind: Kind::Text,
    expected: EXPECTED_LIMIT,
    parse: |value| if value == "none" { Ok(None) } else { (LIFETIME.parse)(value).map(Some) },
};

/// A limit of a session out of a text as in the settings, where nothing is no limit; nothing where the text is none.
#[must_use]
pub fn limit(text: &str) -> Option<Option<Duration>> {
    (LIMIT.parse)(&text.into()).ok()
}

pub(super) const LISTEN: Parser<Vec<SocketAddr>> = Parser {
    kind: Kind::Text,
    expected: "an IP address and port such as \"0.0.0.0:8888\" or \"[::1]:8888\" (a name is not resolved), or a list of them",
    parse: |value| match addresses(value)? {
        list if list.is_empty() => Err(Fault::Unexpected),
        list => Ok(list),
    },
};

pub(super) const LISTEN_OR_OFF: Parser<Vec<SocketAddr>> = Parser {
    kind: Kind::Text,
    expected: "an IP address and port such as \"0.0.0.0:1883\" (a name is not resolved), a list of them, or \"\" for none",
    parse: addresses,
};

pub(super) const HTTP_URL: Parser<Option<String>> = Parser {
    kind: Kind::Text,
    expected: "a URL such as \"https://sessions.example.org\"",
    parse: |value| url(value, &["http", "https"]).map(Some),
};

pub(super) const MQTT_URL: Parser<Option<String>> = Parser {
    kind: Kind::Text,
    expected: "a URL such as \"mqtt://broker.example.org:1883\" (mqtt, mqtts, ws or wss)",
    parse: |value| url(value, &["mqtt", "mqtts", "ws", "wss"]).map(Some),
};

pub(super) const STORE_URL: Parser<StoreUrl> = Parser {
    kind: Kind::Text,
    expected: "\"sqlite:FILE\", \"json:FILE\" or \"memory:\"",
    parse: |value| match text(value)?.split_once(':') {
        Some(("json", file)) => path(file).map(StoreUrl::Json),
        Some(("memory", "")) => Ok(StoreUrl::Memory),
        Some(("sqlite", file)) => path(file).map(StoreUrl::Sqlite),
        _ => Err(Fault::Unexpected),
    },
};

pub(super) const ISSUER: Parser<String> = Parser {
    kind: Kind::Text,
    expected: "a text of 1 to 256 characters",
    parse: |value| {
        let text = text(value)?;
        let good = (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if good { Ok(text.to_owned()) } else { Err(Fault::Unexpected) }
    },
};

pub(super) const CONDUCTOR_NAME: Parser<Option<String>> =
    Parser { kind: Kind::Text, expected: "a conductor's name", parse: |value| (ISSUER.parse)(value).map(Some) };

pub(super) const SERVICE_NAME: Parser<Option<String>> = Parser { expected: "a service's name", ..CONDUCTOR_NAME };

pub(super) const TOKEN_MODE: Parser<TokenMode> = Parser {
    kind: Kind::Text,
    expected: "\"signed\" or \"none\"",
    parse: |value| choose(value, &[("signed", TokenMode::Signed), ("none", TokenMode::None)]),
};

pub(super) const BROKER: Parser<BrokerKind> = Parser {
    kind: Kind::Text,
    expected: "\"embedded\", \"external\" or \"none\"",
    parse: |value| choose(value, &[("embedded", BrokerKind::Embedded), ("external", BrokerKind::External), ("none", BrokerKind::None)]),
};

pub(super) const USERNAME: Parser<UsernameRule> = Parser {
    kind: Kind::Text,
    expected: "\"session_id\" or \"client_id\"",
    parse: |value| choose(value, &[("session_id", UsernameRule::SessionId), ("client_id", UsernameRule::ClientId)]),
};

pub(super) const LOG_FORMAT: Parser<LogFormat> = Parser {
    kind: Kind::Text,
    expected: "\"auto\", \"human\" or \"json\"",
    parse: |value| choose(value, &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)]),
};

pub(super) const LOG_LEVEL: Parser<String> = Parser {
    kind: Kind::Text,
    expected: "off, error, warn, info, debug or trace, or directives such as \"info,conductor_host=debug\"",
    parse: |value| {
        let text = text(value)?;
        // A bare word is a target to the filter, so that a misspelt level would silence everything; nothing is "error" to it.
        let misspelt = |directive: &str| {
            let directive = directive.trim();
            directive.is_empty() || !directive.contains('=') && directive.parse::<LevelFilter>().is_err()
        };
        if (!text.contains('[') && text.split(',').any(misspelt)) || EnvFilter::try_new(text).is_err() {
            return Err(Fault::Unexpected);
        }
        Ok(text.to_owned())
    },
};

pub(super) const CONFIG: Parser<Option<Map<String, Value>>> = Parser {
    kind: Kind::Table,
    expected: "a table (in the environment and in flags: a JSON object)",
    parse: |value| value.as_object().cloned().map(Some).ok_or(Fault::Unexpected),
};

fn text(value: &Value) -> Result<&str, Fault> {
    value.as_str().ok_or(Fault::Unexpected)
}

fn path(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains('\0') { Err(Fault::Unexpected) } else { Ok(Path::new(text).to_path_buf()) }
}

fn integer(value: &Value, least: u8, most: u8) -> Result<u8, Fault> {
    let number = value.as_i64().and_then(|number| u8::try_from(number).ok());
    number.filter(|number| (least..=most).contains(number)).ok_or(Fault::Unexpected)
}

fn whole<T: TryFrom<u64>>(value: &Value, most: u64) -> Result<T, Fault> {
    let number = value.as_u64().filter(|number| (1..=most).contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or(Fault::Unexpected)
}

fn duration(value: &Value, least: Duration, most: Duration) -> Result<Duration, Fault> {
    let parsed = humantime::parse_duration(text(value)?).ok();
    parsed.filter(|duration| (least..=most).contains(duration)).ok_or(Fault::Unexpected)
}

/// A text, which may hold several separated by commas, or a list of texts. An empty text stands for none.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, Fault> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(text.split(',').map(str::to_owned).collect()),
        Value::Array(list) => {
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| Fault::Element(value.to_string()));
            list.iter().map(text).collect()
        }
        _ => Err(Fault::Unexpected),
    }
}

fn addresses(value: &Value) -> Result<Vec<SocketAddr>, Fault> {
    let texts = texts(value)?;
    let mut seen = HashSet::new();
    let mut addresses = Vec::with_capacity(texts.len());
    for text in texts {
        let address: SocketAddr = text.trim().parse().map_err(|_| Fault::Element(format!("{text:?}")))?;
        if address.port() != 0 && !seen.insert(address) {
            return Err(Fault::Because(format!("{address} is listed twice")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Kept as written, without a final slash.
fn url(value: &Value, schemes: &[&str]) -> Result<String, Fault> {
    let text = text(value)?;
    let hidden = text.contains('@');
    let uri: Uri = text.parse().map_err(|_| if hidden { Fault::Secret("no URL, with an `@` in it") } else { Fault::Unexpected })?;
    let known = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Fault::Secret("a URL with a user or a password in it; take them out"));
    }
    let plain = uri.query().is_none();
    if !known || !plain || uri.host().is_none_or(str::is_empty) {
        return Err(Fault::Unexpected);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// What an MQTT username may be, within what its length can say.
fn is_mqtt_text(text: &str) -> bool {
    (1..=65_535).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// One of the named choices.
fn choose<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, Fault> {
    let text = text(value)?;
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or(Fault::Unexpected)
}
