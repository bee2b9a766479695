//! The client of the control socket. Each request blocks until its response arrives.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::types::{FileRequest, FolderRequest};
use super::{
    ControlError, EnrollRequest, ErrorRecord, HeadInUse, LabelRequest, RestoreRequest,
    RollbackRequest, Status, TrainRequest, UndoRequest,
};
use crate::counts::query::{CountsQuery, CountsRecord};
use crate::learning::Enrollment;
use crate::learning::{
    CountRecord, ExportRecord, HeadRecord, ImportRecord, LabelAction, LabelResult, Purge,
    RefitRecord, RemovedRecord, SampleFilter, SampleRecord, SampleSelector, SwitchRecord,
    UndoRecord, UnusedRecord,
};

/// Maximum number of IDs in a request. This many IDs fit into a body of 64 KiB because an
/// ID has at most 255 bytes.
const IDS_PER_REQUEST: usize = 200;

/// Time limit for requests that only read something. A daemon that works always answers them in
/// much less time.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Sends requests to the daemon. Requests that only read something have a time limit. The others
/// have none, because a refit or an import takes minutes.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    path: PathBuf,
    /// Time limit for requests that only read something.
    read_limit: Duration,
}

impl Client {
    /// Connects to the daemon that listens on a socket. Returns `None` if no daemon listens
    /// there.
    ///
    /// # Errors
    /// Returns [`ControlError::Io`] if the system refuses the connection, for example
    /// because of missing permissions.
    pub fn connect(path: &Path) -> Result<Option<Client>, ControlError> {
        match UnixStream::connect(path) {
            Ok(_) => {}
            // `InvalidInput` means that the path is too long for a socket. No daemon can
            // listen on such a path.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::NotADirectory
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(ControlError::io("connect to", path)(error)),
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ControlError::io("connect to", path))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            // The daemon closes idle connections, so a connection from a pool could
            // already be closed when the next request is sent.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("maskd/", env!("CARGO_PKG_VERSION")))
            .unix_socket(path)
            .build()
            .map_err(|error| lost(path, error))?;
        Ok(Some(Client {
            runtime,
            http,
            path: path.to_owned(),
            read_limit: READ_LIMIT,
        }))
    }

    /// Returns the state of the daemon.
    ///
    /// # Errors
    /// Every request can return [`ControlError::Refused`] with the daemon's error
    /// message, [`ControlError::Lost`], [`ControlError::TimeOut`], or [`ControlError::Answer`].
    pub fn status(&self) -> Result<Status, ControlError> {
        self.get(&["status"])
    }

