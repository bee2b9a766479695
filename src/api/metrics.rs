//! Metrics in the Prometheus text format, and health checks.
//!
//! Owns the names of the metrics and the routes `/metrics`, `/healthz`, and `/readyz`.
//! Values that are already in [`Live`] are read only when a request arrives. While frames
//! are processed, only a few histograms are updated. Names and units follow
//! <https://prometheus.io/docs/practices/naming/>. `docs/grafana.json` is a dashboard
//! that shows the metrics.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::api::file_work::{self, Length};
use crate::api::problems::Topic;
use crate::api::socket::{DaemonHandle, Live};
use crate::counts::Passages;
use crate::decision::decide::Decision;
use crate::events::ReceiverRecord;
use crate::indicate::DoorPosition;
use crate::learning::MeasuredRecord;
use crate::vision::pipeline::Stage;

/// Histogram bucket bounds for durations of about a second or less, in seconds.
const SHORT: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
];
/// Histogram bucket bounds for durations of seconds to minutes, in seconds.
const LONG: [f64; 9] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];

/// If the newest heartbeat is at least this old, the indicator thread is considered hung.
const MAX_HEARTBEAT_AGE: Duration = Duration::from_secs(2);

/// The heartbeat of the indicator thread, used by the watchdog and the health checks.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// When the heartbeat was sent.
    pub at: Instant,
    /// Whether decisions are based on fresh frames. The value is also true while the
    /// camera is known to be lost.
    pub fresh: bool,
}

impl Heartbeat {
    /// Whether the heartbeat is recent and [`fresh`](Heartbeat::fresh) is set.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        self.fresh && now.saturating_duration_since(self.at) < MAX_HEARTBEAT_AGE
    }
}

/// How a refit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefitEnd {
    /// The new head is in use.
    Accepted,
    /// The gate kept the old head.
    Refused,
    /// The refit ended with an error, or the daemon stopped before the refit finished.
    Failed,
}

type Label = [(&'static str, &'static str); 1];
type Gauges = Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>;
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// The metrics that other modules update directly. Clones share the same values across
/// threads.
#[derive(Debug)]
pub struct Metrics {
    stages: Histograms,
    /// The histograms of `stages`, indexed by stage number to avoid a lookup on every
    /// frame.
    by_stage: [Histogram; Stage::ALL.len()],
    verdict: Histogram,
    decisions: Family<Label, Counter>,
    refits: Family<Label, Counter>,
    refit: Histogram,
    accuracy: Gauges,
    loss: Gauges,
}

