//! The thread that tells a broker what the daemon does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{DaemonError, Threads, timer_runtime, wall_clock};
use crate::api::mqtt::{self, BrokerOptions, MqttContext};
use crate::api::socket::{DaemonHandle, Live};
use crate::config::Config;
use crate::learning::fleet::Key;

/// After a panic nothing is tried for so long.
const AFTER_PANIC: Duration = Duration::from_mins(1);

/// How the broker is to be reached, if it is. A daemon that cannot read a
/// password still watches its door.
fn plan(config: &Config) -> Option<BrokerOptions> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let plan =
        BrokerOptions::from_config(config, credentials.as_deref().map(Path::new), &hostname());
    let plan = plan.unwrap_or_else(|error| {
        warn!(%error, "there is no MQTT");
        None
    })?;
    if plan.exposes_password() {
        warn!("MQTT is not encrypted: others on the network can read the password");
    }
    Some(plan)
}

/// The machine's name; empty where the kernel does not say.
#[must_use]
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim().to_owned()
}

/// Starts it, if the config names a broker; it ends with the camera path, and
/// whatever happens to it happens to it alone.
pub(super) fn start(
    config: &Config,
    handle: Option<&DaemonHandle>,
    live: &Arc<watch::Sender<Live>>,
    over: &CancellationToken,
    threads: &mut Threads,
) -> Result<(), DaemonError> {
    let Some(plan) = plan(config) else {
        return Ok(());
    };
    let (live, handle, over) = (Arc::clone(live), handle.cloned(), over.clone());
    let captures = config.capture.enabled;
    let key = match handle.as_ref().filter(|_| plan.is_in_fleet()) {
        Some(handle) => Key::open(handle.learning.state())
            .map_err(|error| warn!(%error, "no heads are exchanged"))
            .ok(),
        None => None,
    };
    threads.start("mqtt", move || {
        loop {
            let house = MqttContext {
                live: live.subscribe(),
                handle: handle.clone(),
                captures,
                key: key.clone(),
            };
            let talked = catch_unwind(AssertUnwindSafe(|| talk(&plan, house, &over)));
            match talked {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    warn!(%error, "there is no MQTT");
                    return Ok(());
                }
                // Of a library that reads what a broker sends.
                Err(_) => error!("MQTT ended unexpectedly; please report this"),
            }
            timer_runtime()?.block_on(async {
                let _ = tokio::time::timeout(AFTER_PANIC, over.cancelled()).await;
            });
        }
    })
}

fn talk(
    plan: &BrokerOptions,
    house: MqttContext,
    over: &CancellationToken,
) -> Result<(), std::io::Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let seed = wall_clock()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64);
    runtime.block_on(mqtt::serve(plan, house, seed, over));
    // A name that is being looked up does not delay the end.
    runtime.shutdown_background();
    Ok(())
}
