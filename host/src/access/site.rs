//! What a browser says about where a request comes from and whom it was meant for.
//!
//! A page in an administrator's browser reaches what that browser reaches, loopback included. It can send requests to another origin but says so (`Origin`,
//! `Sec-Fetch-Site`), and it can have its own name point here but says that name (`Host`). Programs say nothing of this, and pass.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, Uri, header, uri::Authority};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How the admin port is called.
#[derive(Debug)]
pub(super) struct Site {
    /// Whether it listens on all addresses of the machine, which are not known by name then. An address instead of a name is no rebinding.
    any_address: bool,
    addresses: Vec<IpAddr>,
    /// In lower case.
    names: Vec<String>,
}

impl Site {
    /// The names of a port with these addresses: these, `localhost`, and those that the settings add.
    pub(super) fn new(listen: &[SocketAddr], names: &[String]) -> Self {
        let mut site = Self {
            any_address: listen.iter().any(|address| address.ip().is_unspecified()),
            addresses: listen.iter().map(|address| address.ip().to_canonical()).collect(),
            names: vec!["localhost".to_owned()],
        };
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(address) => site.addresses.push(address.to_canonical()),
                Err(_) => site.names.push(name.to_ascii_lowercase()),
            }
        }
        site
    }

    /// Whether the request names this port, or nothing at all. Ports are not looked at: what forwards to this one may have another.
    pub(super) fn is_own(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let in_target = uri.authority().is_none_or(|authority| self.knows(authority));
        let known = |host: &[u8]| Authority::try_from(host).is_ok_and(|authority| self.knows(&authority));
        in_target && headers.get_all(header::HOST).iter().all(|host| known(host.as_bytes()))
    }

    fn knows(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.any_address || self.addresses.contains(&address.to_canonical()),
            Err(_) => self.names.iter().any(|name| name.eq_ignore_ascii_case(host)),
        }
    }
}

/// Whether a browser says that it sent this for a page of another origin, or for none that has a name (`Origin: null`).
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
    };
    // `none` is the person at the browser: an address that was typed, or a bookmark.
    let near = |site: &[u8]| matches!(site, b"same-origin" | b"none");
    !headers.get_all(header::ORIGIN).iter().all(|origin| own(origin.as_bytes()))
        || !headers.get_all(SEC_FETCH_SITE).iter().all(|site| near(site.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn owns(site: &Site, host: &str) -> bool {
        site.is_own(&Uri::from_static("/"), &headers(&[("host", host)]))
    }

    #[test]
    fn the_ports_own_addresses_and_names_are_its_own_and_others_are_not() {
        let site = Site::new(
            &["127.0.0.1:5".parse().unwrap(), "[2001:db8::1]:5".parse().unwrap()],
            &["Admin.example.org".into(), "192.0.2.9".into()],
        );
        for own in [
            "127.0.0.1",
            "127.0.0.1:5",
            "127.0.0.1:9999",
            "localhost",
            "LOCALHOST:5",
            "[2001:db8::1]:5",
            "[2001:DB8:0::1]",
            "[::ffff:127.0.0.1]:5",
            "admin.EXAMPLE.org",
            "admin.example.org:443",
            "192.0.2.9:5",
        ] {
            assert!(owns(&site, own), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:5",
            "127.0.0.2:5",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xlocalhost",
            "[::1]:5",
            "192.0.2.8",
            "admin.example.org.evil.example",
            "",
            "127.0.0.1, evil.example",
            "2001:db8::1",
            "localhost@evil.example",
            "evil.example#localhost",
        ] {
            assert!(!owns(&site, foreign), "{foreign}");
        }
        assert!(site.is_own(&Uri::from_static("/"), &HeaderMap::new()), "no browser leaves Host out");
    }

    #[test]
    fn a_port_on_all_addresses_goes_by_any_address_and_by_no_other_name() {
        let site = Site::new(&["0.0.0.0:5".parse().unwrap()], &[]);
        assert!(owns(&site, "198.51.100.7:5") && owns(&site, "[2001:db8::1]:5") && owns(&site, "localhost"));
        assert!(!owns(&site, "evil.example:5"));
    }

    #[test]
    fn each_host_that_a_request_names_must_be_own() {
        let site = Site::new(&["127.0.0.1:5".parse().unwrap()], &[]);
        let twice = headers(&[("host", "127.0.0.1")]);
        let mut two = twice.clone();
        two.append("host", "evil.example".parse().unwrap());
        assert!(!site.is_own(&Uri::from_static("/"), &two));
        assert!(!site.is_own(&Uri::from_static("http://evil.example/"), &twice));
        assert!(site.is_own(&Uri::from_static("http://localhost:5/"), &twice));
    }

    #[test]
    fn what_a_browser_says_of_another_origin_is_believed() {
        let foreign = |more: &[(&str, &str)]| {
            let mut all = headers(&[("host", "127.0.0.1:50001")]);
            for (name, value) in more {
                all.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            is_foreign(&all)
        };
        for own in [
            &[][..],
            &[("origin", "http://127.0.0.1:50001")],
            &[("origin", "https://127.0.0.1:50001")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!foreign(own), "{own:?}");
        }
        for other in [
            &[("origin", "http://127.0.0.1:50002")][..],
            &[("origin", "http://127.0.0.1")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "file://127.0.0.1:50001")],
            &[("origin", "127.0.0.1:50001")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "unheard-of")],
            &[("origin", "http://127.0.0.1:50001"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://127.0.0.1:50001"), ("origin", "http://evil.example")],
        ] {
            assert!(foreign(other), "{other:?}");
        }
        assert!(is_foreign(&headers(&[("origin", "http://evil.example")])), "without a Host nothing is its origin");
    }
}
