//! Development mode: the plugins of all types are watched, and what changes is reloaded, with the sessions that run it.
//!
//! Files are looked at a few times a second. A change counts once two looks in a row see the same: a linker writes for a while. What is refused
//! all the same is tried again at the next change.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::sync::watch;

use super::{Change, Reloader, Report, plugin_files};
use crate::{
    conductors::resolve::{Platform, resolve},
    config::Settings,
    sessions::upgrade::Which,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(150);

/// What a look at a file sees; nothing where there is none.
type Seen = Option<(SystemTime, u64)>;

/// The files, as they were when they were last loaded and at the last look.
#[derive(Debug, Default)]
struct Watched {
    loaded: BTreeMap<PathBuf, Seen>,
    last: BTreeMap<PathBuf, Seen>,
}

impl Watched {
    /// Whether to load now: something is other than it was loaded, and no longer changing. A file that has gone is waited for.
    fn look(&mut self, now: BTreeMap<PathBuf, Seen>) -> bool {
        let changed = now.iter().any(|(file, seen)| seen.is_some() && self.loaded.get(file) != Some(seen));
        let settled = now == self.last;
        let due = changed && settled;
        if due {
            self.loaded.clone_from(&now);
        }
        self.last = now;
        due
    }
}

fn look_at(files: Vec<PathBuf>) -> BTreeMap<PathBuf, Seen> {
    let seen = |file: &Path| {
        let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.into_iter().map(|file| (seen(&file), file)).map(|(seen, file)| (file, seen)).collect()
}

/// The files as they are before they are loaded at the start: what changes after is found.
#[derive(Debug)]
pub struct Watch(Watched);

impl Watch {
    /// Looks at the files of all types, before they are loaded.
    #[must_use]
    pub fn begin(settings: &Settings) -> Self {
        let now = look_at(plugin_files(settings));
        Self(Watched { loaded: now.clone(), last: now })
    }

    /// Reloads what changes until the host stops.
    pub async fn run(self, reloader: Arc<Reloader>, mut stopping: watch::Receiver<bool>) {
        let Self(mut watched) = self;
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if !watched.look(look_at(reloader.files())) {
                continue;
            }
            match reloader.reload(Which::All, true).await {
                Ok(report) => tell(&report),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

/// The types and services that run what was loaded now, in words.
fn reloaded(report: &Report) -> Option<String> {
    let loaded = |change: &Change| matches!(change, Change::Loaded { .. });
    let types = report.types.iter().filter(|(_, change)| loaded(change)).map(|(name, _)| name.to_string());
    let services = report.services.iter().filter(|(_, change)| loaded(change)).map(|(name, _)| format!("service {name}"));
    let all: Vec<String> = types.chain(services).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// A line for what was reloaded.
fn tell(report: &Report) {
    let Some(reloaded) = reloaded(report) else { return };
    let sum = |count: fn(&crate::sessions::upgrade::Tally) -> usize| -> usize { report.sessions.values().map(count).sum() };
    let took = report.millis;
    let (moved, failed, tried_again) = (sum(|tally| tally.moved), sum(|tally| tally.failed), sum(|tally| tally.tried_again));
    tracing::info!(moved, failed, tried_again, "reloaded {reloaded} in {took} ms");
    for (session, reason) in report.sessions.values().flat_map(|tally| &tally.failures) {
        tracing::error!(%session, "did not move: {reason}");
    }
}

/// What a developer needs to begin: where things are, and how to ask them.
pub fn welcome(settings: &Settings, addresses: &Value) {
    let url = |port: &str, tls: bool| {
        let (scheme, insecure) = if tls { ("https", "-k ") } else { ("http", "") };
        let address = addresses[port].as_str().unwrap_or_default().replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        (insecure, format!("{scheme}://{address}/v1/sessions"))
    };
    let ((admin_flag, admin), (iot_flag, iot)) = (url("admin", settings.admin.tls), url("iot", settings.iot.tls));
    for (name, wanted) in &settings.types {
        let file = resolve(Platform::CURRENT, &wanted.plugin);
        tracing::info!("watching {} for type {name}{}", file.display(), if file.exists() { "" } else { ", which is not there yet" });
        tracing::info!("create: curl -s {admin_flag}{admin} -d '{{\"type\":\"{name}\"}}'");
    }
    tracing::info!("ask:    curl -s {admin_flag}{admin}/ID/requests -d '{{\"method\":\"METHOD\",\"params\":null}}'");
    tracing::info!("join:   curl -s {iot_flag}{iot}/ID/join -d '{{\"pin\":\"PIN\",\"client\":\"me\"}}'");
    if let Some(mqtt) = addresses["mqtt"].as_str() {
        tracing::info!("mqtt:   {mqtt}, username ID, password TOKEN, topics /ID/#");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, Option<u64>)]) -> BTreeMap<PathBuf, Seen> {
        files.iter().map(|(file, seen)| ((*file).into(), seen.map(|size| (SystemTime::UNIX_EPOCH, size)))).collect()
    }

    #[test]
    fn what_was_reloaded_is_told_of_types_and_services() {
        let changes = |changes: [(&str, Change); 2]| changes.into_iter().map(|(name, change)| (Arc::from(name), change)).collect();
        let loaded = || Change::Loaded { old: None, new: None };
        let mut report = Report {
            types: changes([("a", loaded()), ("b", Change::Unchanged)]),
            sessions: BTreeMap::new(),
            services: changes([("c", loaded()), ("d", Change::Refused { reason: String::new(), keeps: None })]),
            needs_restart: Vec::new(),
            millis: 1,
        };
        assert_eq!(reloaded(&report).as_deref(), Some("a, service c"));
        report.types.clear();
        assert_eq!(reloaded(&report).as_deref(), Some("service c"));
        report.services.clear();
        assert_eq!(reloaded(&report), None);
    }

    #[test]
    fn a_file_is_loaded_once_it_has_stopped_changing() {
        let begin = files(&[("a", Some(1)), ("b", None)]);
        let mut watched = Watched { loaded: begin.clone(), last: begin.clone() };
        assert!(!watched.look(begin.clone()), "nothing has changed");
        assert!(!watched.look(files(&[("a", Some(2)), ("b", None)])), "it is being written");
        assert!(!watched.look(files(&[("a", Some(3)), ("b", None)])), "still");
        assert!(watched.look(files(&[("a", Some(3)), ("b", None)])));
        assert!(!watched.look(files(&[("a", Some(3)), ("b", None)])), "once");
        assert!(!watched.look(files(&[("a", None), ("b", None)])) && !watched.look(files(&[("a", None), ("b", None)])), "it is gone");
        assert!(!watched.look(files(&[("a", None), ("b", Some(1))])));
        assert!(watched.look(files(&[("a", None), ("b", Some(1))])), "the one that was waited for is there");
        assert!(!watched.look(files(&[("a", Some(3)), ("b", Some(1))])));
        assert!(watched.look(files(&[("a", Some(3)), ("b", Some(1))])), "as it was before it was gone, and yet it may be another");
    }
}
