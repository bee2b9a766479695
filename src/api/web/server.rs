//! The listener, the routes, and the checks that every request has to pass.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{InfoBuilder, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Access, Limiter, SessionKey, Sessions};
use super::live_view::{LiveView, Viewer};
use super::{WebError, WebOptions, guard, page};
use crate::api::socket::{self, DaemonHandle, ErrorRecord, ErrorResponse, Live, MAX_BODY};
use crate::decision::frame_result::FaceRecord;
use crate::learning::FailureKind;

/// Maximum concurrent connections; excess ones are closed immediately.
const MAX_CONNECTIONS: usize = 128;
/// Maximum duration of a TLS handshake, of reading a request head, and of reading a
/// request body. An idle connection is also closed after this time.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long a request waits for the next picture. The client must then send a new
/// request.
const PICTURE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before trying again to open the port.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long a browser keeps the session cookie, in seconds.
const COOKIE_SECONDS: u64 = 7 * 24 * 3600;

/// Everything needed to serve the page.
pub struct WebServer {
    options: WebOptions,
    handle: DaemonHandle,
    live_view: Arc<LiveView>,
    extra_routes: Router,
}

impl WebServer {
    /// Creates the server for a daemon's page. `extra_routes` are served in addition to
    /// the API; an example is the metrics.
    #[must_use]
    pub fn new(
        options: WebOptions,
        handle: DaemonHandle,
        live_view: Arc<LiveView>,
        extra_routes: Router,
    ) -> WebServer {
        WebServer {
            options,
            handle,
            live_view,
            extra_routes,
        }
    }
}

/// The state that the handlers and the checks share.
struct Shared {
    access: Access,
    allowed_hosts: Arc<[String]>,
    is_tls: bool,
    sessions: Mutex<Sessions>,
    limiter: Mutex<Limiter>,
    live: watch::Receiver<Live>,
    live_view: Arc<LiveView>,
}

type App = Arc<Shared>;

impl Shared {
    fn cookie_name(&self) -> &'static str {
        // Browsers accept the `__Host-` prefix only over TLS, and only for the exact host
        // that sets the cookie.
        if self.is_tls { "__Host-maskd" } else { "maskd" }
    }

    fn set_cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.is_tls { "; Secure" } else { "" };
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Returns the visitor who sent a request, or `None` if the visitor has no access.
    fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        if self.access.is_open() {
            return Some(Visitor::Stateless);
        }
        if let Some(header) = headers.get(AUTHORIZATION) {
            let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
            let is_known = scheme.eq_ignore_ascii_case("bearer") && self.access.is_token(token);
            return is_known.then_some(Visitor::Stateless);
        }
        let cookie = guard::cookie(headers, self.cookie_name())?;
        let key = lock(&self.sessions).use_cookie(now(), cookie)?;
        Some(Visitor::Session(key))
    }

    /// Whether a visitor still has access.
    fn has_access(&self, visitor: Visitor) -> bool {
        match visitor {
            Visitor::Stateless => true,
            Visitor::Session(key) => lock(&self.sessions).is_valid(now(), &key),
        }
    }
}

/// Who made a request.
#[derive(Debug, Clone, Copy)]
enum Visitor {
    /// A visitor with a token, or any visitor if no login is required.
    Stateless,
    /// A visitor with a session cookie.
    Session(SessionKey),
}

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use because a panic cannot leave an entry half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "sessions and attempts expire by real time"
)]
fn now() -> Instant {
    Instant::now()
}

