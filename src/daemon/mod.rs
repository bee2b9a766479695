//! The daemon: threads, channels, shutdown, readiness and watchdog.
//!
//! The only module that starts long-running threads (`pipeline` and `embed` have
//! threads that end within a call). Data flows one way: camera, inference,
//! indicator. The channels between them keep only the newest value, so that no
//! thread waits for a slower one. The main thread waits for signals, feeds the
//! watchdog and answers the control socket; the file work of requests runs beside it
//! (`api::file_work`), so that none of these has to wait for a disk. The end flows with the data: the camera thread
//! drops its sender, then inference ends, then the indicator ends and leaves the
//! outputs off.

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
use crate::camera::{Camera, SourceError, Spec};
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

/// Threads for the file work of requests to the control socket, and as many for
/// those to the page. Further requests wait.
const FILE_THREADS: usize = 4;

/// Why the daemon did not start, or did not go on.
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
    /// The state directory that was named cannot be used.
    #[error(transparent)]
    Learning(#[from] LearningError),
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The page cannot be served as the config asks.
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

/// The newest value that one thread has for the next: frames for inference,
/// results for the indicator.
#[derive(Debug)]
enum Latest<T> {
    /// There has been none yet.
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
    /// The user named it: if it cannot be used, the daemon does not start.
    Named(PathBuf),
    /// The default one: if it cannot be used, or another daemon uses it, the
    /// daemon starts and learns nothing.
    Usual(PathBuf),
}

/// Runs until the source ends or a signal asks to stop. Without a state
/// directory nothing is learned. `config_file` is the file that the config was
/// read from.
///
/// # Errors
/// [`DaemonError`] if something cannot be opened, or a thread gives up.
pub fn run(
    config: &Config,
    console: Console,
    state: Option<StateDir>,
    config_file: Option<PathBuf>,
) -> Result<(), DaemonError> {
    let parts = Parts::open(config, state, config_file)?;
    // Before this point a signal may end the process: there is nothing to clean up.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .thread_name("control")
        .build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let shared = Shared::new(&parts.settings);
    // If starting fails half way, the threads that have started end.
    let _stop_on_return = shared.stop.clone().drop_guard();
    let camera = Camera::open(
        parts.spec.clone(),
        config.camera.options(),
        shared.stop.clone(),
    )?;
    // The path of a picture may contain a name.
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
    // An import in progress must not delay the end: what it has copied stays.
    runtime.shutdown_background();
    info!("stopped");
    result
}

/// Everything that can be refused before the first thread starts.
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
        // First: a page that is configured to be protected must never be open.
        let web_options = web::options(config)?;
        let settings = Arc::new(Settings::new(config, config_file));
        let spec: Spec = config.camera.source.parse().map_err(SourceError::from)?;
        let pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(1))?;
        let policy =
            VerdictPolicy::new(config.classify.verdict_options(), pipeline.head().labels())?;
        let pins = open_pins(config)?;
        let learning = state.map(|state| LearningState::open(config, state, &pipeline));
        let learning = learning.transpose()?.flatten();
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
    /// Canceled when the inference thread has ended: the threads beside the
    /// camera path (refit, MQTT, page) then end too.
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

/// What the control socket serves.
struct Control {
    handle: DaemonHandle,
    state: PathBuf,
    metrics_routes: Router,
}

/// Starts all threads. `None` if there is no state directory: then there is no
/// control socket either.
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

/// Serves the control socket until the stop; a request in progress then has a
/// moment to finish. If the socket cannot be opened, the daemon works on without
/// it.
async fn serve_control(control: Option<Control>, config: &Config, stop: &CancellationToken) {
    let Some(control) = control else {
        return;
    };
    let runtime_dir = std::env::var_os("RUNTIME_DIRECTORY");
    let configured = config.control.socket.as_deref();
    let path = socket::socket_path(configured, runtime_dir.as_deref(), &control.state);
    let socket = match socket::bind(&path) {
        Ok(socket) => socket,
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

/// Waits for a signal, for the end of the last thread, or for a thread that
/// fails. Feeds the watchdog meanwhile.
async fn wait(mut signals: Signals, shared: &Shared, threads: &mut Threads) {
    // Twice an interval, as sd_watchdog_enabled(3) advises.
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
