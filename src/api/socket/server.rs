//! The server of the control socket: the socket file, the routes and their handlers.
//!
//! The page also serves [`open_routes`].

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

use super::types::{FileRequest, FolderRequest};
use super::{
    ControlError, DaemonHandle, EnrollRequest, ErrorRecord, HeadInUse, LabelRequest,
    RollbackRequest, Status,
};
use crate::api::file_work;
use crate::config::settings::{Change, SettingsRecord};
use crate::learning::Enrollment;
use crate::learning::{
    CountRecord, ExportRecord, FailureKind, HeadRecord, ImportRecord, LabelResult, Learning,
    LearningError, Purge, QueueRecord, RefitRecord, RemovedRecord, SampleRecord,
};
use crate::platform::clock::ClockReading;

/// Maximum size of a request body in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Mode of the socket file: its user and group may connect.
const MODE: u32 = 0o660;
/// How long requests in progress may continue after a stop before they are aborted.
const GRACE: Duration = Duration::from_secs(1);

/// A listening socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If the file cannot be removed, the next daemon replaces it.
        let _ = fs::remove_file(&self.0);
    }
}

/// A folder that other users cannot enter. It holds a socket whose mode is not set yet.
struct PendingSocket(PathBuf);

impl PendingSocket {
    fn beside(path: &Path) -> std::io::Result<PendingSocket> {
        // The name is short because a socket's path can have at most 107 bytes.
        let pending = PendingSocket(path.with_file_name(format!(".{}", std::process::id())));
        // A killed process with the same id may have left the folder behind.
        pending.remove();
        DirBuilder::new().mode(0o700).create(&pending.0)?;
        Ok(pending)
    }

    fn path(&self) -> PathBuf {
        self.0.join("s")
    }

