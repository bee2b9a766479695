//! From a frame to classified faces: detector, tracker, backbone and head.
//!
//! Owns the stages of the frame-to-verdict path and their order ([`pipeline`]).
//! Knows neither the config nor verdicts.

pub mod detect;
pub mod embed;
pub mod head;
pub mod motion;
pub mod pipeline;
pub mod track;
