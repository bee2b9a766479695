//! The `maskd` binary, a thin wrapper around the library.

use std::process::ExitCode;

use maskd::platform::system::{self, AlignedAllocator};

#[global_allocator]
static ALLOCATOR: AlignedAllocator = AlignedAllocator;

fn main() -> ExitCode {
    system::use_one_arena();
    maskd::cli::main()
}
