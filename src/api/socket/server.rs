//! The daemon's side: the socket and the routes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Path as At, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    ControlError, DaemonHandle, EnrollRequest, ErrorRecord, File, Folder, LabelRequest,
    RollbackRequest, Status, Switched,
};
use crate::config::settings::{Change, SettingsRecord};
use crate::learning::{
    CountRecord, Enrollment, ExportRecord, FailureKind, HeadRecord, ImportRecord, LabelResult,
    LearningError, Purge, QueueRecord, RefitRecord, RemovedRecord, SampleRecord,
};

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Who may connect: user and group.
const MODE: u32 = 0o660;
/// Requests that are not done so long after the stop are broken off.
const GRACE: Duration = Duration::from_secs(1);

/// A socket that takes connections. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays is found to be stale by the next daemon.
        let _ = fs::remove_file(&self.0);
    }
}

/// A folder that nobody else can look into, for a socket that is not ready.
struct Private(PathBuf);

impl Private {
    fn beside(path: &Path) -> std::io::Result<Private> {
        // The name is short: it counts for the length of the socket's path.
        let private = Private(path.with_file_name(format!(".{}", std::process::id())));
        // What a killed process of the same number left.
        private.remove();
        DirBuilder::new().mode(0o700).create(&private.0)?;
        Ok(private)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    fn remove(&self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes the socket, for its user and group (mode 0660), and listens. One that
/// nobody listens on any more is replaced.
///
/// It gets its name when it has its mode: nobody can connect before.
///
/// # Errors
/// [`ControlError::InUse`], [`ControlError::NoSocket`],
/// [`ControlError::TooLong`], [`ControlError::Io`].
pub fn bind(path: &Path) -> Result<Socket, ControlError> {
    let shown = || path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        // Of a socket's path only its length can be wrong.
        ErrorKind::InvalidInput => ControlError::TooLong { path: shown() },
        _ => ControlError::io("make", path)(error),
    };
    match UnixStream::connect(path) {
        Ok(_) => return Err(ControlError::InUse { path: shown() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let file = fs::symlink_metadata(path);
            if !file.is_ok_and(|file| file.file_type().is_socket()) {
                return Err(ControlError::NoSocket { path: shown() });
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let private = Private::beside(path).map_err(failed)?;
    let pending = private.socket();
    let listener = UnixListener::bind(&pending).map_err(failed)?;
    fs::set_permissions(&pending, Permissions::from_mode(MODE)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::rename(&pending, path).map_err(failed)?;
    Ok(Socket {
        listener,
        file: SocketFile(path.to_owned()),
    })
}

/// Answers requests until `stop`, then ends those that are being answered (or,
/// after a second, breaks them off), and removes the socket.
///
/// Must be called within a tokio runtime that has I/O and time; handlers block
/// it while they read and write files. `more`: what else is to be found beside
/// the API.
///
/// # Errors
/// [`ControlError::Io`] if the system refuses to wait for connections.
pub async fn serve(
    socket: Socket,
    handle: DaemonHandle,
    more: Router,
    stop: CancellationToken,
) -> Result<(), ControlError> {
    let Socket { listener, file } = socket;
    let failed = ControlError::io("listen on", &file.0);
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return Err(failed(error)),
    };
    let served = axum::serve(listener, all_routes(handle, more))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served => served.map_err(failed),
        () = late => Ok(()),
    }
}

fn all_routes(handle: DaemonHandle, more: Router) -> Router {
    // These read and write files that are named by their paths.
    let local = Router::new()
        .route("/samples/import", post(import))
        .route("/samples/export", post(export))
        .route("/heads/{number}/export", post(export_head))
        .route("/heads/import", post(import_head))
        .with_state(handle.clone());
    let open = Router::from(open_routes().with_state(handle)).merge(local);
    Router::new()
        .nest("/api/v1", open)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .merge(more)
}

/// What may be asked for from outside too: nothing that names a path of the
/// device. To be nested under `/api/v1`, with its description.
#[must_use]
pub fn open_routes() -> OpenApiRouter<DaemonHandle> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(samples))
        .routes(routes!(stats))
        .routes(routes!(picture))
        .routes(routes!(label))
        .routes(routes!(purge))
        .routes(routes!(queue))
        .routes(routes!(settings, change_settings))
        .routes(routes!(enrollment, enroll, end_enrollment))
        .routes(routes!(refit))
        .routes(routes!(heads))
        .routes(routes!(head))
        .routes(routes!(head_file))
        .routes(routes!(rollback))
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    record: ErrorRecord,
    /// In seconds.
    retry_after: Option<u64>,
}

impl Refused {
    /// With the status that fits the fault.
    pub fn new(fault: FailureKind, sentence: impl std::fmt::Display) -> Refused {
        let status = match fault {
            FailureKind::Usage => StatusCode::BAD_REQUEST,
            FailureKind::Data => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::Missing => StatusCode::NOT_FOUND,
            FailureKind::NotNow => StatusCode::CONFLICT,
            FailureKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            FailureKind::System | FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused {
            status,
            record: ErrorRecord {
                error: sentence.to_string(),
                fault,
            },
            retry_after: None,
        }
    }

    /// A request that is none of ours.
    pub fn malformed(status: StatusCode, sentence: impl std::fmt::Display) -> Refused {
        Refused {
            status,
            ..Refused::new(FailureKind::Usage, sentence)
        }
    }

    /// A request that came too soon after others, with in how many seconds to come again.
    pub fn too_many(retry_after: u64, sentence: impl std::fmt::Display) -> Refused {
        Refused {
            retry_after: Some(retry_after),
            ..Refused::malformed(StatusCode::TOO_MANY_REQUESTS, sentence)
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let retry_after = self
            .retry_after
            .map(|seconds| [(RETRY_AFTER, seconds.to_string())]);
        (self.status, retry_after, Json(self.record)).into_response()
    }
}

impl From<LearningError> for Refused {
    fn from(error: LearningError) -> Refused {
        Refused::new(error.kind(), error)
    }
}

impl From<ErrorRecord> for Refused {
    fn from(record: ErrorRecord) -> Refused {
        Refused::new(record.fault, record.error)
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Refused {
        Refused::malformed(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Refused {
        Refused::malformed(rejection.status(), rejection.body_text())
    }
}

/// The JSON of a body, whatever its content type is called.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refused> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Refused::malformed(rejection.status(), rejection.body_text()))?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            let sentence = format!("the body of the request is not what it should be: {error}");
            Refused::new(FailureKind::Usage, sentence)
        })
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// The daemon's working directory is none that anybody thinks of.
fn absolute(path: &Path) -> Result<&Path, Refused> {
    if path.is_absolute() {
        Ok(path)
    } else {
        let sentence = format!("{} is no absolute path: name one", path.display());
        Err(Refused::new(FailureKind::Usage, sentence))
    }
}

async fn no_route() -> Refused {
    Refused::new(FailureKind::Missing, "there is nothing at this address")
}

async fn no_method() -> Refused {
    let sentence = "this address does not take this method";
    Refused::malformed(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

#[utoipa::path(
    get, path = "/status", tag = "status",
    responses(
        (status = 200, body = Status, description = "Everything at a glance"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn status(State(handle): State<DaemonHandle>) -> Answer<Status> {
    let learning = &handle.learning;
    let state = learning.state();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: state.canonicalize().unwrap_or_else(|_| state.to_owned()),
        live: handle.live.borrow().clone(),
        samples: learning.stats()?,
        enrollment: handle.enrollment().clone(),
        new_labels: learning.new_labels()?,
        last_refit: learning.last_refit(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    label: Option<String>,
}

#[utoipa::path(
    get, path = "/samples", tag = "samples",
    params(("label" = Option<String>, Query, description = "Those of a label alone, or \"unlabelled\"")),
    responses(
        (status = 200, body = Vec<SampleRecord>, description = "The samples by id"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn samples(
    State(handle): State<DaemonHandle>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Answer<Vec<SampleRecord>> {
    let Query(filter) = filter?;
    Ok(Json(handle.learning.samples(filter.label.as_deref())?))
}

#[utoipa::path(
    get, path = "/samples/stats", tag = "samples",
    responses(
        (status = 200, body = BTreeMap<String, CountRecord>, description = "Counts by label"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn stats(State(handle): State<DaemonHandle>) -> Answer<BTreeMap<String, CountRecord>> {
    Ok(Json(handle.learning.stats()?))
}

#[utoipa::path(
    get, path = "/samples/{id}/picture", tag = "samples",
    params(("id" = String, Path, description = "Of a sample")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "image/*", description = "The bytes of its picture"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn picture(
    State(handle): State<DaemonHandle>,
    id: Result<At<String>, PathRejection>,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), Refused> {
    let At(id) = id?;
    let picture = handle.learning.picture(&id)?;
    let format = image::guess_format(&picture);
    let content = format.map_or("application/octet-stream", |format| format.to_mime_type());
    Ok(([(CONTENT_TYPE, content)], picture))
}

#[utoipa::path(
    post, path = "/samples/label", tag = "samples",
    request_body = LabelRequest,
    responses(
        (status = 200, body = LabelResult, description = "What became of each sample"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn label(
    State(handle): State<DaemonHandle>,
    Body(marking): Body<LabelRequest>,
) -> Answer<LabelResult> {
    let LabelRequest { chosen, mark } = marking;
    Ok(Json(handle.learning.label(chosen, &mark)?))
}

async fn import(
    State(handle): State<DaemonHandle>,
    Body(from): Body<Folder>,
) -> Answer<ImportRecord> {
    Ok(Json(handle.learning.import(absolute(&from.folder)?)?))
}

async fn export(
    State(handle): State<DaemonHandle>,
    Body(to): Body<Folder>,
) -> Answer<ExportRecord> {
    Ok(Json(handle.learning.export(absolute(&to.folder)?)?))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the age of samples is that at the time of the request"
)]
#[utoipa::path(
    post, path = "/samples/purge", tag = "samples",
    request_body = Purge,
    responses(
        (status = 200, body = RemovedRecord, description = "What was deleted"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn purge(
    State(handle): State<DaemonHandle>,
    Body(purge): Body<Purge>,
) -> Answer<RemovedRecord> {
    let now = std::time::SystemTime::now();
    let removed = handle.learning.purge(&purge, now)?;
    tracing::info!(
        unlabelled = removed.unlabelled,
        labelled = removed.labelled,
        "samples were deleted as asked"
    );
    Ok(Json(removed))
}

#[utoipa::path(
    post, path = "/enroll", tag = "enroll",
    request_body = EnrollRequest,
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that was begun"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn enroll(
    State(handle): State<DaemonHandle>,
    Body(wanted): Body<EnrollRequest>,
) -> Answer<Enrollment> {
    Ok(Json(handle.enroll(&wanted.label, wanted.count)?))
}

fn never_enrolled() -> Refused {
    Refused::new(
        FailureKind::Missing,
        "nobody has been enrolled since the start",
    )
}

#[utoipa::path(
    get, path = "/enroll", tag = "enroll",
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that goes on, or the last one"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn enrollment(State(handle): State<DaemonHandle>) -> Answer<Enrollment> {
    let enrollment = handle.enrollment().clone();
    enrollment.map(Json).ok_or_else(never_enrolled)
}

#[utoipa::path(
    delete, path = "/enroll", tag = "enroll",
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that was ended"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn end_enrollment(State(handle): State<DaemonHandle>) -> Answer<Enrollment> {
    let ended = handle.end_enrollment();
    ended.map(Json).ok_or_else(never_enrolled)
}

/// Waits until the trainer has time, and then for its answer; a request that is
/// given up does not stop it.
#[utoipa::path(
    post, path = "/refit", tag = "refit",
    responses(
        (status = 200, body = RefitRecord, description = "What came of it, when it is done"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn refit(State(handle): State<DaemonHandle>) -> Answer<RefitRecord> {
    let gone = || {
        let sentence = "the daemon is not learning any more: it stops, or has to be restarted";
        Refused::new(FailureKind::Unavailable, sentence)
    };
    let (call, answer) = oneshot::channel();
    handle.refit.send(call).await.map_err(|_| gone())?;
    let record = answer.await.map_err(|_| gone())?;
    Ok(Json(record?))
}

#[utoipa::path(
    get, path = "/heads", tag = "heads",
    responses(
        (status = 200, body = Vec<HeadRecord>, description = "All heads by number"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn heads(State(handle): State<DaemonHandle>) -> Answer<Vec<HeadRecord>> {
    Ok(Json(handle.learning.head_records()?))
}

#[utoipa::path(
    get, path = "/heads/{number}", tag = "heads",
    params(("number" = u32, Path, description = "Of a head")),
    responses(
        (status = 200, body = HeadRecord, description = "A head"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn head(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    Ok(Json(handle.learning.head(number)?))
}

#[utoipa::path(
    get, path = "/heads/{number}/file", tag = "heads",
    params(("number" = u32, Path, description = "Of a head")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "The bytes of its file"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn head_file(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
) -> Result<Vec<u8>, Refused> {
    let At(number) = number?;
    Ok(handle.learning.head_file(number)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Most {
    groups: Option<usize>,
}

/// Groups of a queue, unless a request asks for fewer or more.
const GROUPS: usize = 50;

#[utoipa::path(
    get, path = "/queue", tag = "queue",
    params(("groups" = Option<usize>, Query, description = "At most so many; 50 if absent")),
    responses(
        (status = 200, body = QueueRecord, description = "The crops that wait for a label"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn queue(
    State(handle): State<DaemonHandle>,
    most: Result<Query<Most>, QueryRejection>,
) -> Answer<QueueRecord> {
    let Query(most) = most?;
    Ok(Json(handle.learning.queue(most.groups.unwrap_or(GROUPS))?))
}

#[utoipa::path(
    get, path = "/settings", tag = "settings",
    responses(
        (status = 200, body = SettingsRecord, description = "The settings now"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn settings(State(handle): State<DaemonHandle>) -> Json<SettingsRecord> {
    Json(handle.settings.record())
}

#[utoipa::path(
    patch, path = "/settings", tag = "settings",
    request_body = Change,
    responses(
        (status = 200, body = SettingsRecord, description = "The settings after the change"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn change_settings(
    State(handle): State<DaemonHandle>,
    Body(change): Body<Change>,
) -> Answer<SettingsRecord> {
    let changed = handle.settings.change(change);
    changed
        .map(Json)
        .map_err(|problems| Refused::new(FailureKind::Usage, problems))
}

async fn export_head(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
    Body(to): Body<File>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    handle.learning.export_head(number, absolute(&to.path)?)?;
    Ok(Json(handle.learning.head(number)?))
}

async fn import_head(
    State(handle): State<DaemonHandle>,
    Body(from): Body<File>,
) -> Answer<Switched> {
    let number = handle.learning.import_head(absolute(&from.path)?)?;
    switched(&handle, Some(number))
}

#[utoipa::path(
    post, path = "/heads/rollback", tag = "heads",
    request_body = RollbackRequest,
    responses(
        (status = 200, body = Switched, description = "The head in use now"),
        (status = "default", body = ErrorRecord, description = "Why not"),
    ),
)]
async fn rollback(
    State(handle): State<DaemonHandle>,
    Body(back): Body<RollbackRequest>,
) -> Answer<Switched> {
    let number = handle.learning.rollback(back.steps)?;
    switched(&handle, number)
}

/// Hands the head that is in use now to the camera path.
fn switched(handle: &DaemonHandle, head: Option<u32>) -> Answer<Switched> {
    super::hand_over(&handle.learning, &handle.head)?;
    tracing::info!(head, "another head is in use, as asked");
    Ok(Json(Switched { head }))
}
