//! Keeps two daemons from driving the same pins.
//!
//! Each line has one byte in the device file of its GPIO chip, and the daemon locks this
//! byte. The kernel releases the lock when the daemon ends for any reason. The lock does
//! not depend on the driver, on the user, or on a directory.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Line, PinDriver, PinError, PinFunction, PinOptions, chip};
use crate::platform::system;

/// Devices that control a Raspberry Pi's pins. If the user may not open the GPIO chip, the lock is
/// taken on one of these devices instead.
const PI_DEVICES: [&str; 2] = ["/dev/gpiomem", "/dev/gpiomem0"];

/// The lock on a line. Dropping this value releases the lock.
#[derive(Debug)]
pub(super) struct LineLock {
    _device: File,
}

/// A line, its device, and its offset on the device.
struct LockedLine<'a> {
    device: PathBuf,
    offset: u32,
    line: &'a Line,
    function: PinFunction,
}

/// Locks the lines. A line that does not exist is not locked, because opening it later
/// fails with a better message.
///
/// # Errors
/// [`PinError::InUse`] if another maskd has locked a line.
pub(super) fn lock(options: &PinOptions) -> Result<Vec<LineLock>, PinError> {
    let mut locks = Vec::new();
    for (line, function) in &options.lines {
        let found = match &options.driver {
            PinDriver::Gpiocdev { chip } => chip::place(chip.as_deref(), line, *function),
            PinDriver::Rppal { .. } => {
                chip::place(None, line, *function).or_else(|| pi_place(line))
            }
        };
        if let Some((device, offset)) = found {
            let line = LockedLine {
                device,
                offset,
                line,
                function: *function,
            };
            locks.extend(line.lock()?);
        }
    }
    Ok(locks)
}

fn pi_place(line: &Line) -> Option<(PathBuf, u32)> {
    let Line::Number(number) = line else {
        return None;
    };
    let mut devices = PI_DEVICES.iter().map(Path::new);
    let device = devices.find(|device| device.exists())?;
    Some((device.to_owned(), *number))
}

impl LockedLine<'_> {
    /// Locks the line. Returns `None` if the device cannot be opened or locked, because
    /// the driver reports such errors.
    fn lock(&self) -> Result<Option<LineLock>, PinError> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.device);
        let Ok(device) = opened else {
            return Ok(None);
        };
        match system::lock_byte(&device, self.offset) {
            Ok(()) => Ok(Some(LineLock { _device: device })),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(PinError::InUse {
                line: self.line.clone(),
                function: self.function,
                by: "another maskd".to_owned(),
            }),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicate::pins::Output;

    #[test]
    fn a_line_is_locked_once_and_other_lines_stay_free() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("gpiochip0");
        std::fs::write(&device, "").unwrap();
        let lock = |number: u32| {
            let function = PinFunction::Out {
                output: Output::Relay,
                active_low: false,
            };
            let line = LockedLine {
                device: device.clone(),
                offset: number,
                line: &Line::Number(number),
                function,
            };
            line.lock()
        };
        let held = lock(17).unwrap().unwrap();
        let refused = lock(17).unwrap_err().to_string();
        assert!(
            refused.starts_with("line 17 for the relay is in use by another maskd"),
            "{refused}"
        );
        assert!(lock(27).unwrap().is_some());
        drop(held);
        assert!(lock(17).unwrap().is_some());
    }
}
