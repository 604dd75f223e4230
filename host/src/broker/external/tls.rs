//! TLS towards the broker: read from its files at each connect.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{
    settings::{self, LinkSettings},
    trouble::Trouble,
};

/// The configuration that the settings' files give now.
///
/// # Errors
/// [`Trouble::File`], with the file's name.
pub(super) fn config(settings: &LinkSettings) -> Result<ClientConfig, Trouble> {
    // Named here: a process may have any default, or none.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::Tls(error.to_string()))?
        .with_root_certificates(roots(settings.ca.as_deref())?);
    match &settings.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let chain = certificates("mqtt.client_cert", cert)?;
            let text = settings::client_key(key)?;
            let private = PrivateKeyDer::from_pem_slice(&text)
                .map_err(|_| Trouble::File(format!("mqtt.client_key {}: there is no private key in PEM form in it", key.display())))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                let (cert, key) = (cert.display(), key.display());
                Trouble::File(format!("mqtt.client_key {key} does not go with mqtt.client_cert {cert}: {error}"))
            })
        }
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates("mqtt.ca", file)? {
                let problem = |error| Trouble::File(format!("mqtt.ca {}: a certificate cannot be used: {error}", file.display()));
                roots.add(certificate).map_err(problem)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "some certificates of the system cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(Trouble::File("the system trusts no certificates; name the broker's authority in mqtt.ca".to_owned()));
            }
        }
    }
    Ok(roots)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let text = settings::public(key, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Trouble::File(format!("{key} {}: there is no certificate in PEM form in it", file.display()))),
    }
}
