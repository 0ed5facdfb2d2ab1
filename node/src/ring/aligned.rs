//! Aligned buffers for direct I/O, pooled per core under a budget.
//!
//! Buffers come in sizes that are powers of two, so that one given back serves the next taker of its size. What is lent and
//! what lies ready never exceed the budget together; a taker that finds it spent is told so and must wait or shed. What lies
//! ready is a working set, not a hoard: beyond a few MiB a buffer given back goes to the allocator.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

/// Alignment of every buffer, and the smallest size, in bytes.
const ALIGNMENT: usize = 4096;
/// Number of sizes: 4 KiB to 64 MiB.
const SIZES: usize = 15;

/// Bytes that lie ready at most: several log groups and runs of a merge.
const READY_BYTES_MAX: usize = 4 << 20;

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
    size: usize,
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
        let size = size_index(len)?;
        let bytes = ALIGNMENT << size;
        let mut shelves = self.0.borrow_mut();
        if shelves.lent_bytes + bytes > shelves.budget_bytes {
            return None;
        }
        let start = match shelves.ready[size].pop() {
            Some(start) => {
                shelves.ready_bytes -= bytes;
                start
            }
            None => {
                shelves.make_room(bytes);
                allocate(size)
            }
        };
        shelves.lent_bytes += bytes;
        Some(AlignedBuffer { start, len, capacity: len, size, pool: self.clone() })
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
                free(start, size);
            }
        }
    }
}

impl Drop for Shelves {
    fn drop(&mut self) {
        for size in 0..SIZES {
            for start in self.ready[size].drain(..) {
                free(start, size);
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
        let bytes = ALIGNMENT << self.size;
        let mut shelves = self.pool.0.borrow_mut();
        shelves.lent_bytes -= bytes;
        if shelves.ready_bytes + bytes > READY_BYTES_MAX {
            free(self.start, self.size);
            return;
        }
        shelves.ready_bytes += bytes;
        shelves.ready[self.size].push(self.start);
    }
}

fn size_index(len: usize) -> Option<usize> {
    let pages = len.max(1).div_ceil(ALIGNMENT).checked_next_power_of_two()?;
    let size = pages.trailing_zeros() as usize;
    (size < SIZES).then_some(size)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(ALIGNMENT << size, ALIGNMENT).expect("sizes are small powers of two")
}

fn allocate(size: usize) -> NonNull<u8> {
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout(size)) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout(size)))
}

fn free(start: NonNull<u8>, size: usize) {
    // SAFETY: `start` came from `allocate` with the same size and is on no shelf any more.
    unsafe { dealloc(start.as_ptr(), layout(size)) };
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
        let lent: Vec<_> = (0..16).map(|_| pool.take(1 << 20).unwrap()).collect();
        drop(lent);
        assert_eq!(pool.lent_bytes(), 0);
        assert_eq!(pool.0.borrow().ready_bytes, READY_BYTES_MAX);
    }

    #[test]
    fn sizes_round_up_and_end() {
        assert_eq!(size_index(0), Some(0));
        assert_eq!(size_index(4096), Some(0));
        assert_eq!(size_index(4097), Some(1));
        assert_eq!(size_index(64 << 20), Some(SIZES - 1));
        assert_eq!(size_index((64 << 20) + 1), None);
        assert_eq!(size_index(usize::MAX), None);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn a_length_past_the_capacity_is_a_bug() {
        Pool::new(1 << 20).take(4096).unwrap().set_len(4097);
    }
}
