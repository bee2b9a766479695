//! The listener, the routes, and what every request has to pass.

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
use super::{Plan, WebError, guard, page};
use crate::api::socket::{self, DaemonHandle, ErrorRecord, Live, MAX_BODY, Refused};
use crate::decision::frame_result::FaceRecord;
use crate::learning::Fault;

/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 128;
/// How long a handshake, the head or the body of a request may take. A
/// connection on which nothing is asked is closed after as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long a picture is waited for; whoever wants one then asks again.
const PICTURE_WAIT: Duration = Duration::from_secs(2);
/// How long until a port is tried again that cannot be had.
const AGAIN: Duration = Duration::from_secs(10);
/// Seconds for which a browser keeps the cookie of a session.
const COOKIE_SECONDS: u64 = 7 * 24 * 3600;

/// All that the page shows and does.
pub struct WebServer {
    plan: Plan,
    handle: DaemonHandle,
    live_view: Arc<LiveView>,
    more: Router,
}

impl WebServer {
    /// The page of a daemon. `more`: what else is to be found beside the API, such
    /// as metrics.
    #[must_use]
    pub fn new(
        plan: Plan,
        handle: DaemonHandle,
        live_view: Arc<LiveView>,
        more: Router,
    ) -> WebServer {
        WebServer {
            plan,
            handle,
            live_view,
            more,
        }
    }
}

/// What handlers and checks share.
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
        // With this prefix browsers take it from this host and by TLS alone.
        if self.is_tls { "__Host-maskd" } else { "maskd" }
    }

    fn set_cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.is_tls { "; Secure" } else { "" };
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Who asks, if they may.
    fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        if self.access.is_open() {
            return Some(Visitor::Anybody);
        }
        if let Some(header) = headers.get(AUTHORIZATION) {
            let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
            let is_known = scheme.eq_ignore_ascii_case("bearer") && self.access.is_token(token);
            return is_known.then_some(Visitor::Anybody);
        }
        let cookie = guard::cookie(headers, self.cookie_name())?;
        let key = lock(&self.sessions).use_cookie(now(), cookie)?;
        Some(Visitor::Session(key))
    }

    /// Whether they still may.
    fn may_stay(&self, visitor: Visitor) -> bool {
        match visitor {
            Visitor::Anybody => true,
            Visitor::Session(key) => lock(&self.sessions).goes_on(now(), &key),
        }
    }
}

/// Who made a request.
#[derive(Debug, Clone, Copy)]
enum Visitor {
    /// With a token, or where nothing is needed.
    Anybody,
    /// Somebody who has logged in.
    Session(SessionKey),
}

/// From where.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries are put and taken whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "sessions and tries are as old as the request that asks"
)]
fn now() -> Instant {
    Instant::now()
}

