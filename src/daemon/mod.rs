//! The daemon: threads, channels, shutdown, readiness and watchdog.
//!
//! The only module that starts threads which go on by themselves (`pipeline`
//! and `embed` have some that end within a call). Data flows one way, camera to infer to
//! indicate, through channels that keep the newest value only, so nobody waits
//! for anybody slower. The end flows with the data: the camera drops its
//! sender, infer ends, indicate ends with the outputs low.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::api::metrics::{self, Heartbeat, Metrics};
use crate::api::socket::{self, DaemonHandle, Live};
use crate::api::web::{AnnotatedFrame, LiveView, WebError};
use crate::camera::{Camera, CameraEvent, SourceError, Spec};
use crate::config::Config;
use crate::config::settings::{Settings, Tuning};
use crate::decision::decide::{LabelError, VerdictPolicy};
use crate::decision::frame_result::{FaceResult, FrameResult};
use crate::frame::{Face, Frame};
use crate::indicate::pins::PinError;
use crate::indicate::{Console, pins};
use crate::learning::LearningError;
use crate::onnx::ModelError;
use crate::vision::motion::Motion;
use crate::vision::pipeline::{Classification, Pipeline, PipelineError, Stage};
use crate::vision::track::Tracker;

mod capture_worker;
mod indicator_worker;
mod mqtt;
mod web;

use capture_worker::{CropSampler, LearningState};
use indicator_worker::IndicatorWorker;
pub use mqtt::hostname;

/// How often patterns are drawn and staleness is looked at.
const TICK: Duration = Duration::from_millis(50);

/// How long a stop may take before threads that still run are left behind.
const STOP_DEADLINE: Duration = Duration::from_millis(1500);

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The head's labels and the config do not fit.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// The camera path gave up.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The state directory that was named cannot be used.
    #[error(transparent)]
    Learning(#[from] LearningError),
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The page cannot be served as the config wants it.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The console cannot be written.
    #[error("cannot show decisions on standard output: {0}")]
    Console(std::io::Error),
    /// The system refuses a thread, a timer or a signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A thread panicked: a bug.
    #[error("the {0} thread ended unexpectedly; please report this")]
    Panicked(String),
}

/// What one thread has for the next: frames for infer, scenes for indicate.
#[derive(Debug)]
enum Latest<T> {
    /// Nothing came yet.
    Waiting,
    /// The newest one.
    Newest(Arc<T>),
    /// The camera is lost, and being opened anew.
    Lost,
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Latest<T> {
        match self {
            Latest::Waiting => Latest::Waiting,
            Latest::Newest(newest) => Latest::Newest(Arc::clone(newest)),
            Latest::Lost => Latest::Lost,
        }
    }
}

/// Where heads and samples are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateDir {
    /// Somebody named it: without it there is no daemon.
    Named(PathBuf),
    /// The usual place: without it, or if another daemon has it, nothing is
    /// learned.
    Usual(PathBuf),
}

