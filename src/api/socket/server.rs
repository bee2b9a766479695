//! The server of the control socket: the routes and their handlers.
//!
//! The page also serves [`open_routes`].

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path as At, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ErrorResponse, JsonBody, OptionalJsonBody};
use super::classify;
use super::counts;
use super::device_routes;
use super::listener::Socket;
use super::types::{FileRequest, FolderRequest};
use super::upload;
use super::{
    ControlError, DaemonHandle, EnrollRequest, ErrorRecord, HeadInUse, LabelRequest, RefitRequest,
    RestoreRequest, RollbackRequest, Status, TrainRequest, UndoRequest,
};
use crate::api::connections::{Client, Connections, Limits, read_body};
use crate::api::file_work::{self, Length, Progress};
use crate::config::settings::{Change, SettingsRecord};
use crate::events::Event;
use crate::learning::Enrollment;
use crate::learning::{
    Channel, CountRecord, ExportRecord, FailureKind, HeadRecord, ImportRecord, LabelResult,
    LabelSummary, Learning, Purge, QueueRecord, RefitRecord, RefitTrigger, RemovedRecord,
    SampleFilter, SampleRecord, SwitchRecord, UndoRecord, UnusedRecord,
};
use crate::platform::clock::ClockReading;

/// Limits on the number of connections. There is no limit per network, because only the
/// socket's owner and group can connect.
const LIMITS: Limits = Limits {
    total: 512,
    per_network: usize::MAX,
};
/// How long requests in progress may continue after the daemon is asked to stop. After
/// this time, they are aborted.
const GRACE: Duration = Duration::from_secs(1);

/// Maximum duration of an enrollment if the request does not set one.
const ENROLLMENT: Duration = Duration::from_secs(30);
/// How often the server checks that the socket's file still exists.
const FILE_CHECK: Duration = Duration::from_secs(2);

/// Serves requests until `stop` is triggered. Then this function finishes the requests in
/// progress, aborts those that take longer than a second, and removes the socket.
///
/// Must be called within a tokio runtime that has I/O, time, and blocking threads. `more`
/// contains additional routes, such as the metrics.
///
/// # Errors
/// Returns [`ControlError::Io`] if the system refuses to listen, and
/// [`ControlError::Removed`] if another program removes or replaces the socket's file.
pub async fn serve(
    socket: Socket,
    handle: DaemonHandle,
    more: Router,
    stop: CancellationToken,
) -> Result<(), ControlError> {
    let Socket { listener, file } = socket;
    let listener = tokio::net::UnixListener::from_std(listener)
        .map_err(ControlError::io("listen on", &file.path))?;
    let service = TowerToHyperService::new(all_routes(handle, more));
    let connections = Connections::new(LIMITS);
    let mut running = JoinSet::new();
    let mut file_check = tokio::time::interval(FILE_CHECK);
    let served = loop {
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            Some(_ended) = running.join_next() => {}
            _ = file_check.tick() => {
                if !file.is_in_place() {
                    let path = file.path.display().to_string();
                    break Err(ControlError::Removed { path });
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(place) = connections.admit(None) else { continue };
                    let (service, stop) = (service.clone(), stop.clone());
                    running.spawn(async move {
                        place.serve(place.watch(stream), service, None, &stop).await;
                    });
                }
                // Either too many files are open, or the client has already disconnected.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    };
    drop(listener);
    if served.is_ok() {
        let finishing = async { while running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, finishing).await;
    } else {
        // The requests in progress are finished even though clients can no longer connect.
        running.detach_all();
    }
    served
}

/// Reads each request completely before passing it on to its handler.
async fn check(request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>().cloned();
    match read_body(request).await {
        Ok(request) => {
            let _handling = client.as_ref().map(Client::handling);
            next.run(request).await
        }
        Err(error) => ErrorResponse::from(error).into_response(),
    }
}

fn all_routes(handle: DaemonHandle, more: Router) -> Router {
    // These routes accept requests that name a path on the device.
    let local = Router::new()
        .route("/samples/unused", get(unused))
        .route("/samples/import", post(import))
        .route("/samples/export", post(export))
        .route("/heads/{number}/export", post(export_head))
        .route("/heads/import", post(import_head))
        .with_state(handle.clone());
    let open = Router::from(open_routes().with_state(handle)).merge(local);
    let open = open.layer(Extension(Channel::CommandLine));
    Router::new()
        .nest("/api/v1", open)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .merge(more)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(check))
}

/// Returns the routes that the page also serves, with their `OpenAPI` description. None of
/// them accepts a path on the device. The caller nests them under `/api/v1`, and adds the
/// [`Channel`] on which the requests arrive as an extension.
#[must_use]
pub fn open_routes() -> OpenApiRouter<DaemonHandle> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(device_routes::device))
        .routes(routes!(device_routes::led_test))
        .routes(routes!(events))
        .routes(routes!(counts::counts))
        .routes(routes!(samples))
        .routes(routes!(stats))
        .routes(routes!(picture))
        .routes(routes!(label))
        .routes(routes!(undo))
        .routes(routes!(restore))
        .routes(routes!(purge))
        .routes(routes!(queue))
        .routes(routes!(settings, change_settings))
        .routes(routes!(enrollment, enroll, end_enrollment))
        .routes(routes!(enrollment_of, end_enrollment_of))
        .routes(routes!(refit))
        .routes(routes!(classify::classify))
        .routes(routes!(upload::upload))
        .routes(routes!(heads))
        .routes(routes!(history))
        .routes(routes!(head))
        .routes(routes!(head_file))
        .routes(routes!(use_head))
        .routes(routes!(rollback))
}

