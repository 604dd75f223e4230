//! The plugins of all types and services: loaded at the start, and again while the host runs.
//!
//! A reload reads the settings as the start did and loads each type's file. The same content is the same library, so what has not changed stays
//! as it is; changed content is loaded beside the old, which is never unloaded. Then all types change at once. Nothing changes where
//! the settings are wrong, and a type whose file is refused keeps the plugin that it has. Of the settings, `[types]` and `[services]` alone are
//! taken over.

pub mod dev;
mod load;
mod services;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{runtime::Handle, sync::Mutex};

use crate::{
    conductors::{
        catalog::{Catalog, Type},
        lane::Lane,
        library::{Hash, Libraries},
        resolve::{Platform, resolve},
    },
    config::{Settings, Source},
    services::{Services, Wanted},
    sessions::{
        Manager,
        upgrade::{Tallies, Which},
    },
};

/// Loads the plugin of each type and service, for the start.
///
/// # Errors
/// The plugins without which the settings do not let the host start (`required`), unless it `waits` for them.
pub fn at_start(runtime: &Handle, libraries: &Libraries, settings: &Settings, waits: bool) -> Result<(Vec<Type>, Vec<Wanted>), String> {
    let (mut types, mut fatal) = (Vec::new(), Vec::new());
    for (name, wanted) in &settings.types {
        let kind = load::load(runtime, libraries, settings, name, wanted);
        match &kind.plugin {
            Ok(_) => tell_loaded(&kind),
            Err(reason) if wanted.required && !waits => fatal.push(format!("type {name}: {reason}")),
            Err(reason) => tracing::error!("type {name}: {reason}"),
        }
        types.push(kind);
    }
    let mut services = Vec::new();
    for (name, wanted) in &settings.services {
        let service = load::load_service(runtime, libraries, settings, name, wanted);
        match &service.plugin {
            Ok(_) => tell_loaded_service(&service),
            Err(reason) if wanted.required && !waits => fatal.push(format!("service {name}: {reason}")),
            // Told where it is started.
            Err(_) => {}
        }
        services.push(Wanted { required: service.required && !waits, ..service });
    }
    if !fatal.is_empty() {
        return Err(fatal.join("; "));
    }
    if let Err(error) = libraries.remove_unused_copies() {
        tracing::warn!(%error, "copies of earlier builds of plugins stay in the state folder");
    }
    Ok((types, services))
}

fn tell_loaded_service(service: &Wanted) {
    if let Ok(plugin) = &service.plugin {
        let (file, hash) = (plugin.library.file().display(), plugin.library.hash());
        tracing::info!(service = %service.name, offered = plugin.conductor, %file, %hash, "plugin loaded");
    }
}

fn tell_loaded(kind: &Type) {
    if let Ok(plugin) = &kind.plugin {
        let (file, hash) = (plugin.library.file().display(), plugin.library.hash());
        tracing::info!(r#type = %kind.name, conductor = plugin.conductor, %file, %hash, "plugin loaded");
    }
}

/// What all plugins together may take to be read, to start, and to look at their configs.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a reload did with a type or a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Change {
    /// It is as it was.
    Unchanged,
    /// New sessions get something else: another plugin, or where both are the same, other settings.
    Loaded {
        /// What they got before; absent where the type was unavailable.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<Hash>,
        /// What they get now.
        new: Option<Hash>,
    },
    /// The settings did not name it before.
    New {
        /// What its sessions get.
        new: Option<Hash>,
    },
    /// The settings name it no more: it takes no new sessions.
    Removed {
        /// What its sessions got.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<Hash>,
    },
    /// Its file is no good, so it keeps what it had.
    Refused {
        /// Why.
        reason: String,
        /// What it keeps; absent where it has nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        keeps: Option<Hash>,
    },
}

