//! What guards the ports: networks, names, and who may do what.

use std::{collections::BTreeMap, net::IpAddr};

use hyper::Uri;

use super::{CONDUCTOR_NAME, Fault, ISSUER, Kind, Parser, choose, text, texts};
use crate::{
    access::{Role, oidc::is_safe},
    networks::{Networks, network},
};

pub(in crate::config) const NETWORKS: Parser<Networks> = Parser {
    kind: Kind::Text,
    expected: "a network such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\", a list of them, or \"\" for none",
    parse: |value| {
        let parse = |text: String| match network(text.trim()) {
            None => Err(Fault::Element(format!("{text:?}"))),
            // Nothing that goes by networks means to leave nobody out.
            Some(network) if network.prefix_len() == 0 => {
                Err(Fault::Because(format!("{network} is every address; name the networks that are meant")))
            }
            Some(network) => Ok(network),
        };
        texts(value)?.into_iter().map(parse).collect()
    },
};

pub(in crate::config) const HOST_NAMES: Parser<Vec<String>> = Parser {
    kind: Kind::Text,
    expected: "a host name or address without port such as \"admin.example.org\", a list of them, or \"\" for none",
    parse: |value| {
        let is_name = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
            !text.is_empty() && plain || text.parse::<IpAddr>().is_ok()
        };
        let parse = |text: String| match text.trim() {
            name if is_name(name) => Ok(name.to_owned()),
            _ => Err(Fault::Element(format!("{text:?}"))),
        };
        texts(value)?.into_iter().map(parse).collect()
    },
};

pub(in crate::config) const OIDC_URL: Parser<Option<String>> = Parser {
    kind: Kind::Text,
    expected: "a URL that begins with https:// (http:// for this machine only)",
    parse: |value| provider_url(text(value)?).map(Some),
};

pub(in crate::config) const OIDC_ISSUER: Parser<Option<String>> = Parser {
    kind: Kind::Text,
    expected: "the issuer's URL, to the letter as its tokens have it: https:// (http:// for this machine only), without a query",
    parse: |value| match text(value)? {
        issuer if issuer.contains('?') => Err(Fault::Unexpected),
        issuer => provider_url(issuer).map(Some),
    },
};

pub(in crate::config) const CLAIM: Parser<Option<String>> = Parser { expected: ISSUER.expected, ..CONDUCTOR_NAME };

pub(in crate::config) const ROLES: Parser<BTreeMap<String, Role>> = Parser {
    kind: Kind::Table,
    expected: "a table of names, each with \"viewer\", \"operator\" or \"admin\" (in the environment and in flags: a JSON object)",
    parse: |value| {
        let roles = value.as_object().ok_or(Fault::Unexpected)?;
        let role = |value| choose(value, &[("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)]);
        let wrong = |name: &String| Fault::Element(format!("another role for {name:?}"));
        roles.iter().map(|(name, value)| Ok((name.clone(), role(value).map_err(|_| wrong(name))?))).collect()
    },
};

/// Kept as written: an issuer counts to the letter.
fn provider_url(text: &str) -> Result<String, Fault> {
    if text.contains('@') {
        return Err(Fault::Secret("a URL with an `@` in it; take user and password out"));
    }
    let safe = text.parse::<Uri>().is_ok_and(|url| is_safe(&url));
    if safe && !text.contains('#') && text.len() <= 1024 { Ok(text.to_owned()) } else { Err(Fault::Unexpected) }
}
