//! Finds and classifies the faces in a frame with a detector, a tracker, a backbone, and
//! a head.
//!
//! This module owns the stages that lead from a frame to classified faces, and their
//! order ([`pipeline`]). It knows nothing about the configuration or verdicts.

pub mod detect;
pub mod embed;
pub mod face_check;
pub mod head;
pub mod motion;
pub mod pipeline;
pub mod refused;
pub mod track;
