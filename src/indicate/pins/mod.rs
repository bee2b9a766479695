//! The pins of a board: lamps, buzzer and relay out, push buttons in.
//!
//! Owns which line of a board is what, and the two ways to reach it: `pi` by
//! rppal, which knows Raspberry Pis alone; `chip` by the kernel's character
//! devices, which every Linux board has. Whatever way a program ends in which
//! destructors run, its outputs are inactive afterward.

mod chip;
mod pi;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Button, Levels};

/// How the pins are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// By the registers of a Raspberry Pi.
    Rppal,
    /// By the kernel's GPIO character devices.
    Gpiocdev,
    /// Not at all: the console alone shows decisions.
    Console,
}

/// A line of a GPIO chip: a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the number of a line, or its name")]
pub enum Line {
    /// By its number; on a Raspberry Pi that of the GPIO, not of the header's
    /// contact.
    Number(u32),
    /// By the name that the kernel gives it, such as `GPIO17`.
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

/// What a line switches.
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

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is switched.
    Out {
        /// What it switches.
        output: Output,
        /// Whether it is on when the line is low.
        active_low: bool,
    },
    /// It is read: a button that connects it to ground, with the line's own
    /// resistor pulling up.
    In(Button),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Use::Out { output, .. } => match output {
                Output::Green => "green",
                Output::Red => "red",
                Output::Buzzer => "buzzer",
                Output::Relay => "relay",
            },
            Use::In(Button::WithMask) => "with-mask button",
            Use::In(Button::WithoutMask) => "without-mask button",
        })
    }
}

/// Which pins there are, and how they are reached.
#[derive(Debug, Clone, PartialEq)]
pub struct PinOptions {
    /// How.
    pub by: By,
    /// Each line once, and each use once.
    pub lines: Vec<(Line, Use)>,
}

/// How pins are reached, with what that way needs to know.
#[derive(Debug, Clone, PartialEq)]
pub enum By {
    /// [`Backend::Rppal`].
    Rppal {
        /// The frequency in hertz that a passive buzzer is driven with; an
        /// active one makes its tone itself.
        tone: Option<f64>,
    },
    /// [`Backend::Gpiocdev`].
    Gpiocdev {
        /// The label of the chip; without, that of a Raspberry Pi.
        chip: Option<String>,
    },
}

/// Why pins cannot be used. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// rppal does not know the board.
    #[error(
        "this machine is no Raspberry Pi that rppal knows: \
         set indicate.backend to \"gpiocdev\" or \"console\""
    )]
    NoPi,
    /// The board has no such chip.
    #[error(
        "there is no GPIO chip labelled {}; there {} (indicate.gpio-chip)",
        wanted.join(" or "),
        there(found)
    )]
    NoChip {
        /// Labels.
        wanted: Vec<String>,
        /// The labels of those that can be opened.
        found: Vec<String>,
    },
    /// The chip has no such line.
    #[error("{chip} has no line {line} for the {purpose}")]
    NoLine {
        /// Such as "the GPIO chip pinctrl-rp1".
        chip: String,
        /// The line.
        line: Line,
        /// What it should be.
        purpose: Use,
    },
    /// Another program has it.
    #[error("line {line} for the {purpose} is in use by {by}: end that, or take another line")]
    InUse {
        /// The line.
        line: Line,
        /// What it should be.
        purpose: Use,
        /// What that program calls itself.
        by: String,
    },
    /// The user may not use GPIO.
    #[error(
        "the GPIO pins may not be used by this user ({path}): \
         add it to the group gpio, or install the package with its udev rules"
    )]
    Permission {
        /// The device.
        path: String,
    },
    /// What the system says.
    #[error("cannot {action} line {line} for the {purpose}: {why}")]
    Line {
        /// "switch", "read" and so on.
        action: &'static str,
        /// The line.
        line: Line,
        /// What it is.
        purpose: Use,
        /// The reason.
        why: String,
    },
    /// What the system says of all of them.
    #[error("cannot use the GPIO pins: {0}")]
    System(String),
}

fn there(found: &[String]) -> String {
    match found {
        [] => "is none that can be opened".to_owned(),
        [one] => format!("is {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

/// Lines that are held. Dropping them leaves the outputs inactive.
pub trait Pins: Send {
    /// Switches the outputs.
    ///
    /// # Errors
    /// [`PinError::Line`] of the first that could not be switched; the others
    /// were tried.
    fn set(&mut self, levels: Levels) -> Result<(), PinError>;

    /// Whether a button's contact is closed now; false for one that is not
    /// wired.
    ///
    /// # Errors
    /// [`PinError::Line`].
    fn closed(&mut self, button: Button) -> Result<bool, PinError>;
}

/// Takes hold of the lines; the outputs are inactive then.
///
/// # Errors
/// [`PinError`].
pub fn open(options: &PinOptions) -> Result<Box<dyn Pins>, PinError> {
    Ok(match &options.by {
        By::Rppal { tone } => Box::new(pi::Pi::open(&options.lines, *tone)?),
        By::Gpiocdev { chip } => Box::new(chip::Chip::open(chip.as_deref(), &options.lines)?),
    })
}

/// What the lines are, in words, without taking hold of them: `gpiocdev: green
/// 17 on pinctrl-bcm2711`.
///
/// # Errors
/// [`PinError`] if they are not there. One that is in use is no error: the daemon
/// may be running.
pub fn describe(options: &PinOptions) -> Result<String, PinError> {
    let (backend, lines) = match &options.by {
        By::Rppal { .. } => ("rppal", pi::describe(&options.lines)?),
        By::Gpiocdev { chip } => ("gpiocdev", chip::describe(chip.as_deref(), &options.lines)?),
    };
    Ok(format!("{backend}: {}", lines.join(", ")))
}

/// The GPIO chips of this machine, in words: label, device and lines.
#[must_use]
pub fn chips() -> Vec<String> {
    chip::all()
}

/// Whether this is a Raspberry Pi that rppal knows.
#[must_use]
pub fn is_pi() -> bool {
    rppal::system::DeviceInfo::new().is_ok()
}