/// Serves the page until `stop` is canceled. If the port cannot be opened, tries again.
///
/// Must be called within a tokio runtime with I/O and time, on a thread that does not
/// process frames, because handlers may block it.
pub async fn serve(server: WebServer, stop: CancellationToken) {
    let listen = server.options.listen;
    let tls = server.options.tls.clone();
    let service = TowerToHyperService::new(all_routes(server));
    let serving = async {
        let listener = bind(listen).await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        // The configured port may be 0, which means any free port.
        let address = listener.local_addr().unwrap_or(listen);
        tracing::info!("the page is at {scheme}://{address}");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_ended) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok(_) if connections.len() >= MAX_CONNECTIONS => {}
                    Ok((stream, peer)) => {
                        let service = service.clone();
                        let tls = tls.clone();
                        // When serving ends, the set is dropped, which aborts the task.
                        connections.spawn(async move {
                            match tls {
                                None => serve_connection(stream, peer.ip(), service).await,
                                Some(tls) => {
                                    let handshake = tokio::time::timeout(READ_TIMEOUT, tls.accept(stream));
                                    if let Ok(Ok(stream)) = handshake.await {
                                        serve_connection(stream, peer.ip(), service).await;
                                    }
                                }
                            }
                        });
                    }
                    // Too many files are open, or the peer has already disconnected.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

async fn bind(listen: SocketAddr) -> TcpListener {
    let mut has_warned = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(source) => {
                if !has_warned {
                    let error = WebError::Listen { listen, source };
                    tracing::warn!(%error, "the web page is not available yet; retrying");
                    has_warned = true;
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Answers the requests of one connection until it ends.
async fn serve_connection<S>(stream: S, peer: IpAddr, service: TowerToHyperService<Router>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(Peer(peer));
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Errors are ignored because disconnecting visitors are not worth a log line.
    let _ = connection.await;
}

fn all_routes(server: WebServer) -> Router {
    let WebServer {
        options,
        handle,
        live_view,
        extra_routes,
    } = server;
    let app: App = Arc::new(Shared {
        access: options.access,
        allowed_hosts: options.allowed_hosts,
        is_tls: options.tls.is_some(),
        sessions: Mutex::default(),
        limiter: Mutex::default(),
        live: handle.live.clone(),
        live_view,
    });
    let api = own_routes().with_state(Arc::clone(&app));
    let api = Router::from(api.merge(socket::open_routes().with_state(handle)))
        .route("/openapi.json", get(openapi));
    Router::new()
        .nest("/api/v1", api)
        .merge(page::routes())
        .merge(extra_routes)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(app, check))
}

fn own_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(session, log_in, log_out))
        .routes(routes!(live))
        .routes(routes!(picture))
        .routes(routes!(stream))
}

/// The `OpenAPI` description of the API as JSON, generated from the handlers.
#[must_use]
pub fn description() -> String {
    let mut api = own_routes().into_openapi();
    api.merge(socket::open_routes().into_openapi());
    let mut api = OpenApi::default().nest("/api/v1", api);
    let about = "The faces in front of the camera, the decisions about them, and training from \
                 them. Times are in milliseconds, probabilities from 0 to 1.";
    api.info = InfoBuilder::new()
        .title("maskd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .build();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("maskd")));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("token", bearer);
    components.add_security_scheme("session", cookie);
    let needs = |name: &str| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    api.security = Some(vec![needs("token"), needs("session")]);
    // Serializing strings and numbers cannot fail.
    api.to_pretty_json().unwrap_or_default() + "\n"
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], description())
}

async fn no_route() -> ErrorResponse {
    ErrorResponse::new(FailureKind::Missing, "there is nothing at this address")
}

async fn no_method() -> ErrorResponse {
    let sentence = "this address does not support this method";
    ErrorResponse::malformed(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

/// The content security policy: the page loads everything from this server, and no other
/// page may embed it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' blob:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=()",
    ),
];

