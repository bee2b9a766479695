//! The `maskd` binary; everything it does is in the library.

use std::process::ExitCode;

use maskd::platform::system::{self, Blocks};

#[global_allocator]
static ALLOCATOR: Blocks = Blocks;

fn main() -> ExitCode {
    system::one_arena();
    maskd::cli::main()
}