/// Runs until the source ends or a signal asks to stop. Without a state
/// directory nothing is learned. `file` is where the config was read from.
///
/// # Errors
/// [`DaemonError`] if something cannot be opened, or a thread gives up.
pub fn run(
    config: &Config,
    console: Console,
    state: Option<StateDir>,
    file: Option<PathBuf>,
) -> Result<(), DaemonError> {
    // First of all: what is not to be open must not be open for a moment.
    let plan = web::plan(config)?;
    let settings = Arc::new(Settings::new(config, file));
    let spec: Spec = config.camera.source.parse().map_err(SourceError::from)?;
    // The path of a picture may say whom it shows.
    let source = match &spec {
        Spec::Path(_) => "pictures".to_owned(),
        spec => spec.to_string(),
    };
    let pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(1))?;
    let judge = VerdictPolicy::new(config.classify.judge_options(), pipeline.head().labels())?;
    let pins = open_pins(config)?;
    let pupil = state.map(|state| LearningState::open(config, state, &pipeline));
    let pupil = pupil.transpose()?.flatten();
    // Up to here nothing has to be put in order when a signal comes.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let stop = CancellationToken::new();
    // Whatever fails from here on, what was started ends.
    let _stop_at_the_end = stop.clone().drop_guard();
    let camera = Camera::open(spec, config.camera.options(), stop.clone())?;

    let (feed_out, feed_in) = watch::channel(Latest::Waiting);
    let (sight_out, sight_in) = watch::channel(Latest::Waiting);
    let (pulse_out, pulse_in) = watch::channel(Heartbeat {
        at: now(),
        fresh: true,
    });
    let live = Arc::new(watch::Sender::new(Live::default()));
    let metrics = Arc::new(Metrics::new());
    // When the camera path has ended, learning has to end too.
    let over = CancellationToken::new();
    let mut threads = Threads::new(&stop);
    let (sampler, handle) = match pupil {
        Some(pupil) => {
            let (sampler, handle) =
                pupil.begin(config, &settings, &live, &metrics, &over, &mut threads)?;
            (Some(sampler), Some(handle))
        }
        None => (None, None),
    };
    let (shots_out, shots_in) = watch::channel(None);
    let asked = handle.as_ref().map(|(handle, _)| handle);
    // Of the socket and of the page.
    let more =
        asked.map(|handle| metrics::routes(Arc::clone(&metrics), handle.clone(), pulse_in.clone()));
    let more = more.unwrap_or_default();
    if let Some(plan) = plan {
        let live_view = Arc::new(LiveView::new(shots_in));
        web::start(
            plan,
            asked.cloned(),
            live_view,
            more.clone(),
            &over,
            &mut threads,
        )?;
    }
    mqtt::start(config, asked, &live, &over, &mut threads)?;
    let worker = InferenceWorker {
        labels: pipeline.head().labels().into(),
        pipeline,
        judge,
        tracker: Tracker::new(config.track.options()),
        still: MotionGate::new(Duration::from_millis(config.detect.idle_interval_ms)),
        sampler,
        live: Arc::clone(&live),
        tuning: settings.subscribe(),
        annotated_frames: shots_out,
        pace: FpsMeter::default(),
        metrics: Arc::clone(&metrics),
    };
    threads.start("camera", {
        let stop = stop.clone();
        let live = Arc::clone(&live);
        move || watch_camera(camera, &feed_out, &live, &stop)
    })?;
    threads.start("infer", {
        let feed = feed_in.clone();
        let over = over.drop_guard();
        move || {
            let _over = over;
            infer(worker, feed, &sight_out)
        }
    })?;
    let show = IndicatorWorker::new(config, console, pins, asked.cloned(), settings.subscribe());
    threads.start("indicate", {
        let stop = stop.clone();
        let live = Arc::clone(&live);
        let metrics = Arc::clone(&metrics);
        move || show.run(sight_in, &feed_in, &pulse_out, &live, &metrics, &stop)
    })?;

    notify(&[sd_notify::NotifyState::Ready]);
    info!(source, "ready");
    runtime.block_on(async {
        let waiting = async {
            wait(signals, &stop, &mut threads, &pulse_in).await;
            notify(&[sd_notify::NotifyState::Stopping]);
            stop.cancel();
        };
        let handle = handle.map(|(handle, state)| (handle, state, more));
        tokio::join!(waiting, serve(handle, config, &stop));
    });
    let result = threads.join(&runtime);
    info!("stopped");
    result
}

/// The pins that the config names, held from now on.
fn open_pins(config: &Config) -> Result<Option<Box<dyn pins::Pins>>, DaemonError> {
    let pins = match config.indicate.pins(pins::is_pi()) {
        Some(options) => {
            let words = pins::describe(&options)?;
            let pins = pins::open(&options)?;
            info!(pins = words, "pins are held");
            Some(pins)
        }
        None => None,
    };
    if pins.is_none() && config.indicate.backend.is_none() && config.indicate.has_pins() {
        warn!(
            "this is no Raspberry Pi: the pins are left alone, unless indicate.backend is \"gpiocdev\""
        );
    }
    Ok(pins)
}

/// The API, until the stop; a request that is still going on then has a moment
/// to end. A daemon without it watches its door all the same.
async fn serve(
    handle: Option<(DaemonHandle, PathBuf, Router)>,
    config: &Config,
    stop: &CancellationToken,
) {
    let Some((handle, state, more)) = handle else {
        return;
    };
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let configured = config.control.socket.as_deref();
    let path = socket::socket_path(configured, runtime.as_deref(), &state);
    let socket = match socket::bind(&path) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "commands cannot reach the daemon"),
    };
    let grace = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_DEADLINE / 4).await;
    };
    tokio::select! {
        served = socket::serve(socket, handle, more, stop.clone()) => {
            if let Err(error) = served {
                warn!(%error, "commands can no longer reach the daemon");
            }
        }
        () = grace => {}
    }
}

