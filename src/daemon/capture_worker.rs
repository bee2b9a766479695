//! The capture thread, and the sampler in the inference thread that feeds it.
//!
//! Together, the sampler and the thread move crops from the camera path to the disk. The
//! camera path never waits for the disk: the sampler uses `try_send`, and drops and
//! counts the crops that do not fit into the channel. This module knows nothing about
//! training.

use std::cell::OnceCell;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::classify_worker;
use super::refit_worker::{RefitWorker, record_scores};
use super::threads::{Threads, timer_runtime, within};
use super::times::Allowed;
use super::upload_request::UploadRequest;
use super::{DISK_LIMIT, DaemonError, Shared, StateDir, now, wall_clock};
use crate::api::socket::{
    self, DaemonHandle, DeviceAccess, Live, LiveCapture, LiveRetention, lock_enrollments,
};
use crate::config::settings::Tuning;
use crate::config::{self, Config, Keep};
use crate::frame::Crop;
use crate::frame::quality::{Appearance, Placement, Quality};
use crate::learning::Enrollment;
use crate::learning::capture_policy::{CapturePolicy, Choice};
use crate::learning::enrollment::Enrollments;
use crate::learning::samples::NewSample;
use crate::learning::{InUse, LearningAccess, LearningError, Limits, Upkeep};
use crate::onnx::Label;
use crate::platform::clock::ClockReading;
use crate::platform::text_code::TextCode;
use crate::vision::embed::Feature;
use crate::vision::pipeline::{Classification, Pipeline};

mod uploads;

/// Capacity of the channel of crops. While the channel is full, new crops are dropped.
const CROP_CHANNEL: usize = 16;
/// Capacity of the channel of uploaded faces. Only the classify thread sends them, and it waits
/// for each result.
const UPLOAD_CHANNEL: usize = 1;
/// Capacity of the channel of heads that other devices have shared.
const JUDGE_CHANNEL: usize = 4;
/// Capacity of the channel of refit requests. The refit thread empties it before each
/// refit, so that one refit answers all the waiting requests.
const REFIT_CHANNEL: usize = 1024;
/// Maximum number of crops that are written to the disk in one batch.
const MAX_BATCH: usize = 16;
/// How long the first crop of a batch waits for more crops.
const BATCH_WAIT: Duration = Duration::from_secs(3);
/// How often the limits on age and disk space are applied, and how long writing pauses
/// after the disk refused a write.
const UPKEEP_INTERVAL: Duration = Duration::from_hours(1);
/// How often the capture thread reads the clock. While labeled samples take up all the
/// disk space that the config allows, the thread also checks at this interval whether
/// there is space again.
const CLOCK_INTERVAL: Duration = Duration::from_mins(1);

/// The reason that is reported if no crops are captured because the state directory is
/// not open.
const NO_STATE: &str = "the state directory cannot be used";

/// Returns the state of capturing at the start. `is_off` tells whether the state directory is not
/// open.
fn at_start(keep: Keep, is_capturing: bool, is_off: bool) -> LiveCapture {
    let mut capture = LiveCapture {
        on: is_capturing,
        pictures: keep == Keep::Pictures,
        ..LiveCapture::default()
    };
    if is_off {
        let code = TextCode::new("state-unusable");
        capture.cannot_store(NO_STATE.to_owned(), Some(code));
    }
    capture
}

/// A handle to the state directory before the threads start. The directory may not be open
/// yet.
pub(super) struct LearningState {
    learning: LearningAccess,
    state: PathBuf,
    backbone: [u8; 32],
}

impl LearningState {
    /// Opens a state directory. This function succeeds even if the directory cannot be
    /// used or its disk does not respond in time, because a daemon that cannot learn can
    /// still watch the door. In that case, learning begins when the directory can be
    /// used.
    ///
    /// # Errors
    /// Returns [`DaemonError::Learning`] if another daemon uses a directory that the user
    /// named. Also returns the errors of [`within`].
    pub(super) fn open(
        config: &Config,
        state: StateDir,
        pipeline: &Pipeline,
    ) -> Result<LearningState, DaemonError> {
        let (state, is_named) = match state {
            StateDir::Named(state) => (state, true),
            StateDir::Usual(state) => (state, false),
        };
        let base = pipeline.shared_head();
        let backbone = *base.backbone();
        let learning = LearningAccess::new(&state, base, config.learning_options());
        let opened = within(DISK_LIMIT, "state", {
            let learning = learning.clone();
            move || learning.open().map(drop)
        })?;
        let note = learning.head().borrow().note.clone();
        match opened {
            None => {
                let error = learning.is_waiting(DISK_LIMIT.as_secs());
                warn!(
                    error,
                    "nothing is learned until the state directory can be used"
                );
            }
            // A command that keeps the directory open ends soon, but another daemon does
            // not.
            Some(Err(error)) if is_named && error.is_busy() && daemon_answers(config, &state) => {
                return Err(error.into());
            }
            // This is a mistake in the config, which does not go away on its own.
            Some(Err(error @ LearningError::ReplayFile { .. })) => return Err(error.into()),
            Some(Err(error)) => {
                warn!(%error, note, "nothing is learned until the state directory can be used");
            }
            Some(Ok(())) => {
                if let Some(note) = note {
                    warn!(note, "a different model than the intended one is in use");
                }
            }
        }
        Ok(LearningState {
            learning,
            state,
            backbone,
        })
    }

