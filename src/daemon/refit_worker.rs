//! The refit thread, which trains on the labels from this device and evaluates heads from
//! other devices.
//!
//! The thread schedules automatic refits, monitors the board, and opens a state directory that
//! could not be used when the daemon started. It runs at the lowest priority. It sends a new head
//! through a `watch` channel, which the camera path checks once per frame.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::threads::timer_runtime;
use super::{DaemonError, Shared, now};
use crate::api::metrics::{Metrics, RefitEnd};
use crate::api::socket::{ErrorRecord, JudgeRequest, Live, RefitProgress, RefitRequest};
use crate::config::Config;
use crate::config::settings::Tuning;
use crate::frame::Crop;
use crate::learning::{
    Embed, FailureKind, Learning, LearningAccess, LearningError, RefitRecord, RefitTrigger,
};
use crate::onnx::{ModelError, ThreadPool};
use crate::platform::board::{Board, ThrottleReason};
use crate::platform::system;
use crate::vision::embed::{Backbone, Embedder, Feature};
use crate::vision::pipeline;

/// How often the thread checks for new labels. The thread has to poll because people may label
/// samples by moving files.
const LABEL_POLL: Duration = Duration::from_secs(5);
/// How often a running refit checks the board.
const BOARD_POLL: Duration = Duration::from_secs(2);
/// Time between a failed automatic refit and the first retry. Each further wait is twice as long as
/// the one before.
const FIRST_RETRY: Duration = Duration::from_mins(1);
/// Maximum number of retries of an automatic refit. The last retry starts about an hour after the
/// first failure. If that retry fails too, the error is assumed to be permanent, and only a changed
/// label starts another refit.
const MAX_RETRIES: u32 = 6;

/// How often the progress of a refit is published.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The state of the refit thread.
pub(super) struct RefitWorker {
    learning: LearningAccess,
    config: Config,
    tuning: watch::Receiver<Tuning>,
    live: Arc<watch::Sender<Live>>,
    metrics: Arc<Metrics>,
    inference_ended: CancellationToken,
    schedule: RefitSchedule,
    board: BoardMonitor,
    new_pictures: NewPictures,
    /// Whether the daemon last reported that learning is off.
    is_off: bool,
    /// Number of steps of the last refit that trained a model.
    last_steps: Cell<Option<u64>>,
}

/// Counts the steps of a refit, and tells when to publish their number.
struct StepCounter {
    start: Instant,
    steps: Cell<u64>,
    published: Cell<Option<Instant>>,
}

impl StepCounter {
    fn new(start: Instant) -> StepCounter {
        StepCounter {
            start,
            steps: Cell::new(0),
            published: Cell::new(None),
        }
    }

    /// Counts a step that begins at time `at`. If it is time to publish the progress, returns
    /// the number of steps and of seconds.
    fn step(&self, at: Instant) -> Option<(u64, u64)> {
        self.steps.set(self.steps.get() + 1);
        let since = |time: Instant| at.saturating_duration_since(time);
        let is_due = |time: Instant| since(time) >= PROGRESS_INTERVAL;
        self.published
            .get()
            .is_none_or(is_due)
            .then(|| self.published.set(Some(at)))
            .map(|()| (self.steps.get(), since(self.start).as_secs()))
    }
}

/// The next task of the refit thread.
enum Task {
    Refit(RefitRequest),
    Judge(JudgeRequest),
    /// Check for new labels, because no request arrived before the check was due.
    CheckLabels,
    End,
}

impl RefitWorker {
    /// `is_off` tells whether learning has been reported to be off.
    pub(super) fn new(
        learning: &LearningAccess,
        is_off: bool,
        config: &Config,
        shared: &Shared,
    ) -> RefitWorker {
        RefitWorker {
            is_off,
            learning: learning.clone(),
            config: config.clone(),
            tuning: shared.settings.subscribe(),
            live: Arc::clone(&shared.live),
            metrics: Arc::clone(&shared.metrics),
            inference_ended: shared.inference_ended.clone(),
            schedule: RefitSchedule::new(config.refit.min_new_labels),
            board: BoardMonitor {
                board: Board::find(),
                max_temperature_c: config.refit.max_temperature_c,
                live: Arc::clone(&shared.live),
                last_poll: Cell::new(None),
                reason: Cell::new(None),
            },
            new_pictures: NewPictures::default(),
            last_steps: Cell::new(None),
        }
    }

