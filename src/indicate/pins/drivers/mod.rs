//! The two drivers for the pins, which need Linux. The driver `pi` uses rppal, which supports
//! only Raspberry Pis. The driver `chip` uses the kernel's GPIO character devices, which every
//! Linux board has. `no_drivers.rs` has the same functions for other systems.

mod chip;
mod lock;
mod pi;

use super::{Input, Levels, Line, Output, PinDriver, PinError, PinFunction, PinOptions, Pins};

/// Pins that no other maskd can drive at the same time.
struct LockedPins {
    /// This field is declared first and therefore dropped first, so that the outputs become
    /// inactive before the locks are released.
    pins: Box<dyn Pins>,
    _locks: Vec<lock::LineLock>,
}

impl Pins for LockedPins {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        self.pins.set(levels)
    }

    fn closed(&mut self, input: Input) -> Result<bool, PinError> {
        self.pins.closed(input)
    }
}

/// Requests the lines. The outputs are initially inactive.
///
/// # Errors
/// [`PinError`] if a line does not exist or is in use, for example by another maskd, or
/// if the user lacks permission.
pub fn open(options: &PinOptions) -> Result<Box<dyn Pins>, PinError> {
    // The kernel keeps two programs from using the same line only if both request the line from the
    // kernel. rppal does not request lines from the kernel.
    let locks = lock::lock(options)?;
    let pins: Box<dyn Pins> = match &options.driver {
        PinDriver::Rppal { tone } => Box::new(pi::RppalPins::open(&options.lines, *tone)?),
        PinDriver::Gpiocdev { chip } => {
            Box::new(chip::GpiochipPins::open(chip.as_deref(), &options.lines)?)
        }
    };
    Ok(Box::new(LockedPins {
        pins,
        _locks: locks,
    }))
}

/// Describes the lines without requesting them, for example `gpiocdev: green 17 on
/// pinctrl-bcm2711`.
///
/// # Errors
/// [`PinError`] if a line does not exist. A line in use is not an error, because the
/// daemon may be running.
pub fn describe(options: &PinOptions) -> Result<String, PinError> {
    let (backend, lines) = match &options.driver {
        PinDriver::Rppal { .. } => ("rppal", pi::describe(&options.lines)?),
        PinDriver::Gpiocdev { chip } => {
            ("gpiocdev", chip::describe(chip.as_deref(), &options.lines)?)
        }
    };
    Ok(format!("{backend}: {}", lines.join(", ")))
}

/// Describes the GPIO chips in this machine by label, device, and number of lines.
#[must_use]
pub fn chips() -> Vec<String> {
    chip::all()
}

/// Whether this is a Raspberry Pi that rppal supports.
#[must_use]
pub fn is_pi() -> bool {
    rppal::system::DeviceInfo::new().is_ok()
}
