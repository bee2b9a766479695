//! The daemon's interfaces to other programs and users: the control socket, the page and
//! its API, MQTT, and metrics.
//!
//! Owns the protocols and the types of the requests and responses. This module starts no
//! threads; the module `daemon` starts them.

mod connections;
mod file_work;
pub mod metrics;
pub mod mqtt;
pub mod problems;
pub mod socket;
pub mod web;

/// Maximum number of blocking threads that the control socket needs in its runtime. The
/// page needs the same number.
pub(crate) const BLOCKING_THREADS: usize = file_work::THREADS;