    /// Handles requests and checks for new labels until the inference thread has
    /// ended.
    pub(super) fn run(
        mut self,
        mut refit_requests: mpsc::Receiver<RefitRequest>,
        mut judge_requests: mpsc::Receiver<JudgeRequest>,
    ) -> Result<(), DaemonError> {
        if let Err(error) = system::idle() {
            warn!(%error, "training runs at normal priority");
        }
        let runtime = timer_runtime()?;
        loop {
            let task = runtime.block_on(async {
                tokio::select! {
                    () = self.inference_ended.cancelled() => Task::End,
                    Some(request) = refit_requests.recv() => Task::Refit(request),
                    Some(request) = judge_requests.recv() => Task::Judge(request),
                    () = tokio::time::sleep(LABEL_POLL) => Task::CheckLabels,
                }
            });
            if matches!(task, Task::CheckLabels) {
                self.reopen();
            }
            let throttled = self.board.poll(now());
            let not_now = throttled.map(|reason| {
                let sentence = format!("training waits because {reason}; try again later");
                ErrorRecord::new(FailureKind::NotNow, sentence)
            });
            match task {
                Task::Refit(request) => {
                    let waiting = waiting(request, &mut refit_requests);
                    let Some(trigger) = trigger(&waiting) else {
                        continue;
                    };
                    let result = match not_now {
                        Some(not_now) => Err(not_now),
                        None => self.refit(trigger, &runtime).map_err(ErrorRecord::from),
                    };
                    for request in waiting {
                        // The client may have disconnected.
                        let _ = request.answer.send(result.clone());
                    }
                }
                Task::Judge(request) => {
                    let result = match not_now {
                        Some(not_now) => Err(not_now),
                        None => self.judge(&request, &runtime).map_err(ErrorRecord::from),
                    };
                    let _ = request.answer.send(result);
                }
                Task::CheckLabels if throttled.is_none() => {
                    let files = self.fingerprint();
                    if !self.is_due(files) {
                        let is_requested =
                            || !refit_requests.is_empty() || !judge_requests.is_empty();
                        self.embed_new(files, &runtime, &is_requested);
                    } else if self.refit(RefitTrigger::default(), &runtime).is_err() {
                        self.schedule_retry();
                    }
                }
                Task::CheckLabels => {}
                Task::End => return Ok(()),
            }
        }
    }

    /// Waits while the board is too hot or its power supply is too weak. Returns true if the refit
    /// must be canceled. Called before every step of a refit.
    fn is_canceled(&self, runtime: &Runtime) -> bool {
        if self.board.is_stale(now()) {
            while self.board.poll(now()).is_some() && !self.inference_ended.is_cancelled() {
                runtime.block_on(async {
                    let ended = self.inference_ended.cancelled();
                    let _ = tokio::time::timeout(BOARD_POLL, ended).await;
                });
            }
        }
        self.inference_ended.is_cancelled()
    }

    /// Retries opening a state directory that could not be used. While the attempt from the
    /// start of the daemon still waits for the disk, this function only checks whether that attempt
    /// has succeeded.
    fn reopen(&mut self) {
        if !self.is_off {
            return;
        }
        if let Ok(learning) = self.learning.open() {
            self.is_off = false;
            info!("the state directory can be used now: learning is on");
            record_scores(learning, &self.metrics);
            let capture = self.tuning.borrow().capture;
            self.live.send_modify(|live| {
                live.learning.off_because = None;
                live.capture.can_store(capture);
            });
        } else {
            let off_because = self.learning.off_because();
            self.live.send_if_modified(|live| {
                let is_new = live.learning.off_because != off_because;
                live.learning.off_because = off_because;
                is_new
            });
        }
    }

    /// Returns the fingerprint of the samples, or `None` if they cannot be listed.
    fn fingerprint(&self) -> Option<[u8; 32]> {
        self.learning.get().ok()?.store().fingerprint().ok()
    }