/// Checks every request, and adds security headers to every response.
async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // `/healthz` and `/readyz` need no login.
    let is_api = path.starts_with("/api/") || path == "/metrics";
    let mut response = match admit(&app, is_api, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pictures of people must not stay in a browser's cache.
    let cache = if is_api { "no-store" } else { "no-cache" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

async fn admit(app: &App, is_api: bool, mut request: Request) -> Result<Request, ErrorResponse> {
    if !guard::is_own_host(request.uri(), request.headers(), &app.allowed_hosts) {
        let sentence =
            "the page is not served under this host name: add the name to web.allowed-hosts";
        return Err(ErrorResponse::malformed(
            StatusCode::MISDIRECTED_REQUEST,
            sentence,
        ));
    }
    if is_api && guard::is_cross_site(request.method(), request.headers()) {
        let sentence = "requests from other sites are not allowed";
        return Err(ErrorResponse::malformed(StatusCode::FORBIDDEN, sentence));
    }
    // The session routes are reachable without a login, so that visitors can log in.
    if is_api && request.uri().path() != "/api/v1/session" {
        let Some(visitor) = app.visitor(request.headers()) else {
            let sentence = "log in first, or send a token";
            return Err(ErrorResponse::malformed(StatusCode::UNAUTHORIZED, sentence));
        };
        request.extensions_mut().insert(visitor);
    }
    // The whole body is read first, so that handlers never wait for a slow client.
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(READ_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await;
    match read {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => Err(ErrorResponse::malformed(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is incomplete or larger than {MAX_BODY} bytes"),
        )),
        Err(_) => Err(ErrorResponse::malformed(
            StatusCode::REQUEST_TIMEOUT,
            "the request body was sent too slowly",
        )),
    }
}

/// The state of the log-in: a stable format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRecord {
    /// Whether the visitor has access to the rest of the API.
    pub allowed: bool,
    /// Whether there is a password to log in with.
    pub password: bool,
    /// Whether the visitor has a session, which can be ended.
    pub session: bool,
}

/// A request to log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The password in plain text.
    pub password: String,
}

#[utoipa::path(
    get, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "The state of the log-in"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
    security(()),
)]
async fn session(State(app): State<App>, headers: HeaderMap) -> Json<SessionRecord> {
    Json(record(&app, app.visitor(&headers)))
}

fn record(app: &App, visitor: Option<Visitor>) -> SessionRecord {
    SessionRecord {
        allowed: visitor.is_some(),
        password: app.access.has_password(),
        session: matches!(visitor, Some(Visitor::Session(_))),
    }
}

#[utoipa::path(
    post, path = "/session", tag = "session",
    request_body = LogIn,
    responses(
        (status = 200, body = SessionRecord, description = "Logged in: sets a cookie"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
    security(()),
)]
async fn log_in(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    let Ok(LogIn { password }) = serde_json::from_slice(&body) else {
        // The message does not quote the body, which may contain a password.
        let sentence = "the request body is malformed: send {\"password\": …}";
        return Err(ErrorResponse::new(FailureKind::Usage, sentence));
    };
    if !app.access.has_password() {
        let sentence = "no password is configured: use a token";
        return Err(ErrorResponse::new(FailureKind::Usage, sentence));
    }
    if let Err(wait) = lock(&app.limiter).take(now(), peer) {
        let seconds = wait.as_secs() + 1;
        let sentence = format!("too many attempts: try again in {seconds} s");
        return Err(ErrorResponse::too_many(seconds, sentence));
    }
    if !app.access.is_password(&password) {
        tracing::warn!(%peer, "a log-in with a wrong password was refused");
        let sentence = "wrong password";
        return Err(ErrorResponse::malformed(StatusCode::UNAUTHORIZED, sentence));
    }
    lock(&app.limiter).reset(peer);
    // An existing session is never continued, because an attacker may have planted its
    // cookie (session fixation).
    end_session(&app, &headers);
    let cookie = lock(&app.sessions)
        .begin(now())
        .map_err(|error| ErrorResponse::new(FailureKind::Internal, error))?;
    let set = app.set_cookie(&cookie, COOKIE_SECONDS);
    let record = SessionRecord {
        allowed: true,
        password: true,
        session: true,
    };
    tracing::info!(%peer, "a visitor logged in");
    Ok(([(SET_COOKIE, set)], Json(record)).into_response())
}

/// Ends the session of a request, if it has one.
fn end_session(app: &App, headers: &HeaderMap) {
    let cookie = guard::cookie(headers, app.cookie_name());
    let mut sessions = lock(&app.sessions);
    if let Some(key) = cookie.and_then(|cookie| sessions.use_cookie(now(), cookie)) {
        sessions.end(&key);
    }
}

