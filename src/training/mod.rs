//! Trains a head on folders of pictures. The submodules provide the data set, the
//! augmentation, the recipe, the training step of the head, and the report.
//!
//! This module owns the mathematics of training. It knows nothing about the samples that
//! a device captures, or about what happens after a verdict.

pub mod augment;
pub mod dataset;
pub mod recipe;
pub mod report;
pub(crate) mod run;
pub mod train;
