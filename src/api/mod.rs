//! How the outside reaches the daemon and hears from it: the control socket, the
//! page and its API, MQTT, and metrics.
//!
//! Owns the protocols and the types that travel over them. It starts no threads
//! of its own: `daemon` does.

pub(crate) mod file_work;
pub mod metrics;
pub mod mqtt;
pub mod socket;
pub mod web;
