//! The listener, the routes, and the checks that every request has to pass.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{InfoBuilder, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Limiter, SessionKey, Sessions};
use super::live_view::{LiveView, Viewer};
use super::{WebError, WebOptions, examples, guard, page};
use crate::api::connections::{Client, Connections, Limits, Peer, Place, READ_TIMEOUT, read_body};
use crate::api::problems::{Problems, Topic};
use crate::api::socket::{self, DaemonHandle, ErrorRecord, ErrorResponse, Live};
use crate::decision::frame_result::FaceRecord;
use crate::learning::{Channel, FailureKind};
use crate::platform::network;

/// Limits on the number of connections. A browser opens about six connections.
const LIMITS: Limits = Limits {
    total: 128,
    per_network: 64,
};
/// Size of a connection's send buffer in the kernel, in bytes. With a larger buffer, the
/// server would take longer to detect that a viewer does not read.
const SEND_BUFFER: u32 = 128 * 1024;
/// Maximum number of connections that wait in the kernel for this server to accept them.
const BACKLOG: u32 = 1024;
/// How long a request waits for the next picture. After this time, the client must send a
/// new request.
const PICTURE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before the next attempt to open the port.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a browser keeps the session cookie, in seconds.
const COOKIE_SECONDS: u64 = 7 * 24 * 3600;

/// Everything that is needed to serve the page.
pub struct WebServer {
    options: watch::Receiver<WebOptions>,
    handle: DaemonHandle,
    live_view: Arc<LiveView>,
    extra_routes: Router,
    problems: Problems,
}

impl WebServer {
    /// Creates the server for a daemon's page. New `options` apply from the next request
    /// on, except that the address never changes. `extra_routes` are served in addition
    /// to the API, for example the metrics.
    #[must_use]
    pub fn new(
        options: watch::Receiver<WebOptions>,
        handle: DaemonHandle,
        live_view: Arc<LiveView>,
        extra_routes: Router,
        problems: Problems,
    ) -> WebServer {
        WebServer {
            options,
            handle,
            live_view,
            extra_routes,
            problems,
        }
    }
}

/// The state that the handlers and the checks share.
struct Shared {
    options: watch::Receiver<WebOptions>,
    sessions: Mutex<Sessions>,
    limiter: Mutex<Limiter>,
    /// Passwords are checked one at a time, because each check needs 19 MiB of memory and
    /// a lot of processor time.
    password_checks: Semaphore,
    live: watch::Receiver<Live>,
    live_view: Arc<LiveView>,
}

type App = Arc<Shared>;

impl Shared {
    fn is_tls(&self) -> bool {
        self.options.borrow().tls.is_some()
    }

    fn cookie_name(&self) -> &'static str {
        // Browsers accept the `__Host-` prefix only over TLS, and only for the exact host
        // that sets the cookie.
        if self.is_tls() {
            "__Host-maskd"
        } else {
            "maskd"
        }
    }

    fn set_cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.is_tls() { "; Secure" } else { "" };
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Returns the visitor who sent a request, or `None` if the visitor has no access.
    fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        if self.options.borrow().access.is_open() {
            return Some(Visitor::Anybody);
        }
        if let Some(header) = headers.get(AUTHORIZATION) {
            let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
            let is_known = scheme.eq_ignore_ascii_case("bearer")
                && self.options.borrow().access.is_token(token);
            return is_known.then_some(Visitor::Token);
        }
        let cookie = guard::cookie(headers, self.cookie_name())?;
        let key = lock(&self.sessions).use_cookie(now(), cookie)?;
        Some(Visitor::Session(key))
    }

    /// Whether a visitor still has access.
    fn has_access(&self, visitor: Visitor) -> bool {
        match visitor {
            Visitor::Anybody | Visitor::Token => true,
            Visitor::Session(key) => lock(&self.sessions).is_valid(now(), &key),
        }
    }
}

/// How the sender of a request got access.
#[derive(Debug, Clone, Copy)]
enum Visitor {
    /// Any visitor, because no login is required.
    Anybody,
    /// A visitor with a token.
    Token,
    /// A visitor with a session cookie.
    Session(SessionKey),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use because a panic cannot leave an entry half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "sessions and attempts expire in real time"
)]
fn now() -> Instant {
    Instant::now()
}

/// Serves the page until `stop` is triggered. If the port cannot be opened, this function
/// publishes a problem and keeps retrying.
///
/// Must be called within a tokio runtime with I/O and time, on a thread that does not
/// process frames, because handlers may block the thread.
pub async fn serve(server: WebServer, stop: CancellationToken) {
    let listen = server.options.borrow().listen;
    let problems = server.problems.clone();
    let app = Shared::new(&server);
    let service = TowerToHyperService::new(all_routes(server, &app));
    let serving = async {
        let listener = bind(listen, &problems).await;
        let scheme = if app.is_tls() { "https" } else { "http" };
        // The configured port may be 0, which means any free port.
        let mut address = listener.local_addr().unwrap_or(listen);
        // A browser cannot open the address that stands for all addresses of the device.
        if address.ip().is_unspecified()
            && let Some(own) = network::addresses().first()
        {
            address.set_ip(*own);
        }
        tracing::info!("the page is at {scheme}://{address}");
        accept(&listener, &app, &service).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
        () = end_old_sessions(&app) => {}
    }
}