fn short() -> Histogram {
    Histogram::new(SHORT)
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Creates the metrics, with all values at 0.
    #[must_use]
    pub fn new() -> Metrics {
        let stages = Histograms::new_with_constructor(short);
        let by_stage =
            Stage::ALL.map(|stage| stages.get_or_create(&[("stage", stage.name())]).clone());
        let decisions = Family::<Label, Counter>::default();
        for decision in Decision::ALL {
            // Prometheus detects the first increase only if the series starts at 0.
            drop(decisions.get_or_create(&[("decision", decision.name())]));
        }
        let refits = Family::<Label, Counter>::default();
        for end in [RefitEnd::Accepted, RefitEnd::Refused, RefitEnd::Failed] {
            drop(refits.get_or_create(&[("outcome", end.name())]));
        }
        Metrics {
            stages,
            by_stage,
            verdict: short(),
            decisions,
            refits,
            refit: Histogram::new(LONG),
            accuracy: Gauges::default(),
            loss: Gauges::default(),
        }
    }

    /// Records how long a stage took to process a frame with all its faces.
    pub fn stage(&self, stage: Stage, duration: Duration) {
        self.by_stage[stage as usize].observe(duration.as_secs_f64());
    }

    /// Records the time from a frame's capture to its verdicts.
    pub fn verdict(&self, duration: Duration) {
        self.verdict.observe(duration.as_secs_f64());
    }

    /// Counts a change to the given decision.
    pub fn decision(&self, decision: Decision) {
        let counter = self
            .decisions
            .get_or_create(&[("decision", decision.name())]);
        counter.inc();
    }

    /// Records how a refit ended and how long it took.
    pub fn refit(&self, end: RefitEnd, duration: Duration) {
        self.refits.get_or_create(&[("outcome", end.name())]).inc();
        self.refit.observe(duration.as_secs_f64());
    }

    /// Records the scores of the head before and after the last refit.
    pub fn scores(&self, measured: &MeasuredRecord) {
        for (head, scores) in [("before", &measured.before), ("after", &measured.after)] {
            let label = vec![("head", head.to_owned())];
            self.accuracy.get_or_create(&label).set(scores.accuracy);
            self.loss.get_or_create(&label).set(scores.loss);
        }
    }

    /// Returns all metrics in the Prometheus text format.
    ///
    /// # Errors
    /// Returns the encoder's error. In practice, writing to a string does not fail.
    pub fn text(&self, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("maskd");
        let r = &mut registry;
        r.register(
            "stage_duration_seconds",
            "Duration of a processing stage for a frame with all its faces",
            self.stages.clone(),
        );
        r.register(
            "frame_latency_seconds",
            "Time from the capture of a frame to the verdicts on its faces",
            self.verdict.clone(),
        );
        r.register(
            "decision_changes",
            "Changes of the decision, by new decision",
            self.decisions.clone(),
        );
        r.register(
            "refits",
            "Training runs on this device, by outcome",
            self.refits.clone(),
        );
        r.register(
            "refit_duration_seconds",
            "Duration of a training run on this device",
            self.refit.clone(),
        );
        r.register(
            "refit_accuracy_ratio",
            "Fraction of held-out samples that are classified correctly, before and after the last training run",
            self.accuracy.clone(),
        );
        r.register(
            "refit_loss_nats",
            "Mean loss on held-out samples, before and after the last training run",
            self.loss.clone(),
        );
        snapshot.register(r);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl RefitEnd {
    fn name(self) -> &'static str {
        match self {
            RefitEnd::Accepted => "accepted",
            RefitEnd::Refused => "refused",
            RefitEnd::Failed => "failed",
        }
    }
}

/// Values that are stored elsewhere and are read when a request arrives.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The live state of the daemon.
    pub live: Live,
    /// Number of samples by label. Samples without a label are counted under
    /// `unlabelled`.
    pub samples: Vec<(String, usize)>,
    /// Number of labels assigned since the last refit.
    pub new_labels: usize,
    /// Published passages since the start of the daemon, or `None` if nothing is counted.
    pub passages: Option<Passages>,
    /// Whether decisions are fresh, as defined by [`Heartbeat::is_alive`].
    pub is_alive: bool,
    /// The receivers of events.
    pub receivers: Vec<ReceiverRecord>,
}

/// Creates gauges with the same name. Each gauge has a different value of the Prometheus
/// label `label`.
fn gauges(label: &'static str, values: impl IntoIterator<Item = (String, f64)>) -> Gauges {
    let family = Gauges::default();
    for (name, value) in values {
        family.get_or_create(&vec![(label, name)]).set(value);
    }
    family
}

