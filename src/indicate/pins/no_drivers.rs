//! Takes the place of `drivers` on systems other than Linux, which have no GPIO pins.

use super::{PinError, PinOptions, Pins};

/// Requests the lines on Linux.
///
/// # Errors
/// Always [`PinError::NeedsLinux`].
pub fn open(_options: &PinOptions) -> Result<Box<dyn Pins>, PinError> {
    Err(PinError::NeedsLinux)
}

/// Describes the lines on Linux.
///
/// # Errors
/// Always [`PinError::NeedsLinux`].
pub fn describe(_options: &PinOptions) -> Result<String, PinError> {
    Err(PinError::NeedsLinux)
}

/// Describes the GPIO chips in this machine. There are none.
#[must_use]
pub fn chips() -> Vec<String> {
    Vec::new()
}

/// Whether this is a Raspberry Pi.
#[must_use]
pub fn is_pi() -> bool {
    false
}
