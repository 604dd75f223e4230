//! The conductor `keeper`: its config has all that a config can have, a secret first of all.

use std::collections::BTreeMap;

use conductor_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Config {
    token: Secret,
    #[serde(default)]
    seats: u8,
    #[serde(default)]
    doors: Vec<Door>,
}

#[derive(Deserialize, JsonSchema)]
struct Door {
    name: String,
    code: Option<Secret>,
}

pub(crate) struct Keeper(Config);

impl Conductor for Keeper {
    type Config = Config;

    async fn create(_: &Session, config: Config) -> Result<Self> {
        tracing::info!(token = ?config.token, config.seats, "made");
        Ok(Self(config))
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("lengths", Self::lengths)
    }
}

impl Keeper {
    /// How long the secrets are: nothing that they are.
    async fn lengths(&mut self, _: &Session, (): ()) -> Result<BTreeMap<String, usize>> {
        let doors = self.0.doors.iter().map(|door| (door.name.clone(), door.code.as_ref().map_or(0, |code| code.expose().len())));
        Ok(doors.chain([("token".to_owned(), self.0.token.expose().len())]).collect())
    }
}
