//! The two threads for the page. The thread `web` serves the page, and the thread
//! `live-view` draws the live view.
//!
//! Both run at a low priority, so that inference is as fast with many viewers as
//! with none. `api::web` handles the requests.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tracing::warn;

use super::threads::{Threads, timer_runtime};
use super::{DaemonError, Shared};
use crate::api::BLOCKING_THREADS;
use crate::api::socket::DaemonHandle;
use crate::api::web::{self, LiveView, WebError, WebOptions, WebServer};
use crate::config::Config;
use crate::platform::system;

/// Returns the options for serving the page, or `None` if the page is not turned on in
/// the config.
pub(super) fn options(config: &Config) -> Result<Option<WebOptions>, WebError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let options = WebOptions::from_config(&config.web, credentials.as_deref().map(Path::new))?;
    if options.as_ref().is_some_and(WebOptions::exposes_password) {
        warn!("the page is not encrypted: others on the network can read the password");
    }
    Ok(options)
}

/// Starts both threads, which end when the inference thread has ended. The page applies
/// changes to `options` as they arrive.
pub(super) fn start(
    options: watch::Receiver<WebOptions>,
    handle: Option<DaemonHandle>,
    live_view: Arc<LiveView>,
    metrics_routes: Router,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let Some(handle) = handle else {
        warn!("the page is not served: it needs a state directory");
        return Ok(());
    };
    let interval = options.borrow().frame_interval();
    let (stop, problems) = (&shared.inference_ended, shared.problems.clone());
    threads.start("live-view", {
        let (live_view, stop) = (Arc::clone(&live_view), stop.clone());
        move || {
            lower_priority();
            timer_runtime()?.block_on(web::draw(&live_view, interval, &stop));
            Ok(())
        }
    })?;
    let stop = stop.clone();
    threads.start("web", move || {
        lower_priority();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("web-files")
            .build()?;
        let server = WebServer::new(options, handle, live_view, metrics_routes, problems);
        runtime.block_on(web::serve(server, stop));
        runtime.shutdown_background();
        Ok(())
    })
}

fn lower_priority() {
    if let Err(error) = system::low() {
        warn!(%error, "the page is served at normal priority");
    }
}
