//! System calls that no safe crate offers: low priorities for the calling thread,
//! an allocator for aligned blocks, and memory returned to the system.
//!
//! Owns all `unsafe` code of the crate. Knows nothing of what a thread does or
//! what memory is used for.
#![expect(
    unsafe_code,
    reason = "three system calls, none with a pointer that the kernel writes to, two requests \
              of the allocator, and the layout of blocks of memory"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::{io, ptr};

/// `ioprio_set`'s "a process or thread", of `linux/ioprio.h`.
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT`, of `linux/ioprio.h`: the disk
/// when nobody else wants it.
const IDLE_IO: libc::c_int = 3 << 13;

/// Puts the calling thread, and the threads that it will start, at `SCHED_IDLE`
/// and idle I/O priority: it runs when no other thread wants a core, and reads
/// and writes when nobody else wants the disk.
///
/// A thread cannot undo it without privileges, so a thread of a pool must not call
/// it.
///
/// # Errors
/// The error of the system; a container may forbid it. The thread then keeps its
/// priority.
pub fn idle() -> io::Result<()> {
    // SAFETY: an all-zero `sched_param` is a valid one, and the priority that
    // SCHED_IDLE demands (sched(7)).
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; `param` outlives the call, which only
    // reads it.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) }.into())?;
    // SAFETY: `ioprio_set` takes three integers and touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE_IO) })
}

/// Puts the calling thread, and the threads that it will start, at nice 15: while
/// all cores are busy it gets a few percent of one, and the disk after others.
///
/// For a thread that shares locks with the camera path: an [`idle`] one could hold
/// a lock for as long as others keep the cores busy.
///
/// # Errors
/// The error of the system. The thread then keeps its priority.
pub fn low() -> io::Result<()> {
    // On Linux a thread has a priority of its own, and 0 is the calling one.
    rustix::process::setpriority_process(None, 15).map_err(io::Error::from)
}

/// Makes all threads allocate from one arena.
///
/// glibc gives each thread an arena, and memory that is freed in one is of no use to
/// the others. The run of a model moves between the threads of a pool, so each arena
/// would grow to what a whole run needs. Does nothing with another C library. Call it
/// before there are threads.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two integers, and mallopt(3) is safe as long as no other thread is there
    // to allocate. If it refuses, each thread keeps its own arena.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns whole pages of unused memory to the system.
///
/// Call it after work that allocates much and is not repeated: glibc itself returns
/// only the end of the heap. Does nothing with another C library.
pub fn return_unused_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer; malloc_trim(3) takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The allocator of the program: it asks the system for blocks of one alignment.
///
/// tract aligns its tensors to 32 or 64 bytes, the width of the processor's vectors.
/// glibc before 2.38 cuts such a block out of a larger one and uses the rest for small
/// blocks, so that an aligned block never fits the hole that another one left: the
/// tensors took twice the memory in use. Here the larger block stays whole.
#[derive(Debug, Clone, Copy)]
pub struct AlignedAllocator;

/// What the system aligns every block to.
const PLAIN: usize = 2 * NOTE;
/// Bytes of the number that stands before a block of larger alignment.
const NOTE: usize = size_of::<usize>();

impl AlignedAllocator {
    /// The block of the system that holds one of `layout`; `None` if it is plain, or
    /// too large.
    fn around(layout: Layout) -> Option<Layout> {
        if layout.align() <= PLAIN {
            return None;
        }
        let size = layout.size().checked_add(layout.align())?;
        Layout::from_size_align(size, PLAIN).ok()
    }

    /// Where a block of alignment `align` begins inside of `whole`, which is one of
    /// [`AlignedAllocator::around`] or null. Behind at least [`PLAIN`] bytes: the last of them
    /// say how many.
    ///
    /// # Safety
    /// `whole` must be valid for `align` bytes.
    unsafe fn inside(whole: *mut u8, align: usize) -> *mut u8 {
        if whole.is_null() {
            return whole;
        }
        let skipped = align - whole.addr() % align;
        // SAFETY: both addresses are multiples of PLAIN and differ, so at least a
        // `usize` lies between them, and at most `align` bytes.
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

// SAFETY: plain layouts are the system's business alone. Of the others, a block lies
// inside one that the system allocated: behind `skipped` bytes, 1 to `align`, of the
// `align` that are more than its size; and before it, where nobody else writes, stands
// what leads back.
unsafe impl GlobalAlloc for AlignedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match AlignedAllocator::around(layout) {
            // SAFETY: the caller's layout has a size; `around` makes it larger. Here and
            // below, a layout that has none goes to the system as it came, both ways.
            Some(around) => unsafe {
                AlignedAllocator::inside(System.alloc(around), layout.align())
            },
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match AlignedAllocator::around(layout) {
            // SAFETY: as in `alloc`; what `inside` writes lies before the block.
            Some(around) => unsafe {
                AlignedAllocator::inside(System.alloc_zeroed(around), layout.align())
            },
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match AlignedAllocator::around(layout) {
            // SAFETY: the caller says that `alloc` made it with this layout.
            Some(around) => unsafe {
                let skipped = usize::from_ne_bytes(block.sub(NOTE).cast::<[u8; NOTE]>().read());
                System.dealloc(block.sub(skipped), around);
            },
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= PLAIN {
            // SAFETY: the caller's promises are those of the system's.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller says that `size` is none that overflows; the new block
        // is another one, and both have the smaller size.
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

/// Frees the memory behind `bytes`, if they are part of the program's own file and
/// nobody has changed them: the next read loads them from the file again.
///
/// The kernel would free it anyway when memory is short, but not before other
/// memory.
pub fn release_file_pages(bytes: &'static [u8]) {
    let page = rustix::param::page_size();
    let range = bytes.as_ptr_range();
    let (start, end) = (
        range.start.addr().next_multiple_of(page),
        range.end.addr() / page * page,
    );
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    if start < end && is_unchanged_file(&maps, start, end) {
        let first = range.start.with_addr(start).cast_mut().cast();
        // SAFETY: these are whole pages, mapped from a file and not writable, and no
        // page of the mapping differs from the file (`Anonymous` and `Swap` of
        // proc_pid_smaps(5) are 0; the linker's relocations would be counted there).
        // So the next read finds the same bytes. If the system refuses, nothing has
        // changed.
        unsafe { libc::madvise(first, end - start, libc::MADV_DONTNEED) };
    }
}

/// Whether `/proc/self/smaps` says that one mapping has all the addresses from
/// `start` to `end`, is of a file, cannot be written, and has no page of its own.
fn is_unchanged_file(maps: &str, start: usize, end: usize) -> bool {
    let mut lines = maps.lines();
    if !lines.any(|line| is_of_file(line, start, end)) {
        return false;
    }
    // The next mapping begins with its addresses: no field has a "-" there.
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

/// Whether the first line of a mapping in `/proc/self/smaps` is of a file that is
/// mapped read-only, and has all the addresses from `start` to `end`.
fn is_of_file(line: &str, start: usize, end: usize) -> bool {
    let mut fields = line.split_whitespace();
    let mut field = || fields.next().unwrap_or_default();
    let (range, access, _, _, inode) = (field(), field(), field(), field(), field());
    let address = |text| usize::from_str_radix(text, 16).ok();
    let bounds = range.split_once('-');
    let bounds = bounds.and_then(|(low, high)| Some((address(low)?, address(high)?)));
    access == "r--p"
        && inode != "0"
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
                // SAFETY: no size is 0; each block is written within its size, and freed
                // or resized once with its layout.
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
                // SAFETY: as above.
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
        // SAFETY: its size is not 0, and nothing is written.
        assert!(unsafe { AlignedAllocator.alloc(layout) }.is_null());
    }

    #[test]
    fn released_bytes_read_the_same() {
        static BYTES: &[u8] = include_bytes!("../../models/face_detector.onnx");
        let before = BYTES.to_vec();
        release_file_pages(BYTES);
        assert!(BYTES == before);
        // Not of a file: the kernel would hand out zeros for it.
        let leaked: &'static [u8] = Box::leak(vec![7_u8; 1 << 20].into_boxed_slice());
        release_file_pages(leaked);
        assert!(leaked.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn only_unchanged_pages_of_a_file_are_released() {
        let maps = |access: &str, inode: &str, anonymous: u32| {
            format!(
                "0000-1000 r--p 00000000 08:01 12 /usr/bin/maskd\nAnonymous: 0 kB\nSwap: 0 kB\n\
                 1000-3000 {access} 00001000 08:01 {inode} /usr/bin/maskd\n\
                 Size:                  8 kB\nAnonymous:      {anonymous:7} kB\n\
                 Swap:                  0 kB\nVmFlags: rd mr mw me\n\
                 3000-4000 rw-p 00000000 00:00 0 \nAnonymous: 4 kB\nSwap: 0 kB\n"
            )
        };
        assert!(is_unchanged_file(&maps("r--p", "12", 0), 0x1000, 0x3000));
        assert!(!is_unchanged_file(&maps("r--p", "12", 0), 0x1000, 0x4000));
        assert!(!is_unchanged_file(&maps("rw-p", "12", 0), 0x1000, 0x2000));
        assert!(!is_unchanged_file(&maps("r--p", "0", 0), 0x1000, 0x2000));
        assert!(!is_unchanged_file(&maps("r--p", "12", 4), 0x1000, 0x2000));
        assert!(!is_unchanged_file("no such line", 0x1000, 0x2000));
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
            // Field 41, counted from 1; the name in brackets may hold spaces.
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
