//! Sends requests to a camera. Handles redirects, logins, and connections that serve
//! several requests.
//!
//! Owns the steps from an address to the response that contains the pictures. The user
//! name and the password are sent only to the host in the configured address. If that
//! address uses HTTPS, the user name and the password are never sent over an unencrypted
//! connection, even after a redirect. Knows nothing about pictures.

use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::super::address::{CameraUrl, shown};
use super::super::error::SourceError;
use super::super::options::TlsTrust;
use super::answer::{AnswerReader, Head};
use super::connection::{self, ConnectError, Connection};
use super::login::{self, Method};
use super::tls::{self, PeerName, TlsSetupError};
use crate::platform::hex;
use crate::platform::text::printable;

/// Maximum number of redirects. Browsers have a similar limit.
const MAX_REDIRECTS: u32 = 10;

/// Maximum number of login challenges to which maskd responds for one request. It
/// responds to a second challenge only if the camera reports that the nonce of the first
/// one was stale.
const MAX_LOGINS: u32 = 2;

/// Size of the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// Maximum number of characters that a message quotes from a string sent by the camera.
const MAX_TEXT: usize = 80;

/// The words for a camera in messages about certificates.
const CAMERA: PeerName = PeerName {
    noun: "camera",
    fingerprint_key: "camera.tls-fingerprint",
};

/// A client for one camera.
pub(super) struct Client {
    camera: CameraUrl,
    trust: TlsTrust,
    /// Maximum time for setting up a connection.
    limit: Duration,
    /// The TLS connector, or `None` until it is needed.
    tls: Option<TlsConnector>,
    /// The address to request. This is the configured address, or the address to which
    /// the camera last redirected.
    target: Url,
    /// The login method of the camera, or `None` while it is unknown.
    method: Option<Method>,
    /// A connection to the target that can serve another request.
    idle: Option<Box<dyn Connection>>,
}

/// A response whose head has been read.
pub(super) struct Answer {
    connection: Box<dyn Connection>,
    reader: AnswerReader,
    buffer: Vec<u8>,
    /// Bytes of the body that have not been taken yet.
    body: Vec<u8>,
    closed: bool,
}

/// The number of redirects and logins that a request has caused.
#[derive(Default)]
struct History {
    redirects: u32,
    logins: u32,
}

impl Client {
    pub(super) fn new(camera: CameraUrl, trust: TlsTrust, limit: Duration) -> Client {
        Client {
            target: camera.url().clone(),
            camera,
            trust,
            limit,
            tls: None,
            method: None,
            idle: None,
        }
    }

    /// Returns the address as it appears in messages.
    pub(super) fn shown(&self) -> String {
        let camera = self.camera.to_string();
        if self.target == *self.camera.url() {
            return camera;
        }
        let target = self.redact(&shown(&self.target));
        format!("{camera} (which redirects to {target})")
    }

