//! Encrypted and unencrypted connections to cameras and to the receivers of events.
//!
//! Owns name resolution, the TCP connection, and the TLS handshake. Describes failures of
//! these steps in words. Knows nothing about HTTP.

use std::io;
use std::time::Duration;

use reqwest::Url;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, OtherError};

use super::tls::Rejected;
use crate::platform::hex;

/// An encrypted or unencrypted connection.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// The reason that a connection could not be established.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Failed(String),
    /// The other side supports only outdated encryption.
    Outdated,
    Rejected(Rejected),
}

/// Connects to the host and port of `url` by trying the addresses of the host one after
/// another. `limit` applies to all attempts together.
pub(crate) async fn tcp(url: &Url, limit: Duration) -> Result<TcpStream, ConnectError> {
    let failed = |error: &io::Error| ConnectError::Failed(error.to_string());
    let host = host(url);
    let port = url.port_or_known_default().unwrap_or(80);
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<_> = addresses.map_err(|error| failed(&error))?.collect();
    let share = limit / addresses.len().max(1) as u32;
    let mut last = ConnectError::Failed("its host name has no address".to_owned());
    for address in addresses {
        last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Without this option, a request may wait until the other side has
                // acknowledged the previous request.
                stream.set_nodelay(true).map_err(|error| failed(&error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed(&error),
            Err(_) => ConnectError::Failed(format!("{address} does not answer")),
        };
    }
    Err(last)
}

/// Encrypts a connection.
pub(crate) async fn tls(
    url: &Url,
    stream: TcpStream,
    connector: &TlsConnector,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = ServerName::try_from(host(url).to_owned());
    let name = name.map_err(|_| {
        ConnectError::Failed("its host name cannot have a certificate; use its IP address".into())
    })?;
    connector
        .connect(name, stream)
        .await
        .map_err(|error| explain(&error))
}

/// Returns the SHA-256 of the camera's certificate.
pub(super) fn fingerprint(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    Some(hex::encode(&Sha256::digest(certificate)))
}

/// Returns the host, without the brackets around an IPv6 address.
fn host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

fn explain(error: &io::Error) -> ConnectError {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    ConnectError::Failed(match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) => {
            match other.downcast_ref::<Rejected>() {
                Some(rejected) => return ConnectError::Rejected(rejected.clone()),
                None => other.to_string(),
            }
        }
        Some(Error::InvalidMessage(_)) => {
            "it does not use TLS on this port, so write http:// or the right port".to_owned()
        }
        Some(
            Error::PeerIncompatible(_)
            | Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity,
            ),
        ) => return ConnectError::Outdated,
        Some(other) => format!("TLS failed: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it ended the connection during the TLS handshake, so it may not use TLS on this port"
                .to_owned()
        }
        None => error.to_string(),
    })
}