    /// Embeds pictures that have no features, such as imported ones. `files` is the fingerprint
    /// of the samples. Stops as soon as `is_requested` returns true.
    fn embed_new(
        &mut self,
        files: Option<[u8; 32]>,
        runtime: &Runtime,
        is_requested: &dyn Fn() -> bool,
    ) {
        let Ok(learning) = self.learning.get() else {
            return;
        };
        if files.is_none() || self.new_pictures.files == files {
            return;
        }
        let mut checked = std::mem::take(&mut self.new_pictures.checked);
        let is_canceled = || is_requested() || self.is_canceled(runtime);
        let result =
            self.with_backbone(|embed| learning.embed_new(&mut checked, embed, &is_canceled));
        self.new_pictures.checked = checked;
        match result {
            Ok(true) => self.new_pictures.files = files,
            Ok(false) => {}
            Err(error) => {
                // Without this, a fault that persists would be reported every few seconds.
                self.new_pictures.files = files;
                warn!(%error, "new face pictures are not embedded");
            }
        }
    }

    /// Whether an automatic refit is due. `files` is the fingerprint of the samples.
    fn is_due(&mut self, files: Option<[u8; 32]>) -> bool {
        let Ok(learning) = self.learning.get() else {
            return false;
        };
        learning.save_unsaved();
        if !self.config.refit.enabled {
            return false;
        }
        let Some(labels) = files else {
            return false;
        };
        let new_labels = || learning.new_labels().unwrap_or(0);
        self.schedule.is_due(now(), labels, new_labels)
    }

    fn schedule_retry(&mut self) {
        if let Some(wait) = self.schedule.failed(now()) {
            info!(
                minutes = wait.as_secs() / 60,
                "training will be tried again"
            );
        } else {
            warn!("training failed too often; it will be tried again after the next label");
        }
    }

    fn refit(
        &self,
        trigger: RefitTrigger,
        runtime: &Runtime,
    ) -> Result<RefitRecord, LearningError> {
        let learning = self.learning.get()?;
        self.live.send_modify(|live| live.learning.refitting = true);
        let start = now();
        let steps = StepCounter::new(start);
        let is_canceled = || {
            if let Some((steps, seconds)) = steps.step(now()) {
                let progress = RefitProgress {
                    seconds,
                    steps,
                    last_steps: self.last_steps.get(),
                };
                self.live
                    .send_modify(|live| live.learning.progress = Some(progress));
            }
            self.is_canceled(runtime)
        };
        let result = self.with_backbone(|embed| learning.refit(trigger, embed, &is_canceled));
        if result
            .as_ref()
            .is_ok_and(|record| record.outcome.measured.is_some())
        {
            self.last_steps.set(Some(steps.steps.get()));
        }
        self.live.send_modify(|live| {
            live.learning.refitting = false;
            live.learning.progress = None;
        });
        self.report(&result, now().saturating_duration_since(start));
        result
    }

    /// Logs the result of a refit and records it in the metrics.
    fn report(&self, result: &Result<RefitRecord, LearningError>, duration: Duration) {
        let end = match result {
            Ok(record) if record.head.is_some() => RefitEnd::Accepted,
            Ok(_) => RefitEnd::Refused,
            Err(_) => RefitEnd::Failed,
        };
        self.metrics.refit(end, duration);
        match result {
            Ok(record) => {
                let measured = record.outcome.measured.as_ref();
                if let Some(measured) = measured {
                    self.metrics.scores(measured);
                }
                info!(
                    model = record.head.unwrap_or(0),
                    accepted = record.head.is_some(),
                    reason = record.outcome.reason,
                    warning = record.outcome.warning,
                    accuracy_before = measured.map(|measured| measured.before.accuracy),
                    accuracy_after = measured.map(|measured| measured.after.accuracy),
                    seconds = duration.as_secs_f64(),
                    "training ended"
                );
            }
            Err(_) if self.inference_ended.is_cancelled() => info!("training canceled"),
            Err(error) => warn!(%error, "training failed"),
        }
    }

