//! What the host sent lately, where the broker sends it back: MQTT 3.1.1 has no way to ask it not to.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

/// An echo that has not come by then never will.
const KEPT: Duration = Duration::from_secs(60);
const MOST: usize = 4096;

/// Each message sent is expected back once; bounded, the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    expected: HashMap<u64, u32>,
    /// In the order they were sent; those that came back stay until their time is over.
    sent: VecDeque<(Instant, u64)>,
    /// How many in `sent` have come back, by hash: they are not to be taken from `expected` again.
    returned: HashMap<u64, u32>,
}

impl Echoes {
    /// The host sends this.
    pub(super) fn sent(&mut self, topic: &str, qos: u8, payload: &[u8], now: Instant) {
        self.forget(now);
        let hash = hash(topic, qos, payload);
        self.sent.push_back((now, hash));
        *self.expected.entry(hash).or_default() += 1;
        if self.sent.len() > MOST {
            self.forget_oldest();
        }
    }

    /// Whether what arrived is something the host sent; that counts once.
    pub(super) fn is_echo(&mut self, topic: &str, qos: u8, payload: &[u8], now: Instant) -> bool {
        self.forget(now);
        if self.sent.is_empty() {
            return false;
        }
        let hash = hash(topic, qos, payload);
        let is_echo = take(&mut self.expected, hash);
        if is_echo {
            *self.returned.entry(hash).or_default() += 1;
        }
        is_echo
    }

    fn forget(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|(sent, _)| now.duration_since(*sent) >= KEPT) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, hash)) = self.sent.pop_front() else { return };
        if !take(&mut self.returned, hash) {
            take(&mut self.expected, hash);
        }
    }
}

/// Takes one away, where there is one.
fn take(counts: &mut HashMap<u64, u32>, hash: u64) -> bool {
    let Some(count) = counts.get_mut(&hash) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(&hash);
    }
    true
}

fn hash(topic: &str, qos: u8, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, qos, payload).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_swallows_one_echo() {
        let (mut echoes, now) = (Echoes::default(), Instant::now());
        assert!(!echoes.is_echo("/1/x", 1, b"p", now));
        echoes.sent("/1/x", 1, b"p", now);
        echoes.sent("/1/x", 1, b"p", now);
        for other in [("/1/y", 1, b"p"), ("/1/x", 0, b"p"), ("/1/x", 1, b"q")] {
            assert!(!echoes.is_echo(other.0, other.1, other.2, now), "{other:?}");
        }
        assert!(echoes.is_echo("/1/x", 1, b"p", now));
        assert!(echoes.is_echo("/1/x", 1, b"p", now));
        assert!(!echoes.is_echo("/1/x", 1, b"p", now), "a client's own");
    }

    #[test]
    fn what_does_not_come_back_is_forgotten_in_time() {
        let (mut echoes, now) = (Echoes::default(), Instant::now());
        echoes.sent("/1/x", 1, b"p", now);
        assert!(!echoes.is_echo("/1/x", 1, b"p", now + KEPT));
        // One that came back and one that did not: the first is not counted off twice.
        echoes.sent("/1/x", 1, b"p", now);
        assert!(echoes.is_echo("/1/x", 1, b"p", now));
        echoes.sent("/1/x", 1, b"p", now + KEPT / 2);
        assert!(echoes.is_echo("/1/x", 1, b"p", now + KEPT));
        assert!(!echoes.is_echo("/1/x", 1, b"p", now + KEPT));
    }

    #[test]
    fn the_record_is_bounded() {
        let (mut echoes, now) = (Echoes::default(), Instant::now());
        for number in 0..=MOST {
            echoes.sent("/1/x", 0, number.to_string().as_bytes(), now);
        }
        assert_eq!((echoes.sent.len(), echoes.expected.len()), (MOST, MOST));
        assert!(!echoes.is_echo("/1/x", 0, b"0", now) && echoes.is_echo("/1/x", 0, b"1", now));
    }
}
