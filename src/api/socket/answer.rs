//! Parses the bodies of requests, and creates the responses that report failures.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::ErrorRecord;
use crate::api::connections::BodyError;
use crate::api::file_work::FileWorkError;
use crate::learning::{FailureKind, LearningError};
use crate::platform::text::printable;

/// After how many seconds a client may send a picture again if there was no place for it.
/// Classifying a picture takes less than this on most boards.
pub(super) const PICTURE_RETRY_SECONDS: u64 = 2;

/// A response that reports a failure.
#[derive(Debug)]
pub struct ErrorResponse {
    status: StatusCode,
    record: ErrorRecord,
    /// Value of the header `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl ErrorResponse {
    /// Creates a response with the HTTP status that matches `fault`.
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
            // Control characters are escaped, because the sentence can quote a request or
            // a file, and a client may print it.
            record: ErrorRecord::new(fault, printable(&sentence.to_string())),
            retry_after: None,
        }
    }

    /// Adds what is wrong with each field of the request.
    #[must_use]
    pub fn with_fields(mut self, fields: BTreeMap<String, String>) -> ErrorResponse {
        self.record.fields = fields;
        self
    }

    /// Creates the response to a request that no handler accepts.
    pub fn malformed(status: StatusCode, sentence: impl std::fmt::Display) -> ErrorResponse {
        ErrorResponse {
            status,
            ..ErrorResponse::new(FailureKind::Usage, sentence)
        }
    }

    /// Creates the response to a client that has sent too many requests. The client may
    /// retry after `retry_after` seconds.
    pub fn too_many(retry_after: u64, sentence: impl std::fmt::Display) -> ErrorResponse {
        ErrorResponse {
            retry_after: Some(retry_after),
            ..ErrorResponse::malformed(StatusCode::TOO_MANY_REQUESTS, sentence)
        }
    }

    /// Creates the response to a request for which the daemon has no room at the moment.
    /// The client may retry after `retry_after` seconds.
    pub fn busy(retry_after: u64, sentence: impl std::fmt::Display) -> ErrorResponse {
        ErrorResponse {
            retry_after: Some(retry_after),
            ..ErrorResponse::new(FailureKind::Unavailable, sentence)
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

impl From<BodyError> for ErrorResponse {
    fn from(error: BodyError) -> ErrorResponse {
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Busy => return ErrorResponse::busy(PICTURE_RETRY_SECONDS, error),
        };
        ErrorResponse::malformed(status, error)
    }
}

impl From<FileWorkError> for ErrorResponse {
    fn from(error: FileWorkError) -> ErrorResponse {
        let kind = match error {
            FileWorkError::Busy => FailureKind::NotNow,
            FileWorkError::Stuck => FailureKind::System,
            FileWorkError::Ended => FailureKind::Internal,
        };
        ErrorResponse::new(kind, error)
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

/// The JSON body of a request. The content type does not matter, whereas axum's `Json`
/// requires a JSON content type.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, ErrorResponse> {
        parse(&body(request, state).await?).map(JsonBody)
    }
}

/// The JSON body of a request, or the default value if the request has no body or if the
/// body is `null`.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: Default + DeserializeOwned> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ErrorResponse;

    async fn from_request(
        request: Request,
        state: &S,
    ) -> Result<OptionalJsonBody<T>, ErrorResponse> {
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(OptionalJsonBody(T::default()));
        }
        let value: Option<T> = parse(&bytes)?;
        Ok(OptionalJsonBody(value.unwrap_or_default()))
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ErrorResponse> {
    let bytes = Bytes::from_request(request, state).await;
    bytes.map_err(|rejection| ErrorResponse::malformed(rejection.status(), rejection.body_text()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ErrorResponse> {
    serde_json::from_slice(bytes).map_err(|error| {
        let sentence = format!("the body of the request is invalid: {error}");
        ErrorResponse::new(FailureKind::Usage, sentence)
    })
}
