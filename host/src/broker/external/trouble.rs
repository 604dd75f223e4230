//! Why the link is down, in words for the log and for `/readyz`.

use std::io;

use mqtt5::{packet::suback::SubAckReasonCode, protocol::v5::reason_codes::ReasonCode};
use rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::tokens::signer::LINK_NAME;

/// Why the link is down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("not connected yet")]
    NotYet,
    #[error("{0}")]
    File(String),
    #[error("no token could be signed: {0}")]
    Token(String),
    #[error("unreachable: the name {name} cannot be resolved: {problem}")]
    Name { name: String, problem: String },
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("unreachable: it does not answer")]
    Silent,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error(
        "the broker closed the connection instead of answering: is this its port for MQTT of this kind (TLS or not, \
         WebSocket or not)?"
    )]
    Unanswered,
    #[error("wrong credentials: the broker refuses this username and password")]
    Credentials,
    #[error("not authorised: the credentials are wrong, or the broker does not let their user in")]
    NotAuthorised,
    #[error("the broker speaks neither MQTT 5 nor MQTT 3.1.1")]
    Version,
    #[error("the broker refused the connection: {}", of_code(*.0))]
    Refused(ReasonCode),
    #[error("the broker refused the subscription to {filter}: {}", of_subscription(*.code))]
    Subscription { filter: &'static str, code: SubAckReasonCode },
    #[error("another client connected as {LINK_NAME} and took the link over: no two hosts may use one broker")]
    TakenOver,
    #[error("the broker is shutting down")]
    ShuttingDown,
    #[error("the broker is busy")]
    Busy,
    #[error("the broker ended the connection: {}", of_code(*.0))]
    Ended(ReasonCode),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("the connection was lost: {0}")]
    Closed(String),
    #[error(
        "the connection was lost soon after it was made; where that goes on, another client connects as {LINK_NAME} (no two hosts may \
         use one broker), or the broker refuses what is sent"
    )]
    LostSoon,
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    #[error("the host is stopping")]
    Stopping,
}

impl Trouble {
    /// What a CONNACK with an error says.
    pub(super) fn of_connack(code: ReasonCode) -> Self {
        match code {
            ReasonCode::BadUsernameOrPassword => Self::Credentials,
            ReasonCode::NotAuthorized | ReasonCode::Banned => Self::NotAuthorised,
            ReasonCode::UnsupportedProtocolVersion => Self::Version,
            ReasonCode::ServerUnavailable | ReasonCode::ServerBusy => Self::Busy,
            ReasonCode::ServerShuttingDown => Self::ShuttingDown,
            other => Self::Refused(other),
        }
    }

    /// What a DISCONNECT of the broker's says.
    pub(super) fn of_disconnect(code: ReasonCode) -> Self {
        match code {
            ReasonCode::SessionTakenOver => Self::TakenOver,
            ReasonCode::ServerShuttingDown => Self::ShuttingDown,
            ReasonCode::ServerBusy => Self::Busy,
            ReasonCode::NotAuthorized => Self::NotAuthorised,
            other => Self::Ended(other),
        }
    }

    /// What broke a connection. `host` is whom the TLS certificate must name.
    pub(super) fn of_io(error: &io::Error, host: &str) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(tls) => Self::Tls(of_tls(tls, host)),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof => Self::Closed("the broker closed it".to_owned()),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed(plain(error)),
                _ => Self::Lost(plain(error)),
            },
        }
    }
}

/// The system's words without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn of_tls(error: &TlsError, host: &str) -> String {
    match error {
        TlsError::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "the broker's certificate is of an unknown authority; name the file with the right one in mqtt.ca".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the broker's certificate is not for the name {host}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the broker's certificate has expired".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the broker's certificate is not valid yet".to_owned()
            }
            other => format!("the broker's certificate is not good: {other:?}"),
        },
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the broker demands a client certificate; set mqtt.client_cert and mqtt.client_key".to_owned()
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => format!("the broker refused our client certificate ({alert:?})"),
            other => format!("the broker refused the handshake ({other:?})"),
        },
        TlsError::InvalidMessage(_) => "what answers does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

/// A reason code in words, with its number.
pub(super) fn of_code(code: ReasonCode) -> String {
    spelled(&format!("{code:?}"), u8::from(code))
}

fn of_subscription(code: SubAckReasonCode) -> String {
    spelled(&format!("{code:?}"), code as u8)
}

/// `NotAuthorized` as `not authorized (0x87)`.
fn spelled(name: &str, number: u8) -> String {
    let mut words = String::new();
    let mut last_small = false;
    for letter in name.chars() {
        if letter.is_uppercase() && last_small {
            words.push(' ');
        }
        last_small = letter.is_lowercase();
        words.extend(letter.to_lowercase());
    }
    format!("{words} (0x{number:02x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_words_of_its_own() {
        let tls = |error: TlsError| Trouble::of_io(&io::Error::new(io::ErrorKind::InvalidData, error), "broker.example").to_string();
        let certificate = |error: CertificateError| tls(TlsError::InvalidCertificate(error));
        let texts = [
            (Trouble::of_connack(ReasonCode::BadUsernameOrPassword).to_string(), "wrong credentials"),
            (Trouble::of_connack(ReasonCode::NotAuthorized).to_string(), "not authorised"),
            (Trouble::of_connack(ReasonCode::ServerUnavailable).to_string(), "busy"),
            (Trouble::of_connack(ReasonCode::ClientIdentifierNotValid).to_string(), "client identifier not valid (0x85)"),
            (Trouble::of_disconnect(ReasonCode::SessionTakenOver).to_string(), "another client connected as iotserver"),
            (Trouble::of_disconnect(ReasonCode::ServerShuttingDown).to_string(), "shutting down"),
            (Trouble::of_disconnect(ReasonCode::MaximumConnectTime).to_string(), "maximum connect time (0xa0)"),
            (
                Trouble::Subscription { filter: "/+/#", code: SubAckReasonCode::NotAuthorized }.to_string(),
                "refused the subscription to /+/#: not authorized (0x87)",
            ),
            (certificate(CertificateError::UnknownIssuer), "mqtt.ca"),
            (certificate(CertificateError::NotValidForName), "not for the name broker.example"),
            (certificate(CertificateError::Expired), "expired"),
            (tls(TlsError::AlertReceived(AlertDescription::CertificateRequired)), "mqtt.client_cert"),
            (tls(TlsError::AlertReceived(AlertDescription::UnknownCA)), "refused our client certificate"),
            (Trouble::of_io(&io::Error::from(io::ErrorKind::ConnectionReset), "h").to_string(), "connection reset"),
        ];
        for (text, part) in &texts {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        assert_eq!(plain(&io::Error::from_raw_os_error(111)), "connection refused");
    }
}
