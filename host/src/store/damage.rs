//! Damaged files, for the tests of each store that keeps: the same damage in every run, spread over all of a file.

use std::{collections::BTreeMap, sync::Arc};

use super::{SavedState, StoredSession, json::format};
use crate::sessions::SessionId;

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct All {
    pub(super) sessions: BTreeMap<String, String>,
    pub(super) resting: Vec<(SessionId, u64)>,
    pub(super) states: BTreeMap<String, SavedState>,
}

impl All {
    pub(super) fn new<'a>(
        sessions: impl IntoIterator<Item = &'a Arc<StoredSession>>,
        resting: impl IntoIterator<Item = (SessionId, u64)>,
        states: BTreeMap<String, SavedState>,
    ) -> Self {
        let sessions = sessions.into_iter().map(|session| (session.id.to_string(), format::record(session).unwrap())).collect();
        Self { sessions, resting: resting.into_iter().collect(), states }
    }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    Flip { byte: usize, bit: usize },
    Cut { length: usize },
}

impl Damage {
    pub(super) fn to(self, content: &mut Vec<u8>) {
        match self {
            Self::Flip { byte, bit } => content[byte] ^= 1 << bit,
            Self::Cut { length } => content.truncate(length),
        }
    }
}

/// So many numbers below `over`.
pub(super) fn places(count: usize, over: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| n.wrapping_mul(0x9e37_79b9).wrapping_add(n / 7) % over)
}

/// So many of a file of this length. One in five is a cut.
pub(super) fn damages(count: usize, length: usize) -> impl Iterator<Item = Damage> {
    places(count, length * 8).enumerate().map(|(n, place)| match n % 5 {
        4 => Damage::Cut { length: place / 8 },
        _ => Damage::Flip { byte: place / 8, bit: place % 8 },
    })
}