/// Waits for a signal, for the last thread to end, or for one to fail; feeds
/// the watchdog meanwhile.
async fn wait(
    mut signals: Signals,
    stop: &CancellationToken,
    threads: &mut Threads,
    heartbeat: &watch::Receiver<Heartbeat>,
) {
    // Twice an interval, as sd_watchdog_enabled(3) advises.
    let period = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let period = period.filter(|period| !period.is_zero());
    let mut watchdog = tokio::time::interval(period.unwrap_or(Duration::from_hours(1)));
    loop {
        tokio::select! {
            signal = signals.next() => return info!(signal, "stopping"),
            () = stop.cancelled() => return,
            () = threads.ended() => return,
            _ = watchdog.tick() => {
                let alive = heartbeat.borrow().is_alive(now());
                if period.is_some() && alive {
                    notify(&[sd_notify::NotifyState::Watchdog]);
                } else if !alive {
                    debug!("decisions are not fresh: the watchdog is not fed");
                }
            }
        }
    }
}

/// The signals that ask to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed.
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn catch() -> Result<Signals, std::io::Error> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// The camera thread: frames into the feed, the newest overwrites.
fn watch_camera(
    mut camera: Camera,
    feed: &watch::Sender<Latest<Frame>>,
    live: &watch::Sender<Live>,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    while !stop.is_cancelled() {
        match camera.next() {
            CameraEvent::Frame(frame) => {
                feed.send_replace(Latest::Newest(Arc::new(frame)));
            }
            CameraEvent::Lost(_) => {
                // Here, since the news may be overwritten by the next frame.
                live.send_modify(|live| live.camera_losses += 1);
                feed.send_replace(Latest::Lost);
            }
            CameraEvent::Failed(error) => return Err(error.into()),
            CameraEvent::End => break,
        }
    }
    Ok(())
}

/// What the infer thread works with.
struct InferenceWorker {
    pipeline: Pipeline,
    judge: VerdictPolicy,
    /// Those of the head in use.
    labels: Arc<[String]>,
    tracker: Tracker,
    still: MotionGate,
    sampler: Option<CropSampler>,
    live: Arc<watch::Sender<Live>>,
    tuning: watch::Receiver<Tuning>,
    /// For whoever looks at the page.
    annotated_frames: watch::Sender<Option<AnnotatedFrame>>,
    pace: FpsMeter,
    metrics: Arc<Metrics>,
}

/// How fast frames are looked at, of late.
#[derive(Default)]
struct FpsMeter {
    last: Option<Instant>,
    /// Seconds between two frames, smoothed.
    between: f32,
}

impl FpsMeter {
    /// Frames a second, with one that was looked at now.
    fn frame(&mut self, at: Instant) -> f32 {
        if let Some(last) = self.last.replace(at) {
            let seconds = at.saturating_duration_since(last).as_secs_f32();
            // About the last ten frames; at first, all there are.
            let old = if self.between > 0.0 { 0.9 } else { 0.0 };
            self.between = old * self.between + (1.0 - old) * seconds;
        }
        if self.between > 0.0 {
            1.0 / self.between
        } else {
            0.0
        }
    }
}

