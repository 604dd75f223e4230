//! The table of all keys. A field's documentation is the reference's text for its key.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use super::{
    reader::Reader,
    values::{
        AUDIT_BYTES, AUDIT_KEEP, BOOL, BROKER, BrokerKind, CLAIM, CONDUCTOR_NAME, CONFIG, CONNECT_TIME, CONNECTIONS, COUNT, DEADLINE,
        HOST_NAMES, HTTP_URL, ID_DIGITS, ISSUER, Kind, LIFETIME, LIMIT, LINK_PASSWORD, LINK_USERNAME, LISTEN, LISTEN_OR_OFF, LOG_FORMAT,
        LOG_LEVEL, LogFormat, MQTT_URL, NETWORKS, OIDC_ISSUER, OIDC_URL, OPTIONAL_PATH, PACKET_BYTES, PATH, PATH_OR_OFF, PIN_DIGITS,
        PIN_TRIES, RATE, ROLES, SERVICE_NAME, SHA256, STATE_BYTES, STORE_URL, Secret, StoreUrl, TOKEN_MODE, TokenMode, USERNAME,
    },
};
use crate::{access::Role, conductors::library::Hash, networks::Networks, tokens::claims::UsernameRule};

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
        /// Where it listens. Beyond loopback only with something that guards it: tokens, another way to show an identity, or `admin.allow`.
        listen: Vec<SocketAddr> = LISTEN, Text("127.0.0.1:50001");
        /// Whether it speaks HTTPS, with the certificate of `[tls]`, instead of HTTP.
        tls: bool = BOOL, Text("false");
        /// Networks from which it takes connections; any other is closed at once. What counts is the address that connects, of a proxy too. None is
        /// every address.
        allow: Networks = NETWORKS, Text("");
        /// File with the hashes of the tokens that open it (`conductor-host token create`), its owner's alone. As soon as it is there, everybody needs a
        /// token or another identity. It is read again whenever it changes.
        tokens: PathBuf = PATH, Text("{state.dir}/admin-tokens.json");
        /// Whether it may listen beyond loopback with no identity and no `admin.allow` at all: whoever reaches it may then do everything. Each start warns.
        allow_unauthenticated: bool = BOOL, Text("false");
        /// Further names by which it is called, such as that of a proxy in front of it. A request whose `Host` is none of them, no address of
        /// `admin.listen` and not `localhost` is refused: a page in a browser may have made its own name point here.
        names: Vec<String> = HOST_NAMES, Text("");
        /// PEM file with the authorities whose client certificates are an identity here (`docs/admin.md`); needs `admin.tls`. Read again on SIGHUP.
        client_ca: Option<PathBuf> = OPTIONAL_PATH, Unset;
        /// What the bearer of such a certificate may do, by its common name or one of its alternative names (host or mailbox):
        /// `{ "ci.example.org" = "operator" }`.
        client_roles: BTreeMap<String, Role> = ROLES, Unset;
        /// The OpenID provider whose access tokens are an identity here (`docs/admin.md`), as its tokens name it in `iss`.
        oidc_issuer: Option<String> = OIDC_ISSUER, Unset;
        /// What such a token must name in `aud`.
        oidc_audience: Option<String> = CLAIM, Unset;
        /// Where the provider's keys are. Without it: where `{issuer}/.well-known/openid-configuration` says.
        oidc_jwks_url: Option<String> = OIDC_URL, Unset;
        /// The claim that says what the bearer of a token may do: its name, or a path to it (`realm_access.roles`). It is a text, a list of texts, or words in
        /// a text (`scope`).
        oidc_role_claim: String = ISSUER, Text("roles");
        /// Which role a value of that claim gives: `{ "sessions-admin" = "admin" }`. Of several, the highest counts.
        oidc_roles: BTreeMap<String, Role> = ROLES, Unset;
        /// Connections at a time. One beyond is answered 503 (over TLS: closed) at once.
        connections: usize = CONNECTIONS, Text("1024");
        /// Connections at a time from one source: an IPv4 address, or the /64 of an IPv6 address.
        connections_per_source: usize = CONNECTIONS, Text("512");
    }

    /// The public port, where devices join. It serves MQTT over WebSocket at `/mqtt` as well.
    ["iot"] Iot {
        /// Where it listens.
        listen: Vec<SocketAddr> = LISTEN, Text("0.0.0.0:8888");
        /// Whether it speaks HTTPS, with the certificate of `[tls]`, instead of HTTP. `/mqtt` is then WebSocket over TLS.
        tls: bool = BOOL, Text("false");
        /// Connections at a time, those of `/mqtt` not counted. One beyond is answered 503 (over TLS: closed) at once.
        connections: usize = CONNECTIONS, Text("8192");
        /// Connections at a time from one source: an IPv4 address, or the /64 of an IPv6 address. A class behind one address must pass; `iot.trusted_proxies` do.
        connections_per_source: usize = CONNECTIONS, Text("1024");
        /// What the port is called from outside, for links to join with; no query, no password. Without it a session has a join secret and no link.
        public_url: Option<String> = HTTP_URL, Unset;
        /// Networks of proxies in front of the port whose `X-Forwarded-For` is believed: then the address that it names counts for budgets and in the log.
        /// From anybody else that header is not looked at.
        trusted_proxies: Networks = NETWORKS, Text("");
    }

    /// Sessions of every type.
    ["sessions"] Sessions {
        /// Digits of a session's id.
        id_digits: u8 = ID_DIGITS, Text("6");
        /// Digits of a session's pin. Fewer than 4 are guessed soon where the IoT port is public: the start then warns.
        pin_digits: u8 = PIN_DIGITS, Text("6");
        /// How many clients may be in a session. A conductor may say another number for its own, which then counts instead.
        max_clients: u32 = COUNT, Text("1000");
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

    /// How often a join may be tried. Over a source's budget the answer is 429; over a pin's, the pin is guarded (`docs/joins.md`). A source is an IPv4 address, or the /64
    /// of an IPv6 address.
    ["joins"] Joins {
        /// Networks whose devices skip every budget, and every limit that counts a source's connections.
        exempt: Networks = NETWORKS, Text("");
        /// How many joins of one source may succeed at once: a class behind one address must pass.
        source_joins_burst: u32 = COUNT, Text("300");
        /// How many more in each minute.
        source_joins_per_minute: u32 = COUNT, Text("60");
        /// How many joins of one source may fail at once.
        source_failures_burst: u32 = COUNT, Text("10");
        /// How many more in each minute.
        source_failures_per_minute: u32 = COUNT, Text("6");
        /// How many wrong pins one session takes at once, whoever shows them. Then its pin is guarded: nobody joins with it, right or wrong.
        pin_failures_burst: u32 = COUNT, Text("10");
        /// How many more in each hour.
        pin_failures_per_hour: u32 = COUNT, Text("6");
        /// How many in all, before the pin stays guarded until an administrator opens or rotates it. A pin of N digits is guessed with a chance of this / 10^N.
        pin_failures_total: u16 = PIN_TRIES, Text("100");
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
        /// Connections at a time, `/mqtt` of the IoT port included. (Embedded only, like the other limits.) One beyond is closed at once.
        connections: usize = CONNECTIONS, Text("10000");
        /// Connections at a time from one source: an IPv4 address, or the /64 of an IPv6 address. A class behind one address must pass.
        connections_per_source: usize = CONNECTIONS, Text("1024");
        /// How many connections one source may begin at once, before `mqtt.connects_per_minute` counts. A class behind one address must be able to
        /// come back at once after a failure of its network.
        connects_burst: u32 = RATE, Text("1024");
        /// How many connections one source may begin in a minute from then on. One beyond is told so where it has shown a CONNECT (code 3; MQTT 5: 0x9F);
        /// over WebSocket it is answered 503; over TLS it is closed.
        connects_per_minute: u32 = RATE, Text("600");
        /// How long a connection may take to send its CONNECT, after as long for a TLS handshake and for the upgrade of a WebSocket.
        connect_time: Duration = CONNECT_TIME, Text("5s");
        /// The longest packet after CONNECT, and the longest message of a conductor, in bytes.
        packet_bytes: usize = PACKET_BYTES, Text("262144");
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

    /// Who changed what on the admin port, or was refused there: a file of JSON lines (`docs/audit.md`). It holds no pin, token, secret or key.
    ["audit"] Audit {
        /// The file. Made, for its owner alone, where it is absent; a symbolic link is not followed. `""` turns the log off.
        file: Option<PathBuf> = PATH_OR_OFF, Text("{state.dir}/audit.log");
        /// How large the file may become. Then it is renamed to `FILE.1`, that one to `FILE.2`, and so on, and a new one is begun.
        max_bytes: u64 = AUDIT_BYTES, Text("16777216");
        /// How many older files are kept.
        keep: u32 = AUDIT_KEEP, Text("5");
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
        /// The SHA-256 of the plugin's file, as `conductor-host plugin inspect` shows it: 64 hexadecimal digits. A file of another content is refused.
        sha256: Option<Hash> = SHA256, Unset;
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
        /// The SHA-256 of the plugin's file, as `types.NAME.sha256`.
        sha256: Option<Hash> = SHA256, Unset;
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

/// Whether a section (a family: by its own path) has this key.
pub(super) fn has(section: &str, key: &str) -> bool {
    paths().any(|known| known == (section, key))
}

/// Whether some key is in this section; those of families have names of their own.
pub(super) fn is_section(section: &str) -> bool {
    FAMILIES.iter().all(|family| section != family.section) && SECTIONS.iter().any(|known| known.path == section)
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
