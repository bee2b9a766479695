//! The counterparts of the functions in `linux.rs` for systems other than Linux. What only
//! saves memory or time does nothing here. Everything else reports that it needs Linux.

use std::io;

fn needs_linux() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this needs Linux")
}

/// On Linux, gives the calling thread the lowest priority.
///
/// # Errors
/// Always, because only Linux has this priority.
pub fn idle() -> io::Result<()> {
    Err(needs_linux())
}

/// On Linux, lowers the priority of the calling thread. On other systems, this would lower
/// the priority of all threads.
///
/// # Errors
/// Always, because only Linux has a priority for each thread.
pub fn low() -> io::Result<()> {
    Err(needs_linux())
}

/// On Linux, asks whether the wall clock is synchronized.
///
/// # Errors
/// Always, because only Linux can be asked.
pub fn is_clock_synchronized() -> io::Result<bool> {
    Err(needs_linux())
}

/// On Linux, requests that the kernel pass orphaned descendants to this process.
///
/// # Errors
/// Always, because only Linux can do this.
pub fn adopt_orphans() -> io::Result<()> {
    Err(needs_linux())
}

/// Whether the kernel passes orphaned descendants to this process.
#[must_use]
pub fn adopts_orphans() -> bool {
    false
}

/// On Linux, frees the memory that holds `bytes`.
pub fn release_file_pages(_bytes: &'static [u8]) {}
