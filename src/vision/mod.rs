//! Finds and classifies the faces in a frame with a detector, a tracker, a backbone and
//! a head.
//!
//! Owns the stages that lead from a frame to classified faces, and their order
//! ([`pipeline`]). Knows neither the config nor verdicts.

pub mod detect;
pub mod embed;
pub mod head;
pub mod motion;
pub mod pipeline;
pub mod track;
