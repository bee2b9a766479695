//! The MQTT thread.
//!
//! This module starts the thread that connects to the broker. The thread keeps trying to
//! read the broker's credentials until it succeeds, and it reconnects after a panic. `api::mqtt`
//! handles the messages.

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
use crate::api::problems::{Problems, Topic};
use crate::api::socket::DaemonHandle;
use crate::config::Config;
use crate::platform::files;

/// How long to wait after a failure before connecting again.
const WAIT_AFTER_FAILURE: Duration = Duration::from_mins(1);
/// Wait before the first retry of reading the files that the broker options name. Each further wait
/// is twice as long as the one before.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Maximum wait between two attempts to read the files that the broker options name.
const MAX_RETRY: Duration = Duration::from_mins(1);

/// Reads the options for the connection to the broker. If a file cannot be used, for example
/// because its disk is mounted late, this function reports the problem and retries. Returns
/// `None` if the config names no broker, or if `stop` is triggered.
fn broker_options(
    config: &Config,
    problems: &Problems,
    stop: &CancellationToken,
) -> std::io::Result<Option<BrokerOptions>> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let credentials = credentials.as_deref().map(Path::new);
    let runtime = timer_runtime()?;
    let mut wait = FIRST_RETRY;
    while !stop.is_cancelled() {
        match BrokerOptions::from_config(config, credentials, &machine()) {
            Ok(options) => {
                problems.set(Topic::Mqtt, None);
                if options
                    .as_ref()
                    .is_some_and(BrokerOptions::exposes_password)
                {
                    warn!("MQTT is not encrypted: others on the network can read the password");
                }
                return Ok(options);
            }
            Err(error) => {
                let problem = format!("MQTT is not available: {error}; it is tried again");
                problems.set(Topic::Mqtt, Some(problem));
            }
        }
        runtime.block_on(async {
            let _ = tokio::time::timeout(wait, stop.cancelled()).await;
        });
        wait = (2 * wait).min(MAX_RETRY);
    }
    Ok(None)
}

/// Returns the host name, the machine ID, and the serial number of this machine. A value that
/// cannot be read is empty.
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

/// Starts the MQTT thread if the config names a broker. The thread ends when the inference thread
/// ends. Failures of the MQTT thread do not affect the other threads.
pub(super) fn start(
    config: &Config,
    handle: Option<&DaemonHandle>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    if config.mqtt.host.is_none() {
        return Ok(());
    }
    let (config, problems) = (config.clone(), shared.problems.clone());
    let (live, stop) = (Arc::clone(&shared.live), shared.inference_ended.clone());
    let handle = handle.cloned();
    let captures = config.capture.enabled;
    let events = shared.events.clone();
    threads.start("mqtt", move || {
        // The MQTT thread reads the files itself, because their disk may hang.
        let Some(options) = broker_options(&config, &problems, &stop)? else {
            return Ok(());
        };
        loop {
            let context = MqttContext {
                live: live.subscribe(),
                handle: handle.clone(),
                captures,
                events: events.clone(),
            };
            let served = catch_unwind(AssertUnwindSafe(|| serve(&options, context, &stop)));
            match served {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => warn!(%error, "MQTT is not available; it is tried again"),
                // A library that parses the broker's messages may panic.
                Err(_) => error!("MQTT ended unexpectedly; please report this"),
            }
            timer_runtime()?.block_on(async {
                let _ = tokio::time::timeout(WAIT_AFTER_FAILURE, stop.cancelled()).await;
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
    // A pending name lookup must not delay the shutdown.
    runtime.shutdown_background();
    Ok(())
}