    /// Starts the capture thread and the refit thread. Returns the sampler for the
    /// inference thread, the handle for the API, and the state directory.
    pub(super) fn start(
        self,
        config: &Config,
        device: DeviceAccess,
        shared: &Shared,
        threads: &mut Threads,
    ) -> Result<(CropSampler, DaemonHandle, PathBuf), DaemonError> {
        let capture = &config.capture;
        let mut head = self.learning.head();
        let in_use = Arc::clone(&head.borrow());
        let off_because = self.learning.off_because();
        let is_capturing = capture.enabled && shared.allowed.borrow().at(now()).capture;
        shared.live.send_modify(|live| {
            live.learning.head = in_use.number;
            live.learning.note.clone_from(&in_use.note);
            live.learning.labels = in_use.head.labels().to_vec();
            live.capture = at_start(capture.keep, is_capturing, off_because.is_some());
            live.learning.off_because.clone_from(&off_because);
        });
        let is_off = off_because.is_some();
        if capture.enabled {
            info!(keep = ?capture.keep, "face pictures are captured");
        }
        if let Ok(learning) = self.learning.get() {
            record_scores(learning, &shared.metrics);
        }
        // This makes the inference thread take the head before its first frame.
        head.mark_changed();
        let enrollments = Arc::default();
        let (crops, crops_in) = mpsc::channel(CROP_CHANNEL);
        // This channel is unbounded, but it never holds more crops than were waiting to
        // be written to the disk.
        let (dropped, dropped_in) = mpsc::unbounded_channel();
        let (refit, refit_in) = mpsc::channel(REFIT_CHANNEL);
        let (judge, judge_in) = mpsc::channel(JUDGE_CHANNEL);

        let writer = SampleWriter {
            learning: self.learning.clone(),
            options: capture.clone(),
            backbone: self.backbone,
            live: Arc::clone(&shared.live),
            enrollments: Arc::clone(&enrollments),
            dropped,
            tuning: shared.settings.subscribe(),
            allowed: shared.allowed.subscribe(),
            paused_until: None,
            last_upkeep: None,
            announced: None,
            room: 0,
            is_full: false,
            cannot_save_ages: false,
        };
        let (uploads, uploads_in) = mpsc::channel(UPLOAD_CHANNEL);
        threads.start("capture", move || writer.run(crops_in, uploads_in))?;
        let worker = RefitWorker::new(&self.learning, is_off, config, shared);
        threads.start("refit", move || worker.run(refit_in, judge_in))?;

        let seed = wall_clock()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64);
        let sampler = CropSampler {
            head: head.clone(),
            policy: CapturePolicy::new(capture.options(), seed),
            is_capturing,
            learning: self.learning.clone(),
            crops,
            dropped: dropped_in,
            enrollments: Arc::clone(&enrollments),
            live: Arc::clone(&shared.live),
        };
        let classify = classify_worker::start(config, head.clone(), uploads, shared, threads)?;
        let handle = DaemonHandle {
            learning: self.learning,
            live: shared.live.subscribe(),
            head,
            enrollments,
            refit,
            settings: Arc::clone(&shared.settings),
            judge,
            classify,
            events: shared.events.clone(),
            counts: None,
            device,
        };
        Ok((sampler, handle, self.state))
    }
}

/// Whether another daemon listens on the socket that this daemon is about to open.
fn daemon_answers(config: &Config, state: &Path) -> bool {
    let runtime_dir = std::env::var_os("RUNTIME_DIRECTORY");
    let configured = config.control.socket.as_deref();
    let path = socket::socket_path(configured, runtime_dir.as_deref(), state);
    UnixStream::connect(path).is_ok()
}

/// A crop that is waiting to be written to the disk.
struct NewCrop {
    at: SystemTime,
    choice: Choice,
    crop: Crop,
    quality: Quality,
    feature: Feature,
    enrolled: Option<EnrolledAs>,
}

