//! From classifications to one decision: the verdict on each face, the decision
//! over time, the result of a frame, and its drawing on a picture.
//!
//! Pure: time comes in as an argument.

pub mod annotate;
pub mod decide;
pub mod frame_result;
