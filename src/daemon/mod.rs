//! The daemon: its threads, channels, shutdown, readiness, and watchdog.
//!
//! This module starts all long-running threads, except for the log thread and the thread
//! that reads a webcam. (`pipeline` and `embed` start threads that end before the call
//! returns.) Data flows in one direction: from the camera thread to the inference thread,
//! and from there to the indicator thread. The channels between these threads keep only
//! the newest value, so that no thread waits for a slower thread. The main thread only
//! waits for signals and feeds the watchdog, so that neither a disk nor a client can
//! delay these two tasks. Shutdown follows the data: the camera thread drops its sender,
//! then the inference thread ends, and then the indicator thread ends and leaves the
//! outputs off.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::metrics::{self, Heartbeat, Metrics};
use crate::api::mqtt::device_name;
use crate::api::problems::Problems;
use crate::api::socket::{DeviceAccess, DeviceFacts, LedTestRequest, Live};
use crate::api::web::{LiveView, WebError, WebOptions};
use crate::camera::{Camera, SourceError, Spec, processes};
use crate::config::settings::Settings;
use crate::config::{Config, Mode};
use crate::decision::confirm::Standing;
use crate::decision::decide::{LabelError, Loss, VerdictPolicy};
use crate::events::EventLog;
use crate::frame::Frame;
use crate::indicate::pins::{PinError, PinOptions, Pins, PinsInUse};
use crate::indicate::{Console, pins};
use crate::learning::LearningError;
use crate::onnx::ModelError;
use crate::vision::pipeline::{Pipeline, PipelineError};
use crate::vision::track::Tracker;

mod camera_worker;
mod capture_worker;
mod classify_worker;
mod console_worker;
mod control;
#[cfg(test)]
mod count_sequences;
mod counts_worker;
mod door_control;
mod events;
mod frame_processor;
mod indicator_worker;
mod inference_worker;
mod led_tester;
mod mqtt;
mod refit_worker;
mod reload;
#[cfg(target_os = "linux")]
mod service_manager;
#[cfg(not(target_os = "linux"))]
#[path = "no_service_manager.rs"]
mod service_manager;
mod sound_worker;
mod threads;
mod times;
mod upload_request;
mod web;

use capture_worker::{CropSampler, LearningState};
use control::{ControlServer, ControlTasks};
use counts_worker::PassageSink;
use events::EventFeed;
use frame_processor::{FrameProcessor, MotionGate};
use indicator_worker::{IndicatorLinks, IndicatorWorker, Upstream};
use inference_worker::{FpsMeter, InferenceWorker, LiveMonitor};
pub use mqtt::machine;
pub use reload::ConfigFile;
use reload::Reloader;
use threads::Threads;
use times::{Allowed, Times};

/// Maximum time that startup waits for a disk that is not needed to watch the door.
const DISK_LIMIT: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or why it stopped running.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The labels of the head do not match the config.
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
    /// The system refuses to create a thread, a timer, or a signal handler.
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
    Lost(Loss),
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Latest<T> {
        match self {
            Latest::Waiting => Latest::Waiting,
            Latest::Newest(newest) => Latest::Newest(Arc::clone(newest)),
            Latest::Lost(loss) => Latest::Lost(*loss),
        }
    }
}

/// Where heads and samples are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateDir {
    /// A directory that the user named. If another daemon uses the directory, this daemon
    /// does not start. If the directory cannot be used for another reason, this daemon
    /// starts anyway, and learning begins as soon as the directory can be used.
    Named(PathBuf),
    /// The default directory. If the directory cannot be used, even because another
    /// daemon uses it, this daemon starts anyway, and learning begins as soon as the
    /// directory can be used.
    Usual(PathBuf),
}

/// Runs the daemon until the source ends or a signal asks it to stop. If `state` is
/// `None`, the daemon learns nothing. SIGHUP reloads `config_file`.
///
/// # Errors
/// Returns a [`DaemonError`] if something cannot be opened or a thread fails.
pub fn run(
    config: &Config,
    console: Console,
    state: Option<StateDir>,
    config_file: Option<ConfigFile>,
) -> Result<(), DaemonError> {
    let config = &config.for_mode();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // SIGHUP is caught first because it would otherwise end the process during startup,
    // and systemd would treat that as a normal exit.
    let hangup = runtime.block_on(async { Hangup::catch() })?;
    if let Err(error) = processes::adopt_orphans() {
        warn!(%error, "processes that the camera program leaves behind may keep running");
    }
    let path = config_file.as_ref().map(|file| file.path.clone());
    let parts = Parts::open(config, state, path)?;
    // Before this point, the other signals may end the process because there is nothing
    // to clean up.
    let signals = runtime.block_on(async { Signals::catch(hangup) })?;
    let shared = Shared::new(&parts.settings);
    // If startup fails halfway, this guard ends the threads that have already started.
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
    let (reload, reloads) = mpsc::channel(1);
    let mut start = Start {
        config,
        config_file,
        shared: &shared,
        threads: &mut threads,
    };
    start.all(parts, camera, console, reloads)?;
    service_manager::notify_ready();
    info!(source, "ready");
    runtime.block_on(wait(signals, &reload, &shared, &mut threads));
    service_manager::notify_stopping();
    shared.stop.cancel();
    let result = threads.join(&runtime);
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
        // The options of the page are checked first because a page that is configured to
        // be protected must never be served without protection.
        let web_options = web::options(config)?;
        let settings = Arc::new(Settings::new(config, config_file));
        let spec: Spec = config.camera.source.parse().map_err(SourceError::from)?;
        let pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(1))?;
        let policy =
            VerdictPolicy::new(config.classify.verdict_options(), pipeline.head().labels())?;
        let pins = open_pins(config, state.as_ref())?;
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