/// What a reload did.
#[derive(Debug)]
pub struct Report {
    /// By type.
    pub types: BTreeMap<Arc<str>, Change>,
    /// What became of sessions, by type.
    pub sessions: Tallies,
    /// By service. One that is loaded has been replaced.
    pub services: BTreeMap<Arc<str>, Change>,
    /// Keys that have changed and count at the next start only.
    pub needs_restart: Vec<String>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// Nothing was changed; all mistakes, one for each.
    #[error("nothing was reloaded, the settings are wrong: {}", .0.join("; "))]
    WrongSettings(Vec<String>),
    /// The start of a plugin does not return.
    #[error(
        "nothing was reloaded: the start of a plugin, or its check of a config, has not returned for {} s. Mend it and start the host again; until \
         then no plugin can be loaded",
        START_LIMIT.as_secs()
    )]
    Stuck,
    /// Another reload runs.
    #[error("another reload is under way; try again when it is over")]
    Running,
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
    /// The host itself went wrong.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Reloads, one at a time.
pub struct Reloader {
    source: Source,
    /// What the host started with.
    started: Settings,
    libraries: Libraries,
    manager: Arc<Manager>,
    services: Arc<Services>,
    /// The plugin files of the settings that were read last.
    files: std::sync::Mutex<Vec<PathBuf>>,
    /// Held while one runs.
    running: Mutex<()>,
    /// In development mode, where every change reloads: what was refused last, by type, since each refusal is told once then.
    refused: Option<std::sync::Mutex<BTreeMap<Arc<str>, String>>>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("libraries", &self.libraries).finish_non_exhaustive()
    }
}

impl Reloader {
    /// For a host that was started with these settings from this source, and has loaded these libraries; `dev` is development mode.
    #[must_use]
    pub fn new(
        source: Source,
        started: Settings,
        libraries: Libraries,
        manager: Arc<Manager>,
        services: Arc<Services>,
        dev: bool,
    ) -> Arc<Self> {
        let refused = dev.then(std::sync::Mutex::default);
        let files = std::sync::Mutex::new(plugin_files(&started));
        Arc::new(Self { source, started, libraries, manager, services, files, running: Mutex::new(()), refused })
    }

    /// The plugin files of all types and services, as the settings had them when they were read last.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reloads, and moves sessions. Runs to its end, whoever asked. With `waits` it waits for another that runs.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub async fn reload(self: &Arc<Self>, which: Which, waits: bool) -> Result<Report, NotReloaded> {
        let this = self.clone();
        let running = tokio::spawn(async move {
            let _one = if waits { this.running.lock().await } else { this.running.try_lock().map_err(|_| NotReloaded::Running)? };
            this.reload_now(which).await
        });
        running.await.unwrap_or_else(|error| Err(NotReloaded::Internal(error.to_string())))
    }

    async fn reload_now(self: &Arc<Self>, which: Which) -> Result<Report, NotReloaded> {
        if self.manager.is_stopping() {
            return Err(NotReloaded::Stopping);
        }
        let began = Instant::now();
        let (this, runtime) = (self.clone(), Handle::current());
        let taking = tokio::task::spawn_blocking(move || this.take_over(&runtime));
        let Ok(taken) = tokio::time::timeout(START_LIMIT, taking).await else { return Err(NotReloaded::Stuck) };
        let Taken { catalog, types, services, needs_restart } = taken.map_err(|error| NotReloaded::Internal(error.to_string()))??;
        let tallies = match catalog {
            Some(catalog) => {
                // It looks at every session: not what a thread of the runtime should be kept with.
                let manager = self.manager.clone();
                let exchanged = tokio::task::spawn_blocking(move || manager.exchange(catalog)).await;
                exchanged.map_err(|error| NotReloaded::Internal(error.to_string()))?
            }
            None => Tallies::new(),
        };
        let services = services.carry_out(&self.services).await;
        let sessions = self.manager.move_all(which, tallies).await;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let report = Report { types, sessions, services, needs_restart, millis };
        self.tell(&report);
        Ok(report)
    }

    /// Reads the settings and loads what they name: the types to come, where any has changed. Runs code of plugins, which may block.
    fn take_over(&self, runtime: &Handle) -> Result<Taken, NotReloaded> {
        let (settings, _) =
            self.source.load().map_err(|mistakes| NotReloaded::WrongSettings(mistakes.iter().map(ToString::to_string).collect()))?;
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = plugin_files(&settings);
        let before = self.manager.catalog();
        let (mut types, mut changes) = (Vec::new(), BTreeMap::new());
        for (name, wanted) in &settings.types {
            let known = before.get(name);
            let mut loaded = load::load(runtime, &self.libraries, &settings, name, wanted);
            if let Some(known) = known {
                let lane = Lane::new(loaded.name.clone(), settings.sessions.quarantine_after);
                loaded.lane = Arc::new(lane.counting_on(&known.lane));
            }
            let (kind, change) = compare(known, loaded);
            if matches!(change, Change::Loaded { .. } | Change::New { .. }) {
                tell_loaded(&kind);
            }
            changes.insert(kind.name.clone(), change);
            types.push(kind);
        }
        for kind in before.iter().filter(|kind| !settings.types.contains_key(&*kind.name)) {
            changes.insert(kind.name.clone(), Change::Removed { old: kind.hash() });
        }
        let same = |kind: &Arc<Type>| before.get(&kind.name).is_some_and(|known| Arc::ptr_eq(known, kind));
        let changed = types.len() != before.iter().count() || !types.iter().all(same);
        Ok(Taken {
            catalog: changed.then(|| Catalog::of(types)),
            types: changes,
            services: services::plan(runtime, &self.libraries, &settings, &self.services),
            needs_restart: settings.differs_in(&self.started),
        })
    }
}