#[utoipa::path(
    delete, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "Logged out: the cookie is no longer valid"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
    security(()),
)]
async fn log_out(State(app): State<App>, headers: HeaderMap) -> Response {
    end_session(&app, &headers);
    let record = record(&app, app.access.is_open().then_some(Visitor::Stateless));
    ([(SET_COOKIE, app.set_cookie("", 0))], Json(record)).into_response()
}

/// The current state of the daemon: a stable format.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveRecord {
    /// What the daemon is doing.
    #[serde(flatten)]
    pub live: Live,
    /// The newest frame; absent until there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<LiveFrame>,
}

/// The faces in the newest frame: a stable format.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveFrame {
    /// Number of the frame since the source was opened.
    pub seq: u64,
    /// Time since the frame was captured, in milliseconds.
    pub age_ms: u64,
    /// Width and height of the frame in pixels.
    pub size: [u32; 2],
    /// The faces found in it.
    pub faces: Vec<FaceRecord>,
}

#[utoipa::path(
    get, path = "/live", tag = "live",
    responses(
        (status = 200, body = LiveRecord, description = "The current state of the daemon"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
)]
async fn live(State(app): State<App>) -> Json<LiveRecord> {
    let annotated = app.live_view.annotated_frames.borrow().clone();
    let frame = annotated.map(|annotated| {
        let result = &annotated.result;
        let faces = result.faces.iter();
        let (width, height) = annotated.frame.pixels.dimensions();
        LiveFrame {
            seq: result.seq,
            age_ms: now().saturating_duration_since(result.at).as_millis() as u64,
            size: [width, height],
            faces: faces
                .map(|face| FaceRecord::new(face, &result.labels))
                .collect(),
        }
    });
    Json(LiveRecord {
        live: app.live.borrow().clone(),
        frame,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    after: Option<u64>,
}

/// The header with the number of a picture. The client sends this number back to request
/// the next picture.
const X_PICTURE: HeaderName = HeaderName::from_static("x-picture");

/// Waits for a picture with a higher number; no content if none comes in time.
#[utoipa::path(
    get, path = "/live/picture", tag = "live",
    params(("after" = Option<u64>, Query, description = "The number of the last picture, from its header x-picture")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "image/jpeg", description = "The newest picture; its number is higher than `after`"),
        (status = 204, description = "No new picture yet: ask again"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
)]
async fn picture(
    State(app): State<App>,
    after: Result<Query<After>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Query(After { after }) = after?;
    let mut viewer = app.live_view.watch();
    let newer = viewer.newer_than(after.unwrap_or(0));
    let Ok(Some(picture)) = tokio::time::timeout(PICTURE_TIMEOUT, newer).await else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("image/jpeg")),
        (X_PICTURE, picture.number.into()),
    ];
    Ok((headers, picture.jpeg.clone()).into_response())
}

/// An endless MJPEG stream. Ends with the session.
#[utoipa::path(
    get, path = "/live/stream", tag = "live",
    responses(
        (status = 200, body = Vec<u8>, content_type = "multipart/x-mixed-replace", description = "An endless MJPEG stream"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
)]
async fn stream(State(app): State<App>, Extension(visitor): Extension<Visitor>) -> Response {
    struct Stream {
        app: App,
        viewer: Viewer,
        number: u64,
    }
    let start = Stream {
        viewer: app.live_view.watch(),
        app,
        number: 0,
    };
    let parts = futures_util::stream::unfold(start, move |mut stream| async move {
        let picture = stream.viewer.newer_than(stream.number).await?;
        if !stream.app.has_access(visitor) {
            return None;
        }
        let first = if stream.number == 0 {
            "--frame\r\n"
        } else {
            ""
        };
        stream.number = picture.number;
        let length = picture.jpeg.len();
        let mut part =
            format!("{first}Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n")
                .into_bytes();
        part.extend_from_slice(&picture.jpeg);
        // Players show a part only after they have received the boundary that follows it.
        part.extend_from_slice(b"\r\n--frame\r\n");
        Some((Ok::<_, Infallible>(Bytes::from(part)), stream))
    });
    let content = "multipart/x-mixed-replace; boundary=frame";
    ([(CONTENT_TYPE, content)], Body::from_stream(parts)).into_response()
}