/// The values that all threads share.
struct Shared {
    settings: Arc<Settings>,
    live: Arc<watch::Sender<Live>>,
    problems: Problems,
    metrics: Arc<Metrics>,
    events: EventLog,
    heartbeat: Arc<watch::Sender<Heartbeat>>,
    /// What the time of day allows.
    allowed: Arc<watch::Sender<Allowed>>,
    /// Triggered to ask all threads to stop.
    stop: CancellationToken,
    /// Triggered when the inference thread has ended, so that the threads outside the
    /// camera path (refit, MQTT, page) end too.
    inference_ended: CancellationToken,
}

impl Shared {
    fn new(settings: &Arc<Settings>) -> Shared {
        let live = Arc::new(watch::Sender::new(Live::default()));
        Shared {
            settings: Arc::clone(settings),
            problems: Problems::new(Arc::clone(&live)),
            live,
            metrics: Arc::new(Metrics::new()),
            events: EventLog::default(),
            heartbeat: Arc::new(watch::Sender::new(Heartbeat {
                at: now(),
                fresh: true,
            })),
            allowed: Arc::new(watch::Sender::new(Allowed::ALL)),
            stop: CancellationToken::new(),
            inference_ended: CancellationToken::new(),
        }
    }
}

/// The values that are needed to start the threads.
struct Start<'a> {
    config: &'a Config,
    config_file: Option<ConfigFile>,
    shared: &'a Shared,
    threads: &'a mut Threads,
}

impl Start<'_> {
    /// Starts all threads. Without a state directory, there is no control socket and no
    /// page.
    fn all(
        &mut self,
        parts: Parts,
        camera: Camera,
        console: Console,
        reloads: mpsc::Receiver<()>,
    ) -> Result<(), DaemonError> {
        let (config, shared) = (self.config, self.shared);
        let times = publish_times(config, shared);
        if config.mode == Mode::Count {
            shared.live.send_modify(|live| live.statistics_mode = true);
            info!("statistics mode: people are only counted");
        }
        let (device, led_tests) = device_access(config);
        let (sampler, server) = match parts.learning {
            Some(learning) => {
                let (sampler, server) = self.learning(learning, device)?;
                (Some(sampler), Some(server))
            }
            None => (None, None),
        };
        let handle = server.as_ref().map(|server| server.handle.clone());
        let ledger = handle.as_ref().and_then(|handle| handle.counts.clone());
        if ledger.is_none() && config.counts_passages() {
            warn!("passages are not counted: this needs a state directory");
        }
        let (annotated_frames, annotated_frames_in) = watch::channel(None);
        let mut web_options = None;
        if let Some(options) = parts.web_options {
            let (sender, options) = watch::channel(options);
            web_options = Some(Arc::new(sender));
            let routes = server.as_ref().map(|server| &server.metrics_routes);
            web::start(
                options,
                handle.clone(),
                Arc::new(LiveView::new(annotated_frames_in)),
                routes.cloned().unwrap_or_default(),
                shared,
                self.threads,
            )?;
        }
        let events = events::start(config, handle.as_ref(), shared, self.threads)?;
        mqtt::start(config, handle.as_ref(), shared, self.threads)?;
        let reloader = Reloader {
            file: self.config_file.take(),
            settings: Arc::clone(&shared.settings),
            web: web_options,
        };
        let control = ControlTasks {
            reloader,
            reloads,
            times,
        };
        control::start(server, config, control, shared, self.threads)?;
        let links = CameraPathLinks::new();
        let (console, console_worker) = console_worker::connect(console);
        self.threads.start("console", || console_worker.run())?;
        let indicator = IndicatorWorker::new(
            config,
            console,
            parts.pins,
            handle,
            self.indicator_links(links.upstream, links.standing, led_tests)?,
        )
        .with_events(&events);
        let inference = InferenceWorker {
            processor: frame_processor(parts.pipeline, parts.policy, config),
            standing: links.standing_in,
            sampler,
            passages: ledger.map(|ledger| PassageSink::new(config, ledger)),
            mode: config.mode,
            published_at: None,
            live: Arc::clone(&shared.live),
            tuning: shared.settings.subscribe(),
            allowed: shared.allowed.subscribe(),
            annotated_frames,
            fps_meter: FpsMeter::default(),
            monitor: LiveMonitor {
                metrics: (config.mode == Mode::Door).then(|| Arc::clone(&shared.metrics)),
                progress: links.progress,
            },
            overloaded_at: None,
        };
        let frames = (links.frames, links.frames_in);
        let workers = (inference, indicator);
        start_camera_path(camera, frames, workers, events, shared, self.threads)
    }

    /// Starts the threads that store crops and counts, and connects the control socket to them.
    fn learning(
        &mut self,
        learning: LearningState,
        device: DeviceAccess,
    ) -> Result<(CropSampler, ControlServer), DaemonError> {
        let (config, shared) = (self.config, self.shared);
        let (sampler, mut handle, state) = learning.start(config, device, shared, self.threads)?;
        handle.counts = counts_worker::start(config, &state, shared, self.threads)?;
        let metrics_routes = metrics::routes(
            Arc::clone(&shared.metrics),
            handle.clone(),
            shared.heartbeat.subscribe(),
        );
        let server = ControlServer {
            handle,
            state,
            metrics_routes,
        };
        Ok((sampler, server))
    }

    /// Starts the sound thread, and connects the indicator thread to the other threads.
    fn indicator_links(
        &mut self,
        upstream: Upstream,
        standing: watch::Sender<Standing>,
        led_tests: mpsc::Receiver<LedTestRequest>,
    ) -> Result<IndicatorLinks, DaemonError> {
        let shared = self.shared;
        Ok(IndicatorLinks {
            tuning: shared.settings.subscribe(),
            allowed: shared.allowed.subscribe(),
            upstream,
            standing,
            sounds: sound_worker::start(self.config, shared, self.threads)?,
            led_tests,
        })
    }
}

