//! The functions that need Linux. `other.rs` has their counterparts for other systems.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::platform::files;

/// `IOPRIO_WHO_PROCESS` in `linux/ioprio.h`, which selects a single process or thread.
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT` in `linux/ioprio.h`, which grants disk access
/// only when no other thread or process needs the disk.
const IDLE_IO: libc::c_int = 3 << 13;

/// Sets the calling thread, and the threads that it will start, to `SCHED_IDLE` and idle
/// I/O priority. The thread then runs only when no other thread needs a core, and reads
/// and writes only when no other thread or process needs the disk.
///
/// Without privileges, a thread cannot undo this change, so a thread of a pool must not
/// call this function.
///
/// # Errors
/// The error from the system, for example if a container forbids the call. The thread
/// then keeps its priority.
pub fn idle() -> io::Result<()> {
    // SAFETY: an all-zero `sched_param` is valid, and 0 is the priority that SCHED_IDLE
    // requires (sched(7)).
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 stands for the calling thread; `param` outlives the call, which only
    // reads it.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) }.into())?;
    // SAFETY: `ioprio_set` takes three integers and does not access our memory.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE_IO) })
}

/// Sets the niceness of the calling thread, and of the threads that it will start, to
/// 15. While all cores are busy, the thread gets a few percent of one core, and the disk
/// serves other threads first.
///
/// This is meant for a thread that shares locks with the camera path. An [`idle`] thread
/// could hold a lock for as long as other threads keep the cores busy.
///
/// # Errors
/// The error from the system. The thread then keeps its priority.
pub fn low() -> io::Result<()> {
    // On Linux, each thread has its own priority, and `None` selects the calling thread.
    rustix::process::setpriority_process(None, 15).map_err(io::Error::from)
}

/// If the kernel's bound on the error of a clock is at least this value, in
/// microseconds, the clock is not synchronized. The kernel sets the bound to this value
/// when the clock is set by hand, and raises it to this value when the time service has
/// been silent for hours.
const UNSYNCHRONIZED_US: libc::c_long = 16_000_000;

/// Whether the kernel considers the wall clock synchronized, which means that a time
/// service keeps the bound on the clock's error below 16 seconds. systemd uses the same
/// rule.
///
/// # Errors
/// The error from the system, for example if a sandbox forbids the call.
pub fn is_clock_synchronized() -> io::Result<bool> {
    // SAFETY: an all-zero `timex` is valid. The value 0 for `modes` requests a reading
    // and changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // The C library's adjtimex(3) makes the system call `clock_adjtime`. This code calls
    // `adjtimex` directly, so that the systemd unit has to allow only this one call.
    // SAFETY: `timex` is writable, has the layout that the kernel expects, and outlives
    // the call.
    let state = unsafe { libc::syscall(libc::SYS_adjtimex, &raw mut timex) };
    check(state)?;
    Ok(timex.maxerror < UNSYNCHRONIZED_US)
}

/// Locks one byte of a file that is open for writing, until the file is closed. Neither
/// another process nor another open file of this process can lock the same byte.
///
/// # Errors
/// The error from the system. Its kind is [`io::ErrorKind::WouldBlock`] if the byte is
/// already locked.
#[allow(
    clippy::cast_lossless,
    reason = "an offset has 32 or 64 bits, depending on the board"
)]
pub fn lock_byte(file: &File, byte: u32) -> io::Result<()> {
    // SAFETY: an all-zero `flock` is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte as libc::off_t;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and `lock` outlives the call, which only reads it
    // (fcntl(2), F_OFD_SETLK).
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }.into())
}

/// Requests that the kernel pass orphaned descendants to this process.
///
/// # Errors
/// The error from the system.
pub fn adopt_orphans() -> io::Result<()> {
    // Any process ID enables this setting.
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Whether the kernel passes orphaned descendants to this process.
#[must_use]
pub fn adopts_orphans() -> bool {
    rustix::process::child_subreaper().is_ok_and(|id| id.is_some())
}

/// Frees the memory that holds `bytes` if this memory is an unmodified part of the
/// program's own file, and does nothing otherwise. When the program reads the bytes
/// again, the system loads them from the file.
///
/// When memory runs short, the kernel would also free this memory, but possibly only
/// after other memory.
pub fn release_file_pages(bytes: &'static [u8]) {
    let page = rustix::param::page_size();
    let range = bytes.as_ptr_range();
    let (start, end) = (
        range.start.addr().next_multiple_of(page),
        range.end.addr() / page * page,
    );
    let maps =
        files::read_text(Path::new("/proc/self/smaps"), files::MAX_PROC_BYTES).unwrap_or_default();
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let program = program.to_str().unwrap_or_default();
    if start < end && is_unchanged_file(&maps, program, start, end) {
        let first = range.start.with_addr(start).cast_mut().cast();
        // SAFETY: these are whole pages, mapped from the program's own file and not
        // writable. No page in the mapping differs from the file, because `Anonymous`
        // and `Swap` in proc_pid_smaps(5) are 0 (the linker's relocations would be
        // counted there). No process can write to the file of a running program
        // (ETXTBSY), and a package that replaces the file leaves the old file in place
        // until the program ends. The next read therefore finds the same bytes. A page
        // could change only between the check and the call, and only if other `unsafe`
        // code made the program's read-only data writable. If the call fails, nothing
        // has changed.
        unsafe { libc::madvise(first, end - start, libc::MADV_DONTNEED) };
    }
}

/// Whether, according to `/proc/self/smaps`, a single read-only mapping of the file
/// `program` contains all addresses from `start` to `end` and has no private pages.
fn is_unchanged_file(maps: &str, program: &str, start: usize, end: usize) -> bool {
    let mut lines = maps.lines();
    if !lines.any(|line| is_of_file(line, program, start, end)) {
        return false;
    }
    // The next mapping begins with an address range; no field has a "-" in its first word.
    let fields = lines.take_while(|line| {
        let first = line.split_whitespace().next().unwrap_or_default();
        !first.contains('-')
    });
    let own: Vec<&str> = fields
        .filter_map(|line| {
            let (name, size) = line.split_once(':')?;
            ["Anonymous", "Swap"].contains(&name).then(|| size.trim())
        })
        .collect();
    own == ["0 kB", "0 kB"]
}

/// Whether `line`, the first line of a mapping in `/proc/self/smaps`, describes a
/// read-only mapping of the file `program` that contains all addresses from `start` to
/// `end`.
fn is_of_file(line: &str, program: &str, start: usize, end: usize) -> bool {
    let mut fields = line.split_whitespace();
    let mut field = || fields.next().unwrap_or_default();
    let (range, access, _, _, inode) = (field(), field(), field(), field(), field());
    // The path is the rest of the line, and may contain spaces.
    let path = line.find('/').map_or("", |start| &line[start..]);
    let address = |text| usize::from_str_radix(text, 16).ok();
    let bounds = range.split_once('-');
    let bounds = bounds.and_then(|(low, high)| Some((address(low)?, address(high)?)));
    access == "r--p"
        && inode != "0"
        && !program.is_empty()
        && path == program
        && bounds.is_some_and(|(low, high)| low <= start && end <= high)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_read_the_same() {
        static BYTES: &[u8] = include_bytes!("../../../models/face_detector.onnx");
        let before = BYTES.to_vec();
        release_file_pages(BYTES);
        assert!(BYTES == before);
        // This memory is not mapped from a file, so it would read as zeros if it were
        // released.
        let leaked: &'static [u8] = Box::leak(vec![7_u8; 1 << 20].into_boxed_slice());
        release_file_pages(leaked);
        assert!(leaked.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn only_unchanged_pages_of_a_file_are_released() {
        const PROGRAM: &str = "/usr/my bin/maskd (deleted)";
        let maps = |access: &str, inode: &str, anonymous: u32| {
            format!(
                "0000-1000 r--p 00000000 08:01 12 {PROGRAM}\nAnonymous: 0 kB\nSwap: 0 kB\n\
                 1000-3000 {access} 00001000 08:01 {inode}      {PROGRAM}\n\
                 Size:                  8 kB\nAnonymous:      {anonymous:7} kB\n\
                 Swap:                  0 kB\nVmFlags: rd mr mw me\n\
                 3000-4000 rw-p 00000000 00:00 0 \nAnonymous: 4 kB\nSwap: 0 kB\n"
            )
        };
        assert!(is_unchanged_file(
            &maps("r--p", "12", 0),
            PROGRAM,
            0x1000,
            0x3000
        ));
        assert!(!is_unchanged_file(
            &maps("r--p", "12", 0),
            PROGRAM,
            0x1000,
            0x4000
        ));
        assert!(!is_unchanged_file(
            &maps("rw-p", "12", 0),
            PROGRAM,
            0x1000,
            0x2000
        ));
        assert!(!is_unchanged_file(
            &maps("r--p", "0", 0),
            PROGRAM,
            0x1000,
            0x2000
        ));
        assert!(!is_unchanged_file(
            &maps("r--p", "12", 4),
            PROGRAM,
            0x1000,
            0x2000
        ));
        let other = maps("r--p", "12", 0).replace("/usr/my bin", "/usr/lib");
        assert!(!is_unchanged_file(&other, PROGRAM, 0x1000, 0x2000));
        assert!(!is_unchanged_file(&other, "", 0x1000, 0x2000));
        assert!(!is_unchanged_file("no such line", PROGRAM, 0x1000, 0x2000));
    }

    #[test]
    fn the_thread_alone_becomes_low() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let low = std::thread::scope(|scope| {
            let thread = scope.spawn(|| low().map(|()| nice()));
            thread.join().unwrap()
        });
        assert_eq!(low.unwrap(), 15);
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_thread_alone_becomes_idle() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Read field 41, counted from 1. The name in parentheses may contain spaces.
            let after_name = stat.rsplit(')').next().unwrap().to_owned();
            after_name
                .split_whitespace()
                .nth(41 - 3)
                .unwrap()
                .to_owned()
        };
        let before = policy();
        let idle = std::thread::scope(|scope| {
            let thread = scope.spawn(|| idle().map(|()| policy()));
            thread.join().unwrap()
        });
        assert_eq!(idle.unwrap(), libc::SCHED_IDLE.to_string());
        assert_eq!(policy(), before);
    }
}
