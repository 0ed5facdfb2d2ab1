//! Asks the processor for memory before it is needed, so that the misses of several lookups overlap.
//!
//! A prefetch is a hint: it changes nothing and never faults. On other processors than x86-64 it does nothing.

// Reason: the prefetch instruction takes a raw pointer.
#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for the line in which `place` starts.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    line(std::ptr::from_ref(place).cast());
}

/// Asks for all lines of a slice.
#[inline(always)]
pub(crate) fn prefetch_all<T>(places: &[T]) {
    let start: *const u8 = places.as_ptr().cast();
    let last = size_of_val(places).saturating_sub(1);
    for at in (0..last).step_by(LINE_BYTES) {
        line(start.wrapping_add(at));
    }
    line(start.wrapping_add(last));
}

#[inline(always)]
fn line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
