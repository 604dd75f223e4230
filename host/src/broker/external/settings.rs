//! What the settings say about the external broker, and how the host shows itself there.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::http::Uri;

use super::{tls, trouble::Trouble};
use crate::{
    config::{Mqtt, Secret},
    sessions::clock::Clock,
    tokens::{
        issue::Tokens,
        keys,
        signer::{LINK_NAME, Signer},
    },
};

/// How the broker is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    pub(super) fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    /// Without the brackets of IPv6.
    pub(super) host: String,
    pub(super) port: u16,
    /// Of a WebSocket.
    pub(super) path: String,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let (scheme, port) = match uri.scheme_str()? {
            "mqtt" => (Scheme::Mqtt, 1883),
            "mqtts" => (Scheme::Mqtts, 8883),
            "ws" => (Scheme::Ws, 80),
            "wss" => (Scheme::Wss, 443),
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = match uri.path() {
            "" | "/" => "/mqtt".to_owned(),
            path => path.to_owned(),
        };
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(port), path })
    }

    /// Host and port as a URL has them.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        };
        write!(f, "{scheme}://{}", self.authority())?;
        if matches!(self.scheme, Scheme::Ws | Scheme::Wss) { f.write_str(&self.path) } else { Ok(()) }
    }
}

/// What the host shows the broker where the settings name no user: username `iotserver` with this as password.
#[derive(Clone, Debug)]
pub enum LinkToken {
    /// A fresh token of the host's own for each connection.
    Signed {
        /// Who signs.
        signer: Arc<Signer>,
        /// How long it is good; the link renews it before.
        ttl: Duration,
    },
    /// Its name: for brokers that check nothing.
    Name,
}

impl LinkToken {
    /// What goes with the tokens that devices get; `ttl` is how long a signed one is good.
    #[must_use]
    pub fn of(tokens: &Tokens, ttl: Duration) -> Self {
        match tokens {
            Tokens::Signed(signer) => Self::Signed { signer: signer.clone(), ttl },
            Tokens::ClientId => Self::Name,
        }
    }
}

#[derive(Debug)]
enum Password {
    None,
    Text(Secret),
    File(PathBuf),
}

#[derive(Debug)]
enum Login {
    User(String, Password),
    Token(LinkToken),
}

/// What one CONNECT shows.
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Option<Vec<u8>>,
    /// When it ends, where it does.
    pub(super) expires_at: Option<SystemTime>,
}

/// All that the link needs to know.
#[derive(Debug)]
pub struct LinkSettings {
    pub(super) address: Address,
    pub(super) ca: Option<PathBuf>,
    /// Certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) clock: Clock,
    login: Login,
}

impl LinkSettings {
    /// Takes them from `[mqtt]`, and reads every file that is named there: what cannot be used now is a mistake in the settings.
    ///
    /// # Errors
    /// What is wrong with which file; no `mqtt.url`.
    pub fn new(mqtt: &Mqtt, token: LinkToken, clock: Clock) -> Result<Self, String> {
        let url = mqtt.url.as_deref().unwrap_or_default();
        let address = Address::parse(url).ok_or_else(|| format!("mqtt.url: {url:?} is no address of a broker"))?;
        let login = match &mqtt.link_username {
            None => Login::Token(token),
            Some(user) => {
                let password = match (&mqtt.link_password, &mqtt.link_password_file) {
                    (Some(text), _) => Password::Text(text.clone()),
                    (None, Some(file)) => Password::File(file.clone()),
                    (None, None) => Password::None,
                };
                Login::User(user.clone(), password)
            }
        };
        let identity = mqtt.client_cert.clone().zip(mqtt.client_key.clone());
        let settings = Self { address, ca: mqtt.ca.clone(), identity, clock, login };
        if settings.address.scheme.has_tls() || settings.ca.is_some() || settings.identity.is_some() {
            tls::config(&settings).map_err(|trouble| trouble.to_string())?;
        }
        settings.credentials().map_err(|trouble| trouble.to_string())?;
        Ok(settings)
    }

