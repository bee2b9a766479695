//! TLS with the user's own certificates.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::WebError;
use crate::config;

/// Returns the TLS acceptor for the configured certificates, or `None` if the config names
/// no certificate. The systemd credential `web-tls-key` takes precedence over the
/// configured key.
///
/// # Errors
/// Returns [`WebError::Tls`] if the certificate chain or its key cannot be used, and
/// [`WebError::NoKey`] if the key is missing.
pub(super) fn acceptor(
    web: &config::Web,
    credentials: Option<&Path>,
) -> Result<Option<TlsAcceptor>, WebError> {
    let Some(chain) = &web.tls_certificate else {
        return Ok(None);
    };
    let credential = credentials.map(|folder| folder.join("web-tls-key"));
    let credential = credential.filter(|path| path.exists());
    let key = credential.as_ref().or(web.tls_key.as_ref());
    let key = key.ok_or(WebError::NoKey)?;
    let fail = |name: &'static str, path: &Path| {
        let path = path.to_owned();
        move |problem: String| WebError::Tls {
            key: name,
            path,
            problem,
        }
    };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
    let certificates = certificates
        .map_err(|error| error.to_string())
        .map_err(fail("tls-certificate", chain))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| error.to_string())
        .map_err(fail("tls-key", key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let builder = builder.with_no_client_auth();
            builder.with_single_cert(certificates, private)
        });
    let mut config = config
        .map_err(|error| format!("cannot be used with its key: {error}"))
        .map_err(fail("tls-certificate", chain))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config).into()))
}