/// Returns 1 for true and 0 for false.
fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl Snapshot {
    fn register(&self, registry: &mut Registry) {
        self.register_counters(registry);
        self.register_gauges(registry);
        self.register_families(registry);
        self.register_board(registry);
        self.register_door(registry);
        self.register_times(registry);
        self.register_events(registry);
        self.register_passages(registry);
        let version = [(env!("CARGO_PKG_VERSION").to_owned(), 1.0)];
        registry.register(
            "build_info",
            "The version, as a label",
            gauges("version", version),
        );
    }

    fn register_counters(&self, registry: &mut Registry) {
        let Live {
            camera,
            inference,
            capture,
            ..
        } = &self.live;
        for (name, help, count) in [
            ("frames", "Frames that were processed", inference.frames),
            (
                "frames_skipped",
                "Frames that were replaced by newer ones before they were processed",
                inference.skipped,
            ),
            (
                "detections",
                "Frames that the face detector ran on; in the others nothing moved",
                inference.detections,
            ),
            (
                "faces_classified",
                "Faces that were classified; the others had a settled verdict or were unsure",
                inference.classified,
            ),
            (
                "captures",
                "Face pictures that were stored for labeling",
                capture.stored,
            ),
            (
                "captures_dropped",
                "Face pictures that were dropped because the disk was too slow or could not be written to",
                capture.dropped,
            ),
            (
                "camera_losses",
                "Number of times the camera was lost",
                camera.losses,
            ),
        ] {
            registry.register(name, help, ConstCounter::new(count));
        }
    }

    fn register_gauges(&self, registry: &mut Registry) {
        let Live {
            camera,
            inference,
            learning,
            capture,
            retention,
            ..
        } = &self.live;
        let retention = retention.unwrap_or_default();
        for (name, help, value) in [
            ("faces", "Faces in the newest frame", inference.faces as f64),
            (
                "camera_lost",
                "1 while the camera is lost and being reconnected",
                flag(camera.lost),
            ),
            (
                "healthy",
                "1 while decisions are based on fresh frames, or the camera is known to be lost",
                flag(self.is_alive),
            ),
            (
                "capturing",
                "1 while face pictures are captured",
                flag(capture.on),
            ),
            (
                "clock_synchronized",
                "1 while the clock is synchronized with a time server and has not jumped for a day",
                flag(retention.clock_synchronized),
            ),
            (
                "labeled_ending",
                "Labeled face pictures that are about to be deleted because of their age",
                retention.labeled_ending as f64,
            ),
            (
                "refitting",
                "1 during training on this device",
                flag(learning.refitting),
            ),
            (
                "head",
                "Number of the model in use; 0 is the built-in model",
                f64::from(learning.head.unwrap_or(0)),
            ),
            (
                "learning_off",
                "1 while nothing is learned because the state directory cannot be used",
                flag(learning.off_because.is_some()),
            ),
            (
                "refit_paused",
                "1 while training waits because of the board's temperature or power supply",
                flag(learning.waits_because.is_some()),
            ),
            (
                "new_labels",
                "Labels since the last training run on this device",
                self.new_labels as f64,
            ),
        ] {
            registry.register(name, help, ConstGauge::new(value));
        }
    }

    fn register_families(&self, registry: &mut Registry) {
        let decisions = Decision::ALL.map(|decision| {
            let name = decision.name();
            (name.to_owned(), flag(self.live.decision == name))
        });
        registry.register(
            "decision",
            "1 for the current decision",
            gauges("decision", decisions),
        );
        let problems = Topic::ALL.map(|topic| {
            let name = topic.name();
            (name.to_owned(), flag(self.live.problems.contains_key(name)))
        });
        registry.register(
            "problem",
            "1 for each topic that needs attention; the status explains why",
            gauges("topic", problems),
        );
        let samples = self.samples.iter();
        let samples = samples.map(|(label, count)| (label.clone(), *count as f64));
        registry.register(
            "samples",
            "Face pictures on disk by label",
            gauges("label", samples),
        );
    }

    fn register_events(&self, registry: &mut Registry) {
        type Count = fn(&ReceiverRecord) -> u64;
        if self.receivers.is_empty() {
            return;
        }
        let label = |receiver: &ReceiverRecord| vec![("receiver", receiver.name.clone())];
        let counts: [(_, _, Count); 3] = [
            (
                "events_delivered",
                "Events that a receiver got",
                |receiver| receiver.delivered,
            ),
            (
                "event_failures",
                "Attempts to deliver an event that failed",
                |receiver| receiver.failed,
            ),
            (
                "events_dropped",
                "Events that a receiver will not get",
                |receiver| receiver.dropped,
            ),
        ];
        for (name, help, count) in counts {
            let family = Family::<Vec<(&'static str, String)>, Counter>::default();
            for receiver in &self.receivers {
                let counter = family.get_or_create(&label(receiver)).clone();
                counter.inc_by(count(receiver));
            }
            registry.register(name, help, family);
        }
        let waiting = Gauges::default();
        for receiver in &self.receivers {
            let gauge = waiting.get_or_create(&label(receiver)).clone();
            gauge.set(receiver.waiting as f64);
        }
        let help = "Events that wait for delivery";
        registry.register("events_waiting", help, waiting);
    }

    fn register_passages(&self, registry: &mut Registry) {
        let Some(passages) = &self.passages else {
            return;
        };
        let family = Family::<Label, Counter>::default();
        for (outcome, number) in passages.named() {
            family.get_or_create(&[("outcome", outcome)]).inc_by(number);
        }
        registry.register(
            "passages",
            "People who have passed; in statistics mode, rounded and only in hours that are over",
            family,
        );
    }

    fn register_door(&self, registry: &mut Registry) {
        let Some(door) = &self.live.door else { return };
        let states = [
            ("unlocked", door.unlocked),
            ("open", door.position == Some(DoorPosition::Open)),
            ("released", door.released),
            ("held_open", door.held_open),
        ];
        let states = states.map(|(state, holds)| (state.to_owned(), flag(holds)));
        registry.register(
            "door",
            "1 for each state of the door that holds now",
            gauges("state", states),
        );
        registry.register(
            "door_held_open_warnings",
            "Number of times the door was open for longer than the limit",
            ConstCounter::new(door.held_open_warnings),
        );
    }

    fn register_times(&self, registry: &mut Registry) {
        let Some(times) = &self.live.times else {
            return;
        };
        let activities = [
            ("indicate", &times.indicate),
            ("lock", &times.lock),
            ("capture", &times.capture),
            ("sound", &times.sound),
        ];
        let activities = activities.map(|(name, window)| (name.to_owned(), flag(window.on)));
        registry.register(
            "times_on",
            "1 for each activity that the windows of time allow now",
            gauges("activity", activities),
        );
    }

    fn register_board(&self, registry: &mut Registry) {
        let board = &self.live.board;
        if let Some(celsius) = board.temperature_c {
            registry.register(
                "board_temperature_celsius",
                "Temperature of the board's processor",
                ConstGauge::new(f64::from(celsius)),
            );
        }
        if let Some(throttling) = board.throttling {
            let reasons = [
                ("under_voltage", throttling.under_voltage),
                ("frequency_capped", throttling.frequency_capped),
                ("throttled", throttling.throttled),
                ("soft_limit", throttling.soft_limit),
            ];
            let reasons = reasons.map(|(reason, holds)| (reason.to_owned(), flag(holds)));
            registry.register(
                "board_throttling",
                "1 for each reason why the firmware is throttling the board now",
                gauges("reason", reasons),
            );
        }
    }
}

/// The state that the routes share.
#[derive(Debug, Clone)]
struct RouteState {
    metrics: Arc<Metrics>,
    handle: DaemonHandle,
    heartbeat: watch::Receiver<Heartbeat>,
}

/// Returns the routes for metrics and health checks. `/metrics` returns all metrics.
/// `/healthz` returns 200 while the daemon feeds the systemd watchdog, and `/readyz`
/// returns 200 while decisions are based on fresh frames. Otherwise, both return 503 and
/// a sentence that explains why. No response contains personal data.
pub fn routes(
    metrics: Arc<Metrics>,
    handle: DaemonHandle,
    heartbeat: watch::Receiver<Heartbeat>,
) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(RouteState {
            metrics,
            handle,
            heartbeat,
        })
}

