//! Encrypts connections to cameras and to the receivers of events.
//!
//! This module decides which certificates are accepted. Most cameras use a self-signed
//! certificate that names no host or the wrong host. Certificate authorities cannot vouch
//! for such a certificate, so the user can instead accept one particular certificate by
//! its fingerprint or by its file. This module knows nothing about HTTP.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::super::options::TlsTrust;
use crate::platform::{files, hex};

/// Maximum size of a file with certificates, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The reason that TLS cannot be used at all.
#[derive(Debug)]
pub(crate) enum TlsSetupError {
    /// The file with certificates cannot be used. The first value is the path of the
    /// file, and the second value describes the problem.
    File(String, String),
    /// The TLS library rejects the configuration.
    Library(Error),
}

/// A certificate that was not accepted. The error that the TLS library returns contains
/// this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// The SHA-256 of the certificate.
    pub(crate) fingerprint: String,
    /// The reason for the rejection, worded to follow "the certificate FINGERPRINT".
    pub(crate) why: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the certificate {} {}", self.fingerprint, self.why)
    }
}

impl std::error::Error for Rejected {}

/// The other side of a connection, as messages name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerName {
    /// The noun, such as "camera".
    pub(crate) noun: &'static str,
    /// The config key for the fingerprint of its certificate.
    pub(crate) fingerprint_key: &'static str,
}

/// Creates a connector that accepts only the certificates that `trust` describes.
pub(crate) fn connector(trust: &TlsTrust, peer: PeerName) -> Result<TlsConnector, TlsSetupError> {
    let provider = Arc::new(ring::default_provider());
    let accepted = match trust {
        TlsTrust::Fingerprint(fingerprint) => Accepted::Fingerprint(*fingerprint),
        TlsTrust::System => {
            // Some of the system's certificates may be unreadable, so only the readable
            // ones are used.
            let found = rustls_native_certs::load_native_certs();
            authorities(found.certs, Vec::new(), &provider)?
        }
        TlsTrust::File(path) => {
            let certificates = read(path)?;
            authorities(certificates.clone(), certificates, &provider)?
        }
    };
    let verifier = Verifier {
        accepted,
        peer,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let fail = |why: String| TlsSetupError::File(path.display().to_string(), why);
    let text =
        files::read_bounded(path, MAX_FILE).map_err(|error| fail(error.source.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| fail(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fail("it contains no certificates in PEM format".to_owned()));
    }
    Ok(certificates)
}

fn authorities(
    certificates: Vec<CertificateDer<'static>>,
    pinned: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Accepted, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    // This call skips certificates that cannot be used as authorities. Such a certificate
    // may still be the camera's own, in which case `pinned` contains it.
    roots.add_parsable_certificates(certificates);
    let verifier = if roots.is_empty() {
        None
    } else {
        let built = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
        let built = built.build();
        Some(built.map_err(|error| TlsSetupError::Library(Error::General(error.to_string())))?)
    };
    Ok(Accepted::Signed { verifier, pinned })
}

#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    peer: PeerName,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Accepted {
    Fingerprint([u8; 32]),
    Signed {
        /// `None` if there are no certificate authorities.
        verifier: Option<Arc<WebPkiServerVerifier>>,
        /// Certificates that are accepted without any further checks.
        pinned: Vec<CertificateDer<'static>>,
    },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint: [u8; 32] = Sha256::digest(end_entity).into();
        let why = match &self.accepted {
            Accepted::Fingerprint(expected) if *expected == fingerprint => {
                return Ok(ServerCertVerified::assertion());
            }
            Accepted::Fingerprint(_) => format!(
                "is not the one with the fingerprint in {}",
                self.peer.fingerprint_key
            ),
            Accepted::Signed { pinned, .. } if pinned.contains(end_entity) => {
                return Ok(ServerCertVerified::assertion());
            }
            Accepted::Signed { verifier: None, .. } => {
                "is signed by no known certificate authority".to_owned()
            }
            Accepted::Signed {
                verifier: Some(verifier),
                ..
            } => {
                let verified = verifier.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                );
                match verified {
                    Ok(verified) => return Ok(verified),
                    Err(error) => reason(&error, self.peer.noun),
                }
            }
        };
        let rejected = Rejected {
            fingerprint: hex::encode(&fingerprint),
            why,
        };
        Err(CertificateError::Other(OtherError(Arc::new(rejected))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Returns the reason that the certificate authorities do not vouch for a certificate,
/// worded to follow "the certificate FINGERPRINT".
fn reason(error: &Error, noun: &str) -> String {
    let Error::InvalidCertificate(error) = error else {
        return format!("cannot be checked: {error}");
    };
    match error {
        // webpki returns this error for a self-signed certificate that claims to be an
        // authority. Self-signed certificates that openssl creates make this claim.
        CertificateError::Other(OtherError(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            format!("is one that the {noun} signed itself")
        }
        CertificateError::UnknownIssuer => {
            format!("is signed by no known certificate authority, or by the {noun} itself")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another host name".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired, or the clock of this device is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet, so the clock of this device is probably wrong".to_owned()
        }
        other => format!("cannot be trusted: {other}"),
    }
}
