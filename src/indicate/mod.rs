//! The outputs that show the decision: LEDs, a buzzer, a relay, and the console.
//!
//! This module owns the console, the pins of a board with its push buttons, and the patterns of the
//! outputs. The patterns are pure functions of the decision and the time. It also owns the state
//! machine of the door, and the weekly windows of time. The module makes no decisions and does not know what a button does.

mod button;
mod console;
mod door;
mod patterns;
pub mod pins;
mod times;

pub use button::{Button, Debouncer};
pub use console::{Console, ConsoleStyle, DecisionChange};
pub use door::{
    Circuit, ContactType, Door, DoorDecision, DoorInput, DoorOptions, DoorPosition, DoorReadings,
    DoorState, Egress, LockType, Opening, UnlockReason,
};
pub use patterns::{ButtonFeedback, LED_TEST, Levels, led_test, levels, warn_held_open};
pub use times::{Holiday, Schedule, TimeOfDay, Window, WindowState};