type Answer<T> = Result<Json<T>, ErrorResponse>;

/// Runs short work on another thread, because the work reads or writes files. Returns the
/// result of the work.
async fn file_work<T: Send + 'static>(
    handle: DaemonHandle,
    work: impl FnOnce(&DaemonHandle) -> Result<T, ErrorResponse> + Send + 'static,
) -> Result<T, ErrorResponse> {
    file_work::run(Length::Short, move |_| work(&handle)).await?
}

/// Runs short work as [`file_work`] does, and returns the result as JSON.
async fn answer<T: Send + 'static>(
    handle: DaemonHandle,
    work: impl FnOnce(&DaemonHandle) -> Result<T, ErrorResponse> + Send + 'static,
) -> Answer<T> {
    file_work(handle, work).await.map(Json)
}

/// Runs work that may take minutes on another thread, and returns the result as JSON. The
/// work ends early if the client disconnects.
async fn long_answer<T: Send + 'static>(
    handle: DaemonHandle,
    work: impl FnOnce(&DaemonHandle, &Progress) -> Result<T, ErrorResponse> + Send + 'static,
) -> Answer<T> {
    let work = move |progress: &Progress| work(&handle, progress);
    Ok(Json(file_work::run(Length::Long, work).await??))
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

/// Returns the state of the daemon.
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
        let summary = learning.map(Learning::summary).transpose();
        // Even if the disk fails, the status must still show the daemon's current
        // decision.
        let summary = summary.unwrap_or_else(|error| {
            live.learning.off_because = Some(error.to_string());
            None
        });
        let LabelSummary {
            samples,
            new_labels,
            progress,
        } = summary.unwrap_or_default();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.canonicalize().unwrap_or_else(|_| state.to_owned()),
            page: handle.device.own_page(),
            live,
            samples,
            enrollment: handle.enrollment(),
            new_labels,
            progress,
            last_refit: learning.and_then(Learning::last_refit),
            receivers: handle.events.receivers(),
            passages_today: handle.passages_today(),
        })
    })
    .await
}

