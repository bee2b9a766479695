//! The operating system and the board: whole files, system calls, temperature
//! and supply voltage; and hexadecimal digits, which everything above prints.
//!
//! Owns all `unsafe` code (in [`system`]). It knows nothing else of the program.

pub mod board;
pub mod files;
pub mod hex;
pub mod system;
