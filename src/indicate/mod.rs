//! The outputs that show the decision: lamps, a buzzer, a relay, and the console.
//!
//! This module owns the console, the pins of a board with its push buttons, and the patterns of the
//! outputs. The patterns are pure functions of the decision and the time. The module makes no
//! decisions and does not know what a button does.

mod button;
mod console;
mod door;
mod patterns;
pub mod pins;
mod quiet_hours;

pub use button::{Button, Debouncer};
pub use console::{Console, ConsoleStyle, DecisionChange};
pub use door::{Door, LockType};
pub use patterns::{ButtonFeedback, Levels, levels};
pub use quiet_hours::{QuietHours, TimeOfDay};
