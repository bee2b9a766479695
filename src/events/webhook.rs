//! Webhooks: events as the bodies of HTTP requests.
//!
//! This module owns the request, the queue of a receiver, and the retries. Events are delivered in
//! their order, one at a time. It sends to no other address than the configured one: redirects are
//! not followed. Messages show neither the address nor a secret. Only `camera::http` knows which
//! certificates are accepted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use super::event::{Event, utc};
use super::log::ReceiverState;
use super::queue::{Queue, Waiting};
use super::receiver::{Selection, warn_dropped};
use super::signature::Key;
use super::template::Template;
use crate::camera::TlsTrust;
use crate::camera::http::connection::{self, ConnectError};
use crate::camera::http::tls::{self, PeerName, TlsSetupError};
use crate::platform::backoff::Backoff;
use crate::platform::files;
use crate::platform::text::printable;

/// Wait after the first failure. Each further wait is twice as long.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// How long a request in progress may continue after the daemon is asked to stop.
const GRACE: Duration = Duration::from_millis(500);
/// How often an event is sent to a receiver that refuses its content. A receiver that refuses one
/// event must not block all others forever.
const MAX_REFUSALS: u32 = 8;
/// Maximum size of the head of a response, in bytes. The body is not read.
const MAX_HEAD: usize = 64 * 1024;
/// Maximum size of a file with a key or a token, in bytes.
const MAX_SECRET_FILE: u64 = 4096;
/// Maximum number of characters of a message about a failure.
const MAX_MESSAGE: usize = 300;

/// The words for a receiver in messages about certificates.
const RECEIVER: PeerName = PeerName {
    noun: "receiver",
    fingerprint_key: "tls-fingerprint",
};

/// The options of a webhook.
#[derive(Clone)]
pub struct WebhookOptions {
    /// Name of the receiver.
    pub name: String,
    /// The address, which begins with `http://` or `https://` and has no login.
    pub url: Url,
    /// The kinds of events that are sent.
    pub selection: Selection,
    /// The template of the body. Without one, the body is the event as JSON.
    pub template: Option<Template>,
    /// File with the key for signatures.
    pub key_file: Option<PathBuf>,
    /// File with the token that is sent as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// Which certificates are accepted.
    pub trust: TlsTrust,
    /// Maximum time for one attempt.
    pub time_limit: Duration,
    /// Longest wait between two attempts.
    pub max_retry: Duration,
    /// Maximum number of events that wait.
    pub capacity: usize,
}

impl fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookOptions({})", self.name)
    }
}

/// Why an event could not be delivered. Each message continues a sentence about the receiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// A file that the config names cannot be used.
    #[error("cannot be used: {0}")]
    File(String),
    /// There is no connection.
    #[error("cannot be reached: {0}")]
    Connect(String),
    /// The certificate is not accepted.
    #[error("cannot be trusted: its certificate {0}")]
    Certificate(String),
    /// The receiver did not respond in time.
    #[error("does not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The response is not HTTP, or the connection was closed.
    #[error("sends no valid answer: {0}")]
    Answer(String),
    /// The receiver responds with an error.
    #[error("answers {0}")]
    Status(StatusCode),
    /// The receiver names another address.
    #[error("answers {0}, and redirects are not followed: set its url to the final address")]
    Redirect(StatusCode),
}

impl WebhookError {
    /// Whether the receiver does not accept the content of this event, while it may accept others.
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            WebhookError::Status(
                StatusCode::BAD_REQUEST
                    | StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::UNSUPPORTED_MEDIA_TYPE
                    | StatusCode::UNPROCESSABLE_ENTITY
            )
        )
    }
}