    fn remove(&self) {
        let _ = fs::remove_file(self.path());
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for PendingSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Creates the socket for its user and group (mode 0660) and listens. A socket file
/// that no process listens on is replaced.
///
/// The socket is moved to its path after its mode has been set, so that no other user
/// can connect in between.
///
/// # Errors
/// [`ControlError::InUse`], [`ControlError::NoSocket`],
/// [`ControlError::TooLong`], [`ControlError::Io`].
pub fn bind(path: &Path) -> Result<Socket, ControlError> {
    let shown = || path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        // The only cause of this error is a path that is too long.
        ErrorKind::InvalidInput => ControlError::TooLong { path: shown() },
        _ => ControlError::io("create", path)(error),
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
    let pending = PendingSocket::beside(path).map_err(failed)?;
    let listener = UnixListener::bind(pending.path()).map_err(failed)?;
    fs::set_permissions(pending.path(), Permissions::from_mode(MODE)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::rename(pending.path(), path).map_err(failed)?;
    Ok(Socket {
        listener,
        file: SocketFile(path.to_owned()),
    })
}

/// Answers requests until `stop` is canceled. It then finishes the requests in progress,
/// or aborts them after a second, and removes the socket.
///
/// Must be called within a tokio runtime that has I/O, time and blocking threads.
/// `more` contains additional routes, such as the metrics.
///
/// # Errors
/// [`ControlError::Io`] if the system refuses to listen.
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
    // The routes whose requests name a path on the device.
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

/// The routes that the page also serves, with their `OpenAPI` description. None of them
/// takes a path on the device. The caller nests them under `/api/v1`.
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

/// An answer that reports a failure.
#[derive(Debug)]
pub struct ErrorResponse {
    status: StatusCode,
    record: ErrorRecord,
    /// Value of the header `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl ErrorResponse {
    /// Creates an answer with the status that matches the fault.
    pub fn new(fault: FailureKind, sentence: impl std::fmt::Display) -> ErrorResponse {
        let status = match fault {
            FailureKind::Usage => StatusCode::BAD_REQUEST,
            FailureKind::Data => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::Missing => StatusCode::NOT_FOUND,
            FailureKind::NotNow => StatusCode::CONFLICT,
            FailureKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            FailureKind::System | FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        ErrorResponse {
            status,
            record: ErrorRecord {
                error: sentence.to_string(),
                fault,
            },
            retry_after: None,
        }
    }

    /// Creates an answer to a request that no handler accepts.
    pub fn malformed(status: StatusCode, sentence: impl std::fmt::Display) -> ErrorResponse {
        ErrorResponse {
            status,
            ..ErrorResponse::new(FailureKind::Usage, sentence)
        }
    }

    /// Creates an answer to a client that has sent too many requests. The client may retry
    /// after `retry_after` seconds.
    pub fn too_many(retry_after: u64, sentence: impl std::fmt::Display) -> ErrorResponse {
        ErrorResponse {
            retry_after: Some(retry_after),
            ..ErrorResponse::malformed(StatusCode::TOO_MANY_REQUESTS, sentence)
        }
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let retry_after = self
            .retry_after
            .map(|seconds| [(RETRY_AFTER, seconds.to_string())]);
        (self.status, retry_after, Json(self.record)).into_response()
    }
}

impl From<LearningError> for ErrorResponse {
    fn from(error: LearningError) -> ErrorResponse {
        ErrorResponse::new(error.kind(), error)
    }
}

impl From<ErrorRecord> for ErrorResponse {
    fn from(record: ErrorRecord) -> ErrorResponse {
        ErrorResponse::new(record.fault, record.error)
    }
}

impl From<PathRejection> for ErrorResponse {
    fn from(rejection: PathRejection) -> ErrorResponse {
        ErrorResponse::malformed(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ErrorResponse {
    fn from(rejection: QueryRejection) -> ErrorResponse {
        ErrorResponse::malformed(rejection.status(), rejection.body_text())
    }
}

/// A JSON body with any content type, unlike axum's `Json`, which requires a JSON content
/// type.
struct JsonBody<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, ErrorResponse> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                ErrorResponse::malformed(rejection.status(), rejection.body_text())
            })?;
        serde_json::from_slice(&bytes)
            .map(JsonBody)
            .map_err(|error| {
                let sentence = format!("the body of the request is invalid: {error}");
                ErrorResponse::new(FailureKind::Usage, sentence)
            })
    }
}

type Answer<T> = Result<Json<T>, ErrorResponse>;

/// Runs work that reads or writes files on another thread, and returns its result.
async fn file_work<T: Send + 'static>(
    handle: DaemonHandle,
    work: impl FnOnce(&DaemonHandle) -> Result<T, ErrorResponse> + Send + 'static,
) -> Result<T, ErrorResponse> {
    let result = file_work::run(move || work(&handle)).await;
    result.unwrap_or_else(|| {
        let sentence = "the request ended unexpectedly; see the log of the daemon";
        Err(ErrorResponse::new(FailureKind::Internal, sentence))
    })
}

/// Same as [`file_work`], but answers with JSON.
async fn answer<T: Send + 'static>(
    handle: DaemonHandle,
    work: impl FnOnce(&DaemonHandle) -> Result<T, ErrorResponse> + Send + 'static,
) -> Answer<T> {
    file_work(handle, work).await.map(Json)
}

/// Refuses a relative path, because the client does not know the daemon's working
/// directory.
fn absolute(path: &Path) -> Result<&Path, ErrorResponse> {
    if path.is_absolute() {
        Ok(path)
    } else {
        let sentence = format!(
            "{} is not an absolute path: pass an absolute one",
            path.display()
        );
        Err(ErrorResponse::new(FailureKind::Usage, sentence))
    }
}

async fn no_route() -> ErrorResponse {
    ErrorResponse::new(FailureKind::Missing, "there is nothing at this address")
}

async fn no_method() -> ErrorResponse {
    let sentence = "this address does not support this method";
    ErrorResponse::malformed(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

#[utoipa::path(
    get, path = "/status", tag = "status",
    responses(
        (status = 200, body = Status, description = "The state of the daemon"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn status(State(handle): State<DaemonHandle>) -> Answer<Status> {
    answer(handle, |handle| {
        let state = handle.learning.state();
        let mut live = handle.live.borrow().clone();
        let learning = handle.learning().ok();
        let samples = learning.map(Learning::stats).transpose();
        // A disk that fails must not hide what the daemon does at the door.
        let samples = samples.unwrap_or_else(|error| {
            live.learning.off_because = Some(error.to_string());
            None
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.canonicalize().unwrap_or_else(|_| state.to_owned()),
            live,
            samples: samples.unwrap_or_default(),
            enrollment: handle.enrollment(),
            new_labels: learning.map_or(0, |learning| learning.new_labels().unwrap_or(0)),
            last_refit: learning.and_then(Learning::last_refit),
        })
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    label: Option<String>,
}

#[utoipa::path(
    get, path = "/samples", tag = "samples",
    params(("label" = Option<String>, Query, description = "Only samples with this label, or \"unlabelled\"")),
    responses(
        (status = 200, body = Vec<SampleRecord>, description = "The samples by id"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn samples(
    State(handle): State<DaemonHandle>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Answer<Vec<SampleRecord>> {
    let Query(filter) = filter?;
    answer(handle, move |handle| {
        Ok(handle.learning()?.samples(filter.label.as_deref())?)
    })
    .await
}

#[utoipa::path(
    get, path = "/samples/stats", tag = "samples",
    responses(
        (status = 200, body = BTreeMap<String, CountRecord>, description = "Counts by label"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn stats(State(handle): State<DaemonHandle>) -> Answer<BTreeMap<String, CountRecord>> {
    answer(handle, |handle| Ok(handle.learning()?.stats()?)).await
}

#[utoipa::path(
    get, path = "/samples/{id}/picture", tag = "samples",
    params(("id" = String, Path, description = "Id of a sample")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "image/*", description = "The picture file"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn picture(
    State(handle): State<DaemonHandle>,
    id: Result<At<String>, PathRejection>,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), ErrorResponse> {
    let At(id) = id?;
    let picture = file_work(handle, move |handle| Ok(handle.learning()?.picture(&id)?)).await?;
    let format = image::guess_format(&picture);
    let content = format.map_or("application/octet-stream", |format| format.to_mime_type());
    Ok(([(CONTENT_TYPE, content)], picture))
}

#[utoipa::path(
    post, path = "/samples/label", tag = "samples",
    request_body = LabelRequest,
    responses(
        (status = 200, body = LabelResult, description = "The result for each sample"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn label(
    State(handle): State<DaemonHandle>,
    JsonBody(request): JsonBody<LabelRequest>,
) -> Answer<LabelResult> {
    let LabelRequest { chosen, mark } = request;
    answer(handle, move |handle| {
        Ok(handle.learning()?.label(chosen, &mark)?)
    })
    .await
}

async fn import(
    State(handle): State<DaemonHandle>,
    JsonBody(FolderRequest { folder }): JsonBody<FolderRequest>,
) -> Answer<ImportRecord> {
    answer(handle, move |handle| {
        Ok(handle.learning()?.import(absolute(&folder)?)?)
    })
    .await
}

async fn export(
    State(handle): State<DaemonHandle>,
    JsonBody(FolderRequest { folder }): JsonBody<FolderRequest>,
) -> Answer<ExportRecord> {
    answer(handle, move |handle| {
        Ok(handle.learning()?.export(absolute(&folder)?)?)
    })
    .await
}

#[utoipa::path(
    post, path = "/samples/purge", tag = "samples",
    request_body = Purge,
    responses(
        (status = 200, body = RemovedRecord, description = "What was deleted"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn purge(
    State(handle): State<DaemonHandle>,
    JsonBody(purge): JsonBody<Purge>,
) -> Answer<RemovedRecord> {
    answer(handle, move |handle| {
        let removed = handle.learning()?.purge(&purge, ClockReading::now())?;
        tracing::info!(
            unlabelled = removed.unlabelled,
            labelled = removed.labelled,
            "face pictures deleted on request"
        );
        Ok(removed)
    })
    .await
}

#[utoipa::path(
    post, path = "/enroll", tag = "enroll",
    request_body = EnrollRequest,
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that was started"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn enroll(
    State(handle): State<DaemonHandle>,
    JsonBody(request): JsonBody<EnrollRequest>,
) -> Answer<Enrollment> {
    Ok(Json(handle.enroll(&request.label, request.count)?))
}

fn never_enrolled() -> ErrorResponse {
    ErrorResponse::new(
        FailureKind::Missing,
        "nobody has been enrolled since the daemon started",
    )
}

#[utoipa::path(
    get, path = "/enroll", tag = "enroll",
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that is going on, or the last one"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn enrollment(State(handle): State<DaemonHandle>) -> Answer<Enrollment> {
    handle.enrollment().map(Json).ok_or_else(never_enrolled)
}

#[utoipa::path(
    delete, path = "/enroll", tag = "enroll",
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that was ended"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn end_enrollment(State(handle): State<DaemonHandle>) -> Answer<Enrollment> {
    let ended = handle.end_enrollment();
    ended.map(Json).ok_or_else(never_enrolled)
}

/// Waits until the refit thread is free, and then for its answer. A client that
/// disconnects does not cancel the refit.
#[utoipa::path(
    post, path = "/refit", tag = "refit",
    responses(
        (status = 200, body = RefitRecord, description = "The result, when the refit is done"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn refit(State(handle): State<DaemonHandle>) -> Answer<RefitRecord> {
    let gone = || {
        let sentence = "the daemon is not learning any more: it is stopping; otherwise restart it";
        ErrorResponse::new(FailureKind::Unavailable, sentence)
    };
    let (request, answer) = oneshot::channel();
    handle.refit.send(request).await.map_err(|_| gone())?;
    let record = answer.await.map_err(|_| gone())?;
    Ok(Json(record?))
}

#[utoipa::path(
    get, path = "/heads", tag = "heads",
    responses(
        (status = 200, body = Vec<HeadRecord>, description = "All heads by number"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn heads(State(handle): State<DaemonHandle>) -> Answer<Vec<HeadRecord>> {
    answer(handle, |handle| Ok(handle.learning()?.head_records()?)).await
}

#[utoipa::path(
    get, path = "/heads/{number}", tag = "heads",
    params(("number" = u32, Path, description = "Number of a head")),
    responses(
        (status = 200, body = HeadRecord, description = "A head"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn head(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    answer(handle, move |handle| Ok(handle.learning()?.head(number)?)).await
}

#[utoipa::path(
    get, path = "/heads/{number}/file", tag = "heads",
    params(("number" = u32, Path, description = "Number of a head")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "The file"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn head_file(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
) -> Result<Vec<u8>, ErrorResponse> {
    let At(number) = number?;
    file_work(handle, move |handle| {
        Ok(handle.learning()?.head_file(number)?)
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueLimit {
    groups: Option<usize>,
}

/// Maximum number of groups in a queue if the request sets no limit.
const QUEUE_GROUPS: usize = 50;

#[utoipa::path(
    get, path = "/queue", tag = "queue",
    params(("groups" = Option<usize>, Query, description = "Maximum number of groups; 50 if absent")),
    responses(
        (status = 200, body = QueueRecord, description = "The crops without a label, the most useful first"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn queue(
    State(handle): State<DaemonHandle>,
    limit: Result<Query<QueueLimit>, QueryRejection>,
) -> Answer<QueueRecord> {
    let Query(limit) = limit?;
    let groups = limit.groups.unwrap_or(QUEUE_GROUPS);
    answer(handle, move |handle| {
        Ok(handle.learning()?.queue(groups)?)
    })
    .await
}

#[utoipa::path(
    get, path = "/settings", tag = "settings",
    responses(
        (status = 200, body = SettingsRecord, description = "The settings now"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
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
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn change_settings(
    State(handle): State<DaemonHandle>,
    JsonBody(change): JsonBody<Change>,
) -> Answer<SettingsRecord> {
    answer(handle, move |handle| {
        let changed = handle.settings.change(change);
        changed.map_err(|problems| ErrorResponse::new(FailureKind::Usage, problems))
    })
    .await
}

async fn export_head(
    State(handle): State<DaemonHandle>,
    number: Result<At<u32>, PathRejection>,
    JsonBody(FileRequest { path }): JsonBody<FileRequest>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    answer(handle, move |handle| {
        handle.learning()?.export_head(number, absolute(&path)?)?;
        Ok(handle.learning()?.head(number)?)
    })
    .await
}

async fn import_head(
    State(handle): State<DaemonHandle>,
    JsonBody(FileRequest { path }): JsonBody<FileRequest>,
) -> Answer<HeadInUse> {
    answer(handle, move |handle| {
        let number = handle.learning()?.import_head(absolute(&path)?)?;
        Ok(changed(Some(number)))
    })
    .await
}

#[utoipa::path(
    post, path = "/heads/rollback", tag = "heads",
    request_body = RollbackRequest,
    responses(
        (status = 200, body = HeadInUse, description = "The head in use now"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn rollback(
    State(handle): State<DaemonHandle>,
    JsonBody(RollbackRequest { steps }): JsonBody<RollbackRequest>,
) -> Answer<HeadInUse> {
    answer(handle, move |handle| {
        let number = handle.learning()?.rollback(steps)?;
        Ok(changed(number))
    })
    .await
}

/// Logs that a person has put another head into use.
fn changed(head: Option<u32>) -> HeadInUse {
    tracing::info!(model = head.unwrap_or(0), "model changed on request");
    HeadInUse { head }
}
