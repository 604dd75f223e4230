//! Who is connected, counted: so many in all, so many that have not shown yet who they are, and so many of both from one source. And how
//! fast a source connects anew. Networks that are exempt skip what is counted by source.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    networks::{Networks, Source},
    pace::Pace,
};

/// The most connections at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub(crate) in_all: usize,
    pub(crate) opening: usize,
    pub(crate) per_source: usize,
    /// Of those that are opening: without it, a few sources that say nothing would have all these places.
    pub(crate) opening_per_source: usize,
}

/// How many that are too fast may be there at a time, waiting to be told so. They have places of their own, since they may take as long as others.
const TOO_FAST: usize = 64;

#[derive(Debug, Default)]
struct Counts {
    in_all: usize,
    opening: usize,
    too_fast: usize,
    by_source: HashMap<Source, OfSource>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfSource {
    in_all: usize,
    opening: usize,
}

/// All connections of a port, or of several that share their limits. Its size is bounded by its limits.
#[derive(Debug)]
pub(crate) struct Census {
    most: Most,
    exempt: Networks,
    pace: Option<Pace>,
    counts: Mutex<Counts>,
}

impl Census {
    /// Nobody is there yet. `pace` bounds how fast one source may connect.
    pub(crate) fn new(most: Most, exempt: Networks, pace: Option<Pace>) -> Arc<Self> {
        Arc::new(Self { most, exempt, pace, counts: Mutex::default() })
    }

    /// A place for a new connection, or the limit that is reached.
    pub(crate) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Result<Place, &'static str> {
        let source = Source::of(peer.ip());
        let counted = !self.exempt.contains(peer.ip());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.in_all >= self.most.in_all {
            return Err("too many connections");
        }
        if counts.opening >= self.most.opening {
            return Err("too many connections that have not sent CONNECT");
        }
        let mut of_source = counts.by_source.get(&source).copied().unwrap_or_default();
        if counted && of_source.in_all >= self.most.per_source {
            return Err("too many connections from this source");
        }
        if counted && of_source.opening >= self.most.opening_per_source {
            return Err("too many connections from this source that have not sent CONNECT");
        }
        let too_fast = counted && self.pace.as_ref().is_some_and(|pace| !pace.take(source));
        if too_fast && counts.too_fast >= TOO_FAST {
            return Err("connects too often");
        }
        counts.in_all += 1;
        of_source.in_all += 1;
        if too_fast {
            counts.too_fast += 1;
        } else {
            counts.opening += 1;
            of_source.opening += 1;
        }
        if counted {
            counts.by_source.insert(source, of_source);
        }
        Ok(Place { census: Arc::clone(self), source: counted.then_some(source), opening: !too_fast, too_fast })
    }
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    census: Arc<Census>,
    /// Nothing where it is exempt.
    source: Option<Source>,
    opening: bool,
    too_fast: bool,
}

impl Place {
    /// What limits by source count it as; nothing where its network is exempt.
    pub(crate) fn source(&self) -> Option<Source> {
        self.source
    }

    /// Whether its source connects faster than it may: it is to be told so, as soon as there is a way to.
    pub(crate) fn is_too_fast(&self) -> bool {
        self.too_fast
    }

