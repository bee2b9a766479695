//! The two threads of the page: `web` serves it, `live-view` draws the live view.
//!
//! Both run at a low priority, so that inference is as fast with many viewers as
//! with none. `api::web` handles the requests.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::threads::{Threads, timer_runtime};
use super::{DaemonError, FILE_THREADS};
use crate::api::socket::DaemonHandle;
use crate::api::web::{self, LiveView, WebError, WebOptions, WebServer};
use crate::config::Config;
use crate::platform::system;

/// Returns the options for serving the page, or `None` if the config does not turn
/// the page on.
pub(super) fn options(config: &Config) -> Result<Option<WebOptions>, WebError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let options = WebOptions::from_config(&config.web, credentials.as_deref().map(Path::new))?;
    if options.as_ref().is_some_and(WebOptions::exposes_password) {
        warn!("the page is not encrypted: others on the network can read the password");
    }
    Ok(options)
}

/// Starts both threads, which end when `stop` is canceled.
pub(super) fn start(
    options: WebOptions,
    handle: Option<DaemonHandle>,
    live_view: Arc<LiveView>,
    metrics_routes: Router,
    stop: &CancellationToken,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let Some(handle) = handle else {
        warn!("the page is not served: it needs a state directory");
        return Ok(());
    };
    let interval = options.frame_interval();
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
            .max_blocking_threads(FILE_THREADS)
            .thread_name("web-files")
            .build()?;
        let server = WebServer::new(options, handle, live_view, metrics_routes);
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
