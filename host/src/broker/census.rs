//! Who is connected, counted: so many in all, so many that have not sent their CONNECT yet, so many from one source.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

/// The most connections at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) in_all: usize,
    pub(super) opening: usize,
    pub(super) per_source: usize,
}

#[derive(Debug, Default)]
struct Counts {
    in_all: usize,
    opening: usize,
    by_source: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
pub(super) struct Census {
    most: Most,
    counts: Mutex<Counts>,
}

impl Census {
    pub(super) fn new(most: Most) -> Arc<Self> {
        Arc::new(Self { most, counts: Mutex::default() })
    }

    /// A place for a new connection, or the limit that is reached.
    pub(super) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Result<Place, &'static str> {
        let source = source(peer.ip());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.in_all >= self.most.in_all {
            return Err("too many connections");
        }
        if counts.opening >= self.most.opening {
            return Err("too many connections that have not sent CONNECT");
        }
        if counts.by_source.get(&source).is_some_and(|n| *n >= self.most.per_source) {
            return Err("too many connections from this source");
        }
        counts.in_all += 1;
        counts.opening += 1;
        *counts.by_source.entry(source).or_default() += 1;
        Ok(Place { census: Arc::clone(self), source, opening: true })
    }
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    census: Arc<Census>,
    source: IpAddr,
    opening: bool,
}

impl Place {
    /// The connection has shown who it is: it no longer counts as opening.
    pub(super) fn opened(&mut self) {
        if std::mem::take(&mut self.opening) {
            self.census.counts.lock().unwrap_or_else(PoisonError::into_inner).opening -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opened();
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.in_all -= 1;
        if let Some(n) = counts.by_source.get_mut(&self.source) {
            *n -= 1;
            if *n == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// One source: an IPv4 address, or the /64 of an IPv6 address, which is what one customer gets.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census() -> Arc<Census> {
        Census::new(Most { in_all: 4, opening: 3, per_source: 2 })
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
}
