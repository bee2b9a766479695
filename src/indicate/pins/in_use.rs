//! The record of the pins that a daemon drives.
//!
//! This module owns the file `pins.json` in the daemon's runtime directory. With this
//! file, `maskd pins-off` can switch off the outputs that a killed daemon left on, even
//! if the config has since been changed or damaged.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Input, PinError, PinOptions, Pins};
use crate::indicate::Levels;
use crate::platform::files::{self, FileError};

/// Name of the file in the runtime directory.
const FILE: &str = "pins.json";
/// Maximum size of the file, in bytes. The record of a few lines takes a few hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The record of the pins in use. Dropping this value deletes the record, so this value must be
/// dropped only after the outputs have become inactive.
#[derive(Debug)]
pub struct PinsInUse(PathBuf);

impl PinsInUse {
    /// Records the pins in the runtime directory `folder`, which is created if it is
    /// missing.
    ///
    /// # Errors
    /// [`FileError`] if the record cannot be written.
    pub fn write(folder: &Path, options: &PinOptions) -> Result<PinsInUse, FileError> {
        let path = folder.join(FILE);
        let json = serde_json::to_vec(options)
            .map_err(|error| FileError::of("write", &path)(error.into()))?;
        files::make_folder(folder)?;
        files::write(&path, &json)?;
        Ok(PinsInUse(path))
    }
}

impl PinsInUse {
    /// Wraps `pins` so that dropping them also deletes the record.
    #[must_use]
    pub fn until_dropped(self, pins: Box<dyn Pins>) -> Box<dyn Pins> {
        Box::new(RecordedPins {
            pins,
            _record: self,
        })
    }

    /// Leaves the record in place instead of deleting it.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for PinsInUse {
    fn drop(&mut self) {
        // An error is harmless, because "maskd pins-off" would only switch off outputs
        // that are already off.
        let _ = fs::remove_file(&self.0);
    }
}

/// Pins with a record. The record is deleted after the pins have been switched off.
struct RecordedPins {
    /// This field is declared first and therefore dropped first, so that the outputs become
    /// inactive before the record is deleted.
    pins: Box<dyn Pins>,
    _record: PinsInUse,
}

impl Pins for RecordedPins {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        self.pins.set(levels)
    }

    fn closed(&mut self, input: Input) -> Result<bool, PinError> {
        self.pins.closed(input)
    }
}

/// Returns the pins that are recorded in the runtime directory `folder`, and the record
/// itself. Returns `None` if there is no record.
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
    use crate::indicate::pins::{Line, Output, PinDriver, PinFunction};
    use crate::indicate::{Button, DoorInput};

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
                        PinFunction::In(Input::Button(Button::WithMask)),
                    ),
                    (
                        Line::Number(13),
                        PinFunction::In(Input::Door(DoorInput::Release)),
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