/// Accepts connections forever. When the returned future is dropped, all connections are
/// closed.
async fn accept(listener: &TcpListener, app: &App, service: &TowerToHyperService<Router>) {
    let table = Connections::new(LIMITS);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = running.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let peer = peer.ip();
                    let Some(place) = table.admit(Some(peer)) else { continue };
                    let tls = app.options.borrow().tls.clone();
                    running.spawn(serve_connection(stream, place, peer, tls, service.clone()));
                }
                // Either too many files are open, or the peer has already disconnected.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

/// Serves the requests of one connection until the connection ends.
async fn serve_connection(
    stream: TcpStream,
    place: Place,
    peer: IpAddr,
    tls: Option<TlsAcceptor>,
    service: TowerToHyperService<Router>,
) {
    let stream = place.watch(stream);
    // This token is never triggered, because connections are dropped when serving ends.
    let stop = CancellationToken::new();
    let Some(tls) = tls else {
        return place.serve(stream, service, Some(peer), &stop).await;
    };
    let handshake = tokio::time::timeout(READ_TIMEOUT, tls.accept(stream));
    if let Some(Ok(Ok(stream))) = place.hold(handshake).await {
        place.serve(stream, service, Some(peer), &stop).await;
    }
}

async fn bind(listen: SocketAddr, problems: &Problems) -> TcpListener {
    loop {
        match try_bind(listen) {
            Ok(listener) => {
                problems.set(Topic::Page, None);
                return listener;
            }
            Err(source) => {
                let error = WebError::Listen { listen, source };
                let problem = format!("the page is not available: {error}; retrying");
                problems.set(Topic::Page, Some(problem));
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

fn try_bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match listen {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Without this option, opening the port would fail for a minute after a restart.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit this buffer size.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

/// Ends all sessions when the password changes.
async fn end_old_sessions(app: &App) {
    let mut options = app.options.clone();
    let mut access = options.borrow_and_update().access.clone();
    while options.changed().await.is_ok() {
        let new = options.borrow_and_update().access.clone();
        if !new.has_same_password(&access) {
            lock(&app.sessions).end_all();
        }
        access = new;
    }
    // The options can no longer change, so this function only has to wait until it is
    // dropped.
    std::future::pending::<()>().await;
}

impl Shared {
    fn new(server: &WebServer) -> App {
        Arc::new(Shared {
            options: server.options.clone(),
            sessions: Mutex::default(),
            limiter: Mutex::default(),
            password_checks: Semaphore::new(1),
            live: server.handle.live.clone(),
            live_view: Arc::clone(&server.live_view),
        })
    }
}

fn all_routes(server: WebServer, app: &App) -> Router {
    let WebServer {
        handle,
        extra_routes,
        ..
    } = server;
    let api = own_routes().with_state(Arc::clone(app));
    let api = Router::from(api.merge(socket::open_routes().with_state(handle)))
        .route("/openapi.json", get(openapi))
        .layer(Extension(Channel::Page));
    Router::new()
        .nest("/api/v1", api)
        .merge(page::routes())
        .merge(extra_routes)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        // `check` limits the size of bodies.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(app), check))
}

fn own_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(session, log_in, log_out))
        .routes(routes!(live))
        .routes(routes!(picture))
        .routes(routes!(stream))
}

/// The `OpenAPI` description of the API as JSON, generated from the handlers and `examples.json`.
#[must_use]
pub fn description() -> String {
    let mut api = own_routes().into_openapi();
    api.merge(socket::open_routes().into_openapi());
    let mut api = OpenApi::default().nest("/api/v1", api);
    let about = "The faces in front of the camera, the decisions about them, and training on \
                 them. Times are in milliseconds, and probabilities are between 0 and 1.";
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
    examples::add_to(&mut api);
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
    let client = request.extensions().get::<Client>().cloned();
    let mut response = match admit(&app, is_api, request).await {
        Ok(request) => {
            let visitor = request.extensions().get::<Visitor>();
            // Only requests from visitors with access are protected from eviction while
            // they are handled.
            let _handling = visitor.and(client.as_ref()).map(Client::handling);
            next.run(request).await
        }
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
    if !guard::is_own_host(
        request.uri(),
        request.headers(),
        &app.options.borrow().allowed_hosts,
    ) {
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
        if let (Visitor::Token | Visitor::Session(_), Some(client)) =
            (visitor, request.extensions().get::<Client>())
        {
            client.prove_access();
        }
        request.extensions_mut().insert(visitor);
    }
    Ok(read_body(request).await?)
}

/// The state of the login. This format is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRecord {
    /// Whether the visitor has access to the rest of the API.
    pub allowed: bool,
    /// Whether there is a password to log in with.
    pub password: bool,
    /// Whether the visitor has a session that can be ended by logging out.
    pub session: bool,
}

/// A request to log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The password in plain text.
    pub password: String,
}

/// Returns whether the client is logged in.
#[utoipa::path(
    get, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "The state of the login"),
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
        password: app.options.borrow().access.has_password(),
        session: matches!(visitor, Some(Visitor::Session(_))),
    }
}