/// What settings and files say now.
struct Taken {
    /// The types to come, where any has changed.
    catalog: Option<Catalog>,
    types: BTreeMap<Arc<str>, Change>,
    services: services::Plan,
    needs_restart: Vec<String>,
}

/// Where the plugin of each type and service is on this system.
fn plugin_files(settings: &Settings) -> Vec<PathBuf> {
    let plugins = settings.types.values().map(|kind| &kind.plugin).chain(settings.services.values().map(|service| &service.plugin));
    plugins.map(|plugin| resolve(Platform::CURRENT, plugin)).collect()
}

/// What a type is to be, of what it is and what was loaded.
fn compare(known: Option<&Arc<Type>>, loaded: Type) -> (Arc<Type>, Change) {
    let new = loaded.hash();
    match (known, &loaded.plugin) {
        (Some(known), Err(reason)) => {
            let change = Change::Refused { reason: reason.to_string(), keeps: known.hash() };
            // Without a plugin before, too, the reason is the one of now.
            let stays = known.plugin.is_ok() || load::is_same(known, &loaded);
            (if stays { known.clone() } else { Arc::new(loaded) }, change)
        }
        (None, Err(reason)) => {
            let change = Change::Refused { reason: reason.to_string(), keeps: None };
            (Arc::new(loaded), change)
        }
        (Some(known), Ok(_)) if load::is_same(known, &loaded) => (known.clone(), Change::Unchanged),
        (Some(known), Ok(_)) => {
            let old = known.hash();
            (Arc::new(loaded), Change::Loaded { old, new })
        }
        (None, Ok(_)) => (Arc::new(loaded), Change::New { new }),
    }
}

impl Reloader {
    /// Whether a refusal is worth a line.
    fn is_news(&self, name: &Arc<str>, reason: Option<&str>) -> bool {
        let Some(refused) = &self.refused else { return true };
        let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match reason {
            Some(reason) => refused.insert(name.clone(), reason.to_owned()),
            None => refused.remove(name),
        };
        before.as_deref() != reason
    }

