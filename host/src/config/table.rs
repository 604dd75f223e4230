//! The table of all keys. A field's documentation is the reference's text for its key.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use super::{
    reader::Reader,
    values::{
        BOOL, BROKER, BrokerKind, CONDUCTOR_NAME, CONFIG, DEADLINE, HTTP_URL, ID_DIGITS, ISSUER, Kind, LIFETIME, LIMIT, LINK_PASSWORD,
        LINK_USERNAME, LISTEN, LISTEN_LOOPBACK, LISTEN_OR_OFF, LOG_FORMAT, LOG_LEVEL, LogFormat, MQTT_URL, OPTIONAL_PATH, PATH, PIN_DIGITS,
        SERVICE_NAME, STATE_BYTES, STORE_URL, Secret, StoreUrl, TOKEN_MODE, TokenMode, USERNAME,
    },
};
use crate::tokens::claims::UsernameRule;

/// The path of a type's section, with `NAME` in place of its name.
pub(super) const TYPES: &str = "types.NAME";
/// The same of a service.
pub(super) const SERVICES: &str = "services.NAME";

/// Sections of which there may be many, each under a name of its own.
#[derive(Debug)]
pub(super) struct Family {
    /// What their paths begin with.
    pub(super) word: &'static str,
    /// Their path in the table.
    pub(super) section: &'static str,
    /// What one of them is.
    pub(super) what: &'static str,
}

pub(super) static TYPE_FAMILY: Family = Family { word: "types", section: TYPES, what: "a type" };
pub(super) static SERVICE_FAMILY: Family = Family { word: "services", section: SERVICES, what: "a service" };
pub(super) static FAMILIES: [&Family; 2] = [&TYPE_FAMILY, &SERVICE_FAMILY];

/// The family that this word begins the paths of.
pub(super) fn family(word: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.word == word)
}

/// A section with its keys.
pub(super) struct Section {
    pub(super) path: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// A key: all that can be told without reading a value.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) expected: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Fallback,
}

/// What holds where a key is not set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fallback {
    /// This text, read as one from a flag. `{section.key}` in it stands for the value of a key read earlier.
    Text(&'static str),
    /// Nothing: the key may stay unset.
    Unset,
    /// It must be set.
    Required,
}
use Fallback::{Required, Text, Unset};

/// Keys that this version knows by name only: section and key.
pub(super) const LATER_KEYS: &[(&str, &str)] = &[(TYPES, "sha256")];

