//! What a migration says about itself.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::store::StoredSession;

/// How many sessions a line names; the rest is counted.
const NAMED: usize = 10;

/// Lines for people, by what became of their subject. No line holds a pin, a key or the value of a setting that is not known.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Is there as it was.
    pub(super) taken: Vec<String>,
    /// Is there, and not quite as it was.
    pub(super) changed: Vec<String>,
    /// Has nothing to become.
    pub(super) left: Vec<String>,
    /// What somebody has to see to.
    pub(super) to_do: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = [("Taken", &self.taken), ("Changed", &self.changed), ("Left", &self.left), ("To do", &self.to_do)];
        for (name, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            writeln!(f, "\n{name}")?;
            for line in lines {
                writeln!(f, "  - {line}")?;
            }
        }
        Ok(())
    }
}

/// What stands above the files that were written, or would have been.
pub(crate) const fn end(dry_run: bool) -> &'static str {
    if dry_run { "Dry run: nothing was written. This would be" } else { "Written, readable by its owner alone" }
}

/// `1 session`, `2 sessions`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How many sessions there are of each type, by name.
pub(crate) fn by_type(sessions: &[Arc<StoredSession>]) -> BTreeMap<&str, usize> {
    let mut types = BTreeMap::new();
    for session in sessions {
        *types.entry(&*session.type_name).or_default() += 1;
    }
    types
}

/// `3 sessions with 5 clients (default 2, active 1)`.
pub(super) fn summary(sessions: &[Arc<StoredSession>]) -> String {
    let clients = sessions.iter().map(|session| session.clients.len()).sum();
    let types: Vec<_> = by_type(sessions).into_iter().map(|(name, number)| format!("{} {number}", shown(name))).collect();
    let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
    format!("{} with {}{types}", count(sessions.len(), "session"), count(clients, "client"))
}

/// `session 000001, 000002 and 7 more`.
pub(super) fn name_some(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text += &format!(" and {} more", names.len() - NAMED);
    }
    text
}

/// Outside text as it is where that is plain, and quoted with its odd characters escaped where it is not.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/:".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}
