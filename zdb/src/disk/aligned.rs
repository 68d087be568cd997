//! Memory that direct I/O accepts: it starts at a multiple of the block size.

use crate::engine::log::format::BLOCK;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Memory for reads of up to so many bytes is kept for the next one: to get, to clear and to free aligned memory
/// was a fifth of what a GET from the disk costs.
const SPARE_BYTES: usize = 16 << 10;
/// How many of them a thread keeps: as many as there are reads at once under a usual load.
const SPARES_MAX: usize = 64;

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares(Vec::new())) };
}

/// Memory of `SPARE_BYTES` each, with old bytes in it.
struct Spares(Vec<NonNull<u8>>);

impl Drop for Spares {
    fn drop(&mut self) {
        for start in self.0.drain(..) {
            // SAFETY: a buffer of this capacity gave it here instead of freeing it.
            unsafe { dealloc(start.as_ptr(), AlignedBuffer::layout(SPARE_BYTES)) }
        }
    }
}

pub struct AlignedBuffer {
    start: NonNull<u8>,
    capacity: usize,
    length: usize,
}

// SAFETY: the buffer owns its memory and has no interior mutability.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// Zeroed, with `length` rounded up to whole blocks as its capacity.
    pub fn new(length: usize) -> Self {
        let capacity = length.next_multiple_of(BLOCK as usize).max(BLOCK as usize);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        Self { start, capacity, length }
    }

    /// For a read: with whatever bytes an earlier one left.
    pub fn for_read(length: usize) -> Self {
        if length > SPARE_BYTES {
            return Self::new(length);
        }
        let spare = SPARES.with_borrow_mut(|spares| spares.0.pop());
        match spare {
            Some(start) => Self { start, capacity: SPARE_BYTES, length },
            None => {
                let mut buffer = Self::new(SPARE_BYTES);
                buffer.length = length;
                buffer
            }
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK as usize).expect("sizes are far below isize::MAX")
    }

    /// Forgets what is behind `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Makes the buffer so long, if its memory is enough, with whatever bytes were in it before.
    pub fn reuse(&mut self, length: usize) -> bool {
        let is_enough = length <= self.capacity;
        if is_enough {
            self.length = length;
        }
        is_enough
    }

    pub fn as_mut_pointer(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.capacity == SPARE_BYTES {
            // A thread that ends has no list any more.
            let kept = SPARES.try_with(|spares| {
                let spares = &mut spares.borrow_mut().0;
                let has_room = spares.len() < SPARES_MAX;
                if has_room {
                    spares.push(self.start);
                }
                has_room
            });
            if kept.unwrap_or(false) {
                return;
            }
        }
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length` <= `capacity` bytes were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "AlignedBuffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_small_reads_is_used_again() {
        let mut first = AlignedBuffer::for_read(5000);
        first.fill(7);
        let place = first.as_ptr();
        drop(first);
        let second = AlignedBuffer::for_read(100);
        assert_eq!((second.as_ptr(), second.len()), (place, 100));
        let third = AlignedBuffer::for_read(100);
        assert_ne!(third.as_ptr(), place);
        assert!(third.as_ptr().addr().is_multiple_of(BLOCK as usize));
        drop((second, third));
        assert!(AlignedBuffer::new(SPARE_BYTES).iter().all(|&byte| byte == 0));
        assert_eq!(AlignedBuffer::for_read(SPARE_BYTES + 1).len(), SPARE_BYTES + 1);
    }

    #[test]
    fn a_thread_keeps_so_many_and_frees_them_at_its_end() {
        let reads = std::thread::spawn(|| {
            let reads: Vec<_> =
                (0..2 * SPARES_MAX).map(|_| AlignedBuffer::for_read(BLOCK as usize)).collect();
            drop(reads);
            SPARES.with_borrow(|spares| spares.0.len())
        });
        assert_eq!(reads.join().expect("it ends"), SPARES_MAX);
    }
}
