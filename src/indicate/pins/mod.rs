//! The pins of a board: outputs for the LEDs, the buzzer, and the relay, and inputs for
//! the buttons and the door.
//!
//! This module owns the function of each line. The module `drivers` requests the lines from
//! the system and needs Linux. When a driver is dropped, the outputs become inactive.

#[cfg(target_os = "linux")]
mod drivers;
#[cfg(not(target_os = "linux"))]
#[path = "no_drivers.rs"]
mod drivers;
mod in_use;

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Button, DoorInput, Levels};

pub use drivers::{chips, describe, is_pi, open};
pub use in_use::{PinsInUse, in_use};

/// The configured way to drive the pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The pins are driven through the registers of a Raspberry Pi.
    Rppal,
    /// The pins are driven through the kernel's GPIO character devices.
    Gpiocdev,
    /// No pins are driven; only the console shows decisions.
    Console,
}

/// A line on a GPIO chip, that is, a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the number of a line, or its name")]
pub enum Line {
    /// The number of the line. On a Raspberry Pi, this is the GPIO number, not the number
    /// of the pin on the header.
    Number(u32),
    /// The kernel's name for the line, such as `GPIO17`.
    Name(String),
}

impl FromStr for Line {
    type Err = Infallible;

    /// Reads a number, or otherwise a name.
    fn from_str(text: &str) -> Result<Line, Infallible> {
        let number = text.parse().map(Line::Number);
        Ok(number.unwrap_or_else(|_| Line::Name(text.to_owned())))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Line::Number(number) => write!(f, "{number}"),
            Line::Name(name) => f.write_str(name),
        }
    }
}

/// The device that an output line switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Green LED.
    Green,
    /// Red LED.
    Red,
    /// Buzzer.
    Buzzer,
    /// Relay for a door.
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

/// The contact that an input line reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// A button that labels the face in front of the camera.
    Button(Button),
    /// An input of the door.
    Door(DoorInput),
}

/// The function of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinFunction {
    /// An output that switches a device.
    Out {
        /// The device that the line switches.
        output: Output,
        /// Whether the output is on while the line is low.
        active_low: bool,
    },
    /// An input with a pull-up resistor, for a contact that connects the line to ground.
    In(Input),
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
            PinFunction::In(input) => return input.fmt(f),
        })
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Input::Button(Button::WithMask) => "with-mask button",
            Input::Button(Button::WithoutMask) => "without-mask button",
            Input::Door(DoorInput::Contact) => "door contact",
            Input::Door(DoorInput::ExitButton) => "exit button",
            Input::Door(DoorInput::Release) => "release line",
        })
    }
}

/// The pins to use, and the driver for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinOptions {
    /// The driver and its options.
    pub driver: PinDriver,
    /// The lines and their functions. No line and no function occurs twice.
    pub lines: Vec<(Line, PinFunction)>,
}

/// A driver with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinDriver {
    /// The driver for [`Backend::Rppal`].
    Rppal {
        /// Frequency in hertz of the tone for a passive buzzer, or `None` for an active buzzer,
        /// which produces its own tone.
        tone: Option<f64>,
    },
    /// The driver for [`Backend::Gpiocdev`].
    Gpiocdev {
        /// The chip's label, or `None` for the header of a Raspberry Pi.
        chip: Option<String>,
    },
}

/// The reason the pins cannot be used. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The system is not Linux.
    #[error("GPIO pins need Linux: set indicate.backend to \"console\"")]
    NeedsLinux,
    /// rppal does not support the board.
    #[error(
        "this machine is not a Raspberry Pi that rppal supports: \
         set indicate.backend to \"gpiocdev\" or \"console\""
    )]
    NoPi,
    /// The board has no chip with any of the wanted labels.
    #[error(
        "there is no GPIO chip labeled {}; {}: check indicate.gpio-chip",
        wanted.join(" or "),
        chips_found(found)
    )]
    NoChip {
        /// The labels that were searched for.
        wanted: Vec<String>,
        /// The labels of the chips that can be opened.
        found: Vec<String>,
    },
    /// The chip has no such line.
    #[error("{chip} has no line {line} for the {function}: check its number or name in [indicate]")]
    NoLine {
        /// Description of the chip, for example "the GPIO chip pinctrl-rp1".
        chip: String,
        /// The line's number or name.
        line: Line,
        /// The configured function of the line.
        function: PinFunction,
    },
    /// Another program uses the line.
    #[error(
        "line {line} for the {function} is in use by {by}: stop that program, or choose another line"
    )]
    InUse {
        /// The line's number or name.
        line: Line,
        /// The configured function of the line.
        function: PinFunction,
        /// The name under which the other program requested the line.
        by: String,
    },
    /// The user does not have permission to use GPIO.
    #[error(
        "this user may not use the GPIO pins ({path}): \
         add the user to the group gpio, or install the package with its udev rules"
    )]
    Permission {
        /// Path of the device.
        path: String,
    },
    /// The system refused an operation on a line.
    #[error("cannot {action} line {line} for the {function}: {why}")]
    Line {
        /// The operation: "request", "switch", or "read".
        action: &'static str,
        /// The line's number or name.
        line: Line,
        /// The function of the line.
        function: PinFunction,
        /// The system's error message.
        why: String,
    },
    /// The system refused access to all GPIO pins.
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

/// Pins that were requested from the system. When they are dropped, the outputs become
/// inactive.
pub trait Pins: Send {
    /// Switches the outputs.
    ///
    /// # Errors
    /// [`PinError::Line`] for the first line that could not be switched. The other lines
    /// are switched anyway.
    fn set(&mut self, levels: Levels) -> Result<(), PinError>;

    /// Whether the contact of an input is closed now. Returns false for an input without a line.
    ///
    /// # Errors
    /// [`PinError::Line`] if the line cannot be read.
    fn closed(&mut self, input: Input) -> Result<bool, PinError>;
}

/// Switches off each output separately, so that a failure of one output does not leave
/// the others on. Inputs are not affected.
///
/// # Errors
/// The first [`PinError`] that occurs.
pub fn switch_off(options: &PinOptions) -> Result<(), PinError> {
    let outputs = options.lines.iter();
    let outputs = outputs.filter(|(_, function)| matches!(function, PinFunction::Out { .. }));
    let mut result = Ok(());
    for line in outputs {
        let options = PinOptions {
            driver: options.driver.clone(),
            lines: vec![line.clone()],
        };
        // The pins are switched off both when they are opened and when they are dropped.
        result = result.and(open(&options).map(drop));
    }
    result
}