    /// Evaluates a head from another device, and puts it into use if it is accepted.
    fn judge(
        &self,
        request: &JudgeRequest,
        runtime: &Runtime,
    ) -> Result<RefitRecord, LearningError> {
        let JudgeRequest {
            name, origin, head, ..
        } = request;
        let learning = self.learning.get()?;
        self.with_backbone(|embed| {
            let is_canceled = || self.is_canceled(runtime);
            learning.try_foreign_head(name, head, origin, embed, &is_canceled)
        })
    }

    fn with_backbone<T>(
        &self,
        work: impl FnOnce(&mut Embed) -> Result<T, LearningError>,
    ) -> Result<T, LearningError> {
        // The backbone uses a lot of memory, so it is loaded only if crops have to be
        // embedded, and it is dropped at the end.
        let mut embedder: Option<Embedder> = None;
        let mut embed = |crops: &[Crop]| -> Result<Vec<Feature>, ModelError> {
            let embedder = match &mut embedder {
                Some(embedder) => embedder,
                none => {
                    let (backbone, head) =
                        pipeline::open_model(self.config.models.classifier.as_deref())?;
                    none.insert(Embedder::new(
                        &Backbone::new(backbone, head.features())?,
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

/// Which pictures are known to have features.
#[derive(Debug, Default)]
struct NewPictures {
    /// Fingerprint of the files when all pictures were last checked.
    files: Option<[u8; 32]>,
    /// Ids of the pictures that were checked.
    checked: HashSet<String>,
}

/// Records the scores of the last refit in the metrics.
pub(super) fn record_scores(learning: &Learning, metrics: &Metrics) {
    if let Some(record) = learning.last_refit()
        && let Some(measured) = &record.outcome.measured
    {
        metrics.scores(measured);
    }
}

/// Returns all requests that are waiting for a refit, so that one refit answers all of them. Leaves
/// out requests from clients that have disconnected.
fn waiting(first: RefitRequest, others: &mut mpsc::Receiver<RefitRequest>) -> Vec<RefitRequest> {
    let mut waiting = vec![first];
    while let Ok(request) = others.try_recv() {
        waiting.push(request);
    }
    waiting.retain(|request| !request.answer.is_closed());
    waiting
}

/// Returns the trigger of the refit that answers all these requests, or `None` if there are
/// no requests. If one of them vouches for the labels, the refit counts as requested by the
/// first that does.
fn trigger(waiting: &[RefitRequest]) -> Option<RefitTrigger> {
    let triggers = || waiting.iter().map(|request| request.trigger);
    triggers()
        .find(|trigger| trigger.labels_checked)
        .or_else(|| triggers().next())
}

/// Decides when an automatic refit starts. It reads no clock and no files, because
/// the caller passes the time and the labels as arguments.
struct RefitSchedule {
    /// Number of new labels that starts a refit.
    min_new: usize,
    /// Fingerprint of the labels at the last check.
    labels: Option<[u8; 32]>,
    /// Number of failures since the labels last changed.
    failures: u32,
    retry_at: Option<Instant>,
}

impl RefitSchedule {
    fn new(min_new: usize) -> RefitSchedule {
        RefitSchedule {
            min_new,
            labels: None,
            failures: 0,
            retry_at: None,
        }
    }

    /// Whether a refit should start now. `new_labels` counts the labels that are new or have
    /// changed since the last refit that was accepted or refused. This function calls `new_labels`
    /// only if the result depends on that count.
    fn is_due(
        &mut self,
        now: Instant,
        labels: [u8; 32],
        new_labels: impl FnOnce() -> usize,
    ) -> bool {
        let has_changed = self.labels.replace(labels) != Some(labels);
        if has_changed {
            self.failures = 0;
            self.retry_at = None;
        }
        let is_retry = self.retry_at.is_some_and(|at| now >= at);
        if is_retry {
            self.retry_at = None;
        }
        (has_changed || is_retry) && new_labels() >= self.min_new
    }

    /// Records that an automatic refit failed. Returns how long to wait before the
    /// next attempt, or `None` if there is no further attempt until a label changes.
    fn failed(&mut self, now: Instant) -> Option<Duration> {
        if self.failures == MAX_RETRIES {
            return None;
        }
        let wait = FIRST_RETRY * 2_u32.pow(self.failures);
        self.failures += 1;
        self.retry_at = now.checked_add(wait);
        Some(wait)
    }
}

/// Monitors the temperature and the power supply of the board, and publishes both in
/// the live status.
struct BoardMonitor {
    board: Board,
    max_temperature_c: f32,
    live: Arc<watch::Sender<Live>>,
    last_poll: Cell<Option<Instant>>,
    /// Why training waits, according to the last poll. `None` if training need not wait.
    reason: Cell<Option<ThrottleReason>>,
}

impl BoardMonitor {
    /// Reads the board's sensors. Returns the reason to delay training, if there is
    /// one.
    fn poll(&self, now: Instant) -> Option<ThrottleReason> {
        let status = self.board.status();
        let before = self.reason.get();
        let reason = status.throttle_reason(self.max_temperature_c, before.is_some());
        match (before, reason) {
            (None, Some(reason)) => warn!(%reason, "training waits"),
            (Some(_), None) => info!("training may go on"),
            _ => {}
        }
        self.last_poll.set(Some(now));
        self.reason.set(reason);
        self.live.send_modify(|live| {
            live.board = status.into();
            live.learning.waits_because = reason.map(|reason| reason.to_string());
            live.learning.waits_code = reason.map(ThrottleReason::code);
        });
        reason
    }

    fn is_stale(&self, now: Instant) -> bool {
        let last = self.last_poll.get();
        last.is_none_or(|at| now.saturating_duration_since(at) >= BOARD_POLL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn the_progress_is_published_at_most_once_per_interval() {
        let start = now();
        let steps = StepCounter::new(start);
        assert_eq!(steps.step(start), Some((1, 0)));
        let soon = start + PROGRESS_INTERVAL / 2;
        assert_eq!(steps.step(soon), None);
        assert_eq!(steps.step(start + PROGRESS_INTERVAL), Some((3, 1)));
        assert_eq!(steps.step(start + MINUTE), Some((4, 60)));
    }

    #[test]
    fn enough_new_labels_start_a_refit_once() {
        let start = now();
        let mut schedule = RefitSchedule::new(5);
        assert!(!schedule.is_due(start, [1; 32], || 4), "too few");
        assert!(schedule.is_due(start, [2; 32], || 5));
        let later = start + 1000 * MINUTE;
        let uncounted = || unreachable!("unchanged labels are not counted again");
        assert!(!schedule.is_due(later, [2; 32], uncounted));
        assert!(!schedule.is_due(later, [3; 32], || 0), "used by the refit");
    }

    #[test]
    fn a_refit_that_failed_is_tried_again_later_and_later_and_not_for_ever() {
        let mut at = now();
        let mut schedule = RefitSchedule::new(5);
        assert!(schedule.is_due(at, [1; 32], || 5));
        let mut waits = Vec::new();
        while let Some(wait) = schedule.failed(at) {
            let almost = wait.saturating_sub(Duration::from_secs(1));
            assert!(!schedule.is_due(at + almost, [1; 32], || 5));
            at += wait;
            assert!(schedule.is_due(at, [1; 32], || 5));
            waits.push(wait);
        }
        let minutes = [1, 2, 4, 8, 16, 32].map(|minutes| minutes * MINUTE);
        assert_eq!(waits, minutes);
        assert!(!schedule.is_due(at + 1000 * MINUTE, [1; 32], || 5));
    }

    #[test]
    fn a_label_starts_the_retries_anew() {
        let start = now();
        let mut schedule = RefitSchedule::new(5);
        assert!(schedule.is_due(start, [1; 32], || 5));
        while schedule.failed(start).is_some() {}
        assert!(schedule.is_due(start, [2; 32], || 6));
        assert_eq!(schedule.failed(start), Some(MINUTE));
        // In the meantime, a refit that a user requested was accepted or refused.
        assert!(!schedule.is_due(start + MINUTE, [2; 32], || 0));
        assert!(!schedule.is_due(start + 2 * MINUTE, [2; 32], || 6));
    }
}
