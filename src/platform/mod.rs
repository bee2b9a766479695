//! Access to the operating system and the board: atomic file writes, system calls,
//! clocks, programs, addresses, temperature, and supply voltage. This module also encodes bytes as hexadecimal
//! digits, makes untrusted text safe to display, and gives sentences a machine-readable form.
//!
//! This module owns all `unsafe` code (in [`system`]). It knows nothing about the rest of
//! the program.

pub(crate) mod backoff;
pub mod board;
pub mod clock;
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod faults;
pub mod files;
pub mod hex;
pub(crate) mod network;
pub mod programs;
pub mod system;
pub mod text;
pub mod text_code;
