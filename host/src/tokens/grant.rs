//! What a client may subscribe and publish, as MQTT topic filters: pure functions, decided in one place.

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {}
