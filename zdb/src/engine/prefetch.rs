//! Asking the processor for memory ahead of its use.

/// How much of a record is asked for at most, in bytes: what lies behind, the processor's own
/// prefetching finds.
const BYTES_MAX: usize = 512;
const LINE_BYTES: usize = 64;

/// Asks for the line of a value.
#[inline]
pub fn value<T>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Asks for the lines of a slice.
#[inline]
pub fn slice(bytes: &[u8]) {
    for chunk in bytes[..bytes.len().min(BYTES_MAX)].chunks(LINE_BYTES) {
        line(chunk.as_ptr());
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(address: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing that the program can see and faults on no address; SSE is part
    // of x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// Other architectures have no stable prefetch; finding the address has warmed the way to it.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn line(_address: *const u8) {}
