//! New settings of the old ones. Every old setting is told by name: taken, changed, or left and why.

use std::{
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use super::{
    Failed,
    old::{Link, Old, read_bytes},
    python::Expression,
    report::{Report, shown},
    resolve::{Settings, Value},
    sessions::Expected,
};
use crate::tokens::keys::SigningKey;

/// As the old program has them where nothing says otherwise.
const IOT_PORT: u16 = 8888;
const ADMIN_PORT: u16 = 50001;
const ID_SIZE: i64 = 6;
const PIN_SIZE: i64 = 3;
const MQTT_PORT: u16 = 1883;
const MODE: &str = "JWT_MODE";
const MODE_VARIABLE: &str = "mqtt_auth_mode";
/// No private key comes near it.
const MAX_KEY: u64 = 64 * 1024;
/// The old program's conductors, by the end of their classes' names, and the plugins that took their place.
const CONDUCTORS: [(&str, &str); 2] = [("DefaultConductor", "conductor_default"), ("ActiveConductor", "conductor_active")];

/// Settings that become none, and why.
const LEFT: &[(&str, &str)] = &[
    ("BASE_DIR", "relative paths are relative to host.toml"),
    ("ALLOWED_HOSTS", "the admin port goes by its addresses and localhost; admin.names adds names"),
    ("S3_DATA_ROOT", "sessions are kept in a file"),
    ("JWT_PUBLIC_KEY_LOC", "the public key comes from the private one"),
    ("AWS_JWT_KEY_ARN", "tokens are not signed by AWS KMS"),
    ("AWS_REGION", "tokens are not signed by AWS KMS"),
];
/// The same for the variables of the deployment, in lower case.
const LEFT_VARIABLES: &[(&str, &str)] = &[
    ("deployment_mode", "it chose between files of Docker Compose"),
    ("app_auth_mode", "the old program does not look at it"),
    ("aws_kms_arn", "tokens are not signed by AWS KMS"),
    ("aws_region", "tokens are not signed by AWS KMS"),
    ("file_logging", "the log goes to standard error; whoever runs the host keeps it"),
    ("base_path", "relative paths are relative to host.toml"),
];

/// What the command line says about the new settings.
#[derive(Debug)]
pub(super) struct Options<'a> {
    pub(super) broker: Option<&'a str>,
    pub(super) plugins: Option<&'a Path>,
}

/// The new settings.
#[derive(Debug)]
pub(super) struct Plan {
    /// As a settings file.
    pub(super) toml: String,
    /// The private key, to be copied.
    pub(super) key: Option<Vec<u8>>,
    pub(super) expected: Expected,
}

/// # Errors
/// Where the private key cannot be used, or a path cannot be told.
pub(super) fn plan(old: &Old, options: &Options<'_>, report: &mut Report) -> Result<Plan, Failed> {
    let mut settings = Settings::new(old);
    if old.settings.is_none() {
        report.left.push("settings.py: none was found or named, so the old program's own defaults are taken".into());
    }
    let (iot, admin) = (settings.port("IOT_PORT", IOT_PORT, report), settings.port("ADMIN_PORT", ADMIN_PORT, report));
    let mut toml = format!(
        "# Settings of conductor-host, made by `conductor-host migrate` of those of the Python session manager.\n\
         # Every key: docs/settings.md. What is not here has its default. Relative paths begin at this file's folder.\n\
         \n[admin]\nlisten = \"127.0.0.1:{admin}\"  # ADMIN_PORT; the old program listened on every address\n\
         \n[iot]\nlisten = \"0.0.0.0:{iot}\"  # IOT_PORT\n"
    );
    report.taken.push(format!("IOT_PORT {iot}: iot.listen"));
    report.changed.push(format!(
        "ADMIN_PORT {admin}: admin.listen is 127.0.0.1:{admin}. Nobody else reaches it there; beyond this machine it needs tokens or \
         admin.allow (docs/admin.md)"
    ));

    let id_digits = settings.digits("ID_SIZE", ID_SIZE, 4, "sessions.id_digits", report);
    let pin_digits = settings.digits("PIN_SIZE", PIN_SIZE, 3, "sessions.pin_digits", report);
    toml += &format!("\n[sessions]\nid_digits = {id_digits}  # ID_SIZE\npin_digits = {pin_digits}  # PIN_SIZE\n");

    store(old, &mut settings, report);
    toml += "\n[store]\nurl = \"json:state/sessions.json\"  # SESSION_STORAGE\n";

    let external = broker(old, options, report);
    let key = token(old, &mut settings, external.is_some(), &mut toml, report)?;
    mqtt(external, &mut toml, report);
    let types = types(&mut settings, options, &mut toml, report)?;

    settings.left(LEFT, report);
    settings.left_variables(LEFT_VARIABLES, report);
    let expected = Expected { id_digits: usize::from(id_digits), pin_digits: usize::from(pin_digits), types };
    Ok(Plan { toml, key, expected })
}

