//! The control thread, which serves the control socket, reloads the config, retries saving
//! settings that could not be saved, and publishes what the time of day allows.
//!
//! Each of these tasks may have to wait for a disk or for clients. They therefore run in
//! a separate thread and runtime, so that they cannot delay the watchdog and the signals.
//! If a task fails, the thread reports a problem and retries later.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::reload::Reloader;
use super::threads::{STOP_DEADLINE, Threads};
use super::times::Times;
use super::{DaemonError, Shared, service_manager};
use crate::api::BLOCKING_THREADS;
use crate::api::problems::{Problems, Topic};
use crate::api::socket::{self, DaemonHandle};
use crate::config::Config;
use crate::config::settings::Settings;

/// How long to wait before the next attempt to open the socket.
const SOCKET_RETRY: Duration = Duration::from_secs(2);
/// How often the thread retries saving settings that could not be saved.
const SAVE_RETRY: Duration = Duration::from_secs(15);
/// Maximum number of blocking threads for opening the socket, reloading the config, saving
/// settings, and reading the local time. Each of these four tasks uses at most one thread
/// at a time.
const OWN_BLOCKING_THREADS: usize = 4;

/// Everything that is needed to serve the control socket.
pub(super) struct ControlServer {
    pub(super) handle: DaemonHandle,
    /// The state directory.
    pub(super) state: PathBuf,
    pub(super) metrics_routes: Router,
}

/// What the control thread does besides serving the socket.
pub(super) struct ControlTasks {
    pub(super) reloader: Reloader,
    /// Each message requests a reload of the config.
    pub(super) reloads: mpsc::Receiver<()>,
    /// Publishes what the time of day allows, or `None` if nothing depends on the time.
    pub(super) times: Option<Arc<Times>>,
}

/// Starts the control thread, which ends when the inference thread ends or a stop is
/// requested. Requests in progress then have a short time to finish. If `server` is
/// `None`, there is no socket.
pub(super) fn start(
    server: Option<ControlServer>,
    config: &Config,
    tasks: ControlTasks,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let configured = config.control.socket.clone();
    let ControlTasks {
        reloader,
        reloads,
        times,
    } = tasks;
    let (problems, settings) = (shared.problems.clone(), Arc::clone(&shared.settings));
    let (stop, inference_ended) = (shared.stop.clone(), shared.inference_ended.clone());
    threads.start("control", move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS + OWN_BLOCKING_THREADS)
            .thread_name("control-files")
            .build()?;
        runtime.block_on(async {
            let ended = CancellationToken::new();
            let ending = async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = inference_ended.cancelled() => {}
                }
                ended.cancel();
                tokio::time::sleep(STOP_DEADLINE / 4).await;
            };
            let serving = async {
                if let Some(server) = server {
                    let runtime_dir = std::env::var_os("RUNTIME_DIRECTORY");
                    let path = socket::socket_path(
                        configured.as_deref(),
                        runtime_dir.as_deref(),
                        &server.state,
                    );
                    serve(server, path, &problems, &ended).await;
                }
                ended.cancelled().await;
            };
            let caring = async {
                tokio::join!(
                    reload(&reloader, reloads, &problems),
                    save_settings(&settings, &problems),
                    update_times(times),
                );
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = serving => {}
                () = ending => {}
                () = caring => {}
            }
        });
        // An import in progress must not delay the shutdown. The pictures that it has
        // already copied are kept.
        runtime.shutdown_background();
        Ok(())
    })
}

/// Serves the control socket until the token `ended` is triggered. If the socket cannot
/// be opened, for example because its path is in use or its folder is missing, this
/// function keeps trying.
async fn serve(
    server: ControlServer,
    path: PathBuf,
    problems: &Problems,
    ended: &CancellationToken,
) {
    while !ended.is_cancelled() {
        let bound = blocking({
            let path = path.clone();
            move || socket::bind(&path)
        });
        // Binding may block, because it connects to an existing socket whose program may
        // hang.
        let bound = tokio::select! {
            bound = bound => bound,
            () = ended.cancelled() => return,
        };
        let failed = match bound {
            None => return,
            Some(Err(error)) => error,
            Some(Ok(socket)) => {
                problems.set(Topic::Control, None);
                let (handle, routes) = (server.handle.clone(), server.metrics_routes.clone());
                match socket::serve(socket, handle, routes, ended.clone()).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
        };
        // If the socket is in the state directory and the directory cannot be used, no
        // problem is set here. The problem with the directory has already been reported,
        // and the socket can be opened when the directory can be used.
        if server.handle.learning.is_open() || !path.starts_with(&server.state) {
            let problem =
                format!("commands cannot reach the daemon: {failed}; the daemon keeps trying");
            problems.set(Topic::Control, Some(problem));
        }
        let _ = tokio::time::timeout(SOCKET_RETRY, ended.cancelled()).await;
    }
}

/// Reloads the config on each request, and notifies the service manager.
async fn reload(reloader: &Reloader, mut reloads: mpsc::Receiver<()>, problems: &Problems) {
    while reloads.recv().await.is_some() {
        service_manager::notify_reloading();
        let reloader = reloader.clone();
        let problem = match blocking(move || reloader.reload()).await {
            Some(Ok(problem)) => {
                info!("the config was reloaded");
                problem
            }
            Some(Err(problem)) => Some(problem),
            None => return,
        };
        problems.set(Topic::Config, problem);
        service_manager::notify_ready();
    }
}

/// Reports which settings could not be saved, and retries saving them.
async fn save_settings(settings: &Arc<Settings>, problems: &Problems) {
    let mut not_saved = settings.subscribe_not_saved();
    loop {
        let failed = not_saved.borrow_and_update().clone();
        let is_failed = failed.is_some();
        let problem = failed.map(|reasons| {
            format!("settings are not saved, and a restart would undo them: {reasons}")
        });
        problems.set(Topic::Settings, problem);
        if is_failed {
            let _ = tokio::time::timeout(SAVE_RETRY, not_saved.changed()).await;
            let settings = Arc::clone(settings);
            blocking(move || settings.save_again()).await;
        } else if not_saved.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps publishing what the time of day allows.
async fn update_times(times: Option<Arc<Times>>) {
    let Some(times) = times else { return };
    loop {
        let updating = Arc::clone(&times);
        let Some(wait) = blocking(move || updating.update()).await else {
            return;
        };
        tokio::time::sleep(wait).await;
    }
}

/// Runs `work`, which may have to wait for a disk, on another thread. Returns `None` if
/// `work` panics or the runtime is shutting down.
#[expect(
    clippy::disallowed_methods,
    reason = "the control thread does short file operations of its own"
)]
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> {
    let running = tokio::task::spawn_blocking(work);
    async move { running.await.ok() }
}
