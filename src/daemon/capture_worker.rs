//! Learning while the camera runs: what is captured, kept, and refitted.
//!
//! Owns the `samples` and `trainer` threads and their channels. The camera path
//! never waits for either: crops go by `try_send`, a new head comes by a `watch`
//! that is read once a frame.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{DaemonError, StateDir, Threads, now, timer_runtime, wall_clock};
use crate::api::metrics::{Metrics, RefitEnd};
use crate::api::socket::{
    self, DaemonHandle, ErrorRecord, JudgeRequest, Live, LiveCapture, RefitRequest,
};
use crate::config::settings::{Settings, Tuning};
use crate::config::{self, Config, Keep};
use crate::frame::Crop;
use crate::learning::capture_policy::CapturePolicy;
use crate::learning::samples::NewSample;
use crate::learning::{
    Embed, Enrollment, FailureKind, InUse, Learning, LearningError, RefitRecord,
};
use crate::onnx::{Label, ModelError, ThreadPool};
use crate::platform::board::{Board, ThrottleReason};
use crate::platform::system;
use crate::vision::embed::{Backbone, Embedder, Feature};
use crate::vision::pipeline::{self, Classification, Pipeline};

/// Crops that wait for the disk; more are dropped and counted.
const WAITING_CROPS: usize = 16;
/// Crops are written together: so many at the most, or after so long.
const BATCH: usize = 16;
const GATHER: Duration = Duration::from_secs(3);
/// How often the limits of age and space are looked at, and how long a disk
/// that refused is left alone.
const UPKEEP: Duration = Duration::from_hours(1);
/// How often labels are looked for that somebody gave by moving files.
const LABEL_POLL: Duration = Duration::from_secs(5);
/// How often a refit that is going on looks how the board is.
const BOARD_POLL: Duration = Duration::from_secs(2);

/// A state directory that is open, before anything is begun.
pub(super) struct LearningState {
    learning: Arc<Learning>,
    state: PathBuf,
    in_use: InUse,
    backbone: [u8; 32],
}

impl LearningState {
    /// Opens a state directory. `None` if a usual one cannot be used: a daemon
    /// that cannot learn still watches its door.
    pub(super) fn open(
        config: &Config,
        state: StateDir,
        pipeline: &Pipeline,
    ) -> Result<Option<LearningState>, DaemonError> {
        let (state, is_named) = match state {
            StateDir::Named(state) => (state, true),
            StateDir::Usual(state) => (state, false),
        };
        let base = pipeline.shared_head();
        let learning = match Learning::open(&state, Arc::clone(&base), config.refit.options()) {
            Ok(learning) => learning,
            Err(error) if is_named => return Err(error.into()),
            Err(error) => {
                warn!(%error, "nothing is learned: the state directory cannot be used");
                return Ok(None);
            }
        };
        let in_use = learning.in_use().unwrap_or_else(|error| {
            warn!(%error, "the shipped head is used");
            InUse {
                head: Arc::clone(&base),
                number: None,
                note: None,
            }
        });
        if let Some(note) = &in_use.note {
            warn!(note, "a head is damaged");
        }
        Ok(Some(LearningState {
            learning: Arc::new(learning),
            state,
            in_use,
            backbone: *base.backbone(),
        }))
    }

