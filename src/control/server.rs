//! The daemon's side: the socket and the routes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Path as At, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Back, ControlError, Desk, ErrorRecord, File, Folder, MAX_ENROLLED, Marking, Status, Switched,
    Wanted,
};
use crate::capture::Enrolment;
use crate::learning::{
    CountRecord, ExportRecord, Fault, HeadRecord, ImportRecord, LearningError, Marked, Purge,
    RefitRecord, RemovedRecord, SampleRecord,
};
use crate::samples::Label;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;
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
    let aside = private.socket();
    let listener = UnixListener::bind(&aside).map_err(failed)?;
    fs::set_permissions(&aside, Permissions::from_mode(MODE)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::rename(&aside, path).map_err(failed)?;
    Ok(Socket {
        listener,
        file: SocketFile(path.to_owned()),
    })
}

/// Answers requests until `stop`, then ends those that are being answered (or,
/// after a second, breaks them off), and removes the socket.
///
/// Must be called within a tokio runtime that has I/O and time; handlers block
/// it while they read and write files.
///
/// # Errors
/// [`ControlError::Io`] if the system refuses to wait for connections.
pub async fn serve(
    socket: Socket,
    desk: Desk,
    stop: CancellationToken,
) -> Result<(), ControlError> {
    let Socket { listener, file } = socket;
    let failed = ControlError::io("listen on", &file.0);
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return Err(failed(error)),
    };
    let served = axum::serve(listener, routes(desk))
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

fn routes(desk: Desk) -> Router {
    let api = Router::new()
        .route("/status", get(status))
        .route("/samples", get(samples))
        .route("/samples/stats", get(stats))
        .route("/samples/{id}/picture", get(picture))
        .route("/samples/label", post(label))
        .route("/samples/import", post(import))
        .route("/samples/export", post(export))
        .route("/samples/purge", post(purge))
        .route("/enroll", get(enrolment).post(enroll).delete(end_enrolment))
        .route("/refit", post(refit))
        .route("/heads", get(heads))
        .route("/heads/{number}", get(head))
        .route("/heads/{number}/export", post(export_head))
        .route("/heads/import", post(import_head))
        .route("/heads/rollback", post(rollback));
    Router::new()
        .nest("/api/v1", api)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(desk)
}

/// An answer that is no success.
struct Refused {
    status: StatusCode,
    record: ErrorRecord,
}

impl Refused {
    fn new(fault: Fault, sentence: impl std::fmt::Display) -> Refused {
        let status = match fault {
            Fault::Usage => StatusCode::BAD_REQUEST,
            Fault::Data => StatusCode::UNPROCESSABLE_ENTITY,
            Fault::Missing => StatusCode::NOT_FOUND,
            Fault::NotNow => StatusCode::CONFLICT,
            Fault::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Fault::System | Fault::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Fault::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused {
            status,
            record: ErrorRecord {
                error: sentence.to_string(),
                fault,
            },
        }
    }

    /// A request that is none of ours.
    fn malformed(status: StatusCode, sentence: impl std::fmt::Display) -> Refused {
        Refused {
            status,
            ..Refused::new(Fault::Usage, sentence)
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.record)).into_response()
    }
}

impl From<LearningError> for Refused {
    fn from(error: LearningError) -> Refused {
        Refused::new(error.fault(), error)
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
            Refused::new(Fault::Usage, sentence)
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
        Err(Refused::new(Fault::Usage, sentence))
    }
}

fn locked(desk: &Desk) -> MutexGuard<'_, Option<Enrolment>> {
    // Counts that are written whole or not at all.
    let enrolment = desk.enrolment.lock();
    enrolment.unwrap_or_else(PoisonError::into_inner)
}

async fn no_route() -> Refused {
    Refused::new(Fault::Missing, "there is nothing at this address")
}

async fn no_method() -> Refused {
    let sentence = "this address does not take this method";
    Refused::malformed(StatusCode::METHOD_NOT_ALLOWED, sentence)
}

