//! What a reload does with services: unlike sessions, one whose plugin has changed is replaced at once.

use std::{collections::BTreeMap, sync::Arc};

use tokio::runtime::Handle;

use super::{Change, load};
use crate::{
    conductors::library::{Hash, Libraries},
    config::Settings,
    services::{Service, Services, Wanted, why},
};

/// What is to be done, and what is to be told of it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    changes: BTreeMap<Arc<str>, Change>,
    wanted: Vec<Wanted>,
    removed: Vec<Arc<str>>,
}

/// Loads what the settings name. One that is not running is tried again.
pub(super) fn plan(runtime: &Handle, libraries: &Libraries, settings: &Settings, services: &Services) -> Plan {
    let mut plan = Plan::default();
    for (name, wanted) in &settings.services {
        let wanted = load::load_service(runtime, libraries, settings, name, wanted);
        let known = services.get(name);
        let (old, new) = (known.as_deref().and_then(hash), wanted.plugin.as_ref().ok().map(|plugin| plugin.library.hash()));
        let change = match (&known, &wanted.plugin) {
            (_, Err(reason)) => Change::Refused { reason: reason.to_string(), keeps: old },
            (Some(known), Ok(_)) if load::is_same_service(known.wanted(), &wanted) && !known.status().is_over() => Change::Unchanged,
            (Some(_), Ok(_)) => Change::Loaded { old, new },
            (None, Ok(_)) => Change::New { new },
        };
        plan.changes.insert(wanted.name.clone(), change);
        plan.wanted.push(wanted);
    }
    for gone in services.all().iter().filter(|known| !settings.services.contains_key(known.name())) {
        plan.changes.insert(gone.name().into(), Change::Removed { old: hash(gone) });
        plan.removed.push(gone.name().into());
    }
    plan
}

fn hash(service: &Service) -> Option<Hash> {
    service.plugin().as_ref().ok().map(|plugin| plugin.library.hash())
}

impl Plan {
    /// Does it; what was done.
    pub(super) async fn carry_out(self, services: &Services) -> BTreeMap<Arc<str>, Change> {
        let Self { mut changes, wanted, removed } = self;
        for name in removed {
            services.remove(&name).await;
        }
        for wanted in wanted {
            let name = wanted.name.clone();
            let Some(change) = changes.get_mut(&name) else { continue };
            let keeps = match change {
                Change::Loaded { old, .. } => *old,
                Change::New { .. } => None,
                Change::Unchanged | Change::Removed { .. } | Change::Refused { .. } => continue,
            };
            if let Err(trouble) = services.replace(wanted).await {
                *change = Change::Refused { reason: why(&trouble), keeps };
            }
        }
        changes
    }
}
