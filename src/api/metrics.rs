//! What the daemon counts and measures, in Prometheus' text format, and whether
//! it is well.
//!
//! Owns the names of the metrics and the routes `/metrics`, `/healthz` and
//! `/readyz`. What is counted elsewhere anyway ([`Live`]) is only read when
//! somebody asks; the camera path pays for a few histograms alone. Names and
//! units follow <https://prometheus.io/docs/practices/naming/>; `docs/grafana.json`
//! shows them.

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

use crate::api::socket::{DaemonHandle, Live};
use crate::decision::decide::Decision;
use crate::learning::MeasuredRecord;
use crate::vision::pipeline::Stage;

/// Upper bounds of the buckets of what takes parts of a second, in seconds.
const SHORT: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
];
/// Of what takes seconds and minutes.
const LONG: [f64; 9] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];

/// Older news of the indicate thread mean that it hangs.
const PULSE: Duration = Duration::from_secs(2);

/// From the indicate thread to whoever wants to know whether the daemon is well.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// When it was given.
    pub at: Instant,
    /// Whether decisions rest on fresh frames, or on the knowledge that there are
    /// none.
    pub fresh: bool,
}

impl Heartbeat {
    /// Whether decisions are made, and rest on something.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        self.fresh && now.saturating_duration_since(self.at) < PULSE
    }
}

/// How a refit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefitEnd {
    /// The new head is in use.
    Accepted,
    /// The gate kept the old one.
    Refused,
    /// It came to no ruling.
    Failed,
}