/// Collects what the owner sees of the device. The receiver is for the indicator thread.
fn device_access(config: &Config) -> (DeviceAccess, mpsc::Receiver<LedTestRequest>) {
    let name = device_name(config, &machine());
    DeviceAccess::new(DeviceFacts::new(config, name, pins::is_pi(), now()))
}

/// Publishes what the time of day allows. Returns `None` if nothing depends on the time.
fn publish_times(config: &Config, shared: &Shared) -> Option<Arc<Times>> {
    let times = Times::new(config, shared);
    times.has_windows().then(|| {
        times.update();
        Arc::new(times)
    })
}

/// The channels between the threads that a frame passes through.
struct CameraPathLinks {
    frames: watch::Sender<Latest<Frame>>,
    frames_in: watch::Receiver<Latest<Frame>>,
    progress: watch::Sender<Instant>,
    standing: watch::Sender<Standing>,
    standing_in: watch::Receiver<Standing>,
    upstream: Upstream,
}

impl CameraPathLinks {
    fn new() -> CameraPathLinks {
        let (frames, frames_in) = watch::channel(Latest::Waiting);
        let (progress, worked) = watch::channel(now());
        let (standing, standing_in) = watch::channel(Standing::default());
        CameraPathLinks {
            upstream: Upstream {
                frames: frames_in.clone(),
                worked,
            },
            frames,
            frames_in,
            progress,
            standing,
            standing_in,
        }
    }
}

fn frame_processor(
    pipeline: Pipeline,
    policy: VerdictPolicy,
    config: &Config,
) -> FrameProcessor<Pipeline> {
    let labels = pipeline.head().labels().into();
    FrameProcessor::new(
        pipeline,
        (policy, labels),
        Tracker::new(config.track.options()),
        MotionGate::new(Duration::from_millis(config.detect.idle_interval_ms)),
        config.frame_time_limit(),
    )
}

/// Starts the threads that a frame passes through.
fn start_camera_path(
    camera: Camera,
    (frames, frames_in): (watch::Sender<Latest<Frame>>, watch::Receiver<Latest<Frame>>),
    (inference, indicator): (InferenceWorker, IndicatorWorker),
    events: EventFeed,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let (results, results_in) = watch::channel(Latest::Waiting);
    threads.start("camera", {
        let (live, stop) = (Arc::clone(&shared.live), shared.stop.clone());
        move || camera_worker::run(camera, &frames, &live, &events, &stop)
    })?;
    threads.start("inference", {
        let ended = shared.inference_ended.clone().drop_guard();
        move || {
            let _ended = ended;
            inference.run(frames_in, &results)
        }
    })?;
    threads.start("indicator", {
        let live = Arc::clone(&shared.live);
        let metrics = Arc::clone(&shared.metrics);
        let heartbeat = Arc::clone(&shared.heartbeat);
        let stop = shared.stop.clone();
        move || indicator.run(results_in, &heartbeat, &live, &metrics, &stop)
    })
}