/// The contents of the files that the options name.
struct Secrets {
    key: Option<Key>,
    authorization: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

fn read_secret(path: &Path) -> Result<String, WebhookError> {
    let text = files::read_text(path, MAX_SECRET_FILE);
    let text = text.map_err(|error| WebhookError::File(error.to_string()))?;
    // Text editors add a newline at the end.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

impl WebhookOptions {
    fn secrets(&self) -> Result<Secrets, WebhookError> {
        let invalid = |path: &Path, what: &str| {
            WebhookError::File(format!("{} contains no {what}", path.display()))
        };
        let key = match &self.key_file {
            None => None,
            Some(path) => {
                let key = Key::parse(&read_secret(path)?);
                Some(key.ok_or_else(|| invalid(path, "key"))?)
            }
        };
        let authorization = match &self.token_file {
            None => None,
            Some(path) => {
                let token = read_secret(path)?;
                let value = HeaderValue::try_from(format!("Bearer {token}")).ok();
                let value = value.filter(|_| !token.is_empty());
                let mut value = value.ok_or_else(|| invalid(path, "token"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let tls = match self.url.scheme() {
            "https" => Some(tls::connector(&self.trust, RECEIVER).map_err(|error| {
                WebhookError::File(match error {
                    TlsSetupError::File(path, why) => format!("cannot read {path}: {why}"),
                    TlsSetupError::Library(error) => error.to_string(),
                })
            })?),
            _ => None,
        };
        Ok(Secrets {
            key,
            authorization,
            tls,
        })
    }

    fn request(
        &self,
        secrets: &Secrets,
        waiting: &Waiting,
        now: SystemTime,
    ) -> Result<Request<Body>, WebhookError> {
        let url = &self.url;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let port = url.port().map(|port| format!(":{port}"));
        let host = format!(
            "{}{}",
            url.host_str().unwrap_or_default(),
            port.unwrap_or_default()
        );
        let body = match &self.template {
            Some(template) => template.render(&waiting.event),
            None => waiting.json.clone(),
        };
        let timestamp = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("maskd/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .header("webhook-id", waiting.id())
            .header("webhook-timestamp", timestamp);
        if let Some(key) = &secrets.key {
            let signature = key.sign(waiting.id(), timestamp, &body);
            request = request.header("webhook-signature", signature);
        }
        if let Some(authorization) = &secrets.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Body::from(body));
        request.map_err(|error| WebhookError::Answer(error.to_string()))
    }

    /// Sends an event once, and waits for the status of the response.
    async fn send(
        &self,
        secrets: &Secrets,
        waiting: &Waiting,
        now: SystemTime,
    ) -> Result<(), WebhookError> {
        let request = self.request(secrets, waiting, now)?;
        let exchange = async {
            let stream = connection::tcp(&self.url, self.time_limit).await?;
            match &secrets.tls {
                None => post(stream, request).await,
                Some(tls) => {
                    let stream = connection::tls(&self.url, stream, tls).await?;
                    post(stream, request).await
                }
            }
        };
        let limited = tokio::time::timeout(self.time_limit, exchange).await;
        let status = limited.unwrap_or(Err(WebhookError::Timeout(self.time_limit)))?;
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(WebhookError::Redirect(status))
        } else {
            Err(WebhookError::Status(status))
        }
    }

    /// Checks whether the receiver can be reached and its certificate is accepted, without sending
    /// an event. Also checks the files that the options name. Takes at most the time limit.
    ///
    /// # Errors
    /// Returns a [`WebhookError`].
    pub fn test_connection(&self) -> Result<(), WebhookError> {
        let secrets = self.secrets()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| WebhookError::Connect(error.to_string()))?;
        let connected = runtime.block_on(async {
            let connect = async {
                let stream = connection::tcp(&self.url, self.time_limit).await?;
                if let Some(tls) = &secrets.tls {
                    connection::tls(&self.url, stream, tls).await?;
                }
                Ok(())
            };
            tokio::time::timeout(self.time_limit, connect).await
        });
        // A pending name lookup must not delay the result.
        runtime.shutdown_background();
        connected.unwrap_or(Err(WebhookError::Timeout(self.time_limit)))
    }

    /// The host and the port, as messages show them.
    #[must_use]
    pub fn receiver(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or(80);
        format!("{}:{port}", self.url.host_str().unwrap_or_default())
    }

    /// Whether a token crosses the network unencrypted.
    #[must_use]
    pub fn exposes_token(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        self.token_file.is_some() && self.url.scheme() != "https" && !is_local
    }
}

impl From<ConnectError> for WebhookError {
    fn from(error: ConnectError) -> WebhookError {
        match error {
            ConnectError::Failed(why) => WebhookError::Connect(why),
            ConnectError::Outdated => {
                WebhookError::Connect("it supports only outdated encryption".to_owned())
            }
            ConnectError::Rejected(rejected) => {
                WebhookError::Certificate(format!("{} {}", rejected.fingerprint, rejected.why))
            }
        }
    }
}

/// Sends a request, and returns the status of the response. The body of the response is not read.
async fn post<S>(stream: S, request: Request<Body>) -> Result<StatusCode, WebhookError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| WebhookError::Answer(error.to_string());
    let handshake = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake::<_, Body>(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // The response, or the error, has been passed on by now.
        _ = &mut connection => response.await,
    };
    Ok(response.map_err(failed)?.status())
}

/// Delivers events to one webhook.
pub struct Webhook<F> {
    options: WebhookOptions,
    state: ReceiverState,
    queue: Queue,
    /// Returns the folder for the queue as soon as it can be used.
    folder: F,
    /// Returns the time.
    clock: fn() -> SystemTime,
    secrets: Option<Arc<Secrets>>,
    backoff: Backoff,
    /// How often the first event of the queue was refused.
    refusals: u32,
    retry_at: Option<Instant>,
    memory_only: MemoryOnly,
}

/// Whether events wait only in memory, for the log. If each event is delivered at once, there is
/// nothing to save between two events. This must not make each event news while the disk is full.
#[derive(Debug, Default)]
struct MemoryOnly(bool);

impl MemoryOnly {
    /// Notes the result of an attempt to save the waiting events. Returns whether the log does not
    /// tell yet that they wait only in memory.
    fn is_new(&mut self, is_failed: bool, waiting: usize) -> bool {
        let before = self.0;
        self.0 = is_failed || before && waiting == 0;
        is_failed && !before
    }
}

impl<F: Fn() -> Option<PathBuf>> Webhook<F> {
    /// Creates the receiver. `folder` returns the folder for the queue as soon as it can be used.
    /// `seed` makes the waits differ from device to device.
    pub fn new(
        options: WebhookOptions,
        state: ReceiverState,
        folder: F,
        clock: fn() -> SystemTime,
        seed: u64,
    ) -> Webhook<F> {
        Webhook {
            queue: Queue::new(options.capacity),
            backoff: Backoff::new(MIN_RETRY, options.max_retry, seed),
            options,
            state,
            folder,
            clock,
            secrets: None,
            refusals: 0,
            retry_at: None,
            memory_only: MemoryOnly::default(),
        }
    }

    /// Delivers events until `events` is closed and its events are on disk. A request in progress
    /// then has half a second to end, so that fewer events are delivered twice. Must be called
    /// within a tokio runtime on a thread of its own, because it writes files.
    pub async fn run(mut self, mut events: mpsc::Receiver<Arc<Event>>) {
        loop {
            self.save();
            let Some(first) = self.queue.first().cloned() else {
                match events.recv().await {
                    Some(event) => self.push(&event, false),
                    None => return,
                }
                continue;
            };
            let (options, retry_at) = (self.options.clone(), self.retry_at);
            let (secrets, clock) = (self.secrets.clone(), self.clock);
            let attempt = async {
                if let Some(at) = retry_at {
                    tokio::time::sleep_until(at).await;
                }
                // The files are read again until they can be used.
                let secrets = match secrets {
                    Some(secrets) => secrets,
                    None => Arc::new(options.secrets()?),
                };
                let sent = options.send(&secrets, &first, clock()).await;
                sent.map(|()| secrets)
            };
            let mut attempt = pin!(attempt);
            let result = loop {
                tokio::select! {
                    biased;
                    event = events.recv() => if let Some(event) = event {
                        self.push(&event, true);
                        self.save();
                    } else {
                        if let Ok(result) = tokio::time::timeout(GRACE, attempt).await {
                            self.finish(&first, result);
                        }
                        return;
                    },
                    result = &mut attempt => break result,
                }
            };
            self.finish(&first, result);
        }
    }

    /// Opens the folder of the queue if it can be used, and writes the events to the disk that are
    /// not there yet.
    fn save(&mut self) {
        let folder = if self.queue.has_folder() {
            None
        } else {
            (self.folder)()
        };
        let mut saved = Ok(());
        if let Some(folder) = folder {
            saved = self.queue.open(&folder).map(|opened| {
                let receiver = &self.options.name;
                if opened.restored > 0 {
                    let events = opened.restored;
                    info!(
                        receiver,
                        events, "events of an earlier run wait for delivery"
                    );
                }
                let lost = opened.damaged + opened.dropped;
                if lost > 0 {
                    warn!(
                        receiver,
                        damaged = opened.damaged,
                        dropped = opened.dropped,
                        "events of an earlier run are lost: their files are damaged, or they \
                         exceed max-waiting"
                    );
                    self.state.change(|record| record.dropped += lost);
                }
            });
        }
        let saved = saved.and_then(|()| self.queue.save());
        let not_saved = match saved {
            Err(error) => Some(error.to_string()),
            Ok(()) if !self.queue.has_folder() => {
                Some("the state directory cannot be used".to_owned())
            }
            Ok(()) => None,
        };
        let not_saved = not_saved.filter(|_| self.queue.unsaved() > 0);
        let waiting = self.queue.len();
        let is_new = self.memory_only.is_new(not_saved.is_some(), waiting);
        self.state.change(|record| {
            record.waiting = waiting;
            record.not_saved.clone_from(&not_saved);
        });
        if let Some(why) = not_saved.filter(|_| is_new) {
            let receiver = &self.options.name;
            warn!(receiver, why, "events wait only in memory");
        }
    }

    fn push(&mut self, event: &Event, keeps_first: bool) {
        let Some(waiting) = Waiting::parse(&event.json()) else {
            return;
        };
        if self.queue.push(waiting, keeps_first) {
            let dropped = self.state.count_dropped();
            warn_dropped(&self.options.name, dropped, "too many events wait");
        }
    }

    /// Handles the result of an attempt to deliver the first event.
    fn finish(&mut self, first: &Waiting, result: Result<Arc<Secrets>, WebhookError>) {
        let receiver = &self.options.name;
        let time = utc((self.clock)());
        let error = match result {
            Ok(secrets) => {
                self.secrets = Some(secrets);
                if self.retry_at.take().is_some() {
                    info!(receiver, "events are delivered again");
                } else {
                    debug!(receiver, id = first.id(), "an event was delivered");
                }
                self.backoff.reset();
                self.refusals = 0;
                self.queue.remove(first.id());
                return self.state.count_delivered(time);
            }
            Err(error) => error,
        };
        let why: String = printable(&error.to_string())
            .chars()
            .take(MAX_MESSAGE)
            .collect();
        if self.retry_at.is_none() {
            warn!(receiver, why, "an event was not delivered; retrying");
        } else {
            debug!(receiver, why, "an event was not delivered; retrying");
        }
        self.state.count_failed(time, format!("the receiver {why}"));
        // The file of a secret may have been corrected in the meantime.
        self.secrets = None;
        self.retry_at = Some(Instant::now() + self.backoff.next_delay());
        self.refusals += u32::from(error.is_refusal());
        if self.refusals >= MAX_REFUSALS {
            self.refusals = 0;
            self.queue.remove(first.id());
            let dropped = self.state.count_dropped();
            warn_dropped(receiver, dropped, &format!("the receiver {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_once_that_the_disk_is_full() {
        let mut memory_only = MemoryOnly::default();
        let mut is_new = |is_failed, waiting| memory_only.is_new(is_failed, waiting);
        assert!(!is_new(false, 1), "saved");
        assert!(is_new(true, 1));
        assert!(!is_new(false, 0), "delivered, so there is nothing to save");
        assert!(!is_new(true, 1), "the disk is still full");
        assert!(!is_new(false, 1), "saved");
        assert!(is_new(true, 2));
    }
}
