//! From the settings of a type or a service to what it is: its plugin loaded, its config checked. Runs the plugin's start, which may block: not on
//! a thread of the runtime.

use std::sync::Arc;

use conductor_abi::{abi_stable::std_types::RErr, wire::ConductorManifest};
use serde_json::{Map, Value, value::RawValue};
use tokio::runtime::Handle;

use crate::{
    conductors::{
        catalog::{Plugin, Type},
        library::{Libraries, Library},
    },
    config,
    services::Wanted,
};

/// Loads the plugin of a type; one that has none says why.
pub(super) fn load(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Type) -> Type {
    let plugin = conductor(runtime, libraries, name, wanted).map_err(Arc::from);
    Type { name: name.into(), plugin, deadline: wanted.deadline, lane: Arc::default() }
}

/// The same for a service.
pub(super) fn load_service(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Service) -> Wanted {
    let plugin = service(runtime, libraries, name, wanted).map(Arc::new).map_err(Arc::from);
    Wanted { name: name.into(), plugin, deadline: wanted.deadline, required: wanted.required }
}

fn conductor(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Type) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, None).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_conductor(wanted.conductor.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    configured(runtime, library, manifest, &format!("types.{name}.config"), wanted.config.as_ref())
}

fn service(runtime: &Handle, libraries: &Libraries, name: &str, wanted: &config::Service) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, None).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_service(wanted.service.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    configured(runtime, library, manifest, &format!("services.{name}.config"), wanted.config.as_ref())
}

/// What a library offers, with its config, which `key` of the settings holds and the library has found good.
fn configured(
    runtime: &Handle,
    library: Arc<Library>,
    manifest: ConductorManifest,
    key: &str,
    config: Option<&Map<String, Value>>,
) -> Result<Plugin, String> {
    let config = config.map_or_else(|| "{}".to_owned(), |config| Value::Object(config.clone()).to_string());
    if let RErr(failure) = runtime.block_on(library.check_config(&manifest.name, config.as_bytes())) {
        return Err(format!("{key}: {}", failure.message));
    }
    let config = RawValue::from_string(config).map_err(|e| e.to_string())?;
    Ok(Plugin { conductor: manifest.name.clone(), manifest, library, config })
}

/// Whether sessions of one would be the same as sessions of the other.
pub(super) fn is_same(one: &Type, other: &Type) -> bool {
    same_plugin(one.plugin.as_ref(), other.plugin.as_ref()) && one.deadline == other.deadline
}

/// Whether one service would be the same as the other.
pub(super) fn is_same_service(one: &Wanted, other: &Wanted) -> bool {
    same_plugin(one.plugin.as_deref(), other.plugin.as_deref()) && one.deadline == other.deadline
}

fn same_plugin<E: PartialEq>(one: Result<&Plugin, E>, other: Result<&Plugin, E>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => {
            Arc::ptr_eq(&one.library, &other.library) && one.conductor == other.conductor && one.config.get() == other.config.get()
        }
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}