/// The enrollment that a crop belongs to.
#[derive(Clone)]
struct EnrolledAs {
    id: u64,
    label: Label,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use here, because the mutexes hold plain values that a
    // panic in another thread cannot leave partially updated.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A face that was classified in a frame.
pub(super) struct ClassifiedFace {
    pub(super) track: u64,
    /// Area of the face in the frame, in square pixels.
    pub(super) area: f32,
    pub(super) placement: Placement,
    pub(super) classification: Classification,
}

impl ClassifiedFace {
    fn quality(&self) -> Quality {
        let Classification { crop, face, .. } = &self.classification;
        Quality {
            appearance: Appearance::of(crop),
            placement: Some(self.placement),
            face: face.map(|opinion| opinion.probability),
        }
    }
}

/// Picks the crops that are worth keeping. It runs in the inference thread.
pub(super) struct CropSampler {
    head: watch::Receiver<Arc<InUse>>,
    policy: CapturePolicy,
    /// Whether capturing is turned on in the settings. An enrollment captures crops even
    /// if capturing is off.
    is_capturing: bool,
    /// A handle to the state directory. While the directory cannot be used, the sampler
    /// sends no crops.
    learning: LearningAccess,
    crops: mpsc::Sender<NewCrop>,
    /// Crops that the capture thread dropped.
    dropped: mpsc::UnboundedReceiver<Choice>,
    enrollments: Arc<Mutex<Enrollments>>,
    live: Arc<watch::Sender<Live>>,
}

impl CropSampler {
    /// Returns the head in use if it has changed since the last call.
    pub(super) fn new_head(&mut self) -> Option<Arc<InUse>> {
        let has_changed = self.head.has_changed().unwrap_or(false);
        has_changed.then(|| Arc::clone(&self.head.borrow_and_update()))
    }

    /// Turns capturing on or off.
    pub(super) fn set_capture(&mut self, on: bool) {
        if self.is_capturing == on {
            return;
        }
        self.is_capturing = on;
        self.live.send_modify(|live| {
            // While writing is paused because the disk refused a write, only the
            // capture thread may report that capturing is on again.
            live.capture.on = on && live.capture.off_because.is_none();
        });
    }

    /// Whether an enrollment is in progress.
    pub(super) fn is_enrolling(&self) -> bool {
        lock_enrollments(&self.enrollments).active().is_some()
    }