type Label = [(&'static str, &'static str); 1];
type Gauges = Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>;
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// What is counted and measured where it happens. Threads may share it.
#[derive(Debug)]
pub struct Metrics {
    stages: Histograms,
    /// Those of `stages`, by their number: without a look into the family.
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
    /// Everything at 0.
    #[must_use]
    pub fn new() -> Metrics {
        let stages = Histograms::new_with_constructor(short);
        let by_stage =
            Stage::ALL.map(|stage| stages.get_or_create(&[("stage", stage.name())]).clone());
        let decisions = Family::<Label, Counter>::default();
        for decision in Decision::ALL {
            // A series that is there from the start can be told to rise.
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

    /// A stage of a frame took so long, for all its faces together.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.by_stage[stage as usize].observe(took.as_secs_f64());
    }

    /// A frame took so long from its capture to its verdicts.
    pub fn verdict(&self, took: Duration) {
        self.verdict.observe(took.as_secs_f64());
    }

    /// Another decision is shown.
    pub fn decision(&self, decision: Decision) {
        let counter = self
            .decisions
            .get_or_create(&[("decision", decision.name())]);
        counter.inc();
    }

    /// A refit ended after so long.
    pub fn refit(&self, end: RefitEnd, took: Duration) {
        self.refits.get_or_create(&[("outcome", end.name())]).inc();
        self.refit.observe(took.as_secs_f64());
    }

    /// What the last refit was judged by.
    pub fn scores(&self, measured: &MeasuredRecord) {
        for (head, scores) in [("before", &measured.before), ("after", &measured.after)] {
            let label = vec![("head", head.to_owned())];
            self.accuracy.get_or_create(&label).set(scores.accuracy);
            self.loss.get_or_create(&label).set(scores.loss);
        }
    }

    /// All of it in Prometheus' text format, with what is counted elsewhere.
    ///
    /// # Errors
    /// None that a string could have.
    pub fn text(&self, seen: &Seen) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("maskd");
        let r = &mut registry;
        r.register(
            "stage_duration_seconds",
            "Time of a stage per frame, for all faces of the frame",
            self.stages.clone(),
        );
        r.register(
            "frame_latency_seconds",
            "Time from capturing a frame to the verdicts on its faces",
            self.verdict.clone(),
        );
        r.register(
            "decision_changes",
            "Changes of the decision, by the new decision",
            self.decisions.clone(),
        );
        r.register(
            "refits",
            "Trainings on this device, by outcome",
            self.refits.clone(),
        );
        r.register(
            "refit_duration_seconds",
            "Duration of a training on this device",
            self.refit.clone(),
        );
        r.register(
            "refit_accuracy_ratio",
            "Fraction of held-out samples classified correctly in the last training, before and after",
            self.accuracy.clone(),
        );
        r.register(
            "refit_loss_nats",
            "Mean loss on held-out samples in the last training, before and after",
            self.loss.clone(),
        );
        seen.register(r);
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

/// What is counted elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What the daemon is doing.
    pub live: Live,
    /// Samples by label, those without one under `unlabelled`.
    pub samples: Vec<(String, usize)>,
    /// Labels that are new since the last refit.
    pub new_labels: usize,
    /// Whether decisions rest on something.
    pub is_alive: bool,
}

impl Seen {
    #[expect(clippy::too_many_lines, reason = "a list of metrics")]
    fn register(&self, r: &mut Registry) {
        let live = &self.live;
        for (name, help, count) in [
            ("frames", "Processed frames", live.frames),
            (
                "frames_skipped",
                "Frames that a newer one replaced before they were processed",
                live.skipped,
            ),
            (
                "detections",
                "Frames on which the detector ran; in the others nothing moved",
                live.detections,
            ),
            (
                "faces_classified",
                "Classified faces; the others had a settled verdict or were unsure",
                live.looks,
            ),
            (
                "captures",
                "Face crops that were stored for labeling",
                live.capture.stored,
            ),
            (
                "captures_dropped",
                "Face crops that were dropped because the disk was too slow or full",
                live.capture.dropped,
            ),
            (
                "camera_losses",
                "Number of times the camera was lost",
                live.camera_losses,
            ),
        ] {
            r.register(name, help, ConstCounter::new(count));
        }
        let flag = |holds: bool| f64::from(u8::from(holds));
        for (name, help, value) in [
            ("faces", "Faces in the newest frame", live.faces as f64),
            (
                "camera_lost",
                "Whether the camera is lost and is being reconnected",
                flag(live.camera_lost),
            ),
            (
                "healthy",
                "Whether decisions rest on new frames, or the camera is known to be lost (as /healthz)",
                flag(self.is_alive),
            ),
            (
                "capturing",
                "Whether face crops are stored",
                flag(live.capture.on),
            ),
            (
                "refitting",
                "Whether a training is running on this device",
                flag(live.refitting),
            ),
            (
                "head",
                "Number of the model in use; 0 is the built-in one",
                f64::from(live.head.unwrap_or(0)),
            ),
            (
                "refit_paused",
                "Whether training waits because the board is too hot, throttled or short of voltage",
                flag(live.learning_waits.is_some()),
            ),
            (
                "new_labels",
                "New labels since the last training",
                self.new_labels as f64,
            ),
        ] {
            r.register(name, help, ConstGauge::new(value));
        }
        let gauges = |label: &'static str, values: Vec<(String, f64)>| {
            let family = Gauges::default();
            for (name, value) in values {
                family.get_or_create(&vec![(label, name)]).set(value);
            }
            family
        };
        let decisions = Decision::ALL.map(|decision| {
            let name = decision.name();
            (name.to_owned(), flag(live.decision == name))
        });
        r.register(
            "decision",
            "1 for the current decision, 0 for the others",
            gauges("decision", decisions.to_vec()),
        );
        let samples = self.samples.iter();
        let samples = samples.map(|(label, count)| (label.clone(), *count as f64));
        r.register(
            "samples",
            "Face crops on disk, by label",
            gauges("label", samples.collect()),
        );
        if let Some(celsius) = live.board.temperature_c {
            r.register(
                "board_temperature_celsius",
                "Processor temperature",
                ConstGauge::new(f64::from(celsius)),
            );
        }
        if let Some(board) = live.board.throttling {
            let now = [
                ("under_voltage", board.under_voltage),
                ("frequency_capped", board.frequency_capped),
                ("throttled", board.throttled),
                ("soft_limit", board.soft_limit),
            ];
            let now = now.map(|(reason, holds)| (reason.to_owned(), flag(holds)));
            r.register(
                "board_throttling",
                "Throttling reasons that the firmware reports now",
                gauges("reason", now.to_vec()),
            );
        }
        let version = vec![(env!("CARGO_PKG_VERSION").to_owned(), 1.0)];
        r.register(
            "build_info",
            "The version of maskd",
            gauges("version", version),
        );
    }
}

/// What the routes work with.
#[derive(Debug, Clone)]
struct Window {
    metrics: Arc<Metrics>,
    handle: DaemonHandle,
    heartbeat: watch::Receiver<Heartbeat>,
}

/// `/metrics`, `/healthz` (200 while decisions rest on something, as the watchdog
/// has it) and `/readyz` (200 while they rest on frames); else 503 and a
/// sentence. Nothing that they answer shows anybody.
pub fn routes(
    metrics: Arc<Metrics>,
    handle: DaemonHandle,
    heartbeat: watch::Receiver<Heartbeat>,
) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(Window {
            metrics,
            handle,
            heartbeat,
        })
}

