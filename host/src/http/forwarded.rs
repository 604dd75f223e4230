//! Who is behind a proxy: `X-Forwarded-For`, of proxies that are trusted.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};

use crate::networks::Networks;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request comes from. Where the peer is a trusted proxy, it is the last address of the header (of several headers: of all in a row) that is
/// not one itself. What stands before that anybody can have written, so it is not looked at; and where something is no address, the walk ends at the one behind it. The port is 0 where the
/// header does not name it.
#[must_use]
pub fn client(peer: SocketAddr, headers: &HeaderMap, trusted: &Networks) -> SocketAddr {
    let mut client = peer;
    let headers = headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>();
    // Bytes that are no text are an entry that is no address.
    let entries = headers.iter().rev().flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    for entry in entries {
        if !trusted.contains(client.ip()) {
            break;
        }
        let Some(next) = address(entry.trim()) else { break };
        client = next;
    }
    client
}

/// An address alone, with a port, or in brackets.
fn address(text: &str) -> Option<SocketAddr> {
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| alone.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::networks::network;

    fn of(peer: &str, headers: &[&[u8]]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].into_iter().map(|text| network(text).unwrap()).collect();
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
        }
        client(SocketAddr::new(peer.parse().unwrap(), 5), &map, &trusted).ip().to_string()
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_s_counts() {
        for (peer, headers, expected) in [
            ("192.0.2.1", &[&b"198.51.100.1"[..]][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b"198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &[b"198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[b"1.1.1.1, 198.51.100.1,10.0.0.2 , fd00::1"], "198.51.100.1"),
            ("10.0.0.1", &[b"1.1.1.1", b"198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &[b"198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &[b"[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &[b"[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &[b"10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ] {
            assert_eq!(of(peer, headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk_at_the_last_good_one() {
        for bad in [&b""[..], b"unknown", b"_hidden", b"1.1.1", b"1.1.1.1:99999", b"\xff", b"[1.1.1.1", b"::1%lo"] {
            assert_eq!(of("10.0.0.1", &[bad]), "10.0.0.1");
            assert_eq!(of("10.0.0.1", &[b"1.1.1.1", bad, b"10.0.0.2"]), "10.0.0.2");
            assert_eq!(of("10.0.0.1", &[b"1.1.1.1", bad, b"198.51.100.1"]), "198.51.100.1");
        }
    }
}
