//! The pins of a board: outputs for lamps, buzzer and relay, inputs for buttons.
//!
//! Owns the function of each line, and two drivers: `pi` uses rppal, which
//! supports only Raspberry Pis; `chip` uses the kernel's GPIO character devices,
//! which every Linux board has. When destructors run, outputs become inactive.

mod chip;
mod pi;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Button, Levels};

/// How the pins are driven, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Through the registers of a Raspberry Pi.
    Rppal,
    /// Through the kernel's GPIO character devices.
    Gpiocdev,
    /// Not at all: only the console shows decisions.
    Console,
}

/// A line of a GPIO chip, that is, a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the number of a line, or its name")]
pub enum Line {
    /// Its number; on a Raspberry Pi the GPIO number, not that of the pin on the
    /// header.
    Number(u32),
    /// Its name in the kernel, such as `GPIO17`.
    Name(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Line::Number(number) => write!(f, "{number}"),
            Line::Name(name) => f.write_str(name),
        }
    }
}

/// What an output line switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Green lamp.
    Green,
    /// Red lamp.
    Red,
    /// Buzzer.
    Buzzer,
    /// Relay of a door.
    Relay,
}

impl Output {
    fn level(self, levels: Levels) -> bool {
        match self {
            Output::Green => levels.green,
            Output::Red => levels.red,
            Output::Buzzer => levels.buzzer,
            Output::Relay => levels.relay.unwrap_or(false),
        }
    }
}

/// The function of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinFunction {
    /// An output.
    Out {
        /// What it switches.
        output: Output,
        /// Whether the output is on while the line is low.
        active_low: bool,
    },
    /// An input with pull-up, for a button that connects it to ground.
    In(Button),
}

impl fmt::Display for PinFunction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            PinFunction::Out { output, .. } => match output {
                Output::Green => "green",
                Output::Red => "red",
                Output::Buzzer => "buzzer",
                Output::Relay => "relay",
            },
            PinFunction::In(Button::WithMask) => "with-mask button",
            PinFunction::In(Button::WithoutMask) => "without-mask button",
        })
    }
}

/// Which pins to use, and how to drive them.
#[derive(Debug, Clone, PartialEq)]
pub struct PinOptions {
    /// The driver and its options.
    pub driver: PinDriver,
    /// No line and no function occurs twice.
    pub lines: Vec<(Line, PinFunction)>,
}

/// A driver with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum PinDriver {
    /// [`Backend::Rppal`].
    Rppal {
        /// Frequency for a passive buzzer in hertz; `None` for an active one,
        /// which produces its own tone.
        tone: Option<f64>,
    },
    /// [`Backend::Gpiocdev`].
    Gpiocdev {
        /// The chip's label; `None` for the header of a Raspberry Pi.
        chip: Option<String>,
    },
}

/// Why the pins cannot be used. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// rppal does not support the board.
    #[error(
        "this machine is not a Raspberry Pi that rppal supports: \
         set indicate.backend to \"gpiocdev\" or \"console\""
    )]
    NoPi,
    /// The board has no chip with the label.
    #[error(
        "there is no GPIO chip labelled {}; {}: check indicate.gpio-chip",
        wanted.join(" or "),
        chips_found(found)
    )]
    NoChip {
        /// The labels that were looked for.
        wanted: Vec<String>,
        /// The labels of the chips that can be opened.
        found: Vec<String>,
    },
    /// The chip has no such line.
    #[error("{chip} has no line {line} for the {function}: check its number or name in [indicate]")]
    NoLine {
        /// For example "the GPIO chip pinctrl-rp1".
        chip: String,
        /// The line.
        line: Line,
        /// What it should be.
        function: PinFunction,
    },
    /// Another program uses the line.
    #[error(
        "line {line} for the {function} is in use by {by}: stop that program, or choose another line"
    )]
    InUse {
        /// The line.
        line: Line,
        /// What it should be.
        function: PinFunction,
        /// The name under which that program requested it.
        by: String,
    },
    /// The user may not use GPIO.
    #[error(
        "this user may not use the GPIO pins ({path}): \
         add the user to the group gpio, or install the package with its udev rules"
    )]
    Permission {
        /// The device.
        path: String,
    },
    /// The system refused an operation on a line.
    #[error("cannot {action} line {line} for the {function}: {why}")]
    Line {
        /// "request", "switch" or "read".
        action: &'static str,
        /// The line.
        line: Line,
        /// What it is.
        function: PinFunction,
        /// The system's error.
        why: String,
    },
    /// The system refused access to all of them.
    #[error("cannot use the GPIO pins: {0}")]
    System(String),
}

fn chips_found(found: &[String]) -> String {
    match found {
        [] => "none can be opened".to_owned(),
        [one] => format!("this machine has {one}"),
        many => format!("this machine has {}", many.join(", ")),
    }
}

/// Requested lines. Dropping them makes the outputs inactive.
pub trait Pins: Send {
    /// Switches the outputs.
    ///
    /// # Errors
    /// [`PinError::Line`] of the first line that could not be switched; the others
    /// are tried as well.
    fn set(&mut self, levels: Levels) -> Result<(), PinError>;

    /// Whether a button's contact is closed now; false for a button without a line.
    ///
    /// # Errors
    /// [`PinError::Line`] if the line cannot be read.
    fn closed(&mut self, button: Button) -> Result<bool, PinError>;
}

/// Requests the lines; the outputs are inactive at first.
///
/// # Errors
/// [`PinError`] if a line does not exist, is in use or may not be used.
pub fn open(options: &PinOptions) -> Result<Box<dyn Pins>, PinError> {
    Ok(match &options.driver {
        PinDriver::Rppal { tone } => Box::new(pi::RppalPins::open(&options.lines, *tone)?),
        PinDriver::Gpiocdev { chip } => {
            Box::new(chip::GpiochipPins::open(chip.as_deref(), &options.lines)?)
        }
    })
}

/// Describes the lines without requesting them: `gpiocdev: green 17 on
/// pinctrl-bcm2711`.
///
/// # Errors
/// [`PinError`] if a line does not exist. A line in use is not an error: the daemon
/// may be running.
pub fn describe(options: &PinOptions) -> Result<String, PinError> {
    let (backend, lines) = match &options.driver {
        PinDriver::Rppal { .. } => ("rppal", pi::describe(&options.lines)?),
        PinDriver::Gpiocdev { chip } => {
            ("gpiocdev", chip::describe(chip.as_deref(), &options.lines)?)
        }
    };
    Ok(format!("{backend}: {}", lines.join(", ")))
}

/// Describes the GPIO chips of this machine: label, device and number of lines.
#[must_use]
pub fn chips() -> Vec<String> {
    chip::all()
}

/// Whether this is a Raspberry Pi that rppal supports.
#[must_use]
pub fn is_pi() -> bool {
    rppal::system::DeviceInfo::new().is_ok()
}