macro_rules! table {
    ($(
        $(#[doc = $section_doc:literal])+
        [$path:expr] $section:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $parser:ident, $default:expr; )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $section {
                $( $(#[doc = $doc])+ pub $field: $type, )+
            }

            impl $section {
                /// Reads the keys below `at`; a mistake leaves a placeholder, and the reader says so.
                pub(super) fn read(reader: &mut Reader, at: &str) -> Self {
                    Self { $( $field: reader.get(at, stringify!($field), &$parser, $default), )+ }
                }
            }
        )+

        /// Every section and key of this version.
        pub(super) const SECTIONS: &[Section] = &[$(
            Section {
                path: $path,
                doc: &[$($section_doc),+],
                keys: &[$(
                    Key {
                        name: stringify!($field),
                        doc: &[$($doc),+],
                        expected: $parser.expected,
                        kind: $parser.kind,
                        default: $default,
                    },
                )+],
            },
        )+];
    };
}

table! {
    /// What the host keeps for itself.
    ["state"] State {
        /// Folder for copies of plugins, generated keys and the lock that admits one host at a time. Made where it is absent.
        dir: PathBuf = PATH, Text("state");
    }

    /// The trusted port, which creates and closes sessions and asks their conductors.
    ["admin"] Admin {
        /// Where it listens. It cannot authenticate yet, so only loopback addresses are accepted.
        listen: Vec<SocketAddr> = LISTEN_LOOPBACK, Text("127.0.0.1:50001");
        /// Whether it speaks HTTPS, with the certificate of `[tls]`, instead of HTTP.
        tls: bool = BOOL, Text("false");
    }

    /// The public port, where devices join. It serves MQTT over WebSocket at `/mqtt` as well.
    ["iot"] Iot {
        /// Where it listens.
        listen: Vec<SocketAddr> = LISTEN, Text("0.0.0.0:8888");
        /// Whether it speaks HTTPS, with the certificate of `[tls]`, instead of HTTP. `/mqtt` is then WebSocket over TLS.
        tls: bool = BOOL, Text("false");
        /// What the port is called from outside, for links; no query, no password. (No answer holds a link yet.)
        public_url: Option<String> = HTTP_URL, Unset;
    }

    /// Sessions of every type.
    ["sessions"] Sessions {
        /// Digits of a session's id.
        id_digits: u8 = ID_DIGITS, Text("6");
        /// Digits of a session's pin. Fewer than 4 are guessed soon where the IoT port is public: the start then warns.
        pin_digits: u8 = PIN_DIGITS, Text("6");
        /// How long a conductor may take for one event, the time it waits for its turn included.
        deadline: Duration = DEADLINE, Text("5s");
        /// A type whose plugin blocks all of the type's threads for so long is quarantined: nothing new is begun for it until one comes back.
        quarantine_after: Duration = LIFETIME, Text("30s");
        /// How many bytes of state a conductor may save.
        max_state_bytes: usize = STATE_BYTES, Text("1048576");
        /// How long a session may live: from its creation on, whatever happens in it. Then it is closed, its conductor told why, and its tokens
        /// open nothing. A session may have a limit of its own (`POST /v1/sessions`); these settings hold for all others, those that are there
        /// already too. See `docs/operations.md`.
        lifetime: Option<Duration> = LIMIT, Text("none");
        /// How long a session may be empty before it is closed. With the embedded broker that is: nobody is connected; else: nobody is in the
        /// list of its clients. Counted from its creation, the host's start, the last join, the end of the last connection, or the leaving of
        /// the last client, whichever is the latest.
        empty_timeout: Option<Duration> = LIMIT, Text("none");
    }

    /// Where sessions and their clients are kept.
    ["store"] Store {
        /// `sqlite:FILE`, a database that other programs can read (`docs/store.md`), `json:FILE`, a text that is rewritten at each change, for up to 1,000
        /// sessions, or `memory:`, for tests: all is lost at the end. Where this is not set and the default is not there yet, the first start takes
        /// over, once, what is in `{state.dir}/sessions.json`.
        url: StoreUrl = STORE_URL, Text("sqlite:{state.dir}/sessions.db");
    }

    /// The tokens that devices get when they join and show to the broker.
    ["token"] Token {
        /// PEM file with the private key that signs: EC P-256, RSA or Ed25519; the key's kind decides the algorithm. An EC
        /// key is made at the first start where the file is absent. Not looked at with `token.mode = "none"`.
        key: PathBuf = PATH, Text("{state.dir}/token-key.pem");
        /// How long a token is good, and what a join is good for with `token.mode = "none"`.
        ttl: Duration = LIFETIME, Text("24h");
        /// The claim `iss`.
        issuer: String = ISSUER, Text("conductor-host");
        /// `"signed"`: a token is a signed JWT. `"none"`: it is the client's own name, and MQTT is open to everyone who knows the
        /// name of a client that joined; for clients of the replaced system's mode without authentication, in networks that are trusted.
        mode: TokenMode = TOKEN_MODE, Text("signed");
    }

    /// The messages of sessions.
    ["mqtt"] Mqtt {
        /// `"embedded"` is the broker in this process, `"external"` another one that is running already (`mqtt.url`); with `"none"`
        /// sessions have requests and joins, and no messages. Keys of a kind that is not chosen are checked and otherwise ignored.
        broker: BrokerKind = BROKER, Text("embedded");
        /// Where MQTT over TCP listens. (Embedded only, like the other three listeners.)
        listen: Vec<SocketAddr> = LISTEN_OR_OFF, Text("0.0.0.0:1883");
        /// Where MQTT over WebSocket listens (path `/mqtt`).
        websocket_listen: Vec<SocketAddr> = LISTEN_OR_OFF, Text("0.0.0.0:8083");
        /// Where MQTT over TLS listens, with the certificate of `[tls]`; usually port 8883.
        tls_listen: Vec<SocketAddr> = LISTEN_OR_OFF, Text("");
        /// Where MQTT over WebSocket over TLS listens (path `/mqtt`), with the certificate of `[tls]`; usually port 8084.
        websocket_tls_listen: Vec<SocketAddr> = LISTEN_OR_OFF, Text("");
        /// Where devices are told to connect. Without it they are told ports and paths only.
        public_url: Option<String> = MQTT_URL, Unset;
        /// What a client's MQTT username must be: its session's id, or its own name.
        username: UsernameRule = USERNAME, Text("session_id");
        /// Where the external broker is. Without a port: 1883, 8883, 80 or 443 by the scheme; with `ws` and `wss` the path
        /// is `/mqtt` where none is given.
        url: Option<String> = MQTT_URL, Unset;
        /// PEM file with the certificates that the external broker's must come from. Without it: those that the system trusts.
        ca: Option<PathBuf> = OPTIONAL_PATH, Unset;
        /// PEM file with the certificate (and its chain) that the host shows the external broker.
        client_cert: Option<PathBuf> = OPTIONAL_PATH, Unset;
        /// PEM file with the private key of `mqtt.client_cert`.
        client_key: Option<PathBuf> = OPTIONAL_PATH, Unset;
        /// The host's MQTT username at the external broker. Without it: `iotserver`, with a token of the host's own as password.
        link_username: Option<String> = LINK_USERNAME, Unset;
        /// The password that goes with `mqtt.link_username`.
        link_password: Option<Secret> = LINK_PASSWORD, Unset;
        /// File that holds that password instead; a line break at its end does not count.
        link_password_file: Option<PathBuf> = OPTIONAL_PATH, Unset;
    }

    /// One certificate for every listener that asks for it: `admin.tls`, `iot.tls`, `mqtt.tls_listen`, `mqtt.websocket_tls_listen`.
    /// By itself it turns nothing on. Read again on SIGHUP.
    ["tls"] Tls {
        /// PEM file with the certificate and, behind it, the chain up to the one that clients trust.
        cert: Option<PathBuf> = OPTIONAL_PATH, Unset;
        /// PEM file with the private key of `tls.cert`.
        key: Option<PathBuf> = OPTIONAL_PATH, Unset;
    }

    /// What the host says on standard error.
    ["log"] Log {
        /// How much: a level, or directives by module. Where it is set nowhere, the environment variable `RUST_LOG` counts.
        level: String = LOG_LEVEL, Text("info");
        /// `"auto"` is human on a terminal and JSON, one object a line, otherwise.
        format: LogFormat = LOG_FORMAT, Text("auto");
    }

    /// A type of session, one table each. `NAME` is 1 to 64 of `A-Z a-z 0-9 _ . -`; case matters. Read again, with the plugins, on SIGHUP
    /// and by `POST /v1/plugins/reload`.
    [TYPES] Type {
        /// The plugin's file. Without prefix and extension (`plugins/conductor_default`) it is found on every platform as
        /// `libconductor_default.so`, `conductor_default.dll` or `libconductor_default.dylib`; a whole file name is taken as it is.
        plugin: PathBuf = PATH, Required;
        /// Which conductor of the plugin. Without it: the one named as the type, or else the only one.
        conductor: Option<String> = CONDUCTOR_NAME, Unset;
        /// Whether a plugin that cannot be loaded stops the start. If not, the type is unavailable and says why.
        required: bool = BOOL, Text("true");
        /// As `sessions.deadline`, for this type.
        deadline: Duration = DEADLINE, Text("{sessions.deadline}");
        /// As `sessions.lifetime`, for this type.
        lifetime: Option<Duration> = LIMIT, Text("{sessions.lifetime}");
        /// As `sessions.empty_timeout`, for this type.
        empty_timeout: Option<Duration> = LIMIT, Text("{sessions.empty_timeout}");
        /// Handed to the plugin as JSON. It is checked at the start against what the plugin says of it (`plugin inspect` shows that); a key that the
        /// plugin does not know is warned about. A secret in it is a text, `{ file = "PATH" }` (its owner's alone; a line break at its end does not
        /// count) or `{ env = "NAME" }`. `config show` hides what is named like a secret: where a key has `secret`, `password`, `passwd`,
        /// `passphrase`, `token`, `key` or `credential` in its name.
        config: Option<Map<String, Value>> = CONFIG, Unset;
    }

    /// A service, one table each: an app-wide object of a plugin, made when the host starts (see `docs/services.md`). `NAME` is as with types.
    [SERVICES] Service {
        /// The plugin's file, as `types.NAME.plugin`.
        plugin: PathBuf = PATH, Required;
        /// Which service of the plugin. Without it: the one named as this table, or else the only one.
        service: Option<String> = SERVICE_NAME, Unset;
        /// Whether a service that cannot be made stops the start. If not, it is unavailable and says why.
        required: bool = BOOL, Text("true");
        /// How long it may take for its making and for one event, the time that the event waits for its turn included.
        deadline: Duration = DEADLINE, Text("{sessions.deadline}");
        /// Handed to the plugin as JSON; checked, and its secrets fetched, as `types.NAME.config` is.
        config: Option<Map<String, Value>> = CONFIG, Unset;
    }
}

/// What a section and a key are.
pub(super) enum Lookup {
    Known,
    Later,
    Unknown,
}

/// Looks up a key of a section (of a family: by the family's own path).
pub(super) fn find(section: &str, key: &str) -> Lookup {
    let known = SECTIONS.iter().find(|known| known.path == section);
    match known.and_then(|known| known.keys.iter().find(|known| known.name == key)) {
        Some(_) => Lookup::Known,
        None if LATER_KEYS.contains(&(section, key)) => Lookup::Later,
        None => Lookup::Unknown,
    }
}

/// Whether some key is in this section; those of families have names of their own.
pub(super) fn is_section(section: &str) -> bool {
    let later = LATER_KEYS.iter().map(|(later, _)| *later);
    FAMILIES.iter().all(|family| section != family.section)
        && SECTIONS.iter().map(|known| known.path).chain(later).any(|known| known == section)
}

/// Section and key of all keys that can be set.
fn paths() -> impl Iterator<Item = (&'static str, &'static str)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| (section.path, key.name)))
}

/// How alike two words must be for one to be proposed for the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The key to propose for one that is unknown: alike in the same section, or the same word in another section.
pub(super) fn suggest_key(section: &str, key: &str) -> Option<(&'static str, &'static str)> {
    let alike = |(known_section, known): (&'static str, &'static str)| {
        let score = strsim::normalized_damerau_levenshtein(known, &key.to_lowercase());
        let here = known_section == section;
        (score >= if here { ALIKE } else { 1.0 }).then_some((here, score, (known_section, known)))
    };
    let best = paths().filter_map(alike).max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    best.map(|(.., path)| path)
}

/// The section, or the key of any section, to propose for an unknown word at the top.
pub(super) fn suggest_section(word: &str) -> Option<String> {
    let sections = SECTIONS.iter().map(|section| section.path.split('.').next().unwrap_or(section.path));
    let scored = sections.map(|name| (strsim::normalized_damerau_levenshtein(name, &word.to_lowercase()), name));
    let best = scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| name.to_owned()).or_else(|| suggest_key("", word).map(|(section, key)| format!("{section}.{key}")))
}
