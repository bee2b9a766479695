//! The classify thread, which classifies pictures that clients of the API send, and finds the
//! faces in pictures that they upload to be labeled.
//!
//! The thread has its own models, because those of the inference thread are always in use.
//! It opens them for the first picture, and closes them when no picture has come for a
//! while. It runs at a low priority and on one core, so that the camera path stays as fast
//! as without pictures. It stores nothing: the capture thread stores the faces of uploaded
//! pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use image::RgbImage;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::threads::{Threads, timer_runtime};
use super::upload_request::{UploadRequest, UploadedCrop};
use super::{DaemonError, Shared};
use crate::api::socket::{
    CLASSIFY_CHANNEL, ClassifyRequest, ErrorRecord, MAX_UPLOADED_FACES, PictureTask, UploadRecord,
    UploadedFace,
};
use crate::config::Config;
use crate::config::settings::Tuning;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::{FaceRecord, PictureRecord};
use crate::decision::recognizer::Recognizer;
use crate::frame::decode_within;
use crate::frame::quality::{Appearance, Placement, Quality};
use crate::learning::{FailureKind, InUse};
use crate::platform::system;
use crate::vision::pipeline::Pipeline;

/// How long the models stay open after the last picture.
const KEEP_OPEN: Duration = Duration::from_mins(1);

/// How long to wait until the faces of an uploaded picture are stored. The capture thread may
/// be busy with other crops or wait for the disk.
const STORE_LIMIT: Duration = Duration::from_mins(1);

/// The name of a sent picture in its record, as `maskd classify` names a picture from
/// standard input.
const SENT: &str = "-";

/// The faces that were found in an uploaded picture.
struct Found {
    width: u32,
    height: u32,
    records: Vec<FaceRecord>,
    crops: Vec<UploadedCrop>,
}

/// The state of the classify thread.
struct ClassifyWorker {
    config: Config,
    tuning: watch::Receiver<Tuning>,
    head: watch::Receiver<Arc<InUse>>,
    inference_ended: CancellationToken,
    /// Sends the faces of uploaded pictures to the capture thread.
    uploads: mpsc::Sender<UploadRequest>,
    /// The models, or `None` while they are closed.
    recognizer: Option<Recognizer>,
}

/// Starts the classify thread, which ends when the inference thread has ended. Returns the
/// sender of requests.
pub(super) fn start(
    config: &Config,
    head: watch::Receiver<Arc<InUse>>,
    uploads: mpsc::Sender<UploadRequest>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<mpsc::Sender<ClassifyRequest>, DaemonError> {
    let (requests, requests_in) = mpsc::channel(CLASSIFY_CHANNEL);
    let worker = ClassifyWorker {
        config: config.clone(),
        tuning: shared.settings.subscribe(),
        head,
        inference_ended: shared.inference_ended.clone(),
        uploads,
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
                Some(Some(request)) => self.answer(request, &runtime),
                Some(None) => return Ok(()),
                None => self.recognizer = None,
            }
        }
    }

    fn answer(&mut self, request: ClassifyRequest, runtime: &Runtime) {
        let ClassifyRequest {
            picture,
            task,
            place: _place,
        } = request;
        if task.is_abandoned() {
            return;
        }
        // The client may have disconnected when the result is there.
        match task {
            PictureTask::Classify(answer) => {
                let _ = answer.send(self.guarded(|worker| worker.classify(&picture)));
            }
            PictureTask::Keep(answer) => {
                let found = self.guarded(|worker| worker.find(&picture));
                drop(picture);
                let _ = answer.send(found.and_then(|found| self.keep(found, runtime)));
            }
        }
    }

    /// Runs `work`, which handles a picture. A picture that makes a decoder panic must not stop
    /// the daemon.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut ClassifyWorker) -> Result<T, ErrorRecord>,
    ) -> Result<T, ErrorRecord> {
        let work = AssertUnwindSafe(|| work(self));
        let result = catch_unwind(work).unwrap_or_else(|_| {
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
        result
    }

    fn decode(&self, picture: &[u8]) -> Result<RgbImage, ErrorRecord> {
        let max_pixels = self.config.camera.options().max_frame_pixels;
        decode_within(picture, max_pixels).map_err(|error| {
            let sentence = format!("the picture cannot be used: {error}");
            ErrorRecord::new(FailureKind::Data, sentence)
        })
    }

    /// Finds the faces in a picture.
    fn find(&mut self, picture: &[u8]) -> Result<Found, ErrorRecord> {
        let pixels = self.decode(picture)?;
        let (width, height) = pixels.dimensions();
        let recognizer = self.recognizer()?;
        let recognized = recognizer.recognize(&pixels).map_err(failed)?;
        if recognized.len() > MAX_UPLOADED_FACES {
            let sentence = format!(
                "the picture shows {} faces, and at most {MAX_UPLOADED_FACES} are allowed: cut it",
                recognized.len()
            );
            return Err(ErrorRecord::new(FailureKind::Data, sentence));
        }
        let labels = recognizer.labels();
        let faces = recognized.into_iter().map(|(result, classification)| {
            let placement = Placement::of(&result.face.rect, width, height);
            let crop = UploadedCrop {
                quality: Quality {
                    appearance: Appearance::of(&classification.crop),
                    placement: Some(placement),
                    face: classification.face.map(|opinion| opinion.probability),
                },
                crop: classification.crop,
                feature: classification.feature,
            };
            (FaceRecord::new(&result, labels), crop)
        });
        let (records, crops) = faces.unzip();
        Ok(Found {
            width,
            height,
            records,
            crops,
        })
    }

    /// Has the capture thread store faces, and waits until it has done so.
    fn keep(&self, found: Found, runtime: &Runtime) -> Result<UploadRecord, ErrorRecord> {
        let unavailable = |sentence: &str| ErrorRecord::new(FailureKind::Unavailable, sentence);
        let Found {
            width,
            height,
            records,
            crops,
        } = found;
        let (answer, stored) = oneshot::channel();
        let faces = records.len();
        self.uploads
            .try_send(UploadRequest { crops, answer })
            .map_err(|_| {
                unavailable("the daemon keeps no more pictures, because it is stopping")
            })?;
        let stored = runtime.block_on(async {
            tokio::select! {
                () = self.inference_ended.cancelled() => None,
                stored = tokio::time::timeout(STORE_LIMIT, stored) => stored.ok()?.ok(),
            }
        });
        let stored =
            stored.ok_or_else(|| unavailable("the disk does not answer in time: check it"))??;
        debug!(faces, "the faces of an uploaded picture were stored");
        let faces = records
            .into_iter()
            .zip(stored)
            .map(|(face, added)| UploadedFace {
                id: added.id,
                new: added.is_new,
                face,
            });
        Ok(UploadRecord {
            width,
            height,
            faces: faces.collect(),
        })
    }

    fn classify(&mut self, picture: &[u8]) -> Result<PictureRecord, ErrorRecord> {
        let pixels = self.decode(picture)?;
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