    /// Sends the crops that are worth keeping to the capture thread. `faces` are the
    /// classified faces in a frame that was captured at time `at`.
    pub(super) fn offer(&mut self, at: Instant, faces: Vec<ClassifiedFace>) {
        if !self.learning.is_open() {
            return;
        }
        while let Ok(choice) = self.dropped.try_recv() {
            self.policy.give_back(choice);
        }
        let enrolling = self.enrolling(at).and_then(|enrolled_as| {
            // The person who is being enrolled is assumed to be the nearest person, whose
            // face is the largest.
            let nearest = faces.iter().max_by(|a, b| a.area.total_cmp(&b.area))?;
            Some((nearest.track, enrolled_as))
        });
        let age = now().saturating_duration_since(at);
        let captured_at = wall_clock()
            .checked_sub(age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        for face in faces {
            let enrolled = enrolling
                .as_ref()
                .filter(|(nearest, _)| *nearest == face.track);
            let enrolled = enrolled.map(|(_, enrolled_as)| enrolled_as.clone());
            let measured = OnceCell::new();
            let quality = || *measured.get_or_init(|| face.quality());
            let Some(choice) = self.choose(at, &face, quality, enrolled.is_some()) else {
                continue;
            };
            let quality = quality();
            self.send(NewCrop {
                at: captured_at,
                choice,
                quality,
                crop: face.classification.crop,
                feature: face.classification.feature,
                enrolled,
            });
        }
    }

    /// Decides whether to keep a crop. `quality` measures the crop, and is called only if
    /// the decision depends on it.
    fn choose(
        &mut self,
        at: Instant,
        face: &ClassifiedFace,
        quality: impl FnOnce() -> Quality,
        is_enrolled: bool,
    ) -> Option<Choice> {
        let Classification {
            feature,
            probabilities,
            ..
        } = &face.classification;
        if is_enrolled {
            self.policy.enroll(face.track, feature)
        } else if self.is_capturing {
            let is_bad = || !quality().flaws().is_empty();
            self.policy
                .consider(at, face.track, probabilities, feature, is_bad)
        } else {
            None
        }
    }

    /// Sends a crop to the capture thread, or drops it if the channel is full.
    fn send(&mut self, crop: NewCrop) {
        let choice = crop.choice;
        let id = crop.enrolled.as_ref().map(|enrolled_as| enrolled_as.id);
        // The lock is held while the crop is sent, so that the capture thread cannot
        // count the crop as stored before it is counted as taken here.
        let mut enrollments = lock(&self.enrollments);
        if self.crops.try_send(crop).is_ok() {
            if let Some(id) = id {
                enrollments.taken(id);
            }
        } else {
            drop(enrollments);
            self.policy.give_back(choice);
            self.live.send_modify(|live| live.capture.dropped += 1);
        }
    }

    /// Returns the ID and the label of the enrollment that was in progress when a frame was
    /// captured. Both are attached to each crop of the enrollment.
    fn enrolling(&self, captured: Instant) -> Option<EnrolledAs> {
        let enrollments = lock_enrollments(&self.enrollments);
        let Enrollment { id, label, .. } = enrollments.active_at(captured)?;
        let label = Label::new(label).ok()?;
        Some(EnrolledAs { id: *id, label })
    }
}

/// Writes crops to the disk and deletes old crops. It runs in the capture thread.
struct SampleWriter {
    learning: LearningAccess,
    options: config::Capture,
    backbone: [u8; 32],
    live: Arc<watch::Sender<Live>>,
    enrollments: Arc<Mutex<Enrollments>>,
    /// Tells the sampler which crops were not stored.
    dropped: mpsc::UnboundedSender<Choice>,
    tuning: watch::Receiver<Tuning>,
    /// What the time of day allows.
    allowed: watch::Receiver<Allowed>,
    /// The time until which nothing is written. It is set when the disk refuses a write.
    paused_until: Option<Instant>,
    /// When the limits were last applied.
    last_upkeep: Option<Instant>,
    /// The values that were most recently announced.
    announced: Option<LiveRetention>,
    /// Number of additional crops that are certain to fit into the disk space.
    room: u64,
    /// Whether labeled samples take up all the disk space that the config allows.
    is_full: bool,
    /// Whether the last attempt to save the ages of the samples failed.
    cannot_save_ages: bool,
}

impl SampleWriter {
    fn run(
        mut self,
        mut crops: mpsc::Receiver<NewCrop>,
        mut uploads: mpsc::Receiver<UploadRequest>,
    ) -> Result<(), DaemonError> {
        let runtime = timer_runtime()?;
        self.apply_limits();
        let mut batch: Vec<NewCrop> = Vec::new();
        loop {
            let first = runtime.block_on(async {
                tokio::select! {
                    crop = crops.recv() => Wake::Crop(crop),
                    Some(upload) = uploads.recv() => Wake::Upload(upload),
                    () = tokio::time::sleep(CLOCK_INTERVAL) => Wake::Clock,
                }
            });
            let is_open = match first {
                Wake::Crop(Some(crop)) => {
                    batch.push(crop);
                    runtime.block_on(gather(&mut crops, &uploads, &mut batch))
                }
                Wake::Crop(None) => false,
                Wake::Upload(upload) => {
                    self.answer_upload(upload);
                    true
                }
                Wake::Clock => true,
            };
            if !batch.is_empty() {
                self.store(&batch);
                batch.clear();
            }
            if self.is_upkeep_due() {
                self.apply_limits();
            }
            self.save_ages(!is_open);
            if !is_open {
                return Ok(());
            }
        }
    }

    /// Whether the limits must be applied again. This is the case after each
    /// [`UPKEEP_INTERVAL`], and whenever the clock becomes trustworthy or stops being
    /// trustworthy. While labeled samples take up all the disk space, the limits must
    /// also be applied again after each [`CLOCK_INTERVAL`].
    fn is_upkeep_due(&self) -> bool {
        let since = |at: Instant| now().saturating_duration_since(at);
        let (Some(last), Ok(learning)) = (self.last_upkeep, self.learning.get()) else {
            return true;
        };
        let told = self.live.borrow().retention.unwrap_or_default();
        since(last) >= UPKEEP_INTERVAL
            || (self.is_full && since(last) >= CLOCK_INTERVAL)
            || learning.is_clock_believed(ClockReading::now()) != told.clock_synchronized
    }

