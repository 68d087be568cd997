//! Watches what is allocated, so that a target can say that a number from a client sized nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The largest single allocation since the last look, in bytes.
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and a note of the largest request to it.
pub struct Watched;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST_BYTES.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST_BYTES.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        LARGEST_BYTES.fetch_max(bytes, Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(start, layout, bytes) }
    }
}

/// Runs something, and tells its largest single allocation in bytes.
pub fn largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST_BYTES.store(0, Relaxed);
    let result = run();
    (result, LARGEST_BYTES.load(Relaxed))
}
