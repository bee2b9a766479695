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

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::camera::{Camera, Event, SourceError, Spec};
use crate::config::Config;
use crate::control::{self, Desk, Live};
use crate::decide::{Decider, Decision, Judge, LabelError};
use crate::frame::Frame;
use crate::indicate::{Change, Console, Indicator, Levels, levels};
use crate::learning::LearningError;
use crate::onnx::ModelError;
use crate::pipeline::{Look, Pipeline, PipelineError};
use crate::scene::{FaceRecord, Scene, SceneFace};
use crate::track::Tracker;

mod lessons;

use lessons::{Lessons, Pupil};

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
enum News<T> {
    /// Nothing came yet.
    Waiting,
    /// The newest one.
    Newest(Arc<T>),
    /// The camera is lost, and being opened anew.
    Lost,
}

impl<T> Clone for News<T> {
    fn clone(&self) -> News<T> {
        match self {
            News::Waiting => News::Waiting,
            News::Newest(newest) => News::Newest(Arc::clone(newest)),
            News::Lost => News::Lost,
        }
    }
}

/// From indicate to whoever wants to know whether the daemon is well.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    at: Instant,
    /// Decisions rest on fresh frames, or on the knowledge that there are none.
    fresh: bool,
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
/// directory nothing is learned.
///
/// # Errors
/// [`DaemonError`] if something cannot be opened, or a thread gives up.
pub fn run(config: &Config, console: Console, state: Option<StateDir>) -> Result<(), DaemonError> {
    let spec: Spec = config.camera.source.parse().map_err(SourceError::from)?;
    // The path of a picture may say whom it shows.
    let source = match &spec {
        Spec::Path(_) => "pictures".to_owned(),
        spec => spec.to_string(),
    };
    let cores_for_faces = config.classify.threads(1);
    let pipeline = Pipeline::open(config, cores_for_faces)?;
    let judge = Judge::new(config.classify.judge_options(), pipeline.head().labels())?;
    let pupil = match state {
        Some(state) => Pupil::open(config, state, &pipeline)?,
        None => None,
    };
    // Up to here nothing has to be put in order when a signal comes.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let stop = CancellationToken::new();
    // Whatever fails from here on, what was started ends.
    let _stop_at_the_end = stop.clone().drop_guard();
    let camera = Camera::open(spec, config.camera.options(), stop.clone())?;

    let (feed_out, feed_in) = watch::channel(News::Waiting);
    let (sight_out, sight_in) = watch::channel(News::Waiting);
    let (pulse_out, pulse_in) = watch::channel(Pulse {
        at: now(),
        fresh: true,
    });
    let show = Show {
        console,
        decider: Decider::new(config.decide.options(), now()),
    };
    let live = Arc::new(watch::Sender::new(Live::default()));
    // When the camera path has ended, learning has to end too.
    let over = CancellationToken::new();
    let mut threads = Threads::new(&stop);
    let (lessons, desk) = match pupil {
        Some(pupil) => {
            let (lessons, desk) = pupil.begin(config, &live, &over, &mut threads)?;
            (Some(lessons), Some(desk))
        }
        None => (None, None),
    };
    let eyes = Eyes {
        labels: pipeline.head().labels().into(),
        pipeline,
        judge,
        tracker: Tracker::new(config.track.options()),
        lessons,
        live: Arc::clone(&live),
    };
    threads.start("camera", {
        let stop = stop.clone();
        move || watch_camera(camera, &feed_out, &stop)
    })?;
    threads.start("infer", {
        let feed = feed_in.clone();
        let over = over.drop_guard();
        move || {
            let _over = over;
            infer(eyes, feed, &sight_out)
        }
    })?;
    threads.start("indicate", {
        let stop = stop.clone();
        let live = Arc::clone(&live);
        move || indicate(show, sight_in, &feed_in, &pulse_out, &live, &stop)
    })?;

    notify(&[sd_notify::NotifyState::Ready]);
    info!(source, "ready");
    runtime.block_on(async {
        let waiting = async {
            wait(signals, &stop, &mut threads, &pulse_in).await;
            notify(&[sd_notify::NotifyState::Stopping]);
            stop.cancel();
        };
        tokio::join!(waiting, serve(desk, config, &stop));
    });
    let result = threads.join(&runtime);
    info!("stopped");
    result
}