    /// One line for each type of which there is something to say.
    fn tell(&self, report: &Report) {
        for (name, change) in &report.types {
            let tally = report.sessions.get(name).cloned().unwrap_or_default();
            let (moved, stayed, failed, tried_again) = (tally.moved, tally.stayed, tally.failed, tally.tried_again);
            macro_rules! line {
            ($level:ident, $($what:tt)+) => {
                tracing::$level!(r#type = %name, moved, stayed, failed, tried_again, $($what)+)
            };
        }
            let news = self.is_news(name, if let Change::Refused { reason, .. } = change { Some(reason) } else { None });
            match change {
                Change::Refused { reason, .. } if !news => tracing::debug!(r#type = %name, %reason, "reload: refused as before"),
                Change::Unchanged if moved + stayed + failed + tried_again == 0 => tracing::debug!(r#type = %name, "reload: unchanged"),
                Change::Unchanged => line!(info, "reload: unchanged"),
                Change::Loaded { old, new } => {
                    line!(
                        info,
                        old = old.map(tracing::field::display),
                        new = new.map(tracing::field::display),
                        "reload: new sessions run what was loaded now"
                    )
                }
                Change::New { new } => line!(info, new = new.map(tracing::field::display), "reload: a new type"),
                Change::Removed { old } => {
                    line!(
                        info,
                        old = old.map(tracing::field::display),
                        "reload: the type is gone from the settings, and takes no new sessions"
                    )
                }
                Change::Refused { reason, keeps } => {
                    line!(error, %reason, keeps = keeps.map(tracing::field::display), "reload: refused; the type keeps what it had")
                }
            }
        }
        for (name, change) in &report.services {
            match change {
                Change::Refused { reason, .. } => {
                    tracing::error!(service = %name, %reason, "reload: refused; the service keeps what it had")
                }
                Change::Unchanged => tracing::debug!(service = %name, "reload: unchanged"),
                Change::Removed { .. } => tracing::info!(service = %name, "reload: the service is gone from the settings, and closed"),
                Change::Loaded { new, .. } | Change::New { new } => {
                    tracing::info!(service = %name, new = new.map(tracing::field::display), "reload: the service runs what was loaded now");
                }
            }
        }
        for key in &report.needs_restart {
            tracing::warn!(key, "reload: this setting has changed, and counts at the next start only");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::Limits;

    fn without_plugin(reason: &str, seconds: u64) -> Type {
        Type {
            name: "a".into(),
            plugin: Err(reason.into()),
            deadline: Duration::from_secs(seconds),
            limits: Limits::default(),
            lane: Arc::default(),
        }
    }

    #[test]
    fn a_type_without_a_plugin_has_the_newest_reason() {
        let known = Arc::new(without_plugin("missing", 5));
        let (kind, change) = compare(Some(&known), without_plugin("missing", 5));
        assert!(Arc::ptr_eq(&kind, &known));
        assert_eq!(change, Change::Refused { reason: "missing".into(), keeps: None });
        let (kind, _) = compare(Some(&known), without_plugin("cut short", 5));
        assert_eq!(kind.plugin.as_ref().unwrap_err(), &"cut short".into());
        let (_, change) = compare(None, without_plugin("missing", 5));
        assert_eq!(change, Change::Refused { reason: "missing".into(), keeps: None });
    }

    #[test]
    fn a_change_is_told_in_these_words() {
        let json = |change: Change| serde_json::to_string(&change).unwrap();
        let hash = Some(Hash::of(b""));
        let text = Hash::of(b"").to_string();
        assert_eq!(json(Change::Unchanged), r#"{"outcome":"unchanged"}"#);
        assert_eq!(json(Change::Loaded { old: None, new: hash }), format!(r#"{{"outcome":"loaded","new":"{text}"}}"#));
        assert_eq!(json(Change::New { new: hash }), format!(r#"{{"outcome":"new","new":"{text}"}}"#));
        assert_eq!(json(Change::Removed { old: hash }), format!(r#"{{"outcome":"removed","old":"{text}"}}"#));
        let refused = Change::Refused { reason: "r".into(), keeps: hash };
        assert_eq!(json(refused), format!(r#"{{"outcome":"refused","reason":"r","keeps":"{text}"}}"#));
    }
}
