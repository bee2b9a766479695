//! The `maskd` binary; everything it does is in the library.

use std::process::ExitCode;

use maskd::system::Blocks;

#[global_allocator]
static ALLOCATOR: Blocks = Blocks;

fn main() -> ExitCode {
    maskd::cli::main()
}
