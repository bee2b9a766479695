//! The daemon, with its threads, channels, shutdown, readiness and watchdog.
//!
//! This is the only module that starts long-running threads (`pipeline` and `embed`
//! start threads that end before the call returns). Data flows one way: camera,
//! inference, indicator. The channels between them keep only the newest value, so
//! that no thread waits for a slower one. The main thread waits for signals, feeds
//! the watchdog and answers the control socket. It never waits for a disk, because
//! requests do their file work on other threads (`api::file_work`). Shutdown follows
//! the data: the camera thread drops its sender, then the inference thread ends, then
//! the indicator thread ends and leaves the outputs off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::metrics::{self, Heartbeat, Metrics};
use crate::api::socket::{self, DaemonHandle, Live};
use crate::api::web::{AnnotatedFrame, LiveView, WebError, WebOptions};
use crate::camera::{Camera, SourceError, Spec, processes};
use crate::config::Config;
use crate::config::settings::Settings;
use crate::decision::decide::{LabelError, VerdictPolicy};
use crate::indicate::pins::{PinError, Pins};
use crate::indicate::{Console, pins};
use crate::learning::LearningError;
use crate::onnx::ModelError;
use crate::vision::pipeline::{Pipeline, PipelineError};
use crate::vision::track::Tracker;

mod camera_worker;
mod capture_worker;
mod indicator_worker;
mod inference_worker;
mod mqtt;
mod refit_worker;
mod threads;
mod web;

use capture_worker::{CropSampler, LearningState};
use indicator_worker::IndicatorWorker;
use inference_worker::{FpsMeter, InferenceWorker, MotionGate};
pub use mqtt::hostname;
use threads::{STOP_DEADLINE, Threads};

/// Maximum number of threads that do file work for requests to the control socket.
/// Requests to the page have the same number of threads. Further requests wait.
const FILE_THREADS: usize = 4;

/// Why the daemon did not start, or stopped running.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The labels of the head do not fit the config.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// A frame cannot be processed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Another daemon uses the state directory that the user named.
    #[error(transparent)]
    Learning(#[from] LearningError),
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The page cannot be served as the config requires.
    #[error(transparent)]
    Web(#[from] WebError),
    /// Decisions cannot be written to the console.
    #[error("cannot show decisions on standard output: {0}")]
    Console(std::io::Error),
    /// The system refuses to create a thread, a timer or a signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A thread panicked, which is a bug.
    #[error("the {0} thread ended unexpectedly; please report this")]
    Panicked(String),
}

/// The newest value that one thread passes to the next: a frame for the inference
/// thread, or a result for the indicator thread.
#[derive(Debug)]
enum Latest<T> {
    /// No value has been sent yet.
    Waiting,
    Newest(Arc<T>),
    /// The camera is lost and is being reconnected.
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
    /// A directory that the user named. If another daemon uses it, the daemon does not
    /// start. If it cannot be used for another reason, the daemon starts, and learns as
    /// soon as it can be used.
    Named(PathBuf),
    /// The default directory. If it cannot be used, even because another daemon uses it,
    /// the daemon starts, and learns as soon as it can be used.
    Usual(PathBuf),
}

/// Runs the daemon until the source ends or a signal asks it to stop. Without a
/// state directory, the daemon learns nothing. `config_file` is the file that the
/// config was read from.
///
/// # Errors
/// Returns a [`DaemonError`] if something cannot be opened or a thread fails.
pub fn run(
    config: &Config,
    console: Console,
    state: Option<StateDir>,
    config_file: Option<PathBuf>,
) -> Result<(), DaemonError> {
    if let Err(error) = processes::adopt_orphans() {
        warn!(%error, "processes that the camera program leaves behind may go on");
    }
    let parts = Parts::open(config, state, config_file)?;
    // Before this point, a signal may end the process because there is nothing to
    // clean up.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .thread_name("control")
        .build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let shared = Shared::new(&parts.settings);
    // If startup fails halfway, this ends the threads that have already started.
    let _stop_on_return = shared.stop.clone().drop_guard();
    let camera = Camera::open(
        parts.spec.clone(),
        config.camera.options(),
        shared.stop.clone(),
    )?;
    // The path is not logged, because it may contain a person's name.
    let source = match &parts.spec {
        Spec::Path(_) => "pictures".to_owned(),
        spec => spec.to_string(),
    };
    let mut threads = Threads::new(&shared.stop);
    let control = start(parts, camera, console, config, &shared, &mut threads)?;
    notify(&[sd_notify::NotifyState::Ready]);
    info!(source, "ready");
    runtime.block_on(async {
        let waiting = async {
            wait(signals, &shared, &mut threads).await;
            notify(&[sd_notify::NotifyState::Stopping]);
            shared.stop.cancel();
        };
        tokio::join!(waiting, serve_control(control, config, &shared.stop));
    });
    let result = threads.join(&runtime);
    // An import in progress must not delay the shutdown. The pictures that it has
    // already copied are kept.
    runtime.shutdown_background();
    info!("stopped");
    result
}

/// Everything that is opened and checked before the first thread starts.
struct Parts {
    web_options: Option<WebOptions>,
    settings: Arc<Settings>,
    spec: Spec,
    pipeline: Pipeline,
    policy: VerdictPolicy,
    pins: Option<Box<dyn Pins>>,
    learning: Option<LearningState>,
}

impl Parts {
    fn open(
        config: &Config,
        state: Option<StateDir>,
        config_file: Option<PathBuf>,
    ) -> Result<Parts, DaemonError> {
        // Checked first, because a page that is configured to be protected must never
        // be served without protection.
        let web_options = web::options(config)?;
        let settings = Arc::new(Settings::new(config, config_file));
        let spec: Spec = config.camera.source.parse().map_err(SourceError::from)?;
        let pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(1))?;
        let policy =
            VerdictPolicy::new(config.classify.verdict_options(), pipeline.head().labels())?;
        let pins = open_pins(config)?;
        let learning = state.map(|state| LearningState::open(config, state, &pipeline));
        let learning = learning.transpose()?;
        Ok(Parts {
            web_options,
            settings,
            spec,
            pipeline,
            policy,
            pins,
            learning,
        })
    }
}