    /// Requests the address, follows redirects, and logs in if the camera requires it.
    pub(super) async fn get(&mut self) -> Result<Answer, SourceError> {
        let mut history = History::default();
        loop {
            let answer = self.request().await?;
            let head = answer.head();
            match (head.status, &head.location) {
                (200..=203 | 206, _) => return Ok(answer),
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    self.redirect(&mut history, location)?;
                }
                (401, _) => self.log_in(&mut history, &head)?,
                _ => return Err(self.refused(&head)),
            }
        }
    }

    /// Keeps the connection of a response for the next request if the response was read
    /// to its end.
    pub(super) fn reuse(&mut self, answer: Answer) {
        self.idle = answer.reader.can_continue().then_some(answer.connection);
    }

    /// Returns the error for a failed connection.
    pub(super) fn failed(&self, why: &str) -> SourceError {
        SourceError::Http {
            url: self.shown(),
            why: self.redact(why),
        }
    }

    /// Redacts a string that the camera sent, so that a message can show it.
    pub(super) fn redact(&self, text: &str) -> String {
        let text: String = text.chars().take(MAX_TEXT * 4).collect();
        self.camera.secrets().redact(&text)
    }

    /// Returns the SHA-256 of the camera's certificate if the certificate is accepted.
    pub(super) async fn fingerprint(&mut self) -> Result<String, SourceError> {
        let url = self.target.clone();
        let stream = connection::tcp(&url, self.limit).await;
        let stream = stream.map_err(|error| self.not_connected(error))?;
        let connector = self.connector()?;
        let stream = connection::tls(&url, stream, &connector).await;
        let stream = stream.map_err(|error| self.not_connected(error))?;
        connection::fingerprint(&stream).ok_or_else(|| self.failed("it has no certificate"))
    }

    /// Sends a request and reads the head of the response.
    async fn request(&mut self) -> Result<Answer, SourceError> {
        let request = self.head_of_request()?;
        if let Some(connection) = self.idle.take() {
            // The camera may have closed the connection in the meantime.
            if let Ok(Some(answer)) = exchange(connection, &request).await {
                return Ok(answer);
            }
        }
        let connection = self.connect().await?;
        match exchange(connection, &request).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.failed("it closed the connection without an answer")),
            Err(why) => Err(self.failed(&why)),
        }
    }

    fn head_of_request(&mut self) -> Result<Vec<u8>, SourceError> {
        let url = &self.target;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = url.host_str().unwrap_or_default();
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: maskd/{version}\r\nAccept: \
             */*\r\n"
        )
        .into_bytes();
        let may_log_in = self.may_log_in();
        if let (true, Some(login), Some(method)) =
            (may_log_in, self.camera.login(), &mut self.method)
        {
            let mut random = [0; 16];
            let made = getrandom::fill(&mut random);
            made.map_err(|error| SourceError::HttpClient {
                url: self.camera.to_string(),
                why: error.to_string(),
            })?;
            request.extend(b"Authorization: ");
            request.extend(method.authorization(login, &path, &hex::encode(&random)));
            request.extend(b"\r\n");
        }
        request.extend(b"\r\n");
        Ok(request)
    }

    async fn connect(&mut self) -> Result<Box<dyn Connection>, SourceError> {
        let url = self.target.clone();
        let stream = connection::tcp(&url, self.limit).await;
        let stream = stream.map_err(|error| self.not_connected(error))?;
        if url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        let connector = self.connector()?;
        match connection::tls(&url, stream, &connector).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.not_connected(error)),
        }
    }

    fn connector(&mut self) -> Result<TlsConnector, SourceError> {
        if let Some(connector) = &self.tls {
            return Ok(connector.clone());
        }
        let connector = tls::connector(&self.trust, CAMERA).map_err(|error| match error {
            TlsSetupError::File(path, why) => SourceError::CaFile { path, why },
            TlsSetupError::Library(error) => SourceError::HttpClient {
                url: self.camera.to_string(),
                why: error.to_string(),
            },
        })?;
        self.tls = Some(connector.clone());
        Ok(connector)
    }

    fn not_connected(&self, error: ConnectError) -> SourceError {
        match error {
            ConnectError::Failed(why) => self.failed(&why),
            ConnectError::Outdated => self.failed(
                "it supports only outdated encryption, so read it with ffmpeg or curl through exec:",
            ),
            ConnectError::Rejected(rejected) => SourceError::Certificate {
                url: self.shown(),
                why: rejected.why,
                fingerprint: rejected.fingerprint,
            },
        }
    }

    /// Whether the login may be sent to the target. The login may be sent only to the
    /// configured host. If the configured address uses HTTPS, the target must use HTTPS
    /// too.
    fn may_log_in(&self) -> bool {
        let configured = self.camera.url();
        let is_safe = self.target.scheme() == "https" || configured.scheme() == "http";
        self.target.host_str() == configured.host_str() && is_safe
    }

    fn redirect(&mut self, history: &mut History, location: &str) -> Result<(), SourceError> {
        history.redirects += 1;
        if history.redirects > MAX_REDIRECTS {
            self.target = self.camera.url().clone();
            return Err(self.failed("it redirects too often"));
        }
        let joined = self.target.join(location);
        let mut next = joined.map_err(|_| self.failed("it redirects to an invalid address"))?;
        if !matches!(next.scheme(), "http" | "https") {
            let why = format!("it redirects to {}:, which is not supported", next.scheme());
            return Err(self.failed(&why));
        }
        if self.target.scheme() == "https" && next.scheme() == "http" {
            return Err(self.failed("it redirects from https to http, which is not encrypted"));
        }
        // A login in the address of a redirect is removed, because it does not come from
        // the user.
        let cleaned = next.set_username("").and_then(|()| next.set_password(None));
        cleaned.map_err(|()| self.failed("it redirects to an address without a host"))?;
        next.set_fragment(None);
        if next.host_str() != self.target.host_str() {
            self.method = None;
        }
        self.target = next;
        Ok(())
    }

    /// Chooses the login method after the camera has required a login.
    fn log_in(&mut self, history: &mut History, head: &Head) -> Result<(), SourceError> {
        let url = self.shown();
        let status = self.status(head);
        if self.camera.login().is_none() {
            return Err(SourceError::HttpLogin { url, status });
        }
        if !self.may_log_in() {
            return Err(SourceError::HttpOtherHost { url });
        }
        let Some(method) = login::choose(&head.challenges) else {
            let methods = head.challenges.iter().map(|challenge| {
                let name = challenge.split_whitespace().next().unwrap_or_default();
                self.redact(&printable(name))
            });
            return Err(SourceError::HttpLoginMethod {
                url,
                methods: methods.collect::<Vec<_>>().join(", "),
            });
        };
        let is_stale = matches!(&method, Method::Digest(challenge) if challenge.stale);
        let limit = if is_stale { MAX_LOGINS } else { 1 };
        if history.logins >= limit {
            self.method = None;
            return Err(SourceError::HttpRefused { url, status });
        }
        history.logins += 1;
        self.method = Some(method);
        Ok(())
    }

    /// Returns the error for a response that neither contains a picture nor leads to one.
    fn refused(&self, head: &Head) -> SourceError {
        let url = self.shown();
        let status = self.status(head);
        match head.status {
            403 if self.camera.login().is_none() => SourceError::HttpLogin { url, status },
            403 if self.may_log_in() => SourceError::HttpRefused { url, status },
            429 | 500..=599 => SourceError::HttpBusy { url, status },
            _ => SourceError::HttpStatus { url, status },
        }
    }

    /// Returns the status and its text as the camera sent them.
    fn status(&self, head: &Head) -> String {
        let reason: String = head.reason.chars().take(MAX_TEXT).collect();
        let status = format!("{} {}", head.status, self.redact(&reason));
        status.trim_end().to_owned()
    }
}

/// Sends a request and reads until the head of the response is complete. Returns `None`
/// if the connection was closed without a response. The error describes why sending or
/// reading failed.
async fn exchange(
    mut connection: Box<dyn Connection>,
    request: &[u8],
) -> Result<Option<Answer>, String> {
    let sent = connection.write_all(request).await;
    let sent = match sent {
        Ok(()) => connection.flush().await,
        failed => failed,
    };
    sent.map_err(|error| error.to_string())?;
    let mut answer = Answer {
        connection,
        reader: AnswerReader::new(),
        buffer: vec![0; BUFFER],
        body: Vec::new(),
        closed: false,
    };
    let mut came = false;
    while answer.reader.head().is_none() {
        came |= answer.read().await?;
    }
    Ok((came || !answer.closed).then_some(answer))
}

impl Answer {
    pub(super) fn head(&self) -> Head {
        self.reader.head().cloned().unwrap_or_default()
    }

    /// Reads the next bytes. Returns false once the connection is closed. The error
    /// describes why reading failed. Cancel-safe: no bytes are lost if the future is
    /// dropped.
    pub(super) async fn read(&mut self) -> Result<bool, String> {
        let length = match self.connection.read(&mut self.buffer).await {
            Ok(length) => length,
            // The TLS connection was closed without a close notification.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error.to_string()),
        };
        if length == 0 {
            self.closed = true;
            let closed = self.reader.close(&mut self.body);
            closed.map_err(|error| error.to_string())?;
            return Ok(false);
        }
        let bytes = &self.buffer[..length];
        let pushed = self.reader.push(bytes, &mut self.body);
        pushed.map_err(|error| error.to_string())?;
        Ok(true)
    }

    /// Returns the bytes of the body that were received since the last call.
    pub(super) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Whether the response has ended, meaning that no more bytes follow.
    pub(super) fn has_ended(&self) -> bool {
        self.closed || self.reader.is_complete()
    }

    /// Whether the connection is still open.
    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Continues reading after the declared end of the body.
    pub(super) fn ignore_length(&mut self) {
        self.reader.ignore_length();
    }
}