    /// Returns the samples that a filter selects.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn samples(&self, filter: &SampleFilter) -> Result<Vec<SampleRecord>, ControlError> {
        self.get_with(&["samples"], filter)
    }

    /// Returns the counts of passages that a query selects.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn counts(&self, query: &CountsQuery) -> Result<CountsRecord, ControlError> {
        self.get_with(&["counts"], query)
    }

    /// Sends a request with the fields of `query` in its address.
    fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<T, ControlError> {
        let mut url = self.url(path)?;
        let query = serde_json::to_value(query).map_err(|error| self.lost_because(&error))?;
        for (name, value) in query.as_object().into_iter().flatten() {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            url.query_pairs_mut().append_pair(name, &value);
        }
        let answer = self.ask(Method::GET, url, None)?;
        self.parse(&answer)
    }

    /// Returns the number of samples for each label.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, ControlError> {
        self.get(&["samples", "stats"])
    }

    /// Returns the files and folders in the sample folders that are not used as samples.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn unused(&self) -> Result<Vec<UnusedRecord>, ControlError> {
        self.get(&["samples", "unused"])
    }

    /// Returns the picture file of a sample.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, ControlError> {
        let url = self.url(&["samples", id, "picture"])?;
        self.ask(Method::GET, url, None)
    }

    /// Labels or deletes samples. Long lists of IDs are split into several requests.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status). If a later request fails,
    /// the effects of the earlier ones remain.
    pub fn mark(
        &self,
        chosen: SampleSelector,
        mark: &LabelAction,
    ) -> Result<LabelResult, ControlError> {
        let ids = match chosen {
            SampleSelector::Ids(ids) => ids,
            SampleSelector::Track(_) => return self.mark_some(chosen, mark, None),
        };
        let mut marked = LabelResult::default();
        for ids in ids.chunks(IDS_PER_REQUEST) {
            let some = SampleSelector::Ids(ids.to_vec());
            let some = self.mark_some(some, mark, marked.action)?;
            marked.action = some.action;
            marked.done.extend(some.done);
            marked.already.extend(some.already);
            marked.failed.extend(some.failed);
        }
        Ok(marked)
    }

    fn mark_some(
        &self,
        chosen: SampleSelector,
        mark: &LabelAction,
        continues: Option<u64>,
    ) -> Result<LabelResult, ControlError> {
        let mark = mark.clone();
        let request = LabelRequest {
            chosen,
            mark,
            continues,
        };
        self.post(&["samples", "label"], &request)
    }

    /// Takes a labeling action back: the last one, or the one with this number.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status). The kind is
    /// [`FailureKind::Missing`] if there is no such action.
    ///
    /// [`FailureKind::Missing`]: crate::learning::FailureKind::Missing
    pub fn undo(&self, action: Option<u64>) -> Result<UndoRecord, ControlError> {
        self.post(&["samples", "undo"], &UndoRequest { action })
    }

    /// Restores discarded samples. Long lists of IDs are split into several requests.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status). If a later request fails,
    /// the effects of the earlier ones remain.
    pub fn restore(&self, ids: &[String]) -> Result<LabelResult, ControlError> {
        let mut restored = LabelResult::default();
        for ids in ids.chunks(IDS_PER_REQUEST) {
            let ids = ids.to_vec();
            let some: LabelResult = self.post(&["samples", "restore"], &RestoreRequest { ids })?;
            restored.done.extend(some.done);
            restored.failed.extend(some.failed);
        }
        Ok(restored)
    }

    /// Makes the daemon copy the pictures in a folder into its store.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, ControlError> {
        let folder = folder.to_owned();
        self.post(&["samples", "import"], &FolderRequest { folder })
    }

    /// Makes the daemon copy the pictures in its store into a folder.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, ControlError> {
        let folder = folder.to_owned();
        self.post(&["samples", "export"], &FolderRequest { folder })
    }

    /// Deletes samples permanently.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn purge(&self, purge: &Purge) -> Result<RemovedRecord, ControlError> {
        self.post(&["samples", "purge"], purge)
    }

    /// Starts an enrollment.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn enroll(&self, label: &str, count: u32) -> Result<Enrollment, ControlError> {
        let label = label.to_owned();
        let request = EnrollRequest {
            label,
            count,
            seconds: None,
            lease_seconds: None,
        };
        self.post(&["enroll"], &request)
    }

    /// Starts an enrollment. The request can set a time limit and a lease.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn enroll_with(&self, request: &EnrollRequest) -> Result<Enrollment, ControlError> {
        self.post(&["enroll"], request)
    }

    /// Returns the enrollment with this ID and renews its lease.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status). The kind is
    /// [`FailureKind::Missing`] if another enrollment has started since.
    ///
    /// [`FailureKind::Missing`]: crate::learning::FailureKind::Missing
    pub fn enrollment_of(&self, id: u64) -> Result<Enrollment, ControlError> {
        self.get(&["enroll", &id.to_string()])
    }

    /// Ends the enrollment with this ID. Crops that were already taken are kept.
    ///
    /// # Errors
    /// Returns the same errors as [`enrollment_of`](Client::enrollment_of).
    pub fn end_enrollment_of(&self, id: u64) -> Result<Enrollment, ControlError> {
        let url = self.url(&["enroll", &id.to_string()])?;
        let answer = self.ask(Method::DELETE, url, None)?;
        self.parse(&answer)
    }

    /// Returns the current enrollment, or the last one if none is running.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn enrollment(&self) -> Result<Enrollment, ControlError> {
        self.get(&["enroll"])
    }

    /// Ends the current enrollment. Crops that were already taken are kept.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn end_enrollment(&self) -> Result<Enrollment, ControlError> {
        let url = self.url(&["enroll"])?;
        let answer = self.ask(Method::DELETE, url, None)?;
        self.parse(&answer)
    }

    /// Makes the daemon train a new head, and waits for the result.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn refit(&self) -> Result<RefitRecord, ControlError> {
        self.refit_with(&TrainRequest::default())
    }

    /// Makes the daemon train a new head, and waits for the result. The request can vouch
    /// for the labels.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn refit_with(&self, request: &TrainRequest) -> Result<RefitRecord, ControlError> {
        self.post(&["refit"], request)
    }

    /// Returns all heads, ordered by number.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn heads(&self) -> Result<Vec<HeadRecord>, ControlError> {
        self.get(&["heads"])
    }

    /// Returns the recorded switches to other heads, oldest first.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn history(&self) -> Result<Vec<SwitchRecord>, ControlError> {
        self.get(&["heads", "history"])
    }

    /// Returns the head with this number.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn head(&self, number: u32) -> Result<HeadRecord, ControlError> {
        self.get(&["heads", &number.to_string()])
    }

    /// Makes the daemon copy a head to a file.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn export_head(&self, number: u32, path: &Path) -> Result<HeadRecord, ControlError> {
        let path = path.to_owned();
        self.post(
            &["heads", &number.to_string(), "export"],
            &FileRequest { path },
        )
    }

    /// Makes the daemon import a head from a file and put the head into use.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn import_head(&self, path: &Path) -> Result<HeadInUse, ControlError> {
        let path = path.to_owned();
        self.post(&["heads", "import"], &FileRequest { path })
    }

    /// Makes the daemon use the head with this number; 0 stands for the built-in head.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn use_head(&self, number: u32) -> Result<HeadInUse, ControlError> {
        let url = self.url(&["heads", &number.to_string(), "use"])?;
        let answer = self.ask(Method::POST, url, None)?;
        self.parse(&answer)
    }

    /// Makes the daemon go back `steps` generations from the head in use.
    ///
    /// # Errors
    /// Returns the same errors as [`status`](Client::status).
    pub fn rollback(&self, steps: u32) -> Result<HeadInUse, ControlError> {
        self.post(&["heads", "rollback"], &RollbackRequest { steps })
    }

    fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, ControlError> {
        let answer = self.ask(Method::GET, self.url(segments)?, None)?;
        self.parse(&answer)
    }

    fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ControlError> {
        // Serialization fails for a path that is not UTF-8.
        let json = serde_json::to_vec(body).map_err(|error| self.lost_because(&error))?;
        let answer = self.ask(Method::POST, self.url(segments)?, Some(json))?;
        self.parse(&answer)
    }

    fn url(&self, segments: &[&str]) -> Result<Url, ControlError> {
        let mut url =
            Url::parse("http://maskd/api/v1").map_err(|error| self.lost_because(&error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        Ok(url)
    }

    /// Sends a request and returns the body of a successful response.
    fn ask(
        &self,
        method: Method,
        url: Url,
        json: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ControlError> {
        let limit = (method == Method::GET).then_some(self.read_limit);
        let mut request = self.http.request(method, url);
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        let response = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.bytes().await?))
        });
        let (status, body) = response.map_err(|error| match limit {
            Some(limit) if error.is_timeout() => ControlError::TimeOut {
                path: self.path.display().to_string(),
                seconds: limit.as_secs(),
            },
            _ => lost(&self.path, error),
        })?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let ErrorRecord { error, fault, .. } = self.parse(&body)?;
        Err(ControlError::Refused {
            sentence: error,
            fault,
        })
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ControlError> {
        serde_json::from_slice(body).map_err(|_| ControlError::Answer {
            path: self.path.display().to_string(),
        })
    }

    fn lost_because(&self, why: &dyn std::fmt::Display) -> ControlError {
        ControlError::Lost {
            path: self.path.display().to_string(),
            why: why.to_string(),
        }
    }
}

/// Builds an error from the innermost cause, because the outer causes only say that a
/// request failed.
fn lost(path: &Path, error: reqwest::Error) -> ControlError {
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    ControlError::Lost {
        path: path.display().to_string(),
        why: innermost.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::learning::FailureKind;

    #[test]
    fn a_daemon_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        // The system accepts connections to this socket, but nobody reads from them.
        let _hanging = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect(&path).unwrap().unwrap();
        client.read_limit = Duration::from_millis(10);
        let error = client.status().unwrap_err();
        assert!(matches!(error, ControlError::TimeOut { .. }), "{error}");
        assert_eq!(error.fault(), FailureKind::Unavailable);
    }
}