/// The infer thread: always the newest frame, and verdicts on its faces.
fn infer(
    mut worker: InferenceWorker,
    mut feed: watch::Receiver<Latest<Frame>>,
    sight: &watch::Sender<Latest<FrameResult>>,
) -> Result<(), DaemonError> {
    let waiting = timer_runtime()?;
    let mut next_seq = 0;
    let (mut frames, mut skipped) = (0_u64, 0_u64);
    while waiting.block_on(feed.changed()).is_ok() {
        let newest = feed.borrow_and_update().clone();
        match newest {
            Latest::Waiting => {}
            Latest::Lost => {
                worker.live.send_modify(|live| live.camera_lost = true);
                sight.send_replace(Latest::Lost);
            }
            Latest::Newest(frame) => {
                frames += 1;
                skipped += frame.seq.saturating_sub(next_seq);
                next_seq = frame.seq + 1;
                worker.take_new_head();
                worker.take_tuning();
                let scene = Arc::new(worker.look(&frame)?);
                let pace = worker.pace.frame(now());
                debug!(
                    seq = scene.seq,
                    faces = scene.faces.len(),
                    latency_ms = scene.latency.as_millis() as u64,
                    "frame"
                );
                worker.live.send_modify(|live| {
                    live.camera_lost = false;
                    (live.frames, live.skipped) = (frames, skipped);
                    live.faces = scene.faces.len();
                    live.frames_per_second = pace;
                    live.latency_ms = scene.latency.as_secs_f32() * 1000.0;
                });
                sight.send_replace(Latest::Newest(Arc::clone(&scene)));
                worker.annotated_frames.send_replace(Some(AnnotatedFrame {
                    frame,
                    result: scene,
                }));
            }
        }
    }
    info!(frames, skipped, "no more frames");
    Ok(())
}

impl InferenceWorker {
    /// If there is another head, it judges from this frame on, and what tracks
    /// remember of the last one is forgotten.
    fn take_new_head(&mut self) {
        let Some(in_use) = self.sampler.as_mut().and_then(CropSampler::new_head) else {
            return;
        };
        match self.judge.with_labels(in_use.head.labels()) {
            Ok(judge) => self.judge = judge,
            Err(error) => return warn!(%error, "the new head cannot be used"),
        }
        self.labels = in_use.head.labels().into();
        self.pipeline.set_head(Arc::clone(&in_use.head));
        self.tracker.forget_votes();
        self.live.send_modify(|live| {
            live.head = in_use.number;
            live.labels = self.labels.to_vec();
        });
        if let Some(head) = in_use.number {
            info!(head, "head in use");
        } else {
            info!("the shipped head is in use");
        }
    }

    /// Goes by other settings from this frame on.
    fn take_tuning(&mut self) {
        if !self.tuning.has_changed().unwrap_or(false) {
            return;
        }
        let tuning = *self.tuning.borrow_and_update();
        self.judge
            .set_thresholds(tuning.masked_threshold, tuning.unmasked_threshold);
        if let Some(sampler) = &mut self.sampler {
            sampler.set_capture(tuning.capture);
        }
    }

    /// One frame: detect, track, cut, embed, head, vote, judge.
    fn look(&mut self, frame: &Frame) -> Result<FrameResult, PipelineError> {
        let faces = if let Some(faces) = self.still.faces(frame) {
            faces
        } else {
            let begun = now();
            let faces = self.pipeline.detect(&frame.pixels)?;
            let took = now().saturating_duration_since(begun);
            self.metrics.stage(Stage::Detect, took);
            self.live.send_modify(|live| live.detections += 1);
            self.still.found(frame, faces)
        };
        let tracks = self.tracker.assign(frame.at, &faces);
        // Whoever enrolls wants crops, however certain the verdict is.
        let enrolls = self.sampler.as_ref().is_some_and(CropSampler::enrolls);
        let settled: Vec<_> = tracks
            .iter()
            .map(|track| self.tracker.settled(frame.at, *track).filter(|_| !enrolls))
            .collect();
        let is_worth = |face: &Face, settled: &Option<_>| {
            settled.is_none() && self.judge.doubt(face).is_none()
        };
        let worth: Vec<_> = faces
            .iter()
            .zip(&settled)
            .filter(|(face, settled)| is_worth(face, settled))
            .map(|(face, _)| *face)
            .collect();
        self.live
            .send_modify(|live| live.looks += worth.len() as u64);
        let mut last = now();
        let done = |stage| {
            let at = now();
            let took = at.saturating_duration_since(last);
            self.metrics.stage(stage, took);
            last = at;
        };
        let looks = self
            .pipeline
            .classify_by_stages(&frame.pixels, &worth, done)?;
        let mut looks = looks.into_iter();
        let mut seen = Vec::with_capacity(faces.len());
        let mut known: Vec<(u64, f32, Classification)> = Vec::new();
        for ((face, track), settled) in faces.into_iter().zip(tracks).zip(settled) {
            let look = if is_worth(&face, &settled) {
                looks.next()
            } else {
                None
            };
            let probabilities = match look {
                Some(look) => {
                    let vote = self.tracker.vote(frame.at, track, &look.probabilities);
                    known.push((track, face.rect.area(), look));
                    Some(vote)
                }
                // A settled face that has become too small is unsure like any.
                None => settled.filter(|_| self.judge.doubt(&face).is_none()),
            };
            let verdict = self
                .judge
                .judge(&face, probabilities.as_deref().unwrap_or_default());
            seen.push(FaceResult {
                face,
                track: Some(track),
                probabilities,
                verdict,
            });
        }
        let latency = now().saturating_duration_since(frame.at);
        self.metrics.verdict(latency);
        if let Some(sampler) = &mut self.sampler {
            sampler.offer(frame.at, known);
        }
        Ok(FrameResult {
            seq: frame.seq,
            at: frame.at,
            latency,
            labels: Arc::clone(&self.labels),
            faces: seen,
        })
    }
}

