//! Turns classifications into one decision. Contains the verdict on each face, the
//! decision over time, the result of a frame, and the code that draws the result on a
//! picture.
//!
//! Pure, because the time is passed in as an argument.

pub mod annotate;
pub mod confirm;
pub mod decide;
pub mod frame_result;