/// What all threads share.
struct Shared {
    settings: Arc<Settings>,
    live: Arc<watch::Sender<Live>>,
    metrics: Arc<Metrics>,
    heartbeat: Arc<watch::Sender<Heartbeat>>,
    /// Asks all threads to stop.
    stop: CancellationToken,
    /// Canceled when the inference thread has ended, so that the threads outside
    /// the camera path (refit, MQTT, page) end too.
    inference_ended: CancellationToken,
}

impl Shared {
    fn new(settings: &Arc<Settings>) -> Shared {
        Shared {
            settings: Arc::clone(settings),
            live: Arc::new(watch::Sender::new(Live::default())),
            metrics: Arc::new(Metrics::new()),
            heartbeat: Arc::new(watch::Sender::new(Heartbeat {
                at: now(),
                fresh: true,
            })),
            stop: CancellationToken::new(),
            inference_ended: CancellationToken::new(),
        }
    }
}

/// Everything that serving the control socket requires.
struct Control {
    handle: DaemonHandle,
    state: PathBuf,
    metrics_routes: Router,
}

/// Starts all threads. Returns `None` if there is no state directory, because then
/// there is no control socket either.
fn start(
    parts: Parts,
    camera: Camera,
    console: Console,
    config: &Config,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<Option<Control>, DaemonError> {
    let (sampler, control) = match parts.learning {
        Some(learning) => {
            let (sampler, handle, state) = learning.start(config, shared, threads)?;
            let metrics_routes = metrics::routes(
                Arc::clone(&shared.metrics),
                handle.clone(),
                shared.heartbeat.subscribe(),
            );
            let control = Control {
                handle,
                state,
                metrics_routes,
            };
            (Some(sampler), Some(control))
        }
        None => (None, None),
    };
    let handle = control.as_ref().map(|control| &control.handle);
    let (annotated_frames, annotated_frames_in) = watch::channel(None);
    if let Some(options) = parts.web_options {
        let routes = control.as_ref().map(|control| &control.metrics_routes);
        web::start(
            options,
            handle.cloned(),
            Arc::new(LiveView::new(annotated_frames_in)),
            routes.cloned().unwrap_or_default(),
            &shared.inference_ended,
            threads,
        )?;
    }
    mqtt::start(config, handle, shared, threads)?;
    let indicator = IndicatorWorker::new(
        config,
        console,
        parts.pins,
        handle.cloned(),
        shared.settings.subscribe(),
    );
    let inference = inference_worker(
        parts.pipeline,
        parts.policy,
        sampler,
        annotated_frames,
        config,
        shared,
    );
    start_camera_path(camera, inference, indicator, shared, threads)?;
    Ok(control)
}

fn inference_worker(
    pipeline: Pipeline,
    policy: VerdictPolicy,
    sampler: Option<CropSampler>,
    annotated_frames: watch::Sender<Option<AnnotatedFrame>>,
    config: &Config,
    shared: &Shared,
) -> InferenceWorker {
    InferenceWorker {
        labels: pipeline.head().labels().into(),
        pipeline,
        policy,
        tracker: Tracker::new(config.track.options()),
        motion_gate: MotionGate::new(Duration::from_millis(config.detect.idle_interval_ms)),
        sampler,
        live: Arc::clone(&shared.live),
        tuning: shared.settings.subscribe(),
        annotated_frames,
        fps_meter: FpsMeter::default(),
        metrics: Arc::clone(&shared.metrics),
    }
}

/// Starts the threads that a frame passes through.
fn start_camera_path(
    camera: Camera,
    inference: InferenceWorker,
    indicator: IndicatorWorker,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let (frames, frames_in) = watch::channel(Latest::Waiting);
    let (results, results_in) = watch::channel(Latest::Waiting);
    threads.start("camera", {
        let (live, stop) = (Arc::clone(&shared.live), shared.stop.clone());
        move || camera_worker::run(camera, &frames, &live, &stop)
    })?;
    threads.start("inference", {
        let frames = frames_in.clone();
        let ended = shared.inference_ended.clone().drop_guard();
        move || {
            let _ended = ended;
            inference.run(frames, &results)
        }
    })?;
    threads.start("indicator", {
        let live = Arc::clone(&shared.live);
        let metrics = Arc::clone(&shared.metrics);
        let heartbeat = Arc::clone(&shared.heartbeat);
        let stop = shared.stop.clone();
        move || indicator.run(results_in, &frames_in, &heartbeat, &live, &metrics, &stop)
    })
}

/// Opens the pins that the config names.
fn open_pins(config: &Config) -> Result<Option<Box<dyn Pins>>, DaemonError> {
    let pins = match config.indicate.pins(pins::is_pi()) {
        Some(options) => {
            let description = pins::describe(&options)?;
            let pins = pins::open(&options)?;
            info!(pins = description, "pins are in use");
            Some(pins)
        }
        None => None,
    };
    if pins.is_none() && config.indicate.backend.is_none() && config.indicate.has_pins() {
        warn!(
            "this is not a Raspberry Pi: the pins are not used, unless indicate.backend is \"gpiocdev\""
        );
    }
    Ok(pins)
}

/// Serves the control socket until `stop` is canceled. A request in progress then
/// has a short time to finish. If the socket cannot be opened, the daemon keeps
/// running without it.
async fn serve_control(control: Option<Control>, config: &Config, stop: &CancellationToken) {
    let Some(control) = control else {
        return;
    };
    let runtime_dir = std::env::var_os("RUNTIME_DIRECTORY");
    let configured = config.control.socket.as_deref();
    let path = socket::socket_path(configured, runtime_dir.as_deref(), &control.state);
    let socket = match socket::bind(&path) {
        Ok(socket) => socket,
        // The log says already that the state directory, where the socket would be, cannot
        // be used.
        Err(error) if !control.handle.learning.is_open() && path.starts_with(&control.state) => {
            return info!(%error, "commands cannot reach the daemon");
        }
        Err(error) => return warn!(%error, "commands cannot reach the daemon"),
    };
    let grace_over = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_DEADLINE / 4).await;
    };
    tokio::select! {
        served = socket::serve(socket, control.handle, control.metrics_routes, stop.clone()) => {
            if let Err(error) = served {
                warn!(%error, "commands can no longer reach the daemon");
            }
        }
        () = grace_over => {}
    }
}

/// Waits until a signal arrives, a thread fails, or all threads have ended, and feeds
/// the watchdog in the meantime.
async fn wait(mut signals: Signals, shared: &Shared, threads: &mut Threads) {
    // Notify twice per watchdog interval, as sd_watchdog_enabled(3) advises.
    let period = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let period = period.filter(|period| !period.is_zero());
    let mut watchdog = tokio::time::interval(period.unwrap_or(Duration::from_hours(1)));
    loop {
        tokio::select! {
            signal = signals.next() => return info!(signal, "stopping"),
            () = shared.stop.cancelled() => return,
            () = threads.ended() => return,
            _ = watchdog.tick() => {
                let is_alive = shared.heartbeat.borrow().is_alive(now());
                if period.is_some() && is_alive {
                    notify(&[sd_notify::NotifyState::Watchdog]);
                } else if !is_alive {
                    debug!("decisions are not fresh: the watchdog is not fed");
                }
            }
        }
    }
}

/// The signals that ask the daemon to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Sent when the terminal is closed.
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

    /// Waits for a signal and returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
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