/// The faces of the last frame that the detector saw: while nothing moves, they
/// are those of the next frames too.
struct MotionGate {
    /// Faces are looked for again after this long, whether or not anything
    /// moves.
    at_most: Duration,
    motion: Motion,
    /// When the detector saw a frame, and what it found.
    last: Option<(Instant, Vec<Face>)>,
}

impl MotionGate {
    fn new(at_most: Duration) -> MotionGate {
        MotionGate {
            at_most,
            motion: Motion::default(),
            last: None,
        }
    }

    /// The faces of a frame in which nothing has moved.
    fn faces(&self, frame: &Frame) -> Option<Vec<Face>> {
        let (at, faces) = self.last.as_ref()?;
        let is_recent = frame.at.saturating_duration_since(*at) < self.at_most;
        (is_recent && !self.motion.moved(&frame.pixels)).then(|| faces.clone())
    }

    /// What the detector found.
    fn found(&mut self, frame: &Frame, faces: Vec<Face>) -> Vec<Face> {
        // Without this nobody asks whether anything moved.
        if !self.at_most.is_zero() {
            self.motion.look(&frame.pixels);
            self.last = Some((frame.at, faces.clone()));
        }
        faces
    }
}

/// A runtime that does nothing but wait, for a thread of its own: it goes on
/// when the main thread has left its own.
fn timer_runtime() -> Result<Runtime, DaemonError> {
    Ok(Builder::new_current_thread().enable_time().build()?)
}

/// The daemon's threads. Each holds a guard that asks all to stop if it fails
/// or panics.
struct Threads {
    stop: CancellationToken,
    running: Vec<(&'static str, thread::JoinHandle<Result<(), DaemonError>>)>,
    /// Dropped by each thread at its end.
    alive: Option<tokio::sync::mpsc::Sender<()>>,
    ended: tokio::sync::mpsc::Receiver<()>,
}

impl Threads {
    fn new(stop: &CancellationToken) -> Threads {
        let (alive, ended) = tokio::sync::mpsc::channel(1);
        Threads {
            stop: stop.clone(),
            running: Vec::new(),
            alive: Some(alive),
            ended,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is where threads are started"
    )]
    fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), DaemonError> + Send + 'static,
    ) -> Result<(), DaemonError> {
        let guard = self.stop.clone().drop_guard();
        let alive = self.alive.clone();
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _alive = alive;
                let result = work();
                if result.is_ok() {
                    // An end in order flows with the data.
                    guard.disarm();
                }
                result
            })?;
        self.running.push((name, handle));
        Ok(())
    }

    /// When all threads have ended.
    async fn ended(&mut self) {
        self.alive = None;
        let _ = self.ended.recv().await;
    }

    /// Waits for the threads, at most [`STOP_DEADLINE`], and gives the first
    /// failure.
    fn join(mut self, runtime: &Runtime) -> Result<(), DaemonError> {
        let in_time =
            runtime.block_on(async { tokio::time::timeout(STOP_DEADLINE, self.ended()).await });
        let mut result = Ok(());
        for (name, handle) in self.running {
            if in_time.is_err() && !handle.is_finished() {
                warn!(thread = name, "still busy: left behind");
                continue;
            }
            let outcome = handle.join().unwrap_or_else(|_| {
                error!(thread = name, "panicked");
                Err(DaemonError::Panicked(name.to_owned()))
            });
            result = result.and(outcome);
        }
        result
    }
}

fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon brings time to everyone else"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon brings time to everyone else"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
