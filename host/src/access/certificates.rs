//! Client certificates, from an authority that the settings name.
//!
//! The admin port asks for one in the TLS handshake and goes on without (`tls.rs`): health checks need none, and other methods stay possible. One that is shown and not from the
//! authority ends the handshake. Each request looks at the chain again, so that a certificate that expires, or whose authority was exchanged on SIGHUP, is refused on
//! connections that are there, too.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, ParsedExtension},
};

use super::{Authenticator, Identity, Role, Shown, Verdict};
use crate::tls::Tls;

/// No certificate of a person or a program has as many names; those behind are passed over.
const MAX_NAMES: usize = 100;

/// The method.
#[derive(Debug)]
pub struct Certificates {
    tls: Arc<Tls>,
    roles: BTreeMap<String, Role>,
}

impl Certificates {
    /// What a name in a certificate may do is in `roles`; `tls` knows the authority.
    #[must_use]
    pub fn new(tls: Arc<Tls>, roles: BTreeMap<String, Role>) -> Self {
        Self { tls, roles }
    }

    fn check(&self, certificates: &[CertificateDer<'static>]) -> Verdict {
        let [own, chain @ ..] = certificates else { return Verdict::Absent };
        if let Err(error) = self.tls.verify_client(own, chain) {
            return Verdict::Refused(format!("the client certificate is refused: {error}"));
        }
        let names = names(own);
        let best = names.iter().filter_map(|name| Some((*self.roles.get(name)?, name))).max_by_key(|(role, _)| *role);
        match best {
            Some((role, name)) => Verdict::Known(Identity { name: name.clone(), role, method: "certificate" }),
            None => Verdict::Refused("none of the client certificate's names is in admin.client_roles".to_owned()),
        }
    }
}

impl Authenticator for Certificates {
    fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(std::future::ready(self.check(shown.certificates)))
    }
}

/// Common names, and of the alternative names those of hosts and mailboxes.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let alternative = alternative.flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    common.chain(alternative).take(MAX_NAMES).map(str::to_owned).collect()
}

#[cfg(test)]
#[cfg(unix)]
#[path = "certificates_tests.rs"]
mod tests;