    fn store(&mut self, batch: &[NewCrop]) {
        let is_paused = self.paused_until.is_some_and(|until| now() < until);
        if is_paused || self.is_full {
            self.drop_batch(batch);
            return;
        }
        let with_pictures = self.options.keep == Keep::Pictures;
        let new: Vec<NewSample> = batch
            .iter()
            .map(|crop| NewSample {
                at: crop.at,
                track: crop.choice.track,
                number: crop.choice.number,
                label: crop.enrolled.as_ref().map(|enrolled| &enrolled.label),
                crop: with_pictures.then_some(&crop.crop),
                quality: Some(&crop.quality),
                feature: &crop.feature,
                backbone: self.backbone,
            })
            .collect();
        let captured = self.learning.get().and_then(|learning| {
            let ids = learning.store().capture(&new)?;
            learning.captured(&ids, ClockReading::now());
            Ok(ids)
        });
        match captured {
            Ok(ids) => {
                // The disk may have refused the rest of the batch.
                let (stored, rest) = batch.split_at(ids.len());
                self.stored(stored, ids.len() as u64);
                if !rest.is_empty() {
                    self.drop_batch(rest);
                }
            }
            Err(error) => {
                self.drop_batch(batch);
                self.pause(&error);
            }
        }
    }

    /// Counts the crops in `batch` as dropped. Notifies the sampler, so that it chooses
    /// other crops instead.
    fn drop_batch(&self, batch: &[NewCrop]) {
        let mut enrollments = lock(&self.enrollments);
        for crop in batch {
            if let Some(enrolled) = &crop.enrolled {
                enrollments.dropped(enrolled.id);
            }
            // Sending fails if the sampler has already ended.
            let _ = self.dropped.send(crop.choice);
        }
        drop(enrollments);
        self.live
            .send_modify(|live| live.capture.dropped += batch.len() as u64);
    }

    /// Whether the settings and the time of day allow capturing.
    fn captures(&self) -> bool {
        self.tuning.borrow().capture && self.allowed.borrow().at(now()).capture
    }

    fn stored(&mut self, batch: &[NewCrop], count: u64) {
        if self.paused_until.take().is_some() {
            info!("face pictures are captured again");
        }
        let mut enrollments = lock(&self.enrollments);
        for enrolled in batch.iter().filter_map(|crop| crop.enrolled.as_ref()) {
            enrollments.stored(enrolled.id);
        }
        drop(enrollments);
        let on = self.captures();
        self.live.send_modify(|live| {
            live.capture.stored += count;
            live.capture.can_store(on);
        });
        self.room = self.room.saturating_sub(count);
        if self.room == 0 {
            self.apply_limits();
        }
    }

    /// Stops writing for [`UPKEEP_INTERVAL`] after the disk refused a write.
    fn pause(&mut self, error: &LearningError) {
        let (reason, code) = match error {
            LearningError::Store(error) if error.is_no_space() => {
                ("the disk is full".to_owned(), Some("disk-full"))
            }
            LearningError::Store(error) if error.is_read_only() => (
                "the state directory cannot be written".to_owned(),
                Some("state-read-only"),
            ),
            error => (error.to_string(), None),
        };
        // This is logged once, not for every batch.
        if self.paused_until.is_none() {
            warn!(
                reason,
                "face pictures are no longer captured; capturing is tried again every hour"
            );
        }
        self.paused_until = now().checked_add(UPKEEP_INTERVAL);
        let code = code.map(TextCode::new);
        self.live
            .send_modify(|live| live.capture.cannot_store(reason, code));
    }

    /// Deletes samples that exceed the limits on age and disk space, and announces
    /// upcoming deletions.
    fn apply_limits(&mut self) {
        let Ok(learning) = self.learning.get() else {
            return;
        };
        self.last_upkeep = Some(now());
        let limits = Limits {
            max_age: Duration::from_hours(24) * self.options.keep_days,
            max_bytes: self.options.max_mib * 1024 * 1024,
        };
        let upkeep = match learning.apply_limits(limits, ClockReading::now()) {
            Ok(upkeep) => upkeep,
            Err(error) => return warn!(%error, "old face pictures cannot be deleted"),
        };
        let (unlabelled, labelled) = (upkeep.removed.unlabelled, upkeep.removed.labelled);
        if unlabelled + labelled > 0 {
            info!(unlabelled, labelled, "old face pictures were deleted");
        }
        self.room = upkeep.room;
        self.announce(&upkeep);
        self.set_full(upkeep.is_full);
    }