impl Settings<'_> {
    fn port(&mut self, name: &str, default: u16, report: &mut Report) -> u16 {
        match self.get(name, report) {
            None => default,
            Some((place, value)) => {
                value.integer().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0).unwrap_or_else(|| {
                    report.left.push(format!("{name} ({place}): {}; {default} is taken", value.problem("a port")));
                    default
                })
            }
        }
    }

    fn digits(&mut self, name: &str, default: i64, least: i64, key: &str, report: &mut Report) -> u8 {
        let wanted = match self.get(name, report) {
            None => default,
            Some((place, value)) => value.integer().unwrap_or_else(|| {
                report.left.push(format!("{name} ({place}): {}; {default} is taken", value.problem("a number of digits")));
                default
            }),
        };
        let digits = wanted.clamp(least, 12);
        if digits == wanted {
            report.taken.push(format!("{name} {wanted}: {key}"));
        } else {
            report.changed.push(format!("{name} {wanted}: {key} is {digits}, since {least} to 12 are possible"));
        }
        u8::try_from(digits).unwrap_or(12)
    }
}

fn store(old: &Old, settings: &mut Settings<'_>, report: &mut Report) {
    let name = old.sessions.file_name().unwrap_or_default().to_string_lossy();
    // Whatever it says, the file that was found is the one that is read.
    settings.know("SESSION_STORAGE");
    report.changed.push(format!("SESSION_STORAGE {}: store.url is json:state/sessions.json", shown(&name)));
    let Some((place, value)) = settings.get("S3_BUCKET", report) else { return };
    match value {
        Value::Empty => report.left.push(format!("S3_BUCKET ({place}): it is not set")),
        Value::Unknown(variable) => report.left.push(format!(
            "S3_BUCKET ({place}): it is the environment variable {variable}, which is not known here. If it was set, the old program kept its \
             sessions in that bucket, and the file that was read here may be an old one"
        )),
        _ => {
            report.left.push(format!("S3_BUCKET ({place}): sessions are kept in a file"));
            report.to_do.push(
                "the old program kept its sessions in an S3 bucket. Unless the file that was read here comes from there, fetch \
                 S3_DATA_ROOT/SESSION_STORAGE from the bucket and migrate that: --from FILE --settings settings.py"
                    .into(),
            );
        }
    }
}

/// The external broker's url, or nothing for the embedded one.
fn broker(old: &Old, options: &Options<'_>, report: &mut Report) -> Option<String> {
    match (options.broker, &old.link) {
        (Some("embedded"), _) | (None, None) => None,
        (Some(url), _) => Some(url.to_owned()),
        (None, Some(link)) => {
            let url = url(link);
            let file = link.file.file_name().unwrap_or_default().to_string_lossy();
            match &url {
                Some(url) => report.taken.push(format!("the broker that {file} connects to: mqtt.url {}", shown(url))),
                None => report.left.push(format!(
                    "the broker that {file} connects to: its host, port and transport are not plain texts and numbers there, so the broker of \
                     conductor-host is used. Name the old one: --broker URL"
                )),
            }
            url
        }
    }
}

fn url(link: &Link) -> Option<String> {
    let Some(Expression::Text(host)) = &link.hostname else { return None };
    let port = match &link.port {
        None => MQTT_PORT,
        Some(Expression::Integer(port)) => u16::try_from(*port).ok()?,
        Some(_) => return None,
    };
    let scheme = match (&link.transport, link.tls) {
        (Some(Expression::Text(transport)), tls) if transport == "websockets" => {
            if tls {
                "wss"
            } else {
                "ws"
            }
        }
        (None | Some(Expression::Text(_)), tls) => {
            if tls {
                "mqtts"
            } else {
                "mqtt"
            }
        }
        (Some(_), _) => return None,
    };
    // In a URL the colons of an address of IPv6 stand in brackets.
    let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
    Some(format!("{scheme}://{host}:{port}"))
}

