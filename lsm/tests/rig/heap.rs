//! An allocator that counts, by thread, what is alive.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub(crate) struct CountingAllocator;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<i64> = const { Cell::new(0) };
    static IS_PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that this thread has allocated and not freed, outside [`uncounted`].
pub(crate) fn live_bytes() -> i64 {
    LIVE_BYTES.get()
}

/// The most that [`live_bytes`] came to since this was asked before.
pub(crate) fn take_peak_bytes() -> i64 {
    PEAK_BYTES.replace(LIVE_BYTES.get())
}

/// Does work whose memory does not count. What it allocates must be freed in another such call.
pub(crate) fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let before = IS_PAUSED.replace(true);
    let result = work();
    IS_PAUSED.set(before);
    result
}

fn count(bytes: i64) {
    // At the end of a thread its counters are gone before its last memory is.
    let is_paused = IS_PAUSED.try_with(Cell::get).unwrap_or(true);
    if !is_paused {
        let live = LIVE_BYTES.try_with(|live| live.replace(live.get() + bytes) + bytes).unwrap_or(0);
        PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(live))).ok();
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(start, layout) }
    }
}