/// Returns the folder for files that are needed only while the daemon runs. This is the
/// folder that systemd provides, or otherwise the state directory.
fn runtime_folder(state: Option<&StateDir>) -> Option<PathBuf> {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
    runtime.or_else(|| match state? {
        StateDir::Named(path) | StateDir::Usual(path) => Some(path.clone()),
    })
}

/// Writes a record that `pins` are in use. The record is deleted when the returned pins
/// are dropped. If the record cannot be written, the pins can still be used.
fn record(
    pins: Box<dyn Pins>,
    folder: PathBuf,
    options: PinOptions,
) -> Result<Box<dyn Pins>, DaemonError> {
    let path = folder.display().to_string();
    let write = move || PinsInUse::write(&folder, &options);
    let error = match threads::within(DISK_LIMIT, "pins-record", write)? {
        Some(Ok(record)) => return Ok(record.until_dropped(pins)),
        Some(Err(error)) => error.to_string(),
        None => format!("the disk of {path} does not answer: check it"),
    };
    warn!(
        error,
        "the pins in use are not recorded: \"maskd pins-off\" needs the config"
    );
    Ok(pins)
}

/// Opens the pins that the config names, and records which pins are in use.
fn open_pins(
    config: &Config,
    state: Option<&StateDir>,
) -> Result<Option<Box<dyn Pins>>, DaemonError> {
    let pins = match config.indicate.pins(pins::is_pi()) {
        Some(options) => {
            let description = pins::describe(&options)?;
            let pins = pins::open(&options)?;
            let pins = match runtime_folder(state) {
                Some(folder) => record(pins, folder, options)?,
                None => pins,
            };
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

/// Waits until a signal asks for a stop, a thread fails, or all threads have ended.
/// Meanwhile, this function feeds the watchdog.
async fn wait(
    mut signals: Signals,
    reload: &mpsc::Sender<()>,
    shared: &Shared,
    threads: &mut Threads,
) {
    // Notify twice per watchdog interval, as sd_watchdog_enabled(3) advises.
    let period = service_manager::watchdog_interval().map(|interval| interval / 2);
    let period = period.filter(|period| !period.is_zero());
    let mut watchdog = tokio::time::interval(period.unwrap_or(Duration::from_hours(1)));
    loop {
        tokio::select! {
            request = signals.next() => match request {
                SignalRequest::Stop(signal) => return info!(signal, "stopping"),
                SignalRequest::Reload => {
                    // If another request is already waiting, one reload answers both.
                    let _ = reload.try_send(());
                }
            },
            () = shared.stop.cancelled() => return,
            () = threads.ended() => return,
            _ = watchdog.tick() => {
                let is_alive = shared.heartbeat.borrow().is_alive(now());
                if period.is_some() && is_alive {
                    service_manager::feed_watchdog();
                } else if !is_alive {
                    debug!("decisions are not fresh: the watchdog is not fed");
                }
            }
        }
    }
}

/// The action that a signal requests.
enum SignalRequest {
    /// Stop the daemon. The string is the name of the signal.
    Stop(&'static str),
    /// Reload the config and the certificates.
    Reload,
}

/// SIGHUP, the signal that asks a service to reload its config. A terminal also sends
/// SIGHUP when the terminal is closed.
struct Hangup {
    signal: Signal,
    /// Whether the daemon runs in a terminal. If so, SIGHUP means that the terminal was
    /// closed, and the daemon must end.
    has_terminal: bool,
}

impl Hangup {
    fn catch() -> Result<Hangup, std::io::Error> {
        // A service manager connects none of these streams to a terminal.
        let has_terminal = std::io::stdin().is_terminal()
            || std::io::stdout().is_terminal()
            || std::io::stderr().is_terminal();
        Ok(Hangup {
            signal: signal(SignalKind::hangup())?,
            has_terminal,
        })
    }

    fn request(&self) -> SignalRequest {
        if self.has_terminal {
            SignalRequest::Stop("SIGHUP")
        } else {
            SignalRequest::Reload
        }
    }
}

/// The signals that the daemon handles.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Hangup,
    quit: Signal,
}

impl Signals {
    fn catch(hangup: Hangup) -> Result<Signals, std::io::Error> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for a signal.
    async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.interrupt.recv() => SignalRequest::Stop("SIGINT"),
            _ = self.terminate.recv() => SignalRequest::Stop("SIGTERM"),
            _ = self.hangup.signal.recv() => self.hangup.request(),
            _ = self.quit.recv() => SignalRequest::Stop("SIGQUIT"),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon passes the time to all other modules"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon passes the time to all other modules"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
