//! The operating system and the board: whole files, system calls, temperature
//! and supply voltage.
//!
//! Owns all `unsafe` code (in [`system`]). It knows nothing else of the program.

pub mod board;
pub mod files;
pub mod system;
