//! Functions that no safe crate provides: lowering the priority of the calling thread,
//! asking whether the clock is synchronized, locking a byte of a file, allocating
//! aligned blocks, returning memory to the system, and computing with vectors of 16-bit
//! floats. All of them can be called from safe code at any time.
//!
//! This module owns all `unsafe` code in the crate. It knows nothing about what a thread
//! does or what memory is used for. Most of the functions need Linux: `linux.rs` contains
//! these, and `other.rs` their counterparts for other systems.
#![expect(
    unsafe_code,
    reason = "five system calls, one of which fills a struct on the stack, two requests to the \
              allocator, the layout of blocks of memory, and instructions that only some \
              processors have"
)]

#[cfg(target_arch = "aarch64")]
pub(crate) mod half;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod os;
#[cfg(not(target_os = "linux"))]
#[path = "other.rs"]
mod os;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

pub use os::*;

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
}
