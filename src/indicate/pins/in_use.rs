//! The record of the pins that a daemon drives.
//!
//! Owns the file `pins.json` in the daemon's runtime directory. With it, `maskd pins-off`
//! can switch off what a killed daemon left on, even if the config has been changed or
//! broken meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::{PinError, PinOptions, Pins};
use crate::indicate::{Button, Levels};
use crate::platform::files::{self, FileError};

/// The file in the runtime directory.
const FILE: &str = "pins.json";
/// Maximum size of the file to read, in bytes. A few lines take a few hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The record of the pins in use. It is deleted when this value is dropped, which must
/// happen after the outputs have become inactive.
#[derive(Debug)]
pub struct PinsInUse(PathBuf);

impl PinsInUse {
    /// Records the pins in `folder`, which is made if it is missing.
    fn write(folder: &Path, options: &PinOptions) -> Result<PinsInUse, FileError> {
        let path = folder.join(FILE);
        let json = serde_json::to_vec(options)
            .map_err(|error| FileError::of("write", &path)(error.into()))?;
        files::make_folder(folder)?;
        files::write(&path, &json)?;
        Ok(PinsInUse(path))
    }
}

impl PinsInUse {
    /// Leaves the record where it is.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for PinsInUse {
    fn drop(&mut self) {
        // If the file stays, "maskd pins-off" switches off what is off already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Pins with a record, which is deleted after they have been switched off.
struct RecordedPins {
    /// Declared first, so that the outputs are inactive before the record is deleted.
    pins: Box<dyn Pins>,
    _record: PinsInUse,
}

impl Pins for RecordedPins {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        self.pins.set(levels)
    }

    fn closed(&mut self, button: Button) -> Result<bool, PinError> {
        self.pins.closed(button)
    }
}

/// Records open `pins` in the runtime directory `folder` until they are dropped. Without a
/// record, the pins can be used, too.
#[must_use]
pub fn record(pins: Box<dyn Pins>, folder: &Path, options: &PinOptions) -> Box<dyn Pins> {
    match PinsInUse::write(folder, options) {
        Ok(record) => Box::new(RecordedPins {
            pins,
            _record: record,
        }),
        Err(error) => {
            warn!(%error, "the pins in use are not recorded: \"maskd pins-off\" needs the config");
            pins
        }
    }
}

/// Returns the pins that are recorded in the runtime directory `folder`, and the record;
/// `None` if there is none.
///
/// # Errors
/// [`FileError`] if the record cannot be read or is damaged.
pub fn in_use(folder: &Path) -> Result<Option<(PinOptions, PinsInUse)>, FileError> {
    let path = folder.join(FILE);
    let json = match files::read_own(&path, MAX_BYTES) {
        Err(error) if error.is_missing() => return Ok(None),
        json => json?,
    };
    match serde_json::from_slice(&json) {
        Ok(options) => Ok(Some((options, PinsInUse(path)))),
        Err(error) => Err(FileError::of("read", &path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicate::Button;
    use crate::indicate::pins::{Line, Output, PinDriver, PinFunction};

    #[test]
    fn a_record_comes_back_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("run");
        assert!(in_use(&runtime).unwrap().is_none());
        for driver in [
            PinDriver::Rppal { tone: Some(2000.0) },
            PinDriver::Gpiocdev {
                chip: Some("gpio-sim".to_owned()),
            },
        ] {
            let output = PinFunction::Out {
                output: Output::Relay,
                active_low: true,
            };
            let options = PinOptions {
                driver,
                lines: vec![
                    (Line::Number(17), output),
                    (
                        Line::Name("GPIO4".to_owned()),
                        PinFunction::In(Button::WithMask),
                    ),
                ],
            };
            let record = PinsInUse::write(&runtime, &options).unwrap();
            // A killed daemon leaves the record behind.
            record.keep();
            let (found, record) = in_use(&runtime).unwrap().unwrap();
            assert_eq!(found, options);
            drop(record);
            assert!(in_use(&runtime).unwrap().is_none());
        }
        fs::write(runtime.join(FILE), "{").unwrap();
        let error = in_use(&runtime).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read ") && error.contains(FILE),
            "{error}"
        );
    }
}
