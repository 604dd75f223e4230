//! The catalog: type name to plugin.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use conductor_abi::wire::ConductorManifest;
use serde_json::value::RawValue;

use super::{lane::Lane, library::Library};
use crate::sessions::{Limits, SessionId};

/// A type of session.
pub struct Type {
    /// As the settings name it.
    pub name: Arc<str>,
    /// Where its conductors come from, or why from nowhere.
    pub plugin: Result<Plugin, Arc<str>>,
    /// How long an event may take.
    pub deadline: Duration,
    /// How long its sessions live, where they have no limits of their own.
    pub limits: Limits,
    /// Where its slow sessions run.
    pub lane: Arc<Lane>,
}

/// One conductor of a loaded plugin. Sessions refer to this, not to the name of the type: what they run stays what it was.
pub struct Plugin {
    /// The loaded file.
    pub library: Arc<Library>,
    /// The conductor in it.
    pub conductor: String,
    /// What the plugin says about it.
    pub manifest: ConductorManifest,
    /// The type's `config`, JSON, with secrets in it.
    pub config: Box<RawValue>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("library", &self.library).field("conductor", &self.conductor).finish_non_exhaustive()
    }
}

impl Type {
    /// Whether its conductors have the hook.
    #[must_use]
    pub fn wants(&self, hook: &str) -> bool {
        self.plugin.as_ref().is_ok_and(|plugin| plugin.manifest.hooks.iter().any(|known| known == hook))
    }

    /// A session of this type was found to block its thread.
    pub fn found_slow(&self, lane: &Lane, session: SessionId) {
        tracing::warn!(%session, r#type = %self.name, "the conductor blocks its thread; the session runs apart from now on");
        if lane.found_slow() {
            tracing::error!(r#type = %self.name, "more than one conductor of this type blocks its thread; the whole type runs apart");
        }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Type")
            .field("name", &self.name)
            .field("plugin", &self.plugin.as_ref().map(|p| &p.conductor))
            .finish_non_exhaustive()
    }
}

/// All configured types.
#[derive(Debug, Default)]
pub struct Catalog {
    types: BTreeMap<Arc<str>, Arc<Type>>,
}

impl Catalog {
    /// Of these types.
    #[must_use]
    pub fn new(types: Vec<Type>) -> Self {
        Self { types: types.into_iter().map(|kind| (kind.name.clone(), Arc::new(kind))).collect() }
    }

    /// Of these types, some of which may be those of another catalog.
    #[must_use]
    pub fn of(types: Vec<Arc<Type>>) -> Self {
        Self { types: types.into_iter().map(|kind| (kind.name.clone(), kind)).collect() }
    }

    /// The type of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Type>> {
        self.types.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Type>> {
        self.types.values()
    }

    /// A stand-in for a type that stored sessions name and the settings do not.
    #[must_use]
    pub fn missing(name: &Arc<str>) -> Type {
        Type {
            name: name.clone(),
            plugin: Err(format!("the type {name:?} is not in the settings; add [types.{name}] and reload").into()),
            deadline: Duration::from_secs(5),
            limits: Limits::default(),
            lane: Arc::default(),
        }
    }
}
