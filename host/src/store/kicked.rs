//! Who was sent away from a session: what makes resume tokens void.

use std::collections::BTreeMap;

/// The most clients of which a session's record says that they were sent away.
const MAX_KICKED: usize = 1000;

/// Who was sent away from a session. A resume token says how often that had happened when it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kicked {
    /// How often somebody was sent away.
    pub count: u64,
    /// Tokens with a smaller count are void, whosever they are: beyond 1,000 names the one that was noted first is forgotten, at the cost of these.
    pub floor: u64,
    /// The client's tokens with a smaller count are void.
    pub clients: BTreeMap<Box<str>, u64>,
}

impl Kicked {
    /// Notes one more.
    pub(super) fn note(&mut self, client_id: &str) {
        self.count += 1;
        self.clients.insert(client_id.into(), self.count);
        if self.clients.len() > MAX_KICKED
            && let Some((first, count)) = self.clients.iter().min_by_key(|(_, count)| **count).map(|(name, count)| (name.clone(), *count))
        {
            self.clients.remove(&first);
            self.floor = self.floor.max(count);
        }
    }

    /// Whether a resume token of this client with this count is good.
    pub(super) fn lets(&self, client_id: &str, count: u64) -> bool {
        count >= self.floor.max(self.clients.get(client_id).copied().unwrap_or(0))
    }
}
