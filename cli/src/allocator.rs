//! The allocator, and how long it keeps what is freed: the one reason for unsafe code here is that it is told so through its C interface.

#![allow(unsafe_code)]

use std::ffi::c_int;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, for which its bindings have no name.
const PURGE_DELAY: mi_option_t = 15 as c_int;
/// So long freed memory may wait to be used again before it goes back to the system, in milliseconds.
///
/// The allocator's own second keeps many times what is in use where long values come and go, and takes a node beyond its memory. Without any delay a value
/// of 1 MiB costs twice the CPU: `tuning/experiments/memory.md`.
const PURGE_DELAY_MS: i64 = 10;

/// Gives freed memory back soon. What `MIMALLOC_PURGE_DELAY` says goes before it.
pub(crate) fn give_back_soon() {
    // SAFETY: it takes two numbers, checks the first, and may be called at any time.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// The number stands for another option if the allocator's are numbered anew: its default tells.
    #[test]
    fn the_delay_is_what_is_set() {
        // SAFETY: as above.
        let delay_ms = || unsafe { mi_option_get(PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert_eq!(delay_ms(), 1000);
            give_back_soon();
            assert_eq!(delay_ms(), PURGE_DELAY_MS);
        }
    }
}
