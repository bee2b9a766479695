//! The classify thread, which classifies pictures that clients of the API send.
//!
//! The thread has its own models, because those of the inference thread are always in use.
//! It opens them for the first picture, and closes them when no picture has come for a
//! while. It runs at a low priority and on one core, so that the camera path stays as fast
//! as without pictures. It stores nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::threads::{Threads, timer_runtime};
use super::{DaemonError, Shared};
use crate::api::socket::{CLASSIFY_CHANNEL, ClassifyRequest, ErrorRecord};
use crate::config::Config;
use crate::config::settings::Tuning;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::PictureRecord;
use crate::decision::recognizer::Recognizer;
use crate::frame::decode_within;
use crate::learning::{FailureKind, InUse};
use crate::platform::system;
use crate::vision::pipeline::Pipeline;

/// How long the models stay open after the last picture.
const KEEP_OPEN: Duration = Duration::from_mins(1);

/// The name of a sent picture in its record, as `maskd classify` names a picture from
/// standard input.
const SENT: &str = "-";

/// The state of the classify thread.
struct ClassifyWorker {
    config: Config,
    tuning: watch::Receiver<Tuning>,
    head: watch::Receiver<Arc<InUse>>,
    inference_ended: CancellationToken,
    /// The models, or `None` while they are closed.
    recognizer: Option<Recognizer>,
}

/// Starts the classify thread, which ends when the inference thread has ended. Returns the
/// sender of requests.
pub(super) fn start(
    config: &Config,
    head: watch::Receiver<Arc<InUse>>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<mpsc::Sender<ClassifyRequest>, DaemonError> {
    let (requests, requests_in) = mpsc::channel(CLASSIFY_CHANNEL);
    let worker = ClassifyWorker {
        config: config.clone(),
        tuning: shared.settings.subscribe(),
        head,
        inference_ended: shared.inference_ended.clone(),
        recognizer: None,
    };
    threads.start("classify", move || worker.run(requests_in))?;
    Ok(requests)
}

impl ClassifyWorker {
    fn run(mut self, mut requests: mpsc::Receiver<ClassifyRequest>) -> Result<(), DaemonError> {
        if let Err(error) = system::low() {
            warn!(%error, "pictures are classified at normal priority");
        }
        let runtime = timer_runtime()?;
        loop {
            let is_open = self.recognizer.is_some();
            let request = runtime.block_on(async {
                tokio::select! {
                    () = self.inference_ended.cancelled() => Some(None),
                    request = requests.recv() => Some(request),
                    () = tokio::time::sleep(KEEP_OPEN), if is_open => None,
                }
            });
            match request {
                Some(Some(request)) => self.answer(request),
                Some(None) => return Ok(()),
                None => self.recognizer = None,
            }
        }
    }

    fn answer(&mut self, request: ClassifyRequest) {
        let ClassifyRequest {
            picture,
            answer,
            place: _place,
        } = request;
        if answer.is_closed() {
            return;
        }
        // A picture that makes a decoder panic must not stop the daemon.
        let classify = AssertUnwindSafe(|| self.classify(&picture));
        let result = catch_unwind(classify).unwrap_or_else(|_| {
            error!("classifying a picture failed unexpectedly; please report this");
            let sentence = "the picture cannot be classified; see the log of the daemon";
            Err(ErrorRecord::new(FailureKind::Internal, sentence))
        });
        if let Err(ErrorRecord { fault, .. }) = &result
            && *fault != FailureKind::Data
        {
            // The models may be in an unknown state.
            self.recognizer = None;
        }
        // The client may have disconnected in the meantime.
        let _ = answer.send(result);
    }

    fn classify(&mut self, picture: &[u8]) -> Result<PictureRecord, ErrorRecord> {
        let max_pixels = self.config.camera.options().max_frame_pixels;
        let pixels = decode_within(picture, max_pixels).map_err(|error| {
            let sentence = format!("the picture cannot be used: {error}");
            ErrorRecord::new(FailureKind::Data, sentence)
        })?;
        let recognizer = self.recognizer()?;
        let faces = recognizer.faces(&pixels).map_err(failed)?;
        debug!(faces = faces.len(), "a sent picture was classified");
        Ok(recognizer.record(SENT.to_owned(), &pixels, &faces))
    }

    /// Returns the models with the head and the thresholds that are in use.
    fn recognizer(&mut self) -> Result<&mut Recognizer, ErrorRecord> {
        let recognizer = match self.recognizer.take() {
            Some(recognizer) => recognizer,
            None => self.open()?,
        };
        let recognizer = self.recognizer.insert(recognizer);
        let in_use = Arc::clone(&self.head.borrow());
        if recognizer.head().backbone() != in_use.head.backbone() {
            return Err(failed(
                "the classifier file has changed since the daemon started: restart the daemon",
            ));
        }
        recognizer
            .set_head(Arc::clone(&in_use.head))
            .map_err(failed)?;
        let tuning = *self.tuning.borrow();
        recognizer.set_thresholds(tuning.masked_threshold, tuning.unmasked_threshold);
        Ok(recognizer)
    }

    fn open(&self) -> Result<Recognizer, ErrorRecord> {
        let options = self.config.pipeline_options();
        let pipeline = Pipeline::open(&options, 1).map_err(failed)?;
        let verdicts = self.config.classify.verdict_options();
        let policy = VerdictPolicy::new(verdicts, pipeline.head().labels()).map_err(failed)?;
        Ok(Recognizer::new(pipeline, policy))
    }
}

fn failed(why: impl std::fmt::Display) -> ErrorRecord {
    let sentence = format!("pictures cannot be classified: {why}");
    ErrorRecord::new(FailureKind::System, sentence)
}
