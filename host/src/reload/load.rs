//! From the settings of a type to the type: its plugin loaded, its config checked.

use std::sync::Arc;

use conductor_abi::abi_stable::std_types::RErr;
use serde_json::{Value, value::RawValue};
use tokio::runtime::Handle;

use crate::{
    conductors::{
        catalog::{Plugin, Type},
        library::Libraries,
    },
    config,
};

/// Loads the plugin of a type; one that has none says why. Runs the plugin's start, which may block: not on a thread of the runtime.
pub(super) fn load(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Type) -> Type {
    let plugin = plugin(runtime, libraries, name, wanted).map_err(Arc::from);
    Type { name: name.into(), plugin, deadline: wanted.deadline, lane: Arc::default() }
}

fn plugin(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Type) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, None).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_conductor(wanted.conductor.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    let config = wanted.config.as_ref().map_or_else(|| "{}".to_owned(), |config| Value::Object(config.clone()).to_string());
    if let RErr(failure) = runtime.block_on(library.check_config(&manifest.name, config.as_bytes())) {
        return Err(format!("types.{name}.config: {}", failure.message));
    }
    let config = RawValue::from_string(config).map_err(|e| e.to_string())?;
    Ok(Plugin { conductor: manifest.name.clone(), manifest, library, config })
}

/// Whether sessions of one would be the same as sessions of the other.
pub(super) fn is_same(one: &Type, other: &Type) -> bool {
    let same_plugin = match (&one.plugin, &other.plugin) {
        (Ok(one), Ok(other)) => {
            Arc::ptr_eq(&one.library, &other.library) && one.conductor == other.conductor && one.config.get() == other.config.get()
        }
        (Err(one), Err(other)) => one == other,
        _ => false,
    };
    same_plugin && one.deadline == other.deadline
}