impl RouteState {
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of the heartbeat is measured when a request arrives"
    )]
    fn is_alive(&self) -> bool {
        self.heartbeat.borrow().is_alive(Instant::now())
    }
}

async fn text(State(state): State<RouteState>) -> Response {
    let is_alive = state.is_alive();
    let text = file_work::run(Length::Short, move |_| {
        let learning = state.handle.learning().ok();
        // If the store cannot be read, the other metrics must still be shown.
        let samples = learning.and_then(|learning| learning.stats().ok());
        let samples = samples.unwrap_or_default().into_iter();
        let snapshot = Snapshot {
            live: state.handle.live.borrow().clone(),
            samples: samples
                .map(|(label, count)| (label, count.samples))
                .collect(),
            new_labels: learning.map_or(0, |learning| learning.new_labels().unwrap_or(0)),
            passages: (state.handle.counts.as_ref()).map(|counts| counts.lock().total()),
            is_alive,
            receivers: state.handle.events.receivers(),
        };
        state.metrics.text(&snapshot)
    });
    match text.await {
        Ok(Ok(text)) => (
            [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health(State(state): State<RouteState>) -> (StatusCode, &'static str) {
    if state.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        let sentence = "decisions are not based on fresh frames\n";
        (StatusCode::SERVICE_UNAVAILABLE, sentence)
    }
}

async fn readiness(State(state): State<RouteState>) -> (StatusCode, &'static str) {
    let (is_lost, frames) = {
        let live = state.handle.live.borrow();
        // During a short loss of the camera, the last decision still holds.
        let is_lost = live.camera.lost && live.decision == Decision::Fault.name();
        (is_lost, live.inference.frames)
    };
    let not_ready = |sentence| (StatusCode::SERVICE_UNAVAILABLE, sentence);
    if is_lost {
        not_ready("the camera is lost and is being reconnected\n")
    } else if frames == 0 {
        not_ready("no frame has been processed yet\n")
    } else if !state.is_alive() {
        not_ready("decisions are not based on fresh frames\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::socket::{
        BoardRecord, LiveDoor, LiveInference, LiveTimes, LiveWindow, ThrottlingRecord,
    };
    use crate::events::ReceiverKind;
    use crate::learning::{InitialHeadRecord, ScoresRecord, ValidationRecord};

    const DASHBOARD: &str = include_str!("../../docs/grafana.json");

    fn window(on: bool) -> LiveWindow {
        LiveWindow {
            on,
            next_change: None,
        }
    }

    /// A snapshot in which every optional value is present.
    fn snapshot() -> Snapshot {
        Snapshot {
            live: Live {
                decision: "mask".to_owned(),
                inference: LiveInference {
                    frames: 3,
                    ..LiveInference::default()
                },
                door: Some(LiveDoor {
                    unlocked: false,
                    unlocked_by: None,
                    position: Some(DoorPosition::Open),
                    released: false,
                    held_open: true,
                    held_open_warnings: 2,
                }),
                times: Some(LiveTimes {
                    time_zone_known: true,
                    clock_synchronized: true,
                    indicate: window(true),
                    lock: window(false),
                    capture: window(true),
                    sound: window(false),
                }),
                board: BoardRecord {
                    temperature_c: Some(51.5),
                    throttling: Some(ThrottlingRecord {
                        throttled: true,
                        ..ThrottlingRecord::default()
                    }),
                },
                ..Live::default()
            },
            // Label folders can have any name, so the test uses characters that need escaping.
            samples: vec![("a\"b\\c\n".to_owned(), 2)],
            new_labels: 4,
            passages: Some(Passages {
                masked: 7,
                unmasked: 2,
                unsure: 0,
            }),
            is_alive: true,
            receivers: vec![ReceiverRecord {
                delivered: 5,
                failed: 2,
                dropped: 1,
                waiting: 3,
                ..ReceiverRecord::new("home", ReceiverKind::Webhook)
            }],
        }
    }

    #[test]
    fn metrics_are_exposed_under_their_names() {
        let metrics = Metrics::new();
        metrics.stage(Stage::Embed, Duration::from_millis(7));
        metrics.verdict(Duration::from_millis(30));
        metrics.decision(Decision::Mask);
        metrics.refit(RefitEnd::Refused, Duration::from_secs(3));
        let text = metrics.text(&snapshot()).unwrap();
        for line in [
            "maskd_stage_duration_seconds_bucket{stage=\"embed\",le=\"0.01\"} 1",
            "maskd_stage_duration_seconds_bucket{stage=\"embed\",le=\"0.005\"} 0",
            "maskd_stage_duration_seconds_count{stage=\"head\"} 0",
            "maskd_frame_latency_seconds_count 1",
            "maskd_decision_changes_total{decision=\"mask\"} 1",
            "maskd_decision_changes_total{decision=\"fault\"} 0",
            "maskd_decision{decision=\"mask\"} 1.0",
            "maskd_frames_total 3",
            "maskd_passages_total{outcome=\"masked\"} 7",
            "maskd_passages_total{outcome=\"unsure\"} 0",
            "maskd_refits_total{outcome=\"refused\"} 1",
            "maskd_board_temperature_celsius 51.5",
            "maskd_board_throttling{reason=\"throttled\"} 1.0",
            "maskd_samples{label=\"a\\\"b\\\\c\\n\"} 2.0",
            "maskd_new_labels 4.0",
            "maskd_door{state=\"unlocked\"} 0.0",
            "maskd_door{state=\"open\"} 1.0",
            "maskd_door{state=\"held_open\"} 1.0",
            "maskd_door_held_open_warnings_total 2",
            "maskd_times_on{activity=\"indicate\"} 1.0",
            "maskd_times_on{activity=\"lock\"} 0.0",
            "maskd_events_delivered_total{receiver=\"home\"} 5",
            "maskd_event_failures_total{receiver=\"home\"} 2",
            "maskd_events_dropped_total{receiver=\"home\"} 1",
            "maskd_events_waiting{receiver=\"home\"} 3.0",
        ] {
            assert!(
                text.lines().any(|exposed| exposed == line),
                "{line}\n{text}"
            );
        }
    }

    #[test]
    fn the_dashboard_shows_what_there_is() {
        let metrics = Metrics::new();
        metrics.scores(&measured());
        let text = metrics.text(&snapshot()).unwrap();
        let series: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let shown = DASHBOARD.match_indices("maskd_").map(|(at, _)| {
            let rest = &DASHBOARD[at..];
            rest.split(|c| !is_name(c)).next().unwrap()
        });
        let shown: std::collections::BTreeSet<&str> = shown.collect();
        assert!(shown.len() > 20, "{shown:?}");
        for name in &shown {
            assert!(series.contains(name), "{name} is in no metric");
        }
        // The dashboard covers a histogram if it shows the histogram's buckets, sum, or
        // count.
        for name in series.iter().filter(|name| !name.ends_with("_bucket")) {
            let family = name.trim_end_matches("_sum").trim_end_matches("_count");
            let is_shown = shown.iter().any(|shown| shown.starts_with(family));
            assert!(is_shown, "the dashboard does not show {name}");
        }
        serde_json::from_str::<serde_json::Value>(DASHBOARD).unwrap();
    }

    fn measured() -> MeasuredRecord {
        let scores = |right| ScoresRecord {
            samples: 4,
            right,
            accuracy: right as f64 / 4.0,
            interval: [0.0, 1.0],
            loss: 0.5,
            confusion: Vec::new(),
        };
        MeasuredRecord {
            method: ValidationRecord::CrossValidation { folds: 2 },
            groups: 4,
            adaptation: None,
            start: InitialHeadRecord::Base,
            steps: 1,
            curve: Vec::new(),
            before: scores(2),
            after: scores(3),
            gain: 0.1,
            standard_error: 0.0,
            recognized_gain: Some(0.1),
            agreement: 1.0,
            agreement_error: 0.0,
            replay_before: Some(1.0),
            replay_after: Some(1.0),
            replay_samples: 1,
            temperature: 1.0,
            shift: Vec::new(),
            worst: Vec::new(),
            suspects: Vec::new(),
        }
    }

    #[test]
    fn an_old_heartbeat_is_no_sign_of_life() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some time")]
        let at = Instant::now();
        let heartbeat = Heartbeat { at, fresh: true };
        assert!(heartbeat.is_alive(at + MAX_HEARTBEAT_AGE / 2));
        assert!(!heartbeat.is_alive(at + MAX_HEARTBEAT_AGE));
        assert!(!Heartbeat { at, fresh: false }.is_alive(at));
    }
}