/// How the old program authenticated devices at the broker.
enum Mode {
    None,
    OwnKey,
    Kms,
    Unknown(String),
}

fn mode(settings: &mut Settings<'_>, report: &mut Report) -> Mode {
    let found = settings.get(MODE, report).or_else(|| settings.variable(MODE_VARIABLE));
    let Some((place, value)) = found else { return Mode::Unknown("neither settings.py nor .env says it".into()) };
    match value {
        Value::Empty => Mode::None,
        Value::Text(text) => match text.as_str() {
            "dev_no_auth" => Mode::None,
            "dev_jwt_auth" => Mode::OwnKey,
            "kms_jwt_auth" | "aws_jwt_auth" => Mode::Kms,
            other => Mode::Unknown(format!("{} at {place} is not known", shown(other))),
        },
        Value::Unknown(variable) => {
            Mode::Unknown(format!("it is the environment variable {variable} ({place}), and no .env that sets it was found or named"))
        }
        _ => Mode::Unknown(format!("what stands at {place} is not a plain text")),
    }
}

/// The section `[token]`, and the key to copy.
fn token(
    old: &Old,
    settings: &mut Settings<'_>,
    external: bool,
    toml: &mut String,
    report: &mut Report,
) -> Result<Option<Vec<u8>>, Failed> {
    settings.know("JWT_PRIVATE_KEY_LOC");
    let named = old.key.as_ref().is_some_and(|(_, named)| *named);
    let mode = mode(settings, report);
    *toml += "\n[token]\nttl = \"24h\"  # as the old program's\n";
    let key = match (&mode, &old.key) {
        (Mode::None, _) if !named => {
            *toml += "mode = \"none\"  # JWT_MODE dev_no_auth: MQTT without authentication\n";
            report.taken.push("JWT_MODE dev_no_auth: token.mode \"none\", MQTT without authentication".into());
            if old.key.is_some() {
                report.left.push("the private key: the old program does not use it in this mode".into());
            }
            return Ok(None);
        }
        (Mode::Kms, _) if !named => {
            report.left.push("JWT_MODE kms_jwt_auth: AWS KMS does not give its key away, and conductor-host signs itself".into());
            None
        }
        (_, Some((file, _))) => Some(take_key(file, report)?),
        (_, None) => {
            report.left.push("the private key (JWT_PRIVATE_KEY_LOC): none was found. Name it: --key FILE".into());
            None
        }
    };
    *toml += "key = \"state/token-key.pem\"  # JWT_PRIVATE_KEY_LOC\n";
    match &mode {
        Mode::OwnKey => report.taken.push("JWT_MODE dev_jwt_auth: tokens are signed".into()),
        Mode::Unknown(why) => report.left.push(format!(
            "JWT_MODE: {why}. Tokens are signed. If the old program ran without authentication (dev_no_auth), set token.mode = \"none\""
        )),
        Mode::None | Mode::Kms if key.is_some() => {
            report.changed.push("JWT_MODE: a key was named (--key), so tokens are signed with it".into())
        }
        Mode::None | Mode::Kms => {}
    }
    if key.is_none() {
        report.changed.push("a new key for tokens (ES256) is made at the first start".into());
        if external {
            report.to_do.push(
                "the broker must be given the public key of state/token-key.pem. Its plugin expects RS256: make an RSA key first with `openssl \
                 genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out state/token-key.pem`"
                    .into(),
            );
        }
    }
    if external {
        if key.is_some() {
            report.taken.push("tokens of the old program: the broker takes them until they end, as it takes the new ones".into());
        }
    } else {
        report.changed.push(
            "tokens of the old program are not accepted by the broker of conductor-host: devices join again, with the id and pin they have"
                .into(),
        );
    }
    Ok(key)
}

