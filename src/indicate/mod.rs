//! The outputs that show the decision: lamps, a buzzer, a relay and the console.
//!
//! Owns the patterns of the outputs, which are pure functions of the decision and the
//! time, as well as the console, and the pins of a board with its push buttons. Makes no
//! decisions, and does not know what a button does.

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
