//! From the settings of a type or a service to what it is: its plugin loaded, its config checked. Runs the plugin's start, which may block: not on
//! a thread of the runtime.

use std::sync::Arc;

use conductor_abi::{abi_stable::std_types::RErr, wire::ConductorManifest};
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use crate::{
    conductors::{
        self,
        catalog::{Plugin, Type},
        config::Config,
        lane::Lane,
        library::{Libraries, Library},
    },
    config::{self, Settings},
    services::Wanted,
    sessions::Limits,
};

/// Loads the plugin of a type; one that has none says why.
pub(super) fn load(runtime: &Handle, libraries: &Libraries, settings: &Settings, name: &str, wanted: &config::Type) -> Type {
    let plugin = conductor(runtime, libraries, settings, name, wanted).map_err(Arc::from);
    let name: Arc<str> = name.into();
    let lane = Arc::new(Lane::new(name.clone(), settings.sessions.quarantine_after));
    let limits = Limits::of(wanted.lifetime, wanted.empty_timeout);
    Type { name, plugin, deadline: wanted.deadline, limits, lane }
}

/// The same for a service.
pub(super) fn load_service(runtime: &Handle, libraries: &Libraries, settings: &Settings, name: &str, wanted: &config::Service) -> Wanted {
    let plugin = service(runtime, libraries, settings, name, wanted).map(Arc::new).map_err(Arc::from);
    Wanted { name: name.into(), plugin, deadline: wanted.deadline, required: wanted.required }
}

fn conductor(runtime: &Handle, libraries: &Libraries, settings: &Settings, name: &str, wanted: &config::Type) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, wanted.sha256).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_conductor(wanted.conductor.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    let config = prepare(settings, "types", name, wanted.config.as_ref(), &manifest)?;
    configured(runtime, library, manifest, &format!("types.{name}.config"), config)
}

fn service(runtime: &Handle, libraries: &Libraries, settings: &Settings, name: &str, wanted: &config::Service) -> Result<Plugin, String> {
    let library = libraries.load(&wanted.plugin, wanted.sha256).map_err(|refusal| refusal.to_string())?;
    let manifest = library.choose_service(wanted.service.as_deref(), name).map_err(|refusal| refusal.to_string())?.clone();
    let config = prepare(settings, "services", name, wanted.config.as_ref(), &manifest)?;
    configured(runtime, library, manifest, &format!("services.{name}.config"), config)
}

fn prepare(
    settings: &Settings,
    section: &str,
    name: &str,
    given: Option<&Map<String, Value>>,
    manifest: &ConductorManifest,
) -> Result<Config, String> {
    let schema = manifest.config.as_ref();
    conductors::config::prepare(section, name, given, schema, &settings.base_dir, &|name| std::env::var_os(name))
        .map_err(|mistakes| mistakes.join("; "))
}

/// What a library offers, with its config, which `key` of the settings holds and the library has found good.
fn configured(runtime: &Handle, library: Arc<Library>, manifest: ConductorManifest, key: &str, config: Config) -> Result<Plugin, String> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let RErr(failure) = runtime.block_on(library.check_config(&manifest.name, config.json.get().as_bytes())) {
        return Err(format!("{key}: {}", config.hide_secrets(&failure.message)));
    }
    Ok(Plugin { conductor: manifest.name.clone(), manifest, library, config: config.json })
}

/// Whether sessions of one would be the same as sessions of the other.
pub(super) fn is_same(one: &Type, other: &Type) -> bool {
    same_plugin(one.plugin.as_ref(), other.plugin.as_ref()) && one.deadline == other.deadline && one.limits == other.limits
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