/// Serves the page until the stop. A port that cannot be had yet is tried again.
///
/// Must be called within a tokio runtime that has I/O and time, on a thread that
/// no frames pass through: handlers block it while they read and write files.
pub async fn serve(site: WebServer, stop: CancellationToken) {
    let listen = site.plan.listen;
    let tls = site.plan.tls.clone();
    let service = TowerToHyperService::new(all_routes(site));
    let serving = async {
        let listener = listener(listen).await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        // The port may be any.
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
                        // Ends with this future, at the latest.
                        connections.spawn(async move {
                            match tls {
                                None => serve_connection(stream, peer.ip(), service).await,
                                Some(tls) => {
                                    let shaken = tokio::time::timeout(PATIENCE, tls.accept(stream));
                                    if let Ok(Ok(stream)) = shaken.await {
                                        serve_connection(stream, peer.ip(), service).await;
                                    }
                                }
                            }
                        });
                    }
                    // Too many open files, or a peer that has gone again.
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

async fn listener(listen: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(source) => {
                if !told {
                    let error = WebError::Listen { listen, source };
                    tracing::warn!(%error, "there is no page yet; it is tried again");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Answers what is asked on a connection, until its end.
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
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever hangs up in the middle is no event.
    let _ = connection.await;
}

fn all_routes(site: WebServer) -> Router {
    let WebServer {
        plan,
        handle,
        live_view,
        more,
    } = site;
    let app: App = Arc::new(Shared {
        access: plan.access,
        allowed_hosts: plan.allowed_hosts,
        is_tls: plan.tls.is_some(),
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
        .merge(more)
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

/// The description of the API, made from its handlers, as JSON.
#[must_use]
pub fn description() -> String {
    let mut api = own_routes().into_openapi();
    api.merge(socket::open_routes().into_openapi());
    let mut api = OpenApi::default().nest("/api/v1", api);
    let about = "Faces at a door, what is decided of them, and what is learned from them. \
                 Times are milliseconds, probabilities 0 to 1.";
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
    // It has no keys that JSON could not have.
    api.to_pretty_json().unwrap_or_default() + "\n"
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], description())
}

async fn no_route() -> Refused {
    Refused::new(Fault::Missing, "there is nothing at this address")
}

async fn no_method() -> Refused {
    let sentence = "this address does not take this method";
    Refused::malformed(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

/// Everything comes from here; nothing is framed, sniffed or told to others.
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

/// What every request has to pass, and what every answer says.
async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Whether the daemon is well (`/healthz`) anybody may know.
    let is_api = path.starts_with("/api/") || path == "/metrics";
    let mut response = match admit(&app, is_api, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pictures of people are not to lie in the cache of a browser.
    let cache = if is_api { "no-store" } else { "no-cache" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

async fn admit(app: &App, is_api: bool, mut request: Request) -> Result<Request, Refused> {
    if !guard::is_ours(request.uri(), request.headers(), &app.allowed_hosts) {
        let sentence = "this is none of the names of this host: add it to web.allowed-hosts";
        return Err(Refused::malformed(
            StatusCode::MISDIRECTED_REQUEST,
            sentence,
        ));
    }
    if is_api && guard::is_foreign(request.method(), request.headers()) {
        let sentence = "another site asks for this";
        return Err(Refused::malformed(StatusCode::FORBIDDEN, sentence));
    }
    // Whoever is to log in has not.
    if is_api && request.uri().path() != "/api/v1/session" {
        let Some(visitor) = app.visitor(request.headers()) else {
            let sentence = "log in first, or send a token";
            return Err(Refused::malformed(StatusCode::UNAUTHORIZED, sentence));
        };
        request.extensions_mut().insert(visitor);
    }
    // The whole body at once: handlers never wait for a slow one.
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, MAX_BODY)).await;
    match read {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => Err(Refused::malformed(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body of the request is broken off, or has more than {MAX_BODY} bytes"),
        )),
        Err(_) => Err(Refused::malformed(
            StatusCode::REQUEST_TIMEOUT,
            "the body of the request came too slowly",
        )),
    }
}

/// Whether somebody has to log in, and has: a documented contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionRecord {
    /// Whether all else may be asked for.
    pub allowed: bool,
    /// Whether there is a password to log in with.
    pub password: bool,
    /// Whether there is a session that can be ended.
    pub session: bool,
}

/// Asks for a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The password.
    pub password: String,
}

#[utoipa::path(
    get, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "Whether somebody has to log in, and has"),
        (status = "default", body = ErrorRecord, description = "Why not"),
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
        (status = 200, body = SessionRecord, description = "With a cookie"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
    security(()),
)]
async fn log_in(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let Ok(LogIn { password }) = serde_json::from_slice(&body) else {
        // What came is not repeated: it may be a password.
        let sentence = "the body of the request is not what it should be: give a password";
        return Err(Refused::new(Fault::Usage, sentence));
    };
    if !app.access.has_password() {
        let sentence = "there is no password to log in with";
        return Err(Refused::new(Fault::Usage, sentence));
    }
    if let Err(wait) = lock(&app.limiter).take(now(), peer) {
        let seconds = wait.as_secs() + 1;
        let sentence = format!("too many wrong passwords: try again in {seconds} s");
        return Err(Refused::too_many(seconds, sentence));
    }
    if !app.access.is_password(&password) {
        tracing::warn!(%peer, "somebody tried to log in with a wrong password");
        let sentence = "this is not the password";
        return Err(Refused::malformed(StatusCode::UNAUTHORIZED, sentence));
    }
    lock(&app.limiter).forgive(peer);
    // A session that somebody else may have put there does not go on.
    forget(&app, &headers);
    let cookie = lock(&app.sessions)
        .begin(now())
        .map_err(|error| Refused::new(Fault::Internal, error))?;
    let set = app.set_cookie(&cookie, COOKIE_SECONDS);
    let record = SessionRecord {
        allowed: true,
        password: true,
        session: true,
    };
    tracing::info!(%peer, "somebody logged in");
    Ok(([(SET_COOKIE, set)], Json(record)).into_response())
}

/// Forgets the session of a request.
fn forget(app: &App, headers: &HeaderMap) {
    let cookie = guard::cookie(headers, app.cookie_name());
    let mut sessions = lock(&app.sessions);
    if let Some(key) = cookie.and_then(|cookie| sessions.use_cookie(now(), cookie)) {
        sessions.end(&key);
    }
}

#[utoipa::path(
    delete, path = "/session", tag = "session",
    responses(
        (status = 200, body = SessionRecord, description = "The cookie opens nothing any more"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
    security(()),
)]
async fn log_out(State(app): State<App>, headers: HeaderMap) -> Response {
    forget(&app, &headers);
    let record = record(&app, app.access.is_open().then_some(Visitor::Anybody));
    ([(SET_COOKIE, app.set_cookie("", 0))], Json(record)).into_response()
}

/// What happens before the camera: a documented contract.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveRecord {
    /// What the daemon is doing.
    #[serde(flatten)]
    pub live: Live,
    /// The newest frame, once there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<LiveFrame>,
}

/// What the newest frame showed: a documented contract.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveFrame {
    /// Its number since the source was opened.
    pub seq: u64,
    /// How long ago it was captured, in milliseconds.
    pub age_ms: u64,
    /// Its width and height in pixels.
    pub size: [u32; 2],
    /// Its faces.
    pub faces: Vec<FaceRecord>,
}

