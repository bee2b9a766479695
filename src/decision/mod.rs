//! Turns classifications into one decision. This module contains the verdict on each
//! face, the decision over time, the result of a frame, the verdicts on single pictures,
//! and the code that draws the result on a picture.
//!
//! This module does no I/O and reads no clock: callers pass the time as an argument.

pub mod annotate;
pub mod confirm;
pub mod decide;
pub mod frame_result;
pub mod recognizer;
