//! From classifications to one decision: verdict per face, decision per frame, the
//! record of what a frame showed, and how that is drawn on a picture.
//!
//! Owns no clock and no I/O: time comes in as an argument.

pub mod annotate;
pub mod decide;
pub mod frame_result;