/// Logs in with a password, and sets a session cookie.
#[utoipa::path(
    post, path = "/session", tag = "session",
    request_body = LogIn,
    responses(
        (status = 200, body = SessionRecord, description = "The visitor is logged in, and the response sets a cookie"),
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
    if !app.options.borrow().access.has_password() {
        let sentence = "no password is configured: use a token";
        return Err(ErrorResponse::new(FailureKind::Usage, sentence));
    }
    // Requests over TCP always have a client address, so the default is never used.
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if let Err(wait) = lock(&app.limiter).take(now(), peer) {
        let seconds = wait.as_secs() + 1;
        let sentence = format!("too many attempts: try again in {seconds} s");
        return Err(ErrorResponse::too_many(seconds, sentence));
    }
    if !is_password(&app, password).await? {
        tracing::warn!(%peer, "a login with a wrong password was refused");
        let sentence = "wrong password";
        return Err(ErrorResponse::malformed(StatusCode::UNAUTHORIZED, sentence));
    }
    lock(&app.limiter).succeeded(peer);
    // An existing session is never continued, because an attacker may have planted the
    // cookie of that session (session fixation).
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

/// Whether the password is correct. The check takes a long time. It runs on another
/// thread, so that this thread stays free for other requests.
#[expect(
    clippy::disallowed_methods,
    reason = "a password is checked only at a login, which is rare"
)]
async fn is_password(app: &App, password: String) -> Result<bool, ErrorResponse> {
    let failed = || {
        let sentence = "the password cannot be checked; see the log of the daemon";
        ErrorResponse::new(FailureKind::Internal, sentence)
    };
    let _one_at_a_time = app.password_checks.acquire().await.map_err(|_| failed())?;
    let access = app.options.borrow().access.clone();
    let check = tokio::task::spawn_blocking(move || access.is_password(&password));
    check.await.map_err(|_| failed())
}

/// Ends the session of a request, if it has one.
fn end_session(app: &App, headers: &HeaderMap) {
    let cookie = guard::cookie(headers, app.cookie_name());
    let mut sessions = lock(&app.sessions);
    if let Some(key) = cookie.and_then(|cookie| sessions.use_cookie(now(), cookie)) {
        sessions.end(&key);
    }
}

/// Logs out.
#[utoipa::path(
    delete, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "The visitor is logged out, and the cookie is no longer valid"),
        (status = "default", body = ErrorRecord, description = "What went wrong"),
    ),
    security(()),
)]
async fn log_out(State(app): State<App>, headers: HeaderMap) -> Response {
    end_session(&app, &headers);
    let is_open = app.options.borrow().access.is_open();
    let record = record(&app, is_open.then_some(Visitor::Anybody));
    ([(SET_COOKIE, app.set_cookie("", 0))], Json(record)).into_response()
}

/// The current state of the daemon. This format is stable.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveRecord {
    /// What the daemon is doing.
    #[serde(flatten)]
    pub live: Live,
    /// The newest frame; absent until one has been processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<LiveFrame>,
}

/// The faces in the newest frame. This format is stable.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveFrame {
    /// Number of the frame, counted since the source was opened.
    pub seq: u64,
    /// Time since the frame was captured, in milliseconds.
    pub age_ms: u64,
    /// Width and height of the frame in pixels.
    pub size: [u32; 2],
    /// The faces found in the frame.
    pub faces: Vec<FaceRecord>,
}

/// Returns the state of the daemon and the faces in the newest frame.
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

/// Waits for a picture with a higher number.
///
/// Returns no content if none arrives in time.
#[utoipa::path(
    get, path = "/live/picture", tag = "live",
    params(("after" = Option<u64>, Query, description = "The number of the last picture, from its header x-picture")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "image/jpeg", description = "The newest picture; its number is greater than `after`"),
        (status = 204, description = "There is no new picture yet; send the request again"),
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

/// Returns an MJPEG stream that continues until the visitor no longer has access.
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
        // Players show a picture only after they have received the boundary that follows
        // it.
        part.extend_from_slice(b"\r\n--frame\r\n");
        Some((Ok::<_, Infallible>(Bytes::from(part)), stream))
    });
    let content = "multipart/x-mixed-replace; boundary=frame";
    ([(CONTENT_TYPE, content)], Body::from_stream(parts)).into_response()
}