    /// Publishes how many labeled samples will be deleted and when, whether the clock is
    /// synchronized, and how many files do not count toward the disk space. Logs only
    /// what has changed.
    fn announce(&mut self, upkeep: &Upkeep) {
        let announcement = upkeep.announcement;
        let hours = announcement.map(|ending| ending.first_in.as_secs().div_ceil(60 * 60));
        let told = LiveRetention {
            clock_synchronized: upkeep.clock_synchronized,
            labeled_ending: announcement.map_or(0, |ending| ending.samples),
            first_ends_in_hours: hours,
            not_counted: upkeep.not_counted,
        };
        let before = self.announced.replace(told);
        if let Some(ending) = announcement
            && (ending.new > 0 || before.is_none())
        {
            warn!(
                samples = ending.samples,
                first_in_hours = hours,
                keep_days = self.options.keep_days,
                "labeled face pictures will be deleted because of their age: to keep them, \
                 export them, or raise capture.keep-days"
            );
        }
        let before = before.unwrap_or(LiveRetention {
            clock_synchronized: true,
            ..LiveRetention::default()
        });
        if told.clock_synchronized != before.clock_synchronized {
            if told.clock_synchronized {
                info!("the clock is synchronized");
            } else {
                info!(
                    "the clock is not synchronized, or it jumped within the last day: the age \
                     of face pictures counts only the time that the daemon runs"
                );
            }
        }
        if told.not_counted > before.not_counted {
            warn!(
                files = told.not_counted,
                "files of more than 1 MiB among the face pictures do not count toward \
                 capture.max-mib"
            );
        }
        self.live.send_modify(|live| live.retention = Some(told));
    }

    /// Stops capturing while labeled samples take up all the disk space that the config
    /// allows, and resumes capturing when there is space again.
    fn set_full(&mut self, is_full: bool) {
        let on = self.captures();
        let max_mib = self.options.max_mib;
        let reason = || {
            format!(
                "the labeled face pictures take up the disk space of capture.max-mib \
                 ({max_mib} MiB): raise it, or export and delete some of them"
            )
        };
        let was_full = std::mem::replace(&mut self.is_full, is_full);
        if is_full {
            if !was_full {
                warn!(reason = reason(), "face pictures are no longer captured");
            }
            let code = TextCode::new("capture-full").with("mib", max_mib);
            self.live
                .send_modify(|live| live.capture.cannot_store(reason(), Some(code)));
        } else if was_full {
            info!("face pictures are captured again");
            self.live.send_modify(|live| live.capture.can_store(on));
        }
    }