async fn status(State(desk): State<Desk>) -> Answer<Status> {
    let learning = &desk.learning;
    let state = learning.state();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: state.canonicalize().unwrap_or_else(|_| state.to_owned()),
        live: desk.live.borrow().clone(),
        samples: learning.stats()?,
        enrolment: locked(&desk).clone(),
        new_labels: learning.new_labels()?,
        last_refit: learning.last_refit(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    label: Option<String>,
}

async fn samples(
    State(desk): State<Desk>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Answer<Vec<SampleRecord>> {
    let Query(filter) = filter?;
    Ok(Json(desk.learning.samples(filter.label.as_deref())?))
}

async fn stats(State(desk): State<Desk>) -> Answer<BTreeMap<String, CountRecord>> {
    Ok(Json(desk.learning.stats()?))
}

async fn picture(
    State(desk): State<Desk>,
    id: Result<At<String>, PathRejection>,
) -> Result<Vec<u8>, Refused> {
    let At(id) = id?;
    Ok(desk.learning.picture(&id)?)
}

async fn label(State(desk): State<Desk>, Body(marking): Body<Marking>) -> Answer<Marked> {
    let Marking { chosen, mark } = marking;
    Ok(Json(desk.learning.mark(chosen, &mark)?))
}

async fn import(State(desk): State<Desk>, Body(from): Body<Folder>) -> Answer<ImportRecord> {
    Ok(Json(desk.learning.import(absolute(&from.folder)?)?))
}

async fn export(State(desk): State<Desk>, Body(to): Body<Folder>) -> Answer<ExportRecord> {
    Ok(Json(desk.learning.export(absolute(&to.folder)?)?))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the age of samples is that at the time of the request"
)]
async fn purge(State(desk): State<Desk>, Body(purge): Body<Purge>) -> Answer<RemovedRecord> {
    let now = std::time::SystemTime::now();
    let removed = desk.learning.purge(&purge, now)?;
    tracing::info!(
        unlabelled = removed.unlabelled,
        labelled = removed.labelled,
        "samples were deleted as asked"
    );
    Ok(Json(removed))
}

async fn enroll(State(desk): State<Desk>, Body(wanted): Body<Wanted>) -> Answer<Enrolment> {
    let Wanted { label, count } = wanted;
    let label = Label::new(&label).map_err(LearningError::from)?;
    if !(1..=MAX_ENROLLED).contains(&count) {
        let sentence = format!("{count} crops cannot be enrolled: take 1 to {MAX_ENROLLED}");
        return Err(Refused::new(Fault::Usage, sentence));
    }
    let mut enrolment = locked(&desk);
    if let Some(going_on) = enrolment.as_ref().filter(|enrolment| !enrolment.is_over()) {
        let sentence = format!(
            "an enrolment of {} is going on: wait for its end, or end it",
            going_on.label
        );
        return Err(Refused::new(Fault::NotNow, sentence));
    }
    let new = Enrolment {
        label: label.to_string(),
        wanted: count,
        taken: 0,
        stored: 0,
    };
    *enrolment = Some(new.clone());
    Ok(Json(new))
}

fn never_enrolled() -> Refused {
    Refused::new(Fault::Missing, "nobody has been enrolled since the start")
}

async fn enrolment(State(desk): State<Desk>) -> Answer<Enrolment> {
    let enrolment = locked(&desk).clone();
    enrolment.map(Json).ok_or_else(never_enrolled)
}

/// Crops that were taken are still stored.
async fn end_enrolment(State(desk): State<Desk>) -> Answer<Enrolment> {
    let mut enrolment = locked(&desk);
    let enrolment = enrolment.as_mut().ok_or_else(never_enrolled)?;
    enrolment.wanted = enrolment.wanted.min(enrolment.taken);
    Ok(Json(enrolment.clone()))
}

/// Waits until the trainer has time, and then for its answer; a request that is
/// given up does not stop it.
async fn refit(State(desk): State<Desk>) -> Answer<RefitRecord> {
    let gone = || {
        let sentence = "the daemon is not learning any more: it stops, or has to be restarted";
        Refused::new(Fault::Unavailable, sentence)
    };
    let (call, answer) = oneshot::channel();
    desk.refit.send(call).await.map_err(|_| gone())?;
    let record = answer.await.map_err(|_| gone())?;
    record
        .map(Json)
        .map_err(|sentence| Refused::new(Fault::Internal, sentence))
}

async fn heads(State(desk): State<Desk>) -> Answer<Vec<HeadRecord>> {
    Ok(Json(desk.learning.heads_list()?))
}

async fn head(
    State(desk): State<Desk>,
    number: Result<At<u32>, PathRejection>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    Ok(Json(desk.learning.head(number)?))
}

async fn export_head(
    State(desk): State<Desk>,
    number: Result<At<u32>, PathRejection>,
    Body(to): Body<File>,
) -> Answer<HeadRecord> {
    let At(number) = number?;
    desk.learning.export_head(number, absolute(&to.path)?)?;
    Ok(Json(desk.learning.head(number)?))
}

async fn import_head(State(desk): State<Desk>, Body(from): Body<File>) -> Answer<Switched> {
    let number = desk.learning.import_head(absolute(&from.path)?)?;
    switched(&desk, Some(number))
}

async fn rollback(State(desk): State<Desk>, Body(back): Body<Back>) -> Answer<Switched> {
    let number = desk.learning.rollback(back.steps)?;
    switched(&desk, number)
}

/// Hands the head that is in use now to the camera path.
fn switched(desk: &Desk, head: Option<u32>) -> Answer<Switched> {
    super::hand_over(&desk.learning, &desk.head)?;
    tracing::info!(head, "another head is in use, as asked");
    Ok(Json(Switched { head }))
}
