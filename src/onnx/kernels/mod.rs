//! Which of tract's kernels multiplies two matrices, where another one takes less than
//! the one that tract would choose. tract asks each of its tiers in order; here is one
//! more for each kind of processor.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "tract gives its instruction sets by reference"
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
