//! The daemon's interfaces to other programs and users: the control socket, the page and
//! its API, MQTT, and metrics.
//!
//! Owns the protocols and the types that travel over them. This module starts no
//! threads; `daemon` does.

pub(crate) mod file_work;
pub mod metrics;
pub mod mqtt;
pub mod socket;
pub mod web;
