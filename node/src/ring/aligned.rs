//! Aligned buffers for direct I/O, pooled per core under a budget.
//!
//! Buffers come in sizes that are powers of two, so that one given back serves the next taker of its size; large ones are made for
//! their taker, and not kept. What is lent and what lies ready never exceed the budget together; a taker that finds it spent is
//! told so and must wait or shed. What lies ready is a working set, not a hoard: beyond some MiB a buffer given back goes to the
//! allocator.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

/// Alignment of every buffer, and the smallest size, in bytes.
const ALIGNMENT: usize = 4096;
/// Number of sizes that are kept: 4 KiB to 512 KiB.
const SIZES: usize = 8;
const KEPT_PAGES_MAX: usize = 1 << (SIZES - 1);
/// Longest buffer, in bytes.
const BYTES_MAX: usize = 64 << 20;
/// Bytes that lie ready at most: some runs of a merge.
const READY_BYTES_MAX: usize = 2 << 20;

struct Shelves {
    ready: [Vec<NonNull<u8>>; SIZES],
    ready_bytes: usize,
    lent_bytes: usize,
    budget_bytes: usize,
}

/// Lends aligned buffers within a budget.
#[derive(Clone)]
pub struct Pool(Rc<RefCell<Shelves>>);

/// A buffer aligned to 4 KiB, on loan from its pool. Always initialised, though with what its last user left.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    /// As it was allocated.
    bytes: usize,
    pool: Pool,
}

impl Pool {
    /// A pool that lends at most `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Pool {
        let ready = std::array::from_fn(|_| Vec::new());
        Pool(Rc::new(RefCell::new(Shelves { ready, ready_bytes: 0, lent_bytes: 0, budget_bytes })))
    }

    /// A buffer of `len` bytes, or nothing when the budget is spent or the buffer would be larger than 64 MiB.
    pub fn take(&self, len: usize) -> Option<AlignedBuffer> {
        let bytes = allocation_bytes(len)?;
        let mut shelves = self.0.borrow_mut();
        if shelves.lent_bytes + bytes > shelves.budget_bytes {
            return None;
        }
        let start = match shelf(bytes).and_then(|size| shelves.ready[size].pop()) {
            Some(start) => {
                shelves.ready_bytes -= bytes;
                start
            }
            None => {
                shelves.make_room(bytes);
                allocate(bytes)
            }
        };
        shelves.lent_bytes += bytes;
        Some(AlignedBuffer { start, len, capacity: len, bytes, pool: self.clone() })
    }

    /// Bytes on loan and ready.
    pub fn bytes(&self) -> usize {
        let shelves = self.0.borrow();
        shelves.lent_bytes + shelves.ready_bytes
    }

    /// Bytes on loan.
    pub fn lent_bytes(&self) -> usize {
        self.0.borrow().lent_bytes
    }
}

impl Shelves {
    /// Frees ready buffers until `bytes` more fit the budget.
    fn make_room(&mut self, bytes: usize) {
        for size in (0..SIZES).rev() {
            while self.lent_bytes + self.ready_bytes + bytes > self.budget_bytes {
                let Some(start) = self.ready[size].pop() else { break };
                self.ready_bytes -= ALIGNMENT << size;
                free(start, ALIGNMENT << size);
            }
        }
    }
}

impl Drop for Shelves {
    fn drop(&mut self) {
        for size in 0..SIZES {
            for start in self.ready[size].drain(..) {
                free(start, ALIGNMENT << size);
            }
        }
    }
}

impl AlignedBuffer {
    /// The length it was made with, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens or lengthens the visible part.
    ///
    /// # Panics
    /// Past the length it was made with.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} bytes do not fit a buffer of {}", self.capacity);
        self.len = len;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for the whole size, which is at least `len`, and was initialised when allocated.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the buffer is uniquely owned.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        let bytes = self.bytes;
        let mut shelves = self.pool.0.borrow_mut();
        shelves.lent_bytes -= bytes;
        match shelf(bytes).filter(|_| shelves.ready_bytes + bytes <= READY_BYTES_MAX) {
            Some(size) => {
                shelves.ready_bytes += bytes;
                shelves.ready[size].push(self.start);
            }
            None => free(self.start, bytes),
        }
    }
}

/// What is allocated for a buffer of `len` bytes; `None` = it is too long.
fn allocation_bytes(len: usize) -> Option<usize> {
    if len > BYTES_MAX {
        return None;
    }
    let pages = len.max(1).div_ceil(ALIGNMENT);
    let kept = pages.next_power_of_two();
    Some(ALIGNMENT * if kept <= KEPT_PAGES_MAX { kept } else { pages })
}

/// Where an allocation lies ready, if its size is kept.
fn shelf(bytes: usize) -> Option<usize> {
    let pages = bytes / ALIGNMENT;
    (pages <= KEPT_PAGES_MAX).then(|| pages.trailing_zeros() as usize)
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("sizes are whole pages, and bounded")
}

fn allocate(bytes: usize) -> NonNull<u8> {
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout(bytes)) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(bytes)))
}

fn free(start: NonNull<u8>, bytes: usize) {
    // SAFETY: `start` came from `allocate` with the same size and is on no shelf any more.
    unsafe { dealloc(start.as_ptr(), layout(bytes)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_at_first_and_reused() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(8192).unwrap();
        assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
        assert!(buffer.iter().all(|byte| *byte == 0));
        buffer.fill(7);
        let address = buffer.as_ptr();
        drop(buffer);
        let again = pool.take(5000).unwrap();
        assert_eq!(again.as_ptr(), address);
        assert_eq!(again.len(), 5000);
    }

    #[test]
    fn the_budget_holds_and_other_sizes_make_room() {
        let pool = Pool::new(16 << 10);
        let lent: Vec<_> = (0..4).map(|_| pool.take(4096).unwrap()).collect();
        assert!(pool.take(4096).is_none());
        drop(lent);
        assert_eq!(pool.lent_bytes(), 0);
        let whole = pool.take(16 << 10).unwrap();
        assert_eq!(pool.0.borrow().ready_bytes, 0, "small buffers made room for a large one");
        assert!(pool.take(1).is_none());
        drop(whole);
    }

    #[test]
    fn what_lies_ready_is_bounded() {
        let pool = Pool::new(64 << 20);
        let lent: Vec<_> = (0..16).map(|_| pool.take(512 << 10).unwrap()).collect();
        let large = pool.take((1 << 20) + 1).unwrap();
        assert_eq!(pool.lent_bytes(), (9 << 20) + 4096, "large ones are not rounded up further");
        drop((lent, large));
        assert_eq!(pool.lent_bytes(), 0);
        assert_eq!((pool.0.borrow().ready_bytes, pool.bytes()), (READY_BYTES_MAX, READY_BYTES_MAX));
    }

    #[test]
    fn sizes_round_up_and_end() {
        for (len, bytes, kept) in [
            (0, 4096, Some(0)),
            (4096, 4096, Some(0)),
            (4097, 8192, Some(1)),
            (512 << 10, 512 << 10, Some(SIZES - 1)),
            ((512 << 10) + 1, (512 << 10) + 4096, None),
            (BYTES_MAX, BYTES_MAX, None),
        ] {
            assert_eq!((allocation_bytes(len), shelf(bytes)), (Some(bytes), kept), "{len}");
        }
        assert_eq!(allocation_bytes(BYTES_MAX + 1), None);
        assert_eq!(allocation_bytes(usize::MAX), None);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn a_length_past_the_capacity_is_a_bug() {
        Pool::new(1 << 20).take(4096).unwrap().set_len(4097);
    }
}
