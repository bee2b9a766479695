//! The MQTT thread.
//!
//! This module reads the credentials for the broker, starts the thread that connects
//! to it, and reconnects after a panic. `api::mqtt` handles the messages.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::threads::{Threads, timer_runtime};
use super::{DaemonError, Shared, wall_clock};
use crate::api::mqtt::{self, BrokerOptions, Machine, MqttContext};
use crate::api::socket::DaemonHandle;
use crate::config::Config;
use crate::platform::files;

/// How long to wait after a panic before connecting again.
const WAIT_AFTER_PANIC: Duration = Duration::from_mins(1);

/// Returns the options for the connection to the broker. Returns `None` if the config
/// names no broker, or if the options are unusable, because a daemon that cannot read
/// the password still watches its door.
fn broker_options(config: &Config) -> Option<BrokerOptions> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let options =
        BrokerOptions::from_config(config, credentials.as_deref().map(Path::new), &machine());
    let options = options.unwrap_or_else(|error| {
        warn!(%error, "MQTT is not available");
        None
    })?;
    if options.exposes_password() {
        warn!("MQTT is not encrypted: others on the network can read the password");
    }
    Some(options)
}

/// Returns the names of the machine. What cannot be read is empty.
#[must_use]
pub fn machine() -> Machine {
    let read = |path: &str| {
        let text = files::read_text(Path::new(path), files::MAX_PROC_BYTES);
        text.unwrap_or_default()
    };
    Machine::new(
        &read("/proc/sys/kernel/hostname"),
        &read("/etc/machine-id"),
        &read("/sys/firmware/devicetree/base/serial-number"),
    )
}

/// Starts the MQTT thread if the config names a broker. The thread ends when the
/// inference thread ends, and its failures do not affect the other threads.
pub(super) fn start(
    config: &Config,
    handle: Option<&DaemonHandle>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let Some(options) = broker_options(config) else {
        return Ok(());
    };
    let (live, stop) = (Arc::clone(&shared.live), shared.inference_ended.clone());
    let handle = handle.cloned();
    let captures = config.capture.enabled;
    threads.start("mqtt", move || {
        loop {
            let context = MqttContext {
                live: live.subscribe(),
                handle: handle.clone(),
                captures,
            };
            let served = catch_unwind(AssertUnwindSafe(|| serve(&options, context, &stop)));
            match served {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    warn!(%error, "MQTT is not available");
                    return Ok(());
                }
                // A library that parses the broker's messages may panic.
                Err(_) => error!("MQTT ended unexpectedly; please report this"),
            }
            timer_runtime()?.block_on(async {
                let _ = tokio::time::timeout(WAIT_AFTER_PANIC, stop.cancelled()).await;
            });
        }
    })
}

fn serve(
    options: &BrokerOptions,
    context: MqttContext,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let seed = wall_clock()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64);
    runtime.block_on(mqtt::serve(options, context, seed, stop));
    // A name lookup in progress must not delay the stop.
    runtime.shutdown_background();
    Ok(())
}
