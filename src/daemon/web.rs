//! The threads of the page: one that serves it, one that draws the live view.
//!
//! Both have a low priority, so that however many look, frames are judged
//! as fast as before.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{DaemonError, Threads, timer_runtime};
use crate::api::socket::DaemonHandle;
use crate::api::web::{self, LiveView, WebError, WebOptions, WebServer};
use crate::config::Config;
use crate::platform::system;

/// How the page is to be served, if it is.
pub(super) fn plan(config: &Config) -> Result<Option<WebOptions>, WebError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let plan = WebOptions::from_config(&config.web, credentials.as_deref().map(Path::new))?;
    if plan.as_ref().is_some_and(WebOptions::exposes_password) {
        warn!("the page is not encrypted: others on the network can read the password");
    }
    Ok(plan)
}

/// Starts them; they end with the camera path.
pub(super) fn start(
    plan: WebOptions,
    handle: Option<DaemonHandle>,
    live_view: Arc<LiveView>,
    more: Router,
    over: &CancellationToken,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let Some(handle) = handle else {
        warn!("there is no page: it needs a state directory");
        return Ok(());
    };
    let pause = plan.frame_interval();
    threads.start("view", {
        let (live_view, over) = (Arc::clone(&live_view), over.clone());
        move || {
            go_last();
            timer_runtime()?.block_on(web::draw(&live_view, pause, &over));
            Ok(())
        }
    })?;
    let over = over.clone();
    threads.start("web", move || {
        go_last();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(web::serve(
            WebServer::new(plan, handle, live_view, more),
            over,
        ));
        Ok(())
    })
}

fn go_last() {
    if let Err(error) = system::low() {
        warn!(%error, "the page is served at normal priority");
    }
}