/// The API, until the stop; a request that is still going on then has a moment
/// to end. A daemon without it watches its door all the same.
async fn serve(desk: Option<(Desk, PathBuf)>, config: &Config, stop: &CancellationToken) {
    let Some((desk, state)) = desk else { return };
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let configured = config.control.socket.as_deref();
    let path = control::socket_path(configured, runtime.as_deref(), &state);
    let socket = match control::bind(&path) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "commands cannot reach the daemon"),
    };
    let grace = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_DEADLINE / 4).await;
    };
    tokio::select! {
        served = control::serve(socket, desk, stop.clone()) => {
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
    pulse: &watch::Receiver<Pulse>,
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
                let Pulse { at, fresh } = *pulse.borrow();
                let alive = fresh && now().saturating_duration_since(at) < Duration::from_secs(2);
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
    feed: &watch::Sender<News<Frame>>,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    while !stop.is_cancelled() {
        match camera.next() {
            Event::Frame(frame) => {
                feed.send_replace(News::Newest(Arc::new(frame)));
            }
            Event::Lost(_) => {
                feed.send_replace(News::Lost);
            }
            Event::Failed(error) => return Err(error.into()),
            Event::End => break,
        }
    }
    Ok(())
}

/// What the infer thread works with.
struct Eyes {
    pipeline: Pipeline,
    judge: Judge,
    /// Those of the head in use.
    labels: Arc<[String]>,
    tracker: Tracker,
    lessons: Option<Lessons>,
    live: Arc<watch::Sender<Live>>,
}

/// The infer thread: always the newest frame, and verdicts on its faces.
fn infer(
    mut eyes: Eyes,
    mut feed: watch::Receiver<News<Frame>>,
    sight: &watch::Sender<News<Scene>>,
) -> Result<(), DaemonError> {
    let waiting = waiting_room()?;
    let mut next_seq = 0;
    let (mut frames, mut skipped) = (0_u64, 0_u64);
    while waiting.block_on(feed.changed()).is_ok() {
        let newest = feed.borrow_and_update().clone();
        match newest {
            News::Waiting => {}
            News::Lost => {
                eyes.live.send_modify(|live| live.camera_lost = true);
                sight.send_replace(News::Lost);
            }
            News::Newest(frame) => {
                frames += 1;
                skipped += frame.seq.saturating_sub(next_seq);
                next_seq = frame.seq + 1;
                eyes.take_new_head();
                let scene = eyes.look(&frame)?;
                debug!(
                    seq = scene.seq,
                    faces = scene.faces.len(),
                    latency_ms = scene.latency.as_millis() as u64,
                    "frame"
                );
                eyes.live.send_modify(|live| {
                    live.camera_lost = false;
                    (live.frames, live.skipped) = (frames, skipped);
                    live.faces = scene.faces.len();
                });
                sight.send_replace(News::Newest(Arc::new(scene)));
            }
        }
    }
    info!(frames, skipped, "no more frames");
    Ok(())
}

impl Eyes {
    /// If there is another head, it judges from this frame on, and what tracks
    /// remember of the last one is forgotten.
    fn take_new_head(&mut self) {
        let Some(in_use) = self.lessons.as_mut().and_then(Lessons::new_head) else {
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

    /// One frame: detect, track, cut, embed, head, vote, judge.
    fn look(&mut self, frame: &Frame) -> Result<Scene, PipelineError> {
        let faces = self.pipeline.detect(&frame.pixels)?;
        let tracks = self.tracker.assign(frame.at, &faces);
        let doubts: Vec<_> = faces.iter().map(|face| self.judge.doubt(face)).collect();
        let worth: Vec<_> = faces
            .iter()
            .zip(&doubts)
            .filter(|(_, doubt)| doubt.is_none())
            .map(|(face, _)| *face)
            .collect();
        let mut looks = self.pipeline.classify(&frame.pixels, &worth)?.into_iter();
        let mut seen = Vec::with_capacity(faces.len());
        let mut known: Vec<(u64, f32, Look)> = Vec::new();
        for ((face, track), doubt) in faces.into_iter().zip(tracks).zip(doubts) {
            let look = if doubt.is_none() { looks.next() } else { None };
            let probabilities = look.map(|look| {
                let vote = self.tracker.vote(track, &look.probabilities);
                known.push((track, face.rect.area(), look));
                vote
            });
            let verdict = self
                .judge
                .judge(&face, probabilities.as_deref().unwrap_or_default());
            seen.push(SceneFace {
                face,
                track: Some(track),
                probabilities,
                verdict,
            });
        }
        let latency = now().saturating_duration_since(frame.at);
        if let Some(lessons) = &mut self.lessons {
            lessons.offer(frame.at, known);
        }
        Ok(Scene {
            seq: frame.seq,
            at: frame.at,
            latency,
            labels: Arc::clone(&self.labels),
            faces: seen,
        })
    }
}

/// What the indicate thread works with.
struct Show {
    console: Console,
    decider: Decider,
}

/// The indicate thread: scenes and time into decisions, decisions into outputs.
fn indicate(
    mut show: Show,
    mut sight: watch::Receiver<News<Scene>>,
    feed: &watch::Receiver<News<Frame>>,
    pulse: &watch::Sender<Pulse>,
    live: &watch::Sender<Live>,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    let waiting = waiting_room()?;
    live.send_modify(|live| Decision::Idle.name().clone_into(&mut live.decision));
    let mut shown = Decision::Idle;
    let mut since = now();
    let mut changes = 0;
    let mut stopping: Option<Instant> = None;
    let result = loop {
        let news = waiting.block_on(async { tokio::time::timeout(TICK, sight.changed()).await });
        let mut seen = None;
        let decision = match news {
            Ok(Err(_closed)) => break Ok(()),
            Ok(Ok(())) => match sight.borrow_and_update().clone() {
                News::Waiting => show.decider.tick(now()),
                News::Lost => show.decider.fault(),
                News::Newest(scene) => {
                    show.console.scene(&scene);
                    let decision = show.decider.observe(now(), scene.at, scene.decision());
                    seen = Some(scene);
                    decision
                }
            },
            Err(_no_news) => show.decider.tick(now()),
        };
        // A camera that is being opened anew is no reason to restart the service;
        // an infer thread that hangs is one, whatever it saw before.
        let known = matches!(*feed.borrow(), News::Lost);
        pulse.send_replace(Pulse {
            at: now(),
            fresh: decision != Decision::Fault || known,
        });
        if decision != shown {
            changes += 1;
            let change = describe(changes, decision, seen.as_deref());
            log_change(&change, shown);
            live.send_modify(|live| decision.name().clone_into(&mut live.decision));
            if let Err(error) = show.console.change(&change) {
                break Err(DaemonError::Console(error));
            }
            shown = decision;
            since = now();
        }
        let elapsed = now().saturating_duration_since(since);
        if let Err(error) = show.console.set(levels(shown, elapsed)) {
            break Err(DaemonError::Console(error));
        }
        // An infer thread that hangs must not keep the outputs on.
        if stop.is_cancelled() {
            let asked = *stopping.get_or_insert_with(now);
            if now().saturating_duration_since(asked) > STOP_DEADLINE / 2 {
                break Ok(());
            }
        }
    };
    info!(decisions = changes, "no more decisions");
    let low = show
        .console
        .set(Levels::default())
        .map_err(DaemonError::Console);
    result.and(low)
}

fn describe(number: u64, decision: Decision, scene: Option<&Scene>) -> Change {
    let scene = scene.filter(|_| decision != Decision::Fault);
    let faces = scene.iter().flat_map(|scene| {
        let record = |face| FaceRecord::new(face, &scene.labels);
        scene.faces.iter().map(record)
    });
    Change {
        change: number,
        time: unix_time(),
        decision,
        frame: scene.map(|scene| scene.seq),
        faces: faces.collect(),
    }
}

fn log_change(change: &Change, before: Decision) {
    let (decision, before) = (change.decision.name(), before.name());
    if change.decision == Decision::Fault {
        warn!(
            decision,
            before, "decision changed: there are no fresh frames"
        );
    } else {
        info!(
            decision,
            before,
            faces = change.faces.len(),
            "decision changed"
        );
    }
}

/// A runtime that does nothing but wait, for a thread of its own: it goes on
/// when the main thread has left its own.
fn waiting_room() -> Result<Runtime, DaemonError> {
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

fn unix_time() -> f64 {
    let since_1970 = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    // Rounded to milliseconds.
    since_1970.map_or(0.0, |time| time.as_millis() as f64 / 1000.0)
}
