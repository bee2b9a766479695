//! `maskd pins-off`, which switches off the pins that a killed daemon left on.

use std::path::PathBuf;

use super::global::SERVICE_RUNTIME;
use super::{Failure, Global, complain};
use crate::indicate::pins;

/// Switches off the pins that a daemon recorded as in use. If there is no record,
/// switches off the pins that the config names.
pub(super) fn pins_off(global: &Global) -> Result<(), Failure> {
    let mut is_recorded = false;
    let mut result = Ok(());
    for folder in folders(global) {
        match pins::in_use(&folder) {
            Ok(None) => {}
            Ok(Some((options, record))) => {
                is_recorded = true;
                match pins::switch_off(&options) {
                    Ok(()) => drop(record),
                    Err(error) => {
                        // The record is needed for the next attempt.
                        record.keep();
                        result = result.and(Err(error));
                    }
                }
            }
            Err(error) => complain(&format!("{error}; the pins of the config are switched off")),
        }
    }
    if !is_recorded && let Some(options) = global.load_config()?.indicate.pins(pins::is_pi()) {
        pins::switch_off(&options)?;
    }
    Ok(result?)
}

/// Returns the folders in which a daemon may have recorded its pins.
fn folders(global: &Global) -> Vec<PathBuf> {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
    let runtime = runtime.unwrap_or_else(|| SERVICE_RUNTIME.into());
    let mut folders = vec![runtime];
    folders.extend(global.state_dir());
    folders
}
