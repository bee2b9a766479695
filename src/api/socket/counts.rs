//! The route with the counts of passages.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;

use super::answer::ErrorResponse;
use super::{DaemonHandle, ErrorRecord};
use crate::counts::Passages;
use crate::counts::query::{CountsQuery, CountsRecord, Format, on_day_of};
use crate::learning::FailureKind;
use crate::platform::clock;

impl DaemonHandle {
    /// Selects the counts that a client wants.
    ///
    /// # Errors
    /// Returns an error if nothing is counted, or if a time in the query cannot be
    /// understood.
    pub fn counts(&self, query: &CountsQuery) -> Result<CountsRecord, ErrorRecord> {
        let Some(counts) = &self.counts else {
            let sentence = "passages are not counted: set counts.enabled = true";
            return Err(ErrorRecord::new(FailureKind::NotNow, sentence));
        };
        let (published, precision) = {
            let ledger = counts.lock();
            (ledger.published(clock::shown_seconds()), ledger.precision())
        };
        query
            .select(&published, precision, &TimeZone::system())
            .map_err(|error| ErrorRecord::new(FailureKind::Usage, error.to_string()))
    }

    /// The published passages of today, or `None` if nothing is counted or the date is not
    /// known.
    #[must_use]
    pub fn passages_today(&self) -> Option<Passages> {
        let counts = self.counts.as_ref()?;
        let seconds = clock::shown_seconds()?;
        let published = counts.lock().published(Some(seconds));
        Some(on_day_of(&published, seconds, &TimeZone::system()))
    }
}

/// Whether the header `Accept` asks for CSV.
fn accepts_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| {
        let kinds = accept.split(',');
        let mut kinds = kinds.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        kinds.any(|kind| kind.eq_ignore_ascii_case("text/csv"))
    })
}

/// Returns how many people passed, by hour or day.
#[utoipa::path(
    get, path = "/counts", tag = "counts",
    params(CountsQuery),
    responses(
        (
            status = 200, description = "The people who passed, by hour or day",
            content((CountsRecord = "application/json"), (String = "text/csv")),
        ),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
pub(super) async fn counts(
    State(handle): State<DaemonHandle>,
    headers: HeaderMap,
    query: Result<Query<CountsQuery>, QueryRejection>,
) -> Result<Response, ErrorResponse> {
    let Query(query) = query?;
    let record = handle.counts(&query)?;
    let is_csv = query
        .format
        .map_or_else(|| accepts_csv(&headers), |format| format == Format::Csv);
    if !is_csv {
        return Ok(Json(record).into_response());
    }
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8"),
        (CONTENT_DISPOSITION, "attachment; filename=\"counts.csv\""),
    ];
    Ok((headers, record.csv()).into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn csv_is_sent_only_if_the_client_names_it() {
        for (accept, is_csv) in [
            ("text/csv", true),
            ("application/json, Text/CSV; q=0.5", true),
            ("*/*", false),
            ("text/csvx", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_csv(&headers), is_csv, "{accept}");
        }
        assert!(!accepts_csv(&HeaderMap::new()));
    }
}