    /// Starts the threads. What the infer thread needs, and what the API works
    /// with, with the state directory.
    pub(super) fn begin(
        self,
        config: &Config,
        settings: &Arc<Settings>,
        live: &Arc<watch::Sender<Live>>,
        metrics: &Arc<Metrics>,
        over: &CancellationToken,
        threads: &mut Threads,
    ) -> Result<(CropSampler, (DaemonHandle, PathBuf)), DaemonError> {
        let capture = &config.capture;
        live.send_modify(|live| {
            live.head = self.in_use.number;
            live.labels = self.in_use.head.labels().to_vec();
            live.capture = LiveCapture {
                on: capture.enabled,
                pictures: capture.keep == Keep::Pictures,
                ..LiveCapture::default()
            };
        });
        if capture.enabled {
            info!(keep = ?capture.keep, "crops of faces are kept");
        }
        let head = Arc::new(watch::Sender::new(Arc::new(self.in_use)));
        let mut head_in = head.subscribe();
        // The infer thread takes it before its first frame.
        head_in.mark_changed();
        let enrollment = Arc::new(Mutex::new(None));
        let (crops_out, crops_in) = mpsc::channel(WAITING_CROPS);
        let (refit_out, refit_in) = mpsc::channel(4);
        let (judge_out, judge_in) = mpsc::channel(4);

        let keeper = SampleWriter {
            learning: Arc::clone(&self.learning),
            options: capture.clone(),
            backbone: self.backbone,
            live: Arc::clone(live),
            enrollment: Arc::clone(&enrollment),
            tuning: settings.subscribe(),
            off_until: None,
        };
        threads.start("samples", move || keeper.run(crops_in))?;
        let trainer = RefitWorker {
            learning: Arc::clone(&self.learning),
            config: config.clone(),
            head: Arc::clone(&head),
            live: Arc::clone(live),
            metrics: Arc::clone(metrics),
            over: over.clone(),
            fingerprint: None,
            board: Board::find(),
            watch: RefCell::default(),
        };
        threads.start("trainer", move || trainer.run(refit_in, judge_in))?;

        if let Some(record) = self.learning.last_refit()
            && let Some(measured) = &record.outcome.measured
        {
            metrics.scores(measured);
        }
        let seed = wall_clock()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64);
        let sampler = CropSampler {
            head: head_in,
            capture_policy: CapturePolicy::new(capture.options(), seed),
            capture: capture.enabled,
            crops: crops_out,
            enrollment: Arc::clone(&enrollment),
            live: Arc::clone(live),
        };
        let handle = DaemonHandle {
            learning: self.learning,
            live: live.subscribe(),
            head,
            enrollment,
            refit: refit_out,
            settings: Arc::clone(settings),
            judge: judge_out,
        };
        Ok((sampler, (handle, self.state)))
    }
}

/// A crop on its way to the disk.
struct NewCrop {
    at: SystemTime,
    track: u64,
    number: u32,
    crop: Crop,
    feature: Feature,
    /// Known already: somebody enrolls.
    label: Option<Label>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere leaves none of them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The infer thread's part.
pub(super) struct CropSampler {
    head: watch::Receiver<Arc<InUse>>,
    capture_policy: CapturePolicy,
    /// Whether capturing is turned on.
    capture: bool,
    crops: mpsc::Sender<NewCrop>,
    enrollment: Arc<Mutex<Option<Enrollment>>>,
    live: Arc<watch::Sender<Live>>,
}

impl CropSampler {
    /// The head in use, if it is another one than the last time.
    pub(super) fn new_head(&mut self) -> Option<Arc<InUse>> {
        let changed = self.head.has_changed().unwrap_or(false);
        changed.then(|| Arc::clone(&self.head.borrow_and_update()))
    }

    /// Turns capturing on or off.
    pub(super) fn set_capture(&mut self, on: bool) {
        if self.capture == on {
            return;
        }
        self.capture = on;
        self.live.send_modify(|live| {
            // A disk that refused is tried again when its time has come.
            live.capture.on = on && live.capture.off_because.is_none();
        });
    }

    /// Whether somebody enrolls now.
    pub(super) fn enrolls(&self) -> bool {
        self.enrolling().is_some()
    }

    /// The looks of a frame with track and area of their faces: those that
    /// teach something are sent on, and dropped if the disk is behind.
    pub(super) fn offer(&mut self, at: Instant, looks: Vec<(u64, f32, Classification)>) {
        let enrolled = self.enrolling().and_then(|label| {
            // Whoever enrolls stands in front.
            let nearest = looks.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
            Some((nearest.0, label))
        });
        let age = now().saturating_duration_since(at);
        for (track, _, look) in looks {
            let label = enrolled.as_ref().filter(|(nearest, _)| *nearest == track);
            let label = label.map(|(_, label)| label.clone());
            let chosen = if label.is_some() {
                self.capture_policy.enroll(track, &look.feature)
            } else if self.capture {
                let (probabilities, feature) = (&look.probabilities, &look.feature);
                self.capture_policy
                    .consider(at, track, probabilities, feature)
            } else {
                None
            };
            let Some((_, number)) = chosen else { continue };
            let is_enrolled = label.is_some();
            let sent = self.crops.try_send(NewCrop {
                at: wall_clock()
                    .checked_sub(age)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                track,
                number,
                crop: look.crop,
                feature: look.feature,
                label,
            });
            if sent.is_err() {
                self.live.send_modify(|live| live.capture.dropped += 1);
            } else if is_enrolled && let Some(enrollment) = &mut *lock(&self.enrollment) {
                enrollment.taken += 1;
            }
        }
    }