    /// Read or signed anew each time.
    pub(super) fn credentials(&self) -> Result<Credentials, Trouble> {
        let (username, password, expires_at) = match &self.login {
            Login::User(user, password) => {
                let password = match password {
                    Password::None => None,
                    Password::Text(text) => Some(text.expose().as_bytes().to_vec()),
                    Password::File(file) => Some(password_in(file)?),
                };
                (user.clone(), password, None)
            }
            Login::Token(LinkToken::Name) => (LINK_NAME.to_owned(), Some(LINK_NAME.into()), None),
            Login::Token(LinkToken::Signed { signer, ttl }) => {
                let signed = signer.sign_link(self.clock.now(), *ttl).map_err(|error| Trouble::Token(error.to_string()))?;
                (LINK_NAME.to_owned(), Some(signed.token.into_bytes()), Some(signed.expires_at))
            }
        };
        Ok(Credentials { username, password, expires_at })
    }
}

/// The key of the certificate that the host shows, its owner's alone.
pub(super) fn client_key(file: &Path) -> Result<Vec<u8>, Trouble> {
    keys::read_certificate_key(file).map_err(|problem| Trouble::File(format!("mqtt.client_key {}: {problem}", file.display())))
}

pub(super) fn public(key: &str, file: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(file).map_err(|error| Trouble::File(format!("{key} {}: {}", file.display(), super::trouble::plain(&error))))
}

fn password_in(file: &Path) -> Result<Vec<u8>, Trouble> {
    let mut password =
        keys::read_private(file).map_err(|problem| Trouble::File(format!("mqtt.link_password_file {}: {problem}", file.display())))?;
    if password.ends_with(b"\n") {
        password.pop();
        if password.ends_with(b"\r") {
            password.pop();
        }
    }
    if password.is_empty() || password.len() > usize::from(u16::MAX) {
        return Err(Trouble::File(format!("mqtt.link_password_file {}: a password has 1 to 65535 bytes", file.display())));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, shown, host, port) in [
            ("mqtt://b", "mqtt://b:1883", "b", 1883),
            ("mqtts://b", "mqtts://b:8883", "b", 8883),
            ("ws://b", "ws://b:80/mqtt", "b", 80),
            ("wss://b/", "wss://b:443/mqtt", "b", 443),
            ("wss://b:9001/x/y", "wss://b:9001/x/y", "b", 9001),
            ("mqtt://[::1]:7", "mqtt://[::1]:7", "::1", 7),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.to_string().as_str(), address.host.as_str(), address.port), (shown, host, port));
        }
        assert_eq!(Address::parse("http://b"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_password_file_is_read_each_time_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let write = |text: &str| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("first\n");
        let text = format!("[mqtt]\nbroker = 'external'\nurl = 'mqtt://b'\nlink_username = 'u'\nlink_password_file = {file:?}\n");
        let mqtt = crate::config::Settings::parse(Some((Path::new("s"), &text)), folder.path(), [], &[]).unwrap().0.mqtt;
        let settings = LinkSettings::new(&mqtt, LinkToken::Name, Clock::system()).unwrap();
        let shown = |settings: &LinkSettings| settings.credentials().map(|shown| String::from_utf8(shown.password.unwrap()).unwrap());
        assert_eq!(shown(&settings).unwrap(), "first");
        for (text, password) in [("second\r\n", "second"), ("third\n\n", "third\n"), (" x ", " x ")] {
            write(text);
            assert_eq!(shown(&settings).unwrap(), password);
        }
        write("\n");
        assert!(shown(&settings).is_err());
        write("p");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = shown(&settings).unwrap_err().to_string();
        assert!(refused.contains("others may read") && refused.contains("mqtt.link_password_file"), "{refused}");
        fs::remove_file(&file).unwrap();
        assert!(LinkSettings::new(&mqtt, LinkToken::Name, Clock::system()).unwrap_err().contains("no such file"));
    }
}