impl Window {
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of the pulse is that at the time of the request"
    )]
    fn is_alive(&self) -> bool {
        self.heartbeat.borrow().is_alive(Instant::now())
    }
}

async fn text(State(window): State<Window>) -> Response {
    let learning = &window.handle.learning;
    // A store that cannot be read is no reason to tell nothing.
    let samples = learning.stats().unwrap_or_default().into_iter();
    let seen = Seen {
        live: window.handle.live.borrow().clone(),
        samples: samples
            .map(|(label, count)| (label, count.samples))
            .collect(),
        new_labels: learning.new_labels().unwrap_or(0),
        is_alive: window.is_alive(),
    };
    match window.metrics.text(&seen) {
        Ok(text) => (
            [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health(State(window): State<Window>) -> (StatusCode, &'static str) {
    if window.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        let sentence = "decisions do not rest on fresh frames\n";
        (StatusCode::SERVICE_UNAVAILABLE, sentence)
    }
}

async fn readiness(State(window): State<Window>) -> (StatusCode, &'static str) {
    let (lost, frames) = {
        let live = window.handle.live.borrow();
        (live.camera_lost, live.frames)
    };
    let not = |sentence| (StatusCode::SERVICE_UNAVAILABLE, sentence);
    if lost {
        not("the camera is lost and is being opened anew\n")
    } else if frames == 0 {
        not("no frame has come yet\n")
    } else if !window.is_alive() {
        not("decisions do not rest on fresh frames\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::{InitialHeadRecord, ScoresRecord, ValidationRecord};
    use crate::platform::board::{BoardStatus, Throttling};

    const DASHBOARD: &str = include_str!("../../docs/grafana.json");

    /// A daemon of which everything is known.
    fn seen() -> Seen {
        Seen {
            live: Live {
                decision: "mask".to_owned(),
                frames: 3,
                board: BoardStatus {
                    temperature_c: Some(51.5),
                    throttling: Some(Throttling {
                        throttled: true,
                        ..Throttling::default()
                    }),
                },
                ..Live::default()
            },
            // As whoever makes folders may name them.
            samples: vec![("a\"b\\c\n".to_owned(), 2)],
            new_labels: 4,
            is_alive: true,
        }
    }

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::new();
        metrics.stage(Stage::Embed, Duration::from_millis(7));
        metrics.verdict(Duration::from_millis(30));
        metrics.decision(Decision::Mask);
        metrics.refit(RefitEnd::Refused, Duration::from_secs(3));
        let text = metrics.text(&seen()).unwrap();
        for line in [
            "maskd_stage_duration_seconds_bucket{stage=\"embed\",le=\"0.01\"} 1",
            "maskd_stage_duration_seconds_bucket{stage=\"embed\",le=\"0.005\"} 0",
            "maskd_stage_duration_seconds_count{stage=\"head\"} 0",
            "maskd_frame_latency_seconds_count 1",
            "maskd_decision_changes_total{decision=\"mask\"} 1",
            "maskd_decision_changes_total{decision=\"fault\"} 0",
            "maskd_decision{decision=\"mask\"} 1.0",
            "maskd_frames_total 3",
            "maskd_refits_total{outcome=\"refused\"} 1",
            "maskd_board_temperature_celsius 51.5",
            "maskd_board_throttling{reason=\"throttled\"} 1.0",
            "maskd_samples{label=\"a\\\"b\\\\c\\n\"} 2.0",
            "maskd_new_labels 4.0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_dashboard_shows_what_there_is() {
        let metrics = Metrics::new();
        metrics.scores(&measured());
        let text = metrics.text(&seen()).unwrap();
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
        // Buckets are shown, and the sums and counts of the other histograms.
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
            start: InitialHeadRecord::Base,
            steps: 1,
            curve: Vec::new(),
            before: scores(2),
            after: scores(3),
            gain: 0.1,
            standard_error: 0.0,
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
    fn a_pulse_that_is_old_is_none() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some time")]
        let at = Instant::now();
        let heartbeat = Heartbeat { at, fresh: true };
        assert!(heartbeat.is_alive(at + PULSE / 2));
        assert!(!heartbeat.is_alive(at + PULSE));
        assert!(!Heartbeat { at, fresh: false }.is_alive(at));
    }
}
