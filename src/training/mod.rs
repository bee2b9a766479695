//! Trains a head on folders of pictures. This includes the data set, augmentation,
//! the recipe, the head's training step, and the report.
//!
//! Owns the mathematics of training. It knows nothing about the samples that the
//! device captured, or about what happens after a verdict.

pub mod augment;
pub mod dataset;
pub mod recipe;
pub mod report;
pub(crate) mod run;
pub mod train;