    /// The label of the enrollment that is going on.
    fn enrolling(&self) -> Option<Label> {
        let enrollment = lock(&self.enrollment);
        let going_on = enrollment
            .as_ref()
            .filter(|enrollment| !enrollment.is_over());
        going_on.and_then(|enrollment| Label::new(&enrollment.label).ok())
    }
}

/// The samples thread's part: crops onto the disk, and off it when they are old.
struct SampleWriter {
    learning: Arc<Learning>,
    options: config::Capture,
    backbone: [u8; 32],
    live: Arc<watch::Sender<Live>>,
    enrollment: Arc<Mutex<Option<Enrollment>>>,
    tuning: watch::Receiver<Tuning>,
    /// The disk refused: nothing is tried before.
    off_until: Option<Instant>,
}

impl SampleWriter {
    fn run(mut self, mut crops: mpsc::Receiver<NewCrop>) -> Result<(), DaemonError> {
        let waiting = timer_runtime()?;
        self.tidy();
        let mut tidied = now();
        let mut batch: Vec<NewCrop> = Vec::new();
        loop {
            let first =
                waiting.block_on(async { tokio::time::timeout(UPKEEP, crops.recv()).await });
            let goes_on = match first {
                Ok(Some(crop)) => {
                    batch.push(crop);
                    waiting.block_on(gather(&mut crops, &mut batch))
                }
                Ok(None) => false,
                Err(_quiet) => true,
            };
            if !batch.is_empty() {
                self.store(&batch);
                batch.clear();
            }
            if now().saturating_duration_since(tidied) >= UPKEEP {
                self.tidy();
                tidied = now();
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn store(&mut self, batch: &[NewCrop]) {
        if self.off_until.is_some_and(|until| now() < until) {
            self.live
                .send_modify(|live| live.capture.dropped += batch.len() as u64);
            return;
        }
        let with_pictures = self.options.keep == Keep::Pictures;
        let new: Vec<NewSample> = batch
            .iter()
            .map(|crop| NewSample {
                at: crop.at,
                track: crop.track,
                number: crop.number,
                label: crop.label.as_ref(),
                crop: with_pictures.then_some(&crop.crop),
                feature: &crop.feature,
                backbone: self.backbone,
            })
            .collect();
        let stored = self.learning.store().capture(&new);
        match stored {
            Ok(ids) => {
                let count = ids.len();
                if self.off_until.take().is_some() {
                    info!("crops are kept again");
                }
                self.count_enrolled(batch);
                let on = self.tuning.borrow().capture;
                self.live.send_modify(|live| {
                    live.capture.stored += count as u64;
                    (live.capture.on, live.capture.off_because) = (on, None);
                });
                let full = self.live.borrow().capture.stored % 64 < count as u64;
                if full {
                    self.tidy();
                }
            }
            Err(error) => self.turn_off(&error.into()),
        }
    }

    /// Tells whoever enrolls how many crops are on disk.
    fn count_enrolled(&self, batch: &[NewCrop]) {
        let enrolled = batch.iter().filter(|crop| crop.label.is_some()).count();
        if let Some(enrollment) = &mut *lock(&self.enrollment) {
            enrollment.stored += enrolled as u32;
        }
    }

    /// Said once, and not for every crop.
    fn turn_off(&mut self, error: &LearningError) {
        let why = match error {
            LearningError::Store(error) if error.is_no_space() => "the disk is full".to_owned(),
            LearningError::Store(error) if error.is_read_only() => {
                "the state directory cannot be written".to_owned()
            }
            error => error.to_string(),
        };
        if self.off_until.is_none() {
            warn!(why, "crops are not kept any more; tried again every hour");
        }
        self.off_until = now().checked_add(UPKEEP);
        self.live.send_modify(|live| {
            live.capture.on = false;
            live.capture.off_because = Some(why);
        });
    }

    /// Keeps age and space within their limits.
    fn tidy(&self) {
        let keep = Duration::from_hours(24) * self.options.keep_days;
        let most = self.options.max_mib * 1024 * 1024;
        let removed = self
            .learning
            .store()
            .expire(wall_clock(), Some(keep), Some(most));
        match removed {
            Ok(removed) if removed.unlabelled + removed.labelled > 0 => {
                let (unlabelled, labelled) = (removed.unlabelled, removed.labelled);
                info!(unlabelled, labelled, "old samples are deleted");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "old samples cannot be deleted"),
        }
    }
}

/// More crops of the next moments, so that they are written together; false at
/// the end of all. Whoever enrolls looks at the count, and is not kept waiting.
async fn gather(crops: &mut mpsc::Receiver<NewCrop>, batch: &mut Vec<NewCrop>) -> bool {
    let until = tokio::time::Instant::now() + GATHER;
    while batch.len() < BATCH && batch.iter().all(|crop| crop.label.is_none()) {
        match tokio::time::timeout_at(until, crops.recv()).await {
            Ok(Some(crop)) => batch.push(crop),
            Ok(None) => return false,
            Err(_enough) => break,
        }
    }
    true
}

/// The trainer thread's part.
struct RefitWorker {
    learning: Arc<Learning>,
    config: Config,
    head: Arc<watch::Sender<Arc<InUse>>>,
    live: Arc<watch::Sender<Live>>,
    metrics: Arc<Metrics>,
    /// The camera path has ended.
    over: CancellationToken,
    /// Of the labels when they were last counted.
    fingerprint: Option<[u8; 32]>,
    board: Board,
    watch: RefCell<BoardMonitor>,
}

/// What the trainer is asked for.
enum Task {
    Refit(RefitRequest),
    VerdictPolicy(JudgeRequest),
}

/// What the trainer knows of the board.
#[derive(Default)]
struct BoardMonitor {
    /// When it looked last.
    looked: Option<Instant>,
    /// Why learning waits.
    strain: Option<ThrottleReason>,
}

impl RefitWorker {
    fn run(
        mut self,
        mut calls: mpsc::Receiver<RefitRequest>,
        mut offers: mpsc::Receiver<JudgeRequest>,
    ) -> Result<(), DaemonError> {
        if let Err(error) = system::idle() {
            warn!(%error, "the trainer runs at normal priority");
        }
        let waiting = timer_runtime()?;
        loop {
            let task = waiting.block_on(async {
                tokio::select! {
                    () = self.over.cancelled() => None,
                    call = calls.recv() => Some(call.map(Task::Refit)),
                    Some(call) = offers.recv() => Some(Some(Task::VerdictPolicy(call))),
                    () = tokio::time::sleep(LABEL_POLL) => Some(None),
                }
            });
            let Some(task) = task else { return Ok(()) };
            let strain = self.look_at_board();
            let waits = strain.map(|strain| ErrorRecord {
                error: format!("learning waits, since {strain}; try again later"),
                fault: FailureKind::NotNow,
            });
            match task {
                Some(Task::Refit(call)) => {
                    let result = match waits {
                        Some(waits) => Err(waits),
                        None => self.refit(&waiting).map_err(ErrorRecord::from),
                    };
                    // Whoever asked may have gone.
                    let _ = call.send(result);
                }
                Some(Task::VerdictPolicy(call)) => {
                    let result = match waits {
                        Some(waits) => Err(waits),
                        None => self.judge(&call, &waiting).map_err(ErrorRecord::from),
                    };
                    let _ = call.answer.send(result);
                }
                None if strain.is_none() && self.is_due() => {
                    // It has told the log.
                    let _ = self.refit(&waiting);
                }
                None => {}
            }
        }
    }

    /// How the board is, for the status; whether learning should wait.
    fn look_at_board(&self) -> Option<ThrottleReason> {
        let mut watch = self.watch.borrow_mut();
        let board = self.board.condition();
        let limit = self.config.refit.max_temperature_c;
        let strain = board.strain(limit, watch.strain.is_some());
        match (watch.strain, strain) {
            (None, Some(strain)) => warn!(reason = %strain, "learning waits"),
            (Some(_), None) => info!("learning may go on"),
            _ => {}
        }
        *watch = BoardMonitor {
            looked: Some(now()),
            strain,
        };
        self.live.send_modify(|live| {
            live.board = board;
            live.learning_waits = strain.map(|strain| strain.to_string());
        });
        strain
    }

    /// Asked before every step of a refit: waits while the board needs it.
    /// Whether the refit is to be left off.
    fn is_to_end(&self, waiting: &Runtime) -> bool {
        let looked = self.watch.borrow().looked;
        let is_fresh = looked.is_some_and(|at| now().saturating_duration_since(at) < BOARD_POLL);
        if !is_fresh {
            while self.look_at_board().is_some() && !self.over.is_cancelled() {
                waiting.block_on(async {
                    // Until the next look, or the end.
                    let _ = tokio::time::timeout(BOARD_POLL, self.over.cancelled()).await;
                });
            }
        }
        self.over.is_cancelled()
    }

    /// Whether enough labels are new.
    fn is_due(&mut self) -> bool {
        if !self.config.refit.enabled {
            return false;
        }
        let Ok(fingerprint) = self.learning.store().fingerprint() else {
            return false;
        };
        if self.fingerprint.replace(fingerprint) == Some(fingerprint) {
            return false;
        }
        let new = self.learning.new_labels().unwrap_or(0);
        new >= self.config.refit.min_new_labels
    }

    fn refit(&self, waiting: &Runtime) -> Result<RefitRecord, LearningError> {
        self.live.send_modify(|live| live.refitting = true);
        let begun = now();
        let result = self.learn(waiting);
        self.live.send_modify(|live| live.refitting = false);
        let took = now().saturating_duration_since(begun);
        let seconds = took.as_secs_f64();
        match &result {
            Ok(record) if record.head.is_some() => self.metrics.refit(RefitEnd::Accepted, took),
            Ok(_) => self.metrics.refit(RefitEnd::Refused, took),
            Err(_) => self.metrics.refit(RefitEnd::Failed, took),
        }
        match &result {
            Ok(record) => {
                let measured = record.outcome.measured.as_ref();
                if let Some(measured) = measured {
                    self.metrics.scores(measured);
                }
                info!(
                    head = record.head.unwrap_or(0),
                    accepted = record.head.is_some(),
                    reason = record.outcome.reason,
                    warning = record.outcome.warning,
                    accuracy_before = measured.map(|measured| measured.before.accuracy),
                    accuracy_after = measured.map(|measured| measured.after.accuracy),
                    seconds,
                    "refit"
                );
            }
            Err(_) if self.over.is_cancelled() => info!("refit left off"),
            Err(error) => warn!(%error, "refit failed"),
        }
        result
    }

    /// A head of another device.
    fn judge(&self, call: &JudgeRequest, waiting: &Runtime) -> Result<RefitRecord, LearningError> {
        let record = self.with_backbone(|embed| {
            let JudgeRequest {
                name, origin, head, ..
            } = call;
            let is_to_end = || self.is_to_end(waiting);
            self.learning
                .try_foreign_head(name, head, origin, embed, &is_to_end)
        })?;
        if record.head.is_some() {
            socket::hand_over(&self.learning, &self.head)?;
        }
        Ok(record)
    }

    fn learn(&self, waiting: &Runtime) -> Result<RefitRecord, LearningError> {
        let record =
            self.with_backbone(|embed| self.learning.refit(embed, &|| self.is_to_end(waiting)))?;
        if record.head.is_some() {
            socket::hand_over(&self.learning, &self.head)?;
        }
        Ok(record)
    }

    fn with_backbone(
        &self,
        work: impl FnOnce(&mut Embed) -> Result<RefitRecord, LearningError>,
    ) -> Result<RefitRecord, LearningError> {
        // The backbone takes memory: it is there only while crops are embedded.
        let mut embedder: Option<Embedder> = None;
        let mut embed = |crops: &[Crop]| -> Result<Vec<Feature>, ModelError> {
            let embedder = match &mut embedder {
                Some(embedder) => embedder,
                none => {
                    let (backbone, _) =
                        pipeline::open_model(self.config.models.classifier.as_deref())?;
                    none.insert(Embedder::new(
                        &Backbone::new(backbone)?,
                        1,
                        ThreadPool::alone(),
                    )?)
                }
            };
            embedder.embed(crops)
        };
        work(&mut embed)
    }
}