    /// Saves the ages of the samples if this is due or `last` is true.
    fn save_ages(&mut self, last: bool) {
        let Ok(learning) = self.learning.get() else {
            return;
        };
        let saved = learning.save_ages(ClockReading::now(), last);
        if let Err(error) = &saved
            && !self.cannot_save_ages
        {
            warn!(%error, "the ages of face pictures cannot be saved");
        }
        self.cannot_save_ages = saved.is_err();
    }
}

/// What the capture thread has to do next.
enum Wake {
    /// Store a crop. `None` means that the channel is closed.
    Crop(Option<NewCrop>),
    Upload(UploadRequest),
    /// Check the clock.
    Clock,
}

/// Adds crops to a batch until it is full or [`BATCH_WAIT`] has passed. Returns false if
/// the channel is closed. If the batch contains a crop from an enrollment, or an upload waits,
/// this function does not wait for more crops, because a person is watching the count.
async fn gather(
    crops: &mut mpsc::Receiver<NewCrop>,
    uploads: &mpsc::Receiver<UploadRequest>,
    batch: &mut Vec<NewCrop>,
) -> bool {
    let deadline = tokio::time::Instant::now() + BATCH_WAIT;
    let is_watched = |batch: &[NewCrop]| batch.iter().any(|crop| crop.enrolled.is_some());
    while batch.len() < MAX_BATCH && !is_watched(batch) && uploads.is_empty() {
        match tokio::time::timeout_at(deadline, crops.recv()).await {
            Ok(Some(crop)) => batch.push(crop),
            Ok(None) => return false,
            Err(_timeout) => break,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::RgbImage;

    use super::*;
    use crate::daemon::upload_request::UploadedCrop;
    use crate::frame::CROP_SIDE;
    use crate::learning::capture_policy::CaptureOptions;
    use crate::learning::enrollment::TimeLimit;
    use crate::learning::{FailureKind, Learning, LearningOptions};
    use crate::onnx::FEATURES;
    use crate::vision::head::HeadId;
    use crate::vision::pipeline::open_model;

    /// A sampler and a writer with the channel between them, but without threads.
    struct CapturePath {
        sampler: CropSampler,
        writer: SampleWriter,
        crops: mpsc::Receiver<NewCrop>,
        state: tempfile::TempDir,
        /// Number of faces offered so far. This number makes the feature of each face
        /// different.
        faces: usize,
    }

    impl CapturePath {
        fn new(capacity: usize, per_track: u32) -> CapturePath {
            let state = tempfile::tempdir().unwrap();
            let (_, base) = open_model(None).unwrap();
            let backbone = *base.backbone();
            let base = Arc::new(base);
            let options = LearningOptions::default();
            let learning = Learning::open(state.path(), Arc::clone(&base), options).unwrap();
            let learning = LearningAccess::from(learning);
            let live = Arc::new(watch::Sender::new(Live::default()));
            let enrollments = Arc::<Mutex<Enrollments>>::default();
            let (crops_out, crops) = mpsc::channel(capacity);
            let (dropped, dropped_in) = mpsc::unbounded_channel();
            let policy = CaptureOptions {
                per_track,
                per_hour: 1000,
                ..config::Capture::default().options()
            };
            CapturePath {
                sampler: CropSampler {
                    head: learning.head(),
                    policy: CapturePolicy::new(policy, 1),
                    is_capturing: true,
                    learning: learning.clone(),
                    crops: crops_out,
                    dropped: dropped_in,
                    enrollments: Arc::clone(&enrollments),
                    live: Arc::clone(&live),
                },
                writer: SampleWriter {
                    learning,
                    options: config::Capture::default(),
                    backbone,
                    live,
                    enrollments,
                    dropped,
                    tuning: watch::channel(Tuning::of(&Config::default())).1,
                    allowed: watch::channel(Allowed::ALL).1,
                    paused_until: None,
                    last_upkeep: None,
                    announced: None,
                    room: 0,
                    is_full: false,
                    cannot_save_ages: false,
                },
                crops,
                state,
                faces: 0,
            }
        }

        /// Offers a new face on track 1 that the classifier is unsure about.
        fn offer(&mut self) {
            self.offer_captured(now());
        }

        /// Offers such a face in a frame that was captured at a time.
        fn offer_captured(&mut self, at: Instant) {
            let mut feature = Box::new([0.0; FEATURES]);
            feature[self.faces] = 1.0;
            self.faces += 1;
            let checkered = RgbImage::from_fn(CROP_SIDE, CROP_SIDE, |x, y| {
                image::Rgb([if (x / 8 + y / 8) % 2 == 0 { 60 } else { 190 }; 3])
            });
            let crop = Crop::from_image(checkered).unwrap();
            let classification = Classification {
                crop,
                feature: feature.into(),
                head: HeadId::default(),
                probabilities: vec![0.5, 0.5],
                face: None,
            };
            let face = ClassifiedFace {
                track: 1,
                area: 100.0,
                placement: Placement {
                    side: 100.0,
                    outside: 0.0,
                },
                classification,
            };
            self.sampler.offer(at, vec![face]);
        }

        /// Stores the waiting crops in the same way as the capture thread, and returns
        /// how many there were.
        fn write(&mut self) -> usize {
            let mut batch = Vec::new();
            while let Ok(crop) = self.crops.try_recv() {
                batch.push(crop);
            }
            if !batch.is_empty() {
                self.writer.store(&batch);
            }
            batch.len()
        }

        /// Makes the store refuse writes, as if the disk were full.
        fn break_store(&self) {
            let samples = self.state.path().join("samples");
            fs::remove_dir_all(&samples).unwrap();
            fs::write(&samples, b"in the way").unwrap();
        }

        fn capture(&self) -> LiveCapture {
            self.sampler.live.borrow().capture.clone()
        }

        fn enrollment(&self) -> Enrollment {
            lock(&self.sampler.enrollments).last().unwrap().clone()
        }

        fn enroll(&self, wanted: u32) -> u64 {
            let label = Label::new("with_mask").unwrap();
            let limit = TimeLimit::new(now(), Duration::from_mins(1), None);
            let started = lock(&self.sampler.enrollments).start(&label, wanted, limit);
            started.unwrap().id
        }
    }

    #[test]
    fn crops_that_find_the_channel_full_use_up_no_budget() {
        let mut path = CapturePath::new(1, 2);
        for _ in 0..5 {
            path.offer();
        }
        assert_eq!(path.capture().dropped, 4);
        assert_eq!(path.write(), 1);
        path.offer();
        assert_eq!(path.write(), 1, "the second crop of the track");
        path.offer();
        assert_eq!(path.write(), 0, "a track has two crops");
        assert_eq!(path.capture().stored, 2);
    }

    #[test]
    fn crops_that_the_disk_refuses_use_up_no_budget() {
        let mut path = CapturePath::new(8, 2);
        path.break_store();
        for round in 1..=4 {
            path.offer();
            path.offer();
            assert_eq!(path.write(), 2);
            assert_eq!(path.capture().dropped, 2 * round);
        }
        let capture = path.capture();
        assert!(!capture.on && capture.off_because.is_some() && capture.stored == 0);
    }

    #[test]
    fn an_enrollment_counts_its_own_crops_alone() {
        let mut path = CapturePath::new(8, 100);
        path.enroll(5);
        path.offer();
        path.offer();
        lock(&path.sampler.enrollments).end();
        let second = path.enroll(3);
        assert_eq!(path.write(), 2, "crops of the first enrollment, late");
        assert_eq!((path.enrollment().taken, path.enrollment().stored), (0, 0));
        path.offer();
        assert_eq!(path.write(), 1);
        let enrollment = path.enrollment();
        assert_eq!((enrollment.id, enrollment.stored), (second, 1));
        assert_eq!(
            path.writer.learning.get().unwrap().stats().unwrap()["with_mask"].samples,
            3
        );
    }

    #[test]
    fn an_enrollment_takes_no_frame_from_before_it_started() {
        let mut path = CapturePath::new(8, 100);
        let before = now();
        path.enroll(5);
        path.offer_captured(before.checked_sub(Duration::from_secs(1)).unwrap());
        assert_eq!(path.enrollment().taken, 0);
        path.offer();
        assert_eq!(path.enrollment().taken, 1);
    }

    #[test]
    fn crops_of_an_enrollment_that_are_lost_are_taken_again() {
        let mut path = CapturePath::new(8, 100);
        path.enroll(2);
        path.break_store();
        path.offer();
        assert_eq!(path.enrollment().taken, 1);
        path.write();
        assert_eq!(path.enrollment().taken, 0);
    }

    #[test]
    fn labeled_crops_that_take_up_the_space_stop_capturing_until_there_is_space() {
        let mut path = CapturePath::new(8, 100);
        path.writer.options.max_mib = 1;
        path.writer.tuning = watch::channel(Tuning {
            capture: true,
            ..Tuning::of(&Config::default())
        })
        .1;
        path.writer.apply_limits();
        path.offer();
        path.write();
        assert_eq!(path.capture().stored, 1);

        let folder = path.state.path().join("samples/with_mask");
        fs::create_dir(&folder).unwrap();
        for number in 0..3 {
            fs::write(folder.join(format!("{number}.jpg")), vec![1; 400_000]).unwrap();
        }
        path.writer.apply_limits();
        let capture = path.capture();
        assert!(!capture.on);
        assert!(
            capture
                .off_because
                .unwrap()
                .contains("capture.max-mib (1 MiB)")
        );
        let counts = path.writer.learning.get().unwrap().stats().unwrap();
        assert_eq!(counts["with_mask"].samples, 3);
        assert!(
            !counts.contains_key("unlabelled"),
            "the one without a label made room"
        );
        path.offer();
        path.write();
        assert_eq!((path.capture().stored, path.capture().dropped), (1, 1));

        fs::remove_file(folder.join("0.jpg")).unwrap();
        path.writer.apply_limits();
        assert!(path.capture().on && path.capture().off_because.is_none());
        path.offer();
        path.write();
        assert_eq!(path.capture().stored, 2);
    }

    fn uploaded(number: usize) -> UploadedCrop {
        let mut feature = Box::new([0.0; FEATURES]);
        feature[number] = 1.0;
        let shade = image::Rgb([(number * 20) as u8; 3]);
        let crop = Crop::from_image(RgbImage::from_pixel(CROP_SIDE, CROP_SIDE, shade)).unwrap();
        UploadedCrop {
            quality: Quality::of(&crop),
            crop,
            feature: feature.into(),
        }
    }

    #[test]
    fn uploaded_faces_are_stored_once_and_only_while_there_is_room() {
        let mut path = CapturePath::new(1, 1);
        let faces = [uploaded(1), uploaded(2)];
        let added = path.writer.add(&faces).unwrap();
        assert!(added.iter().all(|added| added.is_new));
        let again = path.writer.add(&faces[..1]).unwrap();
        assert_eq!((&again[0].id, again[0].is_new), (&added[0].id, false));
        let counts = path.writer.learning.get().unwrap().stats().unwrap();
        assert_eq!(counts["unlabelled"].samples, 2);
        assert_eq!(path.capture().stored, 2);
        path.break_store();
        assert!(path.writer.add(&[uploaded(3)]).is_err());
        assert!(path.capture().off_because.is_some());
        let refused = path.writer.add(&[uploaded(4)]).unwrap_err();
        assert_eq!(refused.fault, FailureKind::NotNow, "{}", refused.error);
    }

    #[test]
    fn crops_never_take_up_more_space_than_the_config_allows() {
        let mut path = CapturePath::new(8, 1000);
        path.writer.options.max_mib = 1;
        for _ in 0..100 {
            for _ in 0..4 {
                path.offer();
            }
            path.write();
            let bytes = path.writer.learning.get().unwrap().stats().unwrap()["unlabelled"].bytes;
            assert!(bytes <= 1 << 20, "{bytes}");
        }
        assert!(path.capture().stored > 300, "{:?}", path.capture());
        assert!(path.capture().on || path.capture().off_because.is_none());
    }
}