fn take_key(file: &PathBuf, report: &mut Report) -> Result<Vec<u8>, Failed> {
    let text = read_bytes(file, MAX_KEY)?;
    let key = SigningKey::from_pem(&text).map_err(|problem| Failed::Read { file: file.clone(), problem: problem.to_string() })?;
    report.taken.push(format!(
        "the private key {} ({:?}): token.key, a copy that only its owner can read",
        file.display(),
        key.algorithm()
    ));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(file).map_err(|error| Failed::read(file, &error))?.permissions().mode();
        if mode & 0o007 != 0 {
            report.to_do.push(format!(
                "others can read {} (mode {:04o}): if anybody may have, make a new key",
                file.display(),
                mode & 0o7777
            ));
        }
    }
    Ok(text)
}

/// The section `[mqtt]`.
fn mqtt(external: Option<String>, toml: &mut String, report: &mut Report) {
    *toml += "\n[mqtt]\n";
    match external {
        Some(url) => {
            *toml += &format!("broker = \"external\"\nurl = {}\n", quoted(&url));
            report.to_do.push(format!(
                "mqtt.url {}: see that this machine reaches it (a name of Docker's own network is known in there only). Devices go on connecting to \
                 the broker as they do",
                shown(&url)
            ));
        }
        None => {
            *toml += "listen = \"0.0.0.0:1883\"  # as the old Mosquitto\nwebsocket_listen = \"0.0.0.0:8883\"  # the same\n";
            report.changed.push(
                "MQTT: the broker is in conductor-host, on Mosquitto's ports: 1883 for TCP, 8883 for WebSocket, both without TLS".into(),
            );
            report.to_do.push("stop Mosquitto; where it did TLS, see docs/migration.md, \"TLS\"".into());
        }
    }
    *toml += "username = \"client_id\"  # as the clients of the old program have it\n";
    report.taken.push("MQTT usernames are client ids: mqtt.username \"client_id\"".into());
}

/// The sections `[types.NAME]`; their names.
fn types(settings: &mut Settings<'_>, options: &Options<'_>, toml: &mut String, report: &mut Report) -> Result<Vec<String>, Failed> {
    let ours = || vec![("default".to_owned(), "DefaultConductor".to_owned()), ("active".to_owned(), "ActiveConductor".to_owned())];
    let wanted = match settings.get("CONDUCTOR_INTERFACES", report) {
        None => ours(),
        Some((_, Value::Dictionary(entries))) => entries,
        Some((place, _)) => {
            report.left.push(format!("CONDUCTOR_INTERFACES ({place}): it is not a plain dictionary; default and active are taken. Add [types.NAME] for the others"));
            ours()
        }
    };
    let folder = match options.plugins {
        None => PathBuf::from("plugins"),
        Some(folder) => std::path::absolute(folder).map_err(|error| Failed::read(folder, &error))?,
    };
    let (mut types, mut plugins) = (Vec::new(), Vec::new());
    for (name, class) in wanted {
        let known = CONDUCTORS.iter().find(|(end, _)| class == *end || class.ends_with(&format!(".{end}")));
        let good = (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        match known {
            _ if !good => report.left.push(format!("type {}: a type's name is 1 to 64 of A-Z a-z 0-9 _ . -", shown(&name))),
            Some((class, plugin)) if !types.contains(&name) => {
                *toml += &format!("\n[types.{}]\nplugin = {}  # {class}\n", key(&name), quoted(&folder.join(plugin).to_string_lossy()));
                report.taken.push(format!("type {name} ({class}): plugin {plugin}"));
                plugins.push(*plugin);
                types.push(name);
            }
            Some(_) => {}
            None => {
                *toml += &format!(
                    "\n#[types.{}]  # its conductor must become a plugin\n#plugin = {}\n",
                    key(&name),
                    quoted(&folder.join(&name).to_string_lossy())
                );
                report.left.push(format!("type {name}: its conductor is Python and must become a plugin (conductor-sdk/README.md); there is a place for it in host.toml"));
            }
        }
    }
    if !plugins.is_empty() {
        report.to_do.push(format!(
            "put the plugins into {} (--plugins DIR names another folder): {}",
            if options.plugins.is_some() { folder.display().to_string() } else { "the folder plugins beside host.toml".into() },
            plugins.join(", ")
        ));
    }
    Ok(types)
}

/// A part of a table's name.
fn key(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
