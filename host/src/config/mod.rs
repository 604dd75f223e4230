//! Settings: read from flags, environment and file, checked as a whole before anything is bound.
//!
//! * `table` describes every key once: its type, its default, its meaning. The parser, the check for unknown keys and
//!   `docs/settings.md` all come from it.
//! * `sources` turns a TOML text, an environment and flags into values that know where they were set.
//! * `values` holds the types that a key can have; `reader` puts it together and checks what concerns several keys.
//! * `mistakes` says what is wrong and where: all of it at once, one line each.
//!
//! Nothing here binds an address, and nothing is read but the settings file; the environment is an argument.

mod mistakes;
mod reader;
mod reference;
mod sources;
mod table;
mod values;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

pub(crate) use self::sources::segment;
pub use self::{
    mistakes::{Mistake, Mistakes, Origin, Warning},
    reference::reference,
    sources::Flag,
    table::{Admin, Audit, Iot, Joins, Log, Mqtt, Service, Sessions, State, Store, Tls, Token, Type},
    values::{BrokerKind, EXPECTED_LIMIT, LogFormat, Secret, StoreUrl, TokenMode, limit},
};

/// What every environment variable that sets a key begins with.
pub const ENVIRONMENT_PREFIX: &str = "CONDUCTOR_HOST__";

/// The largest settings file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Words in the name of a key of a plugin's config whose value is shown nowhere.
const SECRET_WORDS: [&str; 7] = ["secret", "password", "passwd", "passphrase", "token", "key", "credential"];

/// Whether a key of a plugin's config is named like a secret, so that its value is shown nowhere. (Which keys are secrets, only the plugin
/// knows, which is not loaded where settings are shown.)
pub(crate) fn is_secret_name(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// All settings, checked. Paths in it are absolute.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What relative paths were relative to: the settings file's folder, or without a file the working directory.
    pub base_dir: PathBuf,
    /// What the host keeps for itself.
    pub state: State,
    /// The trusted port.
    pub admin: Admin,
    /// The public port.
    pub iot: Iot,
    /// Ids, pins, deadlines.
    pub sessions: Sessions,
    /// How often a join may be tried.
    pub joins: Joins,
    /// Where sessions are kept.
    pub store: Store,
    /// The tokens of devices.
    pub token: Token,
    /// MQTT.
    pub mqtt: Mqtt,
    /// The certificate of this host.
    pub tls: Tls,
    /// The record of what was changed on the admin port.
    pub audit: Audit,
    /// What the host says.
    pub log: Log,
    /// The session types by name, which is 1 to 64 of `[A-Za-z0-9_.-]`.
    pub types: BTreeMap<String, Type>,
    /// The services by name, which is as with types.
    pub services: BTreeMap<String, Service>,
    effective: Vec<reader::Effective>,
}

/// Where settings come from, to read them again later in the same way: the same file, the same environment, the same flags.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The settings file.
    pub file: Option<PathBuf>,
    /// What concerns settings.
    env: Vec<(OsString, OsString)>,
    /// The command line's.
    pub flags: Vec<Flag>,
}

impl Source {
    /// Of these; of `env` only what concerns settings is kept.
    #[must_use]
    pub fn new(file: Option<PathBuf>, env: impl IntoIterator<Item = (OsString, OsString)>, flags: Vec<Flag>) -> Self {
        let ours = |name: &OsString| name == "RUST_LOG" || name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX);
        Self { file, env: env.into_iter().filter(|(name, _)| ours(name)).collect(), flags }
    }

    /// Reads them, as they are now.
    ///
    /// # Errors
    /// Those of [`Settings::load`].
    pub fn load(&self) -> Result<(Settings, Vec<Warning>), Mistakes> {
        Settings::load(self.file.as_deref(), self.env.iter().cloned(), &self.flags)
    }
}

impl Settings {
    /// The file of the `json:` store that was the default before `sqlite:` was, where `store.url` is set nowhere: the first start takes over what is in it.
    #[must_use]
    pub fn store_before(&self) -> Option<PathBuf> {
        (!self.is_set("store.url")).then(|| self.state.dir.join("sessions.json"))
    }

    /// Reads `file` (none: defaults apply), the variables of `env` that begin with [`ENVIRONMENT_PREFIX`], and `flags`;
    /// later ones win.
    ///
    /// # Errors
    /// Every mistake found in any of them, a value that a stronger source overrides included.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<(Self, Vec<Warning>), Mistakes> {
        let fail = |text: String| Mistakes::single(Origin::file(file.unwrap_or(Path::new("."))), text);
        let absolute = std::path::absolute(file.unwrap_or(Path::new("settings.toml")))
            .map_err(|e| fail(format!("the settings file's folder cannot be told: {e}")))?;
        let base_dir = absolute.parent().unwrap_or(&absolute).to_path_buf();
        let text = file.map(|path| read_file(path).map_err(fail)).transpose()?;
        Self::parse(text.as_deref().map(|text| (file.unwrap_or(&absolute), text)), &base_dir, env, flags)
    }

    /// As [`Settings::load`], with the file's name (for messages) and text given: reads nothing at all.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn parse(
        file: Option<(&Path, &str)>,
        base_dir: &Path,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<(Self, Vec<Warning>), Mistakes> {
        reader::read(sources::collect(file, env, flags), base_dir)
    }

    /// Whether a source says what the key `section.name` is.
    #[must_use]
    pub fn is_set(&self, path: &str) -> bool {
        self.effective.iter().any(|known| known.path == path && known.origin != Origin::Default)
    }

    /// The keys outside of `[types]` and `[services]` that have another value here than in `other`. (What types have where they say nothing else
    /// is theirs, and so is its change: `sessions.deadline`, `sessions.lifetime`, `sessions.empty_timeout`.)
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Vec<String> {
        let reloaded = ["types.", "services."];
        let of_types = ["sessions.deadline", "sessions.lifetime", "sessions.empty_timeout"];
        let own = |key: &&reader::Effective| {
            !reloaded.iter().any(|section| key.path.starts_with(section)) && !of_types.contains(&key.path.as_str())
        };
        let value = |path: &str| other.effective.iter().find(|known| known.path == path).map(|known| &known.value);
        let keys = self.effective.iter().filter(own).filter(|key| value(&key.path) != Some(&key.value)).map(|key| key.path.clone());
        // Of a secret the list above knows only whether it is set.
        let secret =
            self.mqtt.link_password != other.mqtt.link_password && self.mqtt.link_password.is_some() == other.mqtt.link_password.is_some();
        keys.chain(secret.then(|| "mqtt.link_password".to_owned())).collect()
    }

    /// The settings in force as TOML text, each with where it was set.
    #[must_use]
    pub fn show(&self) -> String {
        reference::show(&self.base_dir, &self.effective)
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("the settings file cannot be read: {e}"))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| format!("the settings file cannot be read: {e}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("the settings file is larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("the settings file is not UTF-8 (line {line})")
    })
}
