//! The side of whoever asks the daemon: each request waits for its answer.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::{
    ControlError, EnrollRequest, ErrorRecord, File, Folder, LabelRequest, RollbackRequest, Status,
    Switched,
};
use crate::learning::{
    CountRecord, Enrollment, ExportRecord, HeadRecord, ImportRecord, LabelAction, LabelResult,
    Purge, RefitRecord, RemovedRecord, SampleRecord, SampleSelector,
};

/// Ids in a request: names of files have at most 255 bytes, and a body is
/// small.
const IDS: usize = 200;

/// A connection to the daemon. Waits as long as it takes: a refit takes
/// minutes.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    path: PathBuf,
}

impl Client {
    /// Looks whether a daemon listens on a socket; `None` if there is none.
    ///
    /// # Errors
    /// [`ControlError::Io`] if there may be one that must not be asked.
    pub fn connect(path: &Path) -> Result<Option<Client>, ControlError> {
        match UnixStream::connect(path) {
            Ok(_) => {}
            // A path that is too long for a socket is none of a daemon.
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
            Err(error) => return Err(ControlError::io("reach", path)(error)),
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ControlError::io("reach", path))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .user_agent(concat!("maskd/", env!("CARGO_PKG_VERSION")))
            .unix_socket(path)
            .build()
            .map_err(|error| lost(path, error))?;
        Ok(Some(Client {
            runtime,
            http,
            path: path.to_owned(),
        }))
    }

    /// Everything at a glance.
    ///
    /// # Errors
    /// As every request: [`ControlError::Refused`] with the daemon's sentence,
    /// [`ControlError::Lost`], [`ControlError::Answer`].
    pub fn status(&self) -> Result<Status, ControlError> {
        self.get(&["status"], None)
    }

    /// The samples, or those of a label.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn samples(&self, label: Option<&str>) -> Result<Vec<SampleRecord>, ControlError> {
        self.get(&["samples"], label)
    }

    /// Counts by label.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, ControlError> {
        self.get(&["samples", "stats"], None)
    }

    /// The bytes of a sample's picture.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, ControlError> {
        let url = self.url(&["samples", id, "picture"], None)?;
        self.ask(Method::GET, url, None)
    }

    /// Labels samples, or deletes them. Many ids are several requests.
    ///
    /// # Errors
    /// As [`status`](Client::status); what was done before stays done.
    pub fn mark(
        &self,
        chosen: SampleSelector,
        mark: &LabelAction,
    ) -> Result<LabelResult, ControlError> {
        let ids = match chosen {
            SampleSelector::Ids(ids) => ids,
            SampleSelector::Track(_) => return self.mark_some(chosen, mark),
        };
        let mut marked = LabelResult::default();
        for ids in ids.chunks(IDS) {
            let some = self.mark_some(SampleSelector::Ids(ids.to_vec()), mark)?;
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
    ) -> Result<LabelResult, ControlError> {
        let mark = mark.clone();
        self.post(&["samples", "label"], &LabelRequest { chosen, mark })
    }

    /// Has the daemon copy pictures into its store.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, ControlError> {
        let folder = folder.to_owned();
        self.post(&["samples", "import"], &Folder { folder })
    }

    /// Has the daemon copy pictures out of its store.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, ControlError> {
        let folder = folder.to_owned();
        self.post(&["samples", "export"], &Folder { folder })
    }

    /// Deletes samples for good.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn purge(&self, purge: &Purge) -> Result<RemovedRecord, ControlError> {
        self.post(&["samples", "purge"], purge)
    }

    /// Starts an enrollment.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn enroll(&self, label: &str, count: u32) -> Result<Enrollment, ControlError> {
        let label = label.to_owned();
        self.post(&["enroll"], &EnrollRequest { label, count })
    }

    /// The enrollment that is going on, or the last one.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn enrollment(&self) -> Result<Enrollment, ControlError> {
        self.get(&["enroll"], None)
    }

    /// Ends the enrollment; what was taken stays.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn end_enrollment(&self) -> Result<Enrollment, ControlError> {
        let url = self.url(&["enroll"], None)?;
        let answer = self.ask(Method::DELETE, url, None)?;
        self.parse(&answer)
    }

    /// Has the daemon learn a new head, and waits for what comes of it.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn refit(&self) -> Result<RefitRecord, ControlError> {
        let url = self.url(&["refit"], None)?;
        let answer = self.ask(Method::POST, url, None)?;
        self.parse(&answer)
    }

    /// All heads, by number.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn heads(&self) -> Result<Vec<HeadRecord>, ControlError> {
        self.get(&["heads"], None)
    }

    /// A head by its number.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn head(&self, number: u32) -> Result<HeadRecord, ControlError> {
        self.get(&["heads", &number.to_string()], None)
    }

    /// Has the daemon copy a head to a file.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn export_head(&self, number: u32, path: &Path) -> Result<HeadRecord, ControlError> {
        let path = path.to_owned();
        self.post(&["heads", &number.to_string(), "export"], &File { path })
    }

    /// Has the daemon put the head of a file into use.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn import_head(&self, path: &Path) -> Result<Switched, ControlError> {
        let path = path.to_owned();
        self.post(&["heads", "import"], &File { path })
    }

    /// Goes back to an earlier head.
    ///
    /// # Errors
    /// As [`status`](Client::status).
    pub fn rollback(&self, steps: u32) -> Result<Switched, ControlError> {
        self.post(&["heads", "rollback"], &RollbackRequest { steps })
    }

    fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        label: Option<&str>,
    ) -> Result<T, ControlError> {
        let answer = self.ask(Method::GET, self.url(segments, label)?, None)?;
        self.parse(&answer)
    }

    fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ControlError> {
        // A path that is no UTF-8.
        let json = serde_json::to_vec(body).map_err(|error| self.lost_because(&error))?;
        let answer = self.ask(Method::POST, self.url(segments, None)?, Some(json))?;
        self.parse(&answer)
    }

    fn url(&self, segments: &[&str], label: Option<&str>) -> Result<Url, ControlError> {
        let mut url =
            Url::parse("http://maskd/api/v1").map_err(|error| self.lost_because(&error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        if let Some(label) = label {
            url.query_pairs_mut().append_pair("label", label);
        }
        Ok(url)
    }

    /// The body of the answer, if it is a success.
    fn ask(
        &self,
        method: Method,
        url: Url,
        json: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ControlError> {
        let mut request = self.http.request(method, url);
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        let answered = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.bytes().await?))
        });
        let (status, body) = answered.map_err(|error| lost(&self.path, error))?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let ErrorRecord { error, fault } = self.parse(&body)?;
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

/// The innermost reason: what is around it only says that a request failed.
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