#[utoipa::path(
    get, path = "/live", tag = "live",
    responses(
        (status = 200, body = LiveRecord, description = "What happens before the camera"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn live(State(app): State<App>) -> Json<LiveRecord> {
    let annotated = app.live_view.annotated_frames.borrow().clone();
    let frame = annotated.map(|annotated| {
        let scene = &annotated.scene;
        let faces = scene.faces.iter();
        let (width, height) = annotated.frame.pixels.dimensions();
        LiveFrame {
            seq: scene.seq,
            age_ms: now().saturating_duration_since(scene.at).as_millis() as u64,
            size: [width, height],
            faces: faces
                .map(|face| FaceRecord::new(face, &scene.labels))
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

/// The number of a picture, to ask for the next with.
const NUMBER: HeaderName = HeaderName::from_static("x-picture");

/// The newest picture with a higher number, as soon as it is there; nothing if
/// none comes for a while.
#[utoipa::path(
    get, path = "/live/picture", tag = "live",
    params(("after" = Option<u64>, Query, description = "The number, x-picture, of the last one")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "image/jpeg", description = "The newest picture with a higher number, once it is there"),
        (status = 204, description = "None came for a while: ask again"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn picture(
    State(app): State<App>,
    after: Result<Query<After>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(After { after }) = after?;
    let mut viewer = app.live_view.look();
    let newer = viewer.newer(after.unwrap_or(0));
    let Ok(Some(picture)) = tokio::time::timeout(PICTURE_WAIT, newer).await else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("image/jpeg")),
        (NUMBER, picture.number.into()),
    ];
    Ok((headers, picture.jpeg.clone()).into_response())
}

/// All pictures, for players of MJPEG. Ends with the session.
#[utoipa::path(
    get, path = "/live/stream", tag = "live",
    responses(
        (status = 200, body = Vec<u8>, content_type = "multipart/x-mixed-replace", description = "All pictures, without an end"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn stream(State(app): State<App>, Extension(visitor): Extension<Visitor>) -> Response {
    struct Watching {
        app: App,
        viewer: Viewer,
        number: u64,
    }
    let start = Watching {
        viewer: app.live_view.look(),
        app,
        number: 0,
    };
    let parts = futures_util::stream::unfold(start, move |mut watching| async move {
        let picture = watching.viewer.newer(watching.number).await?;
        if !watching.app.may_stay(visitor) {
            return None;
        }
        let first = if watching.number == 0 {
            "--frame\r\n"
        } else {
            ""
        };
        watching.number = picture.number;
        let length = picture.jpeg.len();
        let mut part =
            format!("{first}Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n")
                .into_bytes();
        part.extend_from_slice(&picture.jpeg);
        // Players show a part when they see its end.
        part.extend_from_slice(b"\r\n--frame\r\n");
        Some((Ok::<_, Infallible>(Bytes::from(part)), watching))
    });
    let content = "multipart/x-mixed-replace; boundary=frame";
    ([(CONTENT_TYPE, content)], Body::from_stream(parts)).into_response()
}
