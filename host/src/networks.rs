//! Addresses of peers: which networks they are in, and which count as one source.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// A list of networks. An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is in the networks of the IPv4 address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether the address is in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// These and the others.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        self.0.iter().chain(&others.0).copied().collect()
    }

    /// Whether there is none, so that no address is in one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, network) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// A network out of a text: an address with the length of its prefix (`10.0.0.0/8`), or an address alone, which is a network of one. Nothing where the text is
/// neither, or where bits are set behind the prefix: `10.0.0.1/8` is more likely to be a mistake than to mean `10.0.0.0/8`. An IPv4 address that is written as an IPv6
/// one is the IPv4 address; a network of such addresses is none, since it would hold nobody.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| IpAddr::from_str(text).ok().map(|address| address.to_canonical().into()))?;
    let mapped = matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some());
    (network.trunc() == network && !mapped).then_some(network)
}

/// What limits count as one source: an IPv4 address, or the /64 of an IPv6 address, since whoever has one address of such a network has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that a peer belongs to.
    #[must_use]
    pub fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Networks, Source, network};

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_a_network_in_whichever_way_it_is_written() {
        let networks: Networks = ["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"].into_iter().map(|text| network(text).unwrap()).collect();
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8:1::1"] {
            assert!(networks.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.2.0.1", "192.0.2.8", "::ffff:192.0.2.8", "2001:db9::1", "::10.1.2.3"] {
            assert!(!networks.contains(outside.parse().unwrap()), "{outside}");
        }
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
        assert_eq!(networks.to_string(), "10.1.0.0/16, 192.0.2.7/32, 2001:db8::/32");
    }

    #[test]
    fn what_is_no_network_is_none() {
        for wrong in ["", "10.0.0.1/8", "::ffff:10.0.0.0/104", "10.0.0.0/33", "10.0.0", "host", "2001:db8::1/64", "10.0.0.0/8 "] {
            assert_eq!(network(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_the_first_half_of_an_ipv6_address() {
        assert_eq!(source("192.0.2.7"), source("::ffff:192.0.2.7"));
        assert_ne!(source("192.0.2.7"), source("192.0.2.8"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
    }
}
