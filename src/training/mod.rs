//! Training a head from folders of pictures: data set, augmentation, recipe,
//! the head's training step, and the report.
//!
//! Owns the mathematics of training. It knows neither the samples that the
//! device captured nor what is decided from a verdict.

pub mod augment;
pub mod dataset;
pub mod recipe;
pub mod report;
pub(crate) mod run;
pub mod train;