    /// The connection has shown who it is: it no longer counts as opening.
    pub(crate) fn opened(&mut self) {
        if std::mem::take(&mut self.opening) {
            let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.opening -= 1;
            if let Some(of_source) = self.source.and_then(|source| counts.by_source.get_mut(&source)) {
                of_source.opening -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opened();
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.in_all -= 1;
        counts.too_fast -= usize::from(self.too_fast);
        let Some(source) = self.source else { return };
        if let Some(of_source) = counts.by_source.get_mut(&source) {
            of_source.in_all -= 1;
            if of_source.in_all == 0 {
                counts.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::network;

    const MOST: Most = Most { in_all: 4, opening: 3, per_source: 2, opening_per_source: 2 };

    fn census() -> Arc<Census> {
        Census::new(MOST, Networks::default(), None)
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn each_limit_holds_and_a_place_is_given_back() {
        let census = census();
        let first = census.enter(peer("10.0.0.1")).unwrap();
        let _second = census.enter(peer("::ffff:10.0.0.1")).unwrap();
        assert_eq!(census.enter(peer("10.0.0.1")).unwrap_err(), "too many connections from this source");
        let mut third = census.enter(peer("10.0.0.2")).unwrap();
        assert_eq!(census.enter(peer("10.0.0.3")).unwrap_err(), "too many connections that have not sent CONNECT");
        third.opened();
        let _fourth = census.enter(peer("10.0.0.3")).unwrap();
        assert_eq!(census.enter(peer("10.0.0.4")).unwrap_err(), "too many connections");
        drop(first);
        census.enter(peer("10.0.0.1")).unwrap();
    }

    #[test]
    fn one_source_has_some_of_the_places_for_those_that_open() {
        let census = Census::new(Most { opening_per_source: 1, ..MOST }, Networks::default(), None);
        let mut first = census.enter(peer("10.0.0.1")).unwrap();
        let told = census.enter(peer("10.0.0.1")).unwrap_err();
        assert_eq!(told, "too many connections from this source that have not sent CONNECT");
        let _other = census.enter(peer("10.0.0.2")).unwrap();
        first.opened();
        drop(census.enter(peer("10.0.0.1")).unwrap());
        census.enter(peer("10.0.0.1")).unwrap();
    }

    #[test]
    fn those_that_are_too_fast_have_a_few_places_of_their_own() {
        let many = Most { in_all: 1000, opening: 2, per_source: 1000, opening_per_source: 2 };
        let census = Census::new(many, Networks::default(), Some(Pace::new(1, 1)));
        let _first = census.enter(peer("10.0.0.1")).unwrap();
        let mut fast: Vec<_> = (0..TOO_FAST).map(|_| census.enter(peer("10.0.0.1")).unwrap()).collect();
        assert!(fast.iter().all(Place::is_too_fast));
        assert_eq!(census.enter(peer("10.0.0.1")).unwrap_err(), "connects too often");
        assert!(!census.enter(peer("10.0.0.2")).unwrap().is_too_fast());
        fast.pop();
        assert!(census.enter(peer("10.0.0.1")).unwrap().is_too_fast(), "a place that was left is free");
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let census = census();
        let _places = [census.enter(peer("2001:db8::1")).unwrap(), census.enter(peer("2001:db8::2")).unwrap()];
        assert!(census.enter(peer("2001:db8::3")).is_err());
        assert!(census.enter(peer("2001:db8:0:1::3")).is_ok());
    }

    #[test]
    fn no_source_is_remembered_once_it_is_gone() {
        let census = census();
        drop(census.enter(peer("10.0.0.1")).unwrap());
        let counts = census.counts.lock().unwrap();
        assert!(counts.by_source.is_empty() && counts.in_all == 0 && counts.opening == 0);
    }

    #[test]
    fn an_exempt_network_is_counted_in_all_and_not_by_source() {
        let exempt = [network("10.0.0.0/8").unwrap()].into_iter().collect();
        let census = Census::new(Most { opening: 4, opening_per_source: 1, ..MOST }, exempt, Some(Pace::new(1, 1)));
        let places: Vec<_> = (0..4).map(|_| census.enter(peer("10.0.0.1")).unwrap()).collect();
        assert!(places.iter().all(|place| place.source().is_none() && !place.is_too_fast()));
        assert_eq!(census.enter(peer("10.0.0.1")).unwrap_err(), "too many connections");
        drop(places);
        assert!(!census.enter(peer("192.0.2.1")).unwrap().is_too_fast());
        assert!(census.enter(peer("192.0.2.1")).unwrap().is_too_fast(), "another one has its own pace");
    }
}
