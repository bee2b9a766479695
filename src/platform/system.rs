//! Functions that no safe crate provides: lowering the priority of the calling thread,
//! asking whether the clock is synchronized, locking a byte of a file, allocating
//! aligned blocks, and returning memory to the system. All of them can be called from
//! safe code at any time.
//!
//! This module owns all `unsafe` code in the crate. It knows nothing about what a thread
//! does or what memory is used for.
#![expect(
    unsafe_code,
    reason = "five system calls, one of which fills a struct on the stack, two requests to the \
              allocator, and the layout of blocks of memory"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::{io, ptr};

use super::files;

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

/// Makes all threads allocate from one arena.
///
/// glibc gives each thread its own arena, and memory that is freed in one arena cannot
/// be reused in another arena. Inference runs move between the threads of a pool, so
/// each arena would grow to the size that a whole run needs. This function does nothing
/// if the C library is not glibc, or if the process already has other threads.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    if is_single_thread() {
        // SAFETY: both arguments are integers, and mallopt(3) is safe as long as no other
        // thread can allocate at the same time. There is no other thread, and only this
        // thread could start one. If the call fails, each thread keeps its own arena.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Whether the process is known to have only the calling thread.
#[cfg(target_env = "gnu")]
fn is_single_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Returns whole pages of unused memory to the system.
///
/// Call this function after one-time work that allocates a lot of memory, because glibc on
/// its own returns only memory at the end of the heap. This function does nothing with
/// another C library.
pub fn return_unused_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the argument is an integer, and malloc_trim(3) takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The program's allocator, which requests only blocks with the default alignment from
/// the system.
///
/// tract aligns its tensors to 32 or 64 bytes, the width of the processor's vectors.
/// glibc before 2.38 cuts such a block out of a larger block, and uses the rest of the
/// larger block for small blocks. When the aligned block is freed, it leaves a gap that
/// is too small for another aligned block. As a result, the tensors occupied twice as
/// much memory as they used. This allocator keeps the larger block in one piece.
#[derive(Debug, Clone, Copy)]
pub struct AlignedAllocator;

/// The alignment of every block from the system, in bytes.
const PLAIN: usize = 2 * NOTE;
/// Size of the number that is stored directly before a block with a larger alignment,
/// in bytes.
const NOTE: usize = size_of::<usize>();

impl AlignedAllocator {
    /// Returns the layout of the system block that has room for a block of `layout`, or
    /// `None` if the default alignment is sufficient or the block is too large.
    fn around(layout: Layout) -> Option<Layout> {
        if layout.align() <= PLAIN {
            return None;
        }
        let size = layout.size().checked_add(layout.align())?;
        Layout::from_size_align(size, PLAIN).ok()
    }

    /// Returns the start of a block with alignment `align` inside `whole`. `whole` has
    /// a layout from [`AlignedAllocator::around`] or is null. At least [`PLAIN`] bytes
    /// are skipped before the block. The last of the skipped bytes store how many bytes
    /// were skipped.
    ///
    /// # Safety
    /// `whole` must be null or valid for `align` bytes.
    unsafe fn inside(whole: *mut u8, align: usize) -> *mut u8 {
        if whole.is_null() {
            return whole;
        }
        let skipped = align - whole.addr() % align;
        // SAFETY: the two addresses are different multiples of PLAIN, so the distance
        // between them is at least a `usize` and at most `align` bytes.
        unsafe {
            let block = whole.add(skipped);
            block
                .sub(NOTE)
                .cast::<[u8; NOTE]>()
                .write(skipped.to_ne_bytes());
            block
        }
    }
}

// SAFETY: layouts with the default alignment are passed to the system unchanged. Any other
// block lies inside a system block that is `align` bytes larger, and starts after `skipped`
// of these bytes (1 to `align`). The value of `skipped` is stored directly before the
// block, where no other code writes, and leads back to the start of the system block.
unsafe impl GlobalAlloc for AlignedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match AlignedAllocator::around(layout) {
            // SAFETY: the size of the caller's layout is not 0, and `around` is larger. Here
            // and below, a layout for which `around` returns `None` goes to the system
            // unchanged, both when allocating and when freeing.
            Some(around) => unsafe {
                AlignedAllocator::inside(System.alloc(around), layout.align())
            },
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match AlignedAllocator::around(layout) {
            // SAFETY: same as in `alloc`; `inside` writes only before the block.
            Some(around) => unsafe {
                AlignedAllocator::inside(System.alloc_zeroed(around), layout.align())
            },
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match AlignedAllocator::around(layout) {
            // SAFETY: the caller guarantees that `alloc` returned the block for this layout.
            Some(around) => unsafe {
                let skipped = usize::from_ne_bytes(block.sub(NOTE).cast::<[u8; NOTE]>().read());
                System.dealloc(block.sub(skipped), around);
            },
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= PLAIN {
            // SAFETY: the caller guarantees everything that the system's allocator
            // requires.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller guarantees that `size` does not overflow. The new block does
        // not overlap the old one, and both are at least as long as the smaller size.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_aligned_zeroed_and_apart(
            orders in prop::collection::vec((1..5000_usize, 0..12_u32, any::<bool>()), 1..40),
            grown in 1..5000_usize,
        ) {
            let mut blocks = Vec::new();
            for (number, &(size, align, zeroed)) in orders.iter().enumerate() {
                let layout = Layout::from_size_align(size, 1 << align).unwrap();
                // SAFETY: no size is 0. Each block is written only within its size, and is
                // freed or resized once with its layout.
                unsafe {
                    let block = if zeroed {
                        AlignedAllocator.alloc_zeroed(layout)
                    } else {
                        AlignedAllocator.alloc(layout)
                    };
                    prop_assert_eq!(block.addr() % layout.align(), 0);
                    let bytes = std::slice::from_raw_parts(block, if zeroed { size } else { 0 });
                    prop_assert!(bytes.iter().all(|byte| *byte == 0));
                    block.write_bytes(number as u8, size);
                    blocks.push((block, layout));
                }
            }
            for (number, (block, layout)) in blocks.into_iter().enumerate() {
                // SAFETY: same as above.
                unsafe {
                    let block = AlignedAllocator.realloc(block, layout, grown);
                    prop_assert_eq!(block.addr() % layout.align(), 0);
                    let kept = std::slice::from_raw_parts(block, layout.size().min(grown));
                    prop_assert!(kept.iter().all(|byte| *byte == number as u8));
                    AlignedAllocator.dealloc(block, Layout::from_size_align(grown, layout.align()).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_block_without_end_is_refused() {
        let layout = Layout::from_size_align(isize::MAX as usize - 63, 64).unwrap();
        // SAFETY: the size is not 0, and nothing is written.
        assert!(unsafe { AlignedAllocator.alloc(layout) }.is_null());
    }

    #[test]
    fn released_bytes_read_the_same() {
        static BYTES: &[u8] = include_bytes!("../../models/face_detector.onnx");
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
