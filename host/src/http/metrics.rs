//! `GET /v1/metrics`: what is counted, in Prometheus's text format. Nothing is computed before it is asked for.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{Arc, atomic::Ordering},
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{Ports, error::Problem};
use crate::{
    conductors::{catalog::Type, tally::Number},
    sessions::{
        Manager,
        manager::Refused,
        status::{Lack, Status},
    },
};

/// States of a session, as `/v1/sessions` names them.
const STATES: [&str; 5] = ["idle", "live", "faulted", "unavailable", "closed"];

pub(super) async fn metrics(State(ports): State<Arc<Ports>>) -> Result<Response, Problem> {
    // It looks at each session once, which takes a while where there are a million.
    let text = tokio::task::spawn_blocking(move || render(&ports.manager)).await;
    let text = text.map_err(|error| Refused::Internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// What parked sessions may lack.
const LACKS: [Lack; 2] = [Lack::Plugin, Lack::Conductor];

/// The position in [`STATES`].
fn state(status: &Status) -> usize {
    match status {
        Status::NotMade => 0,
        Status::Live => 1,
        Status::Faulted(_) => 2,
        Status::Unavailable(_) => 3,
        Status::Gone => 4,
    }
}

fn render(manager: &Manager) -> String {
    let mut sessions: BTreeMap<Arc<str>, ([u64; STATES.len()], [u64; LACKS.len()])> = BTreeMap::new();
    for kind in manager.catalog().iter() {
        sessions.insert(kind.name.clone(), Default::default());
    }
    manager.for_each(|session| {
        let name = &session.kind().name;
        // Sessions of a type share its name, so it is copied once for each type.
        let counts = match sessions.get_mut(name) {
            Some(counts) => counts,
            None => sessions.entry(name.clone()).or_default(),
        };
        counts.0[state(&session.status())] += 1;
        if let Some(parked) = session.parked()
            && let Some(at) = LACKS.iter().position(|lack| *lack == parked.lack)
        {
            counts.1[at] += 1;
        }
    });
    let mut page = Page(String::with_capacity(4096));
    page.family("sessions", "gauge", "Sessions, by type and state.");
    for (name, (counts, _)) in &sessions {
        for (state, count) in STATES.iter().zip(counts) {
            page.sample("sessions", &[("type", name), ("state", state)], count);
        }
    }
    page.family("parked_sessions", "gauge", "Sessions that are unavailable, by type and by what they lack.");
    for (name, (_, counts)) in &sessions {
        for (lack, count) in LACKS.iter().zip(counts) {
            page.sample("parked_sessions", &[("type", name), ("lacks", lack.as_str())], count);
        }
    }
    let (counts, joins) = (&manager.world().counts, &manager.world().joins.counts);
    for (name, help, counter) in [
        ("requests_total", "Requests to conductors.", &counts.requests),
        ("joins_total", "Joins that succeeded.", &counts.joins),
        ("joins_refused_total", "Joins that were refused for their pin, secret or resume token.", &joins.refused),
        ("joins_limited_total", "Joins that were refused since their source had too many.", &joins.limited),
        ("pins_guarded_total", "How often a pin came to be guarded.", &joins.guarded),
        ("messages_total", "Messages of clients that went to conductors.", &counts.messages),
        (
            "messages_dropped_total",
            "Messages that no conductor heard: its mailbox was full, its type quarantined, its session parked or faulted.",
            &counts.dropped,
        ),
        (
            "sessions_expired_total",
            "Sessions that were closed because their lifetime was over or they were empty for too long.",
            &counts.expired,
        ),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &[], counter.load(Ordering::Relaxed));
    }
    of_types(&mut page, manager);
    page.family("pins_guarded", "gauge", "Sessions whose pin is guarded now: nobody joins with it.");
    page.sample("pins_guarded", &[], manager.guarded_pins());
    let resting = "Ids of closed sessions that are not given out until the last token for them has expired.";
    page.family("ids_resting", "gauge", resting);
    page.sample("ids_resting", &[], manager.resting_ids());
    let (working, stuck) = manager.world().pool.threads();
    page.family("pool_threads", "gauge", "Threads of the common pool for plugin code; stuck ones do not come back from it for now.");
    page.sample("pool_threads", &[("state", "working")], working);
    page.sample("pool_threads", &[("state", "stuck")], stuck);
    page.family("pool_queue", "gauge", "Sessions and tasks that wait for a thread of the common pool.");
    page.sample("pool_queue", &[], manager.world().pool.queued());
    page.0
}

fn of_types(page: &mut Page, manager: &Manager) {
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Type) -> u64| {
        page.family(name, kind, help);
        for kind in manager.catalog().iter() {
            page.sample(name, &[("type", &kind.name)], value(kind));
        }
    };
    let counted = |number: fn(&Type) -> &Number| move |kind: &Type| number(kind).get();
    family("faults_total", "counter", "Conductors that panicked.", &counted(|kind| &kind.lane.tally.faults));
    let errors = "Events and tasks that ended with a conductor's error, and answers of conductors that could not be passed on.";
    family("errors_total", "counter", errors, &counted(|kind| &kind.lane.tally.errors));
    family(
        "deadlines_missed_total",
        "counter",
        "Events that were not answered within their deadline.",
        &counted(|kind| &kind.lane.tally.deadlines),
    );
    family("error_lines_total", "counter", "Lines of level error that conductors logged.", &counted(|kind| &kind.lane.tally.error_lines));
    family("tasks", "gauge", "Tasks that conductors spawned and that have not ended.", &counted(|kind| &kind.lane.tally.tasks));
    let blocked = "Threads that plugin code of the type keeps for more than 10 ms now.";
    family("threads_blocked", "gauge", blocked, &|kind| kind.lane.blocked() as u64);
    family("lane_threads", "gauge", "Threads for slow sessions of the type.", &|kind| kind.lane.threads() as u64);
    family("quarantined", "gauge", "1 while the type is quarantined.", &|kind| u64::from(kind.lane.quarantine().is_some()));
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP conductor_host_{name} {help}\n# TYPE conductor_host_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "conductor_host_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            // A stored session may name a type as it likes.
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::place::{NOW, Place, stored};

    #[test]
    fn sessions_are_counted_by_type_and_state_and_names_are_escaped() {
        let mut odd = stored("222222", NOW, &[]);
        odd.type_name = "a\"b\\\n".into();
        let place = Place::with([stored("111111", NOW, &[]), odd]);
        let text = render(&place.manager);
        for line in [
            "conductor_host_sessions{type=\"gone\",state=\"unavailable\"} 1",
            "conductor_host_sessions{type=\"gone\",state=\"live\"} 0",
            "conductor_host_parked_sessions{type=\"gone\",lacks=\"plugin\"} 1",
            "conductor_host_parked_sessions{type=\"gone\",lacks=\"conductor\"} 0",
            "conductor_host_sessions{type=\"a\\\"b\\\\\\n\",state=\"unavailable\"} 1",
            "# TYPE conductor_host_joins_total counter",
            "conductor_host_joins_total 0",
            "conductor_host_pool_threads{state=\"stuck\"} 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("conductor_host_")), "{text}");
        place.close("111111");
        assert!(!render(&place.manager).contains("\"gone\""));
    }
}