/// Returns the last 200 events at the door.
#[utoipa::path(
    get, path = "/events", tag = "status",
    responses(
        (status = 200, body = Vec<Event>, description = "The last 200 events, newest first"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn events(State(handle): State<DaemonHandle>) -> Json<Vec<Event>> {
    Json(handle.events.newest_first())
}

/// The header with the number of samples that match a filter.
const X_TOTAL: HeaderName = HeaderName::from_static("x-total");

/// Lists the samples that match a filter.
#[utoipa::path(
    get, path = "/samples", tag = "samples",
    params(SampleFilter),
    responses(
        (
            status = 200, body = Vec<SampleRecord>, description = "The samples",
            headers(("x-total" = usize, description = "Number of samples that match, regardless of `offset` and `limit`")),
        ),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn samples(
    State(handle): State<DaemonHandle>,
    filter: Result<Query<SampleFilter>, QueryRejection>,
) -> Result<([(HeaderName, HeaderValue); 1], Json<Vec<SampleRecord>>), ErrorResponse> {
    let Query(filter) = filter?;
    // Listing is short, but it must not be given up while it measures many pictures.
    let list = move |progress: &Progress| {
        let is_canceled = || progress.is_canceled();
        Ok::<_, ErrorResponse>(handle.learning()?.sample_page(&filter, &is_canceled)?)
    };
    let page = file_work::run(Length::Short, list).await??;
    Ok(([(X_TOTAL, page.total.into())], Json(page.samples)))
}

/// Counts the samples by label.
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

/// Returns the picture of a sample.
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

/// Labels or discards samples.
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
    let LabelRequest {
        chosen,
        mark,
        continues,
    } = request;
    answer(handle, move |handle| {
        Ok(handle.learning()?.label_more(chosen, &mark, continues)?)
    })
    .await
}

/// Takes a labeling action back.
#[utoipa::path(
    post, path = "/samples/undo", tag = "samples",
    request_body = UndoRequest,
    responses(
        (status = 200, body = UndoRecord, description = "The action that was taken back"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn undo(
    State(handle): State<DaemonHandle>,
    JsonBody(UndoRequest { action }): JsonBody<UndoRequest>,
) -> Answer<UndoRecord> {
    answer(handle, move |handle| Ok(handle.learning()?.undo(action)?)).await
}

/// Restores samples that were discarded.
#[utoipa::path(
    post, path = "/samples/restore", tag = "samples",
    request_body = RestoreRequest,
    responses(
        (status = 200, body = LabelResult, description = "The result for each sample"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn restore(
    State(handle): State<DaemonHandle>,
    JsonBody(RestoreRequest { ids }): JsonBody<RestoreRequest>,
) -> Answer<LabelResult> {
    answer(handle, move |handle| Ok(handle.learning()?.restore(ids)?)).await
}

async fn unused(State(handle): State<DaemonHandle>) -> Answer<Vec<UnusedRecord>> {
    answer(handle, |handle| Ok(handle.learning()?.unused()?)).await
}

async fn import(
    State(handle): State<DaemonHandle>,
    JsonBody(FolderRequest { folder }): JsonBody<FolderRequest>,
) -> Answer<ImportRecord> {
    long_answer(handle, move |handle, progress| {
        let is_canceled = || progress.is_canceled();
        let folder = absolute(&folder)?;
        Ok(handle.learning()?.import_unless(folder, &is_canceled)?)
    })
    .await
}

async fn export(
    State(handle): State<DaemonHandle>,
    JsonBody(FolderRequest { folder }): JsonBody<FolderRequest>,
) -> Answer<ExportRecord> {
    long_answer(handle, move |handle, progress| {
        let is_canceled = || progress.is_canceled();
        let folder = absolute(&folder)?;
        Ok(handle.learning()?.export_unless(folder, &is_canceled)?)
    })
    .await
}

/// Deletes samples permanently.
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
    long_answer(handle, move |handle, progress| {
        let is_canceled = || progress.is_canceled();
        let learning = handle.learning()?;
        let removed = learning.purge_unless(&purge, ClockReading::now(), &is_canceled)?;
        tracing::info!(
            unlabelled = removed.unlabelled,
            labelled = removed.labelled,
            discarded = removed.discarded,
            "face pictures deleted on request"
        );
        Ok(removed)
    })
    .await
}

/// Starts to take and label crops of the person in front of the camera.
///
/// Only one enrollment can run at a time.
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
    let EnrollRequest {
        label,
        count,
        seconds,
        lease_seconds,
    } = request;
    if seconds == Some(0) || lease_seconds == Some(0) {
        let sentence = format!("cannot enroll for 0 seconds: take 1 to {}", u16::MAX);
        return Err(ErrorResponse::new(FailureKind::Usage, sentence));
    }
    let duration = |seconds| Duration::from_secs(u64::from(seconds));
    let longest = seconds.map_or(ENROLLMENT, duration);
    let lease = lease_seconds.map(duration);
    Ok(Json(handle.enroll(&label, count, longest, lease)?))
}

fn another_enrollment(id: u64) -> ErrorResponse {
    let sentence = format!("the enrollment {id} is over, and its counts are no longer known");
    ErrorResponse::new(FailureKind::Missing, sentence)
}

/// Returns an enrollment, and renews its lease.
#[utoipa::path(
    get, path = "/enroll/{id}", tag = "enroll",
    params(("id" = u64, Path, description = "Id of an enrollment")),
    responses(
        (status = 200, body = Enrollment, description = "The enrollment, whose lease is renewed"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn enrollment_of(
    State(handle): State<DaemonHandle>,
    id: Result<At<u64>, PathRejection>,
) -> Answer<Enrollment> {
    let At(id) = id?;
    let enrollment = handle.renew_enrollment(id);
    enrollment.map(Json).ok_or_else(|| another_enrollment(id))
}

/// Ends an enrollment.
#[utoipa::path(
    delete, path = "/enroll/{id}", tag = "enroll",
    params(("id" = u64, Path, description = "Id of an enrollment")),
    responses(
        (status = 200, body = Enrollment, description = "The enrollment that was ended"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn end_enrollment_of(
    State(handle): State<DaemonHandle>,
    id: Result<At<u64>, PathRejection>,
) -> Answer<Enrollment> {
    let At(id) = id?;
    let ended = handle.end_enrollment_of(id);
    ended.map(Json).ok_or_else(|| another_enrollment(id))
}

fn never_enrolled() -> ErrorResponse {
    ErrorResponse::new(
        FailureKind::Missing,
        "nobody has been enrolled since the daemon started",
    )
}

/// Returns the current enrollment, or the last one if none is running.
#[utoipa::path(
    get, path = "/enroll", tag = "enroll",
    responses(
        (status = 200, body = Enrollment, description = "The current enrollment, or the last one if none is running"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn enrollment(State(handle): State<DaemonHandle>) -> Answer<Enrollment> {
    handle.enrollment().map(Json).ok_or_else(never_enrolled)
}

/// Ends the current enrollment.
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

/// Trains on this device, and waits for the result.
///
/// The training starts after this request. One training answers all requests that arrived before
/// it started. If a client disconnects, a training that has already started continues.
#[utoipa::path(
    post, path = "/refit", tag = "refit",
    request_body = Option<TrainRequest>,
    responses(
        (status = 200, body = RefitRecord, description = "The result, when the refit is done"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn refit(
    State(handle): State<DaemonHandle>,
    Extension(channel): Extension<Channel>,
    OptionalJsonBody(TrainRequest { labels_checked }): OptionalJsonBody<TrainRequest>,
) -> Answer<RefitRecord> {
    let gone = || {
        let sentence = "the daemon is no longer learning: if it is not stopping, restart it";
        ErrorResponse::new(FailureKind::Unavailable, sentence)
    };
    let (answer, result) = oneshot::channel();
    let trigger = RefitTrigger::requested(channel, labels_checked);
    let request = RefitRequest { trigger, answer };
    handle.refit.send(request).await.map_err(|_| gone())?;
    let record = result.await.map_err(|_| gone())?;
    Ok(Json(record?))
}

/// Lists the built-in head and all heads in the state directory.
#[utoipa::path(
    get, path = "/heads", tag = "heads",
    responses(
        (status = 200, body = Vec<HeadRecord>, description = "All heads, ordered by number, starting with the built-in one, which has the number 0"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn heads(State(handle): State<DaemonHandle>) -> Answer<Vec<HeadRecord>> {
    answer(handle, |handle| Ok(handle.learning()?.head_records()?)).await
}

/// Lists which head came into use when, and why.
#[utoipa::path(
    get, path = "/heads/history", tag = "heads",
    responses(
        (status = 200, body = Vec<SwitchRecord>, description = "Which head came into use when and why, oldest first"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn history(State(handle): State<DaemonHandle>) -> Answer<Vec<SwitchRecord>> {
    answer(handle, |handle| Ok(handle.learning()?.history())).await
}

/// Returns a head.
#[utoipa::path(
    get, path = "/heads/{number}", tag = "heads",
    params(("number" = u32, Path, description = "Number of a head; 0 for the built-in one")),
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

/// Returns the file of a head.
#[utoipa::path(
    get, path = "/heads/{number}/file", tag = "heads",
    params(("number" = u32, Path, description = "Number of a head; 0 for the built-in one")),
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

/// Maximum number of groups in the queue if the request sets no limit.
const QUEUE_GROUPS: usize = 50;

/// Lists the crops without a label, most useful first.
#[utoipa::path(
    get, path = "/queue", tag = "queue",
    params(("groups" = Option<usize>, Query, description = "Maximum number of groups; 50 if absent")),
    responses(
        (status = 200, body = QueueRecord, description = "The crops without a label, most useful first"),
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

/// Returns the settings that can change while the daemon runs.
#[utoipa::path(
    get, path = "/settings", tag = "settings",
    responses(
        (status = 200, body = SettingsRecord, description = "The current settings"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn settings(State(handle): State<DaemonHandle>) -> Json<SettingsRecord> {
    Json(handle.settings.record())
}

/// Changes settings, and saves them to the config file.
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
        changed.map_err(|problems| {
            let fields = problems.fields();
            ErrorResponse::new(FailureKind::Usage, problems).with_fields(fields)
        })
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
    Extension(channel): Extension<Channel>,
    JsonBody(FileRequest { path }): JsonBody<FileRequest>,
) -> Answer<HeadInUse> {
    answer(handle, move |handle| {
        let number = handle.learning()?.import_head(absolute(&path)?, channel)?;
        Ok(changed(Some(number)))
    })
    .await
}

/// Switches to a head.
#[utoipa::path(
    post, path = "/heads/{number}/use", tag = "heads",
    params(("number" = u32, Path, description = "Number of a head; 0 for the built-in one")),
    responses(
        (status = 200, body = HeadInUse, description = "The head in use now"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
async fn use_head(
    State(handle): State<DaemonHandle>,
    Extension(channel): Extension<Channel>,
    number: Result<At<u32>, PathRejection>,
) -> Answer<HeadInUse> {
    let At(number) = number?;
    answer(handle, move |handle| {
        let number = handle.learning()?.use_head(number, channel)?;
        Ok(changed(number))
    })
    .await
}

/// Goes back to the head that the current one was trained from.
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
    Extension(channel): Extension<Channel>,
    JsonBody(RollbackRequest { steps }): JsonBody<RollbackRequest>,
) -> Answer<HeadInUse> {
    answer(handle, move |handle| {
        let number = handle.learning()?.rollback(steps, channel)?;
        Ok(changed(number))
    })
    .await
}

/// Logs that a user has put another head into use.
fn changed(head: Option<u32>) -> HeadInUse {
    tracing::info!(model = head.unwrap_or(0), "model changed on request");
    HeadInUse { head }
}
